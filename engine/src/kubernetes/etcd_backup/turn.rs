//! Which master takes a backup if only one of them takes it, and what the others note when they leave it to that one. Pure.
//!
//! It is the working voter with the lowest id. Ids do not change, so all backups are on one host while it works, and members that agree
//! about who works agree about the turn without a message. The leader would move with each election. Whether that one takes its backups is in
//! `published`.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::published::is_younger_than;
use crate::kubernetes::etcd_members::Seen;

/// The note of a master that has left the last backup to another one (mode 0600).
pub const BACKUP_LEFT: &str = "/var/opt/pf9/nodelet/etcd-backup-left.json";
/// Maximum size of the note in bytes.
pub const BACKUP_LEFT_LIMIT: u64 = 4096;
/// The version of its format. A note of another version does not count.
const VERSION: u32 = 1;

/// The name of the other master whose turn it is; `None` if it is this host's. `own` is the id of this host's member, which has answered and
/// knows a leader. Learners take no backups.
#[must_use]
pub fn left_to(own: u64, members: &[Seen]) -> Option<String> {
    let working = members.iter().filter(|seen| {
        let member = &seen.member;
        // A list from the file of masters may lack ids (0).
        !member.learner && member.id != 0 && (member.id == own || seen.problem().is_none())
    });
    let first = working.min_by_key(|seen| seen.member.id)?;
    (first.member.id != own).then(|| first.shown())
}

/// A backup that was left to another master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftBackup {
    version: u32,
    /// When that master took its last backup, in RFC 3339, UTC.
    at: String,
    /// The name of that master.
    pub master: String,
    /// `CLUSTER_ID` of this host at that time.
    cluster_id: String,
}

impl LeftBackup {
    /// The note that a backup was left to `master`, which took its last one at this time.
    #[must_use]
    pub fn new(at: SystemTime, master: &str, cluster_id: &str) -> Self {
        Self {
            version: VERSION,
            at: humantime::format_rfc3339_seconds(at).to_string(),
            master: master.to_owned(),
            cluster_id: cluster_id.to_owned(),
        }
    }

    /// The note with this content, if the backup of the other master is younger than `limit`. The note does not count if it is damaged, of another
    /// cluster, as old as `limit`, or more than an hour in the future.
    #[must_use]
    pub fn recent(
        content: &[u8],
        cluster_id: &str,
        now: SystemTime,
        limit: Duration,
    ) -> Option<Self> {
        let note: Self = serde_json::from_slice(content).ok()?;
        let at = humantime::parse_rfc3339(&note.at).ok()?;
        let is_recent = is_younger_than(at, now, limit);
        let is_ours = note.version == VERSION && note.cluster_id.eq_ignore_ascii_case(cluster_id);
        (is_ours && is_recent).then_some(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{EtcdMember, EtcdStatus};

    /// A voter with this id that works.
    fn works(id: u64) -> Seen {
        Seen {
            member: EtcdMember {
                id,
                name: format!("m-{id}"),
                peer_urls: Vec::new(),
                client_urls: Vec::new(),
                learner: false,
            },
            state: Ok(EtcdStatus {
                id,
                leader: Some(2),
                ..EtcdStatus::default()
            }),
        }
    }

    fn down(id: u64) -> Seen {
        Seen {
            state: Err("no answer".to_owned()),
            ..works(id)
        }
    }

    fn learner(id: u64) -> Seen {
        let mut seen = works(id);
        seen.member.learner = true;
        seen
    }

    #[test]
    fn exactly_one_working_master_takes_the_backup() {
        for (members, whose) in [
            (vec![works(3), works(1), works(2)], 1),
            (vec![works(3), down(1), works(2)], 2),
            (vec![works(3), down(1), down(2)], 3),
            (vec![learner(1), works(2), works(3)], 2),
            (vec![works(7)], 7),
        ] {
            let working = members.iter().filter(|seen| seen.problem().is_none());
            for own in working.map(|seen| seen.member.id) {
                let left = left_to(own, &members);
                let other = (own != whose).then(|| format!("m-{whose}"));
                assert_eq!(left, other, "{own} of {members:?}");
            }
        }
        // The ids are not known, so that no backup is left out.
        assert_eq!(left_to(3, &[works(0), works(0)]), None);
    }

    #[test]
    fn a_note_counts_for_its_cluster_while_it_is_young() {
        const HOUR: Duration = Duration::from_secs(3600);
        let at = SystemTime::UNIX_EPOCH + 1000 * HOUR;
        let note = LeftBackup::new(at, "m-1", "Lab");
        let content = serde_json::to_vec(&note).expect("JSON");
        let counts = |cluster: &str, now: SystemTime| {
            LeftBackup::recent(&content, cluster, now, 26 * HOUR).is_some()
        };
        assert!(counts("lab", at + 25 * HOUR));
        assert!(!counts("lab", at + 26 * HOUR), "it is too old");
        assert!(!counts("other", at), "it is of another cluster");
        assert!(counts("lab", at - HOUR), "the clock was a little ahead");
        assert!(!counts("lab", at - 27 * HOUR), "the clock was wrong");
        let newer = String::from_utf8(content.clone()).expect("text");
        let newer = newer.replace("\"version\":1", "\"version\":2");
        for damaged in ["{", "", newer.as_str()] {
            let note = LeftBackup::recent(damaged.as_bytes(), "lab", at, HOUR);
            assert_eq!(note, None, "{damaged}");
        }
    }
}
