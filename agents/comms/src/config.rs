//! The configuration of pf9-comms (`/etc/pf9/comms.yaml`), checked before anything is started.

#[cfg(test)]
mod limits;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use daemon::log::Log;
use nix::unistd::User;
use rustls_pki_types::ServerName;
use serde::de::{Error as _, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::path::proxy::{Proxies, ProxySettings};

/// The socket for the status. systemd makes its directory (`RuntimeDirectory=`).
pub const SOCKET: &str = "/run/pf9-comms/status.sock";
/// The directory with the identity.
const IDENTITY: &str = "/etc/pf9/comms/current";
/// Most listeners of a host.
const MOST_LISTENERS: usize = 64;
/// Most local connections of a listener, and of all together, if the configuration does not say it.
const CONNECTIONS: usize = 1000;
const ALL_CONNECTIONS: usize = 5000;
/// Most of one user on a listener that every local user may use, so that one user does not take all of them.
const CONNECTIONS_PER_USER: usize = 200;
/// Most that the configuration may say. With so many at their worst, the daemon stays a tenth below the memory that its unit allows, and far below its file
/// descriptors: each connection has two.
pub const MOST_CONNECTIONS: usize = 6400;

/// What the file may contain. All but `plane` has a default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Configuration {
    /// How the log is written.
    pub log: Log,
    /// The management plane.
    pub plane: Option<Plane>,
    /// Who this host is.
    pub identity: IdentityFiles,
    /// The proxy on the way to the plane.
    #[serde(deserialize_with = "proxy_settings")]
    pub proxy: ProxySettings,
    /// Services of the plane; without any, the usual four.
    pub listeners: Option<Vec<ConfiguredListener>>,
    /// Most local connections at a time.
    pub connections: Option<usize>,
    /// The socket for the status; without one, [`SOCKET`].
    pub socket: Option<PathBuf>,
}

/// A message never has what the file says: it may be a password.
fn proxy_settings<'de, D: Deserializer<'de>>(from: D) -> Result<ProxySettings, D::Error> {
    ProxySettings::deserialize(from).map_err(|_| {
        D::Error::custom("`proxy` needs a map with nothing but `url`, `credentials` and `no_proxy`")
    })
}

/// Where the management plane is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plane {
    /// Its name or address.
    pub host: String,
    /// Its port.
    #[serde(default = "https")]
    pub port: u16,
}

fn https() -> u16 {
    443
}

/// The files with the certificate of this host, its key, and the roots that sign the plane's certificates. All PEM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityFiles {
    /// The certificate with its chain.
    pub certificate: PathBuf,
    /// The private key. Only its owner may read it.
    pub key: PathBuf,
    /// The roots.
    pub roots: PathBuf,
}

impl Default for IdentityFiles {
    fn default() -> Self {
        Self::below(Path::new(IDENTITY))
    }
}

impl IdentityFiles {
    /// With their usual names in this directory.
    #[must_use]
    pub fn below(directory: &Path) -> Self {
        Self {
            certificate: directory.join("host.crt"),
            key: directory.join("host.key"),
            roots: directory.join("roots.crt"),
        }
    }
}

/// A listener, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfiguredListener {
    /// The name of the service.
    pub name: String,
    /// Its local port.
    pub port: u16,
    /// Loopback addresses to listen on; without any, 127.0.0.1 and ::1.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The server name that the plane routes by; without one, `NAME.HOST`.
    #[serde(default)]
    pub sni: Option<String>,
    /// The local users that may connect.
    pub users: ConfiguredUsers,
    /// Most local connections at a time.
    #[serde(default)]
    pub connections: Option<usize>,
    /// Most local connections of one user at a time.
    #[serde(default)]
    pub connections_per_user: Option<usize>,
}

/// The word `all`, or names of users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfiguredUsers {
    /// Every local user.
    All,
    /// Users with these names.
    Names(Vec<String>),
}

impl<'de> Deserialize<'de> for ConfiguredUsers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(UsersVisitor)
    }
}

struct UsersVisitor;

impl<'de> Visitor<'de> for UsersVisitor {
    type Value = ConfiguredUsers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`all` or a list of users")
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<ConfiguredUsers, E> {
        match word {
            "all" => Ok(ConfiguredUsers::All),
            _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ConfiguredUsers, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = seq.next_element()? {
            names.push(name);
        }
        Ok(ConfiguredUsers::Names(names))
    }
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The management plane.
    pub plane: Plane,
    /// Who this host is.
    pub identity: IdentityFiles,
    /// How the plane is reached.
    pub proxies: Proxies,
    /// The listeners.
    pub listeners: Vec<Listener>,
    /// Most local connections at a time.
    pub connections: usize,
    /// The socket for the status. It is made at the start of the daemon only.
    pub socket: PathBuf,
}

/// A checked listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The name of the service.
    pub name: String,
    /// Its local port.
    pub port: u16,
    /// Loopback addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether the configuration names the addresses: then each of them must work.
    pub names_addresses: bool,
    /// The server name.
    pub sni: ServerName<'static>,
    /// Who may connect.
    pub users: Users,
    /// Most local connections at a time.
    pub connections: usize,
    /// Most local connections of one user at a time.
    pub connections_per_user: usize,
}

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Users {
    /// Every local user.
    All,
    /// Users with these ids.
    Only(BTreeSet<u32>),
}

impl Users {
    /// Whether the user with this id may connect.
    #[must_use]
    pub fn allow(&self, uid: u32) -> bool {
        match self {
            Self::All => true,
            Self::Only(ids) => ids.contains(&uid),
        }
    }
}

/// The listeners of a host whose configuration names none.
fn default_listeners() -> Vec<ConfiguredListener> {
    let names = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned());
        ConfiguredUsers::Names(names.collect())
    };
    let listener = |name: &str, port, users| ConfiguredListener {
        name: name.to_owned(),
        port,
        addresses: Vec::new(),
        sni: None,
        users,
        connections: None,
        connections_per_user: None,
    };
    vec![
        listener("amqp", 5672, names(&["root", "pf9"])),
        listener("registry", 5001, names(&["root"])),
        listener("keystone", 8158, ConfiguredUsers::All),
        listener("rest", 9080, names(&["root", "pf9"])),
    ]
}

impl Settings {
    /// Checks a configuration. Files that it names are read later, but for credentials of a proxy.
    ///
    /// # Errors
    /// The first value that cannot be used, with its place.
    pub fn new(configuration: Configuration) -> Result<Self> {
        let plane = configuration
            .plane
            .context("`plane`: it is missing; `host` names the management plane")?;
        if ServerName::try_from(plane.host.as_str()).is_err() {
            bail!(
                "`plane.host`: `{}` is neither a DNS name nor an address",
                plane.host
            );
        }
        if plane.port == 0 {
            bail!("`plane.port`: it is 0");
        }
        let configured = configuration.listeners.unwrap_or_else(default_listeners);
        if configured.is_empty() {
            bail!("`listeners`: it is empty, so nothing would be carried");
        }
        if configured.len() > MOST_LISTENERS {
            bail!("`listeners`: there are more than {MOST_LISTENERS}");
        }
        let mut listeners: Vec<Listener> = Vec::new();
        for (at, configured) in configured.into_iter().enumerate() {
            let place = format!("`listeners[{at}]` ({})", configured.name);
            let listener = Listener::new(configured, &plane).with_context(|| place.clone())?;
            for other in &listeners {
                let same = |what: &str| format!("{place}: `{}` has the same {what}", other.name);
                if other.name == listener.name {
                    bail!(same("name"));
                }
                if other.port == listener.port {
                    bail!(same("port"));
                }
                if other.sni == listener.sni {
                    bail!(same("sni"));
                }
            }
            listeners.push(listener);
        }
        Ok(Self {
            plane,
            identity: configuration.identity,
            proxies: Proxies::new(&configuration.proxy).context("`proxy`")?,
            listeners,
            connections: limit("connections", configuration.connections, ALL_CONNECTIONS)?,
            socket: configuration.socket.unwrap_or_else(|| SOCKET.into()),
        })
    }
}

impl Listener {
    fn new(configured: ConfiguredListener, plane: &Plane) -> Result<Self> {
        let ConfiguredListener {
            name,
            port,
            addresses,
            sni,
            users,
            connections,
            connections_per_user,
        } = configured;
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || name.len() > 63 || !name.chars().all(is_word) {
            bail!("`name`: it needs 1 to 63 letters, digits or hyphens");
        }
        if port == 0 {
            bail!("`port`: it is 0");
        }
        if let Some(other) = addresses.iter().find(|address| !address.is_loopback()) {
            bail!(
                "`addresses`: {other} is no loopback address: other hosts could use the identity of this one"
            );
        }
        let distinct: BTreeSet<&IpAddr> = addresses.iter().collect();
        if distinct.len() < addresses.len() {
            bail!("`addresses`: one of them is there twice");
        }
        let text = match sni {
            Some(text) => text,
            None if plane.host.parse::<IpAddr>().is_ok() => {
                bail!("`sni`: it is missing, and `plane.host` is an address")
            }
            None => format!("{name}.{}", plane.host),
        };
        // TLS leaves out the dot at the end of a name (RFC 6066, section 3).
        let sent = text.strip_suffix('.').unwrap_or(&text).to_ascii_lowercase();
        let sni = match ServerName::try_from(sent) {
            Ok(name @ ServerName::DnsName(_)) => name,
            Ok(_) | Err(_) => bail!("`sni`: `{text}` is no DNS name"),
        };
        let names_addresses = !addresses.is_empty();
        let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let most = limit("connections", connections, CONNECTIONS)?;
        let of_one = match (&users, connections) {
            (ConfiguredUsers::All, None) => CONNECTIONS_PER_USER,
            // An operator who counts the connections knows who makes them.
            _ => most,
        };
        Ok(Self {
            name,
            port,
            addresses: if names_addresses {
                addresses
            } else {
                both.to_vec()
            },
            names_addresses,
            sni,
            users: Users::new(&users).context("`users`")?,
            connections: most,
            connections_per_user: limit("connections_per_user", connections_per_user, of_one)?,
        })
    }

    /// Whether a user may have fewer connections than all together.
    #[must_use]
    pub fn limits_users(&self) -> bool {
        self.connections_per_user < self.connections
    }

    /// Whether it matters which user has made a connection.
    #[must_use]
    pub fn asks_for_users(&self) -> bool {
        self.users != Users::All || self.limits_users()
    }
}

impl Users {
    fn new(configured: &ConfiguredUsers) -> Result<Self> {
        let names = match configured {
            ConfiguredUsers::All => return Ok(Self::All),
            ConfiguredUsers::Names(names) if names.is_empty() => {
                bail!("it names no user, so the listener would refuse every connection")
            }
            ConfiguredUsers::Names(names) => names,
        };
        let mut ids = BTreeSet::new();
        for name in names {
            let found = User::from_name(name).with_context(|| format!("look up user `{name}`"))?;
            let user = found.with_context(|| format!("there is no user `{name}` on this host"))?;
            ids.insert(user.uid.as_raw());
        }
        Ok(Self::Only(ids))
    }
}

fn limit(key: &str, configured: Option<usize>, usual: usize) -> Result<usize> {
    match configured.unwrap_or(usual) {
        number @ 1..=MOST_CONNECTIONS => Ok(number),
        number => bail!("`{key}`: {number} is not between 1 and {MOST_CONNECTIONS}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings> {
        Settings::new(serde_yaml_of(text)?)
    }

    fn serde_yaml_of(text: &str) -> Result<Configuration> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("comms.yaml");
        std::fs::write(&path, text)?;
        daemon::config::read(&path)
    }

    // Neither the environment nor files of this machine count.
    const PLANE: &str = "plane: {host: plane.example}\nproxy: {url: none}\n";

    fn with(listeners: &str) -> String {
        format!("{PLANE}listeners:\n{listeners}")
    }

    #[test]
    fn a_listener_has_defaults() {
        let text = with(
            "- {name: amqp, port: 5672, users: [root]}\n- {name: open, port: 1, users: all, sni: other.example}",
        );
        let settings = settings(&text).expect("it is right");
        let [amqp, open] = &settings.listeners[..] else {
            panic!("there are two: {settings:?}")
        };
        assert_eq!(amqp.sni.to_str(), "amqp.plane.example");
        assert_eq!(amqp.addresses.len(), 2);
        assert!(amqp.users.allow(0) && !amqp.users.allow(1));
        assert_eq!(open.sni.to_str(), "other.example");
        assert!(open.users.allow(4711));
        assert_eq!(settings.plane.port, 443);
    }

    #[test]
    fn one_user_may_have_fewer_connections_than_all_users_together() {
        for (rest, most, of_one) in [
            ("users: all", CONNECTIONS, CONNECTIONS_PER_USER),
            ("users: [root]", CONNECTIONS, CONNECTIONS),
            ("users: all, connections: 6400", 6400, 6400),
            ("users: all, connections: 20", 20, 20),
            ("users: all, connections_per_user: 7", CONNECTIONS, 7),
            (
                "users: [root], connections: 9, connections_per_user: 8",
                9,
                8,
            ),
        ] {
            let text = with(&format!("- {{name: a, port: 1, {rest}}}\n"));
            let settings = settings(&text).expect(rest);
            let [listener] = &settings.listeners[..] else {
                panic!("there is one: {settings:?}")
            };
            let found = (listener.connections, listener.connections_per_user);
            assert_eq!(found, (most, of_one), "{rest}");
            assert_eq!(listener.limits_users(), of_one < most, "{rest}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_place() {
        let one = |rest: &str| with(&format!("- {{name: a, users: all, {rest}}}\n"));
        let two = |rest: &str| {
            with(&format!(
                "- {{name: a, users: all, port: 1}}\n- {{users: all, {rest}}}\n"
            ))
        };
        for (text, said) in [
            ("log: {}".to_owned(), "`plane`: it is missing"),
            ("plane: {host: 'a b'}".to_owned(), "`plane.host`: `a b`"),
            (
                "plane: {host: a, port: 0}".to_owned(),
                "`plane.port`: it is 0",
            ),
            (
                "plane: {host: a, door: 1}".to_owned(),
                "unknown field `door`",
            ),
            (one("port: 0"), "`listeners[0]` (a): `port`"),
            (
                one("port: 1, addresses: [10.0.0.1]"),
                "10.0.0.1 is no loopback address",
            ),
            (
                one("port: 1, addresses: ['::']"),
                ":: is no loopback address",
            ),
            (
                one("port: 1, sni: 127.0.0.1"),
                "`sni`: `127.0.0.1` is no DNS name",
            ),
            (
                one("port: 1, connections: 0"),
                "`connections`: 0 is not between",
            ),
            (
                one("port: 1, connections: 6401"),
                "`connections`: 6401 is not between 1 and 6400",
            ),
            (
                one("port: 1, connections_per_user: 0"),
                "`connections_per_user`: 0 is not between",
            ),
            (
                two("name: b, port: 1"),
                "`listeners[1]` (b): `a` has the same port",
            ),
            (
                two("name: b, port: 2, sni: A.plane.example"),
                "`a` has the same sni",
            ),
            (
                two("name: b, port: 2, sni: a.plane.example."),
                "`a` has the same sni",
            ),
            (one("port: 1, sni: '.'"), "`sni`: `.` is no DNS name"),
            (two("name: a, port: 2"), "`a` has the same name"),
            (with("- {name: 'a b', port: 1, users: all}"), "`name`"),
            (
                with("- {name: a, port: 1, users: some}"),
                "expected `all` or a list of users",
            ),
            (
                with("- {name: a, port: 1, users: [no-such-user]}"),
                "there is no user `no-such-user`",
            ),
            (
                "plane: {host: a}
listeners: [{name: a, port: 1, users: all}]
proxy: {url: 'socks5://p:1'}"
                    .to_owned(),
                "`proxy`",
            ),
            (
                "plane: {host: a}
proxy: 'http://me:word@p:1'"
                    .to_owned(),
                "`proxy` needs a map",
            ),
            (with("  []"), "`listeners`: it is empty"),
            (
                one("port: 1, addresses: [127.0.0.1, 127.0.0.1]"),
                "there twice",
            ),
            (with("- {name: a, port: 1, users: []}"), "names no user"),
            (
                with("- {name: a, port: 1, users: 5}"),
                "expected `all` or a list of users",
            ),
        ] {
            let error = settings(&text).expect_err(&text);
            let found = format!("{error:#}");
            assert!(found.contains(said), "{text}: {found}");
            assert!(!found.contains("word"), "{found}");
        }
    }
}
