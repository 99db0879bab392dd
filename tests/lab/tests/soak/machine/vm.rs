//! A master in a virtual machine: version 2 of control groups, IPVS, a kernel and reboots of its own.

use std::time::Duration;

use lab::Image;
use lab_suites::Master;

use crate::machine::power::backups_survive_power_cuts;

/// Time limit until everything is back after a boot: minutes, because the machine is emulated.
const BACK: Duration = Duration::from_secs(900);
const UNIT: &str = "/sys/fs/cgroup/system.slice/pf9-nodeletd.service";

/// The virtual service of the API, as the kernel lists it.
const BALANCED: &str = "awk '/0A150001/ {print $1, $2}' /proc/net/ip_vs";

/// What only a clean would remove or make again.
fn identity(master: &Master) -> String {
    master.sh("sha256sum /etc/pf9/kube.d/ca/*/ca.crt; \
         kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/local-admin.yaml get namespace kube-system -o jsonpath={.metadata.uid}; \
         kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/local-admin.yaml get node -o jsonpath={.items[*].metadata.uid}")
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn vm_master_on_version_2_comes_back_after_a_reboot() {
    let master = Master::create("vm", Image::Machine, false);
    master.configure(&[("KUBE_PROXY_MODE", "ipvs"), ("KUBE_SERVICE_STATE", "true")]);
    assert_eq!(
        master.sh("stat --file-system --format=%T /sys/fs/cgroup"),
        "cgroup2fs"
    );
    master.apply(&[]).exits(0);
    assert_eq!(
        master.sh("docker info --format '{{.CgroupDriver}} {{.CgroupVersion}}'"),
        "systemd 2"
    );
    // The kernel has IPVS here, so kube-proxy uses it: its link has the addresses of services, including the API's.
    let addresses = master.sh("ip -4 -o address show dev kube-ipvs0");
    assert!(addresses.contains("10.21.0.1/32"), "{addresses}");
    assert_eq!(master.sh(BALANCED), "TCP 0A150001:01BB", "the API's");
    // On an emulated machine a check may take longer than its timeout, so it is repeated.
    let content = "nodelet check --role pf9-kube";
    master.wait_for("`nodelet check` succeeds", content, BACK);

    master.sh("systemctl enable --now pf9-nodeletd");
    let limited = format!("test \"$(cat {UNIT}/pf9-kube-status/cpu.max)\" = '40000 100000'");
    master.wait_for("the status group", &limited, BACK);
    let before = identity(&master);

    master.host().reboot().expect("it reboots");
    let ready = "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/local-admin.yaml wait --for=condition=Ready node --all --timeout=5s";
    master.wait_for("the node is Ready", ready, BACK);
    master.wait_for("`nodelet check` succeeds", content, BACK);
    assert_eq!(identity(&master), before, "something was made again");
    let history = master.sh("nodelet history --json --last 1000");
    assert!(!history.contains("\"clean\""), "{history}");
    master.wait_for("the status group", &limited, BACK);

    backups_survive_power_cuts(&master);

    // No virtual service of kube-proxy stays in the kernel, and none of its modules.
    assert_eq!(master.sh(BALANCED), "TCP 0A150001:01BB", "the API's");
    master.sh("systemctl stop pf9-nodeletd");
    let _ = master.nodelet(&["clean", "--purge"]).exits(0);
    let left = master.sh(
        "{ grep '^ip_vs' /proc/modules; cat /proc/net/ip_vs; ip -oneline link show dev kube-ipvs0; \
         ls /etc/modules-load.d | grep ip_vs; } 2>/dev/null || true",
    );
    assert_eq!(left, "");
}
