use super::*;
use std::collections::BTreeSet;
use std::process::Command;

/// Whether the script succeeds on a host with the address 172.30.1.12 that has these functions in place of its own.
fn holds(own: &str, script: &str) -> bool {
    let script = format!("ADDRESS=172.30.1.12\n{FUNCTIONS}{own}\n{script}");
    let output = Command::new("bash").args(["-c", &script]).output();
    let output = output.expect("bash runs");
    assert!(output.stderr.is_empty(), "{output:?}");
    output.status.success()
}

#[test]
fn a_host_is_judged_by_its_own_node() {
    let nodes = |lines: &str| format!("kubectl() {{ printf '{lines}'; }}");
    let time = "2026-01-01T00:00:00Z";
    let other = format!("172.30.1.11//True/{time}\\n172.30.1.1//True/{time}\\n");
    for (own, is_ready) in [
        (format!("172.30.1.12//True/{time}\\n"), true),
        (format!("172.30.1.12//False/{time}\\n"), false),
        // A cordoned node is not as it was.
        (format!("172.30.1.12/true/True/{time}\\n"), false),
        (String::new(), false),
    ] {
        let kubectl = nodes(&format!("{other}{own}"));
        assert_eq!(holds(&kubectl, "node_is_ready"), is_ready, "{own}");
    }
}

#[test]
fn a_worker_asks_with_its_kubelets_kubeconfig() {
    for (role, kubeconfig) in [("true", "kubelet.yaml"), ("false", "local-admin.yaml")] {
        let own = format!("is_worker() {{ {role}; }}");
        let asks = format!("[[ $(own_kubeconfig) == */{kubeconfig} ]]");
        assert!(holds(&own, &asks), "{kubeconfig}");
    }
    let config = "    server: \"https://172.30.1.11:443\"\\n";
    let own = format!(
        "is_worker() {{ true; }}\nown_kubeconfig() {{ echo /dev/stdin; }}\nasked() {{ printf '{config}' | api; }}"
    );
    assert!(holds(&own, "[ $(asked) = https://172.30.1.11:443 ]"));
}

#[test]
fn a_fault_concerns_the_node_of_its_host() {
    let own =
        "kubectl() { printf '172.30.1.11/master-1\\n172.30.1.12/master-2\\n172.30.1.1/x\\n'; }";
    assert!(holds(own, "[ \"$(own_name)\" = master-2 ]"));
    assert!(holds("", "[ \"$(bridged)\" = bridged-172-30-1-12 ]"));
    for fault in Fault::all() {
        let on_master = [fault.prepares_cluster, fault.on_master].concat();
        let scripts = [on_master, on_host(fault)].concat();
        for word in ["master-1", "node --all"] {
            assert!(!scripts.contains(word), "{}: {word}", fault.name);
        }
    }
}

#[test]
fn the_virtual_ip_is_here_or_answers_elsewhere() {
    let own = |eth0: &str, lo: &str, answers: &str| {
        format!(
            "VIP=172.30.1.100
            ip() {{ echo '1: eth0 inet {eth0}'; [ $# -gt 2 ] || echo '2: lo inet {lo}'; }}
            api_is_ready_at() {{ [ $1 = https://172.30.1.100:443 ] && {answers}; }}"
        )
    };
    let (vip, other) = ("172.30.1.100/32", "172.30.1.12/24");
    for (eth0, lo, answers, is_held) in [
        (vip, other, "false", true),
        (other, other, "true", true),
        (other, other, "false", false),
        // It answers, but it is on a wrong link.
        (other, vip, "true", false),
    ] {
        let own = own(eth0, lo, answers);
        assert_eq!(holds(&own, "vip_is_held"), is_held, "{own}");
    }
}

/// The scripts that run on the host itself.
fn on_host(fault: &Fault) -> String {
    [
        fault.prepares,
        fault.asks,
        fault.breaks,
        fault.frees,
        fault.is_repaired,
        fault.clears,
    ]
    .concat()
}

#[test]
fn a_node_has_the_label_of_its_role() {
    let nodes = "own_name() { echo n-2; }
        kubectl() { case \"$*\" in */master*) echo node/n-1 ;; */worker*) printf 'node/n-2\\nnode/n-22\\n' ;; esac; }";
    for (role, has) in [("true", true), ("false", false)] {
        let own = format!("{nodes}\nis_worker() {{ {role}; }}");
        assert_eq!(holds(&own, "has_role_label"), has, "a worker: {role}");
    }
}

#[test]
fn a_fault_whose_own_scripts_need_a_master_is_for_masters_only() {
    // A worker has nothing of these. What an administrator may do runs on a master.
    for word in ["kubectl label", "kubectl delete", "ca.key", "admin.yaml"] {
        for fault in Fault::all() {
            assert!(!on_host(fault).contains(word), "{}: {word}", fault.name);
        }
    }
    for word in ["etcd", "kube-apiserver"] {
        let needs = |fault: &&Fault| on_host(fault).contains(word);
        let faults: Vec<&Fault> = Fault::all().filter(needs).collect();
        assert!(!faults.is_empty(), "no fault needs `{word}`");
        for fault in faults {
            assert!(fault.master, "{}: {word}", fault.name);
        }
    }
    let workers: Vec<&str> = Fault::all()
        .filter(|fault| !fault.master && !fault.vip)
        .map(|fault| fault.name)
        .collect();
    assert!(workers.len() > 20, "{workers:?}");
    for name in [
        "bridge-deleted",
        "certificate-expired",
        "label-removed",
        "node-deleted",
    ] {
        assert!(workers.contains(&name), "{name}: {workers:?}");
    }
}

#[test]
fn names_are_one_each_and_found() {
    let names: BTreeSet<&str> = Fault::all().map(|fault| fault.name).collect();
    assert_eq!(names.len(), FAULTS.len() + DEPENDENCY_FAULTS.len());
    for fault in Fault::all() {
        assert_eq!(
            Fault::named(fault.name).expect("it is there").about,
            fault.about
        );
        let breaks = !fault.breaks.is_empty() || !fault.on_master.is_empty() || fault.boots;
        assert!(breaks && !fault.is_repaired.is_empty());
    }
    let error = Fault::named("sunshine").expect_err("there is none");
    assert!(error.to_string().contains("etcd-removed"), "{error}");
}
