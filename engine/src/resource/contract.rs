//! What each kind of resource implements, and what it gets: the trait [`Resource`], the [`Context`] of a step with outputs and secrets,
//! the errors, and what several kinds share to read and create files.
//!
//! Not here: the list of all kinds, which is in `spec`. So the files of the kinds import this file, and it imports none of them.
//!
//! Start with [`Resource`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::host::{Attributes, EntryKind, Host, HostError};
use crate::model::{OutputRef, SecretRef, StepId, Value};
use crate::resource::{Change, Receipt, Undo};

/// Result of a resource's verb.
pub type ResourceResult<T> = Result<T, ResourceError>;

/// Why a resource could not be observed or converged. `Display` completes "failed to …".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// An operation of the host failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A template with late values did not render.
    #[error(transparent)]
    Render(#[from] crate::model::RenderError),
    /// Something that an earlier step provides is not there.
    #[error("{what}")]
    Missing {
        /// What, and what to do about it.
        what: String,
    },
    /// The ledger could not be written or read.
    #[error(transparent)]
    Ledger(Box<dyn std::error::Error + Send + Sync>),
    /// A key or certificate could not be made or read.
    #[error("{action}")]
    Pki {
        /// What was tried.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Whether the next try would fail as this one did.
        permanent: bool,
    },
    /// An operator has to act first: a retry does not help.
    #[error("{what}")]
    Unmet {
        /// What cannot be done, and why.
        what: String,
        /// What to do, in the imperative.
        next: String,
    },
    /// Another host has to act first. It may do so before the next try.
    #[error("{what}")]
    Awaited {
        /// What is waited for, and how far it is.
        what: String,
        /// What to do if it does not come, in the imperative.
        next: String,
    },
    /// The time of a phase was over while a step was tried again and again.
    #[error("finish phase {phase} within {}", humantime::format_duration(*.after))]
    OutOfTime {
        /// The phase.
        phase: String,
        /// Its time limit.
        after: std::time::Duration,
        /// Why the last try failed.
        #[source]
        source: Box<ResourceError>,
    },
    /// The resource did not reach its desired state.
    #[error("{what}")]
    NotConverged {
        /// What is still wrong.
        what: String,
    },
}

impl ResourceError {
    /// Whether the next try would fail as this one did.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Host(error) => error.is_permanent(),
            Self::Unmet { .. } | Self::Render(_) => true,
            Self::Pki { permanent, .. } => *permanent,
            Self::OutOfTime { source, .. } => source.is_permanent(),
            Self::Missing { .. }
            | Self::Ledger(_)
            | Self::Awaited { .. }
            | Self::NotConverged { .. } => false,
        }
    }

    /// The path of a resource holds another kind of entry.
    pub(crate) fn in_the_way(path: &Path, wanted: &str, found: &EntryKind) -> Self {
        let found = match found {
            EntryKind::File(_) => "a file",
            EntryKind::Directory => "a directory",
            EntryKind::Symlink(_) => "a link",
            EntryKind::Socket => "a socket",
            EntryKind::Other => "a device or a pipe",
        };
        let path = path.display();
        Self::Unmet {
            what: format!("make {path} {wanted}: {found} is there"),
            next: format!(
                "check whether it is still needed, then move it away (`mv {path} {path}.away`)"
            ),
        }
    }
}

/// What a step can read while it runs.
pub struct Context<'a> {
    /// The host.
    pub host: &'a dyn Host,
    /// Outputs of steps that ran before.
    pub outputs: &'a Outputs,
    /// Secrets by name.
    pub secrets: &'a dyn SecretStore,
    /// Whether the resource should not be there.
    pub absent: bool,
    /// Asks the run to end. A step that waits for long for another host ends its wait then; `None` if nothing can ask.
    pub cancel: Option<&'a CancellationToken>,
}

impl Context<'_> {
    /// A late value as JSON. An output that is not known yet (a dry run on a host where its step has not run)
    /// is an error that says so.
    pub fn resolve(&self, value: &Value) -> ResourceResult<serde_json::Value> {
        match value {
            Value::Secret(secret) => self
                .secrets
                .get(secret)
                .map(serde_json::Value::String)
                .ok_or_else(|| ResourceError::Missing {
                    what: format!("find the value of {secret}"),
                }),
            Value::Output(output) => {
                self.outputs
                    .get(output)
                    .ok_or_else(|| ResourceError::Missing {
                        what: format!("find {output}: the step that gives it has not run"),
                    })
            }
            known => known.to_json(&mut |late| self.resolve(late)),
        }
    }
}

/// The source of secrets. Only a step gets their values, while it runs.
pub trait SecretStore: Send + Sync {
    /// The value of a secret.
    fn get(&self, secret: &SecretRef) -> Option<String>;
}

/// No secrets at all.
pub struct NoSecrets;

impl SecretStore for NoSecrets {
    fn get(&self, _: &SecretRef) -> Option<String> {
        None
    }
}

/// Gives references instead of secrets: a dry run must neither show nor hold a secret.
pub struct MaskedSecrets;

impl SecretStore for MaskedSecrets {
    fn get(&self, secret: &SecretRef) -> Option<String> {
        Some(secret.to_string())
    }
}

/// Outputs of steps, by step and field.
#[derive(Debug, Default)]
pub struct Outputs(Mutex<BTreeMap<(StepId, String), serde_json::Value>>);

impl Outputs {
    /// An output, if its step has run.
    #[must_use]
    pub fn get(&self, output: &OutputRef) -> Option<serde_json::Value> {
        let key = (output.step.clone(), output.field.clone());
        self.lock().get(&key).cloned()
    }

    /// Keeps the outputs of a step.
    pub fn set(&self, step: &StepId, fields: BTreeMap<String, serde_json::Value>) {
        let mut all = self.lock();
        for (field, value) in fields {
            all.insert((step.clone(), field), value);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(StepId, String), serde_json::Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A kind of thing with observe, diff, converge and undos.
#[async_trait]
pub trait Resource: Send + Sync {
    /// What observing it yields.
    type Observed: Send + Sync;

    /// Its name: unique among the resources of its kind in one phase.
    fn label(&self) -> String;

    /// Reads the current state. Changes nothing. Cancel safe.
    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed>;

    /// What would have to change, or with `absent`, what would have to be removed; `None` if nothing. Not all kinds can be absent.
    fn diff(&self, observed: &Self::Observed, absent: bool) -> Option<Change>;

    /// Brings the host to the desired state, if it differs from it. Must be idempotent: after a crash in the middle it is observed and converged
    /// again. An undo is pushed to `receipt` *before* the effect that it reverts, so a failure half-way can be reverted.
    async fn converge(
        &self,
        observed: &Self::Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()>;

    /// Outputs that later steps can refer to, once the resource is in its desired state.
    fn outputs(&self, _observed: &Self::Observed) -> BTreeMap<String, serde_json::Value> {
        BTreeMap::new()
    }

    /// A note for the operator that is not a change, for example a cordon by an operator.
    fn note(&self, _observed: &Self::Observed) -> Option<String> {
        None
    }

    /// Whether it is not known if the resource is as it should be, although a step has nothing to change or has to wait; the note says why. A
    /// status pass reports that as Unknown, which restarts nothing.
    fn is_unknown(&self, _observed: &Self::Observed) -> bool {
        false
    }

    /// Whether the note tells of a problem that only an operator can end, although the resource is as planned. A status pass reports that as
    /// a failure that restarts nothing.
    fn has_problem(&self, _observed: &Self::Observed) -> bool {
        false
    }

    /// Files of this step that a consumer reads (`restart_on`, `env_from`).
    fn paths(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// All files that this step makes, as far as its specification says. A recovery needs them for a step that cannot be simulated.
    fn made_files(&self) -> Vec<PathBuf> {
        self.paths()
    }

    /// Stops the unit or container of this resource; files stay. Returns whether it was running. The receipt gets the undo
    /// that starts a unit again, so that a clean starts a unit that ran before the role was applied.
    async fn quiesce(&self, _cx: &Context<'_>, _receipt: &mut Receipt<'_>) -> ResourceResult<bool> {
        Ok(false)
    }
}

/// Bound on files that are read for a comparison: larger files are compared by size and hash of their source.
pub(crate) const READ_LIMIT: u64 = 4 * 1024 * 1024;
/// Bound on a file that is saved for a clean because a file or link of ours replaces it, for example an operator's own program.
pub(crate) const KEPT_LIMIT: u64 = 128 * 1024 * 1024;

/// Parent directories of `path` that do not exist, outermost first.
async fn missing_parents(host: &dyn Host, path: &Path) -> ResourceResult<Vec<PathBuf>> {
    let mut missing = Vec::new();
    let mut at = path.parent();
    while let Some(directory) = at {
        if directory.as_os_str().is_empty() || host.entry(directory).await?.is_some() {
            break;
        }
        missing.push(directory.to_path_buf());
        at = directory.parent();
    }
    missing.reverse();
    Ok(missing)
}

/// Creates the missing parents of `path`, owned by root with mode 0755, and records their undos.
pub(crate) async fn create_parents(
    host: &dyn Host,
    path: &Path,
    receipt: &mut Receipt<'_>,
) -> ResourceResult<()> {
    create_parents_with(host, path, |_| Attributes::root(0o755), receipt).await
}

/// The same with the attributes that each directory gets.
pub(crate) async fn create_parents_with(
    host: &dyn Host,
    path: &Path,
    attributes: fn(&Path) -> Attributes,
    receipt: &mut Receipt<'_>,
) -> ResourceResult<()> {
    for directory in missing_parents(host, path).await? {
        receipt
            .push(Undo::RemoveDirectory {
                path: directory.clone(),
            })
            .await?;
        let attributes = attributes(&directory);
        host.create_directory(&directory, attributes).await?;
    }
    Ok(())
}
