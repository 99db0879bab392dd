//! The encryption of a join file and of a successor, which is the same for all kinds: who can read the file, and what it is for.

use age::secrecy::ExposeSecret as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::JoinFileError;

/// The format of a worker's content. A file of a newer format is refused.
pub const VERSION: u32 = 9;
/// The formats of a worker's content that are still read: without the time of issue, without addresses of other nodes, and without masters and
/// settings.
const EARLIER_VERSIONS: [u32; 3] = [7, 6, 1];
/// The format of a master's content.
pub const MASTER_VERSION: u32 = 8;
/// The formats of a master's content that are still read: without the time of issue, without settings, and without addresses of other nodes.
const EARLIER_MASTER_VERSIONS: [u32; 3] = [5, 3, 2];
/// The kind in a master's content.
pub(super) const MASTER_KIND: &str = "master";
/// The format of a successor's content.
pub const SUCCESSOR_VERSION: u32 = 4;
/// The kind in a successor's content.
pub(super) const SUCCESSOR_KIND: &str = "successor";
/// Longest file, in bytes: a few authorities and addresses have a tenth of it.
pub const LONGEST: usize = 64 * 1024;

/// As what a host joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    /// As a worker.
    Worker,
    /// As a further master.
    Master,
}

/// What a file for another host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The host joins with it.
    Join(JoinKind),
    /// The host is a master, and gets a successor.
    Successor,
}

impl FileKind {
    /// Why a host that needs a file of the kind `needed` cannot use a file of this other kind.
    fn refused(self, needed: Self) -> JoinFileError {
        match (self, needed) {
            (Self::Join(_), Self::Successor) => JoinFileError::NoSuccessor,
            (Self::Successor, _) => JoinFileError::Successor,
            (Self::Join(JoinKind::Worker), Self::Join(_)) => JoinFileError::ForWorker,
            (Self::Join(JoinKind::Master), Self::Join(_)) => JoinFileError::ForMaster,
        }
    }
}

/// What a file of one kind contains: a join file, or a successor.
pub trait JoinContent: Serialize + DeserializeOwned {
    /// What it is for.
    const KIND: FileKind;

    /// Checks what neither age nor the types of the fields ensure.
    ///
    /// # Errors
    /// What no file of this kind has.
    fn usable(&self) -> Result<(), JoinFileError>;

    /// Encrypts it to the host with this public key (`age1…`). Returns an age file in ASCII armour.
    ///
    /// # Errors
    /// The key is none, or the content cannot be that of such a file.
    fn seal(&self, recipient: &str) -> Result<Vec<u8>, JoinFileError> {
        let key = read_recipient(recipient)?;
        self.usable()?;
        let content =
            serde_json::to_vec(self).map_err(|error| JoinFileError::Content(error.to_string()))?;
        let sealed = age::encrypt_and_armor(&key, &content)
            .map_err(|_| JoinFileError::Content("it could not be encrypted".to_owned()))?;
        if sealed.len() > LONGEST {
            return Err(JoinFileError::TooLarge);
        }
        Ok(sealed.into_bytes())
    }

    /// Reads a file that was made for the host with this identity (`AGE-SECRET-KEY-1…`).
    ///
    /// # Errors
    /// It is too large, changed, for another host, of another kind, of a newer format, or has unusable content.
    fn open(sealed: &[u8], identity: &str) -> Result<Self, JoinFileError> {
        if sealed.len() > LONGEST {
            return Err(JoinFileError::TooLarge);
        }
        let plain = age::decrypt(&read_identity(identity)?, sealed).map_err(not_opened)?;
        let kind = parsed::<Versioned>(&plain)?.kind()?;
        if kind != Self::KIND {
            return Err(kind.refused(Self::KIND));
        }
        let file: Self = parsed(&plain)?;
        file.usable()?;
        Ok(file)
    }
}

/// The only fields that are read of any version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
    #[serde(default)]
    kind: Option<serde_json::Value>,
}

impl Versioned {
    /// What the file is for.
    fn kind(&self) -> Result<FileKind, JoinFileError> {
        let kind = self.kind.as_ref().and_then(serde_json::Value::as_str);
        match (self.version, kind) {
            (version, _) if version == VERSION || EARLIER_VERSIONS.contains(&version) => {
                Ok(FileKind::Join(JoinKind::Worker))
            }
            (version, Some(MASTER_KIND))
                if version == MASTER_VERSION || EARLIER_MASTER_VERSIONS.contains(&version) =>
            {
                Ok(FileKind::Join(JoinKind::Master))
            }
            (SUCCESSOR_VERSION, Some(SUCCESSOR_KIND)) => Ok(FileKind::Successor),
            (version, _) => Err(JoinFileError::Version(version)),
        }
    }
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

fn parsed<T: DeserializeOwned>(plain: &[u8]) -> Result<T, JoinFileError> {
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
