//! The state of a cluster with three masters and a worker, on a fake host at 2026-01-01, and what each fault changes.

mod backups;
mod virtual_ip;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use engine::host::fake::FakeHost;
use engine::host::{Clock as _, ClusterNode, NewCertificateRequest, Services as _};
use engine::kubernetes::etcd_backup::{BackupManifest, Content, VERSION, Versions};
use engine::kubernetes::workers::{LEFT, WORKER_LABEL};
use engine::kubernetes::{MASTER_LABEL, NODE_SIGNER};
use engine::resource::pki::first_certificate;
use tempfile::TempDir;

use super::etcd::AskEtcd;
use super::gather::gather;
use super::observed::{ClusterStatus, Part, Target, shown};
use super::{metrics, only_master, text};
use crate::etcd::{BackupMasters, Backups, EtcdMember, EtcdStatus, MEMBER};

const KUBECONFIG: &str = "/etc/kubeconfig";
const CA: &str = "/etc/ca.crt";
const VALID: &[u8] = include_bytes!("tests/valid.pem");
/// At the time of the fake host, two days are left of six years.
const ENDING: &[u8] = include_bytes!("tests/ends_on_3_january_2026.pem");
const FILE: &str = "/etc/pf9/kube.d/certs/kubelet/server/request.crt";
const VIRTUAL_IP: &str = "172.30.0.100";

/// An etcd of three members. A member without a status never answers.
#[derive(Clone)]
struct FakeEtcd {
    members: Vec<EtcdMember>,
    states: BTreeMap<String, EtcdStatus>,
    /// Whether the member of this host answers.
    here: bool,
}

impl FakeEtcd {
    fn healthy() -> Self {
        let mut all = Self {
            members: Vec::new(),
            states: BTreeMap::new(),
            here: true,
        };
        for (number, id) in [(1, 0xa1_u64), (2, 0xa2), (3, 0xa3)] {
            let url = url(number);
            all.members.push(EtcdMember {
                id,
                name: format!("cp-{number}"),
                url: Some(url.clone()),
                is_learner: false,
            });
            all.states.insert(url, state(0xa2, 5000 - number));
        }
        all
    }

    fn change(mut self, number: u64, change: impl FnOnce(&mut EtcdStatus)) -> Self {
        change(
            self.states
                .get_mut(&url(number))
                .expect("the member is there"),
        );
        self
    }

    async fn reach(&self, url: &str) -> anyhow::Result<()> {
        if url == MEMBER && !self.here {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// The certificate in a PEM file.
async fn der(pem: &[u8]) -> Vec<u8> {
    let path = Path::new("/etc/certificate.crt");
    let host = FakeHost::new().with_file(path, pem);
    first_certificate(&host, path).await.expect("a certificate")
}

fn url(number: u64) -> String {
    format!("https://172.30.0.1{number}:4001")
}

fn state(leader: u64, raft_index: u64) -> EtcdStatus {
    EtcdStatus {
        version: "3.4.23".to_owned(),
        size: 21 << 20,
        cluster_id: 7,
        leader,
        raft_term: 4,
        raft_index,
        errors: Vec::new(),
    }
}

impl AskEtcd for FakeEtcd {
    async fn members(&self, url: &str) -> anyhow::Result<Vec<EtcdMember>> {
        self.reach(url).await?;
        Ok(self.members.clone())
    }

    async fn status(&self, url: &str) -> anyhow::Result<EtcdStatus> {
        match self.states.get(url) {
            Some(state) => Ok(state.clone()),
            None => std::future::pending().await,
        }
    }

    async fn alarms(&self, url: &str) -> anyhow::Result<Vec<String>> {
        self.reach(url).await?;
        Ok(Vec::new())
    }

    async fn cluster(&self, url: &str) -> anyhow::Result<Option<String>> {
        self.reach(url).await?;
        match self.states.values().any(|state| state.leader != 0) {
            true => Ok(Some("u".to_owned())),
            false => Err(anyhow!("etcdserver: no leader")),
        }
    }
}

/// A cluster: this host (cp-1), its etcd, and its directory of backups.
struct Cluster {
    host: FakeHost,
    etcd: FakeEtcd,
    backups: TempDir,
}

impl Cluster {
    async fn healthy() -> Self {
        let host = FakeHost::new()
            .with_unit("pf9-kubelet.service", "[Service]\n")
            .with_file("/etc/cni/net.d/10-bridge.conf", "")
            .with_file(KUBECONFIG, "")
            .with_file(CA, "")
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
                let node = ClusterNode {
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

    async fn status(&self) -> ClusterStatus {
        let target = Target {
            kubeconfig: KUBECONFIG.into(),
            ca: CA.into(),
            port: 443,
            virtual_ip: Some(VIRTUAL_IP.parse().expect("an address")),
            link: "eth0".to_owned(),
            backups: Backups {
                enabled: true,
                masters: BackupMasters::One,
                schedule: "@daily".to_owned(),
                directory: self.backups.path().to_owned(),
                count: 3,
                keep: Duration::from_secs(7 * 86_400),
                max_age: Duration::from_secs(2 * 86_400),
                image: "etcd:3".to_owned(),
                cluster_id: String::new(),
            },
        };
        let began = tokio::time::Instant::now();
        let status = gather(&self.host, &self.etcd, &target).await;
        assert!(
            began.elapsed() < Duration::from_secs(15),
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
    cluster.host = cluster.host.with_file(FILE, ENDING);
    let status = cluster.status().await;
    assert_eq!(status.exit().code(), 2);
    insta::assert_snapshot!("problems_text", text::screen(&status));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_ready_or_has_left_is_a_problem() {
    let cluster = Cluster::healthy().await;
    cluster.node("w-1", |node| {
        node.ready = Some(false);
        node.ready_message = "KubeletNotReady: \u{1b}[31mdocker is down".to_owned();
        node.pressures = vec!["DiskPressure (full)".to_owned()];
    });
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    assert!(
        problems.contains("node w-1 is not Ready: KubeletNotReady:  [31mdocker"),
        "{problems}"
    );
    assert!(
        problems.contains("`nodelet cluster remove w-1` if the host is lost"),
        "{problems}"
    );
    assert!(
        problems.contains("node w-1 reports DiskPressure (full)"),
        "{problems}"
    );
    cluster.node("w-1", |node| {
        node.ready = None;
        node.annotations
            .insert(LEFT.to_owned(), "2025-12-31T00:00:00Z".to_owned());
    });
    let (problems, _) = cluster.problems().await;
    assert!(
        problems.starts_with("worker w-1 has left at 2025-12-31T00:00:00Z"),
        "{problems}"
    );
    assert_eq!(problems.lines().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_etcd_without_a_leader_is_a_problem() {
    let mut cluster = Cluster::healthy().await;
    for number in 1..=2 {
        cluster.etcd = cluster.etcd.change(number, |state| state.leader = 0);
    }
    cluster.etcd.states.remove(&url(3));
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    assert!(problems.starts_with("etcd has no leader"), "{problems}");
    assert!(
        problems.contains("etcd member cp-3 does not answer: no answer within 3 s"),
        "{problems}"
    );
    assert_eq!(problems.lines().count(), 2, "{problems}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lags_or_reports_errors_is_a_problem() {
    let mut cluster = Cluster::healthy().await;
    cluster.etcd = cluster.etcd.change(3, |state| state.raft_index = 3998);
    assert_eq!(
        cluster.problems().await,
        (String::new(), 0),
        "1000 entries are allowed"
    );
    cluster.etcd = cluster.etcd.change(3, |state| state.raft_index = 3997);
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    assert!(
        problems.starts_with("etcd member cp-3 is 1001 entries behind"),
        "{problems}"
    );
    cluster.etcd = cluster
        .etcd
        .change(3, |state| state.errors = vec!["NOSPACE".to_owned()]);
    let (problems, _) = cluster.problems().await;
    assert!(
        problems.starts_with("etcd member cp-3 reports NOSPACE"),
        "{problems}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_of_voters_etcd_has_a_problem_and_a_learner_has_no_vote() {
    let mut cluster = Cluster::healthy().await;
    cluster.etcd.members[2].is_learner = true;
    cluster.etcd.states.remove(&url(1));
    let (problems, _) = cluster.problems().await;
    assert!(
        problems.starts_with("only 1 of 2 voting members"),
        "{problems}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_even_number_of_voters_is_a_problem() {
    for (number, is_even) in [(1, false), (2, true), (3, false), (4, true)] {
        let mut cluster = Cluster::healthy().await;
        cluster.etcd.members.truncate(number);
        if number == 4 {
            cluster.etcd.members.push(EtcdMember {
                id: 0xa4,
                name: "cp-4".to_owned(),
                url: Some(url(4)),
                is_learner: false,
            });
            cluster.etcd.states.insert(url(4), state(0xa2, 4996));
        }
        let (problems, _) = cluster.problems().await;
        let said = format!(
            "etcd has {number} voting members: it survives the loss of {}, an even number no more than {} would",
            if number == 2 { 0 } else { 1 },
            number - 1
        );
        assert_eq!(problems.contains(&said), is_even, "{number}: {problems}");
        let next = "`nodelet cluster remove NODE` removes one";
        assert_eq!(problems.contains(next), is_even, "{number}: {problems}");
    }
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
    let metrics = metrics::text(&status);
    assert!(!metrics.contains("nodelet_cluster_nodes"), "{metrics}");
    assert!(
        metrics.contains("nodelet_cluster_etcd_member_healthy"),
        "{metrics}"
    );
}

#[tokio::test(start_paused = true)]
async fn if_this_hosts_member_is_silent_another_one_names_the_members() {
    let mut cluster = Cluster::healthy().await;
    cluster.etcd.here = false;
    cluster.etcd.states.remove(&url(1));
    let status = cluster.status().await;
    let etcd = status.etcd.known().expect("another master is asked");
    assert_eq!(etcd.asked, url(2));
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    assert!(
        problems.starts_with("etcd member cp-1 does not answer"),
        "{problems}"
    );
    cluster.host = cluster
        .host
        .with_kubernetes(|rules| rules.remote_api = false);
    let status = cluster.status().await;
    assert_eq!(status.etcd.reason(), Some("no answer within 3 s"));
}

#[tokio::test(start_paused = true)]
async fn versions_that_do_not_go_together_are_problems() {
    let cluster = Cluster::healthy().await;
    for (version, says) in [
        ("v1.18.9", ""),
        ("v1.20.15", ""),
        (
            "v1.17.0",
            "is more than two minor versions older than the API server v1.20.2",
        ),
        ("v1.21.0", "is newer than the API server v1.20.2"),
    ] {
        cluster.node("w-1", |node| version.clone_into(&mut node.kubelet_version));
        let (problems, code) = cluster.problems().await;
        assert_eq!(code, if says.is_empty() { 0 } else { 2 }, "{version}");
        assert!(problems.contains(says), "{problems}");
    }
    cluster.node("w-1", |node| node.kubelet_version = "new".to_owned());
    assert_eq!(cluster.status().await.exit().code(), 1);
}

#[tokio::test(start_paused = true)]
async fn certificates_that_end_soon_are_problems() {
    let mut cluster = Cluster::healthy().await;
    let ending = der(ENDING).await;
    cluster
        .host
        .with_world_mut(|world| world.endpoint_shows("172.30.0.21:10250", &ending));
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    let wanted = "the certificate of kubelet on node w-1 ends at 2026-01-03T00:00:00Z";
    assert!(problems.starts_with(wanted), "{problems}");
    cluster.host = cluster.host.with_file(FILE, ENDING);
    let (problems, _) = cluster.problems().await;
    assert!(
        problems.contains(&format!("{FILE} ends in 1day 23h")),
        "{problems}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_holder_of_the_virtual_ip_is_found_by_its_certificate() {
    let cluster = Cluster::healthy().await;
    let holder = async || {
        cluster
            .status()
            .await
            .virtual_ip
            .expect("there is one")
            .holder
    };
    assert_eq!(holder().await, Part::Known("cp-2".to_owned()));
    cluster.host.with_world_mut(|world| {
        world.endpoint_shows(&format!("{VIRTUAL_IP}:443"), b"of another host");
    });
    assert!(holder().await.reason().is_some());
    cluster.host.with_world_mut(|world| {
        let addresses = ["172.30.0.11", VIRTUAL_IP];
        let addresses = addresses.map(|one| (one.parse().expect("an address"), 24));
        world.link("eth0", true, &addresses);
    });
    assert_eq!(holder().await, Part::Known("cp-1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_master_decides_about_is_a_problem_after_a_minute() {
    let cluster = Cluster::healthy().await;
    let new = NewCertificateRequest {
        name: "csr-1".to_owned(),
        request: Vec::new(),
        signer: NODE_SIGNER.to_owned(),
        usages: Vec::new(),
    };
    cluster.host.with_world_mut(|world| {
        world.certificate_request(&new, "system:node:w-1", &[]);
        world.advance(Duration::from_secs(61));
    });
    let (problems, code) = cluster.problems().await;
    let says = "decided about the request csr-1 of system:node:w-1 for a certificate in 1m 1s → ";
    assert!(problems.contains(says) && code == 2, "{problems}");
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
