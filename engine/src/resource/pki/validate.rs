//! Refuses invalid specifications before they are used.
//!
//! Paths and names come from scripts and parameters. A path must not leave its directory, and a name must not change another
//! field of a certificate.

use std::time::Duration;

use super::PkiError;

/// Maximum number of components in a certificate path such as `kubelet/server`.
const DEPTH: usize = 3;

/// Maximum length of a name. RFC 5280 allows 64 for a common name, but `system:node:` and a node name may be longer, and
/// both Go and OpenSSL accept it.
const LONGEST_NAME: usize = 255;

/// A day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Shortest validity: certificates count whole seconds, and a renewal takes some.
const SHORTEST: Duration = Duration::from_secs(60);

/// Longest validity in years.
const MOST_YEARS: u32 = 100;

/// One component of a path: lower-case letters, digits, `-`, `_` and dots, but no dot at its start.
pub(crate) fn component(field: &'static str, value: &str) -> Result<(), PkiError> {
    let fits = !value.is_empty()
        && value.len() <= 63
        && !value.starts_with('.')
        && value.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.')
        });
    check(
        fits,
        field,
        value,
        "use lower-case letters, digits, `-` and `_`",
    )
}

/// A path of a certificate below `certs`.
pub(crate) fn path(field: &'static str, value: &str) -> Result<(), PkiError> {
    let depth = value.split('/').count();
    check(
        depth <= DEPTH,
        field,
        value,
        "it is deeper than three directories",
    )?;
    value.split('/').try_for_each(|part| component(field, part))
}

/// A name of a subject.
pub(crate) fn name(field: &'static str, value: &str) -> Result<(), PkiError> {
    let fits = !value.trim().is_empty()
        && value.len() <= LONGEST_NAME
        && !value.chars().any(char::is_control);
    check(
        fits,
        field,
        value,
        "it is empty, longer than 255 bytes, or holds control characters",
    )
}

/// A DNS name; its first label may be `*`.
pub(super) fn dns_name(field: &'static str, value: &str) -> Result<(), PkiError> {
    let rest = value.strip_prefix("*.").unwrap_or(value);
    let fits = value.len() <= 253
        && rest.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        });
    check(fits, field, value, "it is not a DNS name")
}

/// A length of validity.
pub(super) fn life(field: &'static str, value: Duration) -> Result<(), PkiError> {
    let fits = (SHORTEST..=DAY * 365 * MOST_YEARS).contains(&value);
    check(
        fits,
        field,
        &life_text(value),
        "use at least one minute and at most 100 years",
    )
}

/// A length of validity as text: in days if it is a whole number of days.
pub(super) fn life_text(value: Duration) -> String {
    let seconds = value.as_secs();
    if seconds > 0 && seconds.is_multiple_of(DAY.as_secs()) {
        format!("{} days", seconds / DAY.as_secs())
    } else {
        humantime::format_duration(value).to_string()
    }
}

/// Serializes a length of validity in plans as text.
pub(super) mod life_in_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::resource::pki) fn serialize<S: Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::life_text(*value))
    }

    pub(in crate::resource::pki) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(serde::de::Error::custom)
    }
}

/// A length of validity in years.
pub(super) fn years(field: &'static str, value: u32) -> Result<(), PkiError> {
    let fits = (1..=MOST_YEARS).contains(&value);
    check(
        fits,
        field,
        &value.to_string(),
        "use at least one and at most 100 years",
    )
}

/// The URL of an API server.
pub(crate) fn server(field: &'static str, value: &str) -> Result<(), PkiError> {
    let fits = value
        .strip_prefix("https://")
        .is_some_and(|rest| !rest.is_empty())
        && value.len() <= 512
        && !value.chars().any(|c| c.is_control() || c.is_whitespace());
    check(fits, field, value, "it is not an https URL")
}

/// An error unless `fits`.
pub(super) fn check(
    fits: bool,
    field: &'static str,
    value: &str,
    problem: &'static str,
) -> Result<(), PkiError> {
    if fits {
        return Ok(());
    }
    Err(PkiError::Invalid {
        field,
        value: value.escape_default().take(300).collect(),
        problem,
    })
}
