//! One JSON object per line and event.

use std::io::Write;
use std::sync::Mutex;

use super::InOrder;
use crate::exec::{Event, EventSink};

/// Writes events as JSON lines, in the plan's order.
pub struct JsonReport<W: Write + Send> {
    order: InOrder,
    out: Mutex<W>,
}

impl<W: Write + Send> JsonReport<W> {
    /// A report to `out`.
    pub fn new(out: W) -> Self {
        Self {
            order: InOrder::default(),
            out: Mutex::new(out),
        }
    }
}

impl<W: Write + Send> EventSink for JsonReport<W> {
    fn emit(&self, event: Event) {
        let mut out = self
            .out
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for event in self.order.take(event) {
            let line = serde_json::to_string(&event).expect("an event is JSON");
            // A reader that went away is no reason to stop bringing up a host.
            let _ = writeln!(out, "{line}");
        }
        let _ = out.flush();
    }
}
