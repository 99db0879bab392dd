//! Failures of nodeletd itself and of its clock do no harm to a healthy node. `cargo xtask soak` has more.

use std::time::Duration;

use lab_suites::{CALM, Fault, Image, Master, RunningInstances, SCALED, Watch, restarted};

const BROUGHT_UP: Duration = Duration::from_secs(400);
/// Time limit until two faults are repaired of which nodeletd, held in the middle of a pass, has seen only the second: the repair of that one
/// waits for the API server as long as its phases may (5 min).
const ONE_AFTER_THE_OTHER: Duration = Duration::from_secs(600);
const FILES: &str = "sha256sum $(find /etc/pf9/kube.d -type f | sort)";
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// How often this host was cleaned.
fn cleans(master: &Master) -> usize {
    let history = master.sh("nodelet history --json --last 1000");
    history.matches("\"clean\"").count()
}

/// Shifts the clock of nodeletd, and of no other process, by so many days.
fn shift(master: &Master, days: &str) {
    master.sh(&format!(
        "mkdir -p /run/systemd/system/pf9-nodeletd.service.d
         printf '[Service]\\nEnvironment=LD_PRELOAD={FAKETIME}\\nEnvironment=FAKETIME={days}d\\n' \
             > /run/systemd/system/pf9-nodeletd.service.d/clock.conf
         systemctl daemon-reload; systemctl restart pf9-nodeletd"
    ));
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_healthy_node_survives_faults_of_the_daemon() {
    let master = Master::create("endurance", Image::Bare, false);
    master.configure(SCALED);
    // nodeletd brings the host up by itself, without a command of an operator.
    let watch = Watch::start_within(&master, BROUGHT_UP);

    unusable_settings_are_refused(&master, &watch);
    a_lost_identity_file_is_rebuilt_from_the_host(&master, &watch);
    tunnel_with_default_route(&master, &watch);
    it_is_the_only_one(&master);
    impossible_arguments(&master, &watch);
    killed_in_the_middle(&master, &watch);
    stopped_in_the_middle(&master, &watch);
    without_its_socket(&master, &watch);
    restarted_quickly(&master, &watch);
    another_host_name(&master, &watch);
    a_role_that_is_invalid(&master, &watch);
    an_unwritable_file_stops_nothing(&master, &watch);
    a_clock_that_is_wrong(&master, &watch);
    assert_eq!(cleans(&master), 0, "nothing was ever cleaned");
    without_its_ledger(&master, &watch);
}

/// Two daemons would undo each other's work, and take each other's socket.
fn it_is_the_only_one(master: &Master) {
    let second = master.try_sh("timeout 30 /opt/pf9/nodelet/nodeletd --once 2>&1");
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let text = String::from_utf8_lossy(&second.stdout).into_owned();
    assert!(text.contains("another nodeletd does it already"), "{text}");
    master.sh("systemctl is-active --quiet pf9-nodeletd && nodelet status > /dev/null");
}

fn impossible_arguments(master: &Master, watch: &Watch<'_>) {
    // The drain is refused before anything is evicted: nodeletd would bring the node back before the time is over.
    let drain = master.nodelet(&["drain", "--duration", "8d"]).exits(64);
    drain.says(&["a pause takes from 1 second to 7 days"]);
    let view = watch.view().expect("nodeletd answers");
    assert!(view["paused_until"].is_null(), "{view:#}");
    let cordoned = master.kubectl("get node --output jsonpath='{.items[*].spec.unschedulable}'");
    assert_eq!(cordoned, "");
    // The reader of the status ends early.
    master.sh("timeout 30 bash -c 'nodelet status --watch | head -1' | grep -q master");
}

fn killed_in_the_middle(master: &Master, watch: &Watch<'_>) {
    watch.record();
    let fault = Fault::named("nodeletd-killed").expect("it is a fault");
    fault
        .cause(master.host(), &master.vip())
        .expect("it happens");
    let history = master.sh("nodelet history --json --last 1");
    let history: serde_json::Value = serde_json::from_str(&history).expect("it is JSON");
    let last = &history["runs"][0];
    assert!(last["outcome"].is_null(), "it had ended: {last:#}");
    watch.wait_until_healthy(CALM);
    master.check(&[]).exits(0);
    let restarted = restarted(&watch.recorded()).join(" ");
    assert_eq!(
        restarted,
        "etcd etcd-vote api-ready node-role kubernetes-ready drain"
    );
}

/// systemd counts restarts by an operator for its start limit as well.
fn restarted_quickly(master: &Master, watch: &Watch<'_>) {
    master.sh("for n in 1 2 3 4 5 6; do systemctl restart pf9-nodeletd; done");
    master.sh("systemctl is-active --quiet pf9-nodeletd");
    watch.wait_until_healthy(CALM);
}

/// nodeletd sees the new host name as `nodelet check` does, and also that the old one is back.
fn another_host_name(master: &Master, watch: &Watch<'_>) {
    let before = RunningInstances::of(master);
    let name = master.sh("hostname").trim().to_owned();
    master.sh("hostname another-name");
    watch.tells("SettingsAllowed", "another-name", CALM);
    master.check(&[]).exits(1).says(&["another-name"]);
    // A join file would have the other name of this master, and the masters would be counted with it.
    for joins in ["issue", "export"] {
        let refused = master.nodelet(&["pki", joins, "n-9", "--to", "age1"]);
        refused.exits(1).says(&["another-name"]);
    }
    assert_eq!(RunningInstances::of(master), before);
    // The cluster knows the node by its old name, so what is down is started again with that name.
    master.sh("docker rm --force proxy");
    let back = "[ $(docker inspect --format '{{.State.Running}}' proxy) = true ]";
    master.wait_for("kube-proxy is back", back, CALM);
    let repaired = RunningInstances::of(master);
    // What else is wrong with the settings is reported, too.
    let otherwise = ("CONTAINERS_CIDR", "10.99.0.0/16");
    master.configure(&[SCALED, &[otherwise]].concat());
    watch.refuses(otherwise.0, otherwise.1, CALM);
    watch.tells("SettingsAllowed", "another-name", CALM);
    master.configure(SCALED);
    master.sh(&format!("hostname {name}"));
    watch.wait_until_healthy(CALM);
    assert_eq!(RunningInstances::of(master), repaired);
}

/// An invalid role is reported at once with the place of the mistake, and what is down is started from the last good role.
fn a_role_that_is_invalid(master: &Master, watch: &Watch<'_>) {
    const ROLE: &str = "$(readlink -f /opt/pf9/roles/pf9-kube/current)";
    for (what, spoil, text) in [
        ("role.yaml", "truncate --size=200 role.yaml", "role.yaml:"),
        (
            "phases/kubelet.rhai",
            "echo 'nonsense(' >> phases/kubelet.rhai",
            "phases/kubelet.rhai:",
        ),
    ] {
        master.sh(&format!("cd {ROLE}; cp {what} /root/spoilt; {spoil}"));
        watch.tells("RoleValid", text, CALM);
        // nodeletd sees both at once: a repair of kubelet alone would wait for an API server that has no etcd. So it is held between two passes.
        watch.passes(1, CALM);
        master.sh(
            "daemon=$(systemctl show --value --property MainPID pf9-nodeletd); kill -STOP $daemon
             systemctl stop pf9-kubelet; docker rm --force etcd; kill -CONT $daemon",
        );
        let back = "systemctl is-active --quiet pf9-kubelet && [ $(docker inspect --format '{{.State.Running}}' etcd) = true ]";
        master.wait_for("kubelet and etcd are back", back, ONE_AFTER_THE_OTHER);
        master.sh(&format!("cd {ROLE}; cp /root/spoilt {what}"));
        watch.wait_until_healthy(CALM);
    }
}

/// A kubelet that works is not stopped for a file that cannot be written, and the host is not cleaned for it.
fn an_unwritable_file_stops_nothing(master: &Master, watch: &Watch<'_>) {
    const CONFIG: &str = "/etc/pf9/kube.d/kubelet/config.yaml";
    master.configure(&[SCALED, &[("FULL_RETRY_COUNT", "2")]].concat());
    watch.wait_until_healthy(CALM);
    let kubelet = || master.sh("systemctl show --value --property InvocationID pf9-kubelet");
    let before = kubelet();
    master.sh(&format!("echo '# edited' >> {CONFIG}; chattr +i {CONFIG}"));
    watch.tells("HostFits", CONFIG, CALM);
    // The file does not prevent the repair of other phases, either.
    master.sh("docker rm --force proxy");
    let back = "[ $(docker inspect --format '{{.State.Running}}' proxy) = true ]";
    master.wait_for("kube-proxy is back", back, CALM);
    watch.passes(5, CALM);
    assert_eq!(kubelet(), before);
    master.sh(&format!("chattr -i {CONFIG}"));
    watch.wait_until_healthy(CALM);
    assert_ne!(kubelet(), before, "kubelet has read its configuration");
    master.configure(SCALED);
    watch.wait_until_healthy(CALM);
}

/// At a stop, a running change reaches a safe point, and its outcome is recorded. A client that listens to events does not keep the
/// daemon from ending.
fn stopped_in_the_middle(master: &Master, watch: &Watch<'_>) {
    let intents = r#"grep -c '"r":"intent"' /var/opt/pf9/nodelet/ledger.jsonl"#;
    master.sh(&format!(
        "systemctl is-active --quiet nodelet-suite-events
         intents() {{ {intents}; }}
         before=$(intents); docker rm --force etcd
         for n in $(seq 3000); do [ $(intents) -eq $before ] || break; sleep 0.02; done
         [ $(intents) -gt $before ]; systemctl stop pf9-nodeletd
         [ $(systemctl show --value --property Result pf9-nodeletd) = success ]"
    ));
    let history = master.sh("nodelet history --json --last 1");
    let history: serde_json::Value = serde_json::from_str(&history).expect("it is JSON");
    let last = &history["runs"][0];
    assert!(last["outcome"].is_string(), "it was interrupted: {last:#}");
    master.sh("systemctl start pf9-nodeletd");
    watch.wait_until_healthy(CALM);
}

/// nodeletd makes its socket again, though a client still listens to events over the old one.
fn without_its_socket(master: &Master, watch: &Watch<'_>) {
    watch.record();
    master.sh("rm /run/pf9/nodeletd.sock");
    watch.wait_until_healthy(CALM);
    master.sh("systemctl is-active --quiet nodelet-suite-events");
}

/// The next pass writes the file again, from what is installed on the host and not from settings that were changed meanwhile.
fn a_lost_identity_file_is_rebuilt_from_the_host(master: &Master, watch: &Watch<'_>) {
    const IDENTITY: &str = "/var/opt/pf9/nodelet/identity.json";
    let (before, was) = (
        RunningInstances::of(master),
        master.sh(&format!("cat {IDENTITY}")),
    );
    master.sh(&format!("systemctl stop pf9-nodeletd; rm {IDENTITY}"));
    let otherwise = ("CONTAINERS_CIDR", "10.99.0.0/16");
    master.configure(&[SCALED, &[otherwise]].concat());
    // nodelet does not let an operator apply them meanwhile, either.
    for verb in ["apply", "diff", "stop"] {
        master.nodelet(&[verb]).exits(1).says(&[otherwise.0]);
    }
    master.sh("systemctl start pf9-nodeletd");
    watch.refuses(otherwise.0, otherwise.1, CALM);
    master.configure(SCALED);
    watch.wait_until_healthy(CALM);
    assert_eq!(master.sh(&format!("cat {IDENTITY}")), was);
    // A directory in place of the file counts as no file, and does not prevent passes.
    master.sh(&format!("rm {IDENTITY}; mkdir {IDENTITY}"));
    watch.wait_until_healthy(CALM);
    master.sh(&format!("rmdir {IDENTITY}"));
    watch.wait_until_healthy(CALM);
    assert_eq!(master.sh(&format!("cat {IDENTITY}")), was);
    assert_eq!(RunningInstances::of(master), before);
}

/// A tunnel that takes the default route does not change the node's address.
fn tunnel_with_default_route(master: &Master, watch: &Watch<'_>) {
    let before = RunningInstances::of(master);
    let certificates = master.sh(FILES);
    let repairs = || watch.view().unwrap_or_default()["counters"]["repairs"].clone();
    let repaired = repairs();
    master.sh(
        "ip link add tunnel0 type veth peer name tunnel1; ip link set tunnel1 up
         ip address add 10.98.0.2/24 dev tunnel0; ip link set tunnel0 up
         ip route prepend default via 10.98.0.1 dev tunnel0
         head -2 /proc/net/route | grep -q '^tunnel0'",
    );
    watch.wait_until_healthy(CALM);
    watch.wait_until_healthy(CALM);
    assert_eq!(repairs(), repaired);
    assert_eq!(RunningInstances::of(master), before);
    assert_eq!(master.sh(FILES), certificates);
    master.nodelet(&["diff"]).exits(0);
    master.sh("ip link delete tunnel0");
    watch.wait_until_healthy(CALM);
}

/// Without its ledger the role is left as it is. Once the ledger is recovered from what is on the host, the role is stopped, as the
/// settings say. This is the last test on this host.
fn without_its_ledger(master: &Master, watch: &Watch<'_>) {
    master.sh("rm /var/opt/pf9/nodelet/ledger*");
    let before = RunningInstances::of(master);
    master.configure(&[SCALED, &[("KUBE_SERVICE_STATE", "false")]].concat());
    watch.until("nodeletd reports it", CALM, || {
        let view = watch.view().unwrap_or_default();
        let conditions = view["conditions"].as_array().cloned().unwrap_or_default();
        let lost =
            |one: &serde_json::Value| one["name"] == "LedgerValid" && one["status"] == "False";
        view["desired"] == "false" && conditions.iter().any(lost)
    });
    assert_eq!(RunningInstances::of(master), before);
    master.nodelet(&["recover"]).exits(0);
    let down = "! systemctl is-active --quiet pf9-kubelet && ! docker ps --format '{{.Names}}' | grep -qx etcd";
    master.wait_for("the role is down", down, CALM);
    // It stays stopped, even if an operator starts a part of it.
    master.sh("systemctl start pf9-kubelet");
    master.wait_for("the role is down again", down, CALM);
    let view = watch.view().expect("nodeletd answers");
    assert_eq!(view["desired"], "false", "{view:#}");
}

/// These settings are valid, but not for this host: they are reported, and the host is held at the last good ones.
fn unusable_settings_are_refused(master: &Master, watch: &Watch<'_>) {
    let before = RunningInstances::of(master);
    master.sh("touch /root/a-file; mkdir -m 0700 /root/backups; ln -s backups /root/a-link");
    for (key, value) in [
        ("ROLE", "worker"),
        ("USE_HOSTNAME", "false"),
        ("ROLE", "none"),
        ("CONTAINERS_CIDR", "10.99.0.0/16"),
        ("ETCD_DATA_DIR", "/var/elsewhere"),
        ("ETCD_BACKUP_SCHEDULE", "0 0 31 2 *"),
        ("ETCD_BACKUP_SCHEDULE", "0 3 * *"),
        ("ETCD_BACKUP_DIR", "/run/backups"),
        ("ETCD_BACKUP_DIR", "/root/a-file"),
        ("ETCD_BACKUP_DIR", "/root/a-file/below"),
        ("ETCD_BACKUP_DIR", "/root/a-link"),
        ("CLUSTER_ID", "11111111-2222-3333-4444-555555555555"),
    ] {
        master.configure(&[SCALED, &[(key, value)]].concat());
        watch.refuses(key, value, CALM);
        assert_eq!(RunningInstances::of(master), before, "{key}={value}");
    }
    // The last wrong setting is still in the file.
    master.sh("systemctl stop pf9-kubelet");
    let back = "systemctl is-active --quiet pf9-kubelet";
    master.wait_for("kubelet is back", back, CALM);
    master.configure(SCALED);
    watch.wait_until_healthy(CALM);
    master.check(&[]).exits(0);
}

fn a_clock_that_is_wrong(master: &Master, watch: &Watch<'_>) {
    let before = RunningInstances::of(master);
    let certificates = master.sh(FILES);
    for days in ["+1", "-1"] {
        shift(master, days);
        let mut seen = 0;
        watch.until("three passes", CALM, || {
            seen = watch
                .view()
                .and_then(|view| view["counters"]["passes"].as_u64())
                .unwrap_or(0);
            seen >= 3
        });
        let view = watch.view().expect("nodeletd answers");
        assert_eq!(view["counters"]["repairs"], 0, "{days} days: {view:#}");
        assert_eq!(RunningInstances::of(master), before, "{days} days off");
        assert_eq!(master.sh(FILES), certificates, "{days} days off");
    }
    master.sh("rm -r /run/systemd/system/pf9-nodeletd.service.d; systemctl daemon-reload; systemctl restart pf9-nodeletd");
    watch.wait_until_healthy(CALM);
    assert_eq!(
        RunningInstances::of(master),
        before,
        "the clock is right again"
    );
}
