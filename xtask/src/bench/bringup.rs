//! The figures that need hosts: bring-up, second apply, prediction and clean, each beside what the peer does there.
//!
//! A repetition has a lab of its own. Its hosts are made and prepared together and then worked on one after the other, each switched
//! off when it is done; who begins changes from repetition to repetition.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, bail};
use lab::{Host, Lab, Setup};

use super::figures::{Figure, Target, Unit};
use super::hosts::{Took, timed};
use super::{hosts, peer};

/// The port of our API server, and its administrator's kubeconfig.
const PORT: u16 = 443;
const ADMIN: &str = "/etc/pf9/kube.d/kubeconfigs/admin.yaml";

/// The hosts of a repetition.
const OURS: &str = "nodelet";
/// Where docker is not configured yet.
const OURS_DOCKER: &str = "nodelet-docker";
const THEIRS: &str = "kubeadm";
/// With the role's CNI file as it is.
const THEIRS_SAME: &str = "kubeadm-same";

/// What is measured, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Plan,
    DryRun,
    Ready,
    Whole,
    WholeProcessor,
    ReadyWithDocker,
    PeerReady,
    PeerWhole,
    PeerWholeProcessor,
    PeerReadySame,
    Again,
    Clean,
    CleanWithDocker,
    Reset,
}

/// Every repetition's values.
#[derive(Debug, Default)]
struct Samples(BTreeMap<What, Vec<f64>>);

impl Samples {
    fn add(&mut self, what: What, seconds: f64) {
        self.0.entry(what).or_default().push(seconds);
    }

    fn of(&self, what: What) -> Vec<f64> {
        self.0.get(&what).cloned().unwrap_or_default()
    }
}

/// What a bring-up writes that a host is given beforehand.
struct Model {
    daemon: Vec<u8>,
    cni: Vec<u8>,
    cni_with_subnet: Vec<u8>,
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

/// Brings a host up once, which also warms what the machine keeps in memory.
fn model(setup: &Setup, nodelet: &Path, run: &str) -> Result<Model> {
    let lab = hosts::create(setup, &format!("{run}-model"), &[OURS])?;
    let host = lab.host(OURS)?;
    hosts::prepare(setup, &host)?;
    hosts::install(&lab, &host, nodelet)?;
    timed(&host, &hosts::nodelet("apply"))?;
    let cni = host.get(peer::CNI)?;
    let model = Model {
        daemon: hosts::docker_configuration(&host)?,
        cni_with_subnet: peer::with_subnet(&cni)?,
        cni,
    };
    lab.destroy()?;
    Ok(model)
}

fn repetition(
    setup: &Setup,
    nodelet: &Path,
    run: &str,
    number: usize,
    model: &Model,
    samples: &mut Samples,
) -> Result<()> {
    let mut order = [OURS, THEIRS, OURS_DOCKER, THEIRS_SAME];
    if number.is_multiple_of(2) {
        order = [THEIRS, OURS, THEIRS_SAME, OURS_DOCKER];
    }
    let lab = hosts::create(setup, &format!("{run}-{number}"), &order)?;
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
    for name in order {
        let host = lab.host(name)?;
        match name {
            OURS => ours(&host, samples),
            OURS_DOCKER => ours_with_docker(&host, samples),
            THEIRS => theirs(&host, samples),
            _ => theirs_same(&host, samples),
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
    hosts::prepare(setup, &host)?;
    if host.name() != OURS_DOCKER {
        hosts::configure_docker(&host, &model.daemon)?;
    }
    match host.name() {
        THEIRS => peer::install(&host, &model.cni_with_subnet),
        THEIRS_SAME => peer::install(&host, &model.cni),
        _ => hosts::install(lab, &host, nodelet),
    }
}

fn bring_up(host: &Host) -> Result<Took> {
    let apply = hosts::nodelet("apply");
    timed(host, &hosts::until_ready(&apply, PORT, ADMIN))
}

fn peer_bring_up(host: &Host) -> Result<Took> {
    let ready = hosts::until_ready(peer::INIT, peer::PORT, peer::KUBECONFIG);
    timed(host, &ready)
}

fn ours(host: &Host, samples: &mut Samples) -> Result<()> {
    samples.add(What::Plan, timed(host, &hosts::nodelet("plan"))?.wall);
    let ready = bring_up(host)?;
    samples.add(What::Ready, ready.ready);
    samples.add(What::Whole, ready.wall);
    samples.add(What::WholeProcessor, ready.processor);
    let again = timed(host, &hosts::nodelet("apply --json"))?;
    samples.add(What::Again, again.wall);
    let said = hosts::said(host)?;
    if said.contains(r#""event":"step_changing""#) {
        bail!("the second apply changed something: {said}");
    }
    let clean = timed(host, &hosts::nodelet("clean --purge"))?;
    samples.add(What::Clean, clean.wall);
    Ok(())
}

fn ours_with_docker(host: &Host, samples: &mut Samples) -> Result<()> {
    samples.add(What::ReadyWithDocker, bring_up(host)?.ready);
    let clean = timed(host, &hosts::nodelet("clean --purge"))?;
    samples.add(What::CleanWithDocker, clean.wall);
    Ok(())
}

fn theirs(host: &Host, samples: &mut Samples) -> Result<()> {
    let dry_run = timed(host, &format!("{} --dry-run", peer::INIT))?;
    samples.add(What::DryRun, dry_run.wall);
    host.text(&["rm", "-r", peer::DRY_RUN_FILES])?;
    let ready = peer_bring_up(host)?;
    samples.add(What::PeerReady, ready.ready);
    samples.add(What::PeerWhole, ready.wall);
    samples.add(What::PeerWholeProcessor, ready.processor);
    samples.add(What::Reset, timed(host, "kubeadm reset --force")?.wall);
    Ok(())
}

fn theirs_same(host: &Host, samples: &mut Samples) -> Result<()> {
    samples.add(What::PeerReadySame, peer_bring_up(host)?.ready);
    Ok(())
}

/// The repetition just made, on a line.
fn last(samples: &Samples) -> String {
    let parts: Vec<String> = samples
        .0
        .iter()
        .filter_map(|(what, values)| Some(format!("{what:?} {:.1} s", values.last()?)))
        .collect();
    parts.join(", ")
}

fn figures(samples: &Samples) -> Vec<Figure> {
    let figure = |name: &str, ours: What, theirs: Option<What>, target| Figure {
        name: name.to_owned(),
        unit: Unit::Seconds,
        ours: samples.of(ours),
        theirs: theirs.map(|what| samples.of(what)).unwrap_or_default(),
        target,
    };
    let ready = Target::Ratio {
        at_most: 1.0,
        aim: Some(0.7),
    };
    let clean = Target::Ratio {
        at_most: 0.7,
        aim: None,
    };
    vec![
        figure(
            "host to node Ready",
            What::Ready,
            Some(What::PeerReady),
            ready,
        ),
        figure(
            "until the command is over as well (nodelet: pods can be created)",
            What::Whole,
            Some(What::PeerWhole),
            Target::None,
        ),
        figure(
            "processor time of the whole host meanwhile",
            What::WholeProcessor,
            Some(What::PeerWholeProcessor),
            Target::None,
        ),
        figure(
            "host to node Ready, docker configured and restarted as well",
            What::ReadyWithDocker,
            Some(What::PeerReady),
            Target::None,
        ),
        figure(
            "host to node Ready, kubeadm with the role's very CNI file",
            What::Ready,
            Some(What::PeerReadySame),
            Target::None,
        ),
        figure(
            "`clean --purge`, `reset`",
            What::Clean,
            Some(What::Reset),
            clean,
        ),
        figure(
            "`clean --purge`, docker set back and restarted as well",
            What::CleanWithDocker,
            Some(What::Reset),
            Target::None,
        ),
        figure("second apply", What::Again, None, Target::AtMost(2.0)),
        figure(
            "`plan` on the host, `init --dry-run`",
            What::Plan,
            Some(What::DryRun),
            Target::None,
        ),
    ]
}
