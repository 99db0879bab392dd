//! A lab: hosts on a network of their own, and the record of them.
//!
//! [`Lab::create`] brings hosts up, [`Lab::open`] finds them again, [`Lab::destroy`] removes them. `members` adds hosts to a lab and
//! removes single ones. `host` runs commands on one of them, `namespaces` starts them there without docker's client, `network` finds a free
//! subnet, `outer_docker` is the daemon whose containers are the hosts, `record` is the file about a lab, and `down` removes everything.
//!
//! What hosts are made of is in `setup`. What a role does with them is not known here. Start with [`Lab::create`].

pub mod down;
pub mod host;
mod members;
mod namespaces;
pub(crate) mod network;
pub mod outer_docker;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::docker::Docker;
use host::{Host, Image};
use network::with_last_octet;
use outer_docker::OuterDocker;
pub use record::{Choices, Mount, names};
use record::{LABEL, State, file};

/// Last octet of the first host; the second has the next one.
const FIRST_HOST: u8 = 11;
/// Last octet of the address kept free for a virtual IP.
const VIP: u8 = 100;
/// Hosts that fit between the two.
const MOST_HOSTS: usize = (VIP - FIRST_HOST) as usize;

/// The description of a host of a new lab.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Its name, and the name of its Kubernetes node.
    pub name: String,
    /// What is installed on it.
    pub image: Image,
}

/// The mount through which the containers of virtual machines see what [`crate::Setup::machine`] made.
pub fn machine_mount(machine: &Path) -> Mount {
    Mount {
        source: machine.to_owned(),
        target: PathBuf::from(crate::topology::host::MACHINE),
    }
}

/// An existing lab.
#[derive(Debug)]
pub struct Lab {
    state: State,
    docker: Docker,
    cache: Cache,
}

/// Lower-case letters, digits and dashes, as host names have them.
fn check_name(what: &str, name: &str) -> Result<()> {
    let fine = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !fine || name.is_empty() || name.len() > 30 || name.starts_with('-') || name.ends_with('-') {
        bail!(
            "`{name}` cannot name a {what}: use up to 30 of a-z, 0-9 and -, with no - at either end"
        );
    }
    Ok(())
}

impl Lab {
    /// Creates a lab and waits until every host has started all its services. What a failed creation leaves is removed.
    pub fn create(cache: &Cache, name: &str, specs: &[HostSpec], mounts: &[Mount]) -> Result<Self> {
        check_name("lab", name)?;
        specs
            .iter()
            .try_for_each(|spec| check_name("host", &spec.name))?;
        if specs.is_empty() || specs.len() > MOST_HOSTS {
            bail!(
                "a lab has between 1 and {MOST_HOSTS} hosts, not {}",
                specs.len()
            );
        }
        let _mine = cache.lock(&lock_name(name), |_| ())?;
        if Self::exists(cache, name) {
            bail!(
                "the lab `{name}` exists already; take it down with `cargo xtask down --lab {name}` or choose another name"
            );
        }
        let docker = OuterDocker::of(cache).docker();
        remove(cache, &docker, name).context("cannot remove what an interrupted creation left")?;
        let network = format!("nodelet-lab-{name}");
        // Two labs that start at once must not choose the same subnet.
        let lock = cache.lock("labs", |_| ())?;
        let subnet = network::create(&docker, name, &network)?;
        let mut state = State {
            version: 1,
            name: name.to_owned(),
            network,
            subnet,
            hosts: Vec::new(),
            mounts: mounts.to_vec(),
            choices: BTreeMap::new(),
            ready: false,
        };
        state.hosts = members::added(&state, specs)?;
        let mut lab = Self {
            state,
            docker,
            cache: cache.clone(),
        };
        lab.save()?;
        drop(lock);
        if let Err(error) = lab.start() {
            let rest = lab.destroy().err().map_or_else(String::new, |left| {
                format!("; removing it failed too: {left:#}")
            });
            return Err(error.context(format!(
                "the lab `{name}` did not start and was removed{rest}"
            )));
        }
        lab.state.ready = true;
        lab.save()?;
        Ok(lab)
    }

    /// True if the lab was created completely.
    pub fn exists(cache: &Cache, name: &str) -> bool {
        Self::open(cache, name).is_ok_and(|lab| lab.state.ready)
    }

    /// Opens an existing lab.
    pub fn open(cache: &Cache, name: &str) -> Result<Self> {
        let path = file(cache, name);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("there is no lab `{name}`; make one with `cargo xtask up --lab {name}`")
        })?;
        let state = serde_json::from_str(&text)
            .with_context(|| format!("cannot understand {}", path.display()))?;
        Ok(Self {
            state,
            docker: OuterDocker::of(cache).docker(),
            cache: cache.clone(),
        })
    }

    fn save(&self) -> Result<()> {
        let path = file(&self.cache, &self.state.name);
        let content = serde_json::to_vec_pretty(&self.state)?;
        atomic_files::replace(&path, &content, 0o644)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn start(&self) -> Result<()> {
        let hosts = self.hosts();
        hosts.iter().try_for_each(|host| self.start_host(host))?;
        hosts.iter().try_for_each(Host::wait_until_running)
    }

    /// Starts the container of a host that the record has.
    fn start_host(&self, host: &Host) -> Result<()> {
        let label = format!("{LABEL}={}", self.state.name);
        let hosts = self.state.hosts.iter();
        let known: Vec<(String, Ipv4Addr)> = hosts
            .map(|host| (host.name.clone(), host.address))
            .collect();
        host.create(&self.state.network, &label, &known, &self.state.mounts)
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// The hosts, in the order of creation.
    pub fn hosts(&self) -> Vec<Host> {
        self.state
            .hosts
            .iter()
            .map(|state| Host::new(self.docker.clone(), state.clone()))
            .collect()
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> Result<Host> {
        let names = || {
            self.state
                .hosts
                .iter()
                .map(|host| host.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        self.hosts()
            .into_iter()
            .find(|host| host.name() == name)
            .with_context(|| {
                format!(
                    "the lab `{}` has no host `{name}`; it has {}",
                    self.state.name,
                    names()
                )
            })
    }

    /// An address on the lab's network that no host has, for a virtual IP.
    pub fn vip(&self) -> Ipv4Addr {
        with_last_octet(self.state.subnet, VIP)
    }

    /// The lab's network, as `a.b.c.0/24`.
    pub fn subnet(&self) -> String {
        format!("{}/24", self.state.subnet)
    }

    /// What the hosts mount from the machine.
    pub fn mounts(&self) -> &[Mount] {
        &self.state.mounts
    }

    /// What was chosen for this host so far.
    pub fn choices(&self, host: &str) -> Choices {
        self.state.choices.get(host).cloned().unwrap_or_default()
    }

    /// Records what was chosen for a host.
    pub fn choose(&mut self, host: &str, choices: Choices) -> Result<()> {
        self.state.choices.insert(host.to_owned(), choices);
        self.save()
    }

    /// Removes containers, volumes and network by label, so also what the record does not know, then the record and the lock. A
    /// lock that this process holds stays.
    pub fn destroy(&self) -> Result<()> {
        remove(&self.cache, &self.docker, &self.state.name)?;
        self.cache.forget_lock(&lock_name(&self.state.name))
    }
}

/// The lock under which a lab is created.
pub(crate) fn lock_name(lab: &str) -> String {
    format!("lab-locks/{lab}")
}

/// Removes everything that carries the lab's label, and its record. Works for a lab whose record is missing or broken.
pub(crate) fn remove(cache: &Cache, docker: &Docker, name: &str) -> Result<()> {
    let filter = format!("label={LABEL}={name}");
    let containers = docker.list(&["ps", "--all", "--quiet", "--filter", &filter])?;
    docker.remove(&["rm", "--force", "--volumes"], &containers)?;
    let volumes = docker.list(&["volume", "ls", "--quiet", "--filter", &filter])?;
    docker.remove(&["volume", "rm", "--force"], &volumes)?;
    let networks = docker.list(&["network", "ls", "--quiet", "--filter", &filter])?;
    docker.remove(&["network", "rm"], &networks)?;
    let removed = atomic_files::removed(fs::remove_file(file(cache, name)));
    removed.context("cannot remove the lab's record")
}

/// The names of labs that docker knows of, with or without a record.
pub(crate) fn labelled(docker: &Docker) -> Result<BTreeSet<String>> {
    let format = format!("{{{{.Label \"{LABEL}\"}}}}");
    let mut names = BTreeSet::new();
    for kind in [&["ps", "--all"][..], &["volume", "ls"], &["network", "ls"]] {
        let words: Vec<&str> = kind
            .iter()
            .copied()
            .chain(["--filter", "label=nodelet.lab", "--format", &format])
            .collect();
        names.extend(docker.list(&words)?);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_kept_in_the_record_and_records_without_them_are_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::at(directory.path());
        fs::create_dir_all(directory.path().join("labs")).expect("made");
        let record = r#"{"version": 1, "name": "x", "network": "n", "subnet": "172.30.1.0", "hosts": [], "mounts": [], "ready": true}"#;
        fs::write(file(&cache, "x"), record).expect("written");
        let mut lab = Lab::open(&cache, "x").expect("a record of before");
        assert_eq!(lab.choices("master-1"), Choices::default());
        let choices = Choices {
            vip: true,
            settings: BTreeMap::from([("MAX_PODS".to_owned(), "20".to_owned())]),
        };
        lab.choose("master-1", choices.clone()).expect("written");
        let lab = Lab::open(&cache, "x").expect("the new record");
        assert_eq!(lab.choices("master-1"), choices);
        assert_eq!(lab.choices("master-2"), Choices::default());
    }

    #[test]
    fn names_are_host_names() {
        for good in ["default", "a", "ha-3"] {
            check_name("lab", good).expect(good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "../x", &"x".repeat(31)] {
            check_name("lab", bad).expect_err(bad);
        }
    }
}
