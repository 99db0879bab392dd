//! The typed value of a setting, and how it is printed. A secret is always printed as a reference.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

/// A checked value. The empty value of a key that may be empty is `Text("")`, an empty list or an empty secret,
/// also for a kind such as an integer.
#[derive(Clone, PartialEq, Eq)]
pub enum SettingValue {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number, a port among them.
    Integer(i64),
    /// Text of any kind: names, paths, images, choices.
    Text(String),
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// A network without host bits.
    Cidr(IpNet),
    /// A span of time.
    Duration(Duration),
    /// Flags or addresses, in the order given.
    List(Vec<String>),
    /// A value that is never shown.
    Secret(SecretText),
}

impl SettingValue {
    /// Whether the value is the empty text, list or secret: "not chosen".
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Secret(secret) => secret.is_empty(),
            Self::Bool(_)
            | Self::Integer(_)
            | Self::Address(_)
            | Self::Cidr(_)
            | Self::Duration(_) => false,
        }
    }
}

/// The text that stands in kube.env; for a secret its reference.
impl fmt::Display for SettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Address(address) => address.fmt(f),
            Self::Cidr(network) => network.fmt(f),
            Self::Duration(span) => f.write_str(&duration_text(*span)),
            Self::List(items) => f.write_str(&items.join(",")),
            Self::Secret(secret) => secret.fmt(f),
        }
    }
}

impl fmt::Debug for SettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::List(items) => write!(f, "{items:?}"),
            other => write!(f, "{other}"),
        }
    }
}

/// A span of whole seconds as one number and one unit, `26h` instead of `1day 2h`, so that scripts get no blanks.
pub(crate) fn duration_text(span: Duration) -> String {
    let seconds = span.as_secs();
    if span.subsec_nanos() > 0 {
        humantime::format_duration(span).to_string()
    } else if seconds == 0 || !seconds.is_multiple_of(60) {
        format!("{seconds}s")
    } else if !seconds.is_multiple_of(3600) {
        format!("{}m", seconds / 60)
    } else {
        format!("{}h", seconds / 3600)
    }
}

/// Booleans, numbers and lists keep their type; the rest is text as in kube.env, secrets as references.
impl Serialize for SettingValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::List(items) => serializer.collect_seq(items),
            other => serializer.collect_str(other),
        }
    }
}

/// The text of a secret setting. Every way of printing it gives the reference.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText {
    key: Cow<'static, str>,
    text: String,
}

impl SecretText {
    /// Wraps the text of `key`.
    pub(crate) fn new(key: impl Into<Cow<'static, str>>, text: String) -> Self {
        let key = key.into();
        Self { key, text }
    }

    /// The reference that plans, events and logs show instead: `secret:kube/KEY`.
    pub fn reference(&self) -> String {
        format!("secret:kube/{}", self.key)
    }

    /// The text itself. Call it inside converge only, where kube.env or a client needs it, or for a parameter of the role that is no
    /// secret.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Whether no secret was given.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

impl fmt::Display for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret:kube/{}", self.key)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
