//! Reads the join file, and says what is wrong with it and what to do about it.

use std::path::Path;

use crate::host::Host;
use crate::kubernetes::join_file::{IDENTITY, JoinFile, JoinFileError};
use crate::model::chain;
use crate::resource::pki::join::spec::JoinFileSpec;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::{ResourceError, ResourceResult};

/// Why a join file cannot be used.
#[derive(Debug)]
pub(super) struct Problem {
    text: String,
    next: String,
    /// Whether a host that has joined may have such a file: it is over, or not there.
    is_usual: bool,
}

impl Problem {
    /// As the error of a host that needs the file.
    pub(super) fn into_error(self, spec: &JoinFileSpec) -> ResourceError {
        ResourceError::Unmet {
            what: format!(
                "join the cluster as node `{}` with {}: {}",
                spec.node,
                spec.path.display(),
                self.text
            ),
            next: self.next,
        }
    }

    /// A note for a host that has joined and needs no file; `None` if an operator need not know.
    pub(super) fn note(&self, spec: &JoinFileSpec) -> Option<String> {
        (!self.is_usual).then(|| {
            format!(
                "{} is ignored, because this host has joined: {}; {}",
                spec.path.display(),
                self.text,
                self.next
            )
        })
    }
}

/// The join file, if it can be used now. Reads only. Cancel safe.
///
/// # Errors
/// The host cannot be read.
pub(super) async fn read(
    host: &dyn Host,
    spec: &JoinFileSpec,
) -> ResourceResult<Result<JoinFile, Problem>> {
    let sealed = match Stored::read(host, &spec.path).await?.1 {
        Content::Missing => {
            return Ok(Err(Problem {
                text: "it is not there".to_owned(),
                next: issued_for(spec),
                is_usual: true,
            }));
        }
        Content::Unfit(text) => {
            return Ok(Err(Problem {
                text,
                next: issued_for(spec),
                is_usual: false,
            }));
        }
        Content::Bytes(bytes) => bytes,
    };
    let identity = match Stored::read(host, Path::new(IDENTITY)).await?.1 {
        Content::Bytes(bytes) => String::from_utf8(bytes).unwrap_or_default(),
        Content::Missing | Content::Unfit(_) => {
            return Ok(Err(Problem {
                text: format!(
                    "{IDENTITY} is missing, and without this host's identity nothing can open the file"
                ),
                next: issued_for(spec),
                is_usual: false,
            }));
        }
    };
    let opened = JoinFile::open(&sealed, &identity)
        .and_then(|file| file.check(&spec.node, host.now()).map(|()| file));
    Ok(opened.map_err(|error| Problem::of(spec, &error)))
}

impl Problem {
    /// What to do about each error.
    pub(super) fn of(spec: &JoinFileSpec, error: &JoinFileError) -> Self {
        let next = match error {
            JoinFileError::OtherRecipient | JoinFileError::Expired(_) => issued_for(spec),
            JoinFileError::Damaged | JoinFileError::NotAge(_) | JoinFileError::TooLarge => {
                format!(
                    "copy the file from the master to {} again",
                    spec.path.display()
                )
            }
            JoinFileError::OtherNode { meant, .. } => format!(
                "put the file on host `{meant}`; for this host: {}",
                issued_for(spec)
            ),
            JoinFileError::Version(_) => {
                "install the nodelet version of the masters on this host".to_owned()
            }
            JoinFileError::Identity => format!("move {IDENTITY} away; then {}", issued_for(spec)),
            JoinFileError::Content(_) | JoinFileError::Recipient(_) | JoinFileError::Random(_) => {
                issued_for(spec)
            }
        };
        Self {
            text: chain(error).join(": "),
            next,
            is_usual: matches!(error, JoinFileError::Expired(_)),
        }
    }

    /// The file has authorities, and none of them is a recorded one.
    pub(super) fn other_cluster(spec: &JoinFileSpec, file: &str, recorded: &str) -> Self {
        Self {
            text: format!(
                "it is for another cluster: its authorities are {file}, and this host has recorded {recorded}"
            ),
            next: format!(
                "if this host is to leave its cluster, run `nodelet clean --purge` first; otherwise move {} away",
                spec.path.display()
            ),
            is_usual: false,
        }
    }
}

/// How to get a join file.
fn issued_for(spec: &JoinFileSpec) -> String {
    format!(
        "run `nodelet pki key` on this host and `nodelet pki issue {} --to KEY` with that key on a master, and put the result at {}",
        spec.node,
        spec.path.display()
    )
}
