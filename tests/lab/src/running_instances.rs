//! What runs on a host since when, and which files it has. Two of these, compared, show what happened between them.

use std::collections::BTreeSet;

use crate::master::Node;

/// What runs: container ids with their start times, and the units' invocations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningInstances(String);

impl RunningInstances {
    /// As it is now.
    #[must_use]
    pub fn of(master: &Node) -> Self {
        Self(master.sh(
            // The container of a backup comes and goes.
            "docker ps --no-trunc --format '{{.ID}} {{.Names}}' | grep -v ' pf9-etcd-proof$' | cut -d ' ' -f 1 | sort |
                 xargs docker inspect --format '{{.Name}} {{.Id}} {{.State.StartedAt}}'
             for unit in docker pf9-kubelet keepalived; do
                 systemctl show $unit -p Id -p InvocationID -p ActiveEnterTimestampMonotonic -p ActiveState
             done",
        ))
    }
}

/// Everything of a host that a phase may touch, one or two lines for each item. nodelet itself has its size and time in place of a
/// checksum: it is large, and no phase writes it. The payload is a mount, so it is not among them.
///
/// Data that other programs keep for themselves is left out: nodelet's records, docker's store, kubelet's pods, and CNI's
/// directories, which containerd makes when it starts. Data that phases keep when they are rolled back is left out as well:
/// authorities and etcd's data.
#[must_use]
pub fn listing(master: &Node) -> BTreeSet<String> {
    let text = master.sh(
        r#"files=$(mktemp)
        {
            find /etc /opt /usr/local /var/opt /var/lib/kubelet /var/lib/etcd /etc/systemd -xdev \
                \( -path /var/opt/pf9/nodelet -o -path /etc/pf9/kube.d/ca -o -path /etc/pf9/kube.d/encryption -o -path '/etc/pf9/kube.d/certs/*/svcacct.*' \
                   -o -path /var/opt/pf9/kube -o -path /var/lib/kubelet/pods -o -path /etc/ld.so.cache \) -prune \
                -o \( -type d \( -path /etc/cni -o -path /etc/cni/net.d \) \) \
                -o \( -type f -path '/opt/pf9/nodelet/*' -printf 'nodelet %m %u:%g %p %s %T@\n' \) \
                -o \( -type f -printf 'file %m %u:%g %p\n' -fprint0 "$files" \) \
                -o -printf '%y %m %u:%g %p %l\n' || true
            xargs --null --no-run-if-empty sha256sum < "$files" || true
        } 2>/dev/null
        rm "$files"
        dpkg-query --show --showformat 'package ${Package} ${Version} ${db:Status-Status}\n'
        systemctl list-unit-files --no-legend --plain --type service,socket | sed 's/^/unit-file /'
        for unit in docker.service docker.socket pf9-kubelet keepalived; do echo "unit $unit $(systemctl is-active $unit | sed s/failed/inactive/)"; done
        ip -brief link | cut -d' ' -f1 | grep -v '^veth' | sed 's/^/link /'
        sysctl net.ipv4.ip_forward
        if systemctl is-active --quiet docker; then
            docker images --format 'image {{.Repository}}:{{.Tag}}'
            docker ps --all --format 'container {{.Names}}' | grep -v ' k8s_' || true
        fi"#,
    );
    text.lines().map(str::to_owned).collect()
}

/// The differences of two listings, for a reader.
#[must_use]
pub fn changes(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    let gone = before.difference(after).map(|line| format!("- {line}"));
    let new = after.difference(before).map(|line| format!("+ {line}"));
    gone.chain(new).collect()
}
