//! Which report a run writes.

use std::io::IsTerminal as _;

use engine::exec::EventSink;
use engine::report::{Detail, JsonReport, ProgressReport, TextReport};

/// JSON where asked for, progress on a terminal, plain lines otherwise.
pub(crate) fn sink(json: bool) -> Box<dyn EventSink> {
    let detail = Detail {
        unchanged: false,
        diffs: false,
        times: true,
    };
    if json {
        Box::new(JsonReport::new(std::io::stdout()))
    } else if std::io::stdout().is_terminal() && std::io::stderr().is_terminal() {
        Box::new(ProgressReport::new(detail))
    } else {
        Box::new(TextReport::new(std::io::stdout(), detail))
    }
}
