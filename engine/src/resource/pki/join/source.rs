//! Reads the join file, and says what is wrong with it and what to do about it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use crate::host::Host;
use crate::kubernetes::join_file::{IDENTITY, JoinContent, JoinFileError, JoinKind, is_node_name};
use crate::kubernetes::{is_on_link, shown};
use crate::model::chain;
use crate::resource::pki::certificate::facts::show;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::pki::{PkiError, validate};
use crate::resource::{ResourceError, ResourceResult};

/// Who wants to join, and with which file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Joining<'s> {
    /// Where the join file is.
    pub(super) path: &'s Path,
    /// The name of this host's node.
    pub(super) node: &'s str,
    /// As what it joins.
    pub(super) kind: JoinKind,
}

impl Joining<'_> {
    /// Checks the name of the node.
    ///
    /// # Errors
    /// No node can have the name.
    pub(super) fn validate(&self) -> Result<(), PkiError> {
        validate::check(
            is_node_name(self.node),
            "node",
            self.node,
            "it is not a name that a node can have",
        )
    }

    /// Checks the name of the node before a plan.
    ///
    /// # Errors
    /// No node can have the name.
    pub(super) fn validate_plan(&self) -> ResourceResult<()> {
        self.validate()
            .map_err(|error| error.at(format!("plan to join as {}", self.shown())))
    }

    /// As what and under which name the host joins, for a message.
    fn shown(&self) -> String {
        let kind = match self.kind {
            JoinKind::Worker => "node",
            JoinKind::Master => "master",
        };
        format!("{kind} `{}`", self.node)
    }
}

/// What helps if the clock of the host is wrong.
const SET_CLOCK: &str =
    "set the clock of this host (`timedatectl`, or with chrony), then apply again";

/// Why a join file cannot be used.
#[derive(Debug)]
pub(super) struct Problem {
    text: String,
    next: String,
    /// Whether a host that has joined may have such a file: it is over, or not there.
    is_usual: bool,
}

impl Problem {
    /// The file is not to be used for a reason that is not in the file itself.
    pub(super) fn new(text: String, next: String) -> Self {
        Self {
            text,
            next,
            is_usual: false,
        }
    }

    /// The file cannot be used at the time of this host's clock.
    pub(super) fn wrong_clock(text: String) -> Self {
        Self::new(text, SET_CLOCK.to_owned())
    }

    /// The host has joined before, and its certificate ended at `end` by its clock, which says `now`: the clock may be wrong.
    pub(super) fn after_end(self, end: SystemTime, now: SystemTime) -> Self {
        Self {
            text: format!(
                "{}; the certificate of this node ended at {}, and the clock of this host says {}",
                self.text,
                show(end),
                show(now)
            ),
            next: format!(
                "set the clock if it is wrong (`date -u`); otherwise {}",
                self.next
            ),
            ..self
        }
    }

    /// As the error of a host that needs the file.
    pub(super) fn into_error(self, joining: &Joining<'_>) -> ResourceError {
        ResourceError::Unmet {
            what: format!(
                "join the cluster as {} with {}: {}",
                joining.shown(),
                joining.path.display(),
                self.text
            ),
            next: self.next,
        }
    }

    /// A note for a host that has joined and needs no file; `None` if an operator need not know.
    pub(super) fn note(&self, joining: &Joining<'_>) -> Option<String> {
        (!self.is_usual).then(|| {
            format!(
                "{} is ignored, because this host has joined: {}; {}",
                joining.path.display(),
                self.text,
                self.next
            )
        })
    }
}

/// The join file, if it can be opened and `check` finds it usable now. Reads only. Cancel safe.
///
/// # Errors
/// The host cannot be read.
pub(super) async fn read<File: JoinContent>(
    host: &dyn Host,
    joining: &Joining<'_>,
    check: impl FnOnce(&File) -> Result<(), JoinFileError> + Send,
) -> ResourceResult<Result<File, Problem>> {
    let sealed = match Stored::read(host, joining.path).await?.1 {
        Content::Missing => {
            return Ok(Err(Problem {
                text: "it is not there".to_owned(),
                next: missing(joining),
                is_usual: true,
            }));
        }
        Content::Unfit(text) => return Ok(Err(Problem::new(text, made_for(joining)))),
        Content::Bytes(bytes) => bytes,
    };
    let identity = match Stored::read(host, Path::new(IDENTITY)).await?.1 {
        Content::Bytes(bytes) => String::from_utf8(bytes).unwrap_or_default(),
        Content::Missing | Content::Unfit(_) => {
            let text = format!(
                "{IDENTITY} is missing, and without this host's identity nothing can open the file"
            );
            return Ok(Err(Problem::new(text, made_for(joining))));
        }
    };
    let opened = File::open(&sealed, &identity).and_then(|file| check(&file).map(|()| file));
    Ok(opened.map_err(|error| Problem::of(joining, &error)))
}

impl Problem {
    /// What to do about each error.
    pub(super) fn of(joining: &Joining<'_>, error: &JoinFileError) -> Self {
        let next = match error {
            JoinFileError::OtherRecipient => made_for(joining),
            JoinFileError::Expired { .. } => format!(
                "set the clock of this host if it is wrong (`timedatectl`, or with chrony); otherwise {}",
                made_for(joining)
            ),
            JoinFileError::NotYet { .. } => format!(
                "set the clock of this host if it is wrong (`timedatectl`, or with chrony), then apply again; if it is right, set the clock of that master, and {}",
                made_for(joining)
            ),
            JoinFileError::Damaged | JoinFileError::NotAge(_) | JoinFileError::TooLarge => {
                format!(
                    "copy the file from the master to {} again",
                    joining.path.display()
                )
            }
            JoinFileError::OtherNode { meant, .. } => format!(
                "put the file on host `{meant}`; for this host: {}",
                made_for(joining)
            ),
            JoinFileError::TakenAddress { name, .. } => format!(
                "give this host another address; if that node is gone, run `nodelet cluster remove {}` on a master; when no node has the address any more, {}",
                name.as_deref().unwrap_or("NAME"),
                made_for(joining)
            ),
            JoinFileError::Version(_) => {
                "install the nodelet version of the masters on this host".to_owned()
            }
            JoinFileError::ForMaster | JoinFileError::ForWorker => format!(
                "if ROLE is wrong, change it; otherwise {}",
                made_for(joining)
            ),
            JoinFileError::Identity => format!("move {IDENTITY} away; then {}", made_for(joining)),
            JoinFileError::Content(_)
            | JoinFileError::Recipient(_)
            | JoinFileError::Random(_)
            | JoinFileError::Successor
            | JoinFileError::NoSuccessor => made_for(joining),
        };
        Self {
            text: chain(error).join(": "),
            next,
            is_usual: matches!(error, JoinFileError::Expired { .. }),
        }
    }

    /// The API server at this URL does not accept the token of the file.
    pub(super) fn token_refused(joining: &Joining<'_>, server: &str) -> Self {
        Self::new(
            format!(
                "the API server at {server} does not accept its token (status 401): the token was used already, was deleted, or has expired"
            ),
            format!(
                "{}; `--replace` if this host has joined before",
                made_for(joining)
            ),
        )
    }

    /// The file has authorities, and none of them is a recorded one.
    pub(super) fn other_cluster(joining: &Joining<'_>, file: &str, recorded: &str) -> Self {
        Self::new(
            format!(
                "it is for another cluster: its authorities are {file}, and this host has recorded {recorded}"
            ),
            leave(joining),
        )
    }
}

/// A problem if settings of the masters have other values here. A file of an earlier version names none.
pub(super) fn other_settings(
    theirs: &BTreeMap<String, String>,
    here: &BTreeMap<String, String>,
) -> Option<Problem> {
    let (mut names, mut of_masters, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for (name, value) in theirs {
        let Some(here) = here.get(name) else {
            continue;
        };
        if !value.eq_ignore_ascii_case(here) {
            names.push(name.as_str());
            of_masters.push(format!("{name}={}", shown(value)));
            own.push(format!("{name}={here}"));
        }
    }
    (!names.is_empty()).then(|| {
        let text = format!(
            "the masters have {}, and the settings of this host say {}",
            of_masters.join(", "),
            own.join(", ")
        );
        let next = format!("set {} as on the masters", names.join(", "));
        Problem::new(text, next)
    })
}

/// A problem if one of these masters is not on a network of this host. Reads only. Cancel safe.
///
/// # Errors
/// The host cannot be read.
pub(super) async fn not_on_link(
    host: &dyn Host,
    masters: impl IntoIterator<Item = IpAddr>,
) -> ResourceResult<Option<Problem>> {
    let links = host.links().await?;
    let mut masters = masters.into_iter();
    let far = masters.find(|master| !is_on_link(*master, &links));
    Ok(far.map(|far| {
        let text = format!(
            "the master at {far} is not on a network of this host, and a router between two nodes would have to know the way to each node's pods"
        );
        let next = "give this host an address on the network of the masters".to_owned();
        Problem::new(text, next)
    }))
}

/// What to do if the file is for another cluster.
pub(super) fn leave(joining: &Joining<'_>) -> String {
    format!(
        "if this host is to leave its cluster, run `nodelet clean --purge`, which also removes the file and this host's key, and then join; otherwise move {} away",
        joining.path.display()
    )
}

/// A note for a master that has joined, and still has a file that can be used: it opens the whole cluster.
pub(super) fn left(joining: &Joining<'_>) -> String {
    format!(
        "this host has joined and needs {} no more: remove it, because it has all keys of the cluster",
        joining.path.display()
    )
}

/// What to do without a file.
fn missing(joining: &Joining<'_>) -> String {
    match joining.kind {
        JoinKind::Worker => made_for(joining),
        JoinKind::Master => format!(
            "{}; only if this host is the first master of a new cluster, set ETCD_INITIAL_CLUSTER_STATE: new instead",
            made_for(joining)
        ),
    }
}

/// How to get a join file.
fn made_for(joining: &Joining<'_>) -> String {
    let command = match joining.kind {
        JoinKind::Worker => "issue",
        JoinKind::Master => "export",
    };
    format!(
        "run `nodelet pki key` on this host and `nodelet pki {command} {} --to KEY` with that key on a master, and put the result at {}",
        joining.node,
        joining.path.display()
    )
}
