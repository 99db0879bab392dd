//! How long a master takes until it is whole again after a fault, beside kubeadm's where that comes back at all.
//!
//! Three hosts stand side by side. What both masters can suffer is measured on all of them in each repetition, in turn; what
//! kubeadm has nobody for is measured on ours, once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::package::{self, ROLE};
use lab::{Config, Fault, Host, Lab, Setup, TRIALS, command};
use serde_json::Value;

use super::figures::{Figure, Target, Unit};
use super::hosts::timed;
use super::{hosts, peer};

const OURS: &str = "nodelet";
/// With docker as Debian ships it, as kubeadm's documentation leaves it.
const THEIRS: &str = "kubeadm";
/// With the role's configuration of docker, which lets containers live on.
const THEIRS_SAME: &str = "kubeadm-same";
/// Until nodeletd is content again; its passes are a minute apart.
const CALM: Duration = Duration::from_secs(240);

/// The faults that both can suffer, and what is wanted of ours.
const SHARED: &[(&str, Target)] = &[
    (
        "docker-killed",
        Target::Ratio {
            at_most: 0.7,
            aim: None,
        },
    ),
    ("etcd-removed", Target::AtMost(3.0)),
];
/// What kubeadm's master does not come back from by itself.
const WANTED: &[(&str, Target)] = &[("kubelet-stopped", Target::AtMost(5.0))];

/// The same faults on a master of kubeadm's.
const PEER: &[Fault] = &[
    Fault {
        name: "docker-killed",
        about: "dockerd dies",
        breaks: "kill -9 $(pidof dockerd)",
        whole: PEER_IS_READY,
        ..Fault::NONE
    },
    Fault {
        name: "etcd-removed",
        about: "etcd's container is removed",
        breaks: "docker rm --force $(docker ps --quiet --filter label=io.kubernetes.container.name=etcd)",
        whole: PEER_IS_READY,
        ..Fault::NONE
    },
];
const PEER_IS_READY: &str = "docker version > /dev/null && \
    peer() { command kubectl --request-timeout=3s --kubeconfig /etc/kubernetes/admin.conf \"$@\"; } && \
    curl -sf --cacert /etc/kubernetes/pki/ca.crt --resolve kubernetes:6443:127.0.0.1 --max-time 3 https://kubernetes:6443/readyz | grep -qx ok && peer get node --no-headers | awk '{print $2}' | grep -qx Ready";

/// Measures so many repetitions; `run` begins the lab's name.
pub(super) fn measure(
    setup: &Setup,
    nodelet: &Path,
    run: &str,
    repetitions: usize,
) -> Result<Vec<Figure>> {
    let lab = hosts::create(
        setup,
        &format!("{run}-repairs"),
        &[OURS, THEIRS, THEIRS_SAME],
    )?;
    let ours = Ours {
        host: lab.host(OURS)?,
        vip: lab.vip().to_string(),
    };
    ours.bring_up(setup, &lab, nodelet)?;
    let daemon = hosts::docker_configuration(&ours.host)?;
    let cni = peer::with_subnet(&ours.host.get(peer::CNI)?)?;
    let (theirs, same) = (lab.host(THEIRS)?, lab.host(THEIRS_SAME)?);
    for host in [&theirs, &same] {
        hosts::prepare(setup, host)?;
        if host.name() == THEIRS_SAME {
            hosts::configure_docker(host, &daemon)?;
        }
        peer::install(host, &cni)?;
        let ready = hosts::until_ready(peer::INIT, peer::PORT, peer::KUBECONFIG);
        timed(host, &ready)?;
    }
    let mut samples: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for number in 1..=repetitions {
        for (name, _) in SHARED {
            let mut order = [OURS, THEIRS, THEIRS_SAME];
            if number.is_multiple_of(2) {
                order.reverse();
            }
            for who in order {
                let seconds = match who {
                    OURS => ours.suffers(name)?,
                    THEIRS => peer_suffers(&theirs, name)?,
                    _ => peer_suffers(&same, name)?,
                };
                println!("[{number}/{repetitions}] {name} on {who}: {seconds:.1} s");
                samples.entry((who, name)).or_default().push(seconds);
            }
        }
        for (name, _) in WANTED {
            let seconds = ours.suffers(name)?;
            println!("[{number}/{repetitions}] {name} on {OURS}: {seconds:.1} s");
            samples.entry((OURS, name)).or_default().push(seconds);
        }
    }
    let done = |name: &str| SHARED.iter().chain(WANTED).any(|(its, _)| *its == name);
    for fault in Fault::all().filter(|fault| !done(fault.name)) {
        let seconds = ours.suffers(fault.name)?;
        println!("{} on {OURS}: {seconds:.1} s", fault.name);
        samples.entry((OURS, fault.name)).or_default().push(seconds);
    }
    lab.destroy()?;
    Ok(figures(&samples))
}

/// A master that nodeletd keeps.
struct Ours {
    host: Host,
    vip: String,
}

impl Ours {
    fn bring_up(&self, setup: &Setup, lab: &Lab, nodelet: &Path) -> Result<()> {
        hosts::prepare(setup, &self.host)?;
        hosts::install(lab, &self.host, nodelet)?;
        let mut config = Config::master(lab.name(), self.host.address(), Some(lab.vip()));
        config.set("KUBE_SERVICE_STATE", "true");
        package::configure(&self.host, &config)?;
        timed(&self.host, &hosts::nodelet("apply"))?;
        self.host.load_image(&setup.toolbox)?;
        self.host.text(&["systemctl", "start", "pf9-nodeletd"])?;
        self.calm(0)
    }

    fn suffers(&self, name: &str) -> Result<f64> {
        let fault = Fault::named(name)?;
        fault.prepare(&self.host, &self.vip)?;
        let before = self.view().map_or(0, |view| passes(&view));
        let seconds = fault.repaired_within(&self.host, &self.vip)?;
        // With a wrong clock, for one, nobody is content.
        if !fault.clears.is_empty() {
            fault.clear(&self.host, &self.vip)?;
        }
        // Whose passes are counted may have been started anew.
        let restarted = TRIALS.iter().any(|trial| trial.name == name);
        self.calm(if restarted { 0 } else { before })
            .with_context(|| format!("after the fault `{name}`"))?;
        Ok(seconds.as_secs_f64())
    }

    /// How nodeletd sees the host; `None` if it does not answer.
    fn view(&self) -> Option<Value> {
        let output = self.host.exec(&["nodelet", "status", "--json"]).ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until nodeletd is content after more passes than these: the next fault meets a host that is well.
    fn calm(&self, before: u64) -> Result<()> {
        let check = ["nodelet", "check", "--role", ROLE];
        command::poll(CALM, || {
            let view = self.view()?;
            let watches = view["doing"] == "watching" && view["node_state"] == "ok";
            let holds = watches && passes(&view) > before;
            let checked = || self.host.exec(&check).is_ok_and(|out| out.status.success());
            (holds && checked()).then_some(())
        })
        .with_context(|| {
            let view = self.view().unwrap_or_default();
            format!("nodeletd is not content again: {view:#}")
        })
    }
}

fn passes(view: &Value) -> u64 {
    view["counters"]["passes"].as_u64().unwrap_or(0)
}

fn peer_suffers(host: &Host, name: &str) -> Result<f64> {
    let Some(fault) = PEER.iter().find(|fault| fault.name == name) else {
        bail!("kubeadm's master is not given the fault `{name}`");
    };
    Ok(fault.repaired_within(host, "")?.as_secs_f64())
}

fn figures(samples: &BTreeMap<(&str, &str), Vec<f64>>) -> Vec<Figure> {
    let of = |who: &str, name: &str| samples.get(&(who, name)).cloned().unwrap_or_default();
    let figure = |fault: &Fault, more: &str, theirs: Vec<f64>, target| Figure {
        name: format!("{} (`{}`){more}", fault.about, fault.name),
        unit: Unit::Seconds,
        ours: of(OURS, fault.name),
        theirs,
        target,
    };
    let mut figures = Vec::new();
    for fault in Fault::all() {
        let wanted = SHARED.iter().chain(WANTED);
        let target = wanted
            .clone()
            .find(|(name, _)| *name == fault.name)
            .map_or(Target::None, |(_, target)| *target);
        figures.push(figure(fault, "", of(THEIRS, fault.name), target));
        let same = of(THEIRS_SAME, fault.name);
        if !same.is_empty() {
            let more = ", kubeadm with the role's docker configuration";
            figures.push(figure(fault, more, same, Target::None));
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_line_and_the_shared_ones_have_two() {
        let mut samples = BTreeMap::new();
        for fault in Fault::all() {
            samples.insert((OURS, fault.name), vec![2.0]);
        }
        for (name, _) in SHARED {
            assert!(PEER.iter().any(|fault| fault.name == *name), "{name}");
            samples.insert((THEIRS, name), vec![10.0]);
            samples.insert((THEIRS_SAME, name), vec![3.0]);
        }
        let figures = figures(&samples);
        assert_eq!(figures.len(), Fault::all().count() + SHARED.len());
        assert_eq!(figures[0].met(), Some(true), "{:?}", figures[0]);
        assert_eq!(figures[1].met(), None);
        for (name, _) in WANTED {
            assert!(Fault::named(name).is_ok(), "{name}");
        }
    }
}
