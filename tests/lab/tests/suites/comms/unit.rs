//! pf9-comms under its unit, as its own user. There is no plane here: what is carried is tested beside the crate (`agents/comms/tests/`).

use std::path::Path;
use std::time::Duration;

use lab::Suites;
use lab_suites::{Image, Master};
use serde_json::Value;

const PROGRAM: &str = "/opt/pf9/comms/pf9-comms";
const UNIT: &str = "/lib/systemd/system/pf9-comms.service";
/// Time limit until a connection was refused, or a reload has ended.
const SEEN: Duration = Duration::from_secs(20);

/// A port that another program has.
const HELD: u16 = 7001;

/// Nothing listens at the place of the plane.
const CONFIGURATION: &str = "plane: {host: localhost, port: 1}
proxy: {url: none}
";

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn its_unit_lets_it_do_what_it_has_to_and_no_more() {
    let host = Master::create("comms", Image::Bare, false);
    install(&host);
    host.sh("systemctl start pf9-comms");
    let user = host.sh("ps -o user= -C pf9-comms | sort -u");
    assert_eq!(user, "pf9");
    listens_on_loopback_only(&host);

    // The kernel tells the user of each connection.
    connect(&host, "root", 5001);
    connect(&host, "daemon", 5001);
    connect(&host, "daemon", 8158);
    has_error(&host, "registry", "connect");
    has_error(&host, "registry", "user");
    has_error(&host, "keystone", "connect");
    assert_eq!(errors(&host, "keystone"), ["connect"]);

    // A key that others may read is refused, and what runs stays.
    host.sh("chmod 644 /etc/pf9/comms/current/host.key; systemctl reload pf9-comms");
    let says = format!("{PROGRAM} status | grep -q 'reload .*host.key: its mode is 0644'");
    host.wait_for("the reload is refused", &says, SEEN);
    host.sh("chmod 600 /etc/pf9/comms/current/host.key; systemctl reload pf9-comms");
    let succeeds = format!("! {PROGRAM} status | grep -q reload");
    host.wait_for("the reload succeeds", &succeeds, SEEN);
    listens_on_loopback_only(&host);

    a_port_of_another_user_is_refused(&host);
    host.wait_for("the reload succeeds", &succeeds, SEEN);

    let restarts = host.sh("systemctl show --value --property NRestarts pf9-comms");
    assert_eq!(restarts, "0");
    host.sh("systemctl stop pf9-comms");
    let ended = host.sh("systemctl show --value --property Result pf9-comms");
    assert_eq!(ended, "success");
}

/// The program, its unit, its user, and an identity as enrolment leaves it.
fn install(host: &Master) {
    let suites = Suites::from_environment().expect("the environment of a run");
    let program = suites.nodelet.with_file_name("pf9-comms");
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../agents/comms/pf9-comms.service");
    for (source, place, mode) in [(program, PROGRAM, 0o755), (unit, UNIT, 0o644)] {
        let put = host.host().put_file(&source, place, mode);
        put.expect("the file is written");
    }
    let put = host
        .host()
        .put(CONFIGURATION.as_bytes(), "/etc/pf9/comms.yaml", 0o644);
    put.expect("the file is written");
    host.sh(
        "useradd --system --no-create-home pf9
         mkdir -p /etc/pf9/comms/current; cd /etc/pf9/comms/current
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=master-1 \
             -keyout host.key -out host.crt 2> /dev/null
         cp host.crt roots.crt; chmod 600 host.key; chown pf9: host.key
         systemctl daemon-reload",
    );
}

/// systemd itself has the port. The user of pf9-comms does not see its descriptors, and the message says how root finds the program.
fn a_port_of_another_user_is_refused(host: &Master) {
    host.sh(&format!(
        "systemd-run --quiet --unit=holder --socket-property=ListenStream=127.0.0.1:{HELD} true
         cp -p /etc/pf9/comms.yaml /run/comms.yaml
         printf '%s\\n' 'listeners: [{{name: held, port: {HELD}, users: all}}]' >> /etc/pf9/comms.yaml
         systemctl reload pf9-comms"
    ));
    let way = format!("ss -ltnp 'sport = :{HELD}'");
    let says = format!(
        "{PROGRAM} status | grep reload | grep -F 'a program of root, which root sees with' | grep -qF \"{way}\""
    );
    host.wait_for("the reload is refused", &says, SEEN);
    let found = host.sh(&way);
    assert!(found.contains("systemd"), "{found}");
    host.sh("systemctl stop holder.socket; cp -p /run/comms.yaml /etc/pf9/comms.yaml; systemctl reload pf9-comms");
}

fn listens_on_loopback_only(host: &Master) {
    let listening = host.sh("ss -H -l -t -n -p | grep pf9-comms | awk '{print $4}' | sort");
    let listening: Vec<&str> = listening.lines().collect();
    assert!(listening.len() >= 4, "{listening:?}");
    let is_loopback = |its: &&str| its.starts_with("127.0.0.1:") || its.starts_with("[::1]:");
    assert!(listening.iter().all(is_loopback), "{listening:?}");
}

/// Connects to a local port as this user, and waits until the connection ends.
fn connect(host: &Master, user: &str, port: u16) {
    host.sh(&format!(
        "runuser -u {user} -- timeout 10 bash -c 'exec 3<> /dev/tcp/127.0.0.1/{port} && cat <&3' 2> /dev/null || true"
    ));
}

/// The causes of the errors of a listener.
fn errors(host: &Master, listener: &str) -> Vec<String> {
    let status = host.sh(&format!("{PROGRAM} status --json"));
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let listeners = status["listeners"].as_array().expect("listeners");
    let its = listeners.iter().find(|its| its["name"] == listener);
    let its = its.expect("it is there")["errors"].as_array();
    let causes = its.expect("errors").iter();
    causes
        .map(|its| its["cause"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn has_error(host: &Master, listener: &str, cause: &str) {
    let errors = errors(host, listener);
    assert!(
        errors.iter().any(|its| its == cause),
        "{listener}: {errors:?}"
    );
}
