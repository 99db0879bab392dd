//! The users of the message queue: one for each host, who reads the queue of this host and publishes to its exchange, and no more.
//!
//! Each host has an exchange of its own, so the exchange of a message says which host has sent it. With one exchange for all, a host could name the routing keys of
//! others in the header fields `CC` and `BCC`, which RabbitMQ does not check. A host declares nothing: a queue or an exchange of its own could pass messages on
//! (dead letters, an alternate exchange, a binding). So the plane declares both.
//!
//! The password of a host is made from a secret of the plane: a host that is enrolled again, or whose enrolment fails after this, has the same one and goes on with it.
//!
//! RabbitMQ's management plugin makes them (`/api/users`, `/api/permissions`, `/api/topic-permissions`; its documentation: rabbitmq.com/docs/management).

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sha2::Sha256;
use sqlx::AnyPool;
use tokio::sync::Mutex;
use wire::enrolment::{self, Secret};

use crate::{config, database};

/// Time for a call.
const LIMIT: Duration = Duration::from_secs(5);
/// Largest answer that is read, in bytes.
const LARGEST: usize = 64 * 1024;
/// What passwords are made from, below the directory of the plane's state.
pub const SECRET: &str = "authority/message-queue.secret";
/// The permission that no name has.
const NOTHING: &str = r"^\z";

/// The queue that a host reads.
#[must_use]
pub fn queue(host_id: &str) -> String {
    enrolment::queue_prefix(host_id) + "in"
}

/// The exchange that a host publishes to. Its type is `topic`; the routing key of a message begins with the prefix of the host.
#[must_use]
pub fn exchange(host_id: &str) -> String {
    enrolment::queue_prefix(host_id) + "out"
}

/// The API of the management plugin.
pub struct MessageQueue {
    client: Client<HttpConnector, Full<Bytes>>,
    address: String,
    authorization: String,
    administrator: String,
    virtual_host: String,
    secret: String,
    /// Held while the user of a host is made or deleted: one after the other.
    users: Mutex<()>,
}

impl fmt::Debug for MessageQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageQueue({} at {})", self.virtual_host, self.address)
    }
}

impl MessageQueue {
    /// Reads the password. No call is made. Passwords of hosts are made from `secret` ([`shared_secret`]).
    ///
    /// # Errors
    /// The file cannot be read, or others may read it.
    pub fn new(configured: &config::MessageQueue, secret: String) -> Result<Self> {
        let password = crate::secret::read(&configured.password_file)?;
        let word = STANDARD.encode(format!("{}:{password}", configured.user));
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            address: configured.management.clone(),
            authorization: format!("Basic {word}"),
            administrator: configured.user.clone(),
            virtual_host: configured.virtual_host.clone(),
            secret,
            users: Mutex::default(),
        })
    }

    /// Makes the virtual host, if it is not there.
    ///
    /// # Errors
    /// RabbitMQ does not answer, or refuses.
    pub async fn prepare(&self) -> Result<()> {
        let its = word(&self.virtual_host);
        self.put(&format!("vhosts/{its}"), &json!({})).await?;
        // To declare there, an administrator needs the right, too.
        let everything = json!({"configure": ".*", "read": ".*", "write": ".*"});
        let administrator = word(&self.administrator);
        self.put(&format!("permissions/{its}/{administrator}"), &everything)
            .await
    }

    /// Makes the queue, the exchange and the user of a host. The password is another one for each result of `still`, which is none if the host may have no user.
    /// Open connections go on.
    ///
    /// # Errors
    /// RabbitMQ does not answer, or refuses; or `still` fails or has no result.
    pub async fn user_of(
        &self,
        host_id: &str,
        still: impl Future<Output = Result<Option<i64>>>,
    ) -> Result<enrolment::MessageQueue> {
        let _one = self.users.lock().await;
        let Some(generation) = still.await? else {
            bail!("make the user of {host_id}: the host was revoked in the meantime");
        };
        let user = format!("host.{host_id}");
        let password = password(&self.secret, host_id, generation)?;
        let its = word(&self.virtual_host);
        let (queue, exchange) = (queue(host_id), exchange(host_id));
        let quorum = json!({"durable": true, "arguments": {"x-queue-type": "quorum"}});
        self.put(&format!("queues/{its}/{queue}"), &quorum).await?;
        let topic = json!({"type": "topic", "durable": true});
        self.put(&format!("exchanges/{its}/{exchange}"), &topic)
            .await?;
        if !self.has(&format!("users/{user}")).await? {
            // Nothing can log in with it before it has its limits.
            let unusable = json!({"password_hash": "", "tags": ""});
            self.put(&format!("users/{user}"), &unusable).await?;
        }
        self.put_permissions(host_id, &user).await?;
        let with_password = json!({"password": &password, "tags": ""});
        self.put(&format!("users/{user}"), &with_password).await?;
        Ok(enrolment::MessageQueue {
            user,
            password: Secret(password),
            virtual_host: self.virtual_host.clone(),
        })
    }

    /// Gives the user of a host the permissions of this version, if there is one: an earlier version may have made it. Open connections go on.
    ///
    /// # Errors
    /// RabbitMQ does not answer, or refuses.
    pub async fn limit(&self, host_id: &str) -> Result<()> {
        let _one = self.users.lock().await;
        let user = format!("host.{host_id}");
        match self.has(&format!("users/{user}")).await? {
            true => self.put_permissions(host_id, &user).await,
            false => Ok(()),
        }
    }

    async fn put_permissions(&self, host_id: &str, user: &str) -> Result<()> {
        let its = word(&self.virtual_host);
        for (place, what) in permissions(host_id) {
            self.put(&format!("{place}/{its}/{user}"), &what).await?;
        }
        Ok(())
    }

    /// Deletes the user of a host, which closes its connections, if `still` says so. No user is no error.
    ///
    /// # Errors
    /// RabbitMQ does not answer, or refuses; or `still` fails.
    pub async fn remove(
        &self,
        host_id: &str,
        still: impl Future<Output = Result<bool>>,
    ) -> Result<()> {
        // A host that is enrolled at this moment gets its user afterwards.
        let _one = self.users.lock().await;
        if !still.await? {
            return Ok(());
        }
        let place = format!("users/host.{host_id}");
        self.call(Method::DELETE, &place, None).await.map(drop)
    }

    async fn has(&self, place: &str) -> Result<bool> {
        self.call(Method::GET, place, None).await
    }

    async fn put(&self, place: &str, what: &Value) -> Result<()> {
        self.call(Method::PUT, place, Some(what)).await.map(drop)
    }

    /// Calls the API. Returns false if there is no such thing; to put one is an error then.
    async fn call(&self, method: Method, place: &str, what: Option<&Value>) -> Result<bool> {
        let uri = format!("http://{}/api/{place}", self.address);
        let doing = || format!("ask RabbitMQ at {} for /api/{place}", self.address);
        let body = what.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(&method)
            .uri(uri)
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .with_context(doing)?;
        let answered = async {
            let response = self.client.request(request).await?;
            let status = response.status();
            let text = Limited::new(response.into_body(), LARGEST).collect().await;
            let text = text.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            anyhow::Ok((status, String::from_utf8_lossy(&text).into_owned()))
        };
        let answered = tokio::time::timeout(LIMIT, answered).await;
        let answered = answered
            .with_context(|| format!("{}: no answer within {} s", doing(), LIMIT.as_secs()))?;
        let (status, text) = answered.with_context(doing)?;
        if status == StatusCode::NOT_FOUND && method != Method::PUT {
            return Ok(false);
        }
        if !status.is_success() {
            bail!("{}: it answers with {status}: {text}", doing());
        }
        Ok(true)
    }
}

/// What passwords of hosts are made from: the secret below the directory of the plane's state. It is made if the database belongs to none yet. Planes with
/// another secret would give hosts other passwords.
///
/// # Errors
/// The file cannot be read, or others may read it; the database belongs to another secret, or does not answer.
pub async fn shared_secret(state: &Path, database: &AnyPool) -> Result<String> {
    let path = state.join(SECRET);
    let secret = match database::has_queue_secret(database).await? {
        true => crate::secret::read(&path).context(
            "read what the passwords of hosts in this database are made from; bring the file back, or copy it from another plane with this database",
        )?,
        false => crate::secret::read_or_make(&path)?,
    };
    database::note_queue_secret(database, &check_value(&secret)?)
        .await
        .with_context(|| format!("use the secret {}", path.display()))?;
    Ok(secret)
}

/// The password of a host.
fn password(secret: &str, host_id: &str, generation: i64) -> Result<String> {
    code(secret, &format!("{host_id} {generation}"))
}

/// Tells a secret from others, and does not reveal it. It is the password of no host.
fn check_value(secret: &str) -> Result<String> {
    code(secret, "check value")
}

fn code(secret: &str, text: &str) -> Result<String> {
    let mut code = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
        .map_err(|error| anyhow::anyhow!("use the secret {SECRET}: {error}"))?;
    code.update(text.as_bytes());
    Ok(URL_SAFE_NO_PAD.encode(code.finalize().into_bytes()))
}

/// What the user of a host may do. Names are regular expressions there (PCRE); an id has no sign with a meaning but the hyphen. Their end is `\z`, because `$` also matches before a last
/// line feed.
fn permissions(host_id: &str) -> [(&'static str, Value); 2] {
    let plain = |name: String| name.replace('.', "\\.");
    let (queue, out) = (plain(queue(host_id)), plain(exchange(host_id)));
    let keys = plain(enrolment::queue_prefix(host_id));
    [
        (
            "permissions",
            // The default exchange, which reaches each queue by its name, is not the one to write to.
            json!({
                "configure": NOTHING, "read": format!(r"^{queue}\z"), "write": format!(r"^{out}\z"),
            }),
        ),
        (
            "topic-permissions",
            json!({"exchange": exchange(host_id), "read": NOTHING, "write": format!("^{keys}")}),
        ),
    ]
}

/// A part of a path: signs with a meaning in a URL are escaped.
fn word(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_reaches_its_own_queue_and_exchange_only() {
        let [(_, all), (_, topics)] = permissions("11-22");
        assert_eq!(all["configure"], r"^\z");
        assert_eq!(all["read"], r"^host\.11-22\.in\z");
        assert_eq!(all["write"], r"^host\.11-22\.out\z");
        assert_eq!(topics["exchange"], "host.11-22.out");
        assert_eq!(topics["read"], r"^\z");
        assert_eq!(topics["write"], r"^host\.11-22\.");
    }

    #[test]
    fn a_password_is_of_one_plane_and_one_host_until_it_is_revoked() {
        let its =
            |secret, host, generation| password(secret, host, generation).expect("a password");
        let first = its("a", "11-22", 0);
        assert_eq!(first.len(), 43, "256 bits");
        assert_eq!(first, its("a", "11-22", 0));
        for other in [
            its("b", "11-22", 0),
            its("a", "11-23", 0),
            its("a", "11-22", 1),
        ] {
            assert_ne!(first, other);
        }
        let value = |secret| check_value(secret).expect("a value");
        assert_eq!(value("a"), value("a"));
        assert_ne!(value("a"), value("b"));
        assert!(value("a") != "a" && value("a") != first);
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(word("/"), "%2F");
        assert_eq!(word("pf9"), "pf9");
    }
}
