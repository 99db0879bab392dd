//! The state of a cluster with three masters and a worker, on a fake host at 2026-01-01, and what each fault changes.

mod backups;
mod certificates;
mod etcd;
mod fake_etcd;
mod nodes;
mod virtual_ip;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use engine::host::fake::{FakeHost, FaultPlan};
use engine::host::{Clock as _, ClusterNode, Services as _};
use engine::kubernetes::MASTER_LABEL;
use engine::kubernetes::etcd_backup::{BACKUP_TAKEN, BackupManifest, Content, VERSION, Versions};
use engine::kubernetes::workers::WORKER_LABEL;
use engine::resource::pki::{CertificatePaths, first_certificate};
use tempfile::TempDir;

use self::fake_etcd::{FakeEtcd, url};
use super::gather::gather;
use super::observed::{ClusterStatus, Part, Target, shown};
use super::{metrics, only_master, text};
use crate::etcd::{BackupMasters, Backups};

const KUBECONFIG: &str = "/etc/kubeconfig";
const SHARED: &str = "/etc/admin";
const CA: &str = "/etc/ca.crt";
/// With these files members of etcd are asked.
const ETCD_CA: &str = "/etc/etcd/ca.crt";
const ETCD_CERTIFICATE: &str = "/etc/etcd/request.crt";
const ETCD_KEY: &str = "/etc/etcd/request.key";
const VALID: &[u8] = include_bytes!("tests/valid.pem");
/// At the time of the fake host, two days are left of six years.
const ENDING: &[u8] = include_bytes!("tests/ends_on_3_january_2026.pem");
const FILE: &str = "/etc/pf9/kube.d/certs/kubelet/server/request.crt";
const VIRTUAL_IP: &str = "172.30.0.100";

/// The certificate in a PEM file.
async fn der(pem: &[u8]) -> Vec<u8> {
    let path = Path::new("/etc/certificate.crt");
    let host = FakeHost::new().with_file(path, pem);
    first_certificate(&host, path).await.expect("a certificate")
}

/// A cluster: this host (cp-1), its etcd, and its directory of backups.
struct Cluster {
    host: FakeHost,
    etcd: FakeEtcd,
    backups: TempDir,
    /// Whether backups are taken, and which masters take them.
    enabled: bool,
    masters: BackupMasters,
}

impl Cluster {
    async fn healthy() -> Self {
        let host = FakeHost::new()
            .with_unit("pf9-kubelet.service", "[Service]\n")
            .with_file("/etc/cni/net.d/10-bridge.conf", "")
            .with_file(KUBECONFIG, "")
            .with_file(CA, "")
            .with_file(ETCD_CA, "")
            .with_file(ETCD_CERTIFICATE, "")
            .with_file(ETCD_KEY, "")
            .with_file(FILE, VALID)
            .with_kubernetes(|rules| {
                rules.remote_api = true;
                rules.node_name = Some("cp-1".to_owned());
            });
        let now = host.now();
        let valid = der(VALID).await;
        host.with_world_mut(|world| {
            for (name, last, label) in [
                ("cp-1", 11, MASTER_LABEL),
                ("cp-2", 12, MASTER_LABEL),
                ("cp-3", 13, MASTER_LABEL),
                ("w-1", 21, WORKER_LABEL),
            ] {
                let address = format!("172.30.0.{last}");
                let is_master = label == MASTER_LABEL;
                // cp-2 four hours ago, and cp-3 three.
                let taken = format!("2025-12-31T{}:00:00Z", last + 8);
                let taken = is_master.then(|| (BACKUP_TAKEN.to_owned(), taken));
                let node = ClusterNode {
                    annotations: taken.into_iter().collect(),
                    labels: BTreeMap::from([(label.to_owned(), String::new())]),
                    addresses: vec![address.parse().expect("an address")],
                    pod_cidr: Some(format!("10.20.{last}.0/24")),
                    ready: Some(true),
                    kubelet_version: "v1.20.2".to_owned(),
                    reported: Some(now - Duration::from_secs(75)),
                    ..ClusterNode::default()
                };
                world.node(name, node);
                world.endpoint_shows(&format!("{address}:10250"), &valid);
                let own = [valid.as_slice(), &[last]].concat();
                world.endpoint_shows(&format!("{address}:443"), &own);
                if is_master {
                    world.endpoint_shows(&format!("{address}:4001"), &valid);
                }
                let hardware = format!("02:00:00:00:00:{last}");
                if last != 11 {
                    let address = address.parse().expect("an address");
                    world.answer_arp(address, &[&hardware]);
                }
            }
            let virtual_ip = VIRTUAL_IP.parse().expect("an address");
            world.answer_arp(virtual_ip, &["02:00:00:00:00:12"]);
            world.link(
                "eth0",
                true,
                &[("172.30.0.11".parse().expect("an address"), 24)],
            );
            world.endpoint_shows(
                &format!("{VIRTUAL_IP}:443"),
                &[valid.as_slice(), &[12]].concat(),
            );
        });
        host.start_unit("pf9-kubelet.service")
            .await
            .expect("it starts");
        let all = Self {
            host,
            etcd: FakeEtcd::healthy(),
            backups: tempfile::tempdir().expect("a directory"),
            enabled: true,
            masters: BackupMasters::All,
        };
        all.backup("2025-12-31T21:00:00Z");
        all
    }

    /// Stores a verified backup, taken at this time.
    fn backup(&self, taken: &str) {
        let manifest = BackupManifest {
            version: VERSION,
            taken: taken.to_owned(),
            verified: taken.to_owned(),
            revision: 5,
            keys: 3,
            content: Content {
                size: 4,
                sha256: String::new(),
            },
            cluster: "u".to_owned(),
            cluster_id: String::new(),
            encryption_keys: Vec::new(),
            host: "cp-1".to_owned(),
            versions: Versions {
                etcd: "3.4.23".to_owned(),
                nodelet: "0".to_owned(),
                image: "etcd:3".to_owned(),
            },
        };
        let name = format!("etcd-{}", taken.replace(['-', ':'], ""));
        let at = |file: String| self.backups.path().join(file);
        let json = serde_json::to_vec(&manifest).expect("JSON");
        std::fs::write(at(format!("{name}.json")), json).expect("it is written");
        std::fs::write(at(format!("{name}.db")), b"data").expect("it is written");
    }

    /// Changes a node.
    fn node(&self, name: &str, change: impl FnOnce(&mut ClusterNode)) {
        let last = if name == "w-1" { 21 } else { 12 };
        let mut node = ClusterNode {
            labels: BTreeMap::from([(WORKER_LABEL.to_owned(), String::new())]),
            addresses: vec![format!("172.30.0.{last}").parse().expect("an address")],
            ready: Some(true),
            kubelet_version: "v1.20.2".to_owned(),
            ..ClusterNode::default()
        };
        change(&mut node);
        self.host.with_world_mut(|world| world.node(name, node));
    }

    /// The settings of backups.
    fn settings(&self) -> Backups {
        Backups {
            enabled: self.enabled,
            masters: self.masters,
            schedule: "@daily".to_owned(),
            directory: self.backups.path().to_owned(),
            count: 3,
            keep: Duration::from_secs(7 * 86_400),
            max_age: Duration::from_secs(2 * 86_400),
            image: "etcd:3".to_owned(),
            cluster_id: String::new(),
        }
    }

    async fn status(&self) -> ClusterStatus {
        let target = Target {
            kubeconfig: KUBECONFIG.into(),
            shared: SHARED.into(),
            ca: CA.into(),
            etcd: CertificatePaths {
                directory: "/etc/etcd".into(),
                certificate: ETCD_CERTIFICATE.into(),
                key: ETCD_KEY.into(),
                trust: ETCD_CA.into(),
            },
            port: 443,
            virtual_ip: Some(VIRTUAL_IP.parse().expect("an address")),
            link: "eth0".to_owned(),
            backups: self.settings(),
            pods: "10.20.0.0/16".parse().expect("a network"),
        };
        let began = tokio::time::Instant::now();
        let status = gather(&self.host, &self.etcd, &target).await;
        assert!(
            began.elapsed() < Duration::from_secs(17),
            "{:?}",
            began.elapsed()
        );
        status
    }

    /// The problems, each with its next step, and the exit code.
    async fn problems(&self) -> (String, u8) {
        let status = self.status().await;
        for problem in &status.problems {
            assert!(!problem.next.is_empty(), "{problem:?}");
        }
        let lines = status.problems.iter();
        let lines: Vec<_> = lines
            .map(|it| format!("{} → {}", it.what, it.next))
            .collect();
        (lines.join("\n"), status.exit().code())
    }
}

#[tokio::test(start_paused = true)]
async fn a_healthy_cluster() {
    let cluster = Cluster::healthy().await;
    let status = cluster.status().await;
    assert_eq!(status.exit().code(), 0, "{status:#?}");
    insta::assert_snapshot!("healthy_text", text::screen(&status));
    insta::assert_snapshot!("healthy_metrics", metrics::text(&status));
    let json = format!("{:#}", serde_json::to_value(&status).expect("JSON"));
    let directory = cluster.backups.path().display().to_string();
    insta::assert_snapshot!("healthy_json", json.replace(&directory, "/backups"));
}

/// Several faults at once, as an operator sees them.
#[tokio::test(start_paused = true)]
async fn a_cluster_with_problems() {
    let mut cluster = Cluster::healthy().await;
    cluster.node("w-1", |node| {
        node.ready = None;
        node.unschedulable = true;
        node.ready_message = "NodeStatusUnknown: Kubelet stopped posting node status.".to_owned();
    });
    cluster.etcd.states.remove(&url(3));
    let down = FaultPlan::none().stall("https_get", &format!("{}*", url(3)));
    cluster.host.set_faults(down);
    cluster.host = cluster.host.with_file(FILE, ENDING);
    backups::publish(&cluster, "cp-3", Some("2025-12-29T00:00:00Z")).await;
    let status = cluster.status().await;
    assert_eq!(status.exit().code(), 2);
    insta::assert_snapshot!("problems_text", text::screen(&status));
}

#[tokio::test(start_paused = true)]
async fn while_the_api_is_silent_the_other_parts_are_shown() {
    let mut cluster = Cluster::healthy().await;
    cluster.host = cluster
        .host
        .with_kubernetes(|rules| rules.remote_api = false);
    let status = cluster.status().await;
    assert_eq!(status.exit().code(), 1, "{status:#?}");
    let unknown = status.unknown.join("\n");
    assert!(
        unknown.contains("nodes: could not list the nodes"),
        "{unknown}"
    );
    let text = text::screen(&status);
    assert!(
        text.contains("nodes\n  ? unknown: could not list"),
        "{text}"
    );
    for shown in [
        "etcd (3 members)",
        "a2  leader, healthy",
        "verified, 3h ago",
    ] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    assert!(!text.contains("on another master"), "{text}");

    // So it is on a master that was removed, and on one that is broken.
    cluster.etcd.here = false;
    let text = text::screen(&cluster.status().await);
    assert!(
        text.contains("next: `nodelet check` says what is wrong on this host"),
        "{text}"
    );
    let metrics = metrics::text(&status);
    assert!(!metrics.contains("nodelet_cluster_nodes"), "{metrics}");
    assert!(
        metrics.contains("nodelet_cluster_etcd_member_healthy"),
        "{metrics}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_the_own_api_server_another_one_is_asked() {
    let cluster = Cluster::healthy().await;
    cluster.host.with_world_mut(|world| {
        world.remove(KUBECONFIG);
        world.file(SHARED, "");
    });
    let (problems, code) = cluster.problems().await;
    assert!(
        problems.starts_with("this host's API server does not answer: "),
        "{problems}"
    );
    assert_eq!((problems.lines().count(), code), (1, 2));
    let nodes = cluster.status().await.nodes;
    assert_eq!(nodes.known().map(Vec::len), Some(4));
}

/// The API server of a master that was removed tells its version, and cannot list the nodes.
#[tokio::test(start_paused = true)]
async fn an_api_server_that_cannot_read_is_not_asked() {
    let cluster = Cluster::healthy().await;
    cluster.host.with_world_mut(|world| world.file(SHARED, ""));
    let once = FaultPlan::none().stall("object_exists", "*").times(1);
    cluster.host.set_faults(once);
    let status = cluster.status().await;
    assert_eq!(status.silent_api.as_deref(), Some("no answer within 2 s"));
    assert_eq!(status.nodes.known().map(Vec::len), Some(4));
}

#[tokio::test(start_paused = true)]
async fn the_output_is_bounded() {
    let cluster = Cluster::healthy().await;
    for number in 0..1000 {
        cluster.node(&format!("x-{number}"), |node| {
            node.ready = Some(false);
            node.ready_message = "m".repeat(10_000);
        });
    }
    let status = cluster.status().await;
    let text = text::screen(&status);
    assert!(text.lines().count() < 200, "{}", text.lines().count());
    assert!(text.len() < 50_000, "{}", text.len());
    assert!(text.contains("… and 904 more"), "{text}");
    assert!(
        text.contains("there are 980 more problems of nodes"),
        "{text}"
    );
    assert!(metrics::text(&status).len() < 10_000);
    assert_eq!(shown(&"m".repeat(1000)).chars().count(), 301);
}

#[test]
fn only_a_master_can_tell() {
    assert!(only_master("master").is_ok());
    let refused = only_master("worker").expect_err("a worker cannot");
    assert!(
        refused
            .to_string()
            .ends_with("this host is a worker; run the command on a master")
    );
    assert!(only_master("").is_err());
}
