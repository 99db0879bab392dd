//! Three masters without a virtual IP behind an external load balancer, which a thread of this test is. The second and third master and a worker
//! are started at the same time. An API server that is gone is no loss to the worker. A change that is applied on all masters at once restarts one
//! member of etcd after the other, one of two stops at the same time is refused, and a dead master is replaced, in place and after its removal.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lab_suites::{Image, KUBECTL, Master, Node, Run, SCALED, is_known, masters_beside};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;

use super::workers::WORKER;

/// The port of the API server.
const PORT: u16 = 443;
/// Time limit of a connection to a master.
const CONNECTED: Duration = Duration::from_secs(1);
/// Time limit until all parts know what has changed.
const SEEN: Duration = Duration::from_secs(180);
/// A member that begins is healthy before another one is ended, so two begins are further apart than this.
const APART: Duration = Duration::from_secs(1);
/// A worker has more steps than this.
const STEPS: u64 = 15;
/// How often the requests at the load balancer are repeated: each goes to the next master.
const REQUESTS: usize = 9;

/// When the worker has renewed its Lease last.
const RENEWED: &str = "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml --namespace kube-node-lease get lease/worker-1 --output jsonpath='{.spec.renewTime}'";

/// A TCP load balancer at the lab's end of the network. Each connection goes to the next master that accepts one. It works until its runtime is
/// dropped.
struct LoadBalancer {
    address: Ipv4Addr,
    masters: Arc<Mutex<Vec<SocketAddr>>>,
    _runtime: runtime::Runtime,
}

impl LoadBalancer {
    /// Begins to accept connections beside this host.
    fn start(host: Ipv4Addr) -> Self {
        let [one, two, three, _] = host.octets();
        let address = Ipv4Addr::new(one, two, three, 1);
        let masters = Arc::new(Mutex::new(vec![SocketAddr::from((host, PORT))]));
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind((address, PORT)));
        let listener = listener.expect("the port is free");
        runtime.spawn(accept(listener, Arc::clone(&masters)));
        Self {
            address,
            masters,
            _runtime: runtime,
        }
    }

    /// Uses these masters from now on.
    fn balance(&self, masters: &[Node]) {
        let addresses = masters.iter().map(|its| its.host().address());
        let addresses = addresses.map(|address| SocketAddr::from((address, PORT)));
        *self.masters.lock().unwrap_or_else(PoisonError::into_inner) = addresses.collect();
    }
}

async fn accept(listener: TcpListener, masters: Arc<Mutex<Vec<SocketAddr>>>) -> io::Result<()> {
    let mut turn = 0;
    loop {
        let (client, _) = listener.accept().await?;
        let mut all = masters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let first = turn % all.len().max(1);
        all.rotate_left(first);
        turn += 1;
        tokio::spawn(pass_on(client, all));
    }
}

/// Connects a client with the first of these masters that accepts.
async fn pass_on(mut client: TcpStream, masters: Vec<SocketAddr>) {
    for master in masters {
        let connected = tokio::time::timeout(CONNECTED, TcpStream::connect(master)).await;
        if let Ok(Ok(mut server)) = connected {
            // The end of a connection is an error of its client, not of this test.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn load_balancer_of_three_masters_that_are_started_at_once_with_a_worker() {
    let began = Instant::now();
    // The lab is removed with `first`, which outlives the rest.
    let mut first = Master::create("balanced", Image::Bare, false);
    let balancer = LoadBalancer::start(first.host().address());
    let api = balancer.address.to_string();
    let settings = [&[("MASTER_IP", api.as_str())], SCALED].concat();
    first.configure(&settings);
    let _ = first.apply(&[]).exits(0);
    let mut masters = vec![first.as_one()];
    masters[0].keep();
    let joining: Vec<Node> = masters_beside(&mut first, ["master-2", "master-3"]).into();
    let worker = Node::worker_beside(&mut first, WORKER);
    let hosts: Vec<&Node> = joining.iter().chain([&worker]).collect();
    for host in &hosts {
        host.prepare_join(&first, &settings);
    }
    println!("{:.0} s: they join", began.elapsed().as_secs_f64());
    thread::scope(|scope| {
        for host in &hosts {
            scope.spawn(move || {
                let _ = host.apply(&[]).exits(0);
                println!("{} has joined", host.name());
                host.has_joined();
                host.keep();
            });
        }
    });
    masters.extend(joining);
    balancer.balance(&masters);
    println!("{:.0} s: they are there", began.elapsed().as_secs_f64());
    is_known(&masters);
    all_nodes_are_ready(&masters);
    for host in masters.iter().chain([&worker]) {
        host.sh("systemctl stop pf9-nodeletd");
        host.apply(&[]).exits(0).changes_none_of(STEPS);
        host.keep();
    }

    one_member_restarts_at_a_time(&masters, &settings);
    println!(
        "{:.0} s: a change is applied",
        began.elapsed().as_secs_f64()
    );
    one_of_two_stops_is_refused(&masters);
    all_nodes_are_ready(&masters);
    println!(
        "{:.0} s: a master was stopped",
        began.elapsed().as_secs_f64()
    );

    // One after the other is gone, and comes back.
    for (index, gone) in masters.iter().enumerate() {
        let asks = &masters[(index + 1) % masters.len()];
        gone.host().kill().expect("it is killed");
        answers(asks);
        let before = asks.sh(RENEWED);
        asks.wait_for(
            "the worker reports over the load balancer",
            &format!(r#"now=$({RENEWED}) && [ -n "$now" ] && [ "$now" != "{before}" ]"#),
            SEEN,
        );
        gone.host().start().expect("it starts");
        gone.host().wait_until_running().expect("it runs");
        all_nodes_are_ready(&masters);
        println!(
            "{:.0} s: {} is back",
            began.elapsed().as_secs_f64(),
            gone.name()
        );
    }
    for how in [Replaced::InPlace, Replaced::AfterRemoval] {
        a_dead_master_is_replaced(&mut first, &mut masters, &balancer, &settings, how);
        println!(
            "{:.0} s: a dead master is replaced ({how:?})",
            began.elapsed().as_secs_f64()
        );
    }
}

/// How another host takes the place of a dead master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replaced {
    /// With the name and the address of the dead one. It removes the member of that one when it joins.
    InPlace,
    /// One command removes the dead one before.
    AfterRemoval,
}

/// The host of the last master is gone for good, and another host of its name joins.
fn a_dead_master_is_replaced(
    first: &mut Master,
    masters: &mut Vec<Node>,
    balancer: &LoadBalancer,
    settings: &[(&str, &str)],
    how: Replaced,
) {
    let dead = masters.pop().expect("a third master");
    let (name, address) = (dead.name().to_owned(), dead.host().address());
    dead.host().kill().expect("it is killed");
    dead.remove(first);
    let silent = format!(
        "! nodelet etcd members > /dev/null && {KUBECTL} wait --for=condition=Ready=Unknown --timeout=5s node/{name}"
    );
    masters[0].wait_for("the others miss it", &silent, SEEN);
    balancer.balance(masters);
    if how == Replaced::AfterRemoval {
        let removed = masters[0].nodelet(&["cluster", "remove", &name]).exits(0);
        let _ = removed.says(&[&format!("master {name} is removed")]);
        is_known(masters);
    }
    let next = Node::master_beside(first, &name);
    assert_eq!(next.host().address(), address, "the lowest free address");
    match how {
        Replaced::InPlace => next.prepare_join_in_place(first, settings),
        Replaced::AfterRemoval => next.prepare_join(first, settings),
    }
    let _ = next.apply(&[]).exits(0);
    next.has_joined();
    next.keep();
    masters.push(next);
    balancer.balance(masters);
    is_known(masters);
    all_nodes_are_ready(masters);
}

/// Applies a change of etcd's settings on all masters at once: etcd keeps its quorum all the time, so each of them waits for the others.
fn one_member_restarts_at_a_time(masters: &[Node], settings: &[(&str, &str)]) {
    let changed = [settings, &[("ETCD_HEARTBEAT_INTERVAL", "150")]].concat();
    let before = begins(masters);
    for master in masters {
        master.sh("systemctl stop pf9-nodeletd");
        master.configure(&changed);
    }
    thread::scope(|scope| {
        for master in masters {
            scope.spawn(|| {
                let _ = master.apply(&[]).exits(0);
            });
        }
    });
    let mut begins = begins(masters);
    assert!(
        begins.iter().all(|begin| !before.contains(begin)),
        "each member begins anew"
    );
    begins.sort_by(f64::total_cmp);
    for pair in begins.windows(2) {
        let apart = Duration::from_secs_f64(pair[1] - pair[0]);
        assert!(apart > APART, "two members began {apart:?} apart");
    }
    for master in masters {
        master.keep();
    }
    all_nodes_are_ready(masters);
}

/// When the container of each member has begun, in seconds since 1970.
fn begins(masters: &[Node]) -> Vec<f64> {
    const BEGAN: &str =
        "date --date \"$(docker inspect --format '{{.State.StartedAt}}' etcd)\" +%s.%N";
    let all = masters.iter().map(|its| its.sh(BEGAN));
    all.map(|text| text.trim().parse().expect("a time"))
        .collect()
}

/// Stops two masters at the same time: etcd would lose its quorum without both.
fn one_of_two_stops_is_refused(masters: &[Node]) {
    let two = &masters[1..];
    for master in two {
        master.sh("systemctl stop pf9-nodeletd");
    }
    let ended: Vec<Run> = thread::scope(|scope| {
        let stop = |master| scope.spawn(move || Node::nodelet(master, &["stop"]));
        let begun: Vec<_> = two.iter().map(stop).collect();
        let ended = begun.into_iter().map(|stop| stop.join());
        ended.map(|run| run.expect("it ends")).collect()
    });
    for code in [0, 1] {
        let with = ended.iter().filter(|run| run.exited(code));
        let texts: Vec<String> = ended.iter().map(Run::text).collect();
        assert_eq!(with.count(), 1, "{}", texts.join("\n"));
    }
    answers(&masters[0]);
    for master in two {
        let _ = master.apply(&[]).exits(0);
        master.keep();
    }
}

/// Waits until all masters and the worker are Ready, and the cluster has no problem.
fn all_nodes_are_ready(masters: &[Node]) {
    let nodes: Vec<String> = masters
        .iter()
        .map(|its| format!("node/{}", its.name()))
        .collect();
    let ready = format!(
        "{KUBECTL} wait --for=condition=Ready --timeout=5s {} node/{WORKER}",
        nodes.join(" ")
    );
    for master in masters {
        master.wait_for("all nodes are Ready", &ready, SEEN);
    }
    masters[0].wait_for("the cluster is well", "nodelet cluster status", SEEN);
}

/// Asserts that the API answers at the load balancer, whichever master it chooses. While etcd elects a leader, an API server answers with an error.
fn answers(by: &Node) {
    let asks = format!("{KUBECTL} get node --output name > /dev/null");
    for _ in 0..REQUESTS {
        by.wait_for("the API answers at the load balancer", &asks, SEEN);
    }
}
