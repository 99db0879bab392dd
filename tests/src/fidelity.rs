//! Fidelity: how well a prediction and what was done agree, step by step and in both directions.
//!
//! Both are event streams, of a dry run and of an apply. A step agrees if both have the same action and, for a file
//! whose content may be shown, the same content. A step that the prediction called known after apply agrees with
//! nothing. What was done is what the run announced before it converged the step; a run that then still sees a
//! difference fails, and the streams of a failed run are not compared. Fields other than action and content (mode,
//! owner, image, flags) are not compared. In a restart, the stop of a step and its later change are compared
//! separately. `command` steps are counted separately: their effect cannot be known beforehand.

use std::collections::{BTreeMap, BTreeSet};

use engine::exec::Event;
use engine::model::StepId;
use engine::resource::Action;

/// What an event stream says of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepResult {
    /// It is as it should be.
    Unchanged,
    /// It changes.
    Changed {
        /// How.
        action: Action,
        /// SHA-256 of a file's content; none if the content is secret or random.
        digest: Option<String>,
    },
    /// What it runs is stopped, before anything is started again.
    Stopped,
    /// It is known after apply.
    Unknown,
}

impl std::fmt::Display for StepResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unchanged => f.write_str("unchanged"),
            Self::Unknown => f.write_str("known after apply"),
            Self::Stopped => f.write_str("stopped"),
            Self::Changed { action, digest } => {
                f.write_str(action.participle())?;
                match digest {
                    Some(digest) => write!(f, " {}", &digest[..digest.len().min(12)]),
                    None => Ok(()),
                }
            }
        }
    }
}

/// A step for which the prediction and the run differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The step.
    pub step: StepId,
    /// What was predicted; `None` if the step did not occur.
    pub predicted: Option<StepResult>,
    /// What was done; `None` if the step did not occur.
    pub done: Option<StepResult>,
}

impl Mismatch {
    /// Whether the step was left open, because what it depends on is known only after apply.
    #[must_use]
    pub fn is_left_open(&self) -> bool {
        self.predicted == Some(StepResult::Unknown)
    }

    /// Whether the step was left open because it depends on a container runtime that does not run.
    #[must_use]
    pub fn waits_for_runtime(&self) -> bool {
        const KINDS: [&str; 7] = [
            "container",
            "image",
            "image_directory",
            "manifest",
            "node",
            "pod_container",
            "pods",
        ];
        let has_kind = self.step.kind().is_some_and(|kind| KINDS.contains(&kind));
        self.is_left_open() && has_kind
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |seen: &Option<StepResult>| {
            seen.as_ref()
                .map_or_else(|| "nothing".to_owned(), StepResult::to_string)
        };
        let (predicted, done) = (text(&self.predicted), text(&self.done));
        write!(f, "{}: predicted {predicted}, done {done}", self.step)
    }
}

/// How a prediction and a run agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fidelity {
    /// Steps in either stream, without commands.
    pub steps: usize,
    /// Of these, steps that were predicted to change.
    pub predicted: usize,
    /// Of these, steps that changed.
    pub done: usize,
    /// Steps on which the two do not agree.
    pub misses: Vec<Mismatch>,
    /// `command` steps, and on how many of them the two agree.
    pub commands: (usize, usize),
}

impl Fidelity {
    /// Compares what was predicted with what was done.
    #[must_use]
    pub fn of(predicted: &[Event], done: &[Event]) -> Self {
        let (predicted, done) = (seen(predicted), seen(done));
        let all: BTreeSet<&(StepId, Part)> = predicted.keys().chain(done.keys()).collect();
        let mut fidelity = Self {
            steps: 0,
            predicted: 0,
            done: 0,
            misses: Vec::new(),
            commands: (0, 0),
        };
        let changes =
            |seen: Option<&StepResult>| seen.is_some_and(|seen| *seen != StepResult::Unchanged);
        for part in all {
            let (is, should) = (predicted.get(part), done.get(part));
            let (step, _) = part;
            if step.kind() == Some("command") {
                fidelity.commands.0 += 1;
                fidelity.commands.1 += usize::from(is == should);
                continue;
            }
            fidelity.steps += 1;
            fidelity.predicted += usize::from(changes(is));
            fidelity.done += usize::from(changes(should));
            if is != should {
                fidelity.misses.push(Mismatch {
                    step: step.clone(),
                    predicted: is.cloned(),
                    done: should.cloned(),
                });
            }
        }
        fidelity
    }

    /// Of all steps, the share that was predicted correctly, in percent; `None` without steps.
    #[must_use]
    pub fn of_steps(&self) -> Option<f64> {
        share(self.steps - self.misses.len(), self.steps)
    }

    /// Of the changes that were predicted, the share that was done so, in percent; `None` if none was predicted.
    #[must_use]
    pub fn of_predicted(&self) -> Option<f64> {
        let wrong = self.misses.iter().filter(|miss| miss.predicts()).count();
        share(self.predicted - wrong, self.predicted)
    }

    /// Of the changes that were done, the share that had been predicted so, in percent; `None` if none was done.
    #[must_use]
    pub fn of_done(&self) -> Option<f64> {
        let wrong = self.misses.iter().filter(|miss| miss.does()).count();
        share(self.done - wrong, self.done)
    }

    /// The lowest of the three shares that exist; `None` without steps.
    #[must_use]
    pub fn score(&self) -> Option<f64> {
        [self.of_steps(), self.of_predicted(), self.of_done()]
            .into_iter()
            .flatten()
            .reduce(f64::min)
    }
}

impl Mismatch {
    fn predicts(&self) -> bool {
        self.predicted
            .as_ref()
            .is_some_and(|seen| *seen != StepResult::Unchanged)
    }

    fn does(&self) -> bool {
        self.done
            .as_ref()
            .is_some_and(|seen| *seen != StepResult::Unchanged)
    }
}

/// There is no share of zero steps.
fn share(part: usize, whole: usize) -> Option<f64> {
    let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    (whole > 0).then(|| 100.0 * count(part) / count(whole))
}

/// Which half of a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Stop,
    Start,
}

/// What a stream says of each step: its first event about the stop, and its first event about what follows.
fn seen(events: &[Event]) -> BTreeMap<(StepId, Part), StepResult> {
    let mut all = BTreeMap::new();
    for event in events {
        let (step, part, seen) = match event {
            Event::StepStopped { step, .. } => (step, Part::Stop, StepResult::Stopped),
            Event::StepUnchanged { step, .. } => (step, Part::Start, StepResult::Unchanged),
            Event::StepChanging { step, change, .. } if change.unknown => {
                (step, Part::Start, StepResult::Unknown)
            }
            Event::StepChanging { step, change, .. } => (
                step,
                Part::Start,
                StepResult::Changed {
                    action: change.action,
                    digest: change.digest.clone(),
                },
            ),
            _ => continue,
        };
        all.entry((step.clone(), part)).or_insert(seen);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::model::{PhaseName, Span};
    use engine::resource::Change;

    fn changing(step: &str, change: Change) -> Event {
        let phase: PhaseName = "etcd".parse().unwrap();
        Event::StepChanging {
            step: id(step),
            phase,
            span: Span::file("phases/etcd.rhai"),
            change,
        }
    }

    fn unchanged(step: &str) -> Event {
        Event::StepUnchanged {
            phase: "etcd".parse().unwrap(),
            step: id(step),
        }
    }

    fn id(step: &str) -> StepId {
        let (kind, label) = step.split_once(':').unwrap();
        StepId::new(&"etcd".parse().unwrap(), kind, label)
    }

    fn with_digest(action: Action, digest: &str) -> Change {
        let mut change = Change::new(action);
        change.digest = Some(digest.to_owned());
        change
    }

    #[test]
    fn mismatches_count_in_both_directions_and_commands_separately() {
        let predicted = [
            changing("file:a", with_digest(Action::Create, "1111")),
            changing("file:b", with_digest(Action::Create, "1111")),
            changing("file:c", Change::new(Action::Create)),
            unchanged("file:d"),
            changing("node:e", Change::unknown("no answer")),
            changing("command:f", Change::new(Action::Run)),
        ];
        let done = [
            changing("file:a", with_digest(Action::Create, "1111")),
            changing("file:b", with_digest(Action::Create, "2222")),
            unchanged("file:c"),
            changing("file:d", Change::new(Action::Change)),
            unchanged("node:e"),
            unchanged("command:f"),
        ];
        let fidelity = Fidelity::of(&predicted, &done);
        assert_eq!(
            (fidelity.steps, fidelity.predicted, fidelity.done),
            (5, 4, 3)
        );
        assert_eq!(fidelity.commands, (1, 0));
        let misses: Vec<String> = fidelity.misses.iter().map(Mismatch::to_string).collect();
        assert_eq!(
            misses,
            [
                "etcd/file:b: predicted created 1111, done created 2222",
                "etcd/file:c: predicted created, done unchanged",
                "etcd/file:d: predicted unchanged, done changed",
                "etcd/node:e: predicted known after apply, done unchanged",
            ]
        );
        let shown = |share: Option<f64>| share.map(|share| format!("{share:.1}"));
        assert_eq!(shown(fidelity.of_steps()).as_deref(), Some("20.0"));
        assert_eq!(shown(fidelity.of_predicted()).as_deref(), Some("25.0"));
        assert_eq!(shown(fidelity.of_done()).as_deref(), Some("33.3"));
        assert_eq!(shown(fidelity.score()).as_deref(), Some("20.0"));
    }

    #[test]
    fn nothing_of_nothing_is_no_share() {
        let unchanged = [unchanged("file:a")];
        let idle = Fidelity::of(&unchanged, &unchanged);
        assert_eq!((idle.of_predicted(), idle.of_done()), (None, None));
        assert_eq!(idle.of_steps(), Some(100.0), "the step stays as it is");
        let nothing = Fidelity::of(&[], &[]);
        assert_eq!((nothing.of_steps(), nothing.score()), (None, None));
        // A change without a prediction gives no share of the predictions, and a bad share of the changes.
        let surprise = Fidelity::of(&[], &[changing("file:a", Change::new(Action::Create))]);
        assert_eq!(
            (surprise.of_predicted(), surprise.score()),
            (None, Some(0.0))
        );
    }
}
