//! `kubeadm` of the same source, set up as its documentation says, with what a lab host asks for.

use anyhow::{Context, Result};
use lab::Host;
use serde_json::{Value, json};

use super::hosts::PROGRAMS;

/// The pods' network, which both are given.
pub(super) const CNI: &str = "/etc/cni/net.d/10-bridge.conflist";
/// The port of its API server.
pub(super) const PORT: u16 = 6443;
/// Its administrator's kubeconfig.
pub(super) const KUBECONFIG: &str = "/etc/kubernetes/admin.conf";
/// DNS is left out: the role under test does not bring it either.
pub(super) const INIT: &str =
    "kubeadm init --config /root/kubeadm.yaml --skip-phases addon/coredns";
/// What its dry run leaves.
pub(super) const DRY_RUN_FILES: &str = "/etc/kubernetes/tmp";

/// kubelet as a unit, and the settings that kubeadm adds, as upstream packages them.
const KUBELET: &str = "[Unit]\nDescription=kubelet\n[Service]\nExecStart=/usr/bin/kubelet\nRestart=always\n\
     StartLimitInterval=0\nRestartSec=10\n[Install]\nWantedBy=multi-user.target\n";
const KUBEADM_CONF: &str = r#"[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS
"#;

/// The same networks, etcd, thresholds of eviction and conntrack settings as the role has.
fn configuration(host: &Host) -> String {
    format!(
        "apiVersion: kubeadm.k8s.io/v1beta2\nkind: InitConfiguration\n\
         localAPIEndpoint: {{advertiseAddress: {}, bindPort: {PORT}}}\n\
         nodeRegistration: {{kubeletExtraArgs: {{cni-bin-dir: /usr/lib/cni}}}}\n---\n\
         apiVersion: kubeadm.k8s.io/v1beta2\nkind: ClusterConfiguration\nkubernetesVersion: v{}\n\
         networking: {{podSubnet: 10.20.0.0/16, serviceSubnet: 10.21.0.0/16}}\n\
         etcd: {{local: {{imageTag: 3.4.23-0}}}}\n---\n\
         apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         evictionHard: {{memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 2Gi}}\n---\n\
         apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         conntrack: {{maxPerCore: 0, min: 0}}\n",
        host.address(),
        lab::KUBERNETES_VERSION
    )
}

/// Installs it with this CNI file, ready for [`INIT`].
pub(super) fn install(host: &Host, cni: &[u8]) -> Result<()> {
    let units = "/etc/systemd/system";
    for (text, path) in [
        (KUBELET.as_bytes(), format!("{units}/kubelet.service")),
        (
            KUBEADM_CONF.as_bytes(),
            format!("{units}/kubelet.service.d/10-kubeadm.conf"),
        ),
        (
            configuration(host).as_bytes(),
            "/root/kubeadm.yaml".to_owned(),
        ),
        (cni, CNI.to_owned()),
    ] {
        host.put(text, &path, 0o644)?;
    }
    let script = format!(
        "for program in kubeadm kubelet kubectl; do ln -s {PROGRAMS}/$program /usr/bin/ || exit; done; \
         systemctl daemon-reload && systemctl --quiet enable kubelet"
    );
    host.text(&["sh", "-c", &script])
        .context("cannot install kubeadm")
        .map(drop)
}

/// The role's CNI file with the node's subnet written in, which the role has handed to the plugins by kubelet.
///
/// With the file as it is, kubeadm's node waits for the controller-manager to allot the subnet, for ten seconds and more. The file
/// with the subnet is what serves kubeadm best, so it is what nodelet is measured against.
pub(super) fn with_subnet(cni: &[u8]) -> Result<Vec<u8>> {
    let mut list: Value = serde_json::from_slice(cni).context("the role's CNI file is no JSON")?;
    let bridge = list
        .pointer_mut("/plugins/0")
        .and_then(Value::as_object_mut)
        .context("the role's CNI file has no plugins")?;
    bridge.remove("capabilities");
    let ipam = bridge
        .get_mut("ipam")
        .context("the role's CNI file allots no addresses")?;
    ipam["ranges"] = json!([[{"subnet": "10.20.0.0/24"}]]);
    Ok(serde_json::to_vec_pretty(&list)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subnet_is_written_in() {
        let file = br#"{"plugins": [{"type": "bridge", "capabilities": {"ipRanges": true}, "ipam": {"type": "host-local"}}]}"#;
        let text = with_subnet(file).expect("a list of plugins");
        let list: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(
            list,
            json!({"plugins": [{"type": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.20.0.0/24"}]]}}]})
        );
        with_subnet(b"{}").expect_err("no plugins");
    }
}
