-- Times are seconds since 1970. The statements are the same for SQLite and PostgreSQL.
CREATE TABLE hosts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    host_group TEXT,
    enrolled_at BIGINT NOT NULL
);

CREATE TABLE tokens (
    -- SHA-256 of the token: who reads the database cannot enrol a host.
    hash TEXT PRIMARY KEY,
    -- One of both is set.
    host_name TEXT,
    host_group TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    used_by TEXT REFERENCES hosts (id),
    -- SHA-256 of the public key for which it was used: a host may ask again if it got no answer.
    used_for_key TEXT
);

CREATE TABLE certificates (
    serial TEXT PRIMARY KEY,
    host_id TEXT NOT NULL REFERENCES hosts (id),
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX certificates_of_a_host ON certificates (host_id);

-- What each ingress has done: it writes a line every few seconds.
CREATE TABLE ingresses (
    name TEXT PRIMARY KEY,
    -- SHA-256 of the serial numbers that it refuses.
    refuses TEXT NOT NULL,
    seen_at BIGINT NOT NULL
);

-- What belongs to this database: the fingerprint of the root (`root`).
CREATE TABLE plane (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
