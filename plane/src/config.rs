//! The configuration of the plane (`/etc/pf9/plane.yaml`), checked before anything is started.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use daemon::log::Log;
use hyper::http::uri::Authority;
use serde::{Deserialize, Deserializer};
use wire::enrolment;

/// Longest life of a host's certificate: the root lives for ten years.
const LONGEST_LIFE: Duration = Duration::from_secs(5 * 365 * 24 * 60 * 60);
/// Shortest: hosts have to be enrolled again when it is over.
const SHORTEST_LIFE: Duration = Duration::from_secs(60);
/// Most services.
const MOST_SERVICES: usize = 64;
/// Names that take no client certificate. [`crate::ingress`] lets them reach their own service only.
pub const WITHOUT_CERTIFICATE: [&str; 2] = [enrolment::NAME, "console"];

/// What the file may contain. All but `host` has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Configuration {
    /// How the log is written.
    pub log: Log,
    /// The DNS name of the plane, as hosts know it.
    pub host: String,
    /// The database: `sqlite://PATH` or `postgres://…`. Without this and `database_file`, it is `plane.db` in the directory of the state.
    pub database: Option<String>,
    /// A file with the URL of the database, if that has a password. Only its owner may read it.
    pub database_file: Option<PathBuf>,
    /// The authority, and what the ingress reads.
    pub state: PathBuf,
    /// Where enrolment listens. The ingress is before it.
    pub listen: SocketAddr,
    /// How long a host's certificate is valid.
    #[serde(deserialize_with = "duration")]
    pub certificate_life: Duration,
    /// What hosts reach on port 443.
    pub ingress: Ingress,
    /// The message queue of hosts.
    pub message_queue: Option<MessageQueue>,
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            log: Log::default(),
            host: String::new(),
            database: None,
            database_file: None,
            state: "/var/lib/pf9-plane".into(),
            listen: ([127, 0, 0, 1], 9443).into(),
            certificate_life: Duration::from_secs(365 * 24 * 60 * 60),
            ingress: Ingress::default(),
            message_queue: None,
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

/// HAProxy, and what is behind it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ingress {
    /// Addresses with ports.
    pub bind: Vec<SocketAddr>,
    /// Most connections at a time.
    pub connections: u32,
    /// Most connections of one host at a time; by default half of all.
    pub connections_per_host: Option<u32>,
    /// The user and the group of HAProxy's workers; `null` if HAProxy is started by a user other than this one and not by root.
    pub user: Option<String>,
    /// No longer used: HAProxy is not root, so it cannot confine itself. Its unit does.
    pub chroot: Option<PathBuf>,
    /// The socket of HAProxy's master process (`haproxy -S`).
    pub master_socket: PathBuf,
    /// What hosts reach.
    pub services: Vec<Service>,
}

impl Default for Ingress {
    fn default() -> Self {
        let service = |name: &str, mode, port| Service {
            name: name.to_owned(),
            mode,
            read_only: false,
            backend: SocketAddr::from(([127, 0, 0, 1], port)),
        };
        Self {
            bind: vec![
                SocketAddr::from(([0, 0, 0, 0], 443)),
                SocketAddr::from(([0; 8], 443)),
            ],
            connections: 8000,
            connections_per_host: None,
            user: Some("haproxy".to_owned()),
            chroot: None,
            master_socket: "/run/pf9-haproxy/master.sock".into(),
            services: vec![
                service("amqp", Mode::Tcp, 5672),
                Service {
                    read_only: true,
                    ..service("registry", Mode::Http, 5000)
                },
                service("keystone", Mode::Tcp, 5100),
                service("rest", Mode::Http, 8080),
            ],
        }
    }
}

/// A service behind the ingress, which hosts reach as `NAME.HOST`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The first label of its server name.
    pub name: String,
    /// What the ingress knows of its protocol.
    #[serde(default)]
    pub mode: Mode,
    /// Whether hosts may ask with GET and HEAD only: what one host writes, no other host should read.
    #[serde(default)]
    pub read_only: bool,
    /// Where it listens.
    pub backend: SocketAddr,
}

/// What the ingress does with the bytes of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It passes them on.
    #[default]
    Tcp,
    /// It reads HTTP, and tells the service which host asks.
    Http,
}

/// RabbitMQ: where the plane makes a user for each host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageQueue {
    /// The HTTP API of its management plugin: `HOST:PORT` of this machine or of its own network. The API has no TLS here.
    pub management: String,
    /// A user with the tag `administrator`.
    pub user: String,
    /// A file with its password. Only its owner may read it.
    pub password_file: PathBuf,
    /// The virtual host of all hosts.
    #[serde(default = "virtual_host")]
    pub virtual_host: String,
}

fn virtual_host() -> String {
    "pf9".to_owned()
}

impl Configuration {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// The first value that cannot be used, with its place.
    pub fn read(path: &Path) -> Result<Self> {
        let use_it = || format!("use the configuration {}", path.display());
        let found = path.try_exists().with_context(use_it)?;
        if !found {
            bail!("{}: there is no such file", use_it());
        }
        let configuration: Self = daemon::config::read(path).context("use the configuration")?;
        configuration.check().with_context(use_it)?;
        Ok(configuration)
    }

    fn check(&self) -> Result<()> {
        if !enrolment::is_host_name(&self.host) || !self.host.contains('.') {
            bail!(
                "`host`: `{}` is no DNS name with a dot; hosts reach services as NAME.HOST",
                self.host
            );
        }
        if self.database.is_some() && self.database_file.is_some() {
            bail!("`database`, `database_file`: both are there; remove one");
        }
        if !(SHORTEST_LIFE..=LONGEST_LIFE).contains(&self.certificate_life) {
            bail!("`certificate_life`: it is not between one minute and five years");
        }
        if !self.listen.ip().is_loopback() {
            bail!(
                "`listen`: {} is no loopback address; hosts reach enrolment through the ingress",
                self.listen
            );
        }
        plain_path("`state`", &self.state)?;
        self.ingress.check().context("`ingress`")?;
        if let Some(queue) = &self.message_queue
            && (queue.virtual_host.is_empty() || queue.user.is_empty())
        {
            bail!("`message_queue`: `user` and `virtual_host` may not be empty");
        }
        if let Some(queue) = &self.message_queue {
            let its: Result<Authority, _> = queue.management.parse();
            if !its.is_ok_and(|its| its.port_u16().is_some() && !its.as_str().contains('@')) {
                bail!("`message_queue`: `management` needs to be HOST:PORT");
            }
        }
        Ok(())
    }

    /// The URL of the database. It may have a password.
    ///
    /// # Errors
    /// Its file cannot be read, or others may read it.
    pub fn database_url(&self) -> Result<String> {
        match (&self.database, &self.database_file) {
            (Some(url), _) => {
                // The configuration may be read by others.
                let has_password = url
                    .split_once("://")
                    .and_then(|(_, rest)| rest.split('/').next()?.rsplit_once('@'))
                    .is_some_and(|(user, _)| user.contains(':'));
                if has_password || url.contains("password=") {
                    bail!(
                        "`database`: the URL has a password; write it to a file, and name that with `database_file`"
                    );
                }
                Ok(url.clone())
            }
            (None, Some(path)) => crate::secret::read(path),
            (None, None) => {
                let path = self.state.join("plane.db");
                Ok(format!("sqlite://{}", path.display()))
            }
        }
    }
}

impl Ingress {
    /// Most connections of one host at a time.
    #[must_use]
    pub fn most_of_a_host(&self) -> u32 {
        self.connections_per_host.unwrap_or(self.connections / 2)
    }

    fn check(&self) -> Result<()> {
        if self.bind.is_empty() {
            bail!("`bind`: it is empty");
        }
        if !(10..=1_000_000).contains(&self.connections) {
            bail!("`connections`: it is not between 10 and 1000000");
        }
        if !(1..=1_000_000).contains(&self.most_of_a_host()) {
            bail!("`connections_per_host`: it is not between 1 and 1000000");
        }
        let is_user = |name: &String| {
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        };
        if !self.user.as_ref().is_none_or(is_user) {
            bail!("`user`: it is no name of a user");
        }
        if self.chroot.is_some() {
            bail!("`chroot`: remove it; HAProxy does not run as root (docs/plane.md)");
        }
        if self.services.is_empty() || self.services.len() > MOST_SERVICES {
            bail!("`services`: there are none, or more than {MOST_SERVICES}");
        }
        let mut names = BTreeSet::from([enrolment::NAME]);
        for (at, service) in self.services.iter().enumerate() {
            let place = format!("`services[{at}]` ({})", service.name);
            if service.name.contains('.') || !enrolment::is_host_name(&service.name) {
                bail!("{place}: `name` needs 1 to 63 small letters, digits or hyphens");
            }
            if !names.insert(&service.name) {
                bail!("{place}: this name is taken");
            }
            if service.backend.port() == 0 {
                bail!("{place}: the port of `backend` is 0");
            }
            if service.read_only && service.mode != Mode::Http {
                bail!("{place}: `read_only` needs `mode: http`");
            }
            // Its clients have no certificate, and a service may answer hosts at the same port.
            if WITHOUT_CERTIFICATE.contains(&service.name.as_str()) && service.mode != Mode::Http {
                bail!(
                    "{place}: it takes no client certificate, so it needs `mode: http`, which removes the headers with the name of a host"
                );
            }
        }
        Ok(())
    }
}

/// HAProxy's configuration separates words by spaces, and has quotes and variables.
fn plain_path(place: &str, path: &Path) -> Result<()> {
    let text = path.to_str().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    if !path.is_absolute() || !text.chars().all(is_plain) {
        bail!(
            "{place}: `{}` needs to be an absolute path of letters, digits, `.`, `_` and `-`",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bounds::{content, quickly};
    use proptest::prelude::*;

    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Configuration> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("plane.yaml");
        std::fs::write(&path, text).expect("it is written");
        Configuration::read(&path)
    }

    const LEAST: &str = "host: plane.test\ndatabase: sqlite:///var/lib/pf9-plane/plane.db\n";

    #[test]
    fn one_line_is_enough() {
        let found = read("host: plane.test\nstate: /srv/plane\n").expect("it is right");
        let url = found.database_url().expect("a default");
        assert_eq!(url, "sqlite:///srv/plane/plane.db");
        let names: Vec<&str> = found
            .ingress
            .services
            .iter()
            .map(|its| its.name.as_str())
            .collect();
        assert_eq!(names, ["amqp", "registry", "keystone", "rest"]);
        // A host could replace the images of all others.
        assert!(found.ingress.services[1].read_only);
        assert!(found.message_queue.is_none());
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_place() {
        for (more, wanted) in [
            ("host: a b\n", "duplicate field `host`"),
            ("hosts: x\n", "unknown field `hosts`"),
            (
                "listen: 0.0.0.0:80\n",
                "`listen`: 0.0.0.0:80 is no loopback address",
            ),
            (
                "certificate_life: 10s\n",
                "`certificate_life`: it is not between",
            ),
            ("database_file: /x\n", "both are there; remove one"),
            ("state: /var/lib/a b\n", "`state`: `/var/lib/a b` needs"),
            ("state: var\n", "`state`: `var` needs"),
            (
                "message_queue: {management: 'http://x', user: a, password_file: /b}\n",
                "`management` needs to be HOST:PORT",
            ),
            ("ingress: {bind: []}\n", "`ingress`: `bind`: it is empty"),
            (
                "ingress: {connections_per_host: 0}\n",
                "`ingress`: `connections_per_host`: it is not between",
            ),
            ("ingress: {user: 'a b'}\n", "`ingress`: `user`"),
            ("ingress: {services: []}\n", "`services`: there are none"),
            (
                "ingress: {services: [{name: enroll, backend: '127.0.0.1:1'}]}\n",
                "`services[0]` (enroll): this name is taken",
            ),
            (
                "ingress: {services: [{name: 'a b', backend: '127.0.0.1:1'}]}\n",
                "`services[0]` (a b): `name` needs",
            ),
            (
                "ingress: {services: [{name: a, backend: '127.0.0.1:0'}]}\n",
                "the port of `backend` is 0",
            ),
            (
                "ingress: {services: [{name: a, read_only: true, backend: '127.0.0.1:1'}]}\n",
                "`read_only` needs `mode: http`",
            ),
            (
                "ingress: {services: [{name: console, backend: '127.0.0.1:1'}]}\n",
                "`services[0]` (console): it takes no client certificate, so it needs `mode: http`",
            ),
        ] {
            let error = read(format!("{LEAST}{more}")).expect_err(wanted);
            let said = format!("{error:#}");
            assert!(said.contains(wanted), "{said} should have {wanted}");
        }
        let error = read("host: plane\ndatabase: sqlite://a\n").expect_err("it has no dot");
        assert!(format!("{error:#}").contains("`host`: `plane` is no DNS name with a dot"));
    }

    #[test]
    fn a_password_is_no_part_of_the_configuration() {
        for url in [
            "postgres://plane:secret@db/plane",
            "postgres://db/plane?password=secret",
        ] {
            let found = read(format!("host: plane.test\ndatabase: {url}\n")).expect("it is right");
            let error = format!("{:#}", found.database_url().expect_err("it has a password"));
            assert!(
                error.contains("has a password") && !error.contains("secret"),
                "{error}"
            );
        }
        let found = read("host: plane.test\ndatabase: postgres://plane@db:5432/plane\n")
            .expect("it is right");
        found.database_url().expect("it has none");
    }

    /// The largest file that is read, in bytes (`daemon::config`).
    const LARGEST: usize = 64 * 1024;

    #[test]
    fn the_largest_configuration_is_read_quickly() {
        let service = |number: usize| {
            format!("  - {{name: service-{number}, mode: http, backend: '127.0.0.1:1'}}\n")
        };
        let services: String = (0..MOST_SERVICES).map(service).collect();
        let text = format!("{LEAST}ingress:\n  services:\n{services}");
        let line = format!("# {}\n", "-".repeat(77));
        let comment = line.chars().cycle().take(LARGEST - text.len());
        let text = text + &comment.collect::<String>();
        let found = quickly(|| read(&text)).expect("it is right");
        assert_eq!(found.ingress.services.len(), MOST_SERVICES);
        let error = quickly(|| read(text + "#")).expect_err("it is too large");
        let said = format!("{error:#}");
        assert!(said.contains("larger than"), "{said}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_configuration_of_any_size_is_read_or_refused(
            text in content(LARGEST, &[
                "host: plane.test\n", "ingress:\n", "  services:\n", "  - ", "{name: a, mode: http}", "[]", "[a, ", "{a: ",
                "'", "\"", "&a ", "*a ", "? ", ": ", "- ", "#", "|\n", "!!binary ", "---\n", "\n", " ", "\t", "é",
            ]),
        ) {
            let _ = quickly(|| read(&text));
        }
    }

    proptest! {
        #[test]
        fn no_configuration_is_too_strange(text in "(?s).{0,200}", word in "[a-z_:{}' ,0-9\\[\\]]{0,80}") {
            let _ = read(&text);
            let _ = read(format!("{LEAST}{word}\n"));
            let _ = read(format!("{LEAST}ingress: {{{word}}}\n"));
        }
    }
}
