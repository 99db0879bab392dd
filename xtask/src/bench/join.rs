//! How long a bare host takes until it is a Ready worker, or the second or third master, of a cluster with a virtual IP.
//!
//! A repetition has a lab of its own with two clusters on the same network, ours and kubeadm's. They are worked on one after the other, and the
//! hosts of the first one are switched off before the second one begins; who begins changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Config, Host, Lab, Setup, command, package};
use serde_json::Value;

use super::bringup::{self, MASTER, Model};
use super::figures::{Figure, Target, Unit};
use super::hosts::{self, CommandTime, Images, timed};
use super::peer::{self, cluster};
use crate::machine::wait_until_at_rest;

/// Where the watch finds an administrator's kubeconfig.
const KUBECONFIG: &str = "/root/bench.kubeconfig";
/// How long nodeletd may take until it watches its host.
const HELD: Duration = Duration::from_secs(120);

/// Bound on what the watch waits for. It is over before that of the measured command, so that the watch can say what it has not seen.
const SEEN: Duration = Duration::from_secs(240);

/// Looks from outside when the node is Ready. What is asked is the same on all hosts.
///
/// A question that starts curl takes processor time from the join that it watches. So the node is asked for once, with a request that stays open
/// and gets a line for each change of the node, first for the node as it is (Kubernetes API concepts, "Efficient detection of changes"). The
/// time limit of the request is for a server that goes away and says nothing.
const WATCH: &str = r#"
umask 077
in_time() { [ $SECONDS -lt @SECONDS@ ] || { echo "not seen within @SECONDS@ s: $1"; exit 1; }; }
for part in certificate key; do
    sed -n "s/^ *client-$part-data: *//p" @KUBECONFIG@ | tr -d '"' | base64 --decode >/run/bench.$part
done
rm -f /run/bench.events && mkfifo /run/bench.events
is_ready() {
    curl --silent --insecure --no-buffer --max-time 10 --cert /run/bench.certificate --key /run/bench.key \
        "@CLUSTER@/api/v1/nodes?watch=true&fieldSelector=metadata.name%3D@NODE@" >/run/bench.events &
    local request=$! seen=1
    grep -q '^{"type":"\(ADDED\|MODIFIED\)",.*"type":"Ready","status":"True"' /run/bench.events && seen=0
    kill $request 2>/dev/null
    # The shell's `times` have only what it has waited for.
    wait $request
    return $seen
}
until is_ready; do in_time "the node is Ready"; sleep 0.1; done
@PARTS@
date +%s%N >/run/bench.ready
times >/run/bench.times
tr ms '  ' </run/bench.times | awk '{ sum += 60 * ($1 + $3) + $2 + $4 } END { printf "%.0f\n", sum * 1e9 }' >/run/bench.cost"#;

/// What a master has beside its node: its own API server, and a member of etcd that has a vote. A learner answers that it is not healthy.
const PARTS_OF_MASTER: &str = r#"until curl --silent --insecure --max-time 5 --cert /run/bench.certificate --key /run/bench.key \
    --fail --output /dev/null "https://127.0.0.1:@PORT@/readyz"; do in_time "its API server is ready"; sleep 0.1; done
until (cd @ETCD@ && curl --silent --max-time 2 --cacert ca.crt --cert @CLIENT@.crt --key @CLIENT@.key "https://127.0.0.1:@ETCD_PORT@/health" |
    grep -q '"health":"true"'); do in_time "its member of etcd is healthy"; sleep 0.1; done"#;

/// Whose cluster it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Ours,
    Theirs,
}

/// What a host becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Worker,
    Second,
    Third,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Worker, Self::Second, Self::Third];

    fn title(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Second => "second master",
            Self::Third => "third master",
        }
    }
}

impl Who {
    /// The names of its hosts: the first master, and then those that join, in the order of [`Kind::ALL`].
    fn names(self) -> [&'static str; 4] {
        match self {
            Self::Ours => ["nodelet-1", "nodelet-worker", "nodelet-2", "nodelet-3"],
            Self::Theirs => ["kubeadm-1", "kubeadm-worker", "kubeadm-2", "kubeadm-3"],
        }
    }

    fn hosts(self, lab: &Lab) -> Result<[Host; 4]> {
        let [first, worker, second, third] = self.names().map(|name| lab.host(name));
        Ok([first?, worker?, second?, third?])
    }

    /// The API server's port.
    fn port(self) -> u16 {
        match self {
            Self::Ours => MASTER.port,
            Self::Theirs => peer::MASTER.port,
        }
    }

    /// The directory of certificates for etcd, the client's name there, and the port of etcd.
    fn etcd(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Ours => ("/etc/pf9/kube.d/certs/etcdctl/etcd", "request", "4001"),
            Self::Theirs => ("/etc/kubernetes/pki/etcd", "healthcheck-client", "2379"),
        }
    }

    /// The watch for a host that becomes this.
    fn watch(self, kind: Kind, node: &str, vip: &str) -> String {
        let (directory, client, etcd_port) = self.etcd();
        let parts = match kind {
            Kind::Worker => "",
            Kind::Second | Kind::Third => PARTS_OF_MASTER,
        };
        let port = self.port().to_string();
        WATCH
            .replace("@PARTS@", parts)
            .replace("@CLUSTER@", &format!("https://{vip}:{port}"))
            .replace("@KUBECONFIG@", KUBECONFIG)
            .replace("@NODE@", node)
            .replace("@PORT@", &port)
            .replace("@ETCD@", directory)
            .replace("@CLIENT@", client)
            .replace("@ETCD_PORT@", etcd_port)
            .replace("@SECONDS@", &SEEN.as_secs().to_string())
    }
}

type Samples = BTreeMap<(Who, Kind), Vec<CommandTime>>;

/// Measures so many repetitions; `run` begins the labs' names.
///
/// # Errors
/// A lab cannot be made, or a host does not come up.
pub(super) fn measure(
    setup: &Setup,
    nodelet: &Path,
    run: &str,
    repetitions: usize,
) -> Result<Vec<Figure>> {
    let model =
        bringup::model(setup, nodelet, run).context("the uncounted first bring-up failed")?;
    let mut samples = Samples::new();
    for number in 1..=repetitions {
        let names = [Who::Ours.names(), Who::Theirs.names()].concat();
        let lab = hosts::create(setup, &format!("{run}-{number}"), &names)?;
        prepare(setup, &lab, nodelet, &model)?;
        let mut order = [Who::Ours, Who::Theirs];
        order.rotate_left(number % 2);
        for who in order {
            let measured = match who {
                Who::Ours => ours(&lab),
                Who::Theirs => theirs(setup, &lab, &model),
            };
            let times = measured.with_context(|| {
                format!(
                    "repetition {number} failed; the lab `{}` can be kept with NODELET_LAB_KEEP=1",
                    lab.name()
                )
            })?;
            for (kind, its) in times {
                println!(
                    "[{number}/{repetitions}] {who:?} {}: {:.1} s",
                    kind.title(),
                    its.ready
                );
                samples.entry((who, kind)).or_default().push(its);
            }
            who.hosts(&lab)?.iter().try_for_each(Host::kill)?;
        }
        lab.destroy()?;
    }
    Ok(figures(&samples))
}

/// Makes all hosts alike. Those of ours get nodelet, too; what kubeadm needs depends on the cluster.
fn prepare(setup: &Setup, lab: &Lab, nodelet: &Path, model: &Model) -> Result<()> {
    let ours = Who::Ours.names();
    let ready = |host: &Host| -> Result<()> {
        hosts::prepare(setup, host, Images::Loaded)?;
        hosts::configure_docker(host, &model.daemon)?;
        match ours.contains(&host.name()) {
            true => hosts::install(lab, host, nodelet),
            false => Ok(()),
        }
    };
    let ready = &ready;
    // A few at a time: each loads a gigabyte of images.
    for some in lab.hosts().chunks(4) {
        thread::scope(|scope| {
            let prepared: Vec<_> = some
                .iter()
                .map(|host| scope.spawn(move || ready(host)))
                .collect();
            prepared.into_iter().try_for_each(|prepared| {
                prepared
                    .join()
                    .unwrap_or_else(|_| bail!("the preparation panicked"))
            })
        })?;
    }
    Ok(())
}

/// Our cluster. Join files are made before the measured command, as kubeadm's token is.
fn ours(lab: &Lab) -> Result<Vec<(Kind, CommandTime)>> {
    let [first, worker, second, third] = Who::Ours.hosts(lab)?;
    let vip = Some(lab.vip());
    let apply = hosts::nodelet("apply");
    configure(&first, Config::master(lab.name(), first.address(), vip))?;
    timed(&first, &apply).context("the first master does not come up")?;
    keep(&first)?;
    let admin = first.get(MASTER.kubeconfig)?;
    let joined = |kind, host: &Host| join(lab, Who::Ours, kind, host, &apply, &admin);

    package::join(&first, &worker, worker.name())?;
    configure(&worker, Config::worker(lab.name(), lab.vip()))?;
    let mut times = vec![joined(Kind::Worker, &worker)?];
    let mut known = BTreeSet::from([first.name().to_owned()]);
    for (kind, host) in [(Kind::Second, &second), (Kind::Third, &third)] {
        package::wait_for_masters(&first, &known)?;
        package::join_master(&first, host, host.name())?;
        let config = Config::joining_master(lab.name(), host.address(), vip);
        configure(host, config)?;
        times.push(joined(kind, host)?);
        package::remove_join_file(host)?;
        keep(host)?;
        known.insert(host.name().to_owned());
    }
    Ok(times)
}

/// kubeadm's cluster with the same virtual IP.
fn theirs(setup: &Setup, lab: &Lab, model: &Model) -> Result<Vec<(Kind, CommandTime)>> {
    let [first, worker, second, third] = Who::Theirs.hosts(lab)?;
    let debs = hosts::debs(setup);
    let cluster = cluster::Cluster {
        peer: &model.peer,
        vip: lab.vip(),
        masters: [&first, &second, &third].map(Host::address).to_vec(),
    };
    cluster.install_first(&first, &model.cni, &debs)?;
    cluster.install_worker(&worker, &peer::with_subnet_of(&model.cni, 1)?)?;
    cluster.install_master(&second, &peer::with_subnet_of(&model.cni, 2)?, &debs)?;
    cluster.install_master(&third, &peer::with_subnet_of(&model.cni, 3)?, &debs)?;
    timed(&first, &cluster::init()).context("the first master does not come up")?;
    let admin = first.get(peer::MASTER.kubeconfig)?;
    let mut times = Vec::new();
    for (kind, host) in Kind::ALL.into_iter().zip([&worker, &second, &third]) {
        times.push(join(lab, Who::Theirs, kind, host, cluster::JOIN, &admin)?);
    }
    Ok(times)
}

/// Lets a host join with this command, and measures until it is Ready.
fn join(
    lab: &Lab,
    who: Who,
    kind: Kind,
    host: &Host,
    command: &str,
    admin: &[u8],
) -> Result<(Kind, CommandTime)> {
    host.put(admin, KUBECONFIG, 0o600)?;
    wait_until_at_rest();
    let watch = who.watch(kind, host.name(), &lab.vip().to_string());
    let its = hosts::watched(host, command, &watch)
        .with_context(|| format!("the {} does not come up", kind.title()))?;
    if its.ready <= 0.0 {
        bail!(
            "the watch on the host `{}` ended early: {}",
            host.name(),
            hosts::watch_said(host)
        );
    }
    Ok((kind, its))
}

/// Writes the settings, with which nodeletd keeps the host at its role.
fn configure(host: &Host, mut config: Config) -> Result<()> {
    config.set("KUBE_SERVICE_STATE", "true");
    package::configure(host, &config)
}

/// Lets nodeletd keep a master: it signs the certificates of nodes, gives them pod subnets, and follows the list of masters.
fn keep(host: &Host) -> Result<()> {
    host.text(&["systemctl", "start", "pf9-nodeletd"])?;
    command::poll(HELD, || {
        let output = host.exec(&["nodelet", "status", "--json"]).ok()?;
        let view: Value = serde_json::from_slice(&output.stdout).ok()?;
        (view["desired"] == "true" && view["doing"] == "watching").then_some(())
    })
    .with_context(|| {
        format!(
            "nodeletd does not watch the host `{}` after {} s",
            host.name(),
            HELD.as_secs()
        )
    })
}

const READY: Target = Target::Ratio {
    at_most: 0.7,
    goal: Some(0.5),
};

/// A time of a command: its name, how to take it, and its target.
type Time = (&'static str, fn(&CommandTime) -> f64, Target);

fn figures(samples: &Samples) -> Vec<Figure> {
    let seconds: [Time; 3] = [
        ("bare host to Ready", |its| its.ready, READY),
        ("command finished", |its| its.wall, Target::None),
        (
            "processor time of the host until both",
            |its| its.processor,
            Target::None,
        ),
    ];
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for (name, of, target) in seconds {
            let values = |who| {
                let times = samples.get(&(who, kind)).into_iter().flatten();
                times.map(of).collect()
            };
            all.push(Figure {
                name: format!("{}: {name}", kind.title()),
                unit: Unit::Seconds,
                ours: values(Who::Ours),
                theirs: values(Who::Theirs),
                target,
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use super::*;

    #[test]
    fn both_watches_ask_the_same_questions() {
        for kind in Kind::ALL {
            let ours = Who::Ours.watch(kind, "a-node", "172.30.1.100");
            let theirs = Who::Theirs.watch(kind, "a-node", "172.30.1.100");
            assert!(!ours.contains('@'), "{ours}");
            assert!(
                ours.contains(
                    "\"https://172.30.1.100:443/api/v1/nodes?watch=true&fieldSelector=metadata.name%3Da-node\""
                ),
                "{ours}"
            );
            let is_master = kind != Kind::Worker;
            assert_eq!(ours.contains("127.0.0.1:443/readyz"), is_master, "{ours}");
            assert_eq!(ours.contains("127.0.0.1:4001/health"), is_master, "{ours}");
            let same = theirs
                .replace(":6443/", ":443/")
                .replace("/etc/kubernetes/pki/etcd", Who::Ours.etcd().0)
                .replace("healthcheck-client", "request")
                .replace(":2379/", ":4001/");
            assert_eq!(same, ours);
        }
    }

    /// Runs the watch of a worker, with a curl that answers its first request with the first of these texts, and so on. Each request ends then,
    /// except for the last one. Gives what the watch has said, and how often it has asked.
    fn watched(case: &str, answers: &[&str], seconds: u64) -> (Output, usize) {
        let directory =
            std::env::temp_dir().join(format!("bench-watch-{case}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("made");
        for (number, answer) in answers.iter().enumerate() {
            std::fs::write(directory.join(format!("answer.{number}")), answer).expect("written");
        }
        let its = directory.display().to_string();
        let curl = CURL.replace("@DIRECTORY@", &its);
        std::fs::write(directory.join("curl"), curl).expect("written");
        let watch = Who::Ours.watch(Kind::Worker, "a-node", "172.30.1.100");
        let watch = watch
            .replace("curl --", &format!("bash {its}/curl --"))
            .replace(KUBECONFIG, "/dev/null")
            .replace("/run/", &format!("{its}/"))
            .replace(
                &format!("-lt {} ", SEEN.as_secs()),
                &format!("-lt {seconds} "),
            );
        // The limit is for a watch that waits for the request which stays open.
        let output = Command::new("timeout")
            .args(["--signal=KILL", "60", "bash", "-c", &watch])
            .output()
            .expect("bash runs");
        let asked = std::fs::read_to_string(directory.join("asked")).expect("it has asked");
        for written in ["bench.ready", "bench.cost"] {
            let exists = directory.join(written).exists();
            assert_eq!(exists, output.status.success(), "{case}: {written}");
        }
        std::fs::remove_dir_all(directory).expect("removed");
        (output, asked.lines().count())
    }

    /// Stands in for curl.
    const CURL: &str = r#"cd @DIRECTORY@
echo asked >>asked
number=$(($(wc -l <asked) - 1))
cat answer.$number
[ -e answer.$((number + 1)) ] || exec tail -f /dev/null"#;

    fn event(kind: &str, ready: &str) -> String {
        format!(
            r#"{{"type":"{kind}","object":{{"kind":"Node","status":{{"conditions":[{{"type":"DiskPressure","status":"True"}},{{"type":"Ready","status":"{ready}"}}]}}}}}}"#
        ) + "\n"
    }

    #[test]
    fn the_watch_ends_with_the_event_that_says_ready() {
        let at_once = event("ADDED", "True");
        let later = [
            event("ADDED", "Unknown"),
            event("MODIFIED", "False"),
            event("MODIFIED", "True"),
        ]
        .concat();
        let not_ready = event("ADDED", "False");
        let deleted = event("DELETED", "True");
        let (at_once, later) = (at_once.as_str(), later.as_str());
        let cases = [
            ("at-once", vec![at_once]),
            ("later", vec![later]),
            // A server that is away, one that ends the request, and one whose last line is cut off.
            ("again", vec!["", not_ready.as_str(), &later[..60], at_once]),
            ("deleted", vec![deleted.as_str(), at_once]),
        ];
        for (case, answers) in cases {
            let (output, asked) = watched(case, &answers, SEEN.as_secs());
            assert!(output.status.success(), "{case}: {output:?}");
            assert_eq!(asked, answers.len(), "{case}: {output:?}");
        }
    }

    #[test]
    fn a_watch_that_takes_too_long_says_what_it_waits_for() {
        let (output, asked) = watched("too-long", &["", ""], 0);
        assert_eq!((output.status.code(), asked), (Some(1), 1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "not seen within 240 s: the node is Ready\n");
    }

    #[test]
    fn each_kind_has_a_target_for_ready_alone() {
        let its = CommandTime {
            wall: 20.0,
            processor: 8.0,
            kubelet: 0.0,
            container: 0.0,
            answer: 0.0,
            ready: 6.0,
            pod: 0.0,
        };
        let mut samples = Samples::new();
        for kind in Kind::ALL {
            samples.insert((Who::Ours, kind), vec![its; 2]);
            samples.insert((Who::Theirs, kind), vec![its; 2]);
        }
        let figures = figures(&samples);
        let with_target: Vec<&str> = figures
            .iter()
            .filter(|figure| figure.target == READY)
            .map(|figure| figure.name.as_str())
            .collect();
        assert_eq!(
            with_target,
            [
                "worker: bare host to Ready",
                "second master: bare host to Ready",
                "third master: bare host to Ready",
            ]
        );
        assert!(figures.iter().all(|figure| figure.ours == figure.theirs));
        assert!(figures.iter().all(|figure| figure.ours.len() == 2));
    }
}
