//! What has triggered a pass: each source adds its events, the daemon takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Events that are remembered until the next pass, for people.
const REMEMBERED: usize = 20;
/// Most different warnings about what cannot be listened to.
const WARNINGS: usize = 300;

/// Where events arrive.
#[derive(Debug, Clone, Default)]
pub(in crate::nodeletd) struct Triggers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    notify: Notify,
    events: Mutex<Vec<String>>,
    settings: AtomicBool,
    join_file: AtomicBool,
    /// Warnings that were logged.
    warned: Mutex<BTreeSet<String>>,
    /// The last known state by name, for sources that report the same state repeatedly.
    states: Mutex<BTreeMap<String, String>>,
}

impl Triggers {
    /// Records that something may have happened, and wakes the daemon.
    pub(in crate::nodeletd) fn add(&self, event: String) {
        let mut events = self.events();
        if events.len() < REMEMBERED && !events.contains(&event) {
            events.push(event);
        }
        drop(events);
        self.0.notify.notify_one();
    }

    /// Records that settings were written, and wakes the daemon.
    pub(in crate::nodeletd) fn add_for_settings(&self, event: String) {
        self.0.settings.store(true, Ordering::Relaxed);
        self.add(event);
    }

    /// Records that a join file was put in place, and wakes the daemon.
    pub(in crate::nodeletd) fn add_for_join_file(&self, event: String) {
        self.0.join_file.store(true, Ordering::Relaxed);
        // As settings, an operator writes it: the event is not forgotten after a change of our own.
        self.add_for_settings(event);
    }

    /// Whether a join file was put in place since the last call.
    pub(in crate::nodeletd) fn take_join_file(&self) -> bool {
        self.0.join_file.swap(false, Ordering::Relaxed)
    }

    /// Whether settings were written since the last [`Triggers::take`].
    pub(in crate::nodeletd) fn settings_changed(&self) -> bool {
        self.0.settings.load(Ordering::Relaxed)
    }

    /// Waits for an event that came since the last [`Triggers::take`].
    ///
    /// # Cancel safety
    /// No event is lost.
    pub(in crate::nodeletd) async fn wait(&self) {
        while self.events().is_empty() {
            self.0.notify.notified().await;
        }
    }

    /// Returns all events so far, and forgets them.
    pub(in crate::nodeletd) fn take(&self) -> Vec<String> {
        self.0.settings.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.events())
    }

    /// Forgets the events that came during a change of our own, but not that settings were written.
    /// Returns whether there were any events.
    pub(in crate::nodeletd) fn forget_our_own(&self) -> bool {
        let mut events = self.events();
        let heard = !events.is_empty();
        events.clear();
        if self.settings_changed() {
            events.push("settings changed meanwhile".to_owned());
        }
        heard
    }

    /// Records the state of a resource; empty means as desired, which is the initial state. Returns whether the state has changed. States
    /// are kept when a source connects again.
    pub(super) fn has_changed(&self, resource: &str, state: String) -> bool {
        let states = &self.0.states;
        let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
        let before = states.insert(resource.to_owned(), state.clone());
        before.unwrap_or_default() != state
    }

    /// Logs once what cannot be listened to, and why. The pass at the next interval sees changes without an event.
    pub(super) fn warn_once(&self, problem: String) {
        let mut warned = self.0.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() < WARNINGS && !warned.contains(&problem) {
            tracing::warn!(
                "{problem}; nodeletd notices changes there only in its next status pass"
            );
            warned.insert(problem);
        }
    }

    fn events(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn events_wait_until_they_are_taken() {
        let triggers = Triggers::default();
        triggers.add("one".to_owned());
        triggers.add("one".to_owned());
        triggers.wait().await;
        assert_eq!(triggers.take(), ["one"]);
        let waited = tokio::time::timeout(Duration::from_millis(50), triggers.wait()).await;
        assert!(waited.is_err(), "there is no event left");
    }

    #[test]
    fn events_of_settings_are_not_forgotten_as_our_own() {
        let triggers = Triggers::default();
        assert!(!triggers.forget_our_own());
        triggers.add("unit pf9-kubelet.service".to_owned());
        assert!(triggers.forget_our_own());
        assert_eq!(triggers.take(), [""; 0]);
        triggers.add_for_settings("file /etc/pf9/nodelet/a.yaml".to_owned());
        triggers.forget_our_own();
        assert!(triggers.settings_changed());
        assert_eq!(triggers.take(), ["settings changed meanwhile"]);
        assert!(!triggers.settings_changed());
    }

    #[test]
    fn a_join_file_is_told_once() {
        let triggers = Triggers::default();
        triggers.add_for_settings("file /etc/pf9/nodelet/a.yaml".to_owned());
        assert!(!triggers.take_join_file());
        triggers.add_for_join_file("file /etc/pf9/nodelet/join.age".to_owned());
        triggers.forget_our_own();
        assert_eq!(triggers.take(), ["settings changed meanwhile"]);
        assert!(triggers.take_join_file());
        assert!(!triggers.take_join_file());
    }
}
