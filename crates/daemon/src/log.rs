//! The daemon's log: one line per event to standard error, which systemd keeps in its journal.

use std::sync::OnceLock;

use serde::Deserialize;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};

/// How the log is written, as a daemon's configuration says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is written.
    pub filter: Filter,
    /// How lines look.
    pub format: Format,
}

/// What is written: `error`, `warn`, `info`, `debug` or `trace`, or directives in the syntax of `tracing`'s `EnvFilter`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        // The user of a connection logs its end, if it matters.
        Self("info,kube_client=off".to_owned())
    }
}

impl TryFrom<String> for Filter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match EnvFilter::try_new(&text) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(format!("`{text}` is not a filter of the log: {error}")),
        }
    }
}

/// How lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The handle to change the filter of the log that was started, and the filter at its start.
static STARTED: OnceLock<(Handle<EnvFilter, Registry>, String)> = OnceLock::new();

/// Starts the log. `variable` names the environment variable that overrides the filter. A second call does nothing.
pub fn start(variable: &str, log: &Log) {
    let filter_text = std::env::var(variable).ok();
    let filter_text = filter_text.filter(|text| EnvFilter::try_new(text).is_ok());
    let usual = filter_text.unwrap_or_else(|| log.filter.0.clone());
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&usual));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        // They would be written to the same standard error, and panic if that fails.
        .log_internal_errors(false);
    let lines = match log.format {
        // The journal has its own times.
        Format::Text => lines.without_time().boxed(),
        Format::Json => lines.json().boxed(),
    };
    let all = tracing_subscriber::registry().with(filter).with(lines);
    if all.try_init().is_ok() {
        let _ = STARTED.set((handle, usual));
    }
}

/// Turns the debug messages of the crates named `ours` on, or returns to the filter of the start. Does nothing if no log was started.
pub fn debug(ours: &[&str], on: bool) {
    if let Some((handle, usual)) = STARTED.get() {
        // It fails only where the log has gone.
        let _ = handle.reload(EnvFilter::new(with_debug(usual, ours, on)));
    }
}

/// The filter with debug directives for these crates, which override its own directives for them.
fn with_debug(usual: &str, ours: &[&str], on: bool) -> String {
    let more = ours.iter().filter(|_| on);
    let all = std::iter::once(usual.to_owned()).chain(more.map(|name| format!("{name}=debug")));
    all.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_one_that_can_be_used() {
        let read =
            |text: &str| serde_yaml::from_str::<Log>(text).map_err(|error| error.to_string());
        let log = read("filter: warn,nodelet=debug\nformat: json\n").expect("it is right");
        assert_eq!(log.format, Format::Json);
        let wrong = read("filter: nodelet=loud\n").expect_err("no such level");
        assert!(wrong.contains("is not a filter of the log"), "{wrong}");
        assert!(read("format: xml\n").is_err());
    }

    #[test]
    fn debug_logs_cover_only_our_crates_and_can_be_switched_off() {
        let ours = ["nodelet", "daemon"];
        assert_eq!(with_debug("warn,zbus=off", &ours, false), "warn,zbus=off");
        let more = with_debug("info,nodelet=warn", &ours, true);
        assert_eq!(more, "info,nodelet=warn,nodelet=debug,daemon=debug");
        let filter = EnvFilter::new(more).to_string();
        assert!(filter.contains("nodelet=debug"), "{filter}");
        assert!(!filter.contains("nodelet=warn"), "{filter}");
    }

    /// One log for the whole process: this is the only test that starts it.
    #[test]
    fn the_filter_of_a_running_log_can_be_changed() {
        let log = Log {
            filter: Filter("error".to_owned()),
            format: Format::Json,
        };
        start("NO_SUCH_VARIABLE_OF_A_LOG", &log);
        let heard = || tracing::enabled!(target: "daemon::log", tracing::Level::DEBUG);
        assert!(!heard());
        debug(&["daemon"], true);
        assert!(heard());
        debug(&["daemon"], false);
        assert!(!heard());
    }
}
