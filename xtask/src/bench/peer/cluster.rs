//! A cluster of kubeadm's with a virtual IP: the first master, and what another host needs to join it.
//!
//! The certificates are uploaded by the first master, so that another one needs only a token and a key. Both are made up: they open a lab
//! that lives for minutes. keepalived runs with the intervals of ours before a join begins, which serves the peer: ours installs and starts
//! it as part of its command.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use lab::Host;
use serde_json::json;

use super::{INIT, MASTER, NODE_IP, Peer};

/// The settings of a join.
const JOIN_FILE: &str = "/root/join.yaml";
/// Joins a host with them.
pub(in crate::bench) const JOIN: &str = "kubeadm join --config /root/join.yaml";
/// Opens the lab's cluster to hosts that join.
const TOKEN: &str = "benchm.0123456789abcdef";
/// Encrypts the uploaded certificates.
const CERTIFICATE_KEY: &str = "e6a2eb8581237ab72a4f494f30285ec12a9694d750b9785706a83bfcbbbd2204";

/// As ours: who holds the address, and who takes it. Only the delay at the start is left out, which would serve nothing here.
const KEEPALIVED: &str = "\
global_defs {
    vrrp_version 3
    enable_script_security
    script_user nobody
    vrrp_priority -20
    vrrp_garp_master_delay 2
    vrrp_garp_master_refresh 1
    vrrp_garp_master_refresh_repeat 1
}
vrrp_script apiserver_works {
    script \"/etc/keepalived/check-apiserver alive\"
    interval 1
    timeout 5
    fall 2
    rise 2
    init_fail
}
vrrp_script apiserver_ready {
    script \"/etc/keepalived/check-apiserver ready\"
    interval 3
    timeout 8
    fall 6
    rise 1
    init_fail
}
vrrp_script apiserver_own {
    script \"/etc/keepalived/check-apiserver own\"
    interval 3
    timeout 5
    fall 20
    rise 1
}
vrrp_instance k8s_apiserver {
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority @PRIORITY@
    advert_int 0.2
    nopreempt
    unicast_src_ip @ADDRESS@
    unicast_peer {
@PEERS@    }
    virtual_ipaddress {
        @VIP@
    }
    track_script {
        apiserver_works
        apiserver_ready
        apiserver_own
    }
}
";
/// As ours, with the addresses of the other masters. Its certificate does not name 127.0.0.1.
const CHECK: &str = "\
#!/bin/sh
asks() { curl --silent --fail --max-time \"$1\" --insecure --output /dev/null \"https://$2:6443$3\"; }
case $1 in
alive)
    asks 2 127.0.0.1 '/livez?exclude=etcd'
    status=$?
    [ \"$status\" -eq 0 ] || [ \"$status\" -eq 28 ] || exit \"$status\"
    grep -q ' 0100007F:094B 00000000:0000 0A ' /proc/net/tcp
    ;;
ready)
    asks 2 127.0.0.1 /readyz && exit
    for peer in @PEERS@; do asks 1 \"$peer\" /readyz && exit 1; done
    exit 0
    ;;
own) asks 2 127.0.0.1 /readyz ;;
*) exit 64 ;;
esac
";

/// A cluster that is to be.
pub(in crate::bench) struct Cluster<'a> {
    pub(in crate::bench) peer: &'a Peer,
    /// The virtual IP, at which all hosts reach the API server.
    pub(in crate::bench) vip: Ipv4Addr,
    /// The addresses of all masters, the first one first.
    pub(in crate::bench) masters: Vec<Ipv4Addr>,
}

impl Cluster<'_> {
    /// Installs what the first master needs, ready for [`init`].
    ///
    /// # Errors
    /// The host refuses a file or a command.
    pub(in crate::bench) fn install_first(
        &self,
        host: &Host,
        cni: &[u8],
        debs: &str,
    ) -> Result<()> {
        super::install(host, self.peer, cni)?;
        let configuration = self.first_configuration(host.address())?;
        host.put(configuration.as_bytes(), "/root/kubeadm.yaml", 0o600)?;
        self.start_keepalived(host, debs)
    }

    /// Installs what a worker needs, ready for [`JOIN`].
    ///
    /// # Errors
    /// The host refuses a file or a command.
    pub(in crate::bench) fn install_worker(&self, host: &Host, cni: &[u8]) -> Result<()> {
        super::install(host, self.peer, cni)?;
        let configuration = self.join_configuration(host.address());
        host.put(configuration.as_bytes(), JOIN_FILE, 0o600)
    }

    /// Installs what another master needs, ready for [`JOIN`].
    ///
    /// # Errors
    /// The host refuses a file or a command.
    pub(in crate::bench) fn install_master(
        &self,
        host: &Host,
        cni: &[u8],
        debs: &str,
    ) -> Result<()> {
        self.install_worker(host, cni)?;
        self.start_keepalived(host, debs)
    }

    /// That of one master, with the address of the cluster and what hosts need to join.
    fn first_configuration(&self, address: Ipv4Addr) -> Result<String> {
        let text = self.peer.configuration(address)?;
        let init = format!(
            "kind: InitConfiguration\nbootstrapTokens: [{{token: {TOKEN}}}]\ncertificateKey: {CERTIFICATE_KEY}\n"
        );
        let cluster = format!(
            "kind: ClusterConfiguration\ncontrolPlaneEndpoint: \"{}\"\n",
            self.endpoint()
        );
        Ok(text
            .replacen("kind: InitConfiguration\n", &init, 1)
            .replacen("kind: ClusterConfiguration\n", &cluster, 1))
    }

    /// kubelet's configuration comes from the cluster; its flags are the host's own. A host with the address of a master becomes one.
    fn join_configuration(&self, address: Ipv4Addr) -> String {
        let mut flags = self.peer.flags.clone();
        if let Some(own) = flags.get_mut(NODE_IP) {
            *own = address.to_string();
        }
        let mut text = format!(
            "apiVersion: kubeadm.k8s.io/v1beta2\nkind: JoinConfiguration\n\
             discovery: {{bootstrapToken: {{token: {TOKEN}, apiServerEndpoint: \"{endpoint}\", unsafeSkipCAVerification: true}}}}\n\
             nodeRegistration: {{kubeletExtraArgs: {flags}}}\n",
            endpoint = self.endpoint(),
            flags = json!(flags),
        );
        if self.masters.contains(&address) {
            let _ = writeln!(
                text,
                "controlPlane: {{localAPIEndpoint: {{advertiseAddress: {address}, bindPort: {port}}}, certificateKey: {CERTIFICATE_KEY}}}",
                port = MASTER.port,
            );
        }
        text
    }

    fn endpoint(&self) -> String {
        format!("{}:{}", self.vip, MASTER.port)
    }

    fn start_keepalived(&self, host: &Host, debs: &str) -> Result<()> {
        let install = format!("cd {debs} && dpkg -i $(cat keepalived.list)");
        host.text(&["sh", "-c", &install])
            .context("cannot install keepalived")?;
        let configuration = self.keepalived(host.address());
        host.put(
            configuration.as_bytes(),
            "/etc/keepalived/keepalived.conf",
            0o640,
        )?;
        let peers: Vec<String> = self
            .peers(host.address())
            .map(Ipv4Addr::to_string)
            .collect();
        let check = CHECK.replace("@PEERS@", &peers.join(" "));
        host.put(check.as_bytes(), "/etc/keepalived/check-apiserver", 0o755)?;
        host.text(&["systemctl", "restart", "keepalived"])
            .context("keepalived does not start")
            .map(drop)
    }

    /// The other masters.
    fn peers(&self, address: Ipv4Addr) -> impl Iterator<Item = &Ipv4Addr> {
        self.masters.iter().filter(move |its| **its != address)
    }

    fn keepalived(&self, address: Ipv4Addr) -> String {
        let before = self.masters.iter().take_while(|its| **its != address);
        let priority = 100 - 20 * before.count();
        let peers = self.peers(address);
        let peers: String = peers.map(|its| format!("        {its}\n")).collect();
        KEEPALIVED
            .replace("@PRIORITY@", &priority.to_string())
            .replace("@ADDRESS@", &address.to_string())
            .replace("@PEERS@", &peers)
            .replace("@VIP@", &self.vip.to_string())
    }
}

/// Brings the first master up and uploads its certificates.
pub(in crate::bench) fn init() -> String {
    format!("{INIT} --upload-certs")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use serde_yaml::Mapping;

    use super::*;
    use crate::repository::checkout;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 1, last)
    }

    fn with_cluster(test: impl FnOnce(&Cluster<'_>)) {
        let peer = Peer::stock().expect("settings");
        test(&Cluster {
            peer: &peer,
            vip: address(100),
            masters: vec![address(11), address(12), address(13)],
        });
    }

    #[test]
    fn all_hosts_reach_the_cluster_at_its_virtual_ip() {
        with_cluster(|cluster| {
            let first = cluster.first_configuration(address(11)).expect("YAML");
            for document in first.split("---\n") {
                serde_yaml::from_str::<Mapping>(document).expect(document);
            }
            let endpoint = "controlPlaneEndpoint: \"172.30.1.100:6443\"\n";
            assert!(first.contains(endpoint), "{first}");
            assert!(first.contains("\ncertificateKey: "), "{first}");
            assert!(first.contains("bootstrapTokens: [{token: "), "{first}");
            for (last, is_master) in [(12, true), (14, false)] {
                let text = cluster.join_configuration(address(last));
                let join: Mapping = serde_yaml::from_str(&text).expect("YAML");
                assert_eq!(join.contains_key("controlPlane"), is_master, "{text}");
                assert!(
                    text.contains("apiServerEndpoint: \"172.30.1.100:6443\""),
                    "{text}"
                );
            }
        });
    }

    #[test]
    fn keepalived_has_the_settings_of_ours() {
        let template = checkout().join("phases/templates/keepalived/keepalived.conf.tmpl");
        let template = fs::read_to_string(template).expect("the template is read");
        with_cluster(|cluster| {
            let text = cluster.keepalived(address(12));
            for line in [
                "vrrp_version 3",
                "advert_int 0.2",
                "interval 1",
                "fall 2",
                "interval 3",
                "fall 6",
                "fall 20",
                "rise 2",
                "rise 1",
                "timeout 5",
                "timeout 8",
                "nopreempt",
                "init_fail",
                "vrrp_garp_master_refresh 1",
                "vrrp_priority -20",
            ] {
                let has = |text: &str| text.lines().any(|its| its.trim() == line);
                assert!(has(&text) && has(&template), "{line}: {text}");
            }
            assert!(text.contains("priority 80\n"), "{text}");
            let peers = "unicast_peer {\n        172.30.1.11\n        172.30.1.13\n    }";
            assert!(text.contains(peers), "{text}");
            assert!(!text.contains('@'), "{text}");
        });
    }

    /// The check script of the role for a master with these others.
    fn check_of_ours(peers: &[&str]) -> String {
        let template = checkout().join("phases/templates/keepalived/check-apiserver.tmpl");
        let template = fs::read_to_string(template).expect("the template is read");
        let (before, rest) = template
            .split_once("{% for peer in peers %}\n")
            .expect("a loop");
        let (asks, after) = rest.split_once("{% endfor %}\n").expect("its end");
        let asks: String = peers
            .iter()
            .map(|peer| asks.replace("{{ peer.address }}", peer))
            .collect();
        let text = [before, &asks, after].concat();
        let text = text
            .replace("{{ port }}", "443")
            .replace("{{ status_if_none_is_ready }}", "0");
        assert!(!text.contains("{{") && !text.contains("{%"), "{text}");
        text
    }

    #[test]
    fn the_check_of_keepalived_decides_as_ours() {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, answers) in [
            (
                "curl",
                "for url; do :; done\ncase $url in\n*127.0.0.1*) exit $OWN ;;\n*) exit $OTHER ;;\nesac\n",
            ),
            // The port of each in the kernel's list.
            (
                "grep",
                "case $2 in\n' 0100007F:0FA1 '* | ' 0100007F:094B '*) exit $ETCD ;;\n*) exit 2 ;;\nesac\n",
            ),
        ] {
            let program = directory.path().join(name);
            fs::write(&program, format!("#!/bin/sh\n{answers}")).expect("it is written");
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&program, mode).expect("it is a program");
        }
        let passes = |script: &str, what: &str, [own, etcd, other]: [u8; 3]| {
            let path = format!("{}:/usr/bin:/bin", directory.path().display());
            let status = Command::new("/bin/sh")
                .args(["-c", script, "check-apiserver", what])
                .env("PATH", path)
                .envs(
                    [("OWN", own), ("ETCD", etcd), ("OTHER", other)]
                        .map(|(name, code)| (name, code.to_string())),
                )
                .status();
            status.expect("it runs").success()
        };
        let peers = ["172.30.1.11", "172.30.1.13"];
        let theirs = CHECK.replace("@PEERS@", &peers.join(" "));
        // curl's exit codes: 7 for a refused connection, 22 for a bad answer, 28 for a timeout. In the middle that of grep.
        for (what, answers, does) in [
            ("alive", [0, 0, 0], true),
            ("alive", [28, 0, 22], true),
            ("alive", [0, 1, 0], false),
            ("alive", [28, 0, 0], true),
            ("alive", [7, 0, 0], false),
            ("alive", [22, 0, 0], false),
            ("ready", [0, 0, 0], true),
            ("ready", [0, 0, 22], true),
            ("ready", [22, 1, 0], false),
            ("ready", [28, 0, 0], false),
            ("ready", [22, 1, 22], true),
            ("ready", [28, 0, 28], true),
            ("own", [0, 0, 0], true),
            ("own", [22, 0, 22], false),
            ("own", [28, 0, 0], false),
            ("other", [0, 0, 0], false),
        ] {
            for script in [check_of_ours(&peers), theirs.clone()] {
                assert_eq!(
                    passes(&script, what, answers),
                    does,
                    "{what} {answers:?}\n{script}"
                );
            }
        }
    }
}
