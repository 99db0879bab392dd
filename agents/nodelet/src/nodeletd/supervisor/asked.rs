//! What others ask of the loop. It is taken while the loop waits and while it looks, so that what is decided afterwards goes by it;
//! during a change it waits for the change's end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Supervisor, unix_now};
use crate::nodeletd::view::View;
use crate::nodeletd::worker::Hands;
use crate::pass::Pass;

/// What others ask of the daemon.
#[derive(Debug, Clone)]
pub(in crate::nodeletd) enum Request {
    /// Look now, and do not wait for the next attempt.
    Now,
    /// Restart these phases and what needs them.
    Repair(Vec<String>),
    /// Touch nothing for so long.
    Pause { time: Duration, because: String },
    /// Go on.
    Resume,
}

/// A request, and who waits until it is in force.
#[derive(Debug)]
pub(in crate::nodeletd) struct Asked {
    pub(in crate::nodeletd) request: Request,
    pub(in crate::nodeletd) taken: oneshot::Sender<()>,
}

impl Request {
    /// Ready to be sent. What it comes with ends once the request is in force.
    pub(in crate::nodeletd) fn asked(self) -> (Asked, oneshot::Receiver<()>) {
        let (taken, in_force) = oneshot::channel();
        let asked = Asked {
            request: self,
            taken,
        };
        (asked, in_force)
    }
}

impl<H: Hands> Supervisor<H> {
    /// Makes a pass, and takes what is asked meanwhile.
    ///
    /// # Errors
    /// It did not come to its end.
    pub(super) async fn look(&mut self) -> Result<Pass> {
        let hands = Arc::clone(&self.hands);
        let group = self.group.joined().cloned();
        let before = self.streaks.clone();
        let (progress, mut checking) = mpsc::unbounded_channel();
        let looking = hands.pass(group.as_ref(), &before, progress);
        tokio::pin!(looking);
        let pass = loop {
            tokio::select! {
                Some(asked) = self.requests.recv() => self.take_request(asked).await,
                Some(phase) = checking.recv() => self.is_checking(&phase),
                pass = &mut looking => break pass,
            }
        };
        self.take_waiting().await;
        pass
    }

    /// Takes what has been asked by now.
    pub(super) async fn take_waiting(&mut self) {
        while let Ok(asked) = self.requests.try_recv() {
            self.take_request(asked).await;
        }
    }

    pub(super) async fn take_request(&mut self, asked: Asked) {
        match asked.request {
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
                self.settle().await;
                self.show_pause();
            }
            Request::Resume => {
                self.pause.end(&mut self.state);
                // Whoever paused it has done something about it.
                self.forget_attempts();
                self.ask_again();
                self.remember();
                self.settle().await;
                self.show_pause();
            }
        }
        // Who does not wait for it needs no answer.
        let _ = asked.taken.send(());
    }

    /// Whoever asks next sees it, and not only after the next pass.
    fn show_pause(&self) {
        let seen = self.view.borrow().clone();
        if let Some(seen) = seen {
            let mut view = View::clone(&seen);
            view.show_pause(&self.now());
            self.view.send_replace(Some(Arc::new(view)));
        }
    }

    /// A pass that is on may have looked already.
    fn ask_again(&mut self) {
        self.hurry = true;
        self.again = true;
    }
}
