//! A prediction as a review: a line for each phase, then each change, and the verdict at the end.
//!
//! The line of a phase says everything of a phase with nothing to change. Files that change show their differences; new ones show only
//! their length, because `nodelet plan --full` shows their text. Neither shows secrets: a change does not hold them.

use std::fmt::Write as _;

use super::page::{DETAIL, Page};
use super::text::render;
use super::totals::Totals;
use crate::exec::{Event, UnmetRequires};
use crate::model::{Outcome, PhaseName, Problem, count};
use crate::plan::{Plan, SkippedWord};

/// What a dry run said, ready to be read.
#[derive(Debug)]
pub struct Review<'a> {
    events: &'a [Event],
    plan: Option<&'a Plan>,
    missing: Option<&'a UnmetRequires>,
    /// Whether the events are those of a repair, and not of an apply.
    repair: bool,
}

impl<'a> Review<'a> {
    /// A review of a dry run's events.
    #[must_use]
    pub fn of(events: &'a [Event]) -> Self {
        Self {
            events,
            plan: None,
            missing: None,
            repair: false,
        }
    }

    /// A review of the events of a dry run of a repair.
    #[must_use]
    pub fn of_repair(events: &'a [Event]) -> Self {
        Self {
            repair: true,
            ..Self::of(events)
        }
    }

    /// The review with what the plan skips: no event is about a skipped step.
    #[must_use]
    pub fn with_skipped_of(self, plan: &'a Plan) -> Self {
        Self {
            plan: Some(plan),
            ..self
        }
    }

    /// The review with the phases that the chosen ones require and the host does not have.
    #[must_use]
    pub fn with_missing(self, missing: Option<&'a UnmetRequires>) -> Self {
        Self { missing, ..self }
    }

    /// Every phase in one line, then each change with what would be checked, then the verdict.
    #[must_use]
    pub fn plan(&self) -> String {
        let pages = self.pages();
        let full: String = pages.iter().map(Page::full).collect();
        let mut text = self.summary(&pages);
        if !full.is_empty() {
            let _ = writeln!(text, "\n{full}");
        }
        text + self.others_started().as_str() + self.verdict(&pages).as_str()
    }

    /// Every phase in one line, then the verdict.
    #[must_use]
    pub fn brief(&self) -> String {
        let pages = self.pages();
        let how = "each change: `nodelet plan --details`; each step with the text of its files: `nodelet plan --full`";
        format!(
            "{}\n{how}\n{}{}",
            self.summary(&pages),
            self.others_started(),
            self.verdict(&pages)
        )
    }

    /// What would change and the verdict, and nothing else.
    #[must_use]
    pub fn diff(&self) -> String {
        let pages = self.pages();
        let changes: String = pages.iter().map(Page::changes).collect();
        let others = self.others_started();
        self.woken() + changes.as_str() + others.as_str() + self.verdict(&pages).as_str()
    }

    /// What a repair would do before its checks.
    fn woken(&self) -> String {
        let is_woken = |event: &&Event| matches!(event, Event::ResourceWoken { .. });
        let woken: String = (self.events.iter().filter(is_woken))
            .map(|event| render(event, DETAIL))
            .collect();
        if woken.is_empty() {
            return woken;
        }
        format!(
            "before its checks, a repair would do this; what needs it and fails even then would be restarted, and is not predicted:\n{woken}"
        )
    }

    /// What an apply would start at its end although it is not the role's.
    fn others_started(&self) -> String {
        let is_started = |event: &&Event| matches!(event, Event::OthersStarted { .. });
        let started = self.events.iter().filter(is_started);
        let started: String = started.map(|event| render(event, DETAIL)).collect();
        match started.is_empty() {
            true => started,
            false => format!("at its end, an apply would do this:\n{started}"),
        }
    }

    /// The sum over all phases.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for event in self.events {
            match event {
                Event::StepUnchanged { .. } => totals.unchanged += 1,
                Event::StepChanging { change, .. } => totals.count(change),
                _ => {}
            }
        }
        totals
    }

    /// Whether the preconditions hold and no reason is known for which an apply would fail.
    #[must_use]
    pub fn complete(&self) -> bool {
        let refused = |event: &Event| matches!(event, Event::PreflightFailed { .. });
        !self.events.iter().any(refused) && self.has_end()
    }

    /// Whether a run was predicted up to its end, without a failure.
    fn has_end(&self) -> bool {
        let ended = |event: &Event| {
            matches!(
                event,
                Event::RunFinished {
                    outcome: Outcome::Predicted,
                    ..
                }
            )
        };
        self.events.iter().any(ended)
    }

    /// The events, phase by phase.
    fn pages(&self) -> Vec<Page<'a>> {
        let mut pages = Vec::new();
        let mut page: Option<Page<'a>> = None;
        for event in self.events {
            match event {
                Event::PhaseStarted { phase, about } => {
                    page = Some(Page::new(phase, about, self.skipped_words(phase, about)));
                }
                Event::PhaseSkipped { phase, reason } => pages.push(Page::skipped(phase, reason)),
                Event::PhaseFinished { .. } => pages.extend(page.take()),
                _ => match (&mut page, event.phase()) {
                    (Some(page), _) => page.add(event),
                    // Something that had to wait until all phases had taken back what they have left.
                    (None, Some(phase)) => {
                        let mut late = Page::new(phase, "Takes back the rest.", &[]);
                        late.add(event);
                        if late.failing().is_some() {
                            pages.push(late);
                        }
                    }
                    (None, None) => {}
                },
            }
        }
        pages
    }

    /// What the plan skips of a phase. What a phase has left is taken back under another description.
    fn skipped_words(&self, phase: &PhaseName, about: &str) -> &'a [SkippedWord] {
        let planned = self.plan.and_then(|plan| plan.phase(phase.as_str()));
        match planned.filter(|planned| planned.about == about) {
            Some(planned) => planned.skipped_words.as_slice(),
            None => &[],
        }
    }

    /// What is planned, and a line for each phase.
    fn summary(&self, pages: &[Page<'_>]) -> String {
        let mut text = String::new();
        for event in self.events {
            match event {
                Event::RunStarted {
                    role, host, digest, ..
                } => {
                    let digest = &digest[..digest.len().min(12)];
                    let _ = writeln!(text, "{role} on {host}, plan {digest}");
                }
                Event::PreflightPassed { .. } => text.push_str(&render(event, DETAIL)),
                // The list is part of the verdict.
                Event::PreflightFailed { problems } => {
                    let _ = writeln!(text, "{}; see the end", unmet(problems));
                }
                _ => {}
            }
        }
        text.extend(pages.iter().map(Page::line));
        text
    }

    /// What an apply would do in all. If it would refuse the host: why, and what to do. This comes last, because people read the last
    /// lines first.
    fn verdict(&self, pages: &[Page<'_>]) -> String {
        let totals = self.totals();
        let refusal = self.events.iter().find_map(|event| match event {
            Event::PreflightFailed { problems } => Some((event, problems)),
            _ => None,
        });
        let mut text = String::new();
        if refusal.is_none() {
            let _ = writeln!(text, "{totals}");
        }
        if let Some(first) = pages.iter().find_map(Page::failing) {
            let _ = writeln!(
                text,
                "an apply would fail in {first}; the phases after it are shown, too"
            );
        }
        if let Some(missing) = self.missing {
            let names: Vec<&str> = missing.phases.iter().map(PhaseName::as_str).collect();
            let _ = writeln!(
                text,
                "an apply of the chosen phases would be refused: they require {}, which the host does not have yet; `nodelet plan --to {}` shows everything up to them",
                names.join(", "),
                missing.last
            );
        }
        if let Some((event, problems)) = refusal {
            text.push_str(&render(event, DETAIL));
            let _ = match self.repair {
                true => writeln!(text, "{}", self.refused_repair(problems, &totals)),
                false => writeln!(
                    text,
                    "nothing would be changed: an apply would refuse this host, because {} (once they are met: {})",
                    unmet(problems),
                    totals.sum()
                ),
            };
        }
        text
    }

    /// The verdict on a repair that would be refused as a whole, or that would skip some phases.
    fn refused_repair(&self, problems: &[Problem], totals: &Totals) -> String {
        let why = unmet(problems);
        match self.has_end() {
            true => format!(
                "a repair would skip the phases that need this, because {why}; it would change the others as shown above: {}",
                totals.sum()
            ),
            false => format!(
                "nothing would be stopped or changed: a repair would be refused, because {why}"
            ),
        }
    }
}

/// `2 preconditions do not hold`.
fn unmet(problems: &[Problem]) -> String {
    let verb = if problems.len() == 1 { "does" } else { "do" };
    format!("{} {verb} not hold", count(problems.len(), "precondition"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Failure, Span, StepId};
    use crate::plan::PlannedPhase;
    use crate::resource::{Action, Change, TextDiff};

    fn events() -> Vec<Event> {
        let phase: PhaseName = "etcd".parse().unwrap();
        let step = |kind: &str| StepId::new(&phase, kind, "/etc/x");
        let changing = |kind: &str, change: Change| Event::StepChanging {
            phase: phase.clone(),
            step: step(kind),
            span: Span::new("phases/etcd.rhai", 3, 1),
            change,
        };
        let file = |action: Action, before: &str| {
            let mut change = Change::new(action).with("mode", "", "0644");
            change.text = Some(TextDiff {
                before: before.to_owned(),
                after: "a\nb\n".to_owned(),
            });
            change
        };
        let finished = |outcome| Event::PhaseFinished {
            phase: phase.clone(),
            outcome,
            changed: 0,
            unchanged: 0,
            milliseconds: 0,
        };
        let started = Event::PhaseStarted {
            phase: phase.clone(),
            about: "Runs etcd.".to_owned(),
        };
        let unchanged = Event::StepUnchanged {
            phase: phase.clone(),
            step: step("directory"),
        };
        let check = Event::CheckPlanned {
            phase: phase.clone(),
            check: "member is healthy".to_owned(),
        };
        vec![
            started.clone(),
            unchanged.clone(),
            changing("file", file(Action::Create, "")),
            changing("file", file(Action::Change, "a\n")),
            changing("node", Change::unknown("no answer")),
            check.clone(),
            finished(Outcome::Predicted),
            started,
            unchanged,
            check,
            finished(Outcome::Predicted),
        ]
    }

    #[test]
    fn a_plan_shows_every_phase_and_a_sum() {
        let expected = "\
etcd               1 created, 1 changed, 1 known after apply, 1 unchanged, 1 check
etcd               1 unchanged, 1 check

etcd: Runs etcd.
  + file /etc/x  (phases/etcd.rhai:3:1)
      mode: 0644
      content: 2 lines
  ~ file /etc/x  (phases/etcd.rhai:3:1)
      mode: 0644
      │ @@ -1 +1,2 @@
      │  a
      │ +b
  ? node /etc/x  (phases/etcd.rhai:3:1)
      state: known after apply (no answer)
  ✓ will be checked: member is healthy
    1 more unchanged

would change: 1 created, 1 changed, 0 restarted, 0 removed; 2 unchanged; 1 known after apply
";
        assert_eq!(Review::of(&events()).plan(), expected);
    }

    #[test]
    fn a_diff_leaves_out_what_stays() {
        let diff = Review::of(&events()).diff();
        assert!(
            !diff.contains("checked") && !diff.contains("more unchanged"),
            "{diff}"
        );
        assert_eq!(diff.matches("etcd:").count(), 1, "{diff}");
    }

    #[test]
    fn a_review_with_a_predicted_failure_ends_as_failed() {
        let mut events = events();
        let ended = |outcome| Event::RunFinished {
            outcome,
            changed: 4,
            unchanged: 2,
            milliseconds: 0,
        };
        events.push(ended(Outcome::Predicted));
        assert!(Review::of(&events).complete());
        events.pop();
        let failed = Event::PhaseFailed {
            phase: "etcd".parse().unwrap(),
            failure: Failure {
                what: "file /etc/x".to_owned(),
                span: Span::new("phases/etcd.rhai", 3, 1),
                chain: vec!["make /etc/x a file: a directory is there".to_owned()],
                found: vec!["container etcd runs".to_owned()],
                next: "move it away".to_owned(),
            },
        };
        events.insert(5, failed);
        events.push(ended(Outcome::Failed));
        let review = Review::of(&events);
        assert!(!review.complete());
        let diff = review.diff();
        assert!(
            diff.contains(
                "  ✗ etcd would fail at phases/etcd.rhai:3:1: file /etc/x\n      could not make /etc/x a file: a directory is there\n      next: move it away\n"
            ),
            "{diff}"
        );
        assert!(
            diff.ends_with("an apply would fail in etcd; the phases after it are shown, too\n"),
            "{diff}"
        );
    }

    #[test]
    fn a_refused_plan_ends_with_the_refusal() {
        let problem = |problem: &str| Problem {
            requirement: "the ports are free".to_owned(),
            span: Span::file("role.yaml"),
            problem: problem.to_owned(),
            remedy: "stop what holds it".to_owned(),
        };
        let mut events = events();
        let problems = vec![problem("port 443 is taken"), problem("port 2380 is taken")];
        events.insert(0, Event::PreflightFailed { problems });
        let end = "\
preconditions that do not hold (2):
  ✗ the ports are free: port 443 is taken
      stop what holds it
      required at role.yaml
  ✗ the ports are free: port 2380 is taken
      stop what holds it
      required at role.yaml
nothing would be changed: an apply would refuse this host, because 2 preconditions do not hold (once they are met: 1 created, 1 changed, 0 restarted, 0 removed; 2 unchanged; 1 known after apply)
";
        let review = Review::of(&events);
        for text in [review.plan(), review.brief(), review.diff()] {
            assert!(text.ends_with(end), "{text}");
        }
        let begin = "2 preconditions do not hold; see the end\netcd ";
        assert!(review.plan().starts_with(begin), "{}", review.plan());
        // A repair is refused as a whole, or it skips some phases.
        let repair = Review::of_repair(&events).diff();
        let nothing = "nothing would be stopped or changed: a repair would be refused, because 2 preconditions do not hold\n";
        assert!(repair.ends_with(nothing), "{repair}");
        events.push(Event::RunFinished {
            outcome: Outcome::Predicted,
            changed: 0,
            unchanged: 0,
            milliseconds: 0,
        });
        let repair = Review::of_repair(&events).diff();
        let others = "because 2 preconditions do not hold; it would change the others as shown above: 1 created,";
        assert!(repair.contains(others), "{repair}");
    }

    #[test]
    fn a_brief_review_has_a_line_for_each_phase_and_says_how_to_see_more() {
        let expected = "\
etcd               1 created, 1 changed, 1 known after apply, 1 unchanged, 1 check
etcd               1 unchanged, 1 check

each change: `nodelet plan --details`; each step with the text of its files: `nodelet plan --full`
would change: 1 created, 1 changed, 0 restarted, 0 removed; 2 unchanged; 1 known after apply
";
        assert_eq!(Review::of(&events()).brief(), expected);
    }

    #[test]
    fn skipped_words_are_shown_with_their_reason() {
        let mut phase = PlannedPhase::bare("etcd".parse().unwrap());
        phase.about = "Runs etcd.".to_owned();
        phase.skipped_words.push(SkippedWord {
            word: "directory".to_owned(),
            label: "/etc/y".to_owned(),
            span: Span::new("phases/etcd.rhai", 5, 1),
            reason: "the condition at phases/etcd.rhai:6:6 is false".to_owned(),
        });
        phase.skipped_words.push(SkippedWord {
            word: "check".to_owned(),
            label: "the log is small".to_owned(),
            span: Span::new("phases/etcd.rhai", 7, 1),
            reason: "the condition at phases/etcd.rhai:8:6 is false".to_owned(),
        });
        let plan = Plan::bare(vec![phase]);
        let mut events = events().split_off(7);
        events.push(Event::PhaseSkipped {
            phase: "keepalived".parse().unwrap(),
            reason: "its condition (phases/keepalived.rhai:6:6) is false".to_owned(),
        });
        let expected = "\
etcd               1 unchanged, 1 check, 2 skipped
keepalived         skipped: its condition (phases/keepalived.rhai:6:6) is false

etcd: Runs etcd.
  · skipped: directory /etc/y (the condition at phases/etcd.rhai:6:6 is false)
  · skipped: check \"the log is small\" (the condition at phases/etcd.rhai:8:6 is false)

nothing would change: 1 unchanged
";
        let review = Review::of(&events).with_skipped_of(&plan);
        assert_eq!(review.plan(), expected);
        assert_eq!(review.diff(), "nothing would change: 1 unchanged\n");
    }

    #[test]
    fn phases_that_are_required_and_not_there_are_named() {
        let missing = UnmetRequires {
            phases: vec!["docker".parse().unwrap()],
            last: "etcd".parse().unwrap(),
        };
        let events = events();
        let review = Review::of(&events).with_missing(Some(&missing));
        let end = "they require docker, which the host does not have yet; `nodelet plan --to etcd` shows everything up to them\n";
        assert!(review.plan().ends_with(end), "{}", review.plan());
    }

    #[test]
    fn nothing_to_do_is_one_line() {
        let events = &events()[7..];
        assert_eq!(
            Review::of(events).diff(),
            "nothing would change: 1 unchanged\n"
        );
        assert_eq!(Review::of(events).totals().pending(), 0);
    }
}
