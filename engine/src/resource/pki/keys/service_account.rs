//! The key pair of service-account tokens.
//!
//! The controller-manager signs with `svcacct.key` and the API server verifies with `svcacct.pub`. The private
//! half is PKCS #8 (`PRIVATE KEY`) and the public half `PUBLIC KEY`. Kubernetes accepts PKCS #8 for a key that
//! signs (`keyutil.ParsePrivateKeyPEM` in client-go), but for a key that verifies (`ParsePublicKeysPEM`) it accepts an
//! EC private key only in SEC 1 form: give `--service-account-key-file` the public half.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::record::{KeptFiles, KeyRecord, RecordMatch};
use crate::host::Host;
use crate::resource::change::Differences;
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::stored::{Content, PUBLIC, Stored};
use crate::resource::pki::{
    PkiError, PrivateKey, certificate_paths, keys, service_account_paths, service_account_record,
};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};

/// Name of the key in its record.
pub(in crate::resource::pki) const KEY: &str = "svcacct.key";

/// The key that signs service-account tokens. It is made if none exists and none is recorded. It is never replaced, because every token
/// that it signed would become invalid. A lost or replaced key is restored from the recorded copy; without an intact copy, it is an error
/// with a remedy, and nothing is derived from another key. The public half is derived from the key, and written again if it differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountKeySpec {}

/// The current state of the key pair.
#[derive(Debug)]
pub struct Observed {
    key: Stored,
    public: Stored,
    record: KeyRecord,
    /// The desired pair; `None` if there is no key yet.
    pair: Option<Pair>,
    /// Whether the current public half is the one of the pair.
    matches: bool,
}

impl Observed {
    /// Whether both halves are right, or there is no key yet.
    pub(in crate::resource::pki) fn is_whole(&self) -> bool {
        let restored = |pair: &Pair| pair.lost.is_some() || !self.matches;
        !self.pair.as_ref().is_some_and(restored)
    }

    /// What is wrong with the key, and what to do about it.
    pub(in crate::resource::pki) fn problem(&self) -> Option<String> {
        let problem = self.pair.as_ref()?.lost.as_ref()?;
        Some(format!(
            "it is {problem}; `nodelet apply` restores it from its copy"
        ))
    }
}

/// A key with its public half.
struct Pair {
    files: KeptFiles,
    public: String,
    /// What is wrong with the file of the key, if it has to be restored.
    lost: Option<String>,
}

/// Without the key.
impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair")
            .field("public", &self.public)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl Pair {
    fn new(pem: Vec<u8>, lost: Option<String>) -> ResourceResult<Self> {
        let parsed =
            keys::parse(&pem).map_err(|problem| irreplaceable(PairProblem::LostKey, &problem))?;
        Ok(Self {
            public: parsed.public_key_pem(),
            files: KeptFiles::from([(KEY, pem)]),
            lost,
        })
    }

    fn pem(&self) -> &[u8] {
        self.files.get(KEY).map_or(&[], Vec::as_slice)
    }
}

#[async_trait]
impl Resource for ServiceAccountKeySpec {
    type Observed = Observed;

    fn label(&self) -> String {
        "service-account".to_owned()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        let (key_path, public_path) = service_account_paths();
        let (key, content) = Stored::read(cx.host, &key_path).await?;
        let (public, public_content) = Stored::read(cx.host, &public_path).await?;
        let record = KeyRecord::read(cx.host, &service_account_record()).await?;
        let pair = match cx.absent {
            true => None,
            false => pair(cx.host, &record, &content, &public_content).await?,
        };
        let is_its = |pair: &Pair| public_content.bytes() == Some(pair.public.as_bytes());
        Ok(Observed {
            key,
            public,
            record,
            matches: pair.as_ref().is_some_and(is_its),
            pair,
        })
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        let record = &observed.record;
        if absent {
            let files = observed.key.is_there() || observed.public.is_there();
            return (files || record.is_there()).then(|| Change::new(Action::Remove));
        }
        let Some(pair) = &observed.pair else {
            return Some(Change::new(Action::Create).with("kind", "", "ECDSA P-256"));
        };
        let mut differences = Differences::default();
        if let Some(problem) = &pair.lost {
            differences.note("key", problem, "restored from its copy");
        }
        if !observed.matches {
            let before = if observed.public.is_there() {
                "of another key"
            } else {
                "missing"
            };
            differences.note("public half", before, "derived from the key");
        }
        record.compare(&pair.files, &mut differences);
        observed.key.compare(&mut differences, PRIVATE);
        observed.public.compare(&mut differences, PUBLIC);
        differences.into_change(Action::Change)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let (key, public, record) = (&observed.key, &observed.public, &observed.record);
        if cx.absent {
            key.remove(cx.host, receipt).await?;
            public.remove(cx.host, receipt).await?;
            return record.remove(cx.host, receipt).await;
        }
        let made;
        let pair = match &observed.pair {
            Some(pair) => pair,
            None => {
                let new = keys::generate().map_err(|error| error.at(action("make")))?;
                let pem = PrivateKey::from(&new);
                made = Pair::new(pem.expose_pem().as_bytes().to_vec(), None)?;
                &made
            }
        };
        // The record first: after an interruption between the two, the next run restores the key from it.
        record.put(cx.host, &pair.files, receipt).await?;
        if observed.pair.is_none() || pair.lost.is_some() {
            key.put(cx.host, pair.pem(), PRIVATE, receipt).await?;
        } else {
            key.repair(cx.host, PRIVATE, receipt).await?;
        }
        if observed.matches {
            return public.repair(cx.host, PUBLIC, receipt).await;
        }
        public
            .put(cx.host, pair.public.as_bytes(), PUBLIC, receipt)
            .await
    }

    fn paths(&self) -> Vec<PathBuf> {
        let (key, public) = service_account_paths();
        vec![key, public]
    }
}

/// The private key that this host has, as PEM; `None` if there is none yet. Cancel safe.
///
/// # Errors
/// It is lost or a foreign one, with the remedy; or the host cannot be read.
pub(in crate::resource::pki) async fn present(host: &dyn Host) -> ResourceResult<Option<Vec<u8>>> {
    let (key, public) = service_account_paths();
    let (_, key) = Stored::read(host, &key).await?;
    let (_, public) = Stored::read(host, &public).await?;
    let record = KeyRecord::read(host, &service_account_record()).await?;
    let pair = pair(host, &record, &key, &public).await?;
    Ok(pair.map(|pair| pair.pem().to_vec()))
}

/// The desired pair according to its record or, on a host without a record, to the public half, with which the API server verifies.
async fn pair(
    host: &dyn Host,
    record: &KeyRecord,
    key: &Content,
    public: &Content,
) -> ResourceResult<Option<Pair>> {
    let live = || key.bytes().unwrap_or_default().to_vec();
    match record.judge(KEY, key) {
        RecordMatch::AsRecorded => {
            return Pair::new(record.copy(KEY).unwrap_or_else(live), None).map(Some);
        }
        // The record may be wrong: key and public half match each other, and only the record differs.
        RecordMatch::Restorable { .. } if is_pair(key, public) => {
            let problem = format!(
                "it matches the public half beside it, but {} records another key",
                service_account_record().display()
            );
            return Err(irreplaceable(PairProblem::ForeignPair, &problem));
        }
        RecordMatch::Restorable { problem, copy } => {
            return Pair::new(copy, Some(problem)).map(Some);
        }
        RecordMatch::Lost { problem } => {
            let problem = format!("it is {problem}, and there is no intact copy of it");
            return Err(irreplaceable(PairProblem::LostKey, &problem));
        }
        RecordMatch::Unrecorded => {}
    }
    match (key, public) {
        (Content::Missing, Content::Missing) => return Ok(None),
        (Content::Missing, _) => {
            return Err(irreplaceable(
                PairProblem::LostKey,
                "it is missing, but its public half is there",
            ));
        }
        (Content::Unfit(problem), _) => return Err(irreplaceable(PairProblem::LostKey, problem)),
        (Content::Bytes(_), _) => {}
    }
    let pair = Pair::new(live(), None)?;
    let is_usable = match public {
        Content::Bytes(bytes) => bytes == pair.public.as_bytes(),
        // The API server's certificate is made after the key: a host without that certificate has never used the key.
        _ => {
            let used = certificate_paths("apiserver").certificate;
            host.entry(&used).await?.is_none()
        }
    };
    if !is_usable {
        return Err(irreplaceable(
            PairProblem::Mismatch,
            "it is not the public half of the key beside it; which of the two the cluster uses is unknown",
        ));
    }
    Ok(Some(pair))
}

/// Whether the public half belongs to the key.
fn is_pair(key: &Content, public: &Content) -> bool {
    let derived = key.parse(|pem| keys::parse(pem).map(|pair| pair.public_key_pem()));
    matches!((derived, public), (Some(Ok(pem)), Content::Bytes(is)) if pem.as_bytes() == is)
}

/// What is wrong with the pair.
#[derive(Clone, Copy)]
enum PairProblem {
    /// The key is lost or unreadable, and this host has no copy of it.
    LostKey,
    /// Key and public half are a pair, and the record has a copy of another key. Which of the two keys is right is unknown.
    ForeignPair,
    /// The public half does not belong to the key, and there is no record.
    Mismatch,
}

/// The error for a problem of the pair that only an operator can solve. The first remedy in it never removes the last good copy.
fn irreplaceable(kind: PairProblem, problem: &str) -> ResourceError {
    let (key, public) = service_account_paths();
    let record = service_account_record();
    let record = record.display();
    let (path, help) = match kind {
        PairProblem::LostKey => (
            &key,
            format!(
                "Put the right key back from a backup or another master. Only if there is no copy of it anywhere, move it, {} and \
                 {record} away: then a new key is made, and every service-account token becomes invalid",
                public.display(),
            ),
        ),
        PairProblem::ForeignPair => (
            &key,
            format!(
                "The record has a copy of its key. If the recorded key is the right one, move {} and {} away: `nodelet apply` then \
                 restores the recorded key, and all service-account tokens stay valid. If the present key is the right one, move \
                 {record} away: `nodelet apply` then accepts the present key. Do not move all three away: then a new key is made, and \
                 every service-account token becomes invalid",
                key.display(),
                public.display(),
            ),
        ),
        PairProblem::Mismatch => (
            &public,
            format!(
                "Put the right files back from a backup or another master; if the key is right, derive the public half \
                 from it: `openssl pkey -in {} -pubout -out {}`",
                key.display(),
                public.display()
            ),
        ),
    };
    let error = PkiError::Precious {
        problem: format!("{}: {problem}", path.display()),
        help: format!("nothing was changed. {help}"),
    };
    error.at(action("read"))
}

fn action(verb: &str) -> String {
    format!("{verb} the service-account key")
}
