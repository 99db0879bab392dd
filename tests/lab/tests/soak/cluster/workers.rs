//! A worker without its masters for ten minutes, and a worker whose certificates live half an hour.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use lab_suites::{Image, KUBECTL, Master, Node, SCALED, TOOLBOX_IMAGE, Watch, poll, restarted};

pub(super) const WORKER: &str = "worker-1";
/// A pod on the worker, and its Service.
const POD: &str = "on-worker";
/// Time limit until all parts know what has changed.
const SEEN: Duration = Duration::from_secs(120);
/// Time limit until the worker is whole again.
const BACK: Duration = Duration::from_secs(180);

/// How long the API server is out of reach, in seconds.
const OUTAGE: u64 = 600;
/// The unit that drops what the worker and the API server send to each other, and ends by itself, also if the soak dies.
const CUT: &str = "nodelet-soak-outage";
/// The routes to the pods of other nodes.
const ROUTES: &str = "ip -4 -o route show proto 92";
/// Pause between two looks at the worker.
const LOOK: Duration = Duration::from_secs(15);

/// A certificate is renewed after three fifths of its life of half an hour. Before its end it must be another one.
const RENEWED: Duration = Duration::from_secs(27 * 60);
/// The certificates that masters sign.
const SIGNED: [&str; 3] = [
    "kubelet/apiserver",
    "kubelet/server",
    "kube-proxy/apiserver",
];
/// The programs that read them only at their start.
const READERS: [&str; 2] = ["pf9-kubelet", "/proxy"];

/// A master, and a worker that has joined it and serves a page; nodeletd keeps both. The settings are those of the master.
pub(super) fn with_worker(lab: &str, settings: &[(&str, &str)]) -> (Master, Node) {
    let mut master = Master::create(lab, Image::Bare, false);
    master.configure(settings);
    let _ = master.apply(&[]).exits(0);
    master.keep();
    let worker = Node::worker_beside(&mut master, WORKER);
    worker.join(&master, SCALED);
    worker.keep();
    let account = format!("{KUBECTL} get serviceaccount/default");
    master.wait_for("pods can be made", &account, SEEN);
    let overrides = format!(
        r#"{{"apiVersion": "v1", "spec": {{"nodeName": "{WORKER}", "tolerations": [{{"operator": "Exists"}}]}}}}"#
    );
    master.kubectl(&format!(
        "run {POD} --image={TOOLBOX_IMAGE} --image-pull-policy=Never --restart=Never --port=8080 --overrides='{overrides}' -- \
         httpd -f -v -p 8080 -h /www"
    ));
    master.kubectl(&format!(
        "expose pod/{POD} --type=NodePort --port=80 --target-port=8080"
    ));
    master.kubectl(&format!(
        "wait --for=condition=Ready node/{WORKER} pod/{POD} --timeout=90s"
    ));
    (master, worker)
}

/// A script that asks for the pod's page at the worker's port of its Service, from another host.
fn asks(master: &Master, worker: &Node) -> String {
    let port = master.kubectl(&format!(
        "get service/{POD} --output jsonpath='{{.spec.ports[0].nodePort}}'"
    ));
    let address = worker.host().address();
    format!(
        "curl -sSf --max-time 10 http://{address}:{port}/index.html | grep -q 'hello from the toolbox'"
    )
}

/// When each container and unit of the worker was started, a line each. It begins with the name.
fn started(worker: &Node) -> BTreeSet<String> {
    let text = worker.sh(
        "docker ps --quiet | xargs docker inspect --format '{{.Name}} {{.Id}} {{.State.StartedAt}} {{.RestartCount}}'
         for unit in docker pf9-kubelet pf9-nodeletd; do
             echo $unit $(systemctl show $unit --property InvocationID --value) $(systemctl show $unit --property ActiveEnterTimestampMonotonic --value)
         done",
    );
    text.lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn worker_without_api_for_ten_minutes_restarts_nothing() {
    const RUNS: &str = "nodelet history --last 1000 | wc -l";
    let (master, worker) = with_worker("no-api", SCALED);
    let asks = asks(&master, &worker);
    master.wait_for("the pod answers", &asks, SEEN);
    let watch = Watch::of(&worker);
    watch.wait_until_healthy(SEEN);
    watch.record();
    let (before, runs) = (started(&worker), worker.sh(RUNS));
    let passes = || {
        watch
            .view()
            .and_then(|view| view["counters"]["passes"].as_u64())
    };
    let passes_before = passes().expect("nodeletd answers");

    let routes = worker.sh(ROUTES);
    assert!(
        !routes.trim().is_empty(),
        "the worker has a route to the master's pods"
    );
    cut(&master, &worker);
    let began = Instant::now();
    let lost = format!(
        "{KUBECTL} get node {WORKER} --output jsonpath='{{.status.conditions[?(@.type==\"Ready\")].status}}' | grep -qx Unknown"
    );
    master.wait_for("the master misses the worker", &lost, SEEN);
    let mut wrong = BTreeSet::new();
    let is_cut = format!("systemctl is-active --quiet {CUT}");
    let limit = Duration::from_secs(OUTAGE) + SEEN;
    while master.holds(&is_cut) {
        assert!(began.elapsed() < limit, "the outage does not end");
        if started(&worker) != before {
            wrong.insert("something was restarted during the outage".to_owned());
        }
        if worker.sh(ROUTES) != routes {
            wrong.insert("the routes changed during the outage".to_owned());
        }
        let answer = master.try_sh(&asks);
        if !answer.status.success() {
            let after = began.elapsed().as_secs_f64();
            // Another look tells a lost Service from a busy machine.
            let again = master.holds(&asks);
            wrong.insert(format!(
                "the pod did not answer {after:.0} s after the beginning of the outage, at the next look {again}: {answer:?}"
            ));
        }
        thread::sleep(LOOK);
    }
    let outage = began.elapsed();
    master.kubectl(&format!(
        "wait --for=condition=Ready node/master-1 node/{WORKER} pod/{POD} --timeout=90s"
    ));
    watch.wait_until_healthy(BACK);
    worker.wait_for("the worker is whole", "nodelet check", BACK);
    master.wait_for("the pod answers", &asks, SEEN);
    let more = passes().expect("nodeletd answers") - passes_before;
    println!(
        "{:.0} s without the API, and {more} passes",
        outage.as_secs_f64()
    );
    assert!(outage >= Duration::from_secs(OUTAGE - 5), "{outage:?}");
    assert!(more > 10, "nodeletd made only {more} passes");
    assert_eq!(restarted(&watch.recorded()), [""; 0]);
    assert_eq!(worker.sh(RUNS), runs, "{}", worker.sh("nodelet history"));
    assert_eq!(started(&worker), before);
    assert!(wrong.is_empty(), "{wrong:?}");
    leaves_without_api(&master, &worker);
}

/// Drops what the worker and the API server send to each other, as if the other host were away: no request is refused, each waits for its limit. An
/// open watch must not bring news either: the masters take the pods of a missing worker out of its Services.
fn cut(master: &Master, worker: &Node) {
    let (address, api) = (worker.host().address(), master.host().address());
    master.sh(&format!(
        "systemd-run --quiet --unit {CUT} bash -c '
             heal() {{
                 iptables -w -t raw -D PREROUTING -s {address} -p tcp --dport 443 -j DROP
                 iptables -w -t raw -D OUTPUT -d {address} -p tcp --sport 443 -j DROP
             }}
             trap heal EXIT
             iptables -w -t raw -I PREROUTING -s {address} -p tcp --dport 443 -j DROP &&
                 iptables -w -t raw -I OUTPUT -d {address} -p tcp --sport 443 -j DROP && sleep {OUTAGE}'"
    ));
    let away = format!("! curl -sk --max-time 3 https://{api}:443/readyz");
    worker.wait_for("the API server is out of reach", &away, SEEN);
}

/// Its host is cleaned at once, and a master finishes the removal.
fn leaves_without_api(master: &Master, worker: &Node) {
    cut(master, worker);
    worker.sh("systemctl disable --quiet --now pf9-nodeletd");
    let began = Instant::now();
    let cleaned = worker.nodelet(&["clean"]).exits(0);
    println!(
        "cleaned without the API in {:.0} s",
        began.elapsed().as_secs_f64()
    );
    let _ = cleaned.says(&["nodelet cluster remove"]);
    assert_eq!(worker.sh(ROUTES), "", "no route is left");
    let there = format!("{KUBECTL} get node {WORKER}");
    master.sh(&there);
    let removed = master.nodelet(&["cluster", "remove", WORKER, "--force"]);
    let _ = removed.exits(0);
    let gone = format!(r#"[ "$({KUBECTL} get node --output name)" = node/master-1 ]"#);
    master.wait_for("its node is gone", &gone, SEEN);
}

/// Serial numbers of the certificates that masters sign. Each is one of the cluster's authority.
fn serials(worker: &Node) -> Vec<String> {
    let serial = |path: &&str| {
        worker.sh(&format!(
            "cd /etc/pf9/kube.d/certs/{path}; openssl verify -CAfile ca.crt request.crt > /dev/null; openssl x509 -in request.crt -noout -serial"
        ))
    };
    SIGNED.iter().map(serial).collect()
}

/// What was started, without the readers of certificates.
fn without_readers(started: BTreeSet<String>) -> BTreeSet<String> {
    let is_reader = |line: &str| READERS.contains(&line.split(' ').next().unwrap_or_default());
    started
        .into_iter()
        .filter(|line| !is_reader(line))
        .collect()
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn worker_certificates_that_live_half_an_hour_are_renewed_twice() {
    let settings = [SCALED, &[("CERTIFICATE_LIFE", "30m")]].concat();
    let (master, worker) = with_worker("worker-certs", &settings);
    let asks = asks(&master, &worker);
    master.wait_for("the pod answers", &asks, SEEN);
    let watch = Watch::of(&worker);
    watch.wait_until_healthy(SEEN);
    let before = without_readers(started(&worker));
    let node = format!(
        "{KUBECTL} --request-timeout=10s get node {WORKER} --output jsonpath='{{.status.conditions[?(@.type==\"Ready\")].status}}'"
    );
    let mut known = serials(&worker);
    let mut not_ready = Vec::new();
    let began = Instant::now();
    for round in 1..=2 {
        let new = poll(RENEWED, || {
            let said = master.try_sh(&node);
            let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
            // No answer at all is about the master, which renews its own certificates meanwhile.
            if !said.is_empty() && said != "True" {
                not_ready.push(format!("{:.0} s: {said}", began.elapsed().as_secs_f64()));
            }
            thread::sleep(Duration::from_secs(5));
            let new = serials(&worker);
            known.iter().all(|one| !new.contains(one)).then_some(new)
        });
        let Some(new) = new else {
            panic!(
                "round {round}: not all are renewed: {}\n{}",
                worker.sh("nodelet certs; nodelet history"),
                master.sh(&format!("{KUBECTL} get csr"))
            );
        };
        known = new;
        println!(
            "round {round}: renewed after {:.0} s",
            began.elapsed().as_secs_f64()
        );
        // Between the renewals of its components nodeletd makes passes.
        watch.wait_until_healthy(BACK);
        master.wait_for("the pod answers", &asks, SEEN);
        assert_eq!(without_readers(started(&worker)), before, "round {round}");
    }
    println!("{}", worker.sh("nodelet history"));
    println!("{}", master.sh(&format!("{KUBECTL} get csr")));
    assert!(
        not_ready.is_empty(),
        "the node was not Ready: {not_ready:?}"
    );
    worker.wait_for("the worker is whole", "nodelet check", BACK);
    master.wait_for("the master is whole", "nodelet check", BACK);
}
