//! Output for people and programs, made only from events, plans and conditions.
//!
//! `plan` is what `nodelet plan` shows, `review` and `page` what a dry run would change, `text` and `json` the events of a run while it
//! goes on, `progress` one line for each phase, `history` what earlier runs did, and why a resource is as it is. `totals` counts.
//!
//! Nothing here reads a host or decides anything. Error reports of a command are not here: the agent writes them. Start with `review`.

mod history;
mod json;
mod page;
mod plan;
mod progress;
mod review;
mod text;
mod totals;

pub use history::{history, run_in_full, several_paths, why};
pub use json::{JsonReport, with_octal_modes};
pub use plan::{phases, plan};
pub use progress::ProgressReport;
pub use review::Review;
pub use text::{Detail, TextReport, conditions, nothing_to_repair, render};
pub use totals::Totals;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::exec::Event;
use crate::model::PhaseName;

/// Puts the events of phases that run in parallel into the plan's order.
///
/// Events of the first phase that has not ended go out at once; those of later phases wait.
#[derive(Debug, Default)]
pub struct InOrder(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    order: Vec<PhaseName>,
    over: Vec<PhaseName>,
    held: BTreeMap<PhaseName, Vec<Event>>,
}

impl InOrder {
    /// Takes an event and returns those that may go out now.
    pub fn take(&self, event: Event) -> Vec<Event> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Event::RunStarted { phases, .. } = &event {
            // One report may have several runs: a clean comes after a stop.
            *state = State {
                order: phases.clone(),
                ..State::default()
            };
        }
        if let Event::RunFinished { .. } = &event {
            // Events that are still held come out before the end, in order.
            let mut all = Vec::new();
            for phase in std::mem::take(&mut state.order) {
                all.extend(state.held.remove(&phase).into_iter().flatten());
            }
            all.push(event);
            return all;
        }
        let Some(phase) = event.phase().cloned() else {
            return vec![event];
        };
        let ends = matches!(
            event,
            Event::PhaseFinished { .. } | Event::PhaseSkipped { .. }
        );
        state.held.entry(phase.clone()).or_default().push(event);
        if ends {
            state.over.push(phase);
        }
        state.release()
    }
}

impl State {
    fn release(&mut self) -> Vec<Event> {
        let mut out = Vec::new();
        while let Some(first) = self.order.first().cloned() {
            // Later phases wait for the first one even if it has not begun: the plan's order is kept.
            out.extend(self.held.remove(&first).into_iter().flatten());
            if let Some(over) = self.over.iter().position(|phase| *phase == first) {
                // The phase may come again: what it has left is taken back before the first phase begins.
                self.over.remove(over);
                self.order.remove(0);
            } else {
                break;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Outcome, Verb};

    fn started(name: &str, about: &str) -> Event {
        Event::PhaseStarted {
            phase: name.parse().expect("a name"),
            about: about.to_owned(),
        }
    }

    fn finished(name: &str) -> Event {
        Event::PhaseFinished {
            phase: name.parse().expect("a name"),
            outcome: Outcome::Converged,
            changed: 0,
            unchanged: 0,
            milliseconds: 0,
        }
    }

    /// No run has begun, so no order of phases is known.
    #[test]
    fn the_phase_that_is_checked_before_a_run_is_reported_at_once() {
        let checking = Event::Checking {
            phase: "etcd".parse().expect("a name"),
        };
        assert_eq!(
            InOrder::default().take(checking.clone()),
            std::slice::from_ref(&checking)
        );
        let detail = Detail {
            unchanged: false,
            diffs: false,
            times: true,
        };
        assert_eq!(render(&checking, detail), "checking etcd\n");
    }

    #[test]
    fn a_repeated_phase_is_reported_twice_in_order() {
        let order = InOrder::default();
        let names = ["kubelet", "etcd", "kubelet"].map(|name| name.parse().expect("a name"));
        let mut ordered_events = order.take(Event::RunStarted {
            verb: Verb::Apply,
            role: String::new(),
            host: String::new(),
            digest: String::new(),
            phases: names.into(),
        });
        let events = [
            started("kubelet", "takes back"),
            finished("kubelet"),
            started("kubelet", "runs"),
            started("etcd", "runs"),
            finished("etcd"),
            finished("kubelet"),
        ];
        for event in &events {
            ordered_events.extend(order.take(event.clone()));
        }
        let [leaving, left, later, first, over, end] = events;
        assert_eq!(
            ordered_events[1..],
            [leaving, left, first, over, later, end]
        );
    }
}
