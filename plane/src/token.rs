//! Tokens with which hosts are enrolled: each works once, for a time, for one host or for the hosts of a group.

use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};
use sqlx::{AnyPool, Row as _};
use wire::enrolment::{Secret, is_host_name};

use crate::database::seconds;

/// What a token begins with, so that programs which look for secrets know it.
const PREFIX: &str = "pf9-enrol-";

/// For whom a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundTo {
    /// The host with this name. It may have been enrolled before.
    Host(String),
    /// A host that was not enrolled before; it becomes a member of this group.
    Group(String),
}

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The first digits of its hash: its name for operators.
    pub id: String,
    /// For whom it is.
    pub bound_to: BoundTo,
    /// Its end, in seconds since 1970.
    pub expires_at: i64,
    /// When it was used.
    pub used_at: Option<i64>,
}

/// Digits of the hash that name a token.
const ID: usize = 12;

/// What the database has of a token.
#[must_use]
pub fn hash(token: &Secret) -> String {
    let digest = Sha256::digest(token.0.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a token. It is nowhere else: the database has its hash.
///
/// # Errors
/// The name cannot be that of a host or a group, or the database does not answer.
pub async fn create(
    database: &AnyPool,
    bound_to: &BoundTo,
    now: SystemTime,
    expires: SystemTime,
) -> Result<Secret> {
    let (host, group) = match bound_to {
        BoundTo::Host(name) => (Some(name), None),
        BoundTo::Group(name) => (None, Some(name)),
    };
    for name in host.iter().chain(&group) {
        if !is_host_name(name) {
            bail!("make a token: `{name}` is no name of small letters, digits, hyphens and dots");
        }
    }
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    let token = Secret(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)));
    sqlx::query(
        "INSERT INTO tokens (hash, host_name, host_group, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(hash(&token))
    .bind(host)
    .bind(group)
    .bind(seconds(now))
    .bind(seconds(expires))
    .execute(database)
    .await
    .context("write the token to the database")?;
    Ok(token)
}

/// All tokens, the newest first.
///
/// # Errors
/// The database does not answer.
pub async fn list(database: &AnyPool) -> Result<Vec<Known>> {
    let rows = sqlx::query(
        "SELECT hash, host_name, host_group, expires_at, used_at FROM tokens ORDER BY created_at DESC",
    )
    .fetch_all(database)
    .await
    .context("read the tokens in the database")?;
    let mut tokens = Vec::new();
    for row in rows {
        let hash: String = row.try_get("hash")?;
        let bound_to = match row.try_get::<Option<String>, _>("host_name")? {
            Some(name) => BoundTo::Host(name),
            None => BoundTo::Group(row.try_get("host_group")?),
        };
        tokens.push(Known {
            id: hash.chars().take(ID).collect(),
            bound_to,
            expires_at: row.try_get("expires_at")?,
            used_at: row.try_get("used_at")?,
        });
    }
    Ok(tokens)
}

/// Deletes a token that was not used, by its id. Returns whether there was one.
///
/// # Errors
/// The database does not answer, or the id has not the right number of digits.
pub async fn delete(database: &AnyPool, id: &str) -> Result<bool> {
    if id.len() != ID || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("delete a token: its id has {ID} hexadecimal digits; `planectl token list` shows it");
    }
    let done = sqlx::query("DELETE FROM tokens WHERE substr(hash, 1, 12) = $1 AND used_at IS NULL")
        .bind(id.to_ascii_lowercase())
        .execute(database)
        .await
        .context("delete the token in the database")?;
    Ok(done.rows_affected() > 0)
}
