//! How long a master takes until it is whole again after a fault, and for a few faults how long kubeadm's takes.
//!
//! Three hosts stand side by side. The faults in [`SHARED`] are caused on all of them in each repetition, in turn; all others are
//! caused on ours alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::package::{self, ROLE};
use lab::{Config, DEPENDENCY_FAULTS, Fault, Host, Lab, Setup, command};
use serde_json::Value;

use super::bringup::MASTER;
use super::figures::{Figure, Target, Unit};
use super::hosts::Images;
use super::peer::Peer;
use super::{hosts, peer};

const OURS: &str = "nodelet";
/// With our kubelet's settings and the role's configuration of docker, which lets containers live on.
const THEIRS: &str = "kubeadm";
/// As upstream and Debian ship it.
const STOCK: &str = "kubeadm-stock";
/// Until nodeletd is content again; its passes are a minute apart.
const CALM: Duration = Duration::from_secs(240);

/// The faults that are caused on all hosts, and what is wanted of ours. When dockerd dies, systemd starts it on all hosts alike, and
/// nodelet does nothing: so that has no target.
const SHARED: &[(&str, Target)] = &[
    ("docker-killed", Target::None),
    ("etcd-removed", Target::AtMost(3.0)),
    (
        "rebooted",
        Target::Ratio {
            at_most: 0.8,
            goal: None,
        },
    ),
];
/// The faults that are caused on our host alone in each repetition, and what is wanted of it. kubeadm's master also recovers by itself
/// from some of them (`etcd-hung`, `api-hung`); that is not measured. keepalived sets a deleted virtual IP again, and nodelet does
/// nothing: so that has no target.
const WANTED: &[(&str, Target)] = &[
    ("docker-hung", Target::AtMost(45.0)),
    ("etcd-hung", Target::AtMost(45.0)),
    ("api-hung", Target::AtMost(45.0)),
    ("kubelet-stopped", Target::AtMost(5.0)),
    ("label-removed", Target::AtMost(5.0)),
    ("bridge-deleted", Target::AtMost(5.0)),
    ("bridge-address-deleted", Target::AtMost(5.0)),
    ("bridge-route-deleted", Target::AtMost(5.0)),
    ("virtual-ip-deleted", Target::None),
];

/// The words that say when a host is whole, for a master of kubeadm's: the faults' own words then ask the same questions of it, and as
/// many of them.
macro_rules! peer_is {
    ($is_repaired:literal) => {
        concat!(
            "kubectl() { command kubectl --request-timeout=3s --kubeconfig /etc/kubernetes/admin.conf \"$@\"; }\n",
            "etcd_is_healthy() { (cd /etc/kubernetes/pki/etcd && curl -sf --max-time 2 --cacert ca.crt --cert healthcheck-client.crt ",
            "--key healthcheck-client.key https://127.0.0.1:2379/health | grep -q '\"health\":\"true\"'); }\n",
            // Its certificate does not name 127.0.0.1.
            "api_is_ready() { curl -sf --cacert /etc/kubernetes/pki/ca.crt --max-time 3 --resolve kubernetes:6443:127.0.0.1 ",
            "https://kubernetes:6443/readyz | grep -qx ok; }\n",
            $is_repaired
        )
    };
}

/// The same faults on a master of kubeadm's.
const PEER: &[Fault] = &[
    Fault {
        name: "docker-killed",
        about: "dockerd dies",
        breaks: "kill -9 $(pidof dockerd)",
        is_repaired: peer_is!("docker version > /dev/null && api_is_ready && node_is_ready"),
        ..Fault::NONE
    },
    Fault {
        name: "etcd-removed",
        about: "etcd's container is removed",
        breaks: "docker rm --force $(docker ps --quiet --filter label=io.kubernetes.container.name=etcd)",
        is_repaired: peer_is!("etcd_is_healthy && api_is_ready"),
        ..Fault::NONE
    },
    Fault {
        name: "rebooted",
        about: "the host is rebooted",
        boots: true,
        is_repaired: peer_is!(
            "systemctl is-active --quiet kubelet && curl -sf --max-time 2 http://127.0.0.1:10248/healthz > /dev/null && api_is_ready && node_is_ready_since_boot"
        ),
        ..Fault::NONE
    },
];

/// Measures so many repetitions; `run` begins the lab's name.
pub(super) fn measure(
    setup: &Setup,
    nodelet: &Path,
    run: &str,
    repetitions: usize,
) -> Result<Vec<Figure>> {
    let lab = hosts::create(setup, &format!("{run}-repairs"), &[OURS, THEIRS, STOCK])?;
    let ours = Ours {
        host: lab.host(OURS)?,
        vip: lab.vip().to_string(),
    };
    ours.bring_up(setup, &lab, nodelet)?;
    let daemon = hosts::docker_configuration(&ours.host)?;
    let cni = peer::with_subnet(&ours.host.get(peer::CNI)?)?;
    let same = Peer::as_ours(&ours.host)?;
    let (theirs, stock) = (lab.host(THEIRS)?, lab.host(STOCK)?);
    for (host, settings) in [(&theirs, &same), (&stock, &Peer::stock()?)] {
        hosts::prepare(setup, host, Images::Loaded)?;
        if host.name() == THEIRS {
            hosts::configure_docker(host, &daemon)?;
        }
        peer::install(host, settings, &cni)?;
        hosts::bring_up(host, peer::INIT, &peer::MASTER)?;
        hosts::remove_first_pod(host, &peer::MASTER)?;
    }
    let mut samples: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for number in 1..=repetitions {
        for (name, _) in SHARED {
            let mut order = [OURS, THEIRS, STOCK];
            order.rotate_left(number % 3);
            for who in order {
                let seconds = match who {
                    OURS => ours.measure_repair(name)?,
                    THEIRS => measure_peer_repair(&theirs, name)?,
                    _ => measure_peer_repair(&stock, name)?,
                };
                println!("[{number}/{repetitions}] {name} on {who}: {seconds:.1} s");
                samples.entry((who, name)).or_default().push(seconds);
            }
        }
        for (name, _) in WANTED {
            let seconds = ours.measure_repair(name)?;
            println!("[{number}/{repetitions}] {name} on {OURS}: {seconds:.1} s");
            samples.entry((OURS, name)).or_default().push(seconds);
        }
    }
    let done = |name: &str| SHARED.iter().chain(WANTED).any(|(its, _)| *its == name);
    for fault in Fault::all().filter(|fault| !done(fault.name)) {
        let seconds = ours.measure_repair(fault.name)?;
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
        hosts::prepare(setup, &self.host, Images::Loaded)?;
        hosts::install(lab, &self.host, nodelet)?;
        let mut config = Config::master(lab.name(), self.host.address(), Some(lab.vip()));
        config.set("KUBE_SERVICE_STATE", "true");
        package::configure(&self.host, &config)?;
        hosts::bring_up(&self.host, &hosts::nodelet("apply"), &MASTER)?;
        hosts::remove_first_pod(&self.host, &MASTER)?;
        self.host.text(&["systemctl", "start", "pf9-nodeletd"])?;
        self.wait_until_healthy(0)
    }

    fn measure_repair(&self, name: &str) -> Result<f64> {
        let fault = Fault::named(name)?;
        fault.prepare(&self.host, &self.vip)?;
        let before = self.view().map_or(0, |view| passes(&view));
        let seconds = fault.repaired_within(&self.host, &self.vip)?;
        // A fault such as a wrong clock keeps the host unhealthy until it is cleared.
        if !fault.clears.is_empty() {
            fault.clear(&self.host, &self.vip)?;
        }
        // The daemon whose passes are counted may have restarted.
        let restarted = DEPENDENCY_FAULTS.iter().any(|fault| fault.name == name);
        self.wait_until_healthy(if restarted { 0 } else { before })
            .with_context(|| format!("after the fault `{name}`"))?;
        Ok(seconds.as_secs_f64())
    }

    /// How nodeletd sees the host; `None` if it does not answer.
    fn view(&self) -> Option<Value> {
        let output = self.host.exec(&["nodelet", "status", "--json"]).ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until nodeletd is content after more passes than these: the next fault meets a host that is well. nodeletd is asked to look
    /// at once, so that no minute is spent on waiting: the next fault meets it right after a pass, the longest time before the next one.
    fn wait_until_healthy(&self, before: u64) -> Result<()> {
        let look = [
            "curl",
            "-sf",
            "--max-time",
            "10",
            "-X",
            "POST",
            "--unix-socket",
            "/run/pf9/nodeletd.sock",
            "http://nodeletd/v1/check",
        ];
        let check = ["nodelet", "check", "--role", ROLE];
        command::poll(CALM, || {
            let view = self.view()?;
            let watches = view["doing"] == "watching" && view["node_state"] == "ok";
            let looked = passes(&view) > before;
            if watches && !looked {
                let _ = self.host.exec(&look);
            }
            let holds = watches && looked;
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

fn measure_peer_repair(host: &Host, name: &str) -> Result<f64> {
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
        let stock = of(STOCK, fault.name);
        if !stock.is_empty() {
            let more = ", **stock kubeadm and stock docker**";
            figures.push(figure(fault, more, stock, Target::None));
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
            samples.insert((THEIRS, name), vec![3.0]);
            samples.insert((STOCK, name), vec![10.0]);
        }
        let figures = figures(&samples);
        assert_eq!(figures.len(), Fault::all().count() + SHARED.len());
        let of = |name: &str| {
            let mut of = figures.iter().filter(|it| it.name.contains(name));
            (of.next().expect("a line"), of.next())
        };
        let (killed, stock) = of("`docker-killed`");
        assert_eq!((killed.met(), stock.expect("a line").met()), (None, None));
        assert_eq!(killed.theirs, [3.0]);
        let (removed, stock) = of("`etcd-removed`");
        assert_eq!(removed.met(), Some(true));
        assert_eq!(stock.expect("a line").theirs, [10.0]);
        for (name, _) in WANTED {
            assert!(Fault::named(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn both_health_checks_are_equal() {
        for (name, _) in SHARED {
            let ours = Fault::named(name).expect("a fault").is_repaired;
            let theirs = PEER.iter().find(|fault| fault.name == *name);
            let theirs = theirs.expect("a fault of the peer").is_repaired;
            let asked = theirs.rsplit_once(" ok; }\n").map(|(_, asked)| asked);
            // Whose unit keeps the master differs.
            let ours = ours.replace("pf9-nodeletd", "kubelet");
            assert_eq!(asked, Some(ours.as_str()), "{name}");
        }
    }
}
