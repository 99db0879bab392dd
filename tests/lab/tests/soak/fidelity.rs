//! What `nodelet diff` predicts on a real host is what `nodelet apply` then does to it. With `UPDATE_GENERATED=1` the figures go to
//! `docs/fidelity.md`.

use lab_suites::{Image, Master, prediction};

use crate::figures::Figures;
use crate::kills::kill_apply_at;

/// How many steps an apply has changed when it is killed in the middle.
const KILLED_AFTER: usize = 20;

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
    take("healthy host", &master);
    let newer = newer_after_looking(&master);
    master.sh("docker rm --force etcd");
    take("lost etcd container", &master);
    master.sh("echo 'API_SERVER_FLAGS: --v=3' >> /etc/pf9/nodelet/config.yaml");
    take("one parameter changed", &master);
    master.sh(
        "echo '{\"log-level\": \"debug\"}' > /etc/docker/daemon.json && systemctl restart docker",
    );
    take("docker configured otherwise", &master);
    if !newer.is_empty() {
        figures.reject(&format!("plan, diff and facts wrote: {newer}"));
    }
    figures.publish(
        "On real hosts",
        "Lab hosts with systemd, docker and Kubernetes of their own. Written and asserted by `cargo xtask soak --write predictions`; \
         `cargo xtask test` asserts the lost etcd container.",
    );
}

/// Files of the host that are newer after `plan`, `diff` and `facts`.
fn newer_after_looking(master: &Master) -> String {
    master.sh("touch /run/mark");
    for verb in ["plan", "diff", "facts"] {
        let _ = master.nodelet(&[verb]).exits(0);
    }
    // Kubernetes and the journal write files meanwhile.
    master.sh(
        "find / /run -xdev -newer /run/mark -type f -not -path '/proc/*' -not -path '/sys/*' \
         -not -path '/var/log/*' -not -path '/run/log/*' -not -path '/var/lib/docker/*' -not -path '/var/lib/kubelet/*' \
         -not -path '/var/opt/pf9/kube/etcd/*' -not -path '/run/containerd/*' -not -path '/run/docker/*' \
         -not -path '/var/lib/containerd/*' -not -path '/run/systemd/*' -not -path '/run/mark'",
    )
}
