//! The virtual IP, where one is chosen.

use lab_suites::{Image, Master, Standing};

#[test]
fn the_api_answers_on_the_virtual_ip() {
    let Some(master) = Master::with_neighbours("vip", Image::Bare, true, &["client"]) else {
        return;
    };
    master.apply(&[]).exits(0);
    let vip = master.vip();
    master.wait_for(
        "the master takes the address",
        &format!("ip -o address show dev eth0 | grep -qw {vip}"),
        std::time::Duration::from_secs(15),
    );

    let client = master.neighbour("client");
    let authority = master
        .host()
        .get("/etc/pf9/kube.d/ca/cluster/ca.crt")
        .expect("the authority");
    client
        .put(&authority, "/tmp/ca.crt", 0o644)
        .expect("it is on the other host");
    let ready = client.text(&[
        "curl",
        "-sS",
        "--max-time",
        "5",
        "--cacert",
        "/tmp/ca.crt",
        &format!("https://{vip}:443/readyz"),
    ]);
    assert_eq!(ready.expect("the address answers"), "ok");

    // The administrator's kubeconfig names it, and works copied away.
    let admin = master
        .host()
        .get("/etc/pf9/kube.d/kubeconfigs/admin.yaml")
        .expect("the kubeconfig");
    let text = String::from_utf8_lossy(&admin).into_owned();
    assert!(
        text.contains(&format!("server: https://{vip}")),
        "{}",
        text.lines()
            .filter(|l| l.contains("server"))
            .collect::<String>()
    );
    client
        .put(&admin, "/tmp/admin.yaml", 0o600)
        .expect("it is on the other host");
    let kubectl = master
        .host()
        .get("/opt/pf9/pf9-kube/bin/kubectl")
        .expect("kubectl");
    client
        .put(&kubectl, "/tmp/kubectl", 0o755)
        .expect("it is on the other host");
    let node = client.text(&[
        "/tmp/kubectl",
        "--kubeconfig",
        "/tmp/admin.yaml",
        "get",
        "nodes",
        "--no-headers",
    ]);
    assert!(
        node.as_deref()
            .is_ok_and(|line| line.contains("master-1") && line.contains(" Ready ")),
        "{node:?}"
    );

    let running = Standing::of(&master);
    master.apply(&[]).exits(0).changes_nothing();
    assert_eq!(
        Standing::of(&master),
        running,
        "nothing was restarted, keepalived neither"
    );

    // An API server that is not ready gives the address up.
    master.sh("systemctl stop pf9-kubelet; docker ps --quiet --filter label=io.kubernetes.container.name=kube-apiserver | xargs docker stop");
    master.wait_for(
        "the address goes with the API server",
        &format!("! ip -o address show dev eth0 | grep -qw {vip}"),
        std::time::Duration::from_secs(20),
    );
    master.apply(&[]).exits(0);
    master.check(&[]).exits(0);
    master.wait_for(
        "and comes back with it",
        &format!("ip -o address show dev eth0 | grep -qw {vip}"),
        std::time::Duration::from_secs(20),
    );
}
