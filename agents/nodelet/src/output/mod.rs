//! What a command writes: reports to standard output, everything else to standard error.
//!
//! This file chooses the report of a run, and remembers the first error of writing to standard output. `error_report` is the report of
//! a failed command, as text or JSON. `problem` has the problems of refused input, as fields. `exit` has the exit codes.
//!
//! Not here: the texts about plans and runs (`engine::report`). Start with `error_report`.

pub(crate) mod error_report;
pub(crate) mod exit;
pub(crate) mod problem;

use std::io::{IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};

use engine::exec::EventSink;
use engine::report::{Detail, JsonReport, ProgressReport, TextReport};

/// Why standard output could not be written, the first time.
static FAILURE: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Most lines of a plan that a terminal shows in full.
const LONG: usize = 60;

/// Standard output. A closed pipe is no failure: its reader needed no more. Any other write error is reported at the end, because the
/// caller did not get the result.
#[derive(Debug)]
pub(crate) struct Out(std::io::Stdout);

impl Out {
    pub(crate) fn new() -> Self {
        Self(std::io::stdout())
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        note(self.0.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        note(self.0.flush())
    }
}

fn note<T>(result: std::io::Result<T>) -> std::io::Result<T> {
    if let Err(error) = &result
        && error.kind() != std::io::ErrorKind::BrokenPipe
        && error.kind() != std::io::ErrorKind::Interrupted
    {
        let mut first = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| {
            error
                .raw_os_error()
                .map_or_else(|| error.kind().into(), std::io::Error::from_raw_os_error)
        });
    }
    result
}

/// The first error of writing to standard output, if there was one. Flushes the buffer first.
pub(crate) fn failure() -> Option<std::io::Error> {
    let _ = Out::new().flush();
    let mut first = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    first.take()
}

/// Whether a person at a terminal would have to scroll back to read the text.
pub(crate) fn is_long_for_a_terminal(text: &str) -> bool {
    std::io::stdout().is_terminal() && text.lines().count() > LONG
}

/// JSON where asked for, progress on a terminal, plain lines otherwise.
pub(crate) fn sink(json: bool) -> Box<dyn EventSink> {
    let detail = Detail {
        unchanged: false,
        diffs: false,
        times: true,
    };
    if json {
        Box::new(JsonReport::new(Out::new()))
    } else if std::io::stdout().is_terminal() && std::io::stderr().is_terminal() {
        Box::new(ProgressReport::new(detail))
    } else {
        Box::new(TextReport::new(Out::new(), detail))
    }
}

/// Writes to standard output. An error is reported when the command ends.
pub(crate) fn say(text: &str) {
    let _ = try_print(text);
}

/// The same; returns whether the text could be written.
pub(crate) fn try_print(text: &str) -> bool {
    let mut out = Out::new();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}
