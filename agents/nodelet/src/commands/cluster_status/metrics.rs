//! The state of the cluster in Prometheus' text format 0.0.4. What is not known has no line.

use std::fmt::{Display, Write as _};
use std::time::UNIX_EPOCH;

use super::certificates;
use super::nodes::{Skew, skew};
use super::observed::{ClusterStatus, EtcdState, MemberRow, NodeRow, Server};
use super::problems::display_name;

/// Most other masters with a line; a cluster has fewer.
const MASTERS: usize = 9;

/// A metric with its lines: labels and value.
struct Metrics(String);

impl Metrics {
    /// Writes a gauge. Without lines, nothing is written.
    fn gauge(&mut self, name: &str, help: &str, lines: &[(String, String)]) {
        if lines.is_empty() {
            return;
        }
        let _ = writeln!(
            self.0,
            "# HELP nodelet_cluster_{name} {help}\n# TYPE nodelet_cluster_{name} gauge"
        );
        for (labels, value) in lines {
            let _ = writeln!(self.0, "nodelet_cluster_{name}{labels} {value}");
        }
    }

    fn one(&mut self, name: &str, help: &str, value: Option<impl Display>) {
        let line = value.map(|value| (String::new(), value.to_string()));
        self.gauge(name, help, line.as_slice());
    }
}

/// All metrics.
pub(super) fn text(status: &ClusterStatus) -> String {
    let mut all = Metrics(String::new());
    all.one(
        "timestamp_seconds",
        "When the state was gathered.",
        seconds(&status.at),
    );
    all.one(
        "problems",
        "Problems of the cluster.",
        Some(status.problems.len()),
    );
    all.one(
        "unknown_parts",
        "Parts whose state is not known.",
        Some(status.unknown.len()),
    );
    if let Some(rows) = status.nodes.known() {
        nodes(&mut all, rows, status.api_version.known());
    }
    if let Some(ip) = &status.virtual_ip {
        let here = ip.here.known().copied().map(u8::from);
        all.one(
            "holds_virtual_ip",
            "1 if this host holds the virtual IP.",
            here,
        );
        all.one(
            "virtual_ip_holders",
            "Hosts that have the virtual IP.",
            ip.holders.known().map(Vec::len),
        );
        let works = u8::from(ip.api.known() == Some(&200));
        all.one(
            "virtual_ip_works",
            "1 if the API answers over the virtual IP.",
            Some(works),
        );
    }
    if let Some(state) = status.etcd.known() {
        etcd(&mut all, state);
    }
    let first = status
        .certificates
        .known()
        .and_then(|here| here.first.as_ref());
    let first = first.and_then(|(_, ends)| seconds(ends));
    all.one(
        "certificate_end_seconds",
        "When the first certificate of this host ends.",
        first,
    );
    node_certificates(&mut all, status);
    backups(&mut all, status);
    all.0
}

/// When the first certificate of each kind of server ends.
fn node_certificates(all: &mut Metrics, status: &ClusterStatus) {
    for server in Server::ALL {
        let (name, help) = match server {
            Server::Kubelet => (
                "kubelet_certificate_end_seconds",
                "When the first certificate of another node's kubelet ends.",
            ),
            Server::KubeApiserver => (
                "kube_apiserver_certificate_end_seconds",
                "When the first certificate of another master's API server ends.",
            ),
            Server::Etcd => (
                "etcd_certificate_end_seconds",
                "When the first certificate of another master's member of etcd ends.",
            ),
        };
        let (_, ends) = certificates::known(&status.node_certificates, server);
        all.one(name, help, ends.and_then(seconds));
    }
}

fn backups(all: &mut Metrics, status: &ClusterStatus) {
    let newest = status
        .backups
        .known()
        // Another master takes the backups: an old one here is no sign of a failure.
        .filter(|backups| backups.left_to.is_none())
        .and_then(|backups| backups.newest.as_ref());
    let verified = newest.filter(|backup| backup.verified);
    let age = verified.and_then(|backup| backup.age);
    all.one(
        "backup_age_seconds",
        "Age of the newest verified backup of this host.",
        age,
    );
    let size = verified.map(|backup| backup.size);
    all.one(
        "backup_bytes",
        "Size of the newest verified backup of this host.",
        size,
    );
    // As above: if another master takes the backups, an old one of this master has no line.
    let of_masters = status.master_backups.iter();
    let of_masters = of_masters.filter(|one| one.young || one.too_old.is_some());
    let of_masters = of_masters.filter_map(|one| Some((label("node", &one.node), one.age?)));
    let lines: Vec<_> = of_masters
        .map(|(labels, age)| (labels, age.to_string()))
        .take(MASTERS)
        .collect();
    all.gauge(
        "master_backup_age_seconds",
        "Age of the newest verified backup that another master has published.",
        &lines,
    );
}

fn nodes(all: &mut Metrics, rows: &[NodeRow], api: Option<&String>) {
    let number = |ready| rows.iter().filter(|row| row.ready == ready).count();
    let states = [
        ("ready", Some(true)),
        ("not_ready", Some(false)),
        ("unknown", None),
    ];
    let lines = states.map(|(name, ready)| (label("state", name), number(ready).to_string()));
    all.gauge("nodes", "Nodes by state.", &lines);
    let cordoned = rows.iter().filter(|row| row.cordoned).count();
    all.one(
        "nodes_cordoned",
        "Nodes that accept no new pods.",
        Some(cordoned),
    );
    let left = rows.iter().filter(|row| row.left.is_some()).count();
    all.one("nodes_left", "Nodes whose workers have left.", Some(left));
    let skewed = api.map(|api| {
        let odd = |row: &&NodeRow| matches!(skew(&row.version, api), Skew::Newer | Skew::TooOld);
        rows.iter().filter(odd).count()
    });
    all.one(
        "nodes_version_skew",
        "Nodes whose kubelet is newer than the API server or more than two minor versions older.",
        skewed,
    );
}

fn etcd(all: &mut Metrics, etcd: &EtcdState) {
    let each = |value: &dyn Fn(&MemberRow) -> Option<u64>| -> Vec<(String, String)> {
        let members = etcd.members.iter();
        let lines = members.filter_map(|member| Some((member, value(member)?)));
        lines
            .map(|(member, value)| (label("member", display_name(member)), value.to_string()))
            .collect()
    };
    let healthy = each(&|member| Some(u64::from(member.healthy)));
    all.gauge(
        "etcd_member_healthy",
        "1 if a member of etcd is healthy.",
        &healthy,
    );
    let leader = each(&|member| Some(u64::from(member.leader)));
    all.gauge(
        "etcd_member_leader",
        "1 if a member of etcd is the leader.",
        &leader,
    );
    let learner = each(&|member| Some(u64::from(member.learner)));
    all.gauge(
        "etcd_member_learner",
        "1 if a member of etcd has no vote.",
        &learner,
    );
    let size = each(&|member| member.state.known().map(|state| state.size));
    all.gauge(
        "etcd_member_database_bytes",
        "Size of a member's database.",
        &size,
    );
    let index = each(&|member| member.state.known().map(|state| state.raft_index));
    all.gauge(
        "etcd_member_raft_index",
        "Last committed entry of a member.",
        &index,
    );
    let lag = each(&|member| member.state.known().map(|state| state.lag));
    all.gauge(
        "etcd_member_lag",
        "Entries that a member is behind the leader.",
        &lag,
    );
}

/// `{name="value"}`, with what the format asks to be escaped.
fn label(name: &str, value: &str) -> String {
    let value = value
        .replace('\\', r"\\")
        .replace('"', r#"\""#)
        .replace('\n', r"\n");
    format!("{{{name}=\"{value}\"}}")
}

/// Seconds since 1970.
fn seconds(utc: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(utc).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}
