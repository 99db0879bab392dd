//! Hosts that come to a lab later, and hosts that leave it while the others stay.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use super::host::Host;
use super::network::with_last_octet;
use super::record::{HostState, State};
use super::{FIRST_HOST, HostSpec, Lab, MOST_HOSTS, VIP, check_name, lock_name};

impl Lab {
    /// Adds hosts to the lab, on its network and with its mounts, and gives them. They are started;
    /// [`Host::wait_until_running`] waits for their services. What a failed call leaves is removed.
    ///
    /// # Errors
    /// A name is no host name or is taken, the lab is full, or a host does not start.
    pub fn add(&mut self, specs: &[HostSpec]) -> Result<Vec<Host>> {
        specs
            .iter()
            .try_for_each(|spec| check_name("host", &spec.name))?;
        let _mine = self.lock_and_read()?;
        let before = self.state.hosts.clone();
        self.state.hosts.extend(added(&self.state, specs)?);
        let hosts = self.hosts().split_off(before.len());
        let started = hosts.iter().try_for_each(|host| {
            host.remove()
                .context("cannot remove what an interrupted creation left")?;
            self.start_host(host)
        });
        // The record has a host only after its container is there: `up` starts the containers of all recorded hosts.
        if let Err(error) = started.and_then(|()| self.save()) {
            self.state.hosts = before;
            for host in &hosts {
                host.remove()?;
            }
            return Err(error);
        }
        Ok(hosts)
    }

    /// Removes one host and what was chosen for it. The other hosts stay.
    ///
    /// # Errors
    /// The lab has no such host, or no other one; or the host cannot be removed.
    pub fn remove_host(&mut self, name: &str) -> Result<()> {
        let _mine = self.lock_and_read()?;
        let host = self.host(name)?;
        if self.state.hosts.len() == 1 {
            bail!(
                "`{name}` is the only host of the lab; take the lab down with `cargo xtask down --lab {}`",
                self.state.name
            );
        }
        host.remove()?;
        self.state.hosts.retain(|host| host.name != name);
        self.state.choices.remove(name);
        self.save()
    }

    /// Locks the lab, and reads its record again: another process may have changed it.
    fn lock_and_read(&mut self) -> Result<crate::lock::Lock> {
        let lock = self.cache.lock(&lock_name(&self.state.name), |_| ())?;
        self.state = Self::open(&self.cache, &self.state.name)?.state;
        Ok(lock)
    }
}

/// The records of hosts that are added to a lab. Each gets the lowest address that no other host has.
pub(super) fn added(state: &State, specs: &[HostSpec]) -> Result<Vec<HostState>> {
    let mut names: BTreeSet<&str> = state.hosts.iter().map(|host| host.name.as_str()).collect();
    for spec in specs {
        if !names.insert(&spec.name) {
            bail!(
                "the lab `{}` has a host `{}` already",
                state.name,
                spec.name
            );
        }
    }
    let taken = |address| state.hosts.iter().any(|host| host.address == address);
    let free = (FIRST_HOST..VIP)
        .map(|last| with_last_octet(state.subnet, last))
        .filter(|address| !taken(*address));
    let hosts: Vec<HostState> = specs
        .iter()
        .zip(free)
        .map(|(spec, address)| HostState {
            name: spec.name.clone(),
            container: format!("nodelet-lab-{}-{}", state.name, spec.name),
            address,
            image: spec.image,
            added: state.ready,
        })
        .collect();
    if hosts.len() < specs.len() {
        bail!("a lab has at most {MOST_HOSTS} hosts");
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use super::super::Image;
    use super::*;

    fn state(hosts: &[(&str, u8)]) -> State {
        let subnet = Ipv4Addr::new(172, 30, 1, 0);
        State {
            version: 1,
            name: "x".to_owned(),
            network: "n".to_owned(),
            subnet,
            hosts: hosts
                .iter()
                .map(|(name, last)| HostState {
                    name: (*name).to_owned(),
                    container: (*name).to_owned(),
                    address: with_last_octet(subnet, *last),
                    image: Image::Bare,
                    added: false,
                })
                .collect(),
            mounts: Vec::new(),
            choices: BTreeMap::new(),
            ready: true,
        }
    }

    fn specs(names: &[&str]) -> Vec<HostSpec> {
        let spec = |name: &&str| HostSpec {
            name: (*name).to_owned(),
            image: Image::Bare,
        };
        names.iter().map(spec).collect()
    }

    #[test]
    fn a_new_host_gets_the_lowest_free_address() {
        let state = state(&[("master-1", 11), ("worker-2", 13)]);
        let hosts = added(&state, &specs(&["worker-1", "worker-3"])).expect("there is room");
        let got: Vec<(&str, [u8; 4])> = hosts
            .iter()
            .map(|host| (host.container.as_str(), host.address.octets()))
            .collect();
        assert_eq!(
            got,
            [
                ("nodelet-lab-x-worker-1", [172, 30, 1, 12]),
                ("nodelet-lab-x-worker-3", [172, 30, 1, 14])
            ]
        );
    }

    #[test]
    fn hosts_that_a_lab_was_created_with_differ_from_later_ones() {
        let mut state = state(&[]);
        state.ready = false;
        let hosts = added(&state, &specs(&["master-1"])).expect("a new lab");
        assert!(!hosts[0].added);
        (state.hosts, state.ready) = (hosts, true);
        let later = added(&state, &specs(&["master-2"])).expect("there is room");
        assert!(later[0].added);
        let text = serde_json::to_string(&state.hosts[0]).expect("JSON");
        assert!(!text.contains("added"), "as in earlier records: {text}");
        let text = serde_json::to_string(&later[0]).expect("JSON");
        let read: HostState = serde_json::from_str(&text).expect("the same");
        assert_eq!(read, later[0]);
    }

    #[test]
    fn a_name_that_is_taken_and_a_full_lab_are_refused() {
        let state = state(&[("master-1", 11)]);
        added(&state, &specs(&["master-1"])).expect_err("it is there already");
        added(&state, &specs(&["a", "a"])).expect_err("twice the same");
        let names: Vec<String> = (0..MOST_HOSTS).map(|number| format!("w{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        added(&state, &specs(&names[1..])).expect("they fit");
        added(&state, &specs(&names)).expect_err("one too many");
    }
}
