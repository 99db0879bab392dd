//! The files of nodeletd's state other than the ledger, the kept keys and the previous contents of files: how each is damaged, and what
//! has to be repaired. After a few passes nodeletd has written them again, or goes on without them, and nothing of the role was touched.

use crate::bitrot::{Damage, REPORTED, STATE, TRUNCATED, WORK_DIRECTORY};
use crate::master::Node;
use crate::running_instances::RunningInstances;
use crate::watch::Watch;

/// A copy of [`STATE`] from before any damage.
const BEFORE: &str = "/root/bitrot/nodelet";

/// A file that nodeletd writes again from what it knows.
struct Restored {
    name: &'static str,
    /// A sed expression that makes another valid file of it.
    edit: &'static str,
    /// A text that only the other file has.
    mark: &'static str,
    /// It has neither times nor counters in it, so it is the same as before.
    is_same: bool,
}

const RESTORED: [Restored; 7] = [
    // A list from before this host had its address.
    Restored {
        name: "masters.json",
        edit: r#"s/("address": *")[^"]*/\1192.0.2.99/"#,
        mark: "192.0.2.99",
        is_same: true,
    },
    // A file of another host in another cluster.
    Restored {
        name: "identity.json",
        edit: r#"s/("ledger": *")[^"]*/\100000000-00000000/; s/("CLUSTER_ID": *")[^"]*/\1another/"#,
        mark: "00000000-00000000",
        is_same: true,
    },
    Restored {
        name: "settings.yaml",
        edit: r#"s/^(LOOP_INTERVAL: ).*/\1"7s"/"#,
        mark: "7s",
        is_same: true,
    },
    // A file of another release.
    Restored {
        name: "role.json",
        edit: r#"s/"release":"[^"]*"/"release":"0.0.1"/"#,
        mark: r#""release":"0.0.1""#,
        is_same: true,
    },
    // A pause, with which nothing would be repaired any more.
    Restored {
        name: "nodeletd.json",
        edit: r#"s/("paused_until": *)null/\14102444800/; s/("paused_because": *")/\1of another host/"#,
        mark: "of another host",
        is_same: false,
    },
    // A file of another host, with other inodes.
    Restored {
        name: "digests.json",
        edit: r#"s/"inode":[0-9]+/"inode":1/g"#,
        mark: r#""inode":1,"#,
        is_same: false,
    },
    Restored {
        name: "../kube_status",
        edit: r#"s/("pf9_kube_node_state": *")[^"]*/\1failed/"#,
        mark: r#""failed""#,
        is_same: false,
    },
];
/// Files that say what the ledger contains; the older ones are from before the last run. They are written again, too.
const OF_THE_LEDGER: [&str; 2] = ["ledger.tip", "ledger.backup.jsonl"];

/// A record, which is written again when its event happens again. docs/ledger.md says for each what is missing until then.
fn other_record(name: &str) -> Option<String> {
    let edit = match name {
        // A record of another host.
        "preflight.json" => "s/[0-9a-f]{8}/00000000/g",
        "timer-etcd-backup.json" => r#"s/("last_good": *)[^,]*/\11577836800/"#,
        // A note of another cluster. Hosts have it only with `ETCD_BACKUP_MASTERS` `one`.
        "etcd-backup-left.json" => r#"s/("cluster_id": *")[^"]*/\1another/"#,
        "SHA256SUMS" => "1d",
        // A record of an earlier start of the unit.
        _ if name.starts_with("services/") => r#"s/("invocation": *")[^"]*/\10000/"#,
        _ => return None,
    };
    Some(format!("sed -E '{edit}' {BEFORE}/{name}"))
}

/// The records of this host.
///
/// # Panics
/// A file of the state is damaged by none of the suites.
fn records(master: &Node) -> Vec<String> {
    // A name that begins with a dot is a file that is being written.
    let found = master.sh(&format!(
        "find {STATE} -type f ! -name '.*' -printf '%P\n' | sort"
    ));
    let is_damaged_elsewhere = |name: &str| {
        // No program reads what a recovery has put aside.
        ["ledger.jsonl", "ledger.damaged.jsonl"].contains(&name)
            || OF_THE_LEDGER.contains(&name)
            || RESTORED.iter().any(|its| its.name == name)
            // The first ones belong to the soak of kept files, and the others have a test of their own in the suite `state`.
            || ["kept/", "data-", "content/", "timers/"].iter().any(|folder| name.starts_with(folder))
    };
    let records: Vec<String> = found
        .lines()
        .filter(|name| !is_damaged_elsewhere(name))
        .map(str::to_owned)
        .collect();
    for name in &records {
        assert!(other_record(name).is_some(), "no suite damages {name}");
    }
    assert!(records.len() > 3, "{records:?}");
    records
}

/// The state of the node that nodeletd tells other agents.
#[must_use]
pub fn node_state(master: &Node) -> String {
    master.sh("sed -n 's/.*pf9_kube_node_state\": \"\\(.*\\)\".*/\\1/p' /var/opt/pf9/kube_status")
}

/// The files of a master's nodeletd, with copies from before any damage.
#[derive(Debug)]
pub struct StateFiles<'a> {
    master: &'a Node,
    records: Vec<String>,
    before: RunningInstances,
}

impl<'a> StateFiles<'a> {
    /// Makes a run that changes something, and saves the files from before it, which are older then. The suite's own directory must
    /// exist, and nodeletd must not run.
    pub fn prepare(master: &Node) {
        master.sh(&format!(
            "install -d {WORK_DIRECTORY}/older; cp -p {STATE}/ledger.tip {STATE}/ledger.backup.jsonl {WORK_DIRECTORY}/older
             rm /etc/pf9/kube.d/kubeconfigs/admin.yaml"
        ));
        master.apply(&[]).exits(0);
    }

    /// Saves a copy of the files. nodeletd must run, and find the host as it should be.
    #[must_use]
    pub fn note(master: &'a Node) -> Self {
        // The record of checksums keeps files that only an earlier run has read; a pass writes the others again.
        master.sh(&format!("rm --force {STATE}/digests.json"));
        for (what, name) in [
            ("nodeletd has listed the masters", "masters.json"),
            ("nodeletd has read large files", "digests.json"),
        ] {
            master.wait_for(what, &format!("test -e {STATE}/{name}"), REPORTED);
        }
        master.sh(&format!(
            "cp -a {STATE} {BEFORE}; cp -p {STATE}/../kube_status {WORK_DIRECTORY}"
        ));
        Self {
            master,
            records: records(master),
            before: RunningInstances::of(master),
        }
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        RESTORED
            .iter()
            .map(|its| its.name)
            .chain(OF_THE_LEDGER)
            .map(str::to_owned)
            .chain(self.records.iter().cloned())
            .collect()
    }

    /// A command that prints another valid file of this name.
    fn another(name: &str) -> String {
        if let Some(its) = RESTORED.iter().find(|its| its.name == name) {
            return format!("sed -E '{}' {BEFORE}/{name}", its.edit);
        }
        if OF_THE_LEDGER.contains(&name) {
            return format!("cat {WORK_DIRECTORY}/older/{name}");
        }
        other_record(name).expect("each record has one")
    }

    /// Damages these files at once, and makes a few passes.
    ///
    /// # Panics
    /// One of them is not repaired, or something of the role was touched.
    #[track_caller]
    pub fn damage_and_repair(&self, watch: &Watch<'_>, damage: Damage, names: &[String]) {
        let master = self.master;
        let mut script = String::new();
        for name in &self.records {
            // Restore a record that was not written again since the last damage.
            let (path, saved) = (format!("{STATE}/{name}"), format!("{BEFORE}/{name}"));
            script += &format!("cmp -s {saved} {path} || cp -p {saved} {path}\n");
        }
        for name in names {
            script += &damage.script(&format!("{STATE}/{name}"), &Self::another(name));
            script.push('\n');
        }
        master.sh(&script);
        watch.passes(3, REPORTED);
        watch.wait_until_healthy(REPORTED);
        // nodeletd looks at the masters by a clock of its own.
        let list = format!(
            "cmp -s {STATE}/masters.json {BEFORE}/masters.json && [ $(stat --format %a {STATE}/masters.json) = 600 ]"
        );
        master.wait_for("the list of masters is back", &list, REPORTED);
        let how = match names {
            [name] => format!("{damage:?} {name}"),
            _ => format!("{damage:?}"),
        };
        assert_eq!(RunningInstances::of(master), self.before, "{how}");
        assert_eq!(node_state(master), "ok", "{how}");
        for its in &RESTORED {
            let (name, mark) = (its.name, its.mark);
            let script = format!("grep -qF '{mark}' {STATE}/{name}");
            let found = master.try_sh(&script).status.code();
            assert_eq!(found, Some(1), "{name} {how}: it is still the other file");
            if its.is_same {
                master.sh(&format!("cmp {STATE}/{name} {BEFORE}/{name}"));
            }
        }
        for name in OF_THE_LEDGER {
            master.sh(&format!("cmp {STATE}/{name} {BEFORE}/{name}"));
        }
        for name in names {
            let is = master.try_sh(&format!("stat --format '%s %a %U:%G' {STATE}/{name}"));
            let is_record = self.records.contains(name);
            if !is.status.success() && damage != Damage::Attributes && is_record {
                continue;
            }
            let is = String::from_utf8_lossy(&is.stdout).trim().to_owned();
            let mode = match name.as_str() {
                "../kube_status" => "640",
                _ => "600",
            };
            let is_right = is.ends_with(&format!(" {mode} root:root"));
            // nodeletd writes a status at each pass, and the other files when they differ. Only a record may stay truncated.
            let least = if is_record { 0 } else { TRUNCATED };
            let size = is.split(' ').next().unwrap_or_default();
            let is_long = size.parse::<u64>().is_ok_and(|size| size > least);
            assert!(is_right && is_long, "{name} {how}: {is}");
        }
        // The daemon was not restarted.
        let restarts = master.sh("systemctl show --value --property NRestarts pf9-nodeletd");
        assert_eq!(restarts, "0", "{how}");
    }
}
