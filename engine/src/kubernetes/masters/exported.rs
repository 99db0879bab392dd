//! Which hosts may still become masters: they were sent the keys of the cluster (`nodelet pki export`), their join files are valid, and they have not joined.
//!
//! The masters keep this in one ConfigMap, so each of them counts the hosts that another one has exported the keys to, and no key is replaced while a
//! host may still join with the earlier one. An entry names the host's member of that time, because a host that takes the place of another one has not
//! joined as long as that member is listed.

use std::collections::BTreeMap;
use std::time::SystemTime;

use humantime::{format_rfc3339_seconds, parse_rfc3339};

use crate::host::{ClusterAccess, ConfigMap, Host, HostError, HostResult};
use crate::kubernetes::shown;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "nodelet-exported-keys";
/// What stands for the member of a host that has none.
const NONE: &str = "-";
/// So often the ConfigMap is written again if another client was faster.
const TRIES: usize = 5;

/// What [`note`] has written, and what the entry was before. [`restore`] needs it.
#[derive(Debug, Clone, Copy)]
pub struct Noted {
    earlier: Option<Entry>,
    present: Entry,
}

impl Noted {
    /// Until when the host may join.
    #[must_use]
    pub fn until(&self) -> SystemTime {
        self.present.0
    }
}

/// Notes that the keys were exported to `node`, until `expires`. `member` is the id of the member of etcd that has this name now. Entries that have
/// expired are removed. The later end counts if there are several files for the host.
///
/// # Errors
/// The API server does not answer or refuses, other clients change the ConfigMap all the time, or an entry is damaged.
pub async fn note(
    host: &dyn Host,
    access: &ClusterAccess,
    node: &str,
    member: Option<u64>,
    expires: SystemTime,
) -> HostResult<Noted> {
    let now = host.now();
    let with = |earlier: Option<Entry>| {
        let end = earlier.map_or(expires, |(until, _)| until.max(expires));
        (end, member)
    };
    let before = change(host, access, |all| {
        all.retain(|_, (until, _)| *until > now);
        let entry = with(all.get(node).copied());
        all.insert(node.to_owned(), entry);
    })
    .await?;
    let earlier = before.get(node).copied().filter(|(until, _)| *until > now);
    Ok(Noted {
        earlier,
        present: with(earlier),
    })
}

/// Takes back what [`note`] has written, because the join file is not written: the earlier entry of `node` is there again. An entry that another
/// master has written meanwhile stays.
///
/// # Errors
/// As [`note`].
pub async fn restore(
    host: &dyn Host,
    access: &ClusterAccess,
    node: &str,
    noted: &Noted,
) -> HostResult<()> {
    change(host, access, |all| {
        if all.get(node).map(entry_text) == Some(entry_text(&noted.present)) {
            match noted.earlier {
                Some(earlier) => all.insert(node.to_owned(), earlier),
                None => all.remove(node),
            };
        }
    })
    .await
    .map(drop)
}

/// Forgets that the keys were exported to `node`, which was removed from the cluster with its member `removed`. Fine if they were not. If the new
/// host was to take the place of that member, it has not joined and may still join, so its entry stays until it expires. If the member is not
/// known, an earlier call has removed it, and each entry that names one stays. Returns until when that host may join.
///
/// # Errors
/// As [`note`].
pub async fn forget(
    host: &dyn Host,
    access: &ClusterAccess,
    node: &str,
    removed: Option<u64>,
) -> HostResult<Option<SystemTime>> {
    let now = host.now();
    let may_join = |(until, before): &Entry| {
        let is_replaced = before.is_some() && (removed.is_none() || removed == *before);
        *until > now && is_replaced
    };
    let before = change(host, access, |all| {
        let stays = all.get(node).is_some_and(may_join);
        if !stays {
            all.remove(node);
        }
    })
    .await?;
    let its = before.get(node).filter(|its| may_join(its));
    Ok(its.map(|(until, _)| *until))
}

/// The hosts that may still join, each with the end of its join file. `members` are the names and ids of etcd's members. Cancel safe.
///
/// # Errors
/// The API server does not answer or refuses, or an entry is damaged.
pub async fn awaited(
    host: &dyn Host,
    access: &ClusterAccess,
    members: &[(&str, u64)],
) -> HostResult<BTreeMap<String, SystemTime>> {
    let (all, _) = read(host, access).await?;
    let now = host.now();
    let has_joined = |node: &str, before: Option<u64>| {
        let mut its = members.iter().filter(|(name, _)| *name == node);
        its.any(|(_, id)| Some(*id) != before)
    };
    let open = all.into_iter();
    let open = open.filter(|(node, (until, before))| *until > now && !has_joined(node, *before));
    Ok(open.map(|(node, (until, _))| (node, until)).collect())
}

/// What to do so that a host is not awaited any more.
#[must_use]
pub fn next_step(node: &str) -> String {
    format!(
        "let {node} join first, or wait until its join file has expired; if all copies of that file are removed: `kubectl -n {NAMESPACE} delete configmap {NAME}`"
    )
}

/// The end of the join file, and the host's member at the time of the export.
type Entry = (SystemTime, Option<u64>);
type Exports = BTreeMap<String, Entry>;

/// Changes the entries. Returns those from before.
async fn change(
    host: &dyn Host,
    access: &ClusterAccess,
    change: impl Fn(&mut Exports),
) -> HostResult<Exports> {
    for _ in 0..TRIES {
        let (before, version) = read(host, access).await?;
        let mut all = before.clone();
        change(&mut all);
        if all == before {
            return Ok(before);
        }
        let map = ConfigMap {
            namespace: NAMESPACE.to_owned(),
            name: NAME.to_owned(),
            version,
            data: all
                .iter()
                .map(|(node, its)| (node.clone(), entry_text(its)))
                .collect(),
            ..ConfigMap::default()
        };
        if host.put_config_map(access, &map).await? {
            return Ok(before);
        }
    }
    Err(HostError::service(
        format!("write the ConfigMap {NAMESPACE}/{NAME}"),
        "another client has changed it meanwhile; try again",
    ))
}

/// All entries, and the version of the ConfigMap; empty if there is none.
async fn read(host: &dyn Host, access: &ClusterAccess) -> HostResult<(Exports, String)> {
    let Some(map) = host.config_map(access, NAMESPACE, NAME).await? else {
        return Ok((Exports::new(), String::new()));
    };
    let parse = |text: &str| {
        let (until, member) = text.split_once(' ')?;
        let member = match member {
            NONE => None,
            id => Some(u64::from_str_radix(id, 16).ok()?),
        };
        Some((parse_rfc3339(until).ok()?, member))
    };
    let entries = map.data.iter().map(|(node, text)| {
        let its = parse(text).ok_or_else(|| {
            HostError::refused(
                format!("read the ConfigMap {NAMESPACE}/{NAME}"),
                format!(
                    "the entry {} is damaged; if no host is to join with a file of `nodelet pki export`: `kubectl -n {NAMESPACE} delete configmap {NAME}`",
                    shown(node)
                ),
            )
        });
        its.map(|its| (node.clone(), its))
    });
    Ok((entries.collect::<HostResult<Exports>>()?, map.version))
}

fn entry_text((until, member): &Entry) -> String {
    let member = member.map_or(NONE.to_owned(), |id| format!("{id:x}"));
    format!("{} {member}", format_rfc3339_seconds(*until))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::fake::FaultPlan;
    use crate::host::{Clock as _, ConfigMaps as _};
    use crate::kubernetes::admission::tests::master;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_host_is_awaited_until_it_joins_or_its_file_expires() {
        let (host, access) = master();
        let names = async |members: &[(&str, u64)]| -> Vec<String> {
            let open = awaited(&host, &access, members).await;
            open.expect("it answers").into_keys().collect()
        };
        assert!(names(&[]).await.is_empty());
        let now = host.now();
        let noted = note(&host, &access, "m-2", None, now + HOUR).await;
        noted.expect("it answers");
        // It takes the place of the member 7.
        let noted = note(&host, &access, "m-3", Some(7), now + HOUR).await;
        noted.expect("it answers");
        let noted = note(&host, &access, "m-4", None, now).await;
        noted.expect("it answers");
        assert_eq!(names(&[]).await, ["m-2", "m-3"], "one has expired");
        assert_eq!(names(&[("m-2", 5), ("m-3", 7)]).await, ["m-3"]);
        assert!(names(&[("m-2", 5), ("m-3", 8)]).await.is_empty());
        // An earlier file of the host is valid for longer.
        let noted = note(&host, &access, "m-2", None, now + HOUR / 2).await;
        noted.expect("it answers");
        let open = awaited(&host, &access, &[]).await.expect("it answers");
        assert_eq!(open["m-2"], now + HOUR);
        for _ in 0..2 {
            let forgotten = forget(&host, &access, "m-2", None).await;
            forgotten.expect("it answers");
            assert_eq!(names(&[]).await, ["m-3"]);
        }
    }

    #[tokio::test]
    async fn a_removal_keeps_the_host_that_takes_the_place_of_the_removed_member() {
        for (before, removed, stays) in [
            (Some(7), Some(7), true),
            // An earlier call has removed the member.
            (Some(7), None, true),
            // It has joined since, and is removed.
            (Some(7), Some(8), false),
            (None, Some(8), false),
            (None, None, false),
        ] {
            let (host, access) = master();
            let noted = note(&host, &access, "m-3", before, host.now() + HOUR).await;
            noted.expect("it answers");
            let until = forget(&host, &access, "m-3", removed).await;
            assert_eq!(until.expect("it answers").is_some(), stays);
            let open = awaited(&host, &access, &[]).await.expect("it answers");
            assert_eq!(open.contains_key("m-3"), stays, "{before:?} {removed:?}");
        }
    }

    #[tokio::test]
    async fn a_note_is_taken_back_unless_another_master_has_changed_the_entry() {
        let (host, access) = master();
        let until = async || {
            let open = awaited(&host, &access, &[]).await.expect("it answers");
            open.get("m-2").copied()
        };
        let now = host.now();
        let end = async |hours: u32| {
            let noted = note(&host, &access, "m-2", None, now + HOUR * hours).await;
            noted.expect("it answers")
        };
        let first = end(1).await;
        let second = end(2).await;
        let restored = restore(&host, &access, "m-2", &first).await;
        restored.expect("it answers");
        assert_eq!(until().await, Some(now + HOUR * 2), "it is of the second");
        let restored = restore(&host, &access, "m-2", &second).await;
        restored.expect("it answers");
        assert_eq!(until().await, Some(now + HOUR));
        let restored = restore(&host, &access, "m-2", &first).await;
        restored.expect("it answers");
        assert_eq!(until().await, None);
    }

    #[tokio::test]
    async fn a_damaged_entry_or_a_silent_api_server_is_no_permission() {
        let (host, access) = master();
        let data = [("m-2".to_owned(), "soon".to_owned())].into();
        let map = ConfigMap {
            namespace: NAMESPACE.to_owned(),
            name: NAME.to_owned(),
            data,
            ..ConfigMap::default()
        };
        assert!(
            host.put_config_map(&access, &map)
                .await
                .expect("it answers")
        );
        let refused = awaited(&host, &access, &[]).await.expect_err("damaged");
        let text = crate::model::chain(&refused).join(": ");
        assert!(text.contains("m-2") && text.contains(NAME), "{text}");
        host.set_faults(FaultPlan::none().fail("config_map", "*"));
        awaited(&host, &access, &[])
            .await
            .expect_err("it is silent");
    }
}
