//! Hosts and their certificates, as the database knows them.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use sqlx::{AnyConnection, AnyPool, Row as _};

use crate::authority::Revoked;
use crate::database::seconds;

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its id: the common name of its certificates.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: Option<String>,
    /// When it was enrolled first, in seconds since 1970.
    pub enrolled_at: i64,
    /// Certificates that may be used.
    pub valid: i64,
    /// The latest end of these.
    pub ends_at: Option<i64>,
}

/// All hosts by name.
///
/// # Errors
/// The database does not answer.
pub async fn list(database: &AnyPool, now: SystemTime) -> Result<Vec<Host>> {
    let rows = sqlx::query(
        "SELECT hosts.id, hosts.name, hosts.host_group, hosts.enrolled_at, \
         COUNT(certificates.serial) AS valid, MAX(certificates.expires_at) AS ends_at \
         FROM hosts LEFT JOIN certificates ON certificates.host_id = hosts.id \
         AND certificates.revoked_at IS NULL AND certificates.expires_at > $1 \
         GROUP BY hosts.id, hosts.name, hosts.host_group, hosts.enrolled_at ORDER BY hosts.name",
    )
    .bind(seconds(now))
    .fetch_all(database)
    .await
    .context("read the hosts in the database")?;
    let mut hosts = Vec::new();
    for row in rows {
        hosts.push(Host {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            group: row.try_get("host_group")?,
            enrolled_at: row.try_get("enrolled_at")?,
            valid: row.try_get("valid")?,
            ends_at: row.try_get("ends_at")?,
        });
    }
    Ok(hosts)
}

/// A revoked certificate is refused for so long after its end, and after its revocation if that was later: a connection that was opened before its end may still be there.
const KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Revokes all certificates of the host with this name or id, and deletes its tokens that were not used. Returns how many certificates that are.
///
/// # Errors
/// There is no such host, or it is not clear which one is meant; or the database does not answer.
pub async fn revoke(database: &AnyPool, name: &str, now: SystemTime) -> Result<u64> {
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM hosts WHERE name = $1 OR id = $1")
        .bind(name)
        .fetch_all(database)
        .await
        .context("read the hosts in the database")?;
    match ids.as_slice() {
        [] => bail!(
            "revoke the certificates of `{name}`: there is no host with this name or id; `planectl host list` shows them"
        ),
        [id] => revoke_id(database, id, now).await,
        // A host of a group chooses its name. In an old database, it may be the id of another one.
        _ => bail!(
            "revoke the certificates of `{name}`: it is the name of one host and the id of another one; `planectl host revoke --id ID` takes the id only, as `planectl host list` shows it"
        ),
    }
}

/// As [`revoke`], of the host with this id. No name is looked at, so it is always clear which host is meant.
///
/// # Errors
/// There is no such host, or the database does not answer.
pub async fn revoke_id(database: &AnyPool, id: &str, now: SystemTime) -> Result<u64> {
    // Before the other statements: if a host that is enrolled at this moment is seen here, they see its certificate, too.
    let known: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM hosts WHERE id = $1")
        .bind(id)
        .fetch_one(database)
        .await
        .context("read the hosts in the database")?;
    if known == 0 {
        bail!(
            "revoke the certificates of the host with the id `{id}`: there is none; `planectl host list` shows them"
        );
    }
    let mut transaction = database
        .begin()
        .await
        .context("begin a transaction of the database")?;
    // With an unused token, the host could be enrolled again.
    sqlx::query(
        "DELETE FROM tokens WHERE used_at IS NULL AND host_name IN (SELECT name FROM hosts WHERE id = $1)",
    )
    .bind(id)
    .execute(&mut *transaction)
    .await
    .context("delete tokens in the database")?;
    // A token that was used would be valid for the same key again.
    sqlx::query("UPDATE tokens SET used_for_key = NULL WHERE used_by = $1")
        .bind(id)
        .execute(&mut *transaction)
        .await
        .context("end tokens in the database")?;
    // After the tokens: a certificate that is being issued holds its token, so this waits for it, and then sees it.
    let revoked = sqlx::query(
        "UPDATE certificates SET revoked_at = $1 WHERE revoked_at IS NULL AND host_id = $2",
    )
    .bind(seconds(now))
    .bind(id)
    .execute(&mut *transaction)
    .await
    .context("revoke certificates in the database")?
    .rows_affected();
    transaction
        .commit()
        .await
        .context("commit to the database")?;
    Ok(revoked)
}

/// Certificates that were revoked and have not expired long ago, or were revoked a short time ago, by serial number.
///
/// # Errors
/// The database does not answer.
pub async fn revoked(database: &AnyPool, now: SystemTime) -> Result<Vec<Revoked>> {
    let rows = sqlx::query(
        "SELECT serial, revoked_at FROM certificates WHERE revoked_at IS NOT NULL \
         AND (expires_at > $1 OR revoked_at > $1) ORDER BY serial",
    )
    .bind(seconds(now - KEPT))
    .fetch_all(database)
    .await
    .context("read the revoked certificates in the database")?;
    let mut all = Vec::new();
    for row in rows {
        let at: i64 = row.try_get("revoked_at")?;
        let at = Duration::from_secs(u64::try_from(at).unwrap_or_default());
        all.push(Revoked {
            serial: row.try_get("serial")?,
            at: SystemTime::UNIX_EPOCH + at,
        });
    }
    Ok(all)
}

/// A host that has revoked certificates and none that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedHost {
    /// Its id.
    pub id: String,
    /// When the last one was revoked, in seconds since 1970.
    pub at: i64,
    /// As [`revocations`]: it grows with each revocation, also if the clock was set back in between.
    pub revocations: i64,
}

/// Hosts that have revoked certificates and none that may be used.
///
/// # Errors
/// The database does not answer.
pub async fn revoked_hosts(database: &AnyPool, now: SystemTime) -> Result<Vec<RevokedHost>> {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT host_id, MAX(revoked_at), COUNT(*) FROM certificates WHERE revoked_at IS NOT NULL \
         AND host_id IN (SELECT host_id FROM certificates WHERE revoked_at IS NOT NULL AND (expires_at > $1 OR revoked_at > $1)) \
         AND host_id NOT IN (SELECT host_id FROM certificates WHERE revoked_at IS NULL AND expires_at > $2) \
         GROUP BY host_id ORDER BY host_id",
    )
    .bind(seconds(now - KEPT))
    .bind(seconds(now))
    .fetch_all(database)
    .await
    .context("read the revoked hosts in the database")?;
    let hosts = rows.into_iter().map(|(id, at, revocations)| RevokedHost {
        id,
        at,
        revocations,
    });
    Ok(hosts.collect())
}

/// Whether a host has a certificate that may be used.
///
/// # Errors
/// The database does not answer.
pub async fn has_certificate(database: &AnyPool, host_id: &str, now: SystemTime) -> Result<bool> {
    let mut connection = database
        .acquire()
        .await
        .context("get a connection of the database")?;
    Ok(certificates(&mut connection, host_id, now).await? > 0)
}

/// How many certificates a host has that may be used.
///
/// # Errors
/// The database does not answer.
pub async fn certificates(
    database: &mut AnyConnection,
    host_id: &str,
    now: SystemTime,
) -> Result<i64> {
    sqlx::query_scalar(
        "SELECT COUNT(*) FROM certificates WHERE host_id = $1 AND revoked_at IS NULL AND expires_at > $2",
    )
    .bind(host_id)
    .bind(seconds(now))
    .fetch_one(database)
    .await
    .context("read the certificates of the host in the database")
}

/// How many certificates of a host were revoked.
///
/// # Errors
/// The database does not answer.
pub async fn revocations(database: &AnyPool, host_id: &str) -> Result<i64> {
    sqlx::query_scalar(
        "SELECT COUNT(*) FROM certificates WHERE host_id = $1 AND revoked_at IS NOT NULL",
    )
    .bind(host_id)
    .fetch_one(database)
    .await
    .context("read the revoked certificates of the host in the database")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[tokio::test]
    async fn a_revocation_ends_what_a_certificate_has_that_ended_long_ago() {
        let directory = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite://{}", directory.path().join("plane.db").display());
        let database = database::create(&url).await.expect("it is made");
        let now = SystemTime::now();
        sqlx::query("INSERT INTO hosts (id, name, enrolled_at) VALUES ('id', 'host-1', $1)")
            .bind(seconds(now - DAY * 400))
            .execute(&database)
            .await
            .expect("it is written");
        sqlx::query(
            "INSERT INTO certificates (serial, host_id, issued_at, expires_at) VALUES ('41AB', 'id', $1, $2)",
        )
        .bind(seconds(now - DAY * 400))
        .bind(seconds(now - DAY * 100))
        .execute(&database)
        .await
        .expect("it is written");
        let refused = async |at: SystemTime| {
            let certificates = revoked(&database, at).await.expect("they are read");
            let hosts = revoked_hosts(&database, at).await.expect("they are read");
            (certificates.len(), hosts.len())
        };
        assert_eq!(refused(now).await, (0, 0));
        let count = revoke(&database, "host-1", now).await;
        assert_eq!(count.expect("it is revoked"), 1);
        for (at, wanted) in [(now, 1), (now + DAY * 89, 1), (now + DAY * 91, 0)] {
            assert_eq!(refused(at).await, (wanted, wanted), "{at:?}");
        }
    }
}
