//! A host that has a token gets its certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use sqlx::{AnyConnection, AnyPool, Row as _};
use uuid::Uuid;
use wire::enrolment::{Refusal, Request, Response, VERSION, is_host_name};

use crate::authority::{Authority, RequestedKey};
use crate::database::seconds;
use crate::host;
use crate::message_queue::MessageQueue;
use crate::token;

/// With so many certificates that may be used, a host gets no other one with a token that it has used before: each certificate is one more to tell HAProxy in a revocation.
pub const MOST_CERTIFICATES: i64 = 100;

/// Why a host is not enrolled.
#[derive(Debug)]
pub enum Failure {
    /// The host has to change its request, or needs another token.
    Refused(Refusal),
    /// The plane cannot do it now. The host may ask again with the same token and key.
    Unable(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Unable(error.into())
    }
}

fn refused(error: impl Into<String>, next: &str) -> Failure {
    Failure::Refused(Refusal {
        error: error.into(),
        next: next.to_owned(),
    })
}

/// What enrolment needs.
#[derive(Debug)]
pub struct Enrolment {
    /// Hosts and tokens.
    pub database: AnyPool,
    /// What signs.
    pub authority: Arc<Authority>,
    /// How long a certificate is valid.
    pub life: Duration,
    /// Where a host gets a user.
    pub message_queue: Option<Arc<MessageQueue>>,
}

impl Enrolment {
    /// Enrols a host. A host that got no answer may repeat its request: the token works again for the same key and name.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn enrol(&self, request: &Request, now: SystemTime) -> Result<Response, Failure> {
        if request.version != VERSION {
            return Err(refused(
                format!(
                    "the request has version {}, and the plane knows {VERSION}",
                    request.version
                ),
                "install the pf9-comms of this plane",
            ));
        }
        let name = &request.host_name;
        if !is_host_name(name) {
            return Err(refused(
                "the name of the host is none of small letters, digits, hyphens and dots",
                "name the host with --host-name",
            ));
        }
        let key = RequestedKey::read(&request.certificate_request)
            .map_err(|error| refused(format!("could not {error:#}"), "run enroll again"))?;
        let mut transaction = self.database.begin().await.context("begin a transaction")?;
        let (host_id, issued) = self.record(&mut transaction, request, &key, now).await?;
        transaction
            .commit()
            .await
            .context("commit to the database")?;
        let message_queue = match &self.message_queue {
            None => None,
            Some(queue) => {
                let still = async {
                    if !host::has_certificate(&self.database, &host_id, now).await? {
                        return Ok(None);
                    }
                    // Who had the password before a revocation has not the one after it.
                    let generation = host::revocations(&self.database, &host_id).await?;
                    Ok(Some(generation))
                };
                Some(queue.user_of(&host_id, still).await?)
            }
        };
        tracing::info!(
            "enrolled {name} as {host_id}, certificate {}",
            issued.serial
        );
        Ok(Response {
            version: VERSION,
            host_id,
            certificate: issued.certificate,
            roots: self.authority.certificate().to_owned(),
            message_queue,
        })
    }

    async fn record(
        &self,
        database: &mut AnyConnection,
        request: &Request,
        key: &RequestedKey,
        now: SystemTime,
    ) -> Result<(String, crate::authority::Issued), Failure> {
        let name = &request.host_name;
        let hash = token::hash(&request.token);
        // Of several requests with one token, one gets it.
        let used = sqlx::query(
            "UPDATE tokens SET used_at = $1, used_for_key = $2 WHERE hash = $3 AND expires_at > $1 \
             AND (host_name IS NULL OR host_name = $4) AND (used_at IS NULL OR \
             (used_for_key = $2 AND used_by = (SELECT id FROM hosts WHERE name = $4)))",
        )
        .bind(seconds(now))
        .bind(key.fingerprint())
        .bind(&hash)
        .bind(name)
        .execute(&mut *database)
        .await
        .context("use the token in the database")?;
        if used.rows_affected() == 0 {
            return Err(why_refused(database, &hash, name, now).await?);
        }
        let token =
            sqlx::query("SELECT host_name, host_group, used_by FROM tokens WHERE hash = $1")
                .bind(&hash)
                .fetch_one(&mut *database)
                .await
                .context("read the token in the database")?;
        let known: Option<String> = sqlx::query_scalar("SELECT id FROM hosts WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut *database)
            .await
            .context("read the host in the database")?;
        let of_group = token.try_get::<Option<String>, _>("host_name")?.is_none();
        let repeated = token.try_get::<Option<String>, _>("used_by")?.is_some();
        let host_id = match known {
            // Each member of a group could take the place of another one.
            Some(_) if of_group && !repeated => {
                return Err(refused(
                    format!("a host with the name {name} is enrolled already"),
                    "make a token for this host (`planectl token create --host NAME`), or give the host another name",
                ));
            }
            Some(id) => id,
            None => {
                // Otherwise it would not be clear which of both an operator means.
                let with_id: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM hosts WHERE id = $1")
                    .bind(name)
                    .fetch_one(&mut *database)
                    .await
                    .context("read the hosts in the database")?;
                if with_id > 0 {
                    return Err(refused(
                        format!("{name} is the id of another host"),
                        "give the host another name",
                    ));
                }
                let id = Uuid::new_v4().to_string();
                sqlx::query(
                    "INSERT INTO hosts (id, name, host_group, enrolled_at) VALUES ($1, $2, $3, $4)",
                )
                .bind(&id)
                .bind(name)
                .bind(token.try_get::<Option<String>, _>("host_group")?)
                .bind(seconds(now))
                .execute(&mut *database)
                .await
                .context("write the host to the database")?;
                id
            }
        };
        let certificates = host::certificates(database, &host_id, now).await?;
        // Each new token is made by an operator.
        if repeated && certificates >= MOST_CERTIFICATES {
            return Err(refused(
                format!("{name} has {certificates} certificates, and this token was used"),
                "make another token (`planectl token create --host NAME`)",
            ));
        }
        let issued = self.authority.host(key, &host_id, name, self.life, now)?;
        sqlx::query(
            "INSERT INTO certificates (serial, host_id, issued_at, expires_at) VALUES ($1, $2, $3, $4)",
        )
        .bind(&issued.serial)
        .bind(&host_id)
        .bind(seconds(now))
        .bind(seconds(issued.ends))
        .execute(&mut *database)
        .await
        .context("write the certificate to the database")?;
        sqlx::query("UPDATE tokens SET used_by = $1 WHERE hash = $2")
            .bind(&host_id)
            .bind(&hash)
            .execute(&mut *database)
            .await
            .context("write the use of the token to the database")?;
        Ok((host_id, issued))
    }
}

/// What to say of a token that cannot be used. Who has no token learns nothing.
async fn why_refused(
    database: &mut AnyConnection,
    hash: &str,
    name: &str,
    now: SystemTime,
) -> Result<Failure, Failure> {
    let found = sqlx::query("SELECT host_name, expires_at, used_at FROM tokens WHERE hash = $1")
        .bind(hash)
        .fetch_optional(&mut *database)
        .await
        .context("read the token in the database")?;
    let next = "make another one (`planectl token create`)";
    let Some(token) = found else {
        return Ok(refused("the token is not known", next));
    };
    let other = token
        .try_get::<Option<String>, _>("host_name")?
        .is_some_and(|its| its != name);
    Ok(if other {
        refused(format!("the token is for another host than {name}"), next)
    } else if token.try_get::<Option<i64>, _>("used_at")?.is_some() {
        refused("the token was used", next)
    } else if token.try_get::<i64, _>("expires_at")? <= seconds(now) {
        refused("the token has expired", next)
    } else {
        // It came between the two statements.
        Failure::Unable(anyhow::anyhow!("the token has changed in the meantime"))
    })
}
