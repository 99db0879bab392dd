//! One line per step of the set-up: `[3/9] kubernetes 1.20.2 … building … done in 241 s`.
//!
//! On a terminal the seconds count up in the line while a step works; elsewhere (a log) each line is written once.

use std::cell::Cell;
use std::fmt::Display;
use std::io::{IsTerminal, Write, stdout};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Counts steps and prints their lines.
pub struct Progress {
    total: usize,
    at: Cell<usize>,
}

impl Progress {
    /// Progress over `total` steps.
    pub fn new(total: usize) -> Self {
        Self {
            total,
            at: Cell::new(0),
        }
    }

    /// Runs one step. The step reports `building` and the like through the function it is given, or nothing if all was there
    /// already.
    pub fn step<T>(
        &self,
        name: impl Display,
        work: impl FnOnce(&dyn Fn(&str)) -> Result<T>,
    ) -> Result<T> {
        self.at.set(self.at.get() + 1);
        let start = format!("[{}/{}] {name} …", self.at.get(), self.total);
        let line = Mutex::new(start.clone());
        let began = Instant::now();
        print(&start);
        let (finished, wait) = channel::<()>();
        let result = thread::scope(|scope| {
            if stdout().is_terminal() {
                let line = &line;
                scope.spawn(move || {
                    while wait.recv_timeout(Duration::from_secs(1))
                        == Err(RecvTimeoutError::Timeout)
                    {
                        let text = line.lock().unwrap_or_else(PoisonError::into_inner);
                        print(&format!("\r\x1b[2K{text} {} s", began.elapsed().as_secs()));
                    }
                });
            }
            let result = work(&|word| {
                let mut text = line.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&format!(" {word} …"));
                print(&format!(" {word} …"));
            });
            drop(finished);
            result
        });
        let text = line.into_inner().unwrap_or_else(PoisonError::into_inner);
        if stdout().is_terminal() {
            print(&format!("\r\x1b[2K{text}"));
        }
        println!(
            " {}",
            outcome(result.is_ok(), text != start, began.elapsed())
        );
        result.with_context(|| {
            format!("the set-up stopped at `{name}`; run it again to go on from there")
        })
    }
}

fn outcome(fine: bool, worked: bool, took: Duration) -> String {
    match (fine, worked) {
        (true, false) => "cached".to_owned(),
        (true, true) => format!("done in {:.0} s", took.as_secs_f64()),
        (false, _) => format!("failed after {:.0} s", took.as_secs_f64()),
    }
}

/// Prints without a line end. A closed standard output is no reason to give up the set-up.
fn print(text: &str) {
    let mut out = stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_came_of_a_step() {
        let took = Duration::from_millis(240_600);
        assert_eq!(outcome(true, false, took), "cached");
        assert_eq!(outcome(true, true, took), "done in 241 s");
        assert_eq!(outcome(false, true, took), "failed after 241 s");
    }
}
