//! Live progress on a terminal: a line for each phase that runs, and plain lines for phases that have ended.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::text::{Detail, render};
use crate::exec::{Event, EventSink};
use crate::model::PhaseName;

/// Shows events as they happen.
pub struct ProgressReport {
    bars: MultiProgress,
    running: Mutex<BTreeMap<PhaseName, ProgressBar>>,
    order: super::InOrder,
    detail: Detail,
}

impl ProgressReport {
    /// A report to the terminal on standard error.
    #[must_use]
    pub fn new(detail: Detail) -> Self {
        Self {
            bars: MultiProgress::new(),
            running: Mutex::default(),
            order: super::InOrder::default(),
            detail,
        }
    }

    fn show(&self, event: &Event) {
        let Some(phase) = event.phase() else {
            return;
        };
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = running.entry(phase.clone()).or_insert_with(|| {
            let style =
                ProgressStyle::with_template("  {spinner} {prefix:<18} {elapsed:>4} {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = self.bars.add(ProgressBar::new_spinner().with_style(style));
            bar.set_prefix(phase.to_string());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        match event {
            Event::StepChanging { step, .. } => bar.set_message(step.as_str().to_owned()),
            Event::StepRetried { error, .. } => bar.set_message(error.clone()),
            Event::CheckWaiting { check, reason, .. } => {
                bar.set_message(format!("waiting: {check}: {reason}"))
            }
            Event::PhaseFinished { .. } | Event::PhaseSkipped { .. } => {
                bar.finish_and_clear();
                running.remove(phase);
            }
            _ => {}
        }
    }
}

impl EventSink for ProgressReport {
    fn emit(&self, event: Event) {
        self.show(&event);
        for event in self.order.take(event) {
            for line in render(&event, self.detail).lines() {
                // A terminal that went away is no reason to stop bringing up a host.
                let _ = self.bars.println(line);
            }
        }
    }
}
