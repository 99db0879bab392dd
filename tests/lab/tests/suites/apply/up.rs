//! `cargo xtask up`: the first call, and the following ones.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use lab::{Cache, Host, Lab, Suites, command};

/// Time limit of one `up`, on a machine that also does other things.
const LIMIT: Duration = Duration::from_secs(900);

/// Time limit until a new node has its pods' subnet.
const GIVEN: Duration = Duration::from_secs(60);

/// A lab as a user makes it.
struct Users {
    lab: String,
    xtask: PathBuf,
    program: PathBuf,
}

impl Users {
    fn new() -> Self {
        let suites = Suites::from_environment().expect("the environment of a run");
        let built = suites.nodelet.parent().expect("a directory");
        Self {
            lab: format!("{}-up", suites.run),
            xtask: built.join("xtask"),
            program: suites.nodelet.clone(),
        }
    }

    fn xtask(&self, words: &[&str]) -> Output {
        let mut command = Command::new(&self.xtask);
        command.arg(words[0]).args(["--lab", &self.lab]);
        command.args(&words[1..]);
        command::output(&command, None, LIMIT).expect("xtask runs")
    }

    fn up(&self, words: &[&str]) -> (bool, String) {
        let program = self.program.display().to_string();
        let all = [&["up", "--program", &program], words].concat();
        let output = self.xtask(&all);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.success(), said)
    }

    fn host(&self) -> Host {
        let cache = Cache::locate().expect("the cache has a place");
        let lab = Lab::open(&cache, &self.lab).expect("the lab exists");
        lab.host("master-1").expect("the host is there")
    }
}

fn text(host: &Host, script: &str) -> String {
    let said = host.text(&["sh", "-c", script]);
    said.expect("the host answers").trim().to_owned()
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn up_makes_a_master_that_nodeletd_keeps_and_writes_no_settings_that_are_refused() {
    let users = Users::new();
    let (done, said) = users.up(&["--set", "KUBE_SERVICE_STATE=true"]);
    assert!(done && said.contains("The node is Ready"), "{said}");
    assert!(said.contains("nodeletd keeps the host"), "{said}");
    let host = users.host();
    let daemon = "systemctl is-enabled pf9-nodeletd; systemctl is-active pf9-nodeletd";
    assert_eq!(text(&host, daemon), "enabled\nactive");
    let settings = "cat /etc/pf9/nodelet/*.yaml";
    let before = text(&host, settings);
    assert!(before.contains("KUBE_SERVICE_STATE"), "{before}");

    // A node that joins gets its pods' subnet from this master.
    let kubectl =
        "/opt/pf9/pf9-kube/bin/kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml";
    let node = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"}}"#;
    text(
        &host,
        &format!("echo '{node}' | {kubectl} apply --filename -"),
    );
    let subnets = format!("{kubectl} get nodes --output jsonpath='{{.items[*].spec.podCIDR}}'");
    let given = command::poll(GIVEN, || {
        let given = text(&host, &subnets);
        (given.split_whitespace().count() == 2).then_some(given)
    });
    assert_eq!(given.as_deref(), Some("10.20.0.0/24 10.20.1.0/24"));
    text(&host, &format!("{kubectl} delete node other"));

    // Settings are validated before they are written, and nodeletd goes on.
    let (done, said) = users.up(&["--set", "NOSUCH=1"]);
    assert!(!done && said.contains("NOSUCH"), "{said}");
    assert!(said.contains("so they were not written"), "{said}");
    assert_eq!(text(&host, settings), before);
    assert_eq!(text(&host, daemon), "enabled\nactive");

    // The refused setting does not come back with the next call, either.
    let (done, said) = users.up(&["--no-apply", "--set", "MAX_PODS=120"]);
    assert!(done, "{said}");
    let after = text(&host, settings);
    assert!(after.contains("MAX_PODS: \"120\"") && after.contains("KUBE_SERVICE_STATE"));
    assert!(!after.contains("NOSUCH"), "{after}");

    let down = users.xtask(&["down"]);
    assert!(down.status.success());
}
