//! The join file: what a host needs to join a cluster, encrypted to that host.
//!
//! A master writes it for one host (`nodelet pki issue`), and only that host can read it: it is an age file
//! (<https://age-encryption.org/v1>) for the host's own X25519 identity. age also authenticates the content, so a file that was changed on
//! its way is refused. age does not tell who made a file: a program that knows the host's public key can make one. So the way of the
//! file from the master to the host decides which cluster the host joins, as the file names the cluster's authorities.
//!
//! This file has the join file of a worker, and what both kinds share. `master` has the join file of a further master.

mod master;
mod token;

use std::fmt;
use std::time::{Duration, SystemTime};

use age::secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use x509_parser::pem::Pem;

use crate::env::is_dns_name;

pub use master::{
    AuthorityPem, MASTER_AUTHORITIES, MASTER_VERSION, MasterJoinFile, masters_to_join,
};
pub use token::{Token, is_token_id};

/// This host's age identity (mode 0600). It is made once and kept.
pub const IDENTITY: &str = "/var/opt/pf9/nodelet/age.key";
/// Where a host looks for its join file.
pub const JOIN_FILE: &str = "/etc/pf9/nodelet/join.age";

/// The format of a worker's content. A file of a newer format is refused.
pub const VERSION: u32 = 1;
/// Longest join file, in bytes: a few authorities and addresses have a tenth of it.
pub const LONGEST: usize = 64 * 1024;
/// Most API servers in a file.
const MOST_SERVERS: usize = 16;
/// Longest URL of an API server.
const LONGEST_URL: usize = 300;

/// What a host needs to join a cluster as a worker.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinFile {
    /// The format: [`VERSION`].
    pub version: u32,
    /// The name of the node that the host becomes.
    pub node: String,
    /// The URLs of the API servers: `https://…`, the one to try first comes first.
    pub api: Vec<String>,
    /// The certificates of the cluster's authority as PEM: the current one, and a predecessor or successor during a rotation.
    pub authorities: String,
    /// The token with which the host asks for its first certificates.
    pub token: Token,
    /// Until when the token is valid, in seconds since 1970.
    pub expires: u64,
}

/// Leaves out the token.
impl fmt::Debug for JoinFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinFile")
            .field("node", &self.node)
            .field("api", &self.api)
            .field("token", &self.token)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Why a join file or a key of a host cannot be used. No text has a secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JoinFileError {
    /// The key that a file should be encrypted to is none.
    #[error(
        "`{0}` is not the public key of a host: `nodelet pki key` prints it on that host, and it begins with `age1`"
    )]
    Recipient(String),
    /// The identity of this host cannot be read. Its text is a secret, so it is not named.
    #[error(
        "the identity of this host is damaged: it does not begin with `AGE-SECRET-KEY-1`, or a character is wrong"
    )]
    Identity,
    /// It has more bytes than a join file can have.
    #[error("a join file has at most {LONGEST} bytes")]
    TooLarge,
    /// It is no age file.
    #[error("it is not a join file: {0}")]
    NotAge(&'static str),
    /// Another host can read it.
    #[error(
        "it is encrypted to the key of another host; `nodelet pki key` prints the key of this host, for `--to` on a master"
    )]
    OtherRecipient,
    /// It was changed since it was made, or is incomplete.
    #[error("it is damaged or incomplete: copy it from the master again")]
    Damaged,
    /// A newer nodelet made it.
    #[error("its format version is {0}, this nodelet supports {VERSION} and {MASTER_VERSION}")]
    Version(u32),
    /// It is for a further master, and this host is a worker.
    #[error("it is for a master, and this host is a worker")]
    ForMaster,
    /// It is for a worker, and this host is a master.
    #[error("it is for a worker, and this host is a master")]
    ForWorker,
    /// Its content is not what a join file has.
    #[error("its content cannot be used: {0}")]
    Content(String),
    /// It was made for another node.
    #[error("it is for node `{meant}`, and this host is node `{node}`")]
    OtherNode {
        /// The node that it is for.
        meant: String,
        /// The node of this host.
        node: String,
    },
    /// Its time is over.
    #[error("it expired at {0}")]
    Expired(String),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

impl JoinFile {
    /// Encrypts it to the host with this public key (`age1…`). Returns an age file in ASCII armour.
    ///
    /// # Errors
    /// The key is none, or the content cannot be a join file's.
    pub fn seal(&self, recipient: &str) -> Result<Vec<u8>, JoinFileError> {
        let key = read_recipient(recipient)?;
        self.usable()?;
        sealed_for(&key, self)
    }

    /// Reads a file that was made for the host with this identity (`AGE-SECRET-KEY-1…`).
    ///
    /// # Errors
    /// It is too large, changed, for another host, of a newer format, or has unusable content.
    pub fn open(sealed: &[u8], identity: &str) -> Result<Self, JoinFileError> {
        let opened = Opened::of(sealed, identity)?;
        match opened.kind {
            Kind::Worker => {}
            Kind::Master => return Err(JoinFileError::ForMaster),
        }
        let file: Self = opened.content()?;
        file.usable()?;
        Ok(file)
    }

    /// Whether it is for this node and still valid.
    ///
    /// # Errors
    /// It is for another node, or expired.
    pub fn check(&self, node: &str, now: SystemTime) -> Result<(), JoinFileError> {
        is_for(&self.node, self.expires, node, now)
    }

    /// Checks what neither age nor the types of the fields ensure.
    fn usable(&self) -> Result<(), JoinFileError> {
        let refused = |why: &str| Err(JoinFileError::Content(why.to_owned()));
        if !is_node_name(&self.node) {
            return refused("the name of its node is no DNS-1123 name");
        }
        if self.api.is_empty() || self.api.len() > MOST_SERVERS {
            return refused("it names no API server, or too many");
        }
        if !self.api.iter().all(|url| is_api_url(url)) {
            return refused(
                "the URL of an API server does not begin with https://, or is too long",
            );
        }
        is_time(self.expires)?;
        if certificates(&self.authorities)? == 0 {
            return refused("it has no authority");
        }
        Ok(())
    }
}

/// The only fields that are read of any version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
    #[serde(default)]
    kind: Option<serde_json::Value>,
}

/// Whom a join file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Worker,
    Master,
}

/// A join file that was decrypted. Has no `Debug`, because it contains secrets.
struct Opened {
    kind: Kind,
    plain: Vec<u8>,
}

impl Opened {
    /// Decrypts a file, and reads whom it is for.
    fn of(sealed: &[u8], identity: &str) -> Result<Self, JoinFileError> {
        if sealed.len() > LONGEST {
            return Err(JoinFileError::TooLarge);
        }
        let plain = age::decrypt(&read_identity(identity)?, sealed).map_err(not_opened)?;
        let versioned: Versioned = parsed(&plain)?;
        let kind = versioned.kind.as_ref().and_then(serde_json::Value::as_str);
        let kind = match (versioned.version, kind) {
            (VERSION, _) => Kind::Worker,
            (MASTER_VERSION, Some(master::KIND)) => Kind::Master,
            (version, _) => return Err(JoinFileError::Version(version)),
        };
        Ok(Self { kind, plain })
    }

    fn content<T: serde::de::DeserializeOwned>(&self) -> Result<T, JoinFileError> {
        parsed(&self.plain)
    }
}

fn parsed<T: serde::de::DeserializeOwned>(plain: &[u8]) -> Result<T, JoinFileError> {
    serde_json::from_slice(plain).map_err(|error| {
        // The text of an error of serde may quote a value. Its class and place are enough.
        let class = match error.classify() {
            serde_json::error::Category::Io | serde_json::error::Category::Eof => {
                "it is incomplete"
            }
            serde_json::error::Category::Syntax => "it is not JSON",
            serde_json::error::Category::Data => "a field is unknown, missing or of another type",
        };
        let (line, column) = (error.line(), error.column());
        JoinFileError::Content(format!("{class} (line {line}, column {column})"))
    })
}

fn read_recipient(text: &str) -> Result<age::x25519::Recipient, JoinFileError> {
    let parsed = text.parse();
    parsed.map_err(|_| JoinFileError::Recipient(shortened(text)))
}

/// The content as an age file in ASCII armour.
fn sealed_for(
    key: &age::x25519::Recipient,
    content: &impl Serialize,
) -> Result<Vec<u8>, JoinFileError> {
    let content =
        serde_json::to_vec(content).map_err(|error| JoinFileError::Content(error.to_string()))?;
    let sealed = age::encrypt_and_armor(key, &content)
        .map_err(|_| JoinFileError::Content("it could not be encrypted".to_owned()))?;
    if sealed.len() > LONGEST {
        return Err(JoinFileError::TooLarge);
    }
    Ok(sealed.into_bytes())
}

/// Whether a file for the node `meant` that ends at `expires` is for `node`, and valid.
fn is_for(meant: &str, expires: u64, node: &str, now: SystemTime) -> Result<(), JoinFileError> {
    if meant != node {
        return Err(JoinFileError::OtherNode {
            meant: meant.to_owned(),
            node: node.to_owned(),
        });
    }
    match SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(expires)) {
        Some(until) if now < until => Ok(()),
        Some(until) => Err(JoinFileError::Expired(
            humantime::format_rfc3339_seconds(until).to_string(),
        )),
        None => Err(JoinFileError::Content("its expiry is no time".to_owned())),
    }
}

/// Whether these seconds since 1970 are a time that can be shown: `humantime` writes no later year.
fn is_time(seconds: u64) -> Result<(), JoinFileError> {
    if seconds > 253_402_300_799 {
        return Err(JoinFileError::Content("its expiry is no time".to_owned()));
    }
    Ok(())
}

/// The number of certificates in some PEM text that has nothing else.
fn certificates(pem: &str) -> Result<usize, JoinFileError> {
    let refused = |why: &str| Err(JoinFileError::Content(why.to_owned()));
    let mut number = 0;
    for section in Pem::iter_from_buffer(pem.as_bytes()) {
        let Ok(section) = section else {
            return refused("its authorities are no PEM");
        };
        if section.label != "CERTIFICATE" || section.parse_x509().is_err() {
            return refused("its authorities are no certificates");
        }
        number += 1;
    }
    Ok(number)
}

/// A new identity of a host: the secret (`AGE-SECRET-KEY-1…`) and the public key (`age1…`).
#[must_use]
pub fn new_identity() -> (String, String) {
    let identity = age::x25519::Identity::generate();
    let public = identity.to_public().to_string();
    (identity.to_string().expose_secret().to_owned(), public)
}

/// The public key of this identity.
///
/// # Errors
/// It is none.
pub fn public_key(identity: &str) -> Result<String, JoinFileError> {
    Ok(read_identity(identity)?.to_public().to_string())
}

/// Longest name of a node that can join. A host name is no longer, and objects of the cluster are named after the node.
pub const LONGEST_NODE_NAME: usize = 63;

/// Whether a node can have this name: a DNS-1123 subdomain of at most 253 characters, as Kubernetes asks for.
#[must_use]
pub fn is_node_name(name: &str) -> bool {
    is_dns_name(name)
}

fn is_api_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte);
    !rest.is_empty() && url.len() <= LONGEST_URL && rest.bytes().all(plain)
}

/// The file of an identity may have comments, as `age-keygen` writes them.
fn read_identity(text: &str) -> Result<age::x25519::Identity, JoinFileError> {
    let mut lines = text.lines().map(str::trim);
    let secret = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    let secret = secret.ok_or(JoinFileError::Identity)?;
    secret.parse().map_err(|_| JoinFileError::Identity)
}

/// age's own texts are translated at run time, so they are not used.
fn not_opened(error: age::DecryptError) -> JoinFileError {
    match error {
        age::DecryptError::NoMatchingKeys => JoinFileError::OtherRecipient,
        age::DecryptError::InvalidHeader => JoinFileError::NotAge("its header is invalid"),
        age::DecryptError::UnknownFormat => JoinFileError::NotAge("its format is unknown"),
        // Bad armour, the end in the middle, a changed header or a changed block.
        _ => JoinFileError::Damaged,
    }
}

/// The begin of a text that was not what was expected.
fn shortened(text: &str) -> String {
    text.chars()
        .filter(|its| !its.is_control())
        .take(16)
        .collect()
}

#[cfg(test)]
mod tests;
