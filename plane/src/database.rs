//! The database: SQLite, or PostgreSQL where one server is not enough.
//!
//! All statements are the same for both. A transaction begins with a statement that writes: SQLite lets a reader not become a writer if
//! another one has written in between.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use sqlx::AnyPool;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::Migrator;

/// What the table `plane` has: the fingerprint of the root, and a check value of the secret that passwords of the message queue are made from.
const ROOT: &str = "root";
const QUEUE_SECRET: &str = "message-queue-secret";

/// What the URL of a PostgreSQL may have after its `?`: the parameters that sqlx 0.9 knows (`PgConnectOptions`), besides `options[NAME]`.
const PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Time to get a connection: after that a request is refused.
const ACQUIRE: Duration = Duration::from_secs(10);
/// Connections of a process.
const CONNECTIONS: u32 = 8;

/// Opens the database.
///
/// # Errors
/// It cannot be reached; its tables are missing, or of a later version.
pub async fn open(url: &str) -> Result<AnyPool> {
    let database = connect(url).await?;
    let applied = sqlx::query_scalar::<_, i64>("SELECT MAX(version) FROM _sqlx_migrations")
        .fetch_one(&database)
        .await
        .context("find the tables of the plane in the database; `planectl init` makes them")?;
    let known = MIGRATIONS.iter().map(|its| its.version).max().unwrap_or(0);
    if applied > known {
        bail!(
            "use the database: its tables are of version {applied}, and this program knows {known}; install a later version of it"
        );
    }
    MIGRATIONS
        .run(&database)
        .await
        .context("bring the tables of the database up to date")?;
    Ok(database)
}

/// Makes the tables, and for SQLite the file. Tables that are there stay.
///
/// # Errors
/// As [`open`].
pub async fn create(url: &str) -> Result<AnyPool> {
    let url = match url.starts_with("sqlite:") && !url.contains('?') {
        true => format!("{url}?mode=rwc"),
        false => url.to_owned(),
    };
    let database = connect(&url).await?;
    MIGRATIONS
        .run(&database)
        .await
        .context("make the tables of the database")?;
    Ok(database)
}

/// Notes which root belongs to this database, if none does.
///
/// # Errors
/// Another one does, or the database does not answer.
pub async fn note_root(database: &AnyPool, fingerprint: &str) -> Result<()> {
    note(database, ROOT, fingerprint).await?;
    check_root(database, fingerprint).await
}

/// Whether a root belongs to this database.
///
/// # Errors
/// The database does not answer.
pub async fn has_root(database: &AnyPool) -> Result<bool> {
    Ok(noted(database, ROOT).await?.is_some())
}

/// Checks that the root belongs to this database: its hosts have certificates of that one.
///
/// # Errors
/// Another one does, none does, or the database does not answer.
pub async fn check_root(database: &AnyPool, fingerprint: &str) -> Result<()> {
    match noted(database, ROOT).await? {
        Some(noted) if noted == fingerprint => Ok(()),
        Some(noted) => bail!(
            "use the authority with the root {fingerprint}: the database belongs to the root {noted}; bring back that one, or name the database of this one"
        ),
        None => bail!("use the database: it has no root; run `planectl init`"),
    }
}

/// Notes which secret of the message queue belongs to this database, if none does, by its check value (`message_queue::check_value`).
///
/// # Errors
/// Another one does, or the database does not answer.
pub async fn note_queue_secret(database: &AnyPool, check_value: &str) -> Result<()> {
    note(database, QUEUE_SECRET, check_value).await?;
    if noted(database, QUEUE_SECRET).await?.as_deref() != Some(check_value) {
        bail!(
            "the passwords of hosts in this database are made from another secret; bring that one back, or copy it from another plane with this database"
        );
    }
    Ok(())
}

/// Whether a secret of the message queue belongs to this database.
///
/// # Errors
/// The database does not answer.
pub async fn has_queue_secret(database: &AnyPool) -> Result<bool> {
    Ok(noted(database, QUEUE_SECRET).await?.is_some())
}

/// Writes a value to the table `plane`, if it has none with this name.
async fn note(database: &AnyPool, name: &str, value: &str) -> Result<()> {
    sqlx::query("INSERT INTO plane (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
        .bind(name)
        .bind(value)
        .execute(database)
        .await
        .with_context(|| format!("write `{name}` of the plane to the database"))?;
    Ok(())
}

async fn noted(database: &AnyPool, name: &str) -> Result<Option<String>> {
    sqlx::query_scalar("SELECT value FROM plane WHERE name = $1")
        .bind(name)
        .fetch_optional(database)
        .await
        .with_context(|| format!("read `{name}` of the plane in the database"))
}

async fn connect(url: &str) -> Result<AnyPool> {
    let options = url.parse::<AnyConnectOptions>();
    let mut options = options.context("open the database of the plane")?;
    for warning in remove_unknown(&mut options) {
        tracing::warn!("{warning}");
    }
    sqlx::any::install_default_drivers();
    AnyPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE)
        .connect_with(options)
        .await
        // The URL is not shown: it may have a password.
        .context("open the database of the plane")
}

/// Removes parameters that sqlx does not know, and returns a warning for each. sqlx would ignore them too, but write them to the log with their values, and one with a mistyped name may be
/// a password. (Those of SQLite have no secret, and sqlx refuses them.)
fn remove_unknown(options: &mut AnyConnectOptions) -> Vec<String> {
    let url = &mut options.database_url;
    if url.scheme() == "sqlite" {
        return Vec::new();
    }
    // Decoded, as sqlx compares them.
    let all: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    // A `?` or `&` may be one of a password that is not encoded: then what looks like a name is a part of it.
    let mut is_secret = url.query().is_some_and(|its| its.contains('@'));
    let (mut known, mut warnings) = (Vec::new(), Vec::new());
    for (name, value) in all {
        let may_be_next = name.to_ascii_lowercase().contains("pass");
        if is_known(&name) {
            known.push((name, value));
        } else {
            let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            let is_name = !name.is_empty() && !value.is_empty() && name.chars().all(is_word);
            warnings.push(match is_name && !is_secret {
                true => format!(
                    "the URL of the database has the parameter `{name}`, which is not known and has no effect; correct or remove it"
                ),
                false => "the URL of the database has a parameter that is not known and has no effect; correct or remove it (if it is a part of a password: write `?` as `%3F`, and `&` as `%26`)".to_owned(),
            });
        }
        is_secret |= may_be_next;
    }
    // Otherwise it stays as it is written.
    if !warnings.is_empty() {
        url.set_query(None);
        if !known.is_empty() {
            url.query_pairs_mut().extend_pairs(known);
        }
    }
    warnings
}

fn is_known(name: &str) -> bool {
    let is_option = name.starts_with("options[") && name.ends_with(']');
    is_option || PARAMETERS.contains(&name)
}

/// A time as the database has it: seconds since 1970.
#[must_use]
pub fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |its| i64::try_from(its.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The URL that sqlx gets for one with this end, and the warnings.
    fn used(end: &str) -> (String, Vec<String>) {
        let url = format!("postgres://plane@db/plane{end}");
        let mut options: AnyConnectOptions = url.parse().expect("a URL");
        let warnings = remove_unknown(&mut options);
        let url = options.database_url.to_string();
        let end = url.strip_prefix("postgres://plane@db/plane");
        (end.expect("it begins as before").to_owned(), warnings)
    }

    #[test]
    fn an_unknown_parameter_of_a_url_is_removed_with_a_warning_without_its_value() {
        let nameless = "has a parameter that is not known";
        for (end, rest, wanted) in [
            ("?connect_timeout=5", "", "the parameter `connect_timeout`,"),
            ("?passwort=hidden-word", "", "the parameter `passwort`,"),
            ("?pass%77ort=hidden-word", "", "the parameter `passwort`,"),
            (
                "?sslmode=disable&Password=hidden-word&options[a]=b+%26c#end",
                "?sslmode=disable&options%5Ba%5D=b+%26c#end",
                "the parameter `Password`,",
            ),
            // A part of a password, or something else that is no name.
            ("?hidden-word", "", nameless),
            ("?hidden-word=x@db/plane", "", nameless),
            (
                "?password=a&hidden-word=x&user=b",
                "?password=a&user=b",
                nameless,
            ),
            ("?=hidden-word", "", nameless),
            ("?a%0Ab=hidden-word", "", nameless),
            ("?options[x=hidden-word", "", nameless),
        ] {
            let (found, warnings) = used(end);
            assert_eq!(found, rest, "{end}");
            let [warning] = &warnings[..] else {
                panic!("{end}: {warnings:?}");
            };
            assert!(warning.contains(wanted), "{end}: {warning}");
            assert!(!warning.contains("hidden-word"), "{end}: {warning}");
        }
        let (found, warnings) = used("?connect_timeout=5&host=a&target_session_attrs=any");
        assert_eq!(found, "?host=a");
        let named = ["`connect_timeout`", "`target_session_attrs`"];
        assert_eq!(warnings.len(), named.len(), "{warnings:?}");
        for (warning, name) in warnings.iter().zip(named) {
            assert!(warning.contains(name), "{warning}");
        }
    }

    #[test]
    fn known_parameters_of_a_url_stay_as_they_are_written() {
        for end in [
            "",
            "?",
            "?sslmode=require&&options[search_path]=a@b&user=x",
            "?pass%77ord=secret",
            "#?x=y",
        ] {
            assert_eq!(used(end), (end.to_owned(), Vec::new()));
        }
        let sqlite = "sqlite:///var/lib/plane.db?mode=rwc&x=y";
        let mut options: AnyConnectOptions = sqlite.parse().expect("a URL");
        assert!(remove_unknown(&mut options).is_empty());
        assert_eq!(options.database_url.as_str(), sqlite);
    }
}
