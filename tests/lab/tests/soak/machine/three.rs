//! The power of three virtual machines, which are the three members of one etcd, is cut at the same time while a client writes: they come
//! back by themselves, as the same members, and no acknowledged key is lost on any of them.
//!
//! The machines run docker and etcd only, from the beginning to the end: `nodelet apply --only …` makes the phases up to etcd's vote and no
//! other ones, and nodeletd, which would hold the machines at the whole role, stays off. So after a boot only docker can start etcd again,
//! because of the policy that the role gives its container.
//!
//! A master joins with a file that another master exports, and an export asks the API server of that master. So the cluster begins with a
//! fourth master, the founder, which is no virtual machine and has the whole role. It exports the three files. Then its member leaves etcd and
//! its host is turned off, before the first cut. `nodelet cluster remove` needs an API server on the master where it runs, so the member leaves
//! through the API of etcd.
//!
//! Each machine has 3 GiB of memory, and its emulator needs at most 1 GiB more for translated code.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lab::Host;
use lab::package::wait_for_masters;
use lab_suites::{Credentials, Master, Node, at_once, poll};
use serde_json::{Value, json};

use crate::under_load::{KeyWriter, Reader, none_of_them_is_lost, urls};

/// Time limit until everything is back after a boot: many minutes, because three emulators share the processors.
const BACK: Duration = Duration::from_secs(900);
/// How often the power is cut.
const CUTS: usize = 3;
/// How many keys are acknowledged between two cuts at least.
const KEYS: usize = 100;
const MACHINES: [&str; 3] = ["machine-1", "machine-2", "machine-3"];
/// An emulated machine answers late. A leader that is only slow should stay.
const PATIENT: &[(&str, &str)] = &[
    ("ETCD_HEARTBEAT_INTERVAL", "500"),
    ("ETCD_ELECTION_TIMEOUT", "5000"),
];
/// The phases up to etcd's vote that docker and etcd need.
const PHASES: [&str; 9] = [
    "preflight",
    "node-config",
    "join",
    "certs",
    "configure-docker",
    "docker",
    "etcd-image",
    "etcd",
    "etcd-vote",
];
/// Fails if the host runs anything of the role but docker and etcd.
const DOCKER_AND_ETCD_ONLY: &str = r#"
containers=$(docker ps --all --format '{{.Names}}')
others=$(pgrep -l '^(kube|keepalived|nodelet)' || true)
[ "$containers" = etcd ] && [ -z "$others" ] || { echo "containers: $containers; processes: $others"; exit 1; }"#;
/// What is another one if the container of the member or its data is made anew, and if nodelet changes anything.
const MADE: &str = "docker inspect --format '{{.Id}} {{.Created}}' etcd
cat /var/opt/pf9/kube/etcd/data/member/nodelet-data-id
sha256sum /var/opt/pf9/nodelet/ledger.jsonl";

#[test]
#[ignore = "cargo xtask soak runs it"]
fn vm_power_of_three_members_of_etcd_is_cut_three_times() {
    let began = Instant::now();
    // The lab is removed with `founder`, which outlives the rest.
    let (founder, machines) = Master::with_machines("power-three", &MACHINES);
    tell(began, "the machines have booted");
    become_members(&founder, &machines);
    tell(began, "the machines are members");
    let client_of_etcd = Credentials::of(machines[0].host(), "etcdctl/etcd");
    let etcd = Etcd {
        machines: &machines,
        reader: Reader::new(&client_of_etcd),
    };
    etcd.founder_leaves(&founder);
    tell(began, "the machines are the only members");

    // docker does not flush an image that it loads.
    at_once(&machines, |machine| {
        let flushed = machine.host().exec_within(&["sync"], None, BACK);
        let flushed = flushed.expect("it answers");
        assert!(flushed.status.success(), "{flushed:?}");
    });
    let (members, made) = (etcd.members(), etcd.made());
    let writer = KeyWriter::start(&client_of_etcd, urls(&machines));
    for cut in 1..=CUTS {
        writer.acknowledges(KEYS, BACK);
        at_once(&machines, |machine| {
            machine.host().kill().expect("the emulator is killed");
        });
        let acknowledged = writer.acknowledged();
        let dark = Instant::now();
        at_once(&machines, |machine| boot(machine.host()));
        let leader = etcd.leader();
        writer.acknowledges(1, BACK);
        tell(
            began,
            &format!(
                "cut {cut} with {acknowledged} keys: {leader} leads, and {:.0} s after the cut a key is acknowledged",
                dark.elapsed().as_secs_f64()
            ),
        );
        assert_eq!(etcd.members(), members, "cut {cut}: the same members");
        assert_eq!(etcd.made(), made, "cut {cut}: nothing is made anew");
        etcd.has_keys(acknowledged);
    }
    let written = writer.end();
    etcd.has_keys(written.acknowledged);
    let work = "nodelet etcd members > /dev/null";
    machines[0].wait_for("nodelet finds that all members work", work, BACK);
    tell(
        began,
        &format!(
            "{} keys are acknowledged; {} attempts failed and were made again",
            written.acknowledged, written.failed
        ),
    );
}

fn tell(began: Instant, what: &str) {
    println!("after {:.0} s: {what}", began.elapsed().as_secs_f64());
}

/// The founder begins the cluster. Then one machine after the other joins etcd.
fn become_members(founder: &Master, machines: &[Node]) {
    founder.configure(PATIENT);
    let _ = founder.apply(&[]).exits(0);
    let only: Vec<&str> = PHASES.iter().flat_map(|phase| ["--only", *phase]).collect();
    let mut masters = BTreeSet::from([founder.name().to_owned()]);
    for machine in machines {
        machine.prepare_join(founder, PATIENT);
        let _ = machine.apply(&only).exits(0);
        machine.has_joined();
        machine.sh(DOCKER_AND_ETCD_ONLY);
        masters.insert(machine.name().to_owned());
        // The next join file has the list.
        update_masters(founder);
        wait_for_masters(founder.host(), &masters).expect("the founder knows them");
    }
}

/// Where nodeletd does not run, an operator updates the list of masters (docs/clusters.md).
fn update_masters(master: &Node) {
    let update = format!("nodelet masters --address {}", master.host().address());
    master.wait_for("the list of masters is updated", &update, BACK);
}

/// Starts a machine whose power was cut. A unit that needs a second try on a slow machine does not count: etcd has to be back in the end.
fn boot(host: &Host) {
    if let Err(slow) = host.start() {
        let runs = host.runs().expect("the outer docker answers");
        assert!(runs, "{} does not boot: {slow:#}", host.name());
        println!("{slow:#}");
    }
}

/// etcd, as its members on the machines say.
struct Etcd<'a> {
    machines: &'a [Node],
    reader: Reader,
}

/// What a member says about the members.
#[derive(Debug, PartialEq, Eq)]
struct Members {
    /// The id of the cluster.
    cluster: Value,
    /// The member's own id.
    own: Value,
    /// All members with ids, names and addresses, in the order of their ids.
    all: Vec<Value>,
}

impl Etcd<'_> {
    fn ask(&self, machine: &Node, path: &str, question: &Value) -> Result<Value, String> {
        let url = format!("https://{}:4001{path}", machine.host().address());
        let answer = self.reader.ask(&url, Some(question));
        answer.map_err(|why| format!("{url}: {why}"))
    }

    fn members_by(&self, machine: &Node) -> Result<Members, String> {
        let list = self.ask(machine, "/v3/cluster/member/list", &json!({}))?;
        let mut all = list["members"].as_array().cloned().unwrap_or_default();
        all.sort_by_key(|member| member["ID"].to_string());
        Ok(Members {
            cluster: list["header"]["cluster_id"].clone(),
            own: list["header"]["member_id"].clone(),
            all,
        })
    }

    /// What each member says: all know one cluster, in which the machines are the only members, each with a vote.
    fn members(&self) -> Vec<Members> {
        let all: Vec<Members> = self
            .machines
            .iter()
            .map(|machine| until("a member lists all", || self.members_by(machine)))
            .collect();
        let ids: BTreeSet<&str> = all.iter().filter_map(|its| its.own.as_str()).collect();
        assert_eq!(ids.len(), MACHINES.len(), "{all:#?}");
        for one in &all {
            assert!(one.cluster.is_string(), "{one:#?}");
            assert_eq!((&one.cluster, &one.all), (&all[0].cluster, &all[0].all));
            let listed: BTreeSet<&str> = one.all.iter().filter_map(|m| m["ID"].as_str()).collect();
            assert_eq!(listed, ids, "{one:#?}");
            let names: BTreeSet<&str> = one.all.iter().filter_map(|m| m["name"].as_str()).collect();
            assert_eq!(names, BTreeSet::from(MACHINES), "{one:#?}");
            let learns = one.all.iter().any(|member| member["isLearner"] == true);
            assert!(!learns, "{one:#?}");
        }
        all
    }

    /// Waits until all members know the same leader, which is one of them, and gives the name of its machine.
    fn leader(&self) -> &str {
        until("all members know one leader", || {
            let mut leads = None;
            let mut leaders = BTreeSet::new();
            for machine in self.machines {
                let status = self.ask(machine, "/v3/maintenance/status", &json!({}))?;
                // etcd leaves out what is 0, as without a leader.
                let leader = status["leader"].as_str().unwrap_or_default().to_owned();
                if status["header"]["member_id"] == *leader {
                    leads = Some(machine.name());
                }
                leaders.insert(leader);
            }
            match leads {
                Some(name) if leaders.len() == 1 => Ok(name),
                Some(_) | None => Err(format!("the leaders are {leaders:?}")),
            }
        })
    }

    /// What the machines have, which none of them may make anew. They run docker and etcd only.
    fn made(&self) -> Vec<String> {
        let one = |machine: &Node| {
            machine.sh(DOCKER_AND_ETCD_ONLY);
            machine.sh(MADE)
        };
        self.machines.iter().map(one).collect()
    }

    /// Asserts that each member has all keys that are acknowledged.
    fn has_keys(&self, acknowledged: usize) {
        for machine in self.machines {
            let lost = self
                .reader
                .lost_keys(machine.host().address(), acknowledged);
            let what = format!("keys on {}", machine.name());
            none_of_them_is_lost(&what, &lost.into_iter().collect());
        }
    }

    /// The founder's member leaves, and the founder is turned off. Then the machines know no other masters.
    fn founder_leaves(&self, founder: &Master) {
        until("the founder's member leaves", || {
            for machine in self.machines {
                let members = self.members_by(machine)?;
                let mut all = members.all.iter();
                if let Some(leaving) = all.find(|member| member["name"] == *founder.name()) {
                    let question = json!({ "ID": leaving["ID"] });
                    let _ = self.ask(machine, "/v3/cluster/member/remove", &question)?;
                    return Err(format!("{} still lists it", machine.name()));
                }
            }
            Ok(())
        });
        founder.host().kill().expect("it is killed");
        let _ = self.leader();
        self.machines.iter().for_each(update_masters);
    }
}

/// Asks again and again until there is an answer.
#[track_caller]
fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let mut last = String::new();
    let answer = poll(BACK, || ask().map_err(|why| last = why).ok());
    answer.unwrap_or_else(|| panic!("{what}: not within {} s: {last}", BACK.as_secs()))
}
