//! Chooses the report that a run writes to standard output, and remembers the first error of writing there.

use std::io::{IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};

use engine::exec::EventSink;
use engine::report::{Detail, JsonReport, ProgressReport, TextReport};

/// Why standard output could not be written, the first time.
static FAILURE: Mutex<Option<std::io::Error>> = Mutex::new(None);

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
