//! The types of the table in `keys.rs`, which describe a setting. `check.rs` checks text against them.

use std::fmt;
use std::time::Duration;

use super::value::duration_text;

/// One kube.env variable.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The variable's name, upper case with underscores.
    pub name: &'static str,
    /// What text it accepts.
    pub kind: Kind,
    /// The value if no file gives one.
    pub default: DefaultValue,
    /// One sentence for people, with units.
    pub doc: &'static str,
    /// Whether the value must never be shown. Everywhere except in kube.env it is written as `secret:kube/NAME`.
    pub secret: bool,
    /// Whether all masters of a cluster have the same value. One that joins is compared with the others.
    pub shared: bool,
    /// Its heading in `kube.env.template`.
    pub group: &'static str,
}

impl Key {
    /// Whether the empty text is accepted. It is if it is the default, and then means "not chosen".
    pub fn may_be_empty(&self) -> bool {
        matches!(self.default, DefaultValue::Value(""))
    }
}

/// The value of a key that no file gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// No default: a file must give the value.
    Required,
    /// This text, of the key's kind.
    Value(&'static str),
    /// Other keys' values: a pattern with `${NAME}` in it, filled in at the end of the merge.
    Derived(&'static str),
}

/// The type of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A decimal whole number within both bounds, inclusive.
    Integer {
        /// The smallest accepted.
        min: i64,
        /// The largest accepted.
        max: i64,
    },
    /// Any text.
    Text,
    /// A DNS-1123 name: lower-case labels, digits and dashes, at most 253 characters.
    Name,
    /// A DNS-1123 name, or an IPv4 or IPv6 address without brackets.
    HostOrAddress,
    /// An IPv4 or IPv6 address.
    Address,
    /// A network in CIDR form, without host bits.
    Cidr,
    /// A TCP port.
    Port,
    /// An absolute path below `/`, without `.` and `..`.
    Path,
    /// A humantime duration within both bounds, inclusive, in seconds.
    Duration {
        /// The shortest accepted, in seconds.
        min: u64,
        /// The longest accepted, in seconds.
        max: u64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A UUID in its 36-character form.
    Uuid,
    /// Comma-separated command line flags, `--a=b,--c=d,e`; a comma before `--` separates.
    FlagList,
    /// Comma-separated `http://` or `https://` addresses.
    UrlList,
    /// The address of an HTTP proxy, without user and password.
    ProxyUrl,
    /// Comma-separated names, addresses and networks that are reached without a proxy.
    ProxyExceptions,
    /// Five cron fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    Cron,
    /// An image with a tag or a digest.
    ImageReference,
    /// The registry part of an image: host, optional port, optional path.
    Registry,
    /// A version `v1.20.2`.
    Version,
    /// A size in docker's form: digits and `k`, `m` or `g` (powers of 1024).
    Size,
    /// The name of a network interface, at most 15 bytes.
    Interface,
    /// A CPU list in the kernel's form, `0-1,4`.
    CpuSet,
}

/// What the values of a kind are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueType {
    Bool,
    Integer,
    Text,
    Texts,
}

impl Kind {
    /// What its values are.
    pub(crate) fn value_type(self) -> ValueType {
        match self {
            Self::Bool => ValueType::Bool,
            Self::Integer { .. } | Self::Port => ValueType::Integer,
            Self::FlagList | Self::UrlList => ValueType::Texts,
            Self::Text
            | Self::Name
            | Self::HostOrAddress
            | Self::Address
            | Self::Cidr
            | Self::Path
            | Self::Duration { .. }
            | Self::Choice(_)
            | Self::Uuid
            | Self::ProxyUrl
            | Self::ProxyExceptions
            | Self::Cron
            | Self::ImageReference
            | Self::Registry
            | Self::Version
            | Self::Size
            | Self::Interface
            | Self::CpuSet => ValueType::Text,
        }
    }
}

/// Completes "expected ...".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("`true` or `false`"),
            Self::Integer { min, max } => write!(f, "a whole number ({min}-{max})"),
            Self::Text => f.write_str("text"),
            Self::Name => f.write_str("a DNS name (lower-case letters, digits, dashes and dots)"),
            Self::HostOrAddress => f.write_str("a DNS name or an IP address"),
            Self::Address => f.write_str("an IP address"),
            Self::Cidr => f.write_str("a network such as `10.20.0.0/16`"),
            Self::Port => f.write_str("a port (1-65535)"),
            Self::Path => f.write_str("an absolute path below `/`"),
            Self::Duration { min, max } => write!(
                f,
                "a duration such as `60s` or `10m` (from {} to {})",
                duration_text(Duration::from_secs(*min)),
                duration_text(Duration::from_secs(*max)),
            ),
            Self::Choice(words) => {
                f.write_str(if words.len() == 1 { "" } else { "one of " })?;
                for (index, word) in words.iter().enumerate() {
                    write!(f, "{}`{word}`", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Uuid => f.write_str("a UUID"),
            Self::FlagList => {
                f.write_str("comma-separated flags such as `--v=2,--profiling=false`")
            }
            Self::UrlList => f.write_str("comma-separated http or https addresses"),
            Self::ProxyUrl => f.write_str(
                "a proxy address such as `http://proxy:3128`, without user and password",
            ),
            Self::ProxyExceptions => f.write_str(
                "comma-separated names, addresses and networks such as `.example.com,10.0.0.0/8`",
            ),
            Self::Cron => f.write_str("a cron schedule of five fields such as `0 3 * * *`"),
            Self::ImageReference => f.write_str("an image with a tag or a digest"),
            Self::Registry => f.write_str("a registry such as `k8s.gcr.io` or `host:5001/path`"),
            Self::Version => f.write_str("a version such as `v1.20.2`"),
            Self::Size => f.write_str("a size such as `10m` (k, m or g)"),
            Self::Interface => {
                f.write_str("a network interface name (1-15 bytes, no blanks, no `/`)")
            }
            Self::CpuSet => f.write_str("a CPU list such as `0-1,4`"),
        }
    }
}
