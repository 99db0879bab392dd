//! The state of the cluster as text for people: a table of nodes, a table of etcd members, a line for each other part, then the problems.

use std::fmt::Write as _;
use std::time::Duration;

use engine::model::count;

use super::certificates;
use super::observed::{
    BackupState, ClusterStatus, EtcdState, MasterBackup, MemberRow, NodeRole, NodeRow, Part,
    Server, VirtualIpState,
};
use super::problems::display_name;
use super::virtual_ip as holders;

/// Most nodes in the table.
const ROWS: usize = 100;

/// The whole text.
pub(super) fn screen(status: &ClusterStatus) -> String {
    let mut text = String::new();
    match &status.api_version {
        Part::Known(version) => {
            let _ = writeln!(text, "API server {version}");
        }
        Part::Unknown { unknown } => {
            let _ = writeln!(text, "API server\n  ? unknown: {unknown}");
        }
    }
    nodes(&mut text, status);
    if let Some(ip) = &status.virtual_ip {
        virtual_ip(&mut text, ip);
    }
    etcd(&mut text, &status.etcd);
    certificates(&mut text, status);
    backups(&mut text, status);
    problems(&mut text, status);
    text
}

fn nodes(text: &mut String, status: &ClusterStatus) {
    let rows = match &status.nodes {
        Part::Known(rows) => rows,
        Part::Unknown { unknown } => {
            let _ = writeln!(text, "nodes\n  ? unknown: {unknown}");
            return;
        }
    };
    let _ = writeln!(text, "nodes ({})", rows.len());
    let mut shown: Vec<&NodeRow> = rows.iter().collect();
    if shown.len() > ROWS {
        // What needs attention comes first. The sort is stable.
        shown.sort_by_key(|row| is_well(row));
        shown.truncate(ROWS);
    }
    let heading = ["  NAME", "ROLE", "STATE", "KUBELET", "PODS", "REPORTED"];
    let mut table = vec![heading.map(str::to_owned)];
    table.extend(shown.iter().map(|row| node(row)));
    write_table(text, &table);
    if rows.len() > ROWS {
        let _ = writeln!(text, "  … and {} more", rows.len() - ROWS);
    }
}

fn is_well(row: &NodeRow) -> bool {
    row.ready == Some(true) && row.left.is_none() && row.pressures.is_empty()
}

fn node(row: &NodeRow) -> [String; 6] {
    let state = match row.ready {
        Some(true) => "Ready",
        Some(false) => "not Ready",
        None => "does not report",
    };
    let mut state = vec![state];
    state.extend(row.cordoned.then_some("cordoned"));
    state.extend(row.left.as_ref().map(|_| "left"));
    state.extend((!row.pressures.is_empty()).then_some("under pressure"));
    state.extend(row.this_host.then_some("this host"));
    let role = match row.role {
        NodeRole::Master => "master",
        NodeRole::Worker => "worker",
        NodeRole::None => "-",
    };
    let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    [
        format!("{} {}", sign(is_well(row)), row.name),
        role.to_owned(),
        state.join(", "),
        or_dash(&row.version),
        or_dash(row.pod_subnet.as_deref().unwrap_or_default()),
        row.report_age.map_or_else(|| "never".to_owned(), ago),
    ]
}

fn virtual_ip(text: &mut String, ip: &VirtualIpState) {
    let wrong = holders::problem(ip).and_then(|_| ip.holders.known());
    let works = ip.api.known() == Some(&200) && wrong.is_none();
    let holder = match (&ip.here, &ip.holder) {
        _ if wrong.is_some() => {
            let all = wrong.map_or(&[][..], Vec::as_slice);
            format!("held by {}", holders::names(all))
        }
        (Part::Known(true), Part::Known(name)) if name != holders::THIS_HOST => {
            format!("held by {name}, this host")
        }
        (_, Part::Known(name)) => format!("held by {name}"),
        (Part::Known(false), Part::Unknown { .. }) => match holders::only_other(ip) {
            Some(one) => format!("held by {}", holders::names(std::slice::from_ref(one))),
            None => "not held by this host; holder unknown".to_owned(),
        },
        (_, Part::Unknown { .. }) => "holder unknown".to_owned(),
    };
    let api = match &ip.api {
        Part::Known(200) => "the API answers".to_owned(),
        Part::Known(code) => format!("the API answers {code}"),
        Part::Unknown { .. } => "the API does not answer".to_owned(),
    };
    let _ = writeln!(
        text,
        "virtual IP\n  {} {}: {holder}; {api}",
        sign(works),
        ip.address
    );
}

fn etcd(text: &mut String, etcd: &Part<EtcdState>) {
    let etcd = match etcd {
        Part::Known(etcd) => etcd,
        Part::Unknown { unknown } => {
            let _ = writeln!(text, "etcd\n  ? unknown: {unknown}");
            return;
        }
    };
    let _ = writeln!(text, "etcd ({})", count(etcd.members.len(), "member"));
    let heading = [
        "  NAME",
        "ID",
        "STATE",
        "VERSION",
        "DATABASE",
        "RAFT INDEX",
        "LAG",
    ];
    let mut table = vec![heading.map(str::to_owned)];
    table.extend(etcd.members.iter().map(member));
    write_table(text, &table);
}

fn member(member: &MemberRow) -> [String; 7] {
    let mut words = Vec::new();
    words.extend(member.leader.then_some("leader"));
    words.extend(member.learner.then_some("learner"));
    words.push(match (&member.state, member.healthy) {
        (Part::Unknown { .. }, _) => "does not answer",
        (Part::Known(_), true) => "healthy",
        (Part::Known(state), false) if !state.has_leader => "no leader",
        (Part::Known(_), false) => "not healthy",
    });
    let state = member.state.known();
    let of = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    [
        format!("{} {}", sign(member.healthy), display_name(member)),
        member.id.clone(),
        words.join(", "),
        of(state.map(|it| it.version.clone())),
        of(state.map(|it| mib(it.size))),
        of(state.map(|it| it.raft_index.to_string())),
        of(state.map(|it| it.lag.to_string())),
    ]
}

fn certificates(text: &mut String, status: &ClusterStatus) {
    text.push_str("certificates\n");
    match &status.certificates {
        Part::Unknown { unknown } => {
            let _ = writeln!(text, "  ? this host: unknown: {unknown}");
        }
        Part::Known(here) => {
            let well = here.ending.is_empty() && here.unreadable.is_empty() && !here.cut_short;
            let first = here
                .first
                .as_ref()
                .map_or_else(String::new, |(file, ends)| {
                    format!("; the first to end is {file}, at {ends}")
                });
            let _ = writeln!(text, "  {} this host: {}{first}", sign(well), here.number);
        }
    }
    for server in Server::ALL {
        node_certificates(text, status, server);
    }
}

fn node_certificates(text: &mut String, status: &ClusterStatus, server: Server) {
    let all = &status.node_certificates;
    let name = server.name();
    if let (number @ 1.., Some(ends)) = certificates::known(all, server) {
        let well = !certificates::shown_by(all, server).any(|one| one.ends_soon);
        let nodes = match server {
            Server::Kubelet => "nodes",
            Server::KubeApiserver | Server::Etcd => "masters",
        };
        let _ = writeln!(
            text,
            "  {} {name} on other {nodes}: {number}; the first ends at {ends}",
            sign(well)
        );
    }
    if let Some((node, _, number)) = certificates::not_known(all, server) {
        let more = match number {
            1 => String::new(),
            _ => format!(" and {} more", number - 1),
        };
        let _ = writeln!(text, "  ? {name} on node {node}{more}: unknown");
    }
}

fn backups(text: &mut String, status: &ClusterStatus) {
    text.push_str("newest backups\n");
    match &status.backups {
        Part::Known(state) => backup_here(text, state),
        Part::Unknown { unknown } => {
            let _ = writeln!(text, "  ? this host: unknown: {unknown}");
        }
    }
    if status.nodes.known().is_none() {
        text.push_str("  ? other masters: unknown\n");
    }
    let others = &status.master_backups;
    for one in others.iter().take(ROWS) {
        let _ = writeln!(text, "  {}", master_backup(one));
    }
    if others.len() > ROWS {
        let _ = writeln!(text, "  … and {} more", others.len() - ROWS);
    }
}

fn master_backup(one: &MasterBackup) -> String {
    let sign = match (one.young, &one.too_old) {
        (_, Some(_)) => '✗',
        (true, None) => '✓',
        (false, None) => '-',
    };
    let state = match (&one.taken, one.age) {
        (None, _) => "not published".to_owned(),
        (Some(taken), None) => format!("verified, of the future: {taken}"),
        (Some(_), Some(age)) => format!("verified, {}", ago(age)),
    };
    format!("{sign} {}: {state}", one.node)
}

fn backup_here(text: &mut String, state: &BackupState) {
    let well = sign(state.too_old.is_none());
    if let Some(master) = &state.left_to {
        let _ = writeln!(
            text,
            "  - this host: master {master} takes them (ETCD_BACKUP_MASTERS is one)"
        );
    }
    let _ = match &state.newest {
        None if !state.enabled => {
            writeln!(text, "  - this host: none (ETCD_BACKUP_ENABLED is false)")
        }
        None if state.left_to.is_some() => Ok(()),
        None => writeln!(text, "  {well} this host: none in {}", state.directory),
        Some(newest) => {
            let checked = if newest.verified {
                "verified"
            } else {
                "not verified"
            };
            let age = newest.age.map_or_else(|| "age unknown".to_owned(), ago);
            writeln!(
                text,
                "  {well} this host: {}, {checked}, {age}, {}",
                newest.name,
                mib(newest.size)
            )
        }
    };
}

/// What to do if neither the API server nor etcd answers.
const ASK_ELSEWHERE: &str = "`nodelet check` says what is wrong on this host; `nodelet cluster status` on another master shows the cluster, and whether this host was removed from it";

fn problems(text: &mut String, status: &ClusterStatus) {
    if !status.unknown.is_empty() {
        text.push_str("\nunknown\n");
    }
    for part in &status.unknown {
        let _ = writeln!(text, "  ? {part}");
    }
    if status.nodes.known().is_none() && status.etcd.known().is_none() {
        let _ = writeln!(text, "      next: {ASK_ELSEWHERE}");
    }
    if status.problems.is_empty() {
        if status.unknown.is_empty() {
            text.push_str("\nall is well\n");
        }
        return;
    }
    text.push_str("\nproblems\n");
    for problem in &status.problems {
        let _ = writeln!(text, "  ✗ {}", problem.what);
        if !problem.next.is_empty() {
            let _ = writeln!(text, "      next: {}", problem.next);
        }
    }
}

fn sign(well: bool) -> char {
    if well { '✓' } else { '✗' }
}

/// Columns as wide as their widest cell.
fn write_table<const N: usize>(text: &mut String, rows: &[[String; N]]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:<width$}  "))
            .collect();
        let _ = writeln!(text, "  {}", line.trim_end());
    }
}

/// The two largest units: `3h 20m ago`.
fn ago(seconds: u64) -> String {
    let exact = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let parts: Vec<&str> = exact.split(' ').take(2).collect();
    format!("{} ago", parts.join(" "))
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
