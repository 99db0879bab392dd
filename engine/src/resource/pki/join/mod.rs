//! Joining a cluster: what a worker takes from its join file. `master` has what a further master takes.
//!
//! `spec` is what a script says of it. `source` reads the join file and has the message for each of its problems; `trust` has its
//! authorities, and `published` those that masters publish while they replace it. `token` asks whether its token is still accepted. What is trusted is recorded as for a master's authority (`keys::record`), only without a key.
//!
//! Not here: the join file's format (`kubernetes::join_file`), and how the worker's certificates are signed (`signing`). Start with `spec`.

pub(in crate::resource::pki) mod master;
pub(in crate::resource::pki) mod published;
mod source;
pub(in crate::resource::pki) mod spec;
mod token;
mod trust;

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{Authority, BOOTSTRAP_KUBECONFIG, authority_paths, authority_record, kubeconfig_path};
use crate::host::{Attributes, Host};
use crate::kubernetes::join_file::JoinFile;
use crate::resource::change::Differences;
use crate::resource::files::file::PRIVATE;
use crate::resource::kubernetes::pki::kubeconfig::kubeconfig_yaml::KubeconfigYaml;
use crate::resource::pki::authority::files::{AuthorityFiles, CERTIFICATE, KEY};
use crate::resource::pki::authority::state::AuthorityState;
use crate::resource::pki::certificate::spec::CLUSTER;
use crate::resource::pki::join::published::PUBLISHED;
use crate::resource::pki::join::source::Problem;
use crate::resource::pki::join::spec::JoinFileSpec;
use crate::resource::pki::keys::record::{KeptFiles, KeyRecord};
use crate::resource::pki::signing::access::{has_identity, identity_ended};
use crate::resource::pki::signing::readmission;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};

/// Mode and owner of the directory of an authority: only for root.
const DIRECTORY: Attributes = Attributes::root(0o700);

/// The current state of what the join file brings.
pub struct Observed {
    directory: Stored,
    files: AuthorityFiles,
    record: KeyRecord,
    bootstrap: Stored,
    bootstrap_content: Content,
    published: Stored,
    recorded: Option<Recorded>,
    wanted: Wanted,
}

/// Without the content of its files: the kubeconfig has a token.
impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed")
            .field("files", &self.files)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// The recorded authorities.
struct Recorded {
    files: KeptFiles,
    /// Files that are missing or replaced, and what is wrong with each.
    lost: Vec<(&'static str, String)>,
    /// Other files in the directory.
    strays: Vec<&'static str>,
}

/// What should be there.
#[derive(Default)]
struct Wanted {
    files: KeptFiles,
    /// `None` if no usable join file is there, and the host has its own identity. A usable file counts also then: the cluster may not accept
    /// that identity any more.
    bootstrap: Option<String>,
    /// URL in that kubeconfig.
    server: String,
    /// Whether the host has no valid identity of its own, so that only the token of the file brings certificates.
    needs_token: bool,
    /// The id of the token that is taken in place of an earlier one, if the host has its own identity: it was admitted again.
    readmission: Option<String>,
    note: Option<String>,
}

#[async_trait]
impl Resource for JoinFileSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.path.display().to_string()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        self.joining().validate_plan()?;
        let host = cx.host;
        let directory = Stored::read_entry(host, &authority_paths(CLUSTER).directory).await?;
        let files = AuthorityFiles::read(host, CLUSTER).await?;
        let record = KeyRecord::read(host, &authority_record(CLUSTER)).await?;
        let (bootstrap, bootstrap_content) =
            Stored::read(host, &kubeconfig_path(BOOTSTRAP_KUBECONFIG)).await?;
        let (published, _) = Stored::read(host, Path::new(PUBLISHED)).await?;
        let (mut recorded, mut wanted) = (None, Wanted::default());
        if !cx.absent {
            recorded = Self::recorded(&files, &record, host).await?;
            let taken = bootstrap_content.bytes().and_then(token_of);
            wanted = self
                .wanted(recorded.as_ref(), taken.as_deref(), host)
                .await?;
        }
        Ok(Observed {
            directory,
            files,
            record,
            bootstrap,
            bootstrap_content,
            published,
            recorded,
            wanted,
        })
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        let Observed {
            files,
            record,
            bootstrap,
            wanted,
            ..
        } = observed;
        if absent {
            let there = files.all().any(Stored::is_there)
                || record.is_there()
                || bootstrap.is_there()
                || observed.published.is_there();
            return there.then(|| Change::new(Action::Remove));
        }
        let mut differences = Differences::default();
        let action = match &observed.recorded {
            None => {
                differences.note("node", "", &self.node);
                differences.note("trusted authorities", "", trust::named(&wanted.files));
                Action::Create
            }
            Some(recorded) => {
                for (name, problem) in &recorded.lost {
                    differences.note(name, problem, "restored from its copy");
                }
                for name in &recorded.strays {
                    differences.note(name, "not of this authority", "removed");
                }
                differences.compare(
                    "trusted authorities",
                    &trust::named(&recorded.files),
                    &trust::named(&wanted.files),
                );
                record.compare(&wanted.files, &mut differences);
                observed.directory.compare(&mut differences, DIRECTORY);
                for (file, attributes) in files.attributes(&wanted.files) {
                    file.compare(&mut differences, attributes);
                }
                Action::Change
            }
        };
        if let Some(text) = &wanted.bootstrap {
            if observed.bootstrap_content.bytes() != Some(text.as_bytes()) {
                let before = if bootstrap.is_there() {
                    "other data"
                } else {
                    "missing"
                };
                let after = format!("of the join file, for {}", wanted.server);
                differences.note("bootstrap kubeconfig", before, after);
            }
            bootstrap.compare(&mut differences, PRIVATE);
        }
        differences.into_change(action)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let (host, wanted) = (cx.host, &observed.wanted);
        let (files, record) = (&observed.files, &observed.record);
        if cx.absent {
            files.align(host, &KeptFiles::new(), receipt).await?;
            record.remove(host, receipt).await?;
            observed.published.remove(host, receipt).await?;
            return observed.bootstrap.remove(host, receipt).await;
        }
        observed.directory.repair(host, DIRECTORY, receipt).await?;
        // The record first: after an interruption between the two, the next run restores the files from it.
        record.put(host, &wanted.files, receipt).await?;
        files.align(host, &wanted.files, receipt).await?;
        let Some(text) = &wanted.bootstrap else {
            return Ok(());
        };
        if observed.bootstrap_content.bytes() == Some(text.as_bytes()) {
            return observed.bootstrap.repair(host, PRIVATE, receipt).await;
        }
        if let Some(id) = &wanted.readmission {
            // Before the token: after an interruption between the two, the next run writes both again.
            readmission::begin(host, id).await?;
        }
        let (stored, bytes) = (&observed.bootstrap, text.as_bytes());
        stored.put(host, bytes, PRIVATE, receipt).await
    }

    fn note(&self, observed: &Observed) -> Option<String> {
        observed.wanted.note.clone()
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![
            authority_paths(CLUSTER).certificate,
            kubeconfig_path(BOOTSTRAP_KUBECONFIG),
        ]
    }

    fn made_files(&self) -> Vec<PathBuf> {
        let others = [authority_record(CLUSTER), PathBuf::from(PUBLISHED)];
        self.paths().into_iter().chain(others).collect()
    }
}

/// The token of a bootstrap kubeconfig.
fn token_of(kubeconfig: &[u8]) -> Option<String> {
    let yaml: KubeconfigYaml = serde_yaml::from_slice(kubeconfig).ok()?;
    yaml.token().map(str::to_owned)
}

/// Whether what was published is for a host that has recorded these: they have an authority in common, and the recorded ones are not further.
fn is_usable(recorded: &KeptFiles, published: &KeptFiles) -> bool {
    trust::overlap(recorded, published) && !published::are_files_older(recorded, published)
}

impl JoinFileSpec {
    /// The recorded authorities; `None` if nothing is recorded. A certificate on disk without a record is never trusted.
    async fn recorded(
        files: &AuthorityFiles,
        record: &KeyRecord,
        host: &dyn Host,
    ) -> ResourceResult<Option<Recorded>> {
        if !record.names(CERTIFICATE) {
            return Ok(None);
        }
        let state = AuthorityState::of(CLUSTER, files, record, host).await?;
        let AuthorityState::Whole {
            files,
            lost,
            strays,
        } = state
        else {
            return Ok(None);
        };
        if files.contains_key(KEY) {
            return Err(ResourceError::Unmet {
                what: format!(
                    "join a cluster: this host has the key of authority `{CLUSTER}` ({}), so it is or was a master",
                    authority_paths(CLUSTER).key.display()
                ),
                next: "if the cluster of that key is no longer needed, run `nodelet clean --purge`, then `nodelet apply`".to_owned(),
            });
        }
        Ok(Some(Recorded {
            files,
            lost,
            strays,
        }))
    }

    /// What should be there, according to the record and the join file. `taken` is the token of the join file that was taken last.
    async fn wanted(
        &self,
        recorded: Option<&Recorded>,
        taken: Option<&str>,
        host: &dyn Host,
    ) -> ResourceResult<Wanted> {
        let (mut joined, mut ended) = (false, None);
        if let Some(recorded) = recorded
            && let Some(authority) = Self::authority(&recorded.files)?
        {
            joined = has_identity(host, &authority).await?;
            ended = identity_ended(host, &authority).await?;
        }
        let published = published::read(host).await?.filter(|_| joined);
        let published = published.and_then(|its| its.files());
        let published =
            recorded.and_then(|recorded| published.filter(|its| is_usable(&recorded.files, its)));
        let joining = self.joining();
        let check = |file: &JoinFile| {
            file.check(&self.node, host.now())?;
            self.address.map_or(Ok(()), |own| file.check_address(own))
        };
        let problem = match source::read(host, &joining, check).await? {
            Ok(file) => match self.of_file(recorded, &file, host).await? {
                // A join file that was left is older than what was published since.
                Ok(files) => {
                    // Also if nothing is published: without the successor, this host would not trust the masters that use it.
                    let recorded = recorded.filter(|_| joined).map(|its| its.files.clone());
                    let is_taken = taken == Some(file.token.expose().as_str());
                    let is_current =
                        |its: &KeptFiles| is_taken || !published::are_files_older(&files, its);
                    let (published, recorded) =
                        (published.filter(is_current), recorded.filter(is_current));
                    let mut wanted = Self::with(published.or(recorded).unwrap_or(files), &file)?;
                    // The record may be lost. The step that asks for certificates judges by what will be recorded.
                    wanted.needs_token = match Self::authority(&wanted.files)? {
                        Some(authority) if !joined => !has_identity(host, &authority).await?,
                        _ => !joined,
                    };
                    let is_readmitted = joined && taken.is_some() && !is_taken;
                    wanted.readmission = is_readmitted.then(|| file.token.id().to_owned());
                    return Ok(wanted);
                }
                Err(problem) => problem,
            },
            Err(problem) => problem,
        };
        match recorded {
            Some(recorded) if joined => Ok(Wanted {
                files: published.unwrap_or_else(|| recorded.files.clone()),
                note: problem.note(&joining),
                ..Wanted::default()
            }),
            _ => {
                let problem = match ended {
                    Some(end) => problem.after_end(end, host.now()),
                    None => problem,
                };
                Err(problem.into_error(&joining))
            }
        }
    }

    /// The authorities of the join file. The problem says why they are not to be trusted.
    async fn of_file(
        &self,
        recorded: Option<&Recorded>,
        file: &JoinFile,
        host: &dyn Host,
    ) -> ResourceResult<Result<KeptFiles, Problem>> {
        let joining = self.joining();
        let files = match trust::files(file) {
            Ok(files) => files,
            Err(error) => return Ok(Err(Problem::of(&joining, &error))),
        };
        if let Some(text) = trust::outside_of_validity(&files, host.now()) {
            return Ok(Err(Problem::wrong_clock(text)));
        }
        if let Some(recorded) = recorded
            && !trust::overlap(&recorded.files, &files)
        {
            let (its, known) = (trust::named(&files), trust::named(&recorded.files));
            return Ok(Err(Problem::other_cluster(&joining, &its, &known)));
        }
        if let Some(problem) = source::other_settings(&file.settings, &self.settings) {
            return Ok(Err(problem));
        }
        if self.on_link
            && let Some(problem) = source::not_on_link(host, file.masters.iter().copied()).await?
        {
            return Ok(Err(problem));
        }
        Ok(Ok(match recorded {
            Some(recorded) => trust::arranged(files, &recorded.files),
            None => files,
        }))
    }

    fn authority(files: &KeptFiles) -> ResourceResult<Option<Authority>> {
        Authority::of_kept(CLUSTER, files)
            .map_err(|error| error.at(format!("read authority `{CLUSTER}`")))
    }

    fn with(files: KeptFiles, file: &JoinFile) -> ResourceResult<Wanted> {
        let server = file.api.first().cloned().unwrap_or_default();
        let trusted: Vec<u8> = files.values().flatten().copied().collect();
        let yaml = KubeconfigYaml::with_token(&server, &trusted, file.token.expose());
        let text = yaml.render();
        let text = text.map_err(|error| error.at("write the bootstrap kubeconfig"))?;
        Ok(Wanted {
            files,
            bootstrap: Some(text),
            server,
            ..Wanted::default()
        })
    }

    /// What is wrong with the recorded authorities; `None` if nothing is. Does not read the join file. Cancel safe.
    ///
    /// # Errors
    /// They are lost without a copy, or the host cannot be read.
    pub(in crate::resource::pki) async fn problem(
        host: &dyn Host,
    ) -> ResourceResult<Option<(&'static str, String)>> {
        let files = AuthorityFiles::read(host, CLUSTER).await?;
        let record = KeyRecord::read(host, &authority_record(CLUSTER)).await?;
        let recorded = Self::recorded(&files, &record, host).await?;
        Ok(match recorded {
            None => Some((
                CERTIFICATE,
                "it is not recorded, so it is not trusted; `nodelet apply` takes it from the join file"
                    .to_owned(),
            )),
            Some(recorded) => recorded.lost.first().map(|(file, problem)| {
                let text =
                    format!("it is {problem}; `nodelet apply` restores it from its copy");
                (*file, text)
            }),
        })
    }
}
