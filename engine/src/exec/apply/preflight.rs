//! Preconditions: evaluated before anything is touched, all of them, and once per host.
//!
//! On a host with the role, the role itself uses the ports and docker runs. So a requirement that was met is recorded
//! and not evaluated again. A changed requirement (another port) is another requirement. More of the same (more room)
//! is required of bare hosts only, and so is a name that the API server does not have.
//!
//! Two requirements are about other hosts: that they use neither the virtual IP nor the router id. The first master is asked when it begins its
//! cluster. A master of a cluster that exists is asked only about a value that differs from the one with which it was brought up: its cluster
//! uses the other one already.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sha2::Digest as _;

use super::joining::steps;
use super::runtime_state::RuntimeState;
use crate::exec::diagnosis::remedy::remedy;
use crate::exec::event::Event;
use crate::exec::undo::orphans::PhaseOrphans;
use crate::exec::{Mode, Runner, Selection};
use crate::facts::{Requirement, Verdict, has_roots};
use crate::host::{Attributes, ClaimKind, ClaimedAddress, Entry, EntryKind, HostError};
use crate::ledger::in_time;
use crate::model::preflight_record::{self, PreflightRecord};
use crate::model::{Problem, STATE, Span, chain};
use crate::plan::{Plan, PlannedPhase, PlannedRequirement, PlannedStep};
use crate::resource::{ANOTHER_VERSION, APPLY_VERSION, ResourceError, ResourceResult, Spec};

impl Runner<'_> {
    /// Asks whether all requirements that were not met before hold now, the host can join or begin its cluster, and etcd keeps its quorum, also
    /// without these orphans. Problems are reported as one event, and `None` is returned. Otherwise this is the claim on the virtual IP, which claims
    /// nothing where no cluster begins; it has to live as long as the run.
    pub(in crate::exec) async fn preflight(
        &self,
        mode: Mode,
        orphans: &[PhaseOrphans],
    ) -> ResourceResult<Option<ClaimedAddress>> {
        let (mut problems, evaluated, record) = self.judge(mode).await?;
        let mut claim = ClaimedAddress::default();
        if problems.is_empty() && mode == Mode::Apply {
            let phases = self.selection.phases(self.plan);
            match self.claim_virtual_ip(&phases, ClaimKind::New).await {
                Ok(claimed) => claim = claimed,
                Err(problem) => problems.push(problem),
            }
        }
        // After the claim: if another host's run has just ended, it no longer claims the address, but its API server answers.
        problems.extend(self.joining_problems().await);
        problems.extend(self.quorum_problem_of_apply(orphans, mode).await);
        if !problems.is_empty() {
            self.events.emit(Event::PreflightFailed { problems });
            return Ok(None);
        }
        self.events.emit(Event::PreflightPassed { evaluated });
        if evaluated > 0 && mode == Mode::Apply {
            self.write_record(&record).await?;
        }
        Ok(Some(claim))
    }

    /// What keeps an apply from beginning. Emits no event and records nothing.
    ///
    /// # Errors
    /// The host cannot be read.
    pub async fn failed_preconditions(&self) -> ResourceResult<Vec<Problem>> {
        let (mut problems, _, _) = self.judge(Mode::Apply).await?;
        if self.rebuild {
            // The apply after the clean would be refused, and the host would stay down.
            problems.extend(self.joining_problems().await);
        }
        Ok(problems)
    }

    /// Like [`Runner::preflight`], but emits no event and records nothing. Whether another cluster exists is left to the preflight, and etcd's quorum to the
    /// restart.
    pub(in crate::exec) async fn preconditions_hold(&self, mode: Mode) -> ResourceResult<bool> {
        let (problems, _, _) = self.judge(mode).await?;
        Ok(problems.is_empty() && self.join_file_problems().await.is_empty())
    }

    /// What is wrong, how many requirements were evaluated for it, and which are met now.
    async fn judge(&self, mode: Mode) -> ResourceResult<(Vec<Problem>, usize, PreflightRecord)> {
        let mut problems = Vec::new();
        let mut record = match self.read_record().await {
            // A dry run reports what it may not read, and continues.
            Err(error) if mode == Mode::DryRun => {
                problems.push(unreadable(&error));
                return Ok((problems, 0, PreflightRecord::default()));
            }
            record => record?,
        };
        if mode == Mode::DryRun {
            // Without its record an apply ends before its first change.
            problems.extend(self.predicted_record_problem().await);
        }
        // The record is another host's, or it is damaged but can be read: it counts as lost.
        let phases = self.plan.phases.iter();
        let mut asked = phases.flat_map(|phase| &phase.requirements);
        if !asked.any(|one| record.met.contains(&digest(one))) {
            record.met.clear();
        }
        // On a host with the role they were met, but the record of that may be lost.
        let has_role = record.met.is_empty() && self.has_role().await;
        let is_bare = record.met.is_empty() && !has_role;
        let unasked = self.unasked(&record.met).await;
        let without_ours = match self.rebuild {
            true => Some(self.facts_without_ours().await),
            false => None,
        };
        let mut evaluated = 0;
        // All phases count, not only the selected ones: what the host lacks does not depend on where a run begins.
        for phase in &self.plan.phases {
            if phase.skipped.is_some() {
                continue;
            }
            for requirement in &phase.requirements {
                let digest = digest(requirement);
                let ahead = requirement.requirement.checkable_before_clean();
                let facts = match &without_ours {
                    Some(without_ours) if ahead => without_ours,
                    _ if record.met.contains(&digest) => continue,
                    _ if (has_role && requirement.requirement.invalidated_by_role())
                        || (!is_bare && requirement.requirement.is_for_bare_hosts()) =>
                    {
                        record.met.insert(digest);
                        continue;
                    }
                    _ if unasked.contains(&digest) => {
                        evaluated += 1;
                        record.met.insert(digest);
                        continue;
                    }
                    _ => self.facts,
                };
                evaluated += 1;
                let mut verdict = requirement.requirement.check(facts);
                // A port that the role itself uses is not taken by another program.
                if matches!(verdict, Verdict::NotMet { .. })
                    && ahead
                    && requirement.requirement.invalidated_by_role()
                    && self.has_role().await
                {
                    verdict = requirement
                        .requirement
                        .check(&self.facts_without_ours().await);
                }
                let (problem, remedy) = match verdict {
                    Verdict::Met => {
                        record.met.insert(digest);
                        continue;
                    }
                    Verdict::NotMet { problem, remedy } => (problem, remedy),
                    Verdict::Unknown { reason } => (
                        format!("this could not be determined: {reason}"),
                        "remove the cause of that".to_owned(),
                    ),
                };
                problems.push(Problem {
                    requirement: requirement.name.clone(),
                    span: requirement.span.clone(),
                    problem,
                    remedy,
                });
            }
        }
        let mut unusable = BTreeSet::new();
        for path in self.needed_payload().await {
            if let Some(problem) = self.payload_problem(path, mode).await {
                problems.push(problem);
                unusable.insert(path.clone());
            }
        }
        if self.rebuild {
            problems.extend(self.damaged_for_rebuild(&unusable).await);
            for one in self.unwritable_for_rebuild().await {
                // A damaged program is found by both.
                if problems.iter().all(|other| other.problem != one.problem) {
                    problems.push(one);
                }
            }
        }
        Ok((problems, evaluated, record))
    }

    /// The preconditions that an apply would have to evaluate by facts of the host.
    pub async fn unmet_requirements(&self) -> Vec<&Requirement> {
        let met = &self.facts.met_before;
        let unasked = self.unasked(met).await;
        let mut unmet = unmet(self.plan, met);
        unmet.retain(|one| !unasked.contains(&digest_of(one)));
        unmet
    }

    /// Digests of the requirements about other hosts that count as met without a question, because the answer would be about this host's own
    /// cluster, or because this host could not tell.
    async fn unasked(&self, met: &BTreeSet<String>) -> BTreeSet<String> {
        let mut open = unmet(self.plan, met);
        open.retain(|one| is_about_other_hosts(one));
        if open.is_empty() {
            return BTreeSet::new();
        }
        let joins = self.joins_masters();
        // A host that joins has the virtual IP and the router id of the masters, or its join file is refused. Until it has joined, it knows
        // neither their certificates nor all of their addresses.
        let is_joining = joins && (met.is_empty() || !has_roots(self.host).await);
        if !is_joining {
            let is_installed = has_virtual_ip(self.plan, met) && (joins || self.has_role().await);
            open.retain(|one| is_installed && is_new(one, met));
        }
        open.into_iter().map(digest_of).collect()
    }

    /// Whether this host is a master of a cluster that exists: one of other masters, or one that it has begun before its setting became `existing`.
    fn joins_masters(&self) -> bool {
        let phases: Vec<&PlannedPhase> = self.plan.phases.iter().collect();
        steps(&phases).any(|step| matches!(step.spec, Spec::JoinMaster(_)))
    }

    /// Why a part of the payload cannot be used, judged by its type, size and mode.
    pub(in crate::exec) async fn payload_problem(
        &self,
        path: &Path,
        mode: Mode,
    ) -> Option<Problem> {
        let (problem, remedy) = match self.host.entry(path).await {
            Ok(entry) => {
                let is_missing = entry.is_none();
                let problem = payload_problem(path, entry)?;
                match is_missing && self.has_another_version().await {
                    true => missing_in_another_version(path),
                    false => problem,
                }
            }
            Err(error) if mode == Mode::DryRun && is_forbidden(&error) => hidden(&error),
            Err(error) => inspection_problem(error),
        };
        Some(Problem {
            requirement: "the role's payload is complete".to_owned(),
            span: Span::file("role.yaml"),
            problem,
            remedy,
        })
    }

    /// What the run needs of the payload: all of it for a whole run. A repair of some phases needs only what their
    /// steps name: a damaged archive, whose image was loaded long ago, must not keep kubelet from being started.
    async fn needed_payload(&self) -> Vec<&PathBuf> {
        if self.selection == Selection::default() {
            return self.plan.payload.iter().collect();
        }
        let phases = self.selection.phases(self.plan);
        self.payload_of(&phases, &self.runtime_state(&phases).await)
    }

    /// The part of the payload that the steps of these phases name. An archive is needed only for an image that the
    /// container runtime says it lacks.
    pub(in crate::exec) fn payload_of(
        &self,
        phases: &[&PlannedPhase],
        runtime: &RuntimeState,
    ) -> Vec<&PathBuf> {
        let steps = phases.iter().flat_map(|phase| &phase.steps);
        let needs = |step: &&PlannedStep| match &step.spec {
            Spec::Image(image) => runtime.lacks(&image.reference),
            _ => true,
        };
        let specs: Vec<String> = steps
            .filter(needs)
            .map(|step| serde_json::to_string(&step.spec).expect("a step is JSON"))
            .collect();
        let named = |path: &&PathBuf| {
            specs
                .iter()
                .any(|spec| spec.contains(&*path.to_string_lossy()))
        };
        self.plan.payload.iter().filter(named).collect()
    }

    async fn read_record(&self) -> ResourceResult<PreflightRecord> {
        // A record that cannot be read is ignored: everything is evaluated again.
        let content = match in_time(self.host.read(&preflight_record::path(), 1024 * 1024)).await {
            Err(error) if is_damaged(&error) => {
                let why = chain(&error).join(": ");
                tracing::warn!("the record of met preconditions counts as lost: {why}");
                None
            }
            read => read?,
        };
        Ok(content
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default())
    }

    async fn write_record(&self, record: &PreflightRecord) -> ResourceResult<()> {
        let mut directory = PathBuf::from("/");
        for part in Path::new(STATE).iter().skip(1) {
            directory.push(part);
            if self.host.entry(&directory).await?.is_none() {
                let mode = if directory == Path::new(STATE) {
                    0o700
                } else {
                    0o755
                };
                let attributes = Attributes::root(mode);
                in_time(self.host.create_directory(&directory, attributes)).await?;
            }
        }
        let there = self.host.entry(&preflight_record::path()).await?;
        if there.is_some_and(|entry| !matches!(entry.kind, EntryKind::File(_))) {
            let path = preflight_record::path();
            tracing::warn!("{} is not a file; move away what is there", path.display());
            return Ok(());
        }
        let json = preflight_record::text(&record.met);
        let private = Attributes::root(0o600);
        in_time(self.host.write(&preflight_record::path(), &json, private)).await?;
        Ok(())
    }
}

/// Whether a file exists and cannot be read by any user, now or later.
fn is_damaged(error: &HostError) -> bool {
    match error {
        HostError::TooLarge { .. } => true,
        HostError::File { .. } => !is_forbidden(error),
        HostError::WriteRefused { .. }
        | HostError::TooMuch { .. }
        | HostError::InProgress { .. }
        | HostError::Spawn { .. }
        | HostError::Exit { .. }
        | HostError::Deadline { .. }
        | HostError::Service { .. }
        | HostError::Refused { .. }
        | HostError::InUse { .. }
        | HostError::Clock { .. }
        | HostError::Damaged { .. }
        | HostError::Missing { .. }
        | HostError::Injected { .. } => false,
    }
}

fn is_forbidden(error: &HostError) -> bool {
    matches!(error, HostError::File { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Why a part of the payload could not be inspected, and what to do about it.
fn inspection_problem(error: HostError) -> (String, String) {
    let error = ResourceError::Host(error);
    let next = remedy(&error, &[]);
    (
        format!("could not {}", chain(&error).join(": ")),
        format!("{next}; if the file is damaged, install the role's package again"),
    )
}

/// What is wrong with a part of the payload, and what to do about it.
fn payload_problem(path: &Path, entry: Option<Entry>) -> Option<(String, String)> {
    let again = || "install the role's package again".to_owned();
    let shown = path.display();
    let Some(entry) = entry else {
        return Some((format!("{shown} is not there"), again()));
    };
    let is_program = path.parent().is_some_and(|parent| parent.ends_with("bin"));
    match entry.kind {
        EntryKind::File(0) => Some((
            format!("{shown} is empty: a download or a disk was cut short"),
            again(),
        )),
        EntryKind::File(_) if is_program && entry.attributes.mode & 0o111 == 0 => Some((
            format!(
                "{shown} cannot be run: its mode is {:04o}",
                entry.attributes.mode
            ),
            format!("make it executable with `chmod +x {shown}`, or {}", again()),
        )),
        _ => None,
    }
}

/// The problem of a file that is missing because another version of the role is installed, and what to do about it.
fn missing_in_another_version(path: &Path) -> (String, String) {
    let problem = format!("{} is not there: {ANOTHER_VERSION}", path.display());
    (problem, APPLY_VERSION.to_owned())
}

fn unreadable(error: &crate::resource::ResourceError) -> Problem {
    let (problem, remedy) = hidden(error);
    Problem {
        requirement: "it is known which preconditions were met before".to_owned(),
        span: Span::file("role.yaml"),
        problem,
        remedy,
    }
}

/// What a dry run may not read, and what to do about it.
fn hidden(error: &(dyn std::error::Error + 'static)) -> (String, String) {
    let problem = format!("could not {}", crate::model::chain(error).join(": "));
    (problem, "try again with sudo".to_owned())
}

/// The preconditions of a plan that are not recorded as met: those that an apply would have to evaluate.
#[must_use]
pub fn unmet<'p>(plan: &'p Plan, met_before: &BTreeSet<String>) -> Vec<&'p Requirement> {
    let phases = plan.phases.iter().filter(|phase| phase.skipped.is_none());
    let all = phases.flat_map(|phase| &phase.requirements);
    let unmet = all.filter(|requirement| !met_before.contains(&digest(requirement)));
    unmet.map(|requirement| &requirement.requirement).collect()
}

/// Whether other hosts decide if this requirement is met, now and later.
fn is_about_other_hosts(requirement: &Requirement) -> bool {
    matches!(
        requirement,
        Requirement::VirtualIpFree { .. } | Requirement::VirtualRouterFree { .. }
    )
}

/// Whether the host was brought up with the virtual IP of this plan.
fn has_virtual_ip(plan: &Plan, met: &BTreeSet<String>) -> bool {
    let mut all = plan.phases.iter().flat_map(|phase| &phase.requirements);
    all.any(|one| {
        matches!(one.requirement, Requirement::VirtualIp { .. }) && met.contains(&digest(one))
    })
}

/// Whether a host that was brought up with the virtual IP of the plan has no record of this requirement, although nothing about it has changed: an
/// earlier release did not know the requirement, or another port belongs to the same address. A host that has recorded another router id on
/// this link gets the new one judged.
fn is_new(requirement: &Requirement, met: &BTreeSet<String>) -> bool {
    let Requirement::VirtualRouterFree { interface, .. } = requirement else {
        return true;
    };
    let with_id = |router_id| Requirement::VirtualRouterFree {
        router_id,
        interface: interface.clone(),
    };
    (1..=u8::MAX).all(|id| !met.contains(&digest_of(&with_id(id))))
}

fn digest(requirement: &PlannedRequirement) -> String {
    digest_of(&requirement.requirement)
}

fn digest_of(requirement: &Requirement) -> String {
    let subject = requirement.subject();
    let json = serde_json::to_vec(&subject).expect("a requirement is JSON");
    crate::model::hex(&sha2::Sha256::digest(json))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn an_unusable_payload_is_named_with_a_next_step() {
        let entry = |kind, mode| {
            Some(Entry {
                kind,
                attributes: Attributes::root(mode),
                modified: SystemTime::UNIX_EPOCH,
            })
        };
        let says = |path: &str, entry| {
            let problem = payload_problem(Path::new(path), entry);
            problem.map(|(problem, remedy)| format!("{problem}; {remedy}"))
        };
        let (kubelet, image) = ("/p/bin/kubelet", "/p/images/etcd.tar");
        assert_eq!(says(kubelet, entry(EntryKind::File(9), 0o755)), None);
        assert_eq!(says(image, entry(EntryKind::File(9), 0o644)), None);
        assert_eq!(says("/p/debs", entry(EntryKind::Directory, 0o755)), None);
        for (path, entry, wanted) in [
            (kubelet, None, "/p/bin/kubelet is not there"),
            (
                kubelet,
                entry(EntryKind::File(9), 0o644),
                "chmod +x /p/bin/kubelet",
            ),
            (
                image,
                entry(EntryKind::File(0), 0o644),
                "/p/images/etcd.tar is empty",
            ),
        ] {
            let message = says(path, entry).unwrap_or_default();
            assert!(message.contains(wanted), "{message}");
        }
    }
}
