//! Which masters a host knows.
//!
//! nodeletd copies them from the members of etcd, and looks every ten seconds.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command;
use crate::topology::host::Host;

/// The list on a master.
const MASTERS: &str = "/var/opt/pf9/nodelet/masters.json";
/// How long nodeletd may take to see a change, also on a busy machine.
const SEEN: Duration = Duration::from_secs(90);

#[derive(Deserialize)]
struct List {
    masters: Vec<Master>,
}

/// A master in the list, or a member of etcd as `nodelet etcd members` shows it.
#[derive(Deserialize)]
struct Master {
    name: String,
}

/// Waits until the host knows exactly the masters with these names of nodes: not earlier may another one join. Otherwise, the new one
/// would take some of the masters for strangers.
///
/// # Errors
/// It does not know them in time, for example because nodeletd does not run there.
pub fn wait_for_masters(host: &Host, names: &BTreeSet<String>) -> Result<()> {
    let mut last = String::new();
    command::poll(SEEN, || {
        match known(host) {
            Ok(known) if is_all(&known, names) => return Some(()),
            Ok(known) => last = joined(&known),
            Err(error) => last = format!("{error:#}"),
        }
        None
    })
    .with_context(|| {
        format!(
            "after {} s the host `{}` does not know that the masters are {}: {last}",
            SEEN.as_secs(),
            host.name(),
            joined(names)
        )
    })
}

/// Whether etcd has no member of this name, as the host sees it. False if it cannot be known.
pub fn without_member(host: &Host, name: &str) -> bool {
    // The exit code says whether all members work, which is another question.
    let output = host.exec(&["nodelet", "etcd", "members", "--json"]);
    output.is_ok_and(|output| is_without(&output.stdout, name))
}

fn is_without(list: &[u8], name: &str) -> bool {
    let members: Result<Vec<Master>, _> = serde_json::from_slice(list);
    // One that has not started yet has no name, and may be the one.
    members.is_ok_and(|all| {
        let mut names = all.iter().map(|member| member.name.as_str());
        !all.is_empty() && names.all(|one| one != name && !one.is_empty())
    })
}

/// A host without a list is the only master.
fn is_all(known: &BTreeSet<String>, names: &BTreeSet<String>) -> bool {
    known == names || (known.is_empty() && names.len() == 1)
}

fn known(host: &Host) -> Result<BTreeSet<String>> {
    if !host.exec(&["test", "-e", MASTERS])?.status.success() {
        return Ok(BTreeSet::new());
    }
    parse(&host.get(MASTERS)?)
}

fn parse(content: &[u8]) -> Result<BTreeSet<String>> {
    let list: List =
        serde_json::from_slice(content).with_context(|| format!("cannot understand {MASTERS}"))?;
    Ok(list.masters.into_iter().map(|master| master.name).collect())
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().cloned().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_list_of_a_master_is_read_by_names() {
        let content = br#"{"version":1,"masters":[{"name":"master-1","address":"172.30.1.11","voter":true},{"name":"master-2","address":"172.30.1.12","etcd_id":"8e","voter":false}]}"#;
        let known = parse(content).expect("a list");
        assert_eq!(known, names(&["master-1", "master-2"]));
        parse(b"{").expect_err("it is damaged");
        assert!(is_all(&known, &names(&["master-1", "master-2"])));
        for others in [
            &["master-1"][..],
            &["master-1", "master-2", "master-3"],
            &["master-1", "master-3"],
        ] {
            assert!(!is_all(&known, &names(others)), "{others:?}");
        }
    }

    #[test]
    fn a_host_without_a_list_is_the_only_master() {
        assert!(is_all(&names(&[]), &names(&["master-1"])));
        assert!(!is_all(&names(&[]), &names(&["master-1", "master-2"])));
    }

    #[test]
    fn only_a_complete_list_says_that_a_host_is_no_member() {
        let list = br#"[{"name":"master-1","voter":true},{"name":"master-2","voter":true}]"#;
        assert!(is_without(list, "master-3"));
        assert!(!is_without(list, "master-2"));
        assert!(!is_without(
            br#"[{"name":"master-1"},{"name":""}]"#,
            "master-3"
        ));
        for unknown in [&b"[]"[..], b"", b"error"] {
            assert!(!is_without(unknown, "master-3"), "{unknown:?}");
        }
    }
}
