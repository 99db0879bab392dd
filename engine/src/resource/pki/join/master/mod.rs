//! Joining a cluster as a further master.
//!
//! `spec` is what a script says of it, `present` compares the keys of the host with those in the file, and `export` collects the keys for
//! such a file on a master.
//!
//! Only records are written here (`keys::record`): each is one file that is replaced at once, and the steps that make keys restore their
//! files from them. Not here: the format of the file (`kubernetes::join_file`). Start with `spec`.

pub(in crate::resource::pki) mod export;
mod present;
pub(in crate::resource::pki) mod spec;

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use self::present::{Lacking, Present};
use self::spec::JoinMasterSpec;
use super::source::{self, Problem};
use crate::host::Host;
use crate::kubernetes::join_file::{JoinFileError, MasterJoinFile};
use crate::kubernetes::masters::{self, MASTERS};
use crate::resource::change::Differences;
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::certificate::facts::show;
use crate::resource::pki::keys::encryption::ids_in;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::pki::{Authority, keys};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult};

/// The current state of what the join file brings.
pub struct Observed {
    has_joined: bool,
    list: Stored,
    wanted: Wanted,
}

/// Without keys.
impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed")
            .field("has_joined", &self.has_joined)
            .field("lacks", &self.wanted.lacking.len())
            .finish_non_exhaustive()
    }
}

/// What is to be written.
#[derive(Default)]
struct Wanted {
    lacking: Vec<Lacking>,
    /// The list of masters and their names, if the host has none that helps.
    list: Option<(Vec<u8>, String)>,
    note: Option<String>,
}

#[async_trait]
impl Resource for JoinMasterSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.path.display().to_string()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        self.joining().validate_plan()?;
        let (list, content) = Stored::read(cx.host, Path::new(MASTERS)).await?;
        if cx.absent {
            return Ok(Observed {
                has_joined: false,
                list,
                wanted: Wanted::default(),
            });
        }
        let present = Present::read(cx.host).await?;
        Ok(Observed {
            has_joined: present.has_joined(),
            list,
            wanted: self.wanted(present, &content, cx.host).await?,
        })
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        if absent {
            return observed
                .list
                .is_there()
                .then(|| Change::new(Action::Remove));
        }
        let wanted = &observed.wanted;
        let mut differences = Differences::default();
        for its in &wanted.lacking {
            differences.note(&its.name, "", &its.shown);
        }
        if let Some((_, names)) = &wanted.list {
            let before = match observed.list.is_there() {
                true => "of other hosts, or damaged",
                false => "",
            };
            differences.note("masters", before, names);
        }
        let action = match observed.has_joined {
            true => Action::Change,
            false => Action::Create,
        };
        differences.into_change(action)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        // The records belong to the steps that make the keys: they remove them together with the keys.
        if cx.absent {
            return observed.list.remove(cx.host, receipt).await;
        }
        if let Some((content, _)) = &observed.wanted.list {
            observed
                .list
                .put(cx.host, content, PRIVATE, receipt)
                .await?;
        }
        for its in &observed.wanted.lacking {
            its.put(cx.host, receipt).await?;
        }
        Ok(())
    }

    fn note(&self, observed: &Observed) -> Option<String> {
        observed.wanted.note.clone()
    }

    /// None: no other step uses the records by their paths.
    fn paths(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Without the records: they belong to the steps that make the keys.
    fn made_files(&self) -> Vec<PathBuf> {
        vec![PathBuf::from(MASTERS)]
    }
}

impl JoinMasterSpec {
    /// What is to be written, according to what is there and to the join file.
    async fn wanted(
        &self,
        present: Present,
        list: &Content,
        host: &dyn Host,
    ) -> ResourceResult<Wanted> {
        let joining = self.joining();
        let file = match self.read(host).await? {
            Ok(file) => file,
            Err(problem) if present.has_joined() => {
                return Ok(Wanted {
                    note: problem.note(&joining),
                    ..Wanted::default()
                });
            }
            Err(problem) => return Err(problem.into_error(&joining)),
        };
        let has_joined = present.has_joined();
        let lacking = match present.lacking(&file) {
            Ok(lacking) => lacking,
            Err(what) => {
                let text = format!(
                    "this host has {what} of another cluster than the file, and a key is never replaced"
                );
                let problem = Problem::new(text, source::leave(&joining));
                return match has_joined {
                    true => Ok(Wanted {
                        note: problem.note(&joining),
                        ..Wanted::default()
                    }),
                    false => Err(problem.into_error(&joining)),
                };
            }
        };
        let list = match is_helpful(list, &file) || has_joined && !matches!(list, Content::Missing)
        {
            true => None,
            false => Some(
                rendered(&file)
                    .map_err(|error| Problem::of(&joining, &error).into_error(&joining))?,
            ),
        };
        let is_left = has_joined && lacking.is_empty() && list.is_none();
        Ok(Wanted {
            lacking,
            list,
            note: is_left.then(|| source::left(&joining)),
        })
    }

    /// The join file, if it can be used now. Reads only. Cancel safe.
    async fn read(&self, host: &dyn Host) -> ResourceResult<Result<MasterJoinFile, Problem>> {
        let joining = self.joining();
        let check = |file: &MasterJoinFile| {
            file.check(&self.node, self.address, host.now())?;
            has_usable_keys(file)
        };
        let file = match source::read(host, &joining, check).await? {
            Ok(file) => file,
            Err(problem) => return Ok(Err(problem)),
        };
        if file.api != self.api {
            let text = format!(
                "the other masters are reached at {}, and the settings of this host say {}",
                file.api, self.api
            );
            let next = "set MASTER_IP and K8S_API_PORT as on the other masters".to_owned();
            return Ok(Err(Problem::new(text, next)));
        }
        if let Some(problem) = source::other_settings(&file.settings, &self.settings) {
            return Ok(Err(problem));
        }
        let masters = file.masters.iter().map(|master| master.address);
        if self.on_link
            && let Some(problem) = source::not_on_link(host, masters).await?
        {
            return Ok(Err(problem));
        }
        Ok(match outside_of_validity(&file, host) {
            Some(problem) => Err(problem),
            None => Ok(file),
        })
    }
}

/// Checks that every key in the file can be read and matches its certificate.
fn has_usable_keys(file: &MasterJoinFile) -> Result<(), JoinFileError> {
    let refused = |why: String| Err(JoinFileError::Content(why));
    for (name, pem) in &file.authorities {
        let authority = Authority::of_kept(name, &present::files(pem));
        if !authority.is_ok_and(|its| its.is_some_and(|its| its.can_sign())) {
            return refused(format!(
                "authority `{name}` is damaged, may not sign, or its key is another one"
            ));
        }
    }
    if keys::parse(file.service_account_key.as_bytes()).is_err() {
        return refused("the service-account key is damaged".to_owned());
    }
    if ids_in(&file.encryption_keys).is_err() {
        return refused("the encryption keys are damaged".to_owned());
    }
    Ok(())
}

/// A problem if an authority is not valid at the time of this host's clock.
fn outside_of_validity(file: &MasterJoinFile, host: &dyn Host) -> Option<Problem> {
    let now = host.now();
    file.authorities.iter().find_map(|(name, pem)| {
        let authority = Authority::of_kept(name, &present::files(pem)).ok()??;
        let facts = authority.facts();
        (!facts.is_valid_at(now)).then(|| {
            Problem::wrong_clock(format!(
                "the clock of this host says {}, and authority `{name}` is valid from {} until {}",
                show(now),
                show(facts.not_before),
                show(facts.not_after)
            ))
        })
    })
}

/// Whether the list on this host names a master of the file, so that this host finds the cluster with it.
fn is_helpful(list: &Content, file: &MasterJoinFile) -> bool {
    let known = list.bytes().and_then(|bytes| masters::parse(bytes).ok());
    let mut known = known.iter().flatten();
    known.any(|known| file.masters.iter().any(|its| its.address == known.address))
}

/// The list of masters as a file, and their names.
fn rendered(file: &MasterJoinFile) -> Result<(Vec<u8>, String), JoinFileError> {
    let content = masters::render(&file.masters);
    let content = content.map_err(|error| JoinFileError::Content(error.to_string()))?;
    let names: Vec<&str> = file.masters.iter().map(|its| its.name.as_str()).collect();
    Ok((content, names.join(", ")))
}
