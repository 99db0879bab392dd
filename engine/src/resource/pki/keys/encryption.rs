//! The keys with which the API server encrypts Secrets in etcd, and their replacement.
//!
//! Three files contain them, all in the form that the API server reads (`EncryptionConfiguration`): `encryption/config.yaml` is mounted
//! only into the API server, `ca/encryption/keys.yaml` is our own copy, and the third file is beside the records of the other keys. A
//! lost or damaged file is written again from the others; so is an exchanged file, if the others show which one it is: see `right`.
//! Otherwise only an operator can repair them. Unencrypted values in etcd stay readable: `identity` is the last provider.
//!
//! The name of a key consists of its number and a digest of it. So an exchanged key is noticed, and a backup can name the keys that it
//! needs without showing them. The first key encrypts, every key decrypts. A replaced key is kept: see `retired`.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::TryRngCore as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::received::next_key;
use super::retired::{Named, Retired};
use crate::host::{Attributes, Host};
use crate::model::RECORDS;
use crate::resource::change::Differences;
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::stage::{PREVIOUS_KEY, Rotation, Stage};
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::pki::{BASE, PkiError, SentSuccessor};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};

/// The name of these keys in `nodelet certs rotate`.
pub const ENCRYPTION: &str = "encryption";

/// Mode and owner of their directories: only for root.
const DIRECTORY: Attributes = Attributes::root(0o700);
/// Length of a key of secretbox in bytes.
const LENGTH: usize = 32;

/// The files. Each copy has its own directory, so that the removal of one directory removes at most one copy.
struct Places {
    /// The API server's directory.
    its: PathBuf,
    config: PathBuf,
    /// Our own directory.
    ours: PathBuf,
    copy: PathBuf,
    records: PathBuf,
    record: PathBuf,
}

fn places() -> Places {
    let its = Path::new(BASE).join("encryption");
    let ours = Path::new(BASE).join("ca/encryption");
    Places {
        config: its.join("config.yaml"),
        copy: ours.join("keys.yaml"),
        record: Path::new(RECORDS).join("encryption.yaml"),
        records: RECORDS.into(),
        its,
        ours,
    }
}

/// The directories that hold encryption keys.
#[must_use]
pub fn encryption_directories() -> [PathBuf; 2] {
    let places = places();
    [places.its, places.ours]
}

/// The file that the API server reads.
pub(in crate::resource::pki) fn encryption_config() -> PathBuf {
    places().config
}

/// Our own record of the keys, which is written first.
pub(in crate::resource::pki) fn encryption_record() -> PathBuf {
    places().record
}

/// The keys. They are made if none exist, and replaced only if an operator requests it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncryptionKeysSpec {
    /// The step of the key's replacement to carry out; never set in a plan that was made by a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// The file with the next key that another master has made, for [`Rotation::Begin`]. Without it, this host makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<SentSuccessor>,
}

/// One key. Has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::resource::pki) struct Key {
    pub(super) number: u32,
    secret: [u8; LENGTH],
}

/// One or two keys, the one that encrypts first.
#[derive(Clone, PartialEq, Eq)]
struct Keys(Vec<Key>);

/// The current state of the keys.
pub struct Observed {
    directories: Vec<Stored>,
    /// In the order in which they are written.
    copies: [(Stored, Content); 3],
    /// The right keys; `None` if there are none yet.
    keys: Option<Keys>,
    /// The next key from another master; `None` if the host has it, or makes it itself.
    received: Option<Key>,
    retired: Retired,
}

impl Observed {
    /// What is wrong with a copy of the keys, and what to do about it.
    pub(in crate::resource::pki) fn problem(&self) -> Option<String> {
        let Some((file, content)) = self.damaged().next() else {
            return self.retired.problem();
        };
        let is = match content {
            Content::Missing => "missing",
            _ => "damaged, or of other keys",
        };
        Some(format!(
            "{}: it is {is}; `nodelet apply` restores it from its copies",
            file.path().display()
        ))
    }

    /// Whether the file at `path` contains the right keys, or there are none yet. The other copies are ignored.
    pub(in crate::resource::pki) fn is_right(&self, path: &Path) -> bool {
        self.damaged().all(|(file, _)| file.path() != path)
    }

    /// The copies that do not contain the right keys.
    fn damaged(&self) -> impl Iterator<Item = &(Stored, Content)> {
        let right = self.keys.as_ref().map(Keys::text);
        self.copies.iter().filter(move |(_, content)| {
            right
                .as_ref()
                .is_some_and(|right| content.bytes() != Some(right.as_bytes()))
        })
    }
}

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed")
            .field("keys", &self.keys.as_ref().map(Keys::ids))
            .finish_non_exhaustive()
    }
}

// ---- the document

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EncryptionFile {
    api_version: String,
    kind: String,
    resources: Vec<Encrypted>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encrypted {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secretbox: Option<Secretbox>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Secretbox {
    keys: Vec<Named>,
}

impl Key {
    fn new(number: u32) -> ResourceResult<Self> {
        let mut secret = [0; LENGTH];
        rand::rngs::OsRng
            .try_fill_bytes(&mut secret)
            .map_err(|error| PkiError::Build(error.to_string()).at("make an encryption key"))?;
        Ok(Self { number, secret })
    }

    /// Its name. The digest in it does not help to guess the key, because a key is 32 random bytes.
    pub(in crate::resource::pki) fn id(&self) -> String {
        let digest = Sha256::new()
            .chain_update(b"nodelet encryption key\0")
            .chain_update(self.secret)
            .finalize();
        format!("{}-{}", self.number, crate::model::hex(&digest[..8]))
    }

    pub(in crate::resource::pki) fn encoded(&self) -> String {
        STANDARD.encode(self.secret)
    }

    pub(in crate::resource::pki) fn named(&self) -> Named {
        Named {
            name: self.id(),
            secret: self.encoded(),
        }
    }

    pub(in crate::resource::pki) fn read(named: &Named) -> Result<Self, String> {
        let number = named.name.split_once('-').and_then(|(n, _)| n.parse().ok());
        let bytes = STANDARD.decode(&named.secret).ok();
        let key = number
            .zip(bytes.and_then(|bytes| bytes.try_into().ok()))
            .map(|(number, secret)| Self { number, secret })
            .ok_or("it contains something other than a key of nodelet")?;
        if key.id() == named.name {
            Ok(key)
        } else {
            Err(format!(
                "the content of key `{}` does not match its name",
                named.name
            ))
        }
    }
}

impl Keys {
    fn ids(&self) -> Vec<String> {
        self.0.iter().map(Key::id).collect()
    }

    fn stage(&self) -> Stage {
        match self.0.as_slice() {
            [first, second] if first.number > second.number => Stage::Switched,
            [_, _] => Stage::Begun,
            _ => Stage::Settled,
        }
    }

    fn text(&self) -> String {
        let keys = self.0.iter().map(Key::named);
        let file = EncryptionFile {
            api_version: "apiserver.config.k8s.io/v1".to_owned(),
            kind: "EncryptionConfiguration".to_owned(),
            resources: vec![Encrypted {
                resources: vec!["secrets".to_owned()],
                providers: vec![
                    Provider {
                        secretbox: Some(Secretbox {
                            keys: keys.collect(),
                        }),
                        identity: None,
                    },
                    Provider {
                        secretbox: None,
                        identity: Some(serde_json::Map::new()),
                    },
                ],
            }],
        };
        serde_yaml::to_string(&file).expect("texts are YAML")
    }

    /// The error text is our own, because the text of a parser could quote a key.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let foreign = || "it is not a configuration of nodelet, or it was cut short".to_owned();
        let file: EncryptionFile = serde_yaml::from_slice(text).map_err(|_| foreign())?;
        let [encrypted] = file.resources.as_slice() else {
            return Err(foreign());
        };
        let [
            Provider {
                secretbox: Some(keys),
                identity: None,
            },
            Provider {
                secretbox: None,
                identity: Some(_),
            },
        ] = encrypted.providers.as_slice()
        else {
            return Err(foreign());
        };
        let keys: Vec<Key> = keys.keys.iter().map(Key::read).collect::<Result<_, _>>()?;
        let keys = Self(keys);
        // A file with any other content was not written by us.
        if matches!(keys.0.len(), 1 | 2) && keys.text().as_bytes() == text {
            Ok(keys)
        } else {
            Err(foreign())
        }
    }

    fn shares_with(&self, other: &Self) -> bool {
        self.0.iter().any(|key| other.0.contains(key))
    }

    /// The keys after a step, and the key that is no longer used; `None` if the step does not fit the current stage.
    fn after(
        &self,
        step: Rotation,
        received: Option<Key>,
    ) -> ResourceResult<Option<(Self, Option<Key>)>> {
        Ok(match (step, self.0.as_slice()) {
            (Rotation::Begin, [only]) => {
                let next = match received {
                    Some(key) => key,
                    None => Key::new(only.number.saturating_add(1))?,
                };
                Some((Self(vec![only.clone(), next]), None))
            }
            (Rotation::Switch, [old, new]) if self.stage() == Stage::Begun => {
                Some((Self(vec![new.clone(), old.clone()]), None))
            }
            (Rotation::Finish, [new, old]) if self.stage() == Stage::Switched => {
                Some((Self(vec![new.clone()]), Some(old.clone())))
            }
            _ => None,
        })
    }
}

/// The copies of the keys, in the order in which they are written: our own copies first, so that the API server never has a key that
/// is not saved elsewhere.
async fn copies(host: &dyn Host) -> ResourceResult<[(Stored, Content); 3]> {
    let places = places();
    Ok([
        Stored::read(host, &places.record).await?,
        Stored::read(host, &places.copy).await?,
        Stored::read(host, &places.config).await?,
    ])
}

/// The right keys on the host. If all files are valid, and the two that are written last are equal and share a key with the first one,
/// their keys are right. Otherwise the keys of the first valid file, in the order of writing, are right, if it is the only valid one or
/// another one shares a key with it. Two equal files that share no key with the first one are not trusted. So an interrupted step is
/// either completed or has no effect.
fn right(copies: &[(Stored, Content); 3]) -> ResourceResult<Option<Keys>> {
    let mut valid: Vec<(&Path, Keys)> = Vec::new();
    let mut damaged = Vec::new();
    for (file, content) in copies {
        match content.parse(Keys::parse) {
            Some(Ok(keys)) => valid.push((file.path(), keys)),
            Some(Err(problem)) => damaged.push(format!("{}: {problem}", file.path().display())),
            None => {}
        }
    }
    // A record from an older backup of the host shares a key with the two others, but lacks the key that encrypts.
    if let [(_, record), (_, copy), (_, config)] = valid.as_slice()
        && copy == config
        && copy.shares_with(record)
    {
        return Ok(Some(copy.clone()));
    }
    if let Some((_, keys)) = valid.first()
        && (valid.len() == 1 || valid.iter().skip(1).any(|(_, its)| keys.shares_with(its)))
    {
        return Ok(Some(keys.clone()));
    }
    if valid.is_empty() && damaged.is_empty() {
        return Ok(None);
    }
    let names: Vec<String> = (valid.iter())
        .map(|(path, _)| path.display().to_string())
        .collect();
    let (problem, help) = if names.is_empty() {
        (
            damaged.join("; "),
            "Put the right file back from another master or from a copy of the host. Do not move all of the files away: then a new key \
             is made, and Secrets in etcd cannot be read",
        )
    } else {
        (
            format!(
                "{} hold different keys, so some of them were exchanged",
                names.join(" and ")
            ),
            "Find the file with the right keys: a Secret in etcd begins with `k8s:enc:secretbox:v1:` and the name of its key. Move each \
             file with other keys away: `nodelet apply` then restores it from the right one. If no file is right, put the right one back \
             from another master or from a copy of the host first. Do not move all of the files away: then a new key is made, and \
             Secrets in etcd cannot be read",
        )
    };
    let error = PkiError::Precious {
        problem,
        help: format!("nothing was changed. {help}"),
    };
    Err(error.at("read the encryption keys"))
}

#[async_trait]
impl Resource for EncryptionKeysSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        "secrets".to_owned()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        let places = places();
        let copies = copies(cx.host).await?;
        let mut directories = Vec::new();
        for directory in [&places.its, &places.ours, &places.records] {
            directories.push(Stored::read_entry(cx.host, directory).await?);
        }
        let retired = Retired::observe(cx.host).await?;
        let keys = if cx.absent { None } else { right(&copies)? };
        let received = match (&keys, &self.successor, self.rotation) {
            (Some(keys), Some(sent), Some(Rotation::Begin)) => {
                next_key(cx.host, sent, keys.stage(), &keys.0).await?
            }
            _ => None,
        };
        Ok(Observed {
            directories,
            copies,
            keys,
            received,
            retired,
        })
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        let files = &observed.copies;
        if absent {
            let there = files.iter().any(|(file, _)| file.is_there());
            return (there || observed.retired.are_there()).then(|| Change::new(Action::Remove));
        }
        let Some(keys) = &observed.keys else {
            return Some(Change::new(Action::Create).with("cipher", "", "secretbox"));
        };
        let mut differences = Differences::default();
        let text = keys.text();
        for (file, content) in files {
            if content.bytes() != Some(text.as_bytes()) {
                let before = match content {
                    Content::Missing => "missing",
                    _ => "of other keys, or damaged",
                };
                let name = file.path().file_name().unwrap_or_default();
                differences.note(
                    &name.to_string_lossy(),
                    before,
                    "restored from another copy",
                );
            }
            file.compare(&mut differences, PRIVATE);
        }
        for directory in &observed.directories {
            directory.compare(&mut differences, DIRECTORY);
        }
        observed.retired.compare(&mut differences);
        match (self.step(observed), keys.stage()) {
            (Some(Rotation::Begin), Stage::Settled) => {
                differences.note("next key", "", "made, and read beside the present one");
            }
            (Some(Rotation::Switch), Stage::Begun) => {
                differences.note("encrypts", "the present key", "the next key");
            }
            (Some(Rotation::Finish), Stage::Switched) => {
                differences.note(PREVIOUS_KEY, "read", "retired");
            }
            (None, _)
            | (Some(Rotation::Begin), Stage::Begun | Stage::Switched)
            | (Some(Rotation::Switch), Stage::Settled | Stage::Switched)
            | (Some(Rotation::Finish), Stage::Settled | Stage::Begun) => {}
        }
        differences.into_change(Action::Change)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if cx.absent {
            for (file, _) in observed.copies.iter().rev() {
                file.remove(cx.host, receipt).await?;
            }
            return observed.retired.remove(cx.host, receipt).await;
        }
        for directory in &observed.directories {
            directory.repair(cx.host, DIRECTORY, receipt).await?;
        }
        let step = match (&observed.keys, self.step(observed)) {
            (Some(keys), Some(step)) => keys.after(step, observed.received.clone())?,
            _ => None,
        };
        let (keys, retired) = match (step, &observed.keys) {
            (Some(after), _) => after,
            (None, Some(keys)) => (keys.clone(), None),
            (None, None) => (Keys(vec![Key::new(1)?]), None),
        };
        // Before the other files, so that a retired key is always in at least one file.
        observed.retired.converge(cx.host, retired, receipt).await?;
        let text = keys.text();
        for (file, content) in &observed.copies {
            if content.bytes() == Some(text.as_bytes()) {
                file.repair(cx.host, PRIVATE, receipt).await?;
            } else {
                file.put(cx.host, text.as_bytes(), PRIVATE, receipt).await?;
            }
        }
        Ok(())
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![places().config]
    }
}

impl EncryptionKeysSpec {
    /// The step to carry out: none if this host has the next key in the file already.
    fn step(&self, observed: &Observed) -> Option<Rotation> {
        let takes = self.rotation == Some(Rotation::Begin) && self.successor.is_some();
        self.rotation
            .filter(|_| !takes || observed.received.is_some())
    }
}

async fn read(host: &dyn Host) -> ResourceResult<Option<Keys>> {
    right(&copies(host).await?)
}

/// The keys that this host has, as the file that the API server reads; `None` if there are none yet. Cancel safe.
///
/// # Errors
/// The files exist but cannot be used.
pub(in crate::resource::pki) async fn present(host: &dyn Host) -> ResourceResult<Option<String>> {
    Ok(read(host).await?.map(|keys| keys.text()))
}

/// The keys that this host has, with their names. Cancel safe.
///
/// # Errors
/// The files exist but cannot be used.
pub(in crate::resource::pki) async fn named(host: &dyn Host) -> ResourceResult<Vec<Named>> {
    let keys = read(host).await?;
    Ok(keys.map_or_else(Vec::new, |keys| keys.0.iter().map(Key::named).collect()))
}

/// The names of the keys in a file with this content.
///
/// # Errors
/// Nodelet did not write it. The text quotes nothing of it.
pub(in crate::resource::pki) fn ids_in(content: &str) -> Result<Vec<String>, String> {
    Keys::parse(content.as_bytes()).map(|keys| keys.ids())
}

/// The names of the keys with which Secrets may be stored, the key that encrypts first; empty if there is none. Cancel safe.
///
/// # Errors
/// The files exist but cannot be used.
pub async fn encryption_key_ids(host: &dyn Host) -> ResourceResult<Vec<String>> {
    Ok(read(host).await?.map_or_else(Vec::new, |keys| keys.ids()))
}

/// The stage of the keys' replacement. Cancel safe.
///
/// # Errors
/// There are none yet, or the files cannot be used.
pub async fn encryption_stage(host: &dyn Host) -> ResourceResult<Stage> {
    match read(host).await? {
        Some(keys) => Ok(keys.stage()),
        None => Err(ResourceError::Unmet {
            what: "replace the encryption key: it has not been made yet".to_owned(),
            next: "run `nodelet apply` first".to_owned(),
        }),
    }
}

/// The prefix of a value in etcd that the key of this name has encrypted.
#[must_use]
pub fn stored_prefix(id: &str) -> String {
    format!("k8s:enc:secretbox:v1:{id}:")
}
