//! The figures that need hosts: bring-up, second apply, prediction and clean, each beside what the peers do there.
//!
//! A repetition has a lab of its own. Its hosts are made and prepared together and then worked on one after the other, each switched
//! off when it is done; the order changes from repetition to repetition.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, bail};
use lab::{Host, Lab, Setup};

use super::figures::{Figure, Target, Unit};
use super::hosts::{CommandTime, Images, Master, timed};
use super::peer::Peer;
use super::{hosts, peer};

/// Our master.
pub(super) const MASTER: Master = Master {
    port: 443,
    kubeconfig: "/etc/pf9/kube.d/kubeconfigs/admin.yaml",
    kubelet: "pf9-kubelet.service",
};

/// Ours, with docker configured and images loaded.
const OURS: &str = "nodelet";
/// Where docker is not configured yet.
const OURS_DOCKER: &str = "nodelet-docker";
/// Where images are in their archives.
const OURS_ARCHIVES: &str = "nodelet-archives";
/// kubeadm, with docker configured, images loaded and our kubelet's settings.
const THEIRS: &str = "kubeadm";
/// The same where images are in their archives.
const THEIRS_ARCHIVES: &str = "kubeadm-archives";
/// kubeadm with our settings and without its allocator of pod subnets.
const NO_ALLOCATOR: &str = "kubeadm-no-allocator";
/// kubeadm as upstream and Debian ship it.
const STOCK: &str = "kubeadm-stock";

/// The hosts of a repetition; each pair that is compared stands side by side.
const ORDER: [&str; 7] = [
    OURS,
    THEIRS,
    NO_ALLOCATOR,
    STOCK,
    OURS_ARCHIVES,
    THEIRS_ARCHIVES,
    OURS_DOCKER,
];

/// What is measured on a host, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Measurement {
    Plan,
    /// Until kubelet starts.
    Kubelet,
    /// From there until the API server's container starts.
    Container,
    /// From there until the API server answers.
    Answer,
    /// From there until the node is Ready.
    Report,
    Ready,
    Pod,
    Command,
    Processor,
    Again,
    Clean,
}

/// Every repetition's values, by host.
#[derive(Debug, Default)]
struct Samples(BTreeMap<(&'static str, Measurement), Vec<f64>>);

impl Samples {
    fn add(&mut self, host: &'static str, what: Measurement, seconds: f64) {
        self.0.entry((host, what)).or_default().push(seconds);
    }

    fn of(&self, host: &'static str, what: Measurement) -> Vec<f64> {
        self.0.get(&(host, what)).cloned().unwrap_or_default()
    }

    /// The three moments of a bring-up, the parts of the first one, and what it cost.
    fn bring_up(&mut self, host: &'static str, its: &CommandTime) {
        for (what, seconds) in [
            (Measurement::Kubelet, its.kubelet),
            (Measurement::Container, its.container - its.kubelet),
            (Measurement::Answer, its.answer - its.container),
            (Measurement::Report, its.ready - its.answer),
            (Measurement::Ready, its.ready),
            (Measurement::Pod, its.pod),
            (Measurement::Command, its.wall),
            (Measurement::Processor, its.processor),
        ] {
            self.add(host, what, seconds);
        }
    }
}

/// What a bring-up of ours writes that other hosts are given beforehand.
pub(super) struct Model {
    pub(super) daemon: hosts::DockerConfiguration,
    pub(super) cni: Vec<u8>,
    pub(super) peer: Peer,
}

/// Measures so many repetitions; `run` begins the labs' names.
pub(super) fn measure(
    setup: &Setup,
    nodelet: &Path,
    run: &str,
    repetitions: usize,
) -> Result<Vec<Figure>> {
    let model = model(setup, nodelet, run).context("the uncounted first bring-up failed")?;
    let mut samples = Samples::default();
    for number in 1..=repetitions {
        repetition(setup, nodelet, run, number, &model, &mut samples)
            .with_context(|| format!("repetition {number} failed"))?;
        println!("[{number}/{repetitions}] {}", last(&samples));
    }
    Ok(figures(&samples))
}

/// Brings a host of each kind up once, which also warms what the machine keeps in memory.
///
/// # Errors
/// A host cannot be made, or does not come up.
pub(super) fn model(setup: &Setup, nodelet: &Path, run: &str) -> Result<Model> {
    let lab = hosts::create(setup, &format!("{run}-model"), &[OURS, THEIRS])?;
    let host = lab.host(OURS)?;
    hosts::prepare(setup, &host, Images::Loaded)?;
    hosts::install(&lab, &host, nodelet)?;
    timed(&host, &hosts::nodelet("apply"))?;
    let model = Model {
        daemon: hosts::docker_configuration(&host)?,
        cni: peer::with_subnet(&host.get(peer::CNI)?)?,
        peer: Peer::as_ours(&host)?,
    };
    host.kill()?;
    let theirs = lab.host(THEIRS)?;
    hosts::prepare(setup, &theirs, Images::Loaded)?;
    peer::install(&theirs, &model.peer, &model.cni)?;
    timed(&theirs, peer::INIT)?;
    lab.destroy()?;
    Ok(model)
}

/// The order of a repetition: each host takes each place in turn.
fn order(number: usize) -> [&'static str; ORDER.len()] {
    let mut order = ORDER;
    order.rotate_left(number % ORDER.len());
    order
}

fn repetition(
    setup: &Setup,
    nodelet: &Path,
    run: &str,
    number: usize,
    model: &Model,
    samples: &mut Samples,
) -> Result<()> {
    let lab = hosts::create(setup, &format!("{run}-{number}"), &ORDER)?;
    thread::scope(|scope| {
        let prepared: Vec<_> = lab
            .hosts()
            .into_iter()
            .map(|host| scope.spawn(|| ready_to_begin(setup, &lab, host, nodelet, model)))
            .collect();
        prepared.into_iter().try_for_each(|prepared| {
            prepared
                .join()
                .unwrap_or_else(|_| bail!("the preparation panicked"))
        })
    })?;
    for name in order(number) {
        let host = lab.host(name)?;
        match name {
            OURS => ours(&host, samples),
            THEIRS => theirs(&host, samples),
            OURS_DOCKER => ours_with_docker(&host, samples),
            OURS_ARCHIVES => {
                ours_bring_up(&host).map(|command_time| samples.bring_up(name, &command_time))
            }
            STOCK | NO_ALLOCATOR => {
                their_bring_up(&host, "").map(|command_time| samples.bring_up(name, &command_time))
            }
            _ => their_bring_up(&host, &format!("{} && ", hosts::load(setup)))
                .map(|command_time| samples.bring_up(name, &command_time)),
        }
        .with_context(|| {
            format!(
                "the lab `{}` can be kept with NODELET_LAB_KEEP=1",
                lab.name()
            )
        })?;
        host.kill()?;
    }
    lab.destroy()
}

fn ready_to_begin(
    setup: &Setup,
    lab: &Lab,
    host: Host,
    nodelet: &Path,
    model: &Model,
) -> Result<()> {
    let images = match host.name() {
        OURS_ARCHIVES | THEIRS_ARCHIVES => Images::Archived,
        _ => Images::Loaded,
    };
    hosts::prepare(setup, &host, images)?;
    if !matches!(host.name(), OURS_DOCKER | STOCK) {
        hosts::configure_docker(&host, &model.daemon)?;
    }
    match host.name() {
        THEIRS | THEIRS_ARCHIVES => peer::install(&host, &model.peer, &model.cni),
        STOCK => peer::install(&host, &Peer::stock()?, &model.cni),
        NO_ALLOCATOR => {
            let peer = model.peer.clone().without_allocator();
            peer::install(&host, &peer, &model.cni)
        }
        _ => hosts::install(lab, &host, nodelet),
    }
}

fn ours_bring_up(host: &Host) -> Result<CommandTime> {
    hosts::bring_up(host, &hosts::nodelet("apply"), &MASTER)
}

/// kubeadm's, after a command that is part of it.
fn their_bring_up(host: &Host, before: &str) -> Result<CommandTime> {
    let command = format!("{before}{}", peer::INIT);
    hosts::bring_up(host, &command, &peer::MASTER)
}

fn ours(host: &Host, samples: &mut Samples) -> Result<()> {
    samples.add(
        OURS,
        Measurement::Plan,
        timed(host, &hosts::nodelet("plan"))?.wall,
    );
    samples.bring_up(OURS, &ours_bring_up(host)?);
    hosts::remove_first_pod(host, &MASTER)?;
    let again = timed(host, &hosts::nodelet("apply --json"))?;
    samples.add(OURS, Measurement::Again, again.wall);
    let said = hosts::said(host)?;
    if said.contains(r#""event":"step_changing""#) {
        bail!("the second apply changed something: {said}");
    }
    let clean = timed(host, &hosts::nodelet("clean --purge"))?;
    samples.add(OURS, Measurement::Clean, clean.wall);
    Ok(())
}

fn ours_with_docker(host: &Host, samples: &mut Samples) -> Result<()> {
    samples.bring_up(OURS_DOCKER, &ours_bring_up(host)?);
    hosts::remove_first_pod(host, &MASTER)?;
    let clean = timed(host, &hosts::nodelet("clean --purge"))?;
    samples.add(OURS_DOCKER, Measurement::Clean, clean.wall);
    Ok(())
}

fn theirs(host: &Host, samples: &mut Samples) -> Result<()> {
    let dry_run = timed(host, &format!("{} --dry-run", peer::INIT))?;
    samples.add(THEIRS, Measurement::Plan, dry_run.wall);
    host.text(&["rm", "-r", peer::DRY_RUN_FILES])?;
    samples.bring_up(THEIRS, &their_bring_up(host, "")?);
    hosts::remove_first_pod(host, &peer::MASTER)?;
    let reset = timed(host, "kubeadm reset --force")?;
    samples.add(THEIRS, Measurement::Clean, reset.wall);
    Ok(())
}

/// The repetition just made, on a line.
fn last(samples: &Samples) -> String {
    let parts: Vec<String> = samples
        .0
        .iter()
        .filter_map(|((host, what), values)| {
            Some(format!("{host} {what:?} {:.1} s", values.last()?))
        })
        .collect();
    parts.join(", ")
}

const READY: Target = Target::Ratio {
    at_most: 0.65,
    goal: Some(0.5),
};
const POD: Target = Target::Ratio {
    at_most: 0.65,
    goal: Some(0.45),
};
const CLEAN: Target = Target::Ratio {
    at_most: 0.7,
    goal: None,
};

fn figures(samples: &Samples) -> Vec<Figure> {
    let figure =
        |name: &str, ours: (&'static str, Measurement), theirs: Option<_>, target| Figure {
            name: name.to_owned(),
            unit: Unit::Seconds,
            ours: samples.of(ours.0, ours.1),
            theirs: theirs
                .map(|(host, what)| samples.of(host, what))
                .unwrap_or_default(),
            target,
        };
    let mut all = Vec::new();
    for (how, ours, theirs, targets) in [
        ("images preloaded", OURS, THEIRS, [READY, POD]),
        (
            "images from archives",
            OURS_ARCHIVES,
            THEIRS_ARCHIVES,
            [READY, POD],
        ),
        (
            "images preloaded, **kubeadm without its allocator of pod subnets**",
            OURS,
            NO_ALLOCATOR,
            [Target::None; 2],
        ),
        (
            "images preloaded, **stock kubeadm**",
            OURS,
            STOCK,
            [Target::None; 2],
        ),
        (
            "images preloaded, docker configured and restarted by nodelet",
            OURS_DOCKER,
            THEIRS,
            [Target::None; 2],
        ),
    ] {
        let [ready, pod] = targets;
        for (name, what, target) in [
            ("node Ready", Measurement::Ready, ready),
            ("first pod Running", Measurement::Pod, pod),
            ("command finished", Measurement::Command, Target::None),
            (
                "processor time of the host until all three",
                Measurement::Processor,
                Target::None,
            ),
        ] {
            let name = format!("{name}, {how}");
            all.push(figure(&name, (ours, what), Some((theirs, what)), target));
        }
    }
    // Only of the two that have a target; the peers that differ have other reasons.
    for (how, ours, theirs) in [
        ("images preloaded", OURS, THEIRS),
        ("images from archives", OURS_ARCHIVES, THEIRS_ARCHIVES),
    ] {
        for (name, what) in [
            ("until kubelet starts", Measurement::Kubelet),
            (
                "kubelet, until it starts the API server's container",
                Measurement::Container,
            ),
            ("the API server, until it answers", Measurement::Answer),
            ("from there until the node is Ready", Measurement::Report),
        ] {
            let name = format!("of node Ready: {name}, {how}");
            let theirs = Some((theirs, what));
            all.push(figure(&name, (ours, what), theirs, Target::None));
        }
    }
    all.extend([
        figure(
            "`clean --purge`, `reset`",
            (OURS, Measurement::Clean),
            Some((THEIRS, Measurement::Clean)),
            CLEAN,
        ),
        figure(
            "`clean --purge`, docker set back and restarted as well, `reset`",
            (OURS_DOCKER, Measurement::Clean),
            Some((THEIRS, Measurement::Clean)),
            Target::None,
        ),
        figure(
            "second apply",
            (OURS, Measurement::Again),
            None,
            Target::AtMost(2.0),
        ),
        figure(
            "`plan` on the host, `init --dry-run`",
            (OURS, Measurement::Plan),
            Some((THEIRS, Measurement::Plan)),
            Target::None,
        ),
    ]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_takes_every_place() {
        for name in ORDER {
            for place in 0..ORDER.len() {
                let there = |number: &usize| order(*number)[place] == name;
                assert_eq!((1..=ORDER.len()).filter(there).count(), 1, "{name}");
            }
        }
    }

    #[test]
    fn compared_figures_are_measured_on_both_sides() {
        let mut samples = Samples::default();
        let command_time = CommandTime {
            wall: 20.0,
            processor: 8.0,
            kubelet: 1.0,
            container: 2.0,
            answer: 4.0,
            ready: 6.0,
            pod: 9.0,
        };
        for name in ORDER {
            samples.bring_up(name, &command_time);
        }
        let figures = figures(&samples);
        for figure in figures.iter().take(28) {
            assert_eq!(figure.ours.len(), 1, "{}", figure.name);
            assert_eq!(figure.theirs, figure.ours, "{}", figure.name);
        }
        let with_target = figures
            .iter()
            .filter(|figure| figure.target != Target::None)
            .map(|figure| figure.name.as_str())
            .collect::<Vec<_>>();
        assert_eq!(
            with_target,
            [
                "node Ready, images preloaded",
                "first pod Running, images preloaded",
                "node Ready, images from archives",
                "first pod Running, images from archives",
                "`clean --purge`, `reset`",
                "second apply",
            ]
        );
    }
}
