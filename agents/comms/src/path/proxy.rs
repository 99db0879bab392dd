//! The proxy on the way to the plane: from the configuration, from the file of earlier versions, or from the environment.

mod earlier;
#[cfg(test)]
mod limits;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use serde::Deserialize;

use earlier::earlier_file;

/// The file of earlier versions. It counts if the configuration names no proxy.
pub const EARLIER_FILE: &str = "/etc/pf9/comms_proxy_cfg.json";
/// Largest file that is read, in bytes.
const LIMIT: u64 = 64 * 1024;

/// The part `proxy` of the configuration.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxySettings {
    /// `http://HOST:PORT`, or the word `none`: then files of earlier versions and the environment do not count, either.
    pub url: Option<String>,
    /// A file with `USER:PASSWORD` in its first line, which only its owner may read.
    pub credentials: Option<PathBuf>,
    /// Hosts that are reached without it: names, which also stand for names below them, addresses, networks, or `*`. A port
    /// may follow.
    pub no_proxy: Vec<String>,
}

impl fmt::Debug for ProxySettings {
    /// Without the URL: it may have a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxySettings(no_proxy: {:?})", self.no_proxy)
    }
}

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who this host is for it.
    pub credentials: Option<Credentials>,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::connect::authority(&self.host, self.port))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// A user with its password. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

impl Credentials {
    /// A user with its password. A control character is refused: neither Basic authentication (RFC 7617, section 2) nor the line of a file can have each of
    /// them.
    fn new(user: String, password: String) -> Result<Self> {
        let has_control = |text: &str| text.chars().any(|c| c.is_ascii_control());
        if has_control(&user) || has_control(&password) {
            bail!("its user or password has a control character");
        }
        Ok(Self { user, password })
    }

    /// `USER:PASSWORD`, as Basic authentication encodes it (RFC 7617), and as a file with credentials has it in its first line.
    pub(crate) fn basic(&self) -> String {
        format!("{}:{}", self.user, self.password)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// How hosts are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    proxy: Option<Proxy>,
    no_proxy: Vec<NoProxyEntry>,
    /// The file of earlier versions, if the proxy is from there.
    earlier: Option<PathBuf>,
}

/// An entry of `no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NoProxyEntry {
    hosts: Hosts,
    /// If it names one, other ports are reached through the proxy.
    port: Option<u16>,
}

/// The hosts of such an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    Network(IpNet),
    /// In lower case, without a leading dot.
    Name(String),
}

impl NoProxyEntry {
    /// An entry, also with a port after it.
    fn new(entry: &str) -> Result<Self> {
        let text = entry.trim();
        if let Ok(hosts) = Hosts::new(text) {
            return Ok(Self { hosts, port: None });
        }
        let split = text.rsplit_once(':');
        if let Some((hosts, Ok(port @ 1..))) =
            split.map(|(hosts, port)| (hosts, port.parse::<u16>()))
            && hosts.contains(':') == hosts.starts_with('[')
        {
            let (hosts, port) = (Hosts::new(hosts)?, Some(port));
            return Ok(Self { hosts, port });
        }
        bail!("`no_proxy`: `{text}` is neither a name, an address, a network nor `*`");
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        self.port.is_none_or(|its| its == port) && self.hosts.have(host)
    }
}

impl Hosts {
    fn new(text: &str) -> Result<Self> {
        if text == "*" {
            return Ok(Self::All);
        }
        if let Ok(network) = text.parse() {
            return Ok(Self::Network(network));
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        let name = text
            .trim_start_matches("*.")
            .trim_start_matches('.')
            .to_ascii_lowercase();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(is_name) {
            bail!("`no_proxy`: `{text}` is neither a name, an address, a network nor `*`");
        }
        Ok(Self::Name(name))
    }

    fn have(&self, host: &str) -> bool {
        match self {
            Self::All => true,
            Self::Network(network) => host
                .parse()
                .is_ok_and(|address: IpAddr| network.contains(&address)),
            Self::Name(name) => {
                let host = host.to_ascii_lowercase();
                let above = host.strip_suffix(name.as_str());
                above.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    }
}

impl Proxies {
    /// The proxy of the configuration; if it names none, that of the file of earlier versions, or that of the environment.
    ///
    /// # Errors
    /// A URL, a file or an entry cannot be used.
    pub fn new(settings: &ProxySettings) -> Result<Self> {
        let variable = |names: &[&str]| names.iter().find_map(|name| std::env::var(name).ok());
        Self::from(settings, Path::new(EARLIER_FILE), variable)
    }

    /// The same with another file of earlier versions and another environment, of which `variable` gives the first of some variables that is set.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn from(
        settings: &ProxySettings,
        earlier: &Path,
        variable: impl Fn(&[&str]) -> Option<String>,
    ) -> Result<Self> {
        let mut no_proxy = entries(settings.no_proxy.iter().map(String::as_str))?;
        let from_file = settings
            .credentials
            .as_deref()
            .map(credentials_in)
            .transpose();
        let from_file = from_file.context("`credentials`")?;
        let mut from_earlier = None;
        let mut proxy = match settings.url.as_deref() {
            Some("none") => None,
            Some(url) => {
                let proxy = parsed(url).context("`url`")?;
                if proxy.credentials.is_some() {
                    bail!(
                        "`url`: it has a user; put `USER:PASSWORD` into a file that only its owner may read, and its path into `credentials`"
                    );
                }
                Some(proxy)
            }
            None => match earlier_file(earlier)? {
                Some(proxy) => {
                    from_earlier = Some(earlier.to_owned());
                    Some(proxy)
                }
                None => {
                    let from =
                        variable(&["HTTPS_PROXY", "https_proxy"]).filter(|url| !url.is_empty());
                    if from.is_some() && settings.no_proxy.is_empty() {
                        let list = variable(&["NO_PROXY", "no_proxy"]).unwrap_or_default();
                        let list = list.split(',').filter(|entry| !entry.trim().is_empty());
                        no_proxy = entries(list).context("the environment variable NO_PROXY")?;
                    }
                    from.map(|url| parsed(&url))
                        .transpose()
                        .context("the environment variable HTTPS_PROXY")?
                }
            },
        };
        if let (Some(proxy), Some(credentials)) = (&mut proxy, from_file) {
            proxy.credentials = Some(credentials);
        }
        Ok(Self {
            proxy,
            no_proxy,
            earlier: from_earlier,
        })
    }

    /// The file of earlier versions, if the proxy is from there.
    #[must_use]
    pub fn earlier_file(&self) -> Option<&Path> {
        self.earlier.as_deref()
    }

    /// The proxy on the way to this port of a host; `None` if it is reached without one.
    #[must_use]
    pub fn to(&self, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = self.proxy.as_ref()?;
        let is_direct = self.no_proxy.iter().any(|its| its.covers(host, port));
        (!is_direct).then_some(proxy)
    }
}

fn entries<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Vec<NoProxyEntry>> {
    entries.map(NoProxyEntry::new).collect()
}

/// A proxy from its URL. A message never has the URL: it may have a password.
fn parsed(url: &str) -> Result<Proxy> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    if !scheme.eq_ignore_ascii_case("http") {
        let is_word = |c: char| c.is_ascii_alphanumeric();
        match scheme.len() < 20 && scheme.chars().all(is_word) {
            true => bail!("the scheme `{scheme}` is not known; a proxy has `http://HOST:PORT`"),
            false => bail!("its scheme is not known; a proxy has `http://HOST:PORT`"),
        }
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, rest),
    };
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest
                .split_once(']')
                .context("the bracket of its address does not end")?;
            host.parse::<std::net::Ipv6Addr>()
                .context("what is in brackets is no IPv6 address")?;
            (host, after.strip_prefix(':'))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if host.is_empty() || !host.chars().all(is_host) {
        bail!("it names no host; a proxy has `http://HOST:PORT`");
    }
    let port = port.context("it names no port; a proxy has `http://HOST:PORT`")?;
    let port: u16 = port
        .parse()
        .context("its port is no number from 1 to 65535")?;
    if port == 0 {
        bail!("its port is 0");
    }
    Ok(Proxy {
        host: host.to_owned(),
        port,
        credentials: user.map(user_of_url).transpose()?,
    })
}

/// `USER:PASSWORD` with percent-encoded bytes (RFC 3986, section 2.1).
fn user_of_url(text: &str) -> Result<Credentials> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    Credentials::new(decoded(user)?, decoded(password)?)
}

fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest
            .get(..2)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = digits.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(byte.context("its user or password has a `%` without two digits")?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).context("its user or password is no UTF-8")
}

fn credentials_in(path: &Path) -> Result<Credentials> {
    let content = daemon::files::read_private(path, LIMIT)?
        .with_context(|| format!("read {}: there is no such file", path.display()))?;
    let text = String::from_utf8(content)
        .ok()
        .with_context(|| format!("{} is no UTF-8", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    let (user, password) = line
        .split_once(':')
        .with_context(|| format!("{}: its first line is not `USER:PASSWORD`", path.display()))?;
    Credentials::new(user.to_owned(), password.to_owned())
        .with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn proxies(settings: &ProxySettings) -> Result<Proxies> {
        Proxies::from(settings, Path::new("/nowhere"), |_| None)
    }

    fn of_url(url: &str) -> ProxySettings {
        ProxySettings {
            url: Some(url.to_owned()),
            ..ProxySettings::default()
        }
    }

    #[test]
    fn a_url_names_a_proxy() {
        for (url, shown, basic) in [
            ("http://proxy.example:3128", "proxy.example:3128", None),
            ("http://proxy.example:3128/", "proxy.example:3128", None),
            ("proxy:8080", "proxy:8080", None),
            ("http://[2001:db8::1]:3128", "[2001:db8::1]:3128", None),
            ("http://me:a%3Ab%40c@proxy:1", "proxy:1", Some("me:a:b@c")),
        ] {
            let nothing = ProxySettings::default();
            let proxies = Proxies::from(&nothing, Path::new("/nowhere"), |names| {
                (names[0] == "HTTPS_PROXY").then(|| url.to_owned())
            });
            let proxies = proxies.expect(url);
            let proxy = proxies.to("plane.example", 443).expect("it counts");
            assert_eq!(proxy.to_string(), shown);
            let found = proxy.credentials.as_ref().map(Credentials::basic);
            assert_eq!(found.as_deref(), basic);
            assert!(!format!("{proxies:?}").contains("b@c"));
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_its_password() {
        for (url, said) in [
            ("socks5://proxy:1", "the scheme `socks5` is not known"),
            (
                "https://me:secret@proxy:1",
                "the scheme `https` is not known",
            ),
            ("me:secret@proxy", "no port"),
            ("http://me:secret@:1", "no host"),
            ("http://proxy:0", "port is 0"),
            ("http://proxy:65536", "no number"),
            ("http://[proxy]:1", "no IPv6 address"),
            ("http://me:%zz@proxy:1", "`%` without two digits"),
            ("http://me:secret%0a@proxy:1", "a control character"),
            ("", "no host"),
            ("http://me:secret@proxy:1", "into `credentials`"),
        ] {
            let error = proxies(&of_url(url)).expect_err(url);
            let found = format!("{error:#}");
            assert!(found.contains(said), "{url}: {found}");
            assert!(!found.contains("secret"), "{found}");
        }
    }

    #[test]
    fn some_hosts_are_reached_without_it() {
        let settings = ProxySettings {
            no_proxy: [
                ".example.org",
                "*.example.net",
                "plane",
                "10.0.0.0/8",
                "2001:db8::/32",
                "[::1]",
                "192.0.2.1",
                "ported:443",
                "[::2]:444",
            ]
            .map(str::to_owned)
            .to_vec(),
            ..of_url("http://proxy:1")
        };
        let proxies = proxies(&settings).expect("they are right");
        for direct in [
            "example.org",
            "a.b.EXAMPLE.org",
            "x.example.net",
            "plane",
            "10.1.2.3",
            "2001:db8::5",
            "::1",
            "192.0.2.1",
        ] {
            assert_eq!(proxies.to(direct, 443), None, "{direct}");
        }
        for other in [
            "notexample.org",
            "example.org.evil",
            "airplane",
            "11.0.0.1",
            "192.0.2.10",
        ] {
            assert!(proxies.to(other, 443).is_some(), "{other}");
        }
        for (host, port) in [("ported", 443), ("x.ported", 443), ("::2", 444)] {
            assert_eq!(proxies.to(host, port), None, "{host}");
            assert!(proxies.to(host, port + 10).is_some(), "{host}");
        }
        let all = ProxySettings {
            no_proxy: vec!["*".to_owned()],
            ..of_url("http://proxy:1")
        };
        assert_eq!(
            self::proxies(&all).expect("it is right").to("plane", 443),
            None
        );
        for wrong in ["a b", "a:", "a:0", "a:65536", "a:b", "a:1:2", "a b:1", ":1"] {
            NoProxyEntry::new(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn the_configuration_counts_before_earlier_files_and_the_environment() {
        let directory = tempfile::tempdir().expect("a directory");
        let earlier = directory.path().join("comms_proxy_cfg.json");
        let environment = |names: &[&str]| match names[0] {
            "HTTPS_PROXY" => Some("http://environment:1".to_owned()),
            _ => Some("plane, other".to_owned()),
        };
        let found = |settings: &ProxySettings, host: &str| {
            let proxies = Proxies::from(settings, &earlier, environment).expect("they are right");
            proxies.to(host, 443).map(ToString::to_string)
        };
        let nothing = ProxySettings::default();
        assert_eq!(found(&nothing, "x").as_deref(), Some("environment:1"));
        assert_eq!(found(&nothing, "plane"), None);
        let text = r#"{"http_proxy": {"protocol": "http", "host": "earlier", "port": "3128", "user": "u", "pass": "p"}}"#;
        fs::write(&earlier, text).expect("it is written");
        fs::set_permissions(&earlier, Permissions::from_mode(0o644)).expect("its mode is set");
        let open = Proxies::from(&nothing, &earlier, environment).expect_err("others may read it");
        assert!(open.to_string().contains("0644"), "{open}");
        fs::set_permissions(&earlier, Permissions::from_mode(0o600)).expect("its mode is set");
        assert_eq!(found(&nothing, "plane").as_deref(), Some("earlier:3128"));
        assert_eq!(
            found(&of_url("http://own:2"), "plane").as_deref(),
            Some("own:2")
        );
        assert_eq!(found(&of_url("none"), "plane"), None);
        for broken in [
            "{",
            r#"{"http_proxy": {"host": "a b", "port": 1}}"#,
            r#"{"http_proxy": {"port": 1}}"#,
        ] {
            fs::write(&earlier, broken).expect("it is written");
            let error = Proxies::from(&nothing, &earlier, environment).expect_err(broken);
            assert!(
                format!("{error:#}").contains("comms_proxy_cfg.json"),
                "{error:#}"
            );
        }
    }

    #[test]
    fn credentials_come_from_a_private_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("credentials");
        let settings = ProxySettings {
            credentials: Some(path.clone()),
            ..of_url("http://proxy:1")
        };
        let found = || {
            proxies(&settings).map(|its| its.to("x", 1).and_then(|proxy| proxy.credentials.clone()))
        };
        found().expect_err("it is missing");
        fs::write(&path, "user:pass:word\n").expect("it is written");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("its mode is set");
        found().expect_err("others may read it");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its mode is set");
        assert_eq!(
            found()
                .expect("it is right")
                .expect("they are there")
                .basic(),
            "user:pass:word"
        );
        for sign in ['\u{7}', '\r', '\0', '\u{7f}'] {
            fs::write(&path, format!("user:secret{sign}word\n")).expect("it is written");
            let error = format!("{:#}", found().expect_err("it cannot be sent"));
            assert!(error.contains("a control character"), "{error}");
            assert!(error.contains(&path.display().to_string()), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_url_is_read_or_refused(url in "\\PC{0,80}", rest in "[a-z0-9:@/%\\[\\].]{0,60}") {
            let _ = parsed(&url);
            let _ = parsed(&format!("http://{rest}"));
            let _ = NoProxyEntry::new(&rest);
        }
    }
}
