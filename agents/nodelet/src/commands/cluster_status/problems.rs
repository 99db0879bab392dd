//! What is wrong with the cluster, each with the next thing to try, and what is not known. Pure.

use engine::kubernetes::MASTER_LABEL;
use engine::kubernetes::masters::settings;
use engine::kubernetes::workers::LEFT;
use engine::model::chain;

use super::certificates::{self, requests};
use super::etcd::LAG;
use super::nodes::{Skew, skew};
use super::observed::{
    ClusterStatus, EtcdState, MemberRow, NodeCertificate, NodeRole, NodeRow, Part, Problem, Server,
};
use super::virtual_ip;

/// Most problems of one kind that are named.
const NAMED: usize = 20;

/// The problems, at most 20 of each kind.
pub(super) fn problems(status: &ClusterStatus) -> Vec<Problem> {
    let mut all = Vec::new();
    let rows = status.nodes.known().map_or(&[][..], Vec::as_slice);
    all.extend(status.silent_api.as_ref().map(|why| {
        Problem::new(
            format!("this host's API server does not answer: {why}"),
            "`nodelet status` on this host",
        )
    }));
    bounded(&mut all, "nodes", rows.iter().flat_map(of_node).collect());
    bounded(&mut all, "hosts without a node", unregistered(status, rows));
    bounded(&mut all, "removed nodes", removed(status, rows));
    bounded(&mut all, "taints", without_taints(status, rows));
    bounded(&mut all, "settings", unlike(rows));
    bounded(&mut all, "nodes without a record", unrecorded(status, rows));
    bounded(&mut all, "unknown nodes", strangers(status, rows));
    let damaged = status.admissions.known().map(|all| all.damaged.iter());
    let damaged = damaged.into_iter().flatten();
    let damaged = damaged.map(|one| {
        let why = chain(&one.error()).join(": ");
        Problem::of_sentence(&format!("could not {why}"))
    });
    bounded(&mut all, "records of admissions", damaged.collect());
    let apart = status.without_routes.iter();
    let apart = apart.map(|one| Problem::of_sentence(one)).collect();
    bounded(&mut all, "routes to pods", apart);
    if let Some(api) = status.api_version.known() {
        let skewed = rows.iter().filter_map(|row| of_version(row, api));
        bounded(&mut all, "versions", skewed.collect());
    }
    if let Some(ip) = &status.virtual_ip {
        let answer = match &ip.api {
            Part::Known(200) => None,
            Part::Known(code) => Some(format!("answers {code}")),
            Part::Unknown { unknown } => Some(format!("does not answer: {unknown}")),
        };
        all.extend(answer.map(|answer| {
            Problem::new(
                format!(
                    "the API server behind the virtual IP {} {answer}",
                    ip.address
                ),
                virtual_ip::next_without_api(ip),
            )
        }));
        all.extend(virtual_ip::problem(ip));
    }
    if let Some(etcd) = status.etcd.known() {
        all.extend(of_etcd(etcd));
    }
    of_certificates(status, &mut all);
    if let Some(open) = status.requests.known() {
        all.extend(requests::problems(open));
    }
    let too_old = status
        .backups
        .known()
        .and_then(|backups| backups.too_old.as_deref());
    all.extend(too_old.map(Problem::of_sentence));
    let of_masters = status.master_backups.iter();
    let of_masters = of_masters.filter_map(|one| one.too_old.as_deref());
    let of_masters = of_masters.map(Problem::of_sentence).collect();
    bounded(&mut all, "backups of other masters", of_masters);
    all
}

/// Adds the problems of one kind, as many as may be named.
fn bounded(all: &mut Vec<Problem>, kind: &str, mut found: Vec<Problem>) {
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    all.append(&mut found);
    if more > 0 {
        all.push(Problem::new(
            format!("there are {more} more problems of {kind}"),
            "mend those above first; `nodelet cluster status --json` has all nodes",
        ));
    }
}

fn of_node(row: &NodeRow) -> Vec<Problem> {
    let name = &row.name;
    let mut all = Vec::new();
    match (row.role, &row.left) {
        (NodeRole::Master, Some(_)) => all.push(Problem::new(
            format!("node {name} of a master has the mark of a worker that has left ({LEFT})"),
            format!(
                "see who has set it; `kubectl annotate node {name} {LEFT}-` takes it away, and nothing is removed because of it"
            ),
        )),
        (_, Some(left)) => {
            return vec![Problem::new(
                format!("worker {name} has left at {left}, and its node is still there"),
                format!(
                    "`journalctl -u pf9-nodeletd` on the masters says why; `nodelet cluster remove {name}` removes it"
                ),
            )];
        }
        (_, None) => {}
    }
    let state = match row.ready {
        Some(true) => None,
        Some(false) => Some("is not Ready"),
        None => Some("does not report"),
    };
    if let Some(state) = state {
        let next = match row.role {
            NodeRole::Worker => {
                format!(
                    "`nodelet status` on its host; `nodelet cluster remove {name}` if the host is lost"
                )
            }
            NodeRole::Master | NodeRole::None => "`nodelet status` on its host".to_owned(),
        };
        let what = match row.reason.as_str() {
            "" => format!("node {name} {state}"),
            reason => format!("node {name} {state}: {reason}"),
        };
        all.push(Problem::new(what, next));
    }
    if !row.pressures.is_empty() {
        all.push(Problem::new(
            format!("node {name} reports {}", row.pressures.join(", ")),
            "free memory or disk space on its host, because kubelet evicts pods",
        ));
    }
    all
}

/// The hosts of the cluster that have no node: kubelet registers it only at its start. Not those that are joining, or have left.
fn unregistered(status: &ClusterStatus, rows: &[NodeRow]) -> Vec<Problem> {
    if status.nodes.known().is_none() {
        return Vec::new();
    }
    let has_node = |name: &str| rows.iter().any(|row| row.name == name);
    let members = status.etcd.known().map(|etcd| etcd.members.iter());
    let masters = members.into_iter().flatten();
    let masters = masters
        .filter(|member| !member.learner && !member.name.is_empty() && !has_node(&member.name));
    let of_master = |name: &str| {
        Problem::new(
            format!(
                "master {name} has no node: it was deleted, or kubelet has not registered it yet"
            ),
            format!(
                "`nodelet status` on its host; `nodelet cluster remove {name}` if the host is lost"
            ),
        )
    };
    let mut all: Vec<Problem> = masters.map(|member| of_master(&member.name)).collect();
    let records = status.admissions.known().map(|all| all.records.values());
    let joined = records.into_iter().flatten();
    let joined = joined.filter(|record| record.is_member() && !has_node(&record.node));
    all.extend(joined.map(|record| {
        let name = &record.node;
        Problem::new(
            format!("worker {name} has no node: it was deleted"),
            format!(
                "`nodelet repair kubelet` on its host registers it; `nodelet cluster remove {name}` if it is not to come back"
            ),
        )
    }));
    all
}

/// Settings that masters have differently, although all have them in common.
fn unlike(rows: &[NodeRow]) -> Vec<Problem> {
    let masters = rows.iter();
    let masters = masters.map(|row| (row.name.as_str(), &row.shared_settings));
    let problem = |setting: settings::Unlike| {
        let name = &setting.name;
        let each = setting.values.iter().map(|(master, value)| match value {
            Some(value) => format!("{master} has {value}"),
            None => format!("{master} has none"),
        });
        Problem::new(
            format!(
                "the masters have different values of {name}: {}",
                each.collect::<Vec<_>>().join(", ")
            ),
            format!(
                "set {name} alike on all masters, then `nodelet apply` on those where it changes"
            ),
        )
    };
    settings::unlike(masters).into_iter().map(problem).collect()
}

/// Workers that have joined, and whose record of admission is gone: no further certificate is signed for them.
fn unrecorded(status: &ClusterStatus, rows: &[NodeRow]) -> Vec<Problem> {
    let Some(all) = status.admissions.known() else {
        return Vec::new();
    };
    let is_damaged = |name: &str| all.damaged.iter().any(|its| its.node == name);
    let lacks = |row: &&NodeRow| {
        row.joined
            && row.role != NodeRole::Master
            && !all.records.contains_key(&row.name)
            && !is_damaged(&row.name)
    };
    let problem = |row: &NodeRow| {
        let name = &row.name;
        Problem::new(
            format!(
                "the record of the admission of worker {name} was deleted (ConfigMap nodelet-node-{name} in kube-system): masters sign no further certificate for it"
            ),
            format!(
                "`nodelet pki issue {name} --to KEY --replace` admits it again, with the KEY that `nodelet pki key` prints on its host; then `nodelet apply` there, with the new join file"
            ),
        )
    };
    rows.iter().filter(lacks).map(problem).collect()
}

/// The nodes of hosts that are neither masters nor admitted as workers. Those that have joined as workers are told as such, and those that have left, too.
fn strangers(status: &ClusterStatus, rows: &[NodeRow]) -> Vec<Problem> {
    let (Some(etcd), Some(admitted)) = (status.etcd.known(), status.admissions.known()) else {
        return Vec::new();
    };
    let is_member = |row: &&NodeRow| etcd.members.iter().any(|one| one.name == row.name);
    let is_recorded = |row: &NodeRow| {
        let mut damaged = admitted.damaged.iter();
        admitted.records.contains_key(&row.name) || damaged.any(|its| its.node == row.name)
    };
    let others = rows.iter().filter(|row| !is_member(row));
    let problem = |row: &NodeRow| {
        let name = &row.name;
        match row.role {
            NodeRole::Master => Some(Problem::new(
                format!("node {name} has the label of a master and is no member of etcd"),
                format!(
                    "`kubectl label node {name} {MASTER_LABEL}-` if it is a worker; `nodelet cluster remove {name}` if it was a master"
                ),
            )),
            NodeRole::None if !row.joined && row.left.is_none() && !is_recorded(row) => {
                Some(Problem::new(
                    format!(
                        "node {name} is neither a master nor a worker that a master has admitted: masters sign no certificate for it"
                    ),
                    format!(
                        "`nodelet pki issue {name} --to KEY --replace` admits it, with the KEY that `nodelet pki key` prints on its host; `kubectl delete node {name}` if its host is gone"
                    ),
                ))
            }
            NodeRole::None | NodeRole::Worker => None,
        }
    };
    others.filter_map(problem).collect()
}

/// The nodes of removed workers: a removal was interrupted, or waits for pods.
fn removed(status: &ClusterStatus, rows: &[NodeRow]) -> Vec<Problem> {
    let records = status.admissions.known().map(|all| all.records.values());
    let removed = records.into_iter().flatten().filter(|record| {
        record.removed.is_some() && rows.iter().any(|row| row.name == record.node)
    });
    let problem = |name: &str| {
        Problem::new(
            format!("worker {name} was removed, and its node is still there"),
            format!("`nodelet cluster remove {name}` goes on with the removal"),
        )
    };
    removed.map(|record| problem(&record.node)).collect()
}

/// Workers without a taint that their record of admission names. Masters add it within seconds.
fn without_taints(status: &ClusterStatus, rows: &[NodeRow]) -> Vec<Problem> {
    let Some(all) = status.admissions.known() else {
        return Vec::new();
    };
    let problem = |row: &NodeRow| {
        let record = all.records.get(&row.name)?;
        let missing = record.taints.iter().filter(|its| !row.taints.contains(its));
        let missing: Vec<String> = missing.map(ToString::to_string).collect();
        let is_due = row.role != NodeRole::Master && row.left.is_none() && !missing.is_empty();
        is_due.then(|| {
            Problem::new(
                format!(
                    "worker {} lacks taints of its record of admission: {}",
                    row.name,
                    missing.join(", ")
                ),
                "`journalctl -u pf9-nodeletd` on the masters says why",
            )
        })
    };
    rows.iter().filter_map(problem).collect()
}

fn of_version(row: &NodeRow, api: &str) -> Option<Problem> {
    let (name, version) = (&row.name, &row.version);
    let (wrong, next) = match skew(version, api) {
        Skew::Fits | Skew::Unknown => return None,
        Skew::Newer => ("is newer than", "upgrade the masters first"),
        Skew::TooOld => (
            "is more than two minor versions older than",
            "upgrade the node",
        ),
    };
    let what = format!("kubelet {version} of node {name} {wrong} the API server {api}");
    Some(Problem::new(what, next))
}

fn of_etcd(etcd: &EtcdState) -> Vec<Problem> {
    let mut all = Vec::new();
    let answering = etcd
        .members
        .iter()
        .filter_map(|member| member.state.known());
    let is_headless =
        answering.clone().next().is_some() && !answering.clone().any(|it| it.has_leader);
    if is_headless {
        all.push(Problem::new(
            "etcd has no leader: the cluster accepts no writes",
            "start the hosts of the members that do not answer; `nodelet status` on each",
        ));
    }
    let voters = || etcd.members.iter().filter(|member| !member.learner);
    let healthy = voters().filter(|member| member.healthy).count();
    if !is_headless && healthy < voters().count() / 2 + 1 {
        all.push(Problem::new(
            format!(
                "only {healthy} of {} voting members of etcd are healthy: that is no majority",
                voters().count()
            ),
            "start the hosts of the others; stop and remove no member",
        ));
    }
    if etcd.more == 0 {
        all.extend(of_number(voters().count()));
    }
    all.extend(
        etcd.members
            .iter()
            .filter_map(|member| of_member(member, is_headless)),
    );
    let alarms = etcd.alarms.known().map_or(&[][..], Vec::as_slice);
    let alarms = alarms.iter().take(NAMED);
    all.extend(alarms.map(|alarm| {
        Problem::new(
            format!("etcd has an alarm: {alarm}"),
            "`nodelet etcd status` on that host says what to do",
        )
    }));
    all
}

/// An even number of voters survives no more losses than one voter less would.
fn of_number(voters: usize) -> Option<Problem> {
    (voters > 0 && voters.is_multiple_of(2)).then(|| {
        Problem::new(
            format!(
                "etcd has {voters} voting members: it survives the loss of {}, an even number no more than {} would",
                (voters - 1) / 2,
                voters - 1
            ),
            "`nodelet pki export NODE --to KEY` lets another master join; `nodelet cluster remove NODE` removes one",
        )
    })
}

/// What is wrong with a member; that etcd has no leader is reported once.
fn of_member(member: &MemberRow, is_headless: bool) -> Option<Problem> {
    let name = display_name(member);
    let on_its_host = "`nodelet status` and `docker logs --tail 50 etcd` on its host";
    // A learner may belong to a host that never came up, and then its host has neither.
    let next = match member.learner {
        true => format!(
            "{on_its_host}, which joins; if it is not to join any more, `nodelet cluster remove {name}`: until then no other master can join"
        ),
        false => on_its_host.to_owned(),
    };
    let state = match &member.state {
        Part::Known(state) => state,
        Part::Unknown { unknown } => {
            let what = format!("etcd member {name} does not answer: {unknown}");
            return Some(Problem::new(what, next));
        }
    };
    let what = if !state.errors.is_empty() {
        format!("etcd member {name} reports {}", state.errors.join(", "))
    } else if !state.has_leader && !is_headless {
        format!("etcd member {name} follows no leader")
    } else if state.lag > LAG {
        format!("etcd member {name} is {} entries behind", state.lag)
    } else {
        return None;
    };
    Some(Problem::new(what, next))
}

/// The name of a member; its id before its first start.
pub(super) fn display_name(member: &MemberRow) -> &str {
    match member.name.as_str() {
        "" => &member.id,
        name => name,
    }
}

fn of_certificates(status: &ClusterStatus, all: &mut Vec<Problem>) {
    if let Some(here) = status.certificates.known() {
        for sentence in &here.ending {
            let mut problem = Problem::of_sentence(sentence);
            if problem.next.is_empty() {
                "`nodelet certs renew`, or `nodelet certs rotate` for an authority"
                    .clone_into(&mut problem.next);
            }
            all.push(problem);
        }
        all.extend(here.unreadable.iter().map(|file| {
            Problem::new(
                format!("could not read {file}"),
                "`nodelet repair` makes it again",
            )
        }));
        if here.cut_short {
            all.push(Problem::new(
                "there are too many certificate files below /etc/pf9/kube.d to read all",
                "remove what does not belong there",
            ));
        }
    }
    let near = status.node_certificates.iter().filter(|one| one.ends_soon);
    let near = near.filter_map(of_node_certificate);
    bounded(all, "certificates of nodes", near.collect());
}

fn of_node_certificate(one: &NodeCertificate) -> Option<Problem> {
    let (server, node, ends) = (one.server.name(), &one.node, one.ends.known()?);
    let what =
        format!("the certificate of {server} on node {node} ends at {ends} and is not renewed");
    let next = match one.server {
        Server::Kubelet => {
            "`nodelet certs renew` on its host says why; the node must be admitted (`nodelet pki issue`)"
        }
        Server::KubeApiserver | Server::Etcd => "`nodelet certs renew` on its host says why",
    };
    Some(Problem::new(what, next))
}

/// The parts that are not known, each with the reason.
pub(super) fn unknown(status: &ClusterStatus) -> Vec<String> {
    let mut all = Vec::new();
    let mut add = |part: &str, reason: Option<&str>| {
        all.extend(reason.map(|reason| format!("{part}: {reason}")));
    };
    add("API server", status.api_version.reason());
    add("nodes", status.nodes.reason());
    add("admissions of nodes", status.admissions.reason());
    if let Some(api) = status.api_version.known() {
        let rows = status.nodes.known().map_or(&[][..], Vec::as_slice);
        let mut odd = rows
            .iter()
            .filter(|row| skew(&row.version, api) == Skew::Unknown);
        let first = odd.next();
        let what = first.map(|row| {
            let version = &row.version;
            format!(
                "node {} has version {version:?}, and the API server {api:?}",
                row.name
            )
        });
        add("version skew", what.as_deref());
    }
    if let Some(ip) = &status.virtual_ip {
        add("links of this host", ip.here.reason());
        add("holder of the virtual IP", ip.holder.reason());
        // Only ARP names all of them, and IPv6 has none: that is no part of the state that is missing.
        if ip.address.is_ipv4() {
            add("all hosts with the virtual IP", ip.holders.reason());
        }
        add(
            "host with the virtual IP",
            virtual_ip::unmatched(ip).as_deref(),
        );
    }
    add("etcd", status.etcd.reason());
    if let Some(etcd) = status.etcd.known() {
        add("alarms of etcd", etcd.alarms.reason());
        add("read of etcd with a quorum", etcd.cluster.reason());
        let more = (etcd.more > 0).then(|| format!("{} were not asked", etcd.more));
        add("more members of etcd", more.as_deref());
    }
    add("certificates of this host", status.certificates.reason());
    for server in Server::ALL {
        let Some((node, why, number)) = certificates::not_known(&status.node_certificates, server)
        else {
            continue;
        };
        let what = match number {
            1 => format!("{node}: {why}"),
            _ => format!("{node}: {why} (and {} more nodes)", number - 1),
        };
        let part = format!("certificate of {} on node", server.name());
        add(&part, Some(&what));
    }
    add(
        "requests of nodes for certificates",
        status.requests.reason(),
    );
    add("backups", status.backups.reason());
    all
}
