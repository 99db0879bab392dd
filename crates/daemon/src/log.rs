//! The daemon's log: one line per event to standard error, which systemd keeps in its journal.

use tracing_subscriber::EnvFilter;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts the log. `variable` names the environment variable that overrides `filter` (the syntax of `tracing`'s
/// `EnvFilter`). A second call does nothing.
pub fn start(variable: &str, filter: &str, format: Format) {
    let filter = EnvFilter::try_from_env(variable).unwrap_or_else(|_| EnvFilter::new(filter));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        // They would go to the standard error that cannot be written, with a panic.
        .log_internal_errors(false);
    // The journal has its own times.
    let _ = match format {
        Format::Text => lines.without_time().try_init(),
        Format::Json => lines.json().try_init(),
    };
}
