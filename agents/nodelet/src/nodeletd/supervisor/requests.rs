//! Requests to the loop. It takes them while it waits and during a pass, so that the next decision respects them; during a change they
//! wait until the change has ended.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Supervisor, unix_now};
use crate::nodeletd::status::view::View;
use crate::nodeletd::supervisor::worker::HostOps;
use crate::pass::Pass;

/// A request to the daemon.
#[derive(Debug, Clone)]
pub(in crate::nodeletd) enum Request {
    /// Make a pass now; the next attempt does not wait.
    Now,
    /// Restart these phases and what needs them.
    Repair(Vec<String>),
    /// Change nothing for this time.
    Pause { time: Duration, because: String },
    /// End the pause.
    Resume,
}

/// A request, and the channel that tells its sender when it is in force.
#[derive(Debug)]
pub(in crate::nodeletd) struct PendingRequest {
    pub(in crate::nodeletd) request: Request,
    pub(in crate::nodeletd) taken: oneshot::Sender<Saved>,
}

/// Whether a request in force survives a restart of nodeletd. The error says why its state is not on disk.
pub(in crate::nodeletd) type Saved = Result<(), String>;

impl Request {
    /// Prepares the request for sending. The receiver is notified once the request is in force.
    pub(in crate::nodeletd) fn pending(self) -> (PendingRequest, oneshot::Receiver<Saved>) {
        let (taken, in_force) = oneshot::channel();
        let pending = PendingRequest {
            request: self,
            taken,
        };
        (pending, in_force)
    }
}

impl<H: HostOps> Supervisor<H> {
    /// Makes a pass, and takes requests that arrive meanwhile.
    ///
    /// # Errors
    /// The pass did not finish.
    pub(super) async fn run_pass(&mut self) -> Result<Pass> {
        let host_ops = Arc::clone(&self.host_ops);
        let group = self.group.joined().cloned();
        let before = self.failure_counts.clone();
        let (progress, mut checking) = mpsc::unbounded_channel();
        let running = host_ops.pass(group.as_ref(), &before, progress);
        tokio::pin!(running);
        let pass = loop {
            tokio::select! {
                Some(pending) = self.requests.recv() => self.take_request(pending).await,
                Some(phase) = checking.recv() => self.is_checking(&phase),
                pass = &mut running => break pass,
            }
        };
        self.take_waiting().await;
        pass
    }

    /// Takes all requests that have arrived.
    pub(super) async fn take_waiting(&mut self) {
        while let Ok(pending) = self.requests.try_recv() {
            self.take_request(pending).await;
        }
    }

    pub(super) async fn take_request(&mut self, pending: PendingRequest) {
        match pending.request {
            Request::Now => self.ask_again(),
            Request::Repair(phases) => {
                for phase in phases {
                    if !self.wanted.contains(&phase) {
                        self.wanted.push(phase);
                    }
                }
            }
            Request::Pause { time, because } => {
                let state = &mut self.state;
                self.pause
                    .begin(state, time, because, unix_now(), Instant::now());
                self.remember();
                self.wait_for_writes().await;
                self.show_pause();
            }
            Request::Resume => {
                self.pause.end(&mut self.state);
                // The operator who paused it has worked on the host, so attempts are counted from 0.
                self.forget_attempts();
                self.ask_again();
                self.resumed = true;
                self.remember();
                self.wait_for_writes().await;
                self.show_pause();
            }
        }
        let saved = match self.unwritten.state.problem() {
            "" => Ok(()),
            problem => Err(problem.to_owned()),
        };
        // A sender that does not wait has dropped its receiver.
        let _ = pending.taken.send(saved);
    }

    /// Shows the pause in the view at once, not only after the next pass.
    fn show_pause(&self) {
        let seen = self.view.borrow().clone();
        if let Some(seen) = seen {
            let mut view = View::clone(&seen);
            view.show_pause(&self.now());
            self.view.send_replace(Some(Arc::new(view)));
        }
    }

    /// Requests another pass: a pass under way may have made its checks before the request.
    fn ask_again(&mut self) {
        self.skip_backoff = true;
        self.again = true;
    }
}
