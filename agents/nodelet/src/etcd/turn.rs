//! Whose turn a backup is if `ETCD_BACKUP_MASTERS` is `one`.
//!
//! A master whose turn it is not leaves the backup to another one while the last backup of that one is young, and notes that on disk, so that
//! nothing reports a missing backup here (`left`). Before that backup is too old, it asks again (`must_ask_again`). The decision is in the
//! engine (`kubernetes::etcd_backup`).

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use engine::exec::{backup_left, etcd_members};
use engine::host::{Attributes, ClusterAccess, Host};
use engine::kubernetes::etcd_backup::{
    BACKUP_LEFT, LeftBackup, is_younger_than, last_published, left_to, left_while_younger_than,
    publish, withdraw,
};
use engine::model::chain;

use super::client::api::MEMBER;
use super::quorum::require_quorum;
use super::settings::{BackupMasters, Backups};

/// Bound on publishing a backup. A command that wants to change the host waits only 30 s for a backup to end.
const PUBLISHED: Duration = Duration::from_secs(15);
/// Bound on giving up the turn. It is shorter, because systemd ends a process that does not stop.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// The note that another master takes the backup; `None` if this host takes it. That is so if it is this host's turn, and if it is not known that the
/// last backup of the other master is young. Changes nothing. Cancel safe.
///
/// # Errors
/// One master is to take the backup, and this host's member does not answer or has no quorum.
pub(crate) async fn other_master(
    host: &dyn Host,
    access: &ClusterAccess,
    backups: &Backups,
) -> Result<Option<LeftBackup>> {
    match backups.masters {
        BackupMasters::All => return Ok(None),
        BackupMasters::One => {}
    }
    let action = "find out whose turn the backup is";
    require_quorum(action, host).await?;
    let own = host.member_status(MEMBER).await;
    let own = own.context("ask this host's member of etcd whose turn the backup is")?;
    let members = etcd_members(host).await;
    let members = members.context(action)?;
    let Some(master) = left_to(own.id, &members) else {
        return Ok(None);
    };
    let limit = left_while_younger_than(backups.max_age);
    match last_published(host, access, &master).await {
        Ok(Some(taken)) if is_younger_than(taken, host.now(), limit) => {
            Ok(Some(LeftBackup::new(taken, &master, &backups.cluster_id)))
        }
        Ok(Some(_) | None) => {
            tracing::warn!(
                "master {master} has no young backup (`nodelet etcd status` there): this host takes one"
            );
            Ok(None)
        }
        Err(error) => {
            let why = chain(&error).join(": ");
            tracing::warn!(
                "this host takes a backup: could not ask for the last one of master {master}: {why}"
            );
            Ok(None)
        }
    }
}

/// Publishes for the other masters when this host has taken a verified backup. If each master takes its own, only `nodelet cluster status`
/// reads it. After a change to one master, the time is still true.
///
/// # Errors
/// etcd or the API server does not answer within 15 s. If one master takes the backups, the other masters then take theirs.
///
/// # Cancel safety
/// The earlier time or the new one is published.
pub(crate) async fn publish_taken(
    host: &dyn Host,
    access: &ClusterAccess,
    backups: &Backups,
    taken: SystemTime,
) -> Result<()> {
    let action = match backups.masters {
        BackupMasters::All => {
            "publish the time of the backup; `nodelet cluster status` on the other masters shows an earlier one"
        }
        BackupMasters::One => "publish the time of the backup; the other masters take their own",
    };
    let work = async {
        publish(host, access, &own_node(host).await?, taken).await?;
        anyhow::Ok(())
    };
    let done = tokio::time::timeout(PUBLISHED, work).await;
    done.context(action)?.context(action)
}

/// Gives up the turn when this host was asked to end its backup: withdraws the time of its last one, so that a master that asks from now on takes
/// the backup, and does not wait until that one is too old. Does nothing if each master takes its own: then no other master waits for it.
///
/// # Errors
/// etcd or the API server does not answer within 5 s. The other masters then wait.
///
/// # Cancel safety
/// The time is published or not.
pub(crate) async fn give_up(
    host: &dyn Host,
    access: &ClusterAccess,
    backups: &Backups,
) -> Result<()> {
    let action = "give up the turn of the backup; another master takes one before the last one is too old (`nodelet etcd status` there)";
    match backups.masters {
        BackupMasters::All => return Ok(()),
        BackupMasters::One => {}
    }
    let work = async {
        withdraw(host, access, &own_node(host).await?).await?;
        anyhow::Ok(())
    };
    let done = tokio::time::timeout(GIVEN_UP, work).await;
    done.context(action)?.context(action)
}

/// The name of this host's node: that of its member.
async fn own_node(host: &dyn Host) -> Result<String> {
    let own = host.member_status(MEMBER).await?;
    let members = etcd_members(host).await?;
    let is_own = |id: u64| id != 0 && id == own.id;
    let own = members.into_iter().find(|seen| is_own(seen.member.id));
    Ok(own.context("find this host's member")?.member.name)
}

/// Notes that the backup was left to another master.
///
/// # Errors
/// The note cannot be written.
///
/// # Cancel safety
/// The earlier note or the new one is there.
pub(crate) async fn note_left(host: &dyn Host, note: &LeftBackup) -> Result<()> {
    let content = serde_json::to_vec(note)?;
    host.write(Path::new(BACKUP_LEFT), &content, Attributes::root(0o600))
        .await
        .context("note that another master takes the backup")
}

/// Removes the note: this host has taken a backup. Cancel safe.
///
/// # Errors
/// It cannot be removed.
pub(crate) async fn forget_left(host: &dyn Host) -> Result<()> {
    let path = Path::new(BACKUP_LEFT);
    let action = "remove the note that another master takes the backups";
    if host.entry(path).await.context(action)?.is_some() {
        host.remove(path).await.context(action)?;
    }
    Ok(())
}

/// The backup that this host has left to another master, if the last one of that master was younger than `ETCD_BACKUP_MAX_AGE` until now, and the
/// setting is still `one`. Cancel safe.
pub(crate) async fn left(host: &dyn Host, backups: &Backups) -> Option<LeftBackup> {
    match backups.masters {
        BackupMasters::All => None,
        BackupMasters::One => backup_left(host, &backups.cluster_id, backups.max_age).await,
    }
}

/// Whether this host has left its backup to another master, and the last one of that master is soon too old, as far as this host knows. Cancel
/// safe.
pub(crate) async fn must_ask_again(host: &dyn Host, backups: &Backups) -> bool {
    let within = async |limit: Duration| backup_left(host, &backups.cluster_id, limit).await;
    match backups.masters {
        BackupMasters::All => false,
        BackupMasters::One => {
            let limit = left_while_younger_than(backups.max_age);
            within(Duration::MAX).await.is_some() && within(limit).await.is_none()
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::host::fake::FakeHost;
    use engine::host::{Clock as _, ClusterNode};
    use engine::kubernetes::MASTER_LABEL;

    use super::*;

    const KUBECONFIG: &str = "/etc/kubeconfig";
    const HOUR: Duration = Duration::from_secs(3600);

    fn backups(masters: BackupMasters) -> Backups {
        Backups {
            enabled: true,
            masters,
            schedule: "@daily".to_owned(),
            directory: "/b".into(),
            count: 3,
            keep: Duration::from_secs(7 * 86_400),
            max_age: Duration::from_secs(86_400),
            image: "etcd:3".to_owned(),
            cluster_id: "lab".to_owned(),
        }
    }

    fn access() -> ClusterAccess {
        ClusterAccess::with(Path::new(KUBECONFIG))
    }

    /// The master with this number among three that work; the leader is the first. None has taken a backup.
    fn bare_master(number: u64) -> FakeHost {
        let host = FakeHost::new()
            .with_file(KUBECONFIG, "")
            .with_directory("/var/opt/pf9/nodelet")
            .with_kubernetes(|rules| rules.remote_api = true);
        host.with_world_mut(|world| {
            for id in 1..=3 {
                let label = (MASTER_LABEL.to_owned(), String::new());
                let node = ClusterNode {
                    labels: [label].into(),
                    ..ClusterNode::default()
                };
                world.node(&format!("m-{id}"), node);
                world
                    .etcd
                    .voter(&format!("m-{id}"), &format!("172.30.0.1{id}"), id);
            }
        });
        become_master(&host, number);
        host
    }

    /// The member of the master with this number answers as this host's own.
    fn become_master(host: &FakeHost, number: u64) {
        host.with_world_mut(|world| {
            let own = world.etcd.states[&format!("https://172.30.0.1{number}:4001")].clone();
            world.etcd.states.insert(MEMBER.to_owned(), own);
        });
    }

    /// The same after each master has taken a backup.
    async fn master(number: u64) -> FakeHost {
        let host = bare_master(number);
        for id in 1..=3 {
            let published = publish(&host, &access(), &format!("m-{id}"), host.now()).await;
            published.expect("it is published");
        }
        host
    }

    /// The other master that takes the backup; empty if this host takes it.
    async fn turn(host: &FakeHost, masters: BackupMasters) -> String {
        let other = other_master(host, &access(), &backups(masters)).await;
        let other = other.expect("it is known");
        other.map(|left| left.master).unwrap_or_default()
    }

    #[tokio::test]
    async fn one_master_takes_the_backup_and_the_next_one_if_it_is_down() {
        let turns = async |down: Option<&str>| {
            let mut turns = Vec::new();
            for number in 1..=3 {
                let host = master(number).await;
                host.with_world_mut(|world| {
                    down.into_iter().for_each(|down| world.etcd.silence(down))
                });
                turns.push(turn(&host, BackupMasters::One).await);
            }
            turns
        };
        assert_eq!(turns(None).await, ["", "m-1", "m-1"]);
        let without_first = turns(Some("172.30.0.11")).await;
        assert_eq!(without_first[1..], ["", "m-2"]);
        assert_eq!(turn(&master(3).await, BackupMasters::All).await, "");
    }

    /// A member that works says nothing about backups.
    #[tokio::test]
    async fn a_backup_is_left_only_to_a_master_that_takes_backups() {
        let one = BackupMasters::One;
        let host = bare_master(2);
        assert_eq!(turn(&host, one).await, "", "it has never taken one");
        let host = master(2).await;
        host.with_world_mut(|world| world.advance(23 * HOUR));
        assert_eq!(turn(&host, one).await, "m-1", "its last one is young");
        host.with_world_mut(|world| world.advance(HOUR / 2));
        assert_eq!(turn(&host, one).await, "", "its last one is soon too old");
        let host = master(2).await;
        host.with_world_mut(|world| world.remove(KUBECONFIG));
        assert_eq!(turn(&host, one).await, "", "the API server cannot be asked");
    }

    #[tokio::test]
    async fn a_master_publishes_its_backup_for_the_others() {
        let host = bare_master(1);
        let of_first = async || {
            last_published(&host, &access(), "m-1")
                .await
                .expect("it answers")
        };
        let taken = SystemTime::UNIX_EPOCH + 1000 * HOUR;
        let publish =
            async |masters, taken| publish_taken(&host, &access(), &backups(masters), taken).await;
        for (masters, taken) in [
            (BackupMasters::All, taken),
            (BackupMasters::One, taken + HOUR),
        ] {
            publish(masters, taken).await.expect("it is published");
            assert_eq!(of_first().await, Some(taken), "{masters:?}");
        }
        host.with_world_mut(|world| world.remove(KUBECONFIG));
        for (masters, says) in [
            (BackupMasters::All, "`nodelet cluster status`"),
            (BackupMasters::One, "take their own"),
        ] {
            let failed = publish(masters, taken).await;
            let failed = failed.expect_err("the API server cannot be asked");
            assert!(failed.to_string().contains(says), "{failed:#}");
        }
    }

    /// What a master has published while each took its own is a true time of a verified backup.
    #[tokio::test]
    async fn after_a_change_to_one_master_the_published_backups_count() {
        let (all, one) = (BackupMasters::All, BackupMasters::One);
        let host = bare_master(2);
        let as_master = |number| become_master(&host, number);
        as_master(1);
        let done = publish_taken(&host, &access(), &backups(all), host.now()).await;
        done.expect("it is published");
        as_master(2);
        assert_eq!(turn(&host, all).await, "", "each takes its own");
        assert_eq!(turn(&host, one).await, "m-1", "its last one is young");
    }

    #[tokio::test]
    async fn a_master_that_was_asked_to_end_its_backup_gives_up_its_turn() {
        let one = BackupMasters::One;
        let give_up =
            async |host: &FakeHost, masters| give_up(host, &access(), &backups(masters)).await;
        // What the second master asks is the same API server.
        let host = master(2).await;
        let as_master = |number| become_master(&host, number);
        as_master(1);
        let done = give_up(&host, BackupMasters::All).await;
        done.expect("there is nothing to do");
        as_master(2);
        assert_eq!(turn(&host, one).await, "m-1", "each takes its own");
        as_master(1);
        give_up(&host, one).await.expect("it is withdrawn");
        as_master(2);
        assert_eq!(turn(&host, one).await, "", "the second one takes it");
        let taken = publish(&host, &access(), "m-1", host.now()).await;
        taken.expect("it is published");
        assert_eq!(turn(&host, one).await, "m-1", "it has taken one again");
        host.with_world_mut(|world| world.remove(KUBECONFIG));
        let failed = give_up(&host, one).await.expect_err("nothing answers");
        assert!(failed.to_string().contains("give up the turn"), "{failed}");
    }

    #[tokio::test]
    async fn a_member_without_quorum_takes_no_backup_and_leaves_none() {
        let host = bare_master(1);
        host.with_world_mut(|world| {
            let own = world.etcd.states.get_mut(MEMBER);
            own.expect("it answers").leader = None;
        });
        let refused = other_master(&host, &access(), &backups(BackupMasters::One)).await;
        let refused = refused.expect_err("it knows no leader").to_string();
        assert!(refused.contains("no quorum"), "{refused}");
    }

    #[tokio::test]
    async fn the_note_counts_until_this_host_takes_a_backup() {
        let (host, one) = (bare_master(2), backups(BackupMasters::One));
        assert_eq!(left(&host, &one).await, None);
        let note = LeftBackup::new(host.now(), "m-1", "lab");
        note_left(&host, &note).await.expect("it is noted");
        let master = left(&host, &one).await.map(|left| left.master);
        assert_eq!(master.as_deref(), Some("m-1"));
        assert_eq!(left(&host, &backups(BackupMasters::All)).await, None);
        forget_left(&host).await.expect("it is removed");
        assert_eq!(left(&host, &one).await, None);
        forget_left(&host).await.expect("nothing is there");
    }
}
