//! Whether settings that could be read are used: a host with a role must be able to go on with them.

use anyhow::Result;
use engine::env::KubeEnv;
use engine::exec::{PhaseHealth, Recording, Status};
use engine::host::live::LiveHost;

use crate::inputs::Inputs;
use crate::inputs::identity::Identity;

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
    pub(super) fn at_its_place(&self, settings: &KubeEnv) -> String {
        let all = format!("{} {}", self.about, self.why);
        let word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let mut words = all.split(|c| !word(c));
        match words.find_map(|name| settings.source_of(name)?.place()) {
            Some(place) => format!("{place}: {}", self.why),
            None => self.why.clone(),
        }
    }
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
    /// current settings change the host's identity; then `now` has only that obstacle.
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
    if let Some(changed) = recorded.changed_by(&inputs.identity) {
        return Ok(vec![Blocker {
            why: changed.to_string(),
            about: String::new(),
        }]);
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
    use engine::model::Span;

    use super::*;

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
