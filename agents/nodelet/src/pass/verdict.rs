//! Whether settings that could be read are used: a host with a role must be able to go on with them.

use anyhow::Result;
use engine::env::KubeEnv;
use engine::exec::{PhaseHealth, Recording, Status};
use engine::host::live::LiveHost;
use tokio::time::error::Elapsed;

use crate::cli::RoleArgs;
use crate::inputs::identity::Identity;
use crate::inputs::{Inputs, problems_of, with_recorded_name};

/// Why a host with a role cannot go on with settings that were read without an error. Such settings are wrong, and must not keep nodeletd
/// from holding the host at the last good ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocker {
    /// A sentence.
    why: String,
    /// The requirement, which may name the settings in question as well.
    about: String,
}

impl Blocker {
    /// The sentence, after the place of the first setting that it names and that is set in a file.
    fn at_its_place(&self, settings: &KubeEnv) -> String {
        let all = format!("{} {}", self.about, self.why);
        let word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let mut words = all.split(|c| !word(c));
        match words.find_map(|name| settings.source_of(name)?.place()) {
            Some(place) => format!("{place}: {}", self.why),
            None => self.why.clone(),
        }
    }
}

/// The sentences, each after the place of its setting.
pub(super) fn at_their_places(blockers: &[Blocker], settings: &KubeEnv) -> Vec<String> {
    let sentences = blockers.iter().map(|one| one.at_its_place(settings));
    sentences.collect()
}

/// What is done with settings that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SettingsVerdict {
    /// Used, and saved as the last good settings.
    Good,
    /// Used, but not saved as the last good settings: there are no better ones, or the last good ones have the same fault. Each command
    /// that would change the host reports why it does not.
    Tolerated,
    /// Not used: the last good settings stay in use. These are the obstacles that the current settings cause.
    Refused(Vec<Blocker>),
}

impl SettingsVerdict {
    /// `now` has the obstacles of the current settings, `before` those of the last good ones, if there are any. `another` means that the
    /// current settings change the host's identity; then `now` has only such obstacles.
    pub(super) fn of(now: Vec<Blocker>, before: Option<&[Blocker]>, another: bool) -> Self {
        if now.is_empty() {
            return Self::Good;
        }
        let Some(before) = before else {
            return Self::Tolerated;
        };
        let worse = new_blockers(now, before);
        // All obstacles existed before: the current settings are as good as the last good ones, unless they change the host's identity.
        match (worse.is_empty(), another) {
            (false, _) => Self::Refused(worse),
            (true, false) => Self::Good,
            (true, true) => Self::Tolerated,
        }
    }
}

/// The obstacles that the current settings cause: those of `now` that are not in `before`.
fn new_blockers(now: Vec<Blocker>, before: &[Blocker]) -> Vec<Blocker> {
    let mut now = now;
    now.retain(|one| !before.iter().any(|other| other.why == one.why));
    now
}

/// The obstacles to these settings on a host that is bound to an identity; none on any other host.
pub(super) async fn blockers(
    bound: Option<&Identity>,
    inputs: &Inputs,
    host: &LiveHost,
) -> Result<Vec<Blocker>> {
    let Some(recorded) = bound else {
        return Ok(Vec::new());
    };
    let changes = changes(recorded, &inputs.identity);
    if !changes.is_empty() {
        return Ok(changes);
    }
    let ignored_events = Recording::default();
    let runner = inputs.runner(host, &ignored_events);
    let failed_preconditions = runner.failed_preconditions().await?;
    let blockers_now = failed_preconditions.into_iter().map(|one| Blocker {
        why: format!("{}: {}", one.problem, one.remedy),
        about: one.requirement,
    });
    Ok(blockers_now.collect())
}

/// The changes of a recorded identity.
fn changes(recorded: &Identity, wanted: &Identity) -> Vec<Blocker> {
    let changes = recorded.changes_by(wanted).into_iter();
    let blockers = changes.map(|changed| Blocker {
        why: changed.to_string(),
        about: String::new(),
    });
    blockers.collect()
}

/// What is wrong with the current `settings` while the host has a wrong name, beside that name: what would be wrong with them if the host
/// still had the recorded name, and is not wrong with the last good ones.
///
/// # Errors
/// Gathering the facts of the host timed out, or a precondition could not be evaluated.
pub(super) async fn problems_beside_name(
    args: &RoleArgs,
    settings: &KubeEnv,
    good: &KubeEnv,
    bound: Option<&Identity>,
    host: &LiveHost,
) -> Result<Vec<String>> {
    // The usual case: only the name has changed.
    if settings.iter().eq(good.iter()) {
        return Ok(Vec::new());
    }
    let now = match with_recorded_name(args, settings.clone(), host).await {
        Ok(inputs) => blockers(bound, &inputs, host).await?,
        Err(error) if error.is::<Elapsed>() => return Err(error),
        Err(error) => {
            // If the last good ones cannot be planned either, the installed role is wrong, not the settings.
            return match with_recorded_name(args, good.clone(), host).await {
                Ok(_) => Ok(problems_of(&error)),
                Err(late) if late.is::<Elapsed>() => Err(late),
                Err(_) => Ok(Vec::new()),
            };
        }
    };
    if now.is_empty() {
        return Ok(Vec::new());
    }
    // Both are planned with the installed role: a precondition of a new version of it is not blamed on the settings.
    let before = match with_recorded_name(args, good.clone(), host).await {
        Ok(inputs) => blockers(bound, &inputs, host).await?,
        Err(error) if error.is::<Elapsed>() => return Err(error),
        Err(_) => Vec::new(),
    };
    Ok(at_their_places(&new_blockers(now, &before), settings))
}

/// The fixed settings that the current `settings` change and the `last` good ones do not. Nothing is planned, so this can also be told if
/// the role is wrong.
pub(super) fn changed_settings(
    bound: Option<&Identity>,
    settings: &KubeEnv,
    last: &Inputs,
) -> Vec<String> {
    let Some(recorded) = bound else {
        return Vec::new();
    };
    let now = changes(recorded, &Identity::of(settings, &last.facts));
    let before = changes(recorded, &last.identity);
    at_their_places(&new_blockers(now, &before), settings)
}

/// The results of checks whose plan is for a host with another name or address: a condition that does not hold by such a plan is unknown.
pub(super) fn with_failures_unknown(mut health: Vec<PhaseHealth>) -> Vec<PhaseHealth> {
    let conditions = health.iter_mut().flat_map(|phase| &mut phase.conditions);
    for condition in conditions.filter(|condition| condition.status == Status::False) {
        condition.status = Status::Unknown;
        let why = std::mem::take(&mut condition.reason);
        let why = match why.is_empty() {
            true => String::new(),
            false => format!("; a check by them says: {why}"),
        };
        condition.reason = format!("it is not known while the settings are refused{why}");
    }
    health
}

#[cfg(test)]
mod tests {
    use engine::exec::{Condition, ConditionKind};
    use engine::facts::Facts;
    use engine::model::Span;

    use super::*;
    use crate::pass::tests::plan_of_master;

    fn blocker(why: &str, about: &str) -> Blocker {
        Blocker {
            why: why.to_owned(),
            about: about.to_owned(),
        }
    }

    #[test]
    fn settings_are_not_blamed_for_earlier_problems() {
        let all =
            |list: &[&str]| -> Vec<Blocker> { list.iter().map(|why| blocker(why, "")).collect() };
        let (payload, interface) = ("pause.tar is empty", "there is no eth9");
        for (now, before, worse) in [
            (&[][..], &[][..], &[][..]),
            (&[payload], &[payload], &[]),
            (&[interface], &[], &[interface]),
            (&[payload, interface], &[payload], &[interface]),
            (&[payload], &[interface], &[payload]),
        ] {
            assert_eq!(new_blockers(all(now), &all(before)), all(worse), "{now:?}");
        }
    }

    /// With the plan of another name, `node cp-2 would be changed` is true and says nothing about this host.
    #[test]
    fn by_a_plan_for_another_name_nothing_fails() {
        let condition = |status, reason: &str| Condition {
            kind: ConditionKind::Check,
            check: "c".to_owned(),
            span: Span::file("phases/etcd.rhai"),
            status,
            reason: reason.to_owned(),
            advisory: false,
            failed_in_a_row: 0,
            deferred: false,
        };
        let health = with_failures_unknown(vec![PhaseHealth {
            phase: "etcd".parse().expect("a name"),
            skipped: None,
            conditions: vec![
                condition(Status::True, ""),
                condition(Status::False, "node cp-2 would be changed"),
                condition(Status::False, ""),
            ],
        }]);
        let shown = health[0].conditions.iter();
        let shown: Vec<(Status, &str)> = shown.map(|c| (c.status, c.reason.as_str())).collect();
        let refused = "it is not known while the settings are refused";
        let with_its_reason =
            format!("{refused}; a check by them says: node cp-2 would be changed");
        let expected = [
            (Status::True, ""),
            (Status::Unknown, with_its_reason.as_str()),
            (Status::Unknown, refused),
        ];
        assert_eq!(shown, expected);
    }

    /// Otherwise an operator would learn of them only when the name is right again, and then of one after the other.
    #[tokio::test]
    async fn while_the_host_has_a_wrong_name_all_changed_settings_are_reported() {
        let settings = |more: &[(&str, &str)]| {
            let pairs = [("ROLE", "master"), ("MASTER_IP", "172.30.0.11")];
            let pairs = pairs.iter().chain(more);
            let pairs = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            KubeEnv::from_pairs(pairs).expect("good settings")
        };
        let good = settings(&[]);
        let recorded = Identity::of(&good, &Facts::nothing_about("m-1"));
        let inputs = async |settings: &KubeEnv| {
            let facts = Facts::nothing_about("m-2");
            let (facts, renamed) = recorded.with_recorded_name(settings, facts);
            assert!(renamed.is_some());
            Inputs {
                renamed,
                ..Inputs::of(plan_of_master().await, settings.clone(), facts)
            }
        };
        let current = settings(&[
            ("CONTAINERS_CIDR", "10.30.0.0/16"),
            ("CLUSTER_DNS_DOMAIN", "elsewhere.local"),
        ]);
        let host = LiveHost::new();
        let now = blockers(Some(&recorded), &inputs(&current).await, &host).await;
        let now = now.expect("the identities are compared");
        let last = inputs(&good).await;
        for said in [
            at_their_places(&now, &current),
            changed_settings(Some(&recorded), &current, &last),
        ] {
            assert_eq!(said.len(), 2, "{said:?}");
            for (said, name) in said.iter().zip(["CONTAINERS_CIDR", "CLUSTER_DNS_DOMAIN"]) {
                assert!(said.contains(&format!("use {name}=")), "{said}");
            }
        }
        let none = changed_settings(Some(&recorded), &good, &last);
        assert_eq!(none, [""; 0]);
    }

    #[test]
    fn settings_without_new_problems_are_saved() {
        let all = || vec![blocker("pause.tar is empty", "")];
        let verdict = |now, before: Option<Vec<Blocker>>, another| {
            SettingsVerdict::of(now, before.as_deref(), another)
        };
        assert_eq!(verdict(Vec::new(), None, false), SettingsVerdict::Good);
        assert_eq!(verdict(all(), Some(all()), false), SettingsVerdict::Good);
        assert_eq!(
            verdict(all(), Some(all()), true),
            SettingsVerdict::Tolerated
        );
        assert_eq!(verdict(all(), None, false), SettingsVerdict::Tolerated);
        let refused = SettingsVerdict::Refused(all());
        assert_eq!(verdict(all(), Some(Vec::new()), false), refused);
        assert_eq!(verdict(all(), Some(Vec::new()), true), refused);
    }

    #[test]
    fn the_position_of_a_wrong_setting_is_shown() {
        let files = [
            (
                "/c/a.yaml",
                "ROLE: worker\nCLUSTER_ID: 11111111-2222-3333-4444-555555555555\nMASTER_IP: 192.0.2.1\n",
            ),
            ("/c/b.yaml", "\nETCD_BACKUP_DIR: /root/afile\n"),
        ];
        let files = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
        let settings = KubeEnv::resolve(files.to_vec()).expect("they are good");
        for (why, about, place) in [
            (
                "/root/afile is no directory",
                "backups have a persistent directory (ETCD_BACKUP_DIR)",
                "/c/b.yaml:2",
            ),
            ("use ROLE=worker on this host", "", "/c/a.yaml:1"),
            ("pause.tar is empty", "the payload is complete", ""),
        ] {
            let said = blocker(why, about).at_its_place(&settings);
            assert!(said.starts_with(place) && said.ends_with(why), "{said}");
            assert_eq!(place.is_empty(), said == why, "{said}");
        }
    }
}
