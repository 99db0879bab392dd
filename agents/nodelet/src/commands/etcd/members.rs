//! `nodelet etcd members`: who belongs to etcd, and how each member is.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use engine::exec::etcd_members;
use engine::host::live::LiveHost;
use engine::kubernetes::etcd_members::Seen;

use crate::cli::EtcdMembersArgs;
use crate::commands::run::only_root;
use crate::output::exit::Exit;
use crate::output::say;

pub(super) async fn members(args: &EtcdMembersArgs) -> Result<Exit> {
    only_root("look at the members of etcd")?;
    let members = etcd_members(&LiveHost::new())
        .await
        .context("look at the members of etcd")?;
    if args.json {
        say(&format!("{:#}\n", json(&members)));
    } else {
        say(&text(&members));
    }
    let is_well = !members.is_empty() && members.iter().all(|seen| seen.problem().is_none());
    Ok(if is_well { Exit::Ok } else { Exit::Pending })
}

/// One line for each member.
fn text(members: &[Seen]) -> String {
    if members.is_empty() {
        return "no member of etcd answers, and this host knows no other master\n".to_owned();
    }
    let mut text = String::new();
    for seen in members {
        let member = &seen.member;
        let vote = if member.learner { "learner" } else { "voter" };
        let _ = write!(
            text,
            "{}  {:x}  {vote}  {}",
            seen.shown(),
            member.id,
            member.peer_urls.join(",")
        );
        if let Ok(state) = &seen.state {
            let leads = if state.leader == Some(state.id) {
                "  leader"
            } else {
                ""
            };
            let _ = write!(
                text,
                "{leads}  etcd {}  index {}  {} bytes",
                state.version, state.raft_index, state.db_size
            );
            for error in &state.errors {
                let _ = write!(text, "  {error}");
            }
        }
        if let Some(problem) = seen.problem() {
            let _ = write!(text, "  does not work: {problem}");
        }
        text.push('\n');
    }
    text
}

fn json(members: &[Seen]) -> serde_json::Value {
    let members = members.iter().map(|seen| {
        let (member, state) = (&seen.member, seen.state.as_ref().ok());
        serde_json::json!({
            "name": member.name,
            "id": format!("{:x}", member.id),
            "voter": !member.learner,
            "peer_urls": member.peer_urls,
            "client_urls": member.client_urls,
            "leader": state.map(|state| state.leader == Some(state.id)),
            "version": state.map(|state| &state.version),
            "raft_index": state.map(|state| state.raft_index),
            "db_size": state.map(|state| state.db_size),
            "errors": state.map(|state| &state.errors),
            "problem": seen.problem(),
        })
    });
    members.collect()
}

#[cfg(test)]
mod tests {
    use engine::host::{EtcdMember, EtcdStatus};

    use super::*;

    #[test]
    fn each_member_has_a_line() {
        let member = |name: &str, learner| EtcdMember {
            id: 0x8e,
            name: name.to_owned(),
            peer_urls: vec!["https://172.30.0.11:2380".to_owned()],
            client_urls: Vec::new(),
            learner,
        };
        let state = EtcdStatus {
            id: 0x8e,
            leader: Some(0x8e),
            raft_index: 7,
            version: "3.4.23".to_owned(),
            ..EtcdStatus::default()
        };
        let members = [
            Seen {
                member: member("m-1", false),
                state: Ok(state),
            },
            Seen {
                member: member("", true),
                state: Err("it has not started yet".to_owned()),
            },
        ];
        let said = text(&members);
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].starts_with("m-1  8e  voter"), "{said}");
        assert!(lines[0].contains("leader  etcd 3.4.23  index 7"), "{said}");
        assert!(lines[1].contains("(not started yet)"), "{said}");
        assert!(lines[1].contains("learner"), "{said}");
        assert!(
            lines[1].ends_with("does not work: it has not started yet"),
            "{said}"
        );
        assert_eq!(json(&members)[1]["voter"], false);
        assert!(text(&[]).contains("no member"));
    }
}
