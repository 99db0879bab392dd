//! Faults: ways in which a host of a cluster breaks in real life, to be caused on a lab host.
//!
//! `cargo xtask lab fault NAME` causes one by hand; the suites cause faults and check how the host is repaired.

mod cause;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::command;
use crate::topology::host::Host;

/// Time limit for causing a fault: one fault waits for two passes, which are a minute apart.
const LIMIT: Duration = Duration::from_secs(180);

/// One way in which a host breaks. All scripts are bash, run as root on the host.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens, in words.
    pub about: &'static str,
    /// Prepares the cluster for the fault. It runs on a master, with the address of the host that is to have the fault; empty if nothing has to be
    /// prepared.
    pub prepares_cluster: &'static str,
    /// Prepares the host for the fault; empty if nothing has to be prepared.
    pub prepares: &'static str,
    /// Prints what `on_master` has to know of the host; empty if that is nothing.
    pub asks: &'static str,
    /// What only an administrator of the cluster may do to cause the fault. It runs before `breaks` on a master, which may be the host itself. `ASKED`
    /// is what `asks` has printed. Empty if the host causes the fault alone.
    pub on_master: &'static str,
    /// Causes the fault on the host. `MADE` is what `on_master` has printed.
    pub breaks: &'static str,
    /// Makes a repair possible; the time of the repair counts from here. Empty if a repair is possible at once.
    pub frees: &'static str,
    /// The host is rebooted after the fault.
    pub boots: bool,
    /// Succeeds only on a host that is healthy again.
    pub is_repaired: &'static str,
    /// Removes what the fault added, once the host is healthy; empty if it added nothing.
    pub clears: &'static str,
    /// With this command an operator repairs a worker after the fault. Empty if no operator is needed, as on a master.
    pub operator_on_worker: &'static str,
    /// Only a master can have it: it breaks what a worker does not have.
    pub master: bool,
    /// Only a master with a virtual IP can have it.
    pub vip: bool,
}

/// Time limit for a repair. A fault without an event is found by a pass, and passes are a minute apart. If an API server hangs soon
/// after its start, kubelet probes it after a minute, ends it 40 seconds later, and gives it 30 seconds for that.
const REPAIRED: Duration = Duration::from_secs(240);

/// Prints the nanoseconds from a fault to its repair.
const MEASURE: &str = r#"
whole() { ( @WHOLE@ ) > /dev/null 2>&1; }
began=$(date +%s%N)
( set -e -o pipefail; @BREAKS@ ) >&2 || exit 8
@FREES@
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

/// Shell functions for the scripts. They ask the cluster with what the host has: a worker has no administrator's kubeconfig.
const FUNCTIONS: &str = include_str!("fault/functions.sh");

impl Fault {
    /// The defaults of the other faults: breaks nothing.
    pub const NONE: Self = Self {
        name: "",
        about: "",
        prepares_cluster: "",
        prepares: "",
        asks: "",
        on_master: "",
        breaks: "",
        frees: "",
        boots: false,
        is_repaired: "",
        clears: "",
        operator_on_worker: "",
        master: false,
        vip: false,
    };
}
const NONE: Fault = Fault::NONE;

const IS_MASTER: &str =
    "! is_worker || { echo 'only a master can have this fault; `--host` names one' >&2; exit 1; }";
const HAS_VIP: &str = "systemctl is-active --quiet keepalived || { echo 'it has no virtual IP; `cargo xtask up --vip` makes a master that has one' >&2; exit 1; }";

/// Makes a pod on the host's bridge of pods that answers; each host has its own. Its image is on every node, and it ends on SIGTERM, as most
/// programs do, because kubelet and docker wait for its end.
const MAKES_BRIDGED: &str = "own=$(own_name)
            image=$(kubectl get node \"$own\" --output jsonpath='{range .status.images[*]}{range .names[*]}{@}{\"\\n\"}{end}{end}' | awk '/pause:/ { image = $0 } END { print image }')
            kubectl get pod $(bridged) --output name 2> /dev/null || kubectl create -f - <<POD
{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"$(bridged)\", \"labels\": {\"app\": \"bridged\"}},
 \"spec\": {\"nodeName\": \"$own\", \"terminationGracePeriodSeconds\": 1,
 \"tolerations\": [{\"operator\": \"Exists\"}],
 \"containers\": [{\"name\": \"c\", \"image\": \"$image\", \"imagePullPolicy\": \"Never\"}]}}
POD
            for n in $(seq 240); do kubectl get pod $(bridged) --no-headers | grep -q Running && exit; sleep 0.25; done
            echo \"the pod $(bridged) does not run after a minute; 'kubectl describe pod' on a master says why\" >&2; exit 1";
const POD_ANSWERS: &str =
    "ping -c 1 -W 2 $(kubectl get pod $(bridged) --output jsonpath='{.status.podIP}') > /dev/null";
/// For a fault of the address itself.
const HOLDS_VIP: &str = "ip -o address show dev eth0 | grep -w \"$VIP\" > /dev/null ||
            { echo 'another master holds the virtual IP; `nodelet cluster status` names it' >&2; exit 1; }";

/// Makes a list of faults of `"name": "what happens" { field: value, .. }`. The other fields are those of [`Fault::NONE`].
macro_rules! faults {
    ($($name:literal: $about:literal { $($field:ident: $value:expr,)* })*) => {
        &[$(Fault {
            name: $name,
            about: $about,
            $($field: $value,)*
            ..NONE
        }),*]
    };
}

/// Faults of what runs or lies on the host: nodeletd restarts what broke, and nothing else.
pub const FAULTS: &[Fault] = faults! {
    "docker-killed": "dockerd dies" {
        breaks: "kill -9 $(pidof dockerd)",
        is_repaired: "docker version > /dev/null && api_is_ready && node_is_ready",
    }
    "docker-stopped": "an operator stops dockerd" {
        breaks: "systemctl stop docker.socket docker",
        is_repaired: "docker version > /dev/null && api_is_ready && node_is_ready",
    }
    "docker-hung": "dockerd does not answer any more (SIGSTOP)" {
        breaks: "kill -STOP $(pidof dockerd)",
        // Without a timeout docker's client would wait for ever.
        is_repaired: "timeout 3 docker version > /dev/null && api_is_ready && node_is_ready",
    }
    "containerd-hung": "a signal stops containerd (SIGSTOP)" {
        // Its shims are in the same control group, and go on.
        breaks: "systemctl kill --kill-who=main --signal=STOP containerd",
        is_repaired: "! pgrep --runstates T --exact containerd && timeout 3 docker version > /dev/null && api_is_ready && node_is_ready",
    }
    // docker's containers would then end with its next restart.
    "daemon-json-edited": "an operator edits daemon.json, and reloads docker" {
        breaks: "echo '{\"live-restore\": false}' > /etc/docker/daemon.json; systemctl reload docker",
        is_repaired: "grep -q live-restore /etc/docker/daemon.json && docker info --format '{{.LiveRestoreEnabled}}' | grep -q true && api_is_ready && node_is_ready",
    }
    "etcd-removed": "etcd's container is removed" {
        breaks: "docker rm --force etcd",
        is_repaired: "etcd_is_healthy && api_is_ready",
        master: true,
    }
    "etcd-hung": "etcd does not answer any more (SIGSTOP)" {
        breaks: "kill -STOP $(docker inspect --format '{{.State.Pid}}' etcd)",
        is_repaired: "etcd_is_healthy && api_is_ready",
        master: true,
    }
    "kubelet-stopped": "an operator stops kubelet" {
        breaks: "systemctl stop pf9-kubelet",
        is_repaired: "curl -sf --max-time 2 http://127.0.0.1:10248/healthz > /dev/null && node_is_ready",
    }
    "kubelet-config-edited": "an operator edits kubelet's configuration" {
        breaks: "sed -i 's/^maxPods:.*/maxPods: 3/' /etc/pf9/kube.d/kubelet/config.yaml; grep -q 'maxPods: 3$' /etc/pf9/kube.d/kubelet/config.yaml",
        is_repaired: "! grep -q 'maxPods: 3$' /etc/pf9/kube.d/kubelet/config.yaml && curl -sf --max-time 2 http://127.0.0.1:10248/healthz > /dev/null && node_is_ready",
    }
    "manifest-deleted": "the control plane's manifest is deleted" {
        breaks: "rm /etc/pf9/kube.d/manifests/k8s-master.yaml",
        is_repaired: "test -s /etc/pf9/kube.d/manifests/k8s-master.yaml && api_is_ready && node_is_ready",
        master: true,
    }
    "api-hung": "the API server does not answer any more (SIGSTOP)" {
        breaks: "pkill -STOP -x kube-apiserver",
        is_repaired: "api_is_ready",
        master: true,
    }
    "proxy-removed": "kube-proxy's container is removed" {
        breaks: "docker rm --force proxy",
        is_repaired: "curl -sf --max-time 2 http://127.0.0.1:10256/healthz > /dev/null",
    }
    "rules-flushed": "kube-proxy's iptables chains are flushed" {
        breaks: "iptables -w -t nat -F KUBE-SERVICES; iptables -w -t nat -F KUBE-POSTROUTING",
        is_repaired: "iptables -w -t nat -S KUBE-SERVICES | grep -q -- '-j KUBE-SVC-' && iptables -w -t nat -S KUBE-POSTROUTING | grep -q MASQUERADE",
    }
    "jump-deleted": "the jump from PREROUTING to kube-proxy's chain is deleted" {
        breaks: "iptables -w -t nat -S PREROUTING | grep -- '-j KUBE-SERVICES' | sed 's/^-A/-D/' | while read -r rule; do eval iptables -w -t nat \"$rule\"; done
            ! iptables -w -t nat -S PREROUTING | grep -q KUBE-SERVICES",
        is_repaired: "iptables -w -t nat -S PREROUTING | grep -q -- '-j KUBE-SERVICES'",
    }
    "docker-bridge-deleted": "docker's bridge is deleted: containers with a network of their own cannot start" {
        breaks: "ip link delete docker0",
        is_repaired: "ip -4 -o address show dev docker0 | grep -q inet",
    }
    "cni-deleted": "the pods' network configuration is deleted" {
        breaks: "rm /etc/cni/net.d/*",
        is_repaired: "test -s /etc/cni/net.d/10-bridge.conflist && node_is_ready",
    }
    "kubeconfig-truncated": "kubelet's kubeconfig is truncated" {
        breaks: "truncate --size 40 /etc/pf9/kube.d/kubeconfigs/kubelet.yaml",
        is_repaired: "command kubectl --request-timeout=3s --kubeconfig /etc/pf9/kube.d/kubeconfigs/kubelet.yaml get node --output name > /dev/null && node_is_ready",
    }
    "certificate-expired": "kubelet's client certificate is replaced by one that has expired" {
        asks: "openssl req -new -key /etc/pf9/kube.d/certs/kubelet/apiserver/request.key -subj \"/O=system:nodes/CN=system:node:$(own_name)\"",
        on_master: "cd /etc/pf9/kube.d/ca/cluster && openssl x509 -req -CA ca.crt -CAkey ca.key -set_serial 4711 -days 0 <<< \"$ASKED\"",
        breaks: "[ -n \"$MADE\" ] && echo \"$MADE\" > /etc/pf9/kube.d/certs/kubelet/apiserver/request.crt",
        // The kubeconfig of a worker's kubelet still has the certificate before it. With that one the worker asks the masters for another.
        is_repaired: "openssl x509 -in /etc/pf9/kube.d/certs/kubelet/apiserver/request.crt -noout -checkend 60 > /dev/null && api_is_ready && node_is_ready",
    }
    "label-removed": "the node's role label is removed" {
        // It has one of the two.
        on_master: "kubectl label node \"$(own_name)\" node-role.kubernetes.io/master- node-role.kubernetes.io/worker-",
        is_repaired: "has_role_label",
    }
    "node-deleted": "the host's node is deleted" {
        on_master: "kubectl delete node \"$(own_name)\"",
        is_repaired: "has_role_label && node_is_ready",
        // The node of a worker may have been deleted on purpose, so its nodeletd restarts nothing.
        operator_on_worker: "nodelet repair kubelet",
    }
    "keepalived-stopped": "an operator stops keepalived" {
        breaks: "systemctl stop keepalived",
        is_repaired: "systemctl is-active --quiet keepalived && vip_is_held",
        vip: true,
    }
    "keepalived-hung": "a signal stops keepalived (SIGSTOP)" {
        breaks: "systemctl kill --signal=STOP keepalived",
        is_repaired: "systemctl is-active --quiet keepalived && ! pgrep --runstates T keepalived && vip_is_held",
        vip: true,
    }
    "keepalived-edited": "another interface is written to keepalived.conf, and keepalived restarted" {
        breaks: "sed -i 's/interface eth0/interface lo/' /etc/keepalived/keepalived.conf; grep -q 'interface lo' /etc/keepalived/keepalived.conf; systemctl restart keepalived || true",
        is_repaired: "grep -q 'interface eth0' /etc/keepalived/keepalived.conf && systemctl is-active --quiet keepalived && vip_is_held",
        vip: true,
    }
    "keepalived-uninstalled": "keepalived's package is removed" {
        breaks: "DEBIAN_FRONTEND=noninteractive dpkg --purge --force-depends keepalived",
        is_repaired: "systemctl is-active --quiet keepalived && vip_is_held",
        vip: true,
    }
    "kube-env-deleted": "kube.env is deleted" {
        breaks: "rm /etc/pf9/kube.env",
        is_repaired: "test -s /etc/pf9/kube.env",
    }
    "status-deleted": "the status file is deleted" {
        breaks: "rm /var/opt/pf9/kube_status",
        is_repaired: "grep -q '\"pf9_kube_node_state\": *\"ok\"' /var/opt/pf9/kube_status",
    }
    "status-garbage": "the status file is overwritten with rubbish" {
        breaks: "head -c 3000 /dev/urandom > /var/opt/pf9/kube_status",
        is_repaired: "grep -q '\"pf9_kube_node_state\": *\"ok\"' /var/opt/pf9/kube_status",
    }
    "image-deleted": "an image is deleted" {
        breaks: "docker rmi --force $(docker inspect --format '{{.Config.Image}}' $(own_container))",
        is_repaired: "docker image inspect $(docker inspect --format '{{.Config.Image}}' $(own_container)) > /dev/null 2>&1",
    }
    "bridge-deleted": "the pods' bridge is deleted under running pods" {
        prepares_cluster: MAKES_BRIDGED,
        prepares: POD_ANSWERS,
        breaks: "ip link delete cni0",
        is_repaired: POD_ANSWERS,
    }
    "bridge-down": "the pods' bridge is set down under running pods" {
        prepares_cluster: MAKES_BRIDGED,
        prepares: POD_ANSWERS,
        breaks: "ip link set dev cni0 down",
        is_repaired: POD_ANSWERS,
    }
    "bridge-address-deleted": "the address of the pods' bridge is deleted under running pods" {
        prepares_cluster: MAKES_BRIDGED,
        prepares: POD_ANSWERS,
        breaks: "ip -4 address flush dev cni0",
        is_repaired: POD_ANSWERS,
    }
    "bridge-route-deleted": "the route to the pods' network is deleted under running pods" {
        prepares_cluster: MAKES_BRIDGED,
        prepares: POD_ANSWERS,
        breaks: "ip -4 route flush dev cni0",
        is_repaired: POD_ANSWERS,
    }
    "virtual-ip-deleted": "the virtual IP is deleted from its interface" {
        prepares: HOLDS_VIP,
        breaks: "ip address delete \"$VIP/32\" dev eth0",
        is_repaired: "vip_is_held",
        vip: true,
    }
};

/// Gives another clock to nodeletd and what it starts, and to no other process.
macro_rules! clock {
    ($days:literal) => {
        concat!(
            "mkdir -p /run/systemd/system/pf9-nodeletd.service.d
            printf '[Service]\\nEnvironment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1\\nEnvironment=FAKETIME=",
            $days,
            "d\\n' > /run/systemd/system/pf9-nodeletd.service.d/clock.conf
            systemctl daemon-reload; systemctl restart pf9-nodeletd; systemctl stop pf9-kubelet"
        )
    };
}
/// The directories that are moved to a separate disk, and how everything that uses them is stopped and started again.
macro_rules! on_one_disk {
    () => {
        "HELD='opt/pf9 lib/docker lib/kubelet'
        halt() {
            systemctl stop pf9-nodeletd pf9-kubelet
            docker ps --quiet | xargs --no-run-if-empty docker stop --time 5 > /dev/null
            systemctl stop docker.socket docker
            awk '$2 ~ \"^/var/lib/kubelet/pods/\" {print $2}' /proc/mounts | xargs --no-run-if-empty umount
        }
        go_on() {
            systemctl start docker; docker start $(own_container) proxy; systemctl start pf9-kubelet
            for n in $(seq 240); do own_container_works && api_is_ready && node_is_ready && break; sleep 0.25; done
            systemctl start pf9-nodeletd
        }
        "
    };
}
const RIGHT_CLOCK: &str = "rm -r /run/systemd/system/pf9-nodeletd.service.d; systemctl daemon-reload; systemctl restart pf9-nodeletd";
const KUBELET_IS_BACK: &str = "systemctl is-active --quiet pf9-nodeletd && curl -sf --max-time 2 http://127.0.0.1:10248/healthz > /dev/null && api_is_ready && node_is_ready";

/// Faults of what nodeletd depends on: its disk, its process, its boot, its clock. Each comes with something that nodeletd has to
/// repair.
pub const DEPENDENCY_FAULTS: &[Fault] = faults! {
    "var-full": "the disk of /var/opt/pf9, /var/lib/docker and /var/lib/kubelet is full while kubelet is stopped, and is freed (time from there)" {
        prepares: concat!(
            on_one_disk!(),
            "mountpoint -q /mnt/full || {
                halt
                truncate --size 6G /full.ext4; mkfs.ext4 -q /full.ext4
                mkdir -p /mnt/full; mount -o loop /full.ext4 /mnt/full
                for one in $HELD; do
                    mkdir -p /mnt/full/$one; cp -a /var/$one/. /mnt/full/$one/
                    mount --bind /mnt/full/$one /var/$one
                done
                go_on
            }"
        ),
        // The disk is filled quickly, so that kubelet has no time to notice it and to remove images.
        breaks: "fallocate --length $(stat --file-system --format '%a * %S' /mnt/full | { read free; echo $((free)); }) /mnt/full/filler || true
            cat /dev/zero > /mnt/full/filler.rest 2> /dev/null || true
            for n in $(seq 200); do head -c 4096 /dev/zero > /mnt/full/filler.$n || break; done 2> /dev/null
            passes() { nodelet status --json | grep -o '\"passes\": *[0-9]*' | grep -o '[0-9]*$'; }
            before=$(passes); systemctl stop pf9-kubelet
            for n in $(seq 480); do [ $(passes) -ge $((before + 2)) ] && break; sleep 0.25; done
            [ $(passes) -ge $((before + 2)) ]",
        frees: "rm /mnt/full/filler*",
        is_repaired: KUBELET_IS_BACK,
        clears: concat!(
            on_one_disk!(),
            "halt
            for one in $HELD; do
                umount /var/$one; find /var/$one -mindepth 1 -delete
                cp -a /mnt/full/$one/. /var/$one/
            done
            umount /mnt/full; rmdir /mnt/full; rm /full.ext4
            go_on"
        ),
    }
    "nodeletd-killed": "nodeletd and what it runs are killed in the middle of bringing back etcd" {
        // On a worker it is kube-proxy's container.
        // It has begun its first step by then.
        breaks: "begun() { grep -c '\"r\":\"intent\"' /var/opt/pf9/nodelet/ledger.jsonl; }
            before=$(begun); docker rm --force $(own_container)
            for n in $(seq 3000); do [ $(begun) -gt $before ] && break; sleep 0.02; done
            [ $(begun) -gt $before ]; systemctl kill --signal KILL pf9-nodeletd",
        is_repaired: "systemctl is-active --quiet pf9-nodeletd && own_container_works && api_is_ready",
    }
    "rebooted": "the host is rebooted" {
        prepares: "systemctl enable pf9-nodeletd",
        boots: true,
        is_repaired: "systemctl is-active --quiet pf9-nodeletd && curl -sf --max-time 2 http://127.0.0.1:10248/healthz > /dev/null && api_is_ready && node_is_ready_since_boot",
    }
    "clock-ahead": "kubelet is stopped while nodeletd's clock is a day ahead" {
        breaks: clock!("+1"),
        is_repaired: KUBELET_IS_BACK,
        clears: RIGHT_CLOCK,
    }
    "clock-behind": "kubelet is stopped while nodeletd's clock is a day behind" {
        breaks: clock!("-1"),
        is_repaired: KUBELET_IS_BACK,
        clears: RIGHT_CLOCK,
    }
};

impl Fault {
    /// All faults.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        FAULTS.iter().chain(DEPENDENCY_FAULTS)
    }

    /// The fault of this name.
    ///
    /// # Errors
    /// There is no such fault; the error lists all names.
    pub fn named(name: &str) -> Result<&'static Self> {
        Self::all()
            .find(|fault| fault.name == name)
            .with_context(|| {
                let names: Vec<&str> = Self::all().map(|fault| fault.name).collect();
                format!(
                    "there is no fault `{name}`; there are: {}",
                    names.join(", ")
                )
            })
    }

    /// Prepares the cluster for the fault. `master` is any master of it, also the host itself.
    ///
    /// # Errors
    /// The script failed.
    pub fn prepare_cluster(&self, master: &Host, host: &Host) -> Result<()> {
        if self.prepares_cluster.is_empty() {
            return Ok(());
        }
        self.run_on(master, host, "", self.prepares_cluster)
            .map(drop)
    }

    /// Prepares the host for the fault. On a master this prepares the cluster, too. For a worker, call [`Self::prepare_cluster`] before.
    ///
    /// # Errors
    /// The script failed.
    pub fn prepare(&self, host: &Host, vip: &str) -> Result<()> {
        if self.master || self.vip {
            self.run(host, vip, IS_MASTER)?;
        }
        if self.vip {
            self.run(host, vip, HAS_VIP)?;
        }
        if !self.prepares_cluster.is_empty() {
            let script = format!("if ! is_worker; then\n{}\nfi", self.prepares_cluster);
            self.run(host, vip, &script)?;
        }
        if self.prepares.is_empty() {
            return Ok(());
        }
        self.run(host, vip, self.prepares).map(drop)
    }

    /// Removes what the fault added.
    ///
    /// # Errors
    /// The script failed.
    pub fn clear(&self, host: &Host, vip: &str) -> Result<()> {
        self.run(host, vip, self.clears).map(drop)
    }

    /// Causes the fault on a master, and gives the time until the host was healthy and stayed so for a second. Measured on the host, so
    /// that the time of a client's connection does not count.
    ///
    /// # Errors
    /// This fault cannot happen on the host, or the host is not healthy again within four minutes.
    pub fn repaired_within(&self, host: &Host, vip: &str) -> Result<Duration> {
        let began = Instant::now();
        if self.boots {
            self.cause(host, vip)?;
        }
        // A reboot is measured from outside of the host.
        let booted = began.elapsed();
        let (breaks, boot) = if self.boots {
            (":".to_owned(), booted)
        } else {
            (self.breaks_alone(), Duration::ZERO)
        };
        let frees = if self.frees.is_empty() {
            String::new()
        } else {
            format!("began=$(date +%s%N)\n( {} ) >&2 || exit 8", self.frees)
        };
        let script = MEASURE
            .replace("@BREAKS@", &breaks)
            .replace("@FREES@", &frees)
            .replace("@WHOLE@", self.is_repaired)
            .replace("@SECONDS@", &REPAIRED.as_secs().to_string());
        let script = setting(host, vip, &script);
        let limit = REPAIRED + LIMIT;
        let output = host.exec_within(&["bash", "-c", &script], None, limit)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let nanoseconds = said.trim().parse().ok().filter(|_| output.status.success());
        let is_repaired = nanoseconds.map(|took| boot + Duration::from_nanos(took));
        is_repaired.with_context(|| {
            format!(
                "the host `{}` is not healthy {} s after the fault `{}`: {}",
                host.name(),
                REPAIRED.as_secs(),
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            )
        })
    }

    /// Whether the host is healthy.
    ///
    /// # Errors
    /// The host cannot run commands.
    pub fn is_whole(&self, host: &Host, vip: &str) -> Result<bool> {
        let script = setting(host, vip, self.is_repaired);
        let output = host.exec_within(&["bash", "-c", &script], None, LIMIT)?;
        Ok(output.status.success())
    }

    fn run(&self, host: &Host, vip: &str, script: &str) -> Result<String> {
        self.run_on(host, host, vip, script)
    }

    /// Runs a script about `host` on another host.
    fn run_on(&self, by: &Host, host: &Host, vip: &str, script: &str) -> Result<String> {
        let script = setting(host, vip, &format!("set -e -o pipefail\n{script}"));
        let output = by.exec_within(&["bash", "-c", &script], None, LIMIT)?;
        command::check(&output, || {
            let (fault, host, by) = (self.name, host.name(), by.name());
            format!(
                "the fault `{fault}` cannot happen on the host `{host}` (said by `{by}`); `nodelet check` there says what is wrong"
            )
        })?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// A script with the variables and functions that it uses.
fn setting(host: &Host, vip: &str, script: &str) -> String {
    let address = host.address();
    format!("VIP={vip}\nADDRESS={address}\n{FUNCTIONS}{script}")
}

#[cfg(test)]
mod tests;
