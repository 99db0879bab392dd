//! After apply and clean a host is the same as before.

use lab_suites::{After, Image, Master, Node, Slate, TOOLBOX_IMAGE, record};

/// Makes a docker configuration, containers, firewall rules and files of another owner.
fn add_foreign_resources(master: &Master) {
    let configuration =
        br#"{"log-driver": "json-file", "log-opts": {"max-size": "7m"}, "debug": false}"#;
    master
        .host()
        .put(configuration, "/etc/docker/daemon.json", 0o600)
        .expect("written");
    master.sh("systemctl restart docker");
    master.load_toolbox();
    master.sh(&format!(
        "docker run -d --name theirs -v theirs:/data {TOOLBOX_IMAGE} sleep 1000000
         docker run -d --name theirs-always --restart always {TOOLBOX_IMAGE} sleep 1000000
         iptables -N THEIRS
         iptables -A THEIRS -p tcp --dport 4711 -m comment --comment theirs -j ACCEPT
         iptables -I INPUT -j THEIRS
         ip6tables -A INPUT -p tcp --dport 4711 -j ACCEPT
         mkdir -p /opt/theirs"
    ));
}

pub(crate) fn clean(master: &Node, words: &[&str]) -> String {
    let all: Vec<&str> = ["clean"].iter().chain(words).copied().collect();
    master.nodelet(&all).exits(0).text()
}

fn converges(master: &Master) {
    let _ = master.apply(&[]).exits(0);
    let _ = master.check(&[]).exits(0);
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn bare_host_twice() {
    let master = Master::create("bare", Image::Bare, false);
    let before = Slate::of(&master);
    converges(&master);
    clean(&master, &[]);
    let compared = before.assert_same(&master, After::Clean, "clean");
    let second = clean(&master, &[]);
    assert!(second.contains("nothing of the role is left"), "{second}");
    record("bare host with docker: apply, clean", &compared);

    converges(&master);
    clean(&master, &["--purge"]);
    let compared = before.assert_same(&master, After::Purge, "purge after a second apply");
    record("then apply converges, check, clean --purge", &compared);
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn inhabited_host() {
    let master = Master::create("inhabited", Image::Bare, false);
    add_foreign_resources(&master);
    let before = Slate::of(&master);
    converges(&master);
    for name in ["theirs", "theirs-always"] {
        let runs = master.sh(&format!(
            "docker inspect -f '{{{{.State.Running}}}}' {name}"
        ));
        assert_eq!(runs, "true", "{name} runs beside the role");
    }
    clean(&master, &["--purge"]);
    let compared = before.assert_same(&master, After::Purge, "clean");
    record(
        "host with a daemon.json, containers, a volume and firewall rules of others: apply, clean --purge",
        &compared,
    );
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn host_without_docker() {
    let master = Master::create("nodocker", Image::NoDocker, false);
    let before = Slate::of(&master);
    converges(&master);
    clean(&master, &["--purge"]);
    let compared = before.assert_same(&master, After::Purge, "clean");
    converges(&master);
    record(
        "host without docker: apply, clean --purge, apply converges",
        &compared,
    );
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn virtual_ip() {
    let master = Master::create("vip", Image::Bare, true);
    let before = Slate::of(&master);
    converges(&master);
    clean(&master, &["--purge"]);
    let compared = before.assert_same(&master, After::Purge, "clean");
    record("host with a virtual IP: apply, clean --purge", &compared);
}

/// kube-proxy itself would only log a line, and write iptables' rules. With IPVS: soak `vm_master`.
#[test]
#[ignore = "cargo xtask soak runs it"]
fn kube_proxy_with_ipvs_where_the_kernel_has_none() {
    let master = Master::create("ipvs", Image::Bare, false);
    let before = Slate::of(&master);
    master.configure(&[("KUBE_PROXY_MODE", "ipvs")]);
    let refused = master.apply(&[]).exits(1).text();
    assert!(
        refused.contains("the kernel has the load balancer that KUBE_PROXY_MODE needs"),
        "{refused}"
    );
    let compared = before.assert_same(&master, After::Purge, "refusal");
    record(
        "KUBE_PROXY_MODE=ipvs, where the kernel has no IPVS: refused",
        &compared,
    );
}
