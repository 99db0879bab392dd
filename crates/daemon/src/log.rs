//! The daemon's log: one line per event to standard error, which systemd keeps in its journal.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

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
        Self("info".to_owned())
    }
}

impl TryFrom<String> for Filter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match EnvFilter::try_new(&text) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(format!("`{text}` is no filter of the log: {error}")),
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

/// Starts the log. `variable` names the environment variable that overrides the filter. A second call does nothing.
pub fn start(variable: &str, log: &Log) {
    let filter =
        EnvFilter::try_from_env(variable).unwrap_or_else(|_| EnvFilter::new(&log.filter.0));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        // They would go to the standard error that cannot be written, with a panic.
        .log_internal_errors(false);
    // The journal has its own times.
    let _ = match log.format {
        Format::Text => lines.without_time().try_init(),
        Format::Json => lines.json().try_init(),
    };
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
        assert!(wrong.contains("is no filter of the log"), "{wrong}");
        assert!(read("format: xml\n").is_err());
    }
}
