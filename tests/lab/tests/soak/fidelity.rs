//! What `nodelet diff` predicts on a real host is what `nodelet apply` then does to it. With `UPDATE_GENERATED=1` the figures go to
//! `docs/fidelity.md`.

use lab_suites::{Image, Master, Node, prediction};

use crate::figures::Figures;
use crate::kills::kill_apply_at;

/// How many steps an apply has changed when it is killed in the middle.
pub(crate) const KILLED_AFTER: usize = 20;

#[test]
#[ignore = "cargo xtask soak runs it"]
fn predictions_match_apply_on_a_real_host() {
    let mut figures = Figures::default();

    let master = Master::create("fidelity-kill", Image::Bare, false);
    kill_apply_at(&master, KILLED_AFTER);
    let mut take = |name, master: &Master| figures.take(name, &prediction(master));
    take("half-finished apply", &master);
    drop(master);

    let master = Master::create("fidelity-none", Image::NoDocker, false);
    take("bare host without docker", &master);
    drop(master);

    let master = Master::create("fidelity", Image::Bare, false);
    take("bare host", &master);
    of_running_host(
        &master,
        "etcd",
        "API_SERVER_FLAGS",
        &mut figures,
        str::to_owned,
    );
    figures.publish(
        "On real hosts",
        "Lab hosts with systemd, docker and Kubernetes of their own. Written and asserted by `cargo xtask soak --write predictions`; \
         `cargo xtask test` asserts the lost etcd container.",
    );
}

/// The situations of a host that runs: it is healthy, has lost this container, these flags are changed, docker is configured otherwise.
/// `named` gives the name of a situation in the table.
pub(crate) fn of_running_host(
    node: &Node,
    container: &str,
    flags: &str,
    figures: &mut Figures,
    named: impl Fn(&str) -> String,
) {
    let mut take = |name: &str| figures.take(&named(name), &prediction(node));
    take("healthy host");
    let newer = newer_after_looking(node);
    node.sh(&format!("docker rm --force {container}"));
    take(&format!("lost {container} container"));
    node.sh(&format!(
        "echo '{flags}: --v=3' >> /etc/pf9/nodelet/config.yaml"
    ));
    take("one parameter changed");
    node.sh(
        "echo '{\"log-level\": \"debug\"}' > /etc/docker/daemon.json && systemctl restart docker",
    );
    take("docker configured otherwise");
    if !newer.is_empty() {
        figures.reject(&format!("plan, diff and facts wrote: {newer}"));
    }
}

/// Files of the host that are newer after `plan`, `diff` and `facts`.
fn newer_after_looking(node: &Node) -> String {
    node.sh("touch /run/mark");
    for verb in ["plan", "diff", "facts"] {
        let _ = node.nodelet(&[verb]).exits(0);
    }
    // Kubernetes and the journal write files meanwhile.
    node.sh(
        "find / /run -xdev -newer /run/mark -type f -not -path '/proc/*' -not -path '/sys/*' \
         -not -path '/var/log/*' -not -path '/run/log/*' -not -path '/var/lib/docker/*' -not -path '/var/lib/kubelet/*' \
         -not -path '/var/opt/pf9/kube/etcd/*' -not -path '/run/containerd/*' -not -path '/run/docker/*' \
         -not -path '/var/lib/containerd/*' -not -path '/run/systemd/*' -not -path '/run/mark'",
    )
}
