//! `kubeadm` of the same source, set up as its documentation says, with what a lab host asks for.
//!
//! The peer gets our kubelet's unit, flags and configuration, and what hastens our controller-manager and scheduler, read from a host that
//! we brought up: so the two cannot diverge. Only what `kubeadm` chooses by itself is left to it ([`ITS_OWN_KEYS`], [`ITS_OWN_FLAGS`]). A stock
//! `kubeadm` is a peer of its own, and so is one without the allocator of pod subnets that we have turned off. `cluster` has what several
//! hosts of one cluster need.

pub(super) mod cluster;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use lab::Host;
use serde_json::{Value, json};
use serde_yaml::Mapping;

use super::hosts::{Master, PROGRAMS};

/// The pods' network, which all are given.
pub(super) const CNI: &str = "/etc/cni/net.d/10-bridge.conflist";
/// Its master.
pub(super) const MASTER: Master = Master {
    port: 6443,
    kubeconfig: "/etc/kubernetes/admin.conf",
    kubelet: "kubelet.service",
};
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

/// Our kubelet's unit, and its configuration, on a host that we brought up.
const OUR_UNIT: &str = "pf9-kubelet.service";
const OUR_CONFIGURATION: &str = "/etc/pf9/kube.d/kubelet/config.yaml";
/// Our static pod.
const OUR_POD: &str = "/etc/pf9/kube.d/manifests/k8s-master.yaml";
/// Flags of its containers that let them start faster.
const CONTROLLER_FLAGS: &[&str] = &["kube-api-burst", "authentication-skip-lookup"];
const SCHEDULER_FLAGS: &[&str] = &["authentication-skip-lookup"];

/// Keys of kubelet's configuration that name files which kubeadm makes: its manifests, its certificates.
const ITS_OWN_KEYS: &[&str] = &[
    "staticPodPath",
    "authentication",
    "tlsCertFile",
    "tlsPrivateKeyFile",
];
/// Flags of kubelet that name such files, the node's name, which is the host's with both, and the taint of a master, which kubeadm sets itself.
const ITS_OWN_FLAGS: &[&str] = &[
    "config",
    "kubeconfig",
    "hostname-override",
    "register-with-taints",
];
/// The flag with the host's address.
const NODE_IP: &str = "node-ip";

/// How a peer's kubelet and controller-manager run.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    unit: String,
    flags: BTreeMap<String, String>,
    configuration: Mapping,
    /// Flags of the controller-manager.
    controllers: BTreeMap<String, String>,
    /// Flags of the scheduler.
    scheduler: BTreeMap<String, String>,
    /// Whether its keys are of elliptic curves, as ours are, which are made in no time.
    elliptic_keys: bool,
}

impl Peer {
    /// As upstream packages it. The thresholds of eviction are those of the role: a lab host's disk may be fuller than upstream's
    /// allow.
    pub(super) fn stock() -> Result<Self> {
        let configuration = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             evictionHard: {memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 2Gi}\n";
        Ok(Self {
            unit: KUBELET.to_owned(),
            flags: BTreeMap::from([("cni-bin-dir".to_owned(), "/usr/lib/cni".to_owned())]),
            configuration: serde_yaml::from_str(configuration)?,
            controllers: BTreeMap::new(),
            scheduler: BTreeMap::new(),
            elliptic_keys: false,
        })
    }

    /// With every setting of ours, from a host that we brought up.
    pub(super) fn as_ours(host: &Host) -> Result<Self> {
        let path = host.text(&[
            "systemctl",
            "show",
            "--value",
            "--property=FragmentPath",
            OUR_UNIT,
        ])?;
        let unit = String::from_utf8(host.get(&path)?).context("our kubelet's unit is not text")?;
        let configuration = String::from_utf8(host.get(OUR_CONFIGURATION)?)
            .context("our kubelet's configuration is not text")?;
        let pod =
            String::from_utf8(host.get(OUR_POD)?).context("our static pod's file is not text")?;
        Self::derived(&unit, &configuration, &pod)
            .context("cannot give kubeadm's kubelet the settings of ours")
    }

    /// The same without kubeadm's allocator of pod subnets, which delays all its other controllers by ten seconds. Nothing else gives
    /// such a cluster's nodes their subnets: on the bench the file of the network plugins has it already.
    pub(super) fn without_allocator(mut self) -> Self {
        self.controllers.extend([
            ("allocate-node-cidrs".to_owned(), "false".to_owned()),
            (
                "controllers".to_owned(),
                "*,bootstrapsigner,tokencleaner,-nodeipam".to_owned(),
            ),
        ]);
        self
    }

    fn derived(unit: &str, configuration: &str, pod: &str) -> Result<Self> {
        let pod: Value = serde_yaml::from_str(pod).context("our static pod is no YAML")?;
        let mut configuration: Mapping =
            serde_yaml::from_str(configuration).context("its configuration is no YAML")?;
        for key in ITS_OWN_KEYS {
            configuration.remove(*key);
        }
        let unit = unit.replace("\\\n", " ");
        let (command, rest): (Vec<&str>, Vec<&str>) = unit
            .lines()
            .partition(|line| line.starts_with("ExecStart="));
        let [command] = command.as_slice() else {
            bail!("its unit has {} commands, not one", command.len());
        };
        let mut flags = BTreeMap::new();
        for word in command.split_whitespace().skip(1) {
            let flag = word.strip_prefix("--").and_then(|it| it.split_once('='));
            let (name, value) =
                flag.with_context(|| format!("`{word}` is not of the form --FLAG=VALUE"))?;
            if !ITS_OWN_FLAGS.contains(&name) {
                flags.insert(name.to_owned(), value.to_owned());
            }
        }
        let mut unit = rest.join("\n");
        // kubeadm's own file beside the unit says what is run.
        unit = unit.replacen("[Service]", "[Service]\nExecStart=/usr/bin/kubelet", 1);
        unit.push('\n');
        Ok(Self {
            unit,
            flags,
            configuration,
            controllers: flags_of(&pod, "kube-controller-manager", CONTROLLER_FLAGS)?,
            scheduler: flags_of(&pod, "kube-scheduler", SCHEDULER_FLAGS)?,
            elliptic_keys: true,
        })
    }

    /// The same networks, etcd and conntrack settings as the role has.
    fn configuration(&self, address: Ipv4Addr) -> Result<String> {
        let mut flags = self.flags.clone();
        if let Some(own) = flags.get_mut(NODE_IP) {
            *own = address.to_string();
        }
        Ok(format!(
            "apiVersion: kubeadm.k8s.io/v1beta2\nkind: InitConfiguration\n\
             localAPIEndpoint: {{advertiseAddress: {address}, bindPort: {port}}}\n\
             nodeRegistration: {{kubeletExtraArgs: {flags}}}\n---\n\
             apiVersion: kubeadm.k8s.io/v1beta2\nkind: ClusterConfiguration\nkubernetesVersion: v{version}\n\
             networking: {{podSubnet: 10.20.0.0/16, serviceSubnet: 10.21.0.0/16}}\n\
             etcd: {{local: {{imageTag: 3.4.23-0}}}}\n\
             featureGates: {gates}\n\
             controllerManager: {{extraArgs: {controllers}}}\n\
             scheduler: {{extraArgs: {scheduler}}}\n---\n\
             {kubelet}---\n\
             apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             conntrack: {{maxPerCore: 0, min: 0}}\n",
            port = MASTER.port,
            flags = json!(flags),
            gates = json!({"PublicKeysECDSA": self.elliptic_keys}),
            controllers = json!(self.controllers),
            scheduler = json!(self.scheduler),
            version = lab::KUBERNETES_VERSION,
            kubelet = serde_yaml::to_string(&self.configuration)?,
        ))
    }
}

/// The values that a container of the pod has for these flags.
fn flags_of(pod: &Value, container: &str, flags: &[&str]) -> Result<BTreeMap<String, String>> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let its = containers
        .into_iter()
        .flatten()
        .find(|its| its["name"] == container)
        .with_context(|| format!("our static pod has no container {container}"))?;
    let words: Vec<&str> = its["command"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let value = |flag: &&str| {
        let start = format!("--{flag}=");
        let value = words.iter().find_map(|word| word.strip_prefix(&start));
        let value = value.with_context(|| format!("our {container} has no --{flag}"))?;
        Ok(((*flag).to_owned(), value.to_owned()))
    };
    flags.iter().map(value).collect()
}

/// Installs it with these settings and this CNI file, ready for [`INIT`].
pub(super) fn install(host: &Host, peer: &Peer, cni: &[u8]) -> Result<()> {
    let units = "/etc/systemd/system";
    for (text, path) in [
        (peer.unit.as_bytes(), format!("{units}/kubelet.service")),
        (
            KUBEADM_CONF.as_bytes(),
            format!("{units}/kubelet.service.d/10-kubeadm.conf"),
        ),
        (
            peer.configuration(host.address())?.as_bytes(),
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
/// with the subnet is what serves kubeadm best, so every peer has it.
pub(super) fn with_subnet(cni: &[u8]) -> Result<Vec<u8>> {
    with_subnet_of(cni, 0)
}

/// The same for the host of this number in a cluster.
pub(super) fn with_subnet_of(cni: &[u8], number: u8) -> Result<Vec<u8>> {
    let mut list: Value = serde_json::from_slice(cni).context("the role's CNI file is no JSON")?;
    let bridge = list
        .pointer_mut("/plugins/0")
        .and_then(Value::as_object_mut)
        .context("the role's CNI file has no plugins")?;
    bridge.remove("capabilities");
    // The role masquerades the pods' packets in a phase of its own, which a peer does not have.
    bridge.insert("ipMasq".to_owned(), json!(true));
    let ipam = bridge
        .get_mut("ipam")
        .context("the role's CNI file allots no addresses")?;
    ipam["ranges"] = json!([[{"subnet": format!("10.20.{number}.0/24")}]]);
    Ok(serde_json::to_vec_pretty(&list)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::repository::checkout;

    #[test]
    fn the_subnet_is_written_in() {
        let file = br#"{"plugins": [{"type": "bridge", "capabilities": {"ipRanges": true}, "ipam": {"type": "host-local"}}]}"#;
        let text = with_subnet(file).expect("a list of plugins");
        let list: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(
            list,
            json!({"plugins": [{"type": "bridge", "ipMasq": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.20.0.0/24"}]]}}]})
        );
        with_subnet(b"{}").expect_err("no plugins");
    }

    const UNIT: &str = "[Unit]\nAfter=docker.service\n\n[Service]\nEnvironment=AWS_EC2_METADATA_DISABLED=true\n\
        ExecStart=/opt/bin/kubelet \\\n    --config=/c --kubeconfig=/k \\\n    --hostname-override=nodelet --node-ip=172.30.1.11 \\\n    \
        --register-with-taints=node-role.kubernetes.io/master=true:NoSchedule --cni-bin-dir=/usr/lib/cni\nRestart=always\nRestartSec=2\n";

    const POD: &str = "spec:\n  containers:\n  - name: kube-controller-manager\n    command: [kube-controller-manager, \
        --kube-api-burst=100, --authentication-skip-lookup=true]\n  - name: kube-scheduler\n    command: [kube-scheduler, \
        --authentication-skip-lookup=true]\n";

    #[test]
    fn the_peers_kubelet_has_the_settings_of_ours() {
        let configuration = "kind: KubeletConfiguration\nstaticPodPath: /m\ntlsCertFile: /t\nnodeStatusUpdateFrequency: 4s\n\
            evictionHard:\n  nodefs.available: 1Gi\n";
        let kubelet = Peer::derived(UNIT, configuration, POD).expect("a unit and YAML");
        for line in [
            "After=docker.service",
            "Environment=AWS_EC2_METADATA_DISABLED=true",
            "ExecStart=/usr/bin/kubelet",
            "RestartSec=2",
        ] {
            assert!(
                kubelet.unit.lines().any(|its| its == line),
                "{line}: {}",
                kubelet.unit
            );
        }
        let text = kubelet
            .configuration(Ipv4Addr::new(172, 30, 1, 12))
            .expect("YAML");
        assert!(text.contains("nodeStatusUpdateFrequency: 4s\n"), "{text}");
        assert!(text.contains("nodefs.available: 1Gi\n"), "{text}");
        assert!(
            text.contains(
                r#"kubeletExtraArgs: {"cni-bin-dir":"/usr/lib/cni","node-ip":"172.30.1.12"}"#
            ),
            "{text}"
        );
        assert!(!text.contains("staticPodPath"), "{text}");
        for document in text.split("---\n") {
            serde_yaml::from_str::<Mapping>(document).expect(document);
        }
        assert!(
            text.contains(
                r#"controllerManager: {extraArgs: {"authentication-skip-lookup":"true","kube-api-burst":"100"}}"#
            ),
            "{text}"
        );
        assert!(
            text.contains(r#"scheduler: {extraArgs: {"authentication-skip-lookup":"true"}}"#),
            "{text}"
        );
        let text = kubelet
            .without_allocator()
            .configuration(Ipv4Addr::new(172, 30, 1, 12))
            .expect("YAML");
        assert!(text.contains(r#""allocate-node-cidrs":"false""#), "{text}");
        let slow = POD.replace("--kube-api-burst=100, ", "");
        Peer::derived(UNIT, configuration, &slow).expect_err("no flag");
        let alone = POD.replace("name: kube-scheduler", "name: other");
        Peer::derived(UNIT, configuration, &alone).expect_err("no container");
        Peer::derived("[Service]\n", configuration, POD).expect_err("no command");
        Peer::derived(&UNIT.replace("--config=/c", "-v 3"), configuration, POD)
            .expect_err("a word");
    }

    #[test]
    fn the_kubelet_configuration_of_the_role_is_read() {
        let templates = checkout().join("phases/templates/kubelet");
        let script = fs::read_to_string(checkout().join("phases/kubelet.rhai")).expect("read");
        assert!(script.contains(&format!("unit(\"{OUR_UNIT}\"")), "{script}");
        assert!(
            script.contains(&format!("\"{OUR_CONFIGURATION}\"")),
            "{script}"
        );
        let configuration =
            fs::read_to_string(templates.join("config.yaml.tmpl")).expect("the template is read");
        let pod = checkout().join("phases/templates/control-plane/k8s-master.yaml.tmpl");
        let pod = fs::read_to_string(pod).expect("the template is read");
        for flag in CONTROLLER_FLAGS.iter().chain(SCHEDULER_FLAGS) {
            assert!(pod.contains(&format!("- --{flag}=")), "{pod}");
        }
        for key in ITS_OWN_KEYS {
            let line = format!("{key}:");
            assert!(
                configuration.lines().any(|its| its.starts_with(&line)),
                "{key} is left to kubeadm, and the role does not set it"
            );
        }
    }
}
