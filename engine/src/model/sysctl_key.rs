//! Names of kernel settings, as sysctl.d(5) defines them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name in bytes. It is a part of the name of a file, which has at most 255 bytes.
const LONGEST: usize = 200;

/// The name of a kernel setting, for example `net.ipv4.ip_forward`. A dot separates its parts, and a slash stands for a dot within a
/// part: `net.ipv4.conf.eth0/100.rp_filter` is the setting of the link `eth0.100`.
///
/// [`str::parse`] checks a name. A name in a record was checked by the release that wrote the record, so reading it cannot fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SysctlKey(String);

/// The text is not the name of a kernel setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a kernel setting")]
pub struct InvalidSysctlKey(String);

impl SysctlKey {
    /// The name as text, with dots between its parts.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The file in which the kernel has the setting.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/sys/{}", exchanged(&self.0)))
    }

    /// The name as a part of the name of a file. It has no slash, because systemd reads no files in subdirectories.
    #[must_use]
    pub fn in_file_name(&self) -> String {
        self.0.replace('/', ".")
    }
}

impl FromStr for SysctlKey {
    type Err = InvalidSysctlKey;

    /// Reads both spellings of sysctl.d(5): if the first separator is a slash, slashes separate, and dots are parts of names.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = match text.find(['.', '/']) {
            Some(at) if text[at..].starts_with('/') => text.to_owned(),
            _ => exchanged(text),
        };
        let is_name = |part: &str| !matches!(part, "" | "." | "..");
        // All directories in /proc/sys contain settings; none lies beside them. systemd reads a line that begins with `#` or `;` as a
        // comment, and ignores errors of one that begins with `-`.
        let fits = path.len() <= LONGEST
            && path.contains('/')
            && path.split('/').all(is_name)
            && !path.starts_with(['#', ';', '-'])
            && path.chars().all(is_plain);
        if fits {
            Ok(Self(exchanged(&path)))
        } else {
            Err(InvalidSysctlKey(text.escape_debug().to_string()))
        }
    }
}

impl fmt::Display for SysctlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whether a character stands for itself in a file of sysctl.d(5). An `=` ends the name, and the others are wildcards.
fn is_plain(one: char) -> bool {
    one.is_ascii_graphic() && !matches!(one, '=' | '*' | '?' | '[' | ']' | '\\')
}

/// The text with dots instead of slashes, and slashes instead of dots.
fn exchanged(text: &str) -> String {
    text.chars()
        .map(|one| match one {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_one_setting() {
        for (written, key, path, in_file_name) in [
            (
                "net.ipv4.ip_forward",
                "net.ipv4.ip_forward",
                "/proc/sys/net/ipv4/ip_forward",
                "net.ipv4.ip_forward",
            ),
            (
                "net/ipv4/ip_forward",
                "net.ipv4.ip_forward",
                "/proc/sys/net/ipv4/ip_forward",
                "net.ipv4.ip_forward",
            ),
            (
                "net.ipv4.conf.eth0/100.rp_filter",
                "net.ipv4.conf.eth0/100.rp_filter",
                "/proc/sys/net/ipv4/conf/eth0.100/rp_filter",
                "net.ipv4.conf.eth0.100.rp_filter",
            ),
            (
                "net/ipv4/conf/eth0.100/rp_filter",
                "net.ipv4.conf.eth0/100.rp_filter",
                "/proc/sys/net/ipv4/conf/eth0.100/rp_filter",
                "net.ipv4.conf.eth0.100.rp_filter",
            ),
            (
                "net.bridge.bridge-nf-call-iptables",
                "net.bridge.bridge-nf-call-iptables",
                "/proc/sys/net/bridge/bridge-nf-call-iptables",
                "net.bridge.bridge-nf-call-iptables",
            ),
        ] {
            let parsed: SysctlKey = written.parse().unwrap();
            assert_eq!(parsed.as_str(), key, "{written}");
            assert_eq!(parsed.path(), PathBuf::from(path), "{written}");
            assert_eq!(parsed.in_file_name(), in_file_name, "{written}");
            assert_eq!(key.parse(), Ok(parsed), "{written}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for wrong in [
            "",
            "/",
            "..",
            "panic",
            "net..ip_forward",
            ".net.ipv4",
            "net.ipv4.",
            "/net/ipv4/ip_forward",
            "net//ip_forward",
            "net/../../etc/passwd",
            "net.//.//.etc",
            "net.ipv4.conf.*.rp_filter",
            "net.ipv4.ip_forward=1",
            "net.ipv4.ip forward",
            "net.ipv4.ip_forward\n",
            "-net.ipv4.ip_forward",
            "#net.ipv4.ip_forward",
            "net.ipv4.größe",
        ] {
            assert!(wrong.parse::<SysctlKey>().is_err(), "{wrong}");
        }
        let long = format!("net.{}", "a".repeat(LONGEST));
        assert!(long.parse::<SysctlKey>().is_err());
    }

    #[test]
    fn a_record_has_the_name_as_text() {
        let key: SysctlKey = "kernel.panic".parse().unwrap();
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(text, "\"kernel.panic\"");
        assert_eq!(serde_json::from_str::<SysctlKey>(&text).unwrap(), key);
    }
}
