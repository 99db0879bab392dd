//! Checks text against a [`Key`]: gives the typed value, or what was expected instead. Pure; the caller adds positions.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::key::{Key, Kind, ValueType};
use super::names;
use super::value::{SecretText, SettingValue};
use crate::env::source::layers::MAX_VALUE_BYTES;
use crate::model::closest;
use crate::schedule::Schedule;

/// Why a text is not a value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Completes "expected ...".
    pub expected: String,
    /// What to write instead, if that is clear; completes the message after a semicolon.
    pub help: Option<String>,
}

impl Key {
    /// The value that `text` stands for. The empty text is a value only if it is the default.
    pub fn parse(&self, text: &str) -> Result<SettingValue, Refusal> {
        if text.len() > MAX_VALUE_BYTES {
            return Err(refusal(format!("at most {MAX_VALUE_BYTES} bytes"), None));
        }
        if text.contains('\0') {
            return Err(refusal("text without NUL characters".into(), None));
        }
        let value = if text.is_empty() && self.may_be_empty() {
            self.empty()
        } else {
            value(self.kind, text).map_err(|help| refusal(self.kind.to_string(), help))?
        };
        Ok(if self.secret {
            SettingValue::Secret(SecretText::new(self.name, text.to_owned()))
        } else {
            value
        })
    }

    /// Whether a message must not repeat a wrong text, because it is a secret or may contain one.
    pub(crate) fn hides_wrong_text(&self) -> bool {
        self.secret || matches!(self.kind, Kind::ProxyUrl | Kind::UrlList | Kind::FlagList)
    }

    /// The value that says "not chosen".
    fn empty(&self) -> SettingValue {
        match self.kind.value_type() {
            ValueType::Texts => SettingValue::List(Vec::new()),
            ValueType::Bool | ValueType::Integer | ValueType::Text => {
                SettingValue::Text(String::new())
            }
        }
    }
}

fn refusal(expected: String, help: Option<String>) -> Refusal {
    Refusal { expected, help }
}

/// The value of one kind, or a help text.
fn value(kind: Kind, text: &str) -> Result<SettingValue, Option<String>> {
    let known = |good: bool| {
        good.then(|| SettingValue::Text(text.to_owned()))
            .ok_or(None)
    };
    match kind {
        Kind::Bool => boolean(text),
        Kind::Integer { min, max } => number(text)
            .filter(|number| (min..=max).contains(number))
            .map(SettingValue::Integer)
            .ok_or(None),
        Kind::Port => number(text)
            .filter(|number| (1..=65_535).contains(number))
            .map(SettingValue::Integer)
            .ok_or(None),
        Kind::Text => Ok(SettingValue::Text(text.to_owned())),
        Kind::Name if names::is_dns_name(text) => Ok(SettingValue::Text(text.to_owned())),
        Kind::Name => Err(lower_case(text)),
        Kind::Address => text.parse().map(SettingValue::Address).map_err(|_| None),
        Kind::HostOrAddress => match text.parse::<IpAddr>() {
            Ok(address) => Ok(SettingValue::Address(address)),
            Err(_) if names::is_host_name(text) => Ok(SettingValue::Text(text.to_owned())),
            Err(_) => Err(lower_case(text)),
        },
        Kind::Cidr => network(text),
        Kind::Path => known(is_path(text)),
        Kind::Duration { min, max } => duration(text, min, max),
        Kind::Choice(words) if words.contains(&text) => Ok(SettingValue::Text(text.to_owned())),
        Kind::Choice(words) => Err(closest(&text.to_lowercase(), words.iter().copied())
            .map(|word| format!("did you mean `{word}`?"))),
        Kind::FlagList => flags(text),
        Kind::UrlList => {
            let items: Vec<String> = text.split(',').map(str::to_owned).collect();
            items
                .iter()
                .all(|item| names::is_http_url(item))
                .then_some(SettingValue::List(items))
                .ok_or(None)
        }
        Kind::ProxyUrl => known(names::is_http_url(text)),
        Kind::ProxyExceptions => known(names::are_proxy_exceptions(text)),
        Kind::Uuid => known(names::is_uuid(text)),
        Kind::Cron => text
            .parse::<Schedule>()
            .map(|_| SettingValue::Text(text.to_owned()))
            .map_err(|error| Some(error.to_string())),
        Kind::ImageReference => known(names::is_image(text)),
        Kind::Registry => known(names::is_registry(text)),
        Kind::Version => known(names::is_version(text)),
        Kind::Size => known(text.strip_suffix(['k', 'm', 'g']).is_some_and(|digits| {
            digits.len() <= 9 && digits != "0" && names::is_plain_number(digits)
        })),
        Kind::Interface => known(
            text.len() <= 15
                && text != "."
                && text != ".."
                && text
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && b != b'/' && b != b':'),
        ),
        Kind::CpuSet => known(names::is_cpu_set(text)),
    }
}

fn boolean(text: &str) -> Result<SettingValue, Option<String>> {
    match text {
        "true" => Ok(SettingValue::Bool(true)),
        "false" => Ok(SettingValue::Bool(false)),
        _ => Err(match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "y" | "1" => Some("write `true`".to_owned()),
            "false" | "no" | "off" | "n" | "0" => Some("write `false`".to_owned()),
            _ => None,
        }),
    }
}

fn number(text: &str) -> Option<i64> {
    names::is_plain_number(text)
        .then(|| text.parse().ok())
        .flatten()
}

/// Help for names that differ only in case.
fn lower_case(text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    (lower != text && names::is_dns_name(&lower)).then(|| format!("write `{lower}`"))
}

fn network(text: &str) -> Result<SettingValue, Option<String>> {
    // ipnet reads numbers with leading zeros as decimal; other programs read them as octal.
    let plain = text
        .split_once('/')
        .is_none_or(|(address, _)| address.parse::<IpAddr>().is_ok());
    let Some(network) = text.parse::<IpNet>().ok().filter(|_| plain) else {
        return Err(text
            .parse::<IpAddr>()
            .is_ok()
            .then(|| "the prefix length is missing".to_owned()));
    };
    if network.trunc() == network {
        Ok(SettingValue::Cidr(network))
    } else {
        Err(Some(format!("write `{}`", network.trunc())))
    }
}

/// Absolute, not `/` itself, no empty, `.` or `..` part, no control characters.
fn is_path(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(|rest| {
        rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !rest.chars().any(char::is_control)
    })
}

fn duration(text: &str, min: u64, max: u64) -> Result<SettingValue, Option<String>> {
    if names::is_plain_number(text) {
        return Err(Some(format!("the unit is missing, as in `{text}s`")));
    }
    humantime::parse_duration(text)
        .ok()
        .filter(|span| (Duration::from_secs(min)..=Duration::from_secs(max)).contains(span))
        .map(SettingValue::Duration)
        .ok_or(None)
}

/// Splits before `,--`, so that a flag's own commas stay with it.
fn flags(text: &str) -> Result<SettingValue, Option<String>> {
    let mut items: Vec<String> = Vec::new();
    for part in text.split(',') {
        match items.last_mut() {
            Some(flag) if !part.starts_with("--") => {
                flag.push(',');
                flag.push_str(part);
            }
            _ => items.push(part.to_owned()),
        }
    }
    match items.iter().find(|item| !names::is_flag(item)) {
        None => Ok(SettingValue::List(items)),
        // Flags may contain credentials, so the message gives the position and not the text.
        Some(bad) => Err(items
            .iter()
            .position(|item| item == bad)
            .map(|index| format!("flag {} is not of the form `--name=value`", index + 1))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::DefaultValue;
    use super::super::keys::KEYS;
    use super::*;

    fn key(name: &str) -> &'static Key {
        KEYS.iter()
            .find(|key| key.name == name)
            .expect("a key of the table")
    }

    #[test]
    fn every_default_is_a_value_of_its_key() {
        for key in KEYS {
            if let DefaultValue::Value(text) = key.default {
                let value = key.parse(text);
                assert!(value.is_ok(), "{}: {value:?}", key.name);
            }
        }
    }

    #[test]
    fn texts_become_typed_values() {
        for (name, text, printed) in [
            ("USE_CGROUPS", "false", "false"),
            ("CPU_LIMIT", "1", "1"),
            ("MASTER_IP", "fd00::0:1", "fd00::1"),
            ("MASTER_IP", "api.example.com", "api.example.com"),
            ("LOOP_INTERVAL", "90s", "90s"),
            ("API_SERVER_FLAGS", "--a=1,2,--b", "--a=1,2,--b"),
            ("MTU_SIZE", "", ""),
            (
                "DOCKERHUB_PASSWORD",
                "hunter2",
                "secret:kube/DOCKERHUB_PASSWORD",
            ),
        ] {
            let value = key(name).parse(text).expect(name);
            assert_eq!(value.to_string(), printed, "{name}");
        }
        assert_eq!(
            key("API_SERVER_FLAGS").parse("--a=1,2,--b"),
            Ok(SettingValue::List(vec!["--a=1,2".into(), "--b".into()])),
        );
    }

    #[test]
    fn bounds_and_forms_are_refused() {
        for (name, text) in [
            ("CPU_LIMIT", "0"),
            ("CPU_LIMIT", "101"),
            ("CPU_LIMIT", "+5"),
            ("CPU_LIMIT", "0x10"),
            ("CPU_LIMIT", "040"),
            ("CPU_LIMIT", ""),
            ("CPU_LIMIT", "99999999999999999999"),
            ("K8S_API_PORT", " 443"),
            ("MASTER_IP", ""),
            ("DOCKER_ROOT", "/"),
            ("DOCKER_ROOT", "/var/../etc"),
            ("DOCKER_ROOT", "var"),
            ("DOCKER_ROOT", "/var/"),
            ("LOOP_INTERVAL", "0s"),
            ("LOOP_INTERVAL", "2days"),
            ("LOOP_INTERVAL", ""),
            ("CONTAINER_LOG_MAX_SIZE", "10Mi"),
            ("MASTER_VIP_IFACE", "eth0 eth1"),
            ("NO_PROXY", "a\0b"),
            ("NO_PROXY", "a\nExecStartPre=/bin/true"),
            ("NO_PROXY", "a\"b"),
            ("KUBELET_FLAGS", "--v=2\n--w=3"),
            ("CONTAINERS_CIDR", "010.20.0.0/16"),
            ("HTTP_PROXY", "http://user:word@proxy:3128"),
        ] {
            assert!(key(name).parse(text).is_err(), "{name}={text:?}");
        }
        assert!(key("NO_PROXY").parse(&"x".repeat(MAX_VALUE_BYTES)).is_ok());
        assert!(
            key("NO_PROXY")
                .parse(&"x".repeat(MAX_VALUE_BYTES + 1))
                .is_err()
        );
    }
}
