//! Faults: ways in which a master breaks in real life, to be brought about on a lab host.
//!
//! `cargo xtask lab fault NAME` does it by hand; the suites do it and watch what becomes of the host.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::Host;

/// No fault takes long to bring about.
const LIMIT: Duration = Duration::from_secs(60);

/// One way in which a master breaks. All scripts are bash, run as root on the master.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens, for people.
    pub about: &'static str,
    /// What has to stand before it can happen; empty for nothing.
    pub prepares: &'static str,
    /// Brings it about.
    pub breaks: &'static str,
    /// Succeeds on a host that is whole again, and on no other.
    pub whole: &'static str,
    /// Only a master with a virtual IP can have it.
    pub vip: bool,
}

/// Nor does its repair take longer: what no event tells of waits for a pass, and those are a minute apart; an API server that hangs soon
/// after its start is looked at by kubelet after a minute, ended 40 seconds later, and given 30 for that.
const REPAIRED: Duration = Duration::from_secs(240);

/// Prints the nanoseconds from a fault to its repair.
const MEASURE: &str = r#"
whole() { ( @WHOLE@ ) > /dev/null 2>&1; }
began=$(date +%s%N)
( set -e -o pipefail; @BREAKS@ ) >&2 || exit 8
while :; do
    now=$(date +%s%N)
    [ $((now - began)) -lt $((@SECONDS@ * 1000000000)) ] || exit 9
    if whole; then
        after=$(date +%s%N)
        sleep 1
        whole && break
    else
        sleep 0.1
    fi
done
echo $((after - began))
"#;

/// Asks the API server of the host itself, as its administrator.
const KUBECTL: &str = "kubectl() { command kubectl --request-timeout=3s --kubeconfig /etc/pf9/kube.d/kubeconfigs/local-admin.yaml \"$@\"; }\n\
    node_is_ready() { kubectl get node --no-headers | awk '{print $2}' | grep -qx 'Ready'; }\n\
    etcd_is_healthy() { (cd /etc/pf9/kube.d/certs/etcdctl/etcd && curl -sf --max-time 2 --cacert ca.crt --cert request.crt --key request.key https://127.0.0.1:4001/health | grep -q '\"health\":\"true\"'); }\n\
    api_is_ready() { kubectl get --raw /readyz | grep -qx ok; }\n";

const NONE: Fault = Fault {
    name: "",
    about: "",
    prepares: "",
    breaks: "",
    whole: "",
    vip: false,
};

/// All of them.
pub const FAULTS: &[Fault] = &[
    Fault {
        name: "docker-killed",
        about: "dockerd dies",
        breaks: "kill -9 $(pidof dockerd)",
        whole: "docker version > /dev/null && api_is_ready && node_is_ready",
        ..NONE
    },
    Fault {
        name: "docker-stopped",
        about: "somebody stops dockerd",
        breaks: "systemctl stop docker.socket docker",
        whole: "docker version > /dev/null && api_is_ready && node_is_ready",
        ..NONE
    },
    Fault {
        name: "daemon-json-edited",
        about: "somebody edits daemon.json",
        breaks: "echo '{\"debug\": true}' > /etc/docker/daemon.json",
        whole: "grep -q live-restore /etc/docker/daemon.json && docker info --format '{{.LiveRestoreEnabled}}' | grep -q true && api_is_ready && node_is_ready",
        ..NONE
    },
    Fault {
        name: "etcd-removed",
        about: "etcd's container is removed",
        breaks: "docker rm --force etcd",
        whole: "etcd_is_healthy && api_is_ready",
        ..NONE
    },
    Fault {
        name: "etcd-hung",
        about: "etcd does not answer any more (SIGSTOP)",
        breaks: "kill -STOP $(docker inspect --format '{{.State.Pid}}' etcd)",
        whole: "etcd_is_healthy && api_is_ready",
        ..NONE
    },
    Fault {
        name: "kubelet-stopped",
        about: "somebody stops kubelet",
        breaks: "systemctl stop pf9-kubelet",
        whole: "curl -sf --max-time 2 http://127.0.0.1:10248/healthz > /dev/null && node_is_ready",
        ..NONE
    },
    Fault {
        name: "kubelet-config-edited",
        about: "somebody edits kubelet's configuration",
        breaks: "sed -i 's/^maxPods:.*/maxPods: 3/' /etc/pf9/kube.d/kubelet/config.yaml; grep -q 'maxPods: 3$' /etc/pf9/kube.d/kubelet/config.yaml",
        whole: "! grep -q 'maxPods: 3$' /etc/pf9/kube.d/kubelet/config.yaml && curl -sf --max-time 2 http://127.0.0.1:10248/healthz > /dev/null && node_is_ready",
        ..NONE
    },
    Fault {
        name: "manifest-deleted",
        about: "the control plane's manifest is deleted",
        breaks: "rm /etc/pf9/kube.d/manifests/k8s-master.yaml",
        whole: "test -s /etc/pf9/kube.d/manifests/k8s-master.yaml && api_is_ready && node_is_ready",
        ..NONE
    },
    Fault {
        name: "api-hung",
        about: "the API server does not answer any more (SIGSTOP)",
        breaks: "pkill -STOP -x kube-apiserver",
        whole: "api_is_ready",
        ..NONE
    },
    Fault {
        name: "proxy-removed",
        about: "kube-proxy's container is removed",
        breaks: "docker rm --force proxy",
        whole: "curl -sf --max-time 2 http://127.0.0.1:10256/healthz > /dev/null",
        ..NONE
    },
    Fault {
        name: "rules-flushed",
        about: "kube-proxy's iptables chains are flushed",
        breaks: "iptables -w -t nat -F KUBE-SERVICES; iptables -w -t nat -F KUBE-POSTROUTING",
        whole: "iptables -w -t nat -S KUBE-SERVICES | grep -q -- '-j KUBE-SVC-' && iptables -w -t nat -S KUBE-POSTROUTING | grep -q MASQUERADE",
        ..NONE
    },
    Fault {
        name: "cni-deleted",
        about: "the pods' network configuration is deleted",
        breaks: "rm /etc/cni/net.d/*",
        whole: "test -s /etc/cni/net.d/10-bridge.conflist && node_is_ready",
        ..NONE
    },
    Fault {
        name: "kubeconfig-truncated",
        about: "kubelet's kubeconfig is cut",
        breaks: "truncate --size 40 /etc/pf9/kube.d/kubeconfigs/kubelet.yaml",
        whole: "command kubectl --request-timeout=3s --kubeconfig /etc/pf9/kube.d/kubeconfigs/kubelet.yaml get node --output name > /dev/null && node_is_ready",
        ..NONE
    },
    Fault {
        name: "certificate-expired",
        about: "kubelet's client certificate is replaced by one that has ended",
        breaks: "cd /etc/pf9/kube.d/certs/kubelet/apiserver
            openssl req -new -key request.key -subj '/O=system:nodes/CN=system:node:master-1' |
                openssl x509 -req -CA ca.crt -CAkey /etc/pf9/kube.d/ca/cluster/ca.key -set_serial 4711 -days 0 -out /tmp/ended.crt
            cat /tmp/ended.crt > request.crt",
        whole: "openssl x509 -in /etc/pf9/kube.d/certs/kubelet/apiserver/request.crt -noout -checkend 60 > /dev/null && api_is_ready && node_is_ready",
        ..NONE
    },
    Fault {
        name: "label-removed",
        about: "the node's role label is removed",
        breaks: "kubectl label node --all node-role.kubernetes.io/master-",
        whole: "kubectl get node --selector node-role.kubernetes.io/master --output name | grep -q node/",
        ..NONE
    },
    Fault {
        name: "keepalived-stopped",
        about: "somebody stops keepalived",
        breaks: "systemctl stop keepalived",
        whole: "systemctl is-active --quiet keepalived && ip -o address show dev eth0 | grep -qw \"$VIP\"",
        vip: true,
        ..NONE
    },
    Fault {
        name: "keepalived-edited",
        about: "another interface is written to keepalived.conf, and keepalived restarted",
        breaks: "sed -i 's/interface eth0/interface lo/' /etc/keepalived/keepalived.conf; grep -q 'interface lo' /etc/keepalived/keepalived.conf; systemctl restart keepalived || true",
        whole: "grep -q 'interface eth0' /etc/keepalived/keepalived.conf && systemctl is-active --quiet keepalived && ip -o address show dev eth0 | grep -qw \"$VIP\"",
        vip: true,
        ..NONE
    },
    Fault {
        name: "keepalived-uninstalled",
        about: "keepalived's package is removed",
        breaks: "DEBIAN_FRONTEND=noninteractive dpkg --purge --force-depends keepalived",
        whole: "systemctl is-active --quiet keepalived && ip -o address show dev eth0 | grep -qw \"$VIP\"",
        vip: true,
        ..NONE
    },
    Fault {
        name: "kube-env-deleted",
        about: "kube.env is deleted",
        breaks: "rm /etc/pf9/kube.env",
        whole: "test -s /etc/pf9/kube.env",
        ..NONE
    },
    Fault {
        name: "status-deleted",
        about: "the status file is deleted",
        breaks: "rm /var/opt/pf9/kube_status",
        whole: "grep -q '\"pf9_kube_node_state\": *\"ok\"' /var/opt/pf9/kube_status",
        ..NONE
    },
    Fault {
        name: "status-garbage",
        about: "the status file is overwritten with rubbish",
        breaks: "head -c 3000 /dev/urandom > /var/opt/pf9/kube_status",
        whole: "grep -q '\"pf9_kube_node_state\": *\"ok\"' /var/opt/pf9/kube_status",
        ..NONE
    },
    Fault {
        name: "image-deleted",
        about: "an image is deleted",
        breaks: "docker rmi --force $(docker inspect --format '{{.Config.Image}}' etcd)",
        whole: "docker image inspect $(docker inspect --format '{{.Config.Image}}' etcd) > /dev/null 2>&1",
        ..NONE
    },
    Fault {
        name: "bridge-deleted",
        about: "the pods' bridge is deleted under running pods",
        prepares: "kubectl get pod bridged --output name 2> /dev/null || kubectl create -f - <<'POD'
{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"bridged\"}, \"spec\": {\"terminationGracePeriodSeconds\": 1,
 \"tolerations\": [{\"operator\": \"Exists\"}],
 \"containers\": [{\"name\": \"c\", \"image\": \"@TOOLBOX@\", \"imagePullPolicy\": \"Never\", \"command\": [\"sleep\", \"86400\"]}]}}
POD
            for n in $(seq 240); do kubectl get pod bridged --no-headers | grep -q Running && break; sleep 0.25; done
            ping -c 1 -W 2 $(kubectl get pod bridged --output jsonpath='{.status.podIP}')",
        breaks: "ip link delete cni0",
        whole: "ping -c 1 -W 1 $(kubectl get pod bridged --output jsonpath='{.status.podIP}') > /dev/null",
        ..NONE
    },
];

impl Fault {
    /// The fault of this name.
    ///
    /// # Errors
    /// There is none; the error lists those there are.
    pub fn named(name: &str) -> Result<&'static Self> {
        FAULTS
            .iter()
            .find(|fault| fault.name == name)
            .with_context(|| {
                let names: Vec<&str> = FAULTS.iter().map(|fault| fault.name).collect();
                format!(
                    "there is no fault `{name}`; there are: {}",
                    names.join(", ")
                )
            })
    }

    /// Makes ready for it.
    ///
    /// # Errors
    /// The script failed.
    pub fn prepare(&self, host: &Host, vip: &str) -> Result<()> {
        if self.prepares.is_empty() {
            return Ok(());
        }
        let script = self.prepares.replace("@TOOLBOX@", crate::TOOLBOX_IMAGE);
        self.run(host, vip, &script).map(drop)
    }

    /// Brings it about.
    ///
    /// # Errors
    /// The script failed: the host is not one that can break like this.
    pub fn strike(&self, host: &Host, vip: &str) -> Result<()> {
        self.run(host, vip, self.breaks).map(drop)
    }

    /// Brings it about, and tells how long the host took until it was whole and stayed so for a second. Measured on the host, so that
    /// no client's way there counts.
    ///
    /// # Errors
    /// The host cannot break like this, or is not whole again within four minutes.
    pub fn repaired_within(&self, host: &Host, vip: &str) -> Result<Duration> {
        let script = MEASURE
            .replace("@BREAKS@", self.breaks)
            .replace("@WHOLE@", self.whole)
            .replace("@SECONDS@", &REPAIRED.as_secs().to_string());
        let script = self.script(vip, &script);
        let limit = REPAIRED + LIMIT;
        let output = host.exec_within(&["bash", "-c", &script], None, limit)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let nanoseconds = said.trim().parse().ok().filter(|_| output.status.success());
        nanoseconds.map(Duration::from_nanos).with_context(|| {
            format!(
                "the host `{}` is not whole {} s after the fault `{}`: {}",
                host.name(),
                REPAIRED.as_secs(),
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            )
        })
    }

    /// Whether the host is whole.
    ///
    /// # Errors
    /// The host runs no commands.
    pub fn is_whole(&self, host: &Host, vip: &str) -> Result<bool> {
        let script = self.script(vip, self.whole);
        let output = host.exec_within(&["bash", "-c", &script], None, LIMIT)?;
        Ok(output.status.success())
    }

    fn script(&self, vip: &str, script: &str) -> String {
        format!("VIP={vip}\n{KUBECTL}{script}")
    }

    fn run(&self, host: &Host, vip: &str, script: &str) -> Result<String> {
        let script = self.script(vip, &format!("set -e -o pipefail\n{script}"));
        let output = host.exec_within(&["bash", "-c", &script], None, LIMIT)?;
        if !output.status.success() {
            bail!(
                "the fault `{}` cannot happen on the host `{}`: {}",
                self.name,
                host.name(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_one_each_and_found() {
        let names: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).collect();
        assert_eq!(names.len(), FAULTS.len());
        for fault in FAULTS {
            assert_eq!(
                Fault::named(fault.name).expect("it is there").about,
                fault.about
            );
            assert!(!fault.breaks.is_empty() && !fault.whole.is_empty());
        }
        let error = Fault::named("sunshine").expect_err("there is none");
        assert!(error.to_string().contains("etcd-removed"), "{error}");
    }
}
