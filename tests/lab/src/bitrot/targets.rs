//! Files that nodeletd cannot repair: the files of the installed role. Each of them has to be reported by name.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::{Damage, REPORTED, ROLE, WORK_DIRECTORY};
use crate::master::Node;
use crate::watch::Watch;

/// The files that describe the package; while one of them is damaged, other damage may not be seen.
const DESCRIPTIONS: [&str; 2] = ["role.yaml", "SHA256SUMS"];
/// The directory with files that take the place of files of the payload.
const OTHERS: &str = "/root/bitrot/others";

/// A file that nodeletd cannot repair.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its path.
    pub path: String,
    /// Prints another valid file of the same kind.
    pub another: String,
    /// The report contains one of these.
    pub words: Vec<String>,
}

impl Target {
    /// A file of the installed role, by its path in it. It is reported by this path.
    #[must_use]
    pub fn of_role(file: &str, another: &str) -> Self {
        Self {
            path: format!("{ROLE}/{file}"),
            another: another.to_owned(),
            words: vec![file.to_owned()],
        }
    }

    /// All scripts and templates of the installed role. Each of them is replaced by itself with one line more.
    ///
    /// # Panics
    /// The role has a file of another kind, or fewer files than it should have.
    #[must_use]
    pub fn texts(master: &Node) -> Vec<Self> {
        let found = master.sh(&format!(
            "cd {ROLE}; find . -path ./payload -prune -o -type f -printf '%P\\n' | sort"
        ));
        let texts = found.lines().filter(|file| !DESCRIPTIONS.contains(file));
        let texts: Vec<Self> = texts
            .map(|file| {
                assert!(file.starts_with("phases/"), "no suite damages {file}");
                let path = format!("{ROLE}/{file}");
                Self::of_role(file, &format!("sed '1i // One line more.' {path}"))
            })
            .collect();
        let scripts = texts.iter().filter(|one| one.path.ends_with(".rhai"));
        assert!(scripts.count() > 20 && texts.len() > 30, "{texts:?}");
        texts
    }

    fn is_reported(&self, view: &Value) -> bool {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        is_reported(view, &words)
    }
}

/// Whether a condition, of nodeletd or of a phase, is False for a reason with one of these words.
#[must_use]
pub fn is_reported(view: &Value, words: &[&str]) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut conditions = list(&view["conditions"]);
    for phase in list(&view["phases"]) {
        conditions.extend(list(&phase["conditions"]));
    }
    conditions.iter().any(|one| {
        let reason = one["reason"].as_str().unwrap_or_default();
        one["status"] == "False" && words.iter().any(|word| reason.contains(word))
    })
}

/// Waits until a report has one of these words, in more than one pass. The state of the node is not `ok` then.
#[track_caller]
pub fn until_reported(watch: &Watch<'_>, what: &str, words: &[&str]) {
    watch.until(&format!("{what}: it is reported by name"), REPORTED, || {
        watch.view().is_some_and(|view| is_reported(&view, words))
    });
    watch.passes(2, REPORTED);
    let view = watch.view().unwrap_or_default();
    assert!(is_reported(&view, words), "{what}: {view:#}");
    assert_ne!(view["node_state"], "ok", "{what}: {view:#}");
}

/// Damages all these files at once. A file is restored when two passes have reported it by name, so that files that it hides are
/// reported next. Calls `meanwhile` when the first file is reported.
#[track_caller]
pub fn are_reported(
    master: &Node,
    watch: &Watch<'_>,
    damage: Damage,
    targets: &[Target],
    mut meanwhile: impl FnMut(),
) {
    let saved = format!("{WORK_DIRECTORY}/saved");
    let mut script = format!("rm -rf {saved}; install -d -m 0700 {saved}\n");
    for (index, target) in targets.iter().enumerate() {
        let _ = writeln!(script, "cp -p {} {saved}/{index}", target.path);
    }
    for target in targets {
        let _ = writeln!(script, "{}", damage.script(&target.path, &target.another));
    }
    master.sh(&script);
    let mut left: Vec<(usize, &Target)> = targets.iter().enumerate().collect();
    let mut rounds = 0;
    while !left.is_empty() {
        // A pass that saw half of the damage may report another file than the next one.
        assert!(
            rounds < 2 * targets.len() + 2,
            "no two passes report these: {left:?}"
        );
        let names: Vec<&str> = left.iter().map(|(_, one)| one.path.as_str()).collect();
        let what = format!("{damage:?} {}", names.join(" "));
        let mut seen = BTreeSet::new();
        watch.until(
            &format!("{what}: one is reported by name"),
            REPORTED,
            || {
                let view = watch.view().unwrap_or_default();
                let reported = left.iter().filter(|(_, one)| one.is_reported(&view));
                seen = reported.map(|(index, _)| *index).collect();
                !seen.is_empty()
            },
        );
        if rounds == 0 {
            meanwhile();
        }
        rounds += 1;
        // The next pass must report it as well.
        watch.passes(1, REPORTED);
        let view = watch.view().unwrap_or_default();
        assert_ne!(view["node_state"], "ok", "{what}: {view:#}");
        let mut script = String::new();
        left.retain(|(index, one)| {
            let is_twice = seen.contains(index) && one.is_reported(&view);
            if is_twice {
                // A program that runs cannot be written to.
                let _ = writeln!(script, "rm -f {0}; cp -p {saved}/{index} {0}", one.path);
            }
            !is_twice
        });
        master.sh(&script);
    }
}

/// A copy of the role's payload, mounted over the lab's own, which is shared with other hosts. It is removed when this value is
/// dropped.
#[derive(Debug)]
pub struct PayloadCopy<'a> {
    master: &'a Node,
}

impl<'a> PayloadCopy<'a> {
    /// Puts the copy in place.
    #[must_use]
    pub fn mount(master: &'a Node) -> Self {
        master.sh(&format!(
            "cp -a {ROLE}/payload {WORK_DIRECTORY}/payload
             install -d {OTHERS}
             cd {WORK_DIRECTORY}/payload
             cp -p bin/* images/pause.tar images/kube-scheduler.tar debs/socat* debs/conntrack* debs/ipset.list {OTHERS}
             mount --bind {WORK_DIRECTORY}/payload {ROLE}/payload"
        ));
        Self { master }
    }

    /// The files that the package names, by their paths in the payload.
    ///
    /// # Panics
    /// A file of the payload has no checksum in the package.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let found = self.master.sh(&format!(
            "cd {ROLE}/payload; find . -type f -printf '%P\\n' | sort"
        ));
        let named = self.master.sh(&format!(
            "sed -n 's|^[0-9a-f]*  payload/||p' {ROLE}/SHA256SUMS"
        ));
        let named: BTreeSet<&str> = named.lines().collect();
        let files: Vec<String> = found
            .lines()
            // The lab's own list, from which it makes the checksums; it is part of no package.
            .filter(|name| *name != "manifest.json")
            .map(str::to_owned)
            .collect();
        for file in &files {
            assert!(named.contains(file.as_str()), "{file} has no checksum");
        }
        files
    }

    /// A file of the payload, by its path in it, to be replaced by another of its kind.
    ///
    /// # Panics
    /// It is of an unknown kind.
    #[must_use]
    pub fn target(&self, file: &str) -> Target {
        let (directory, name) = file.split_once('/').unwrap_or(("", file));
        let other = match (directory, name.rsplit_once('.')) {
            ("bin", _) if name == "kubelet" => "kubectl",
            ("bin", _) => "kubelet",
            ("images", Some(("pause", "tar"))) => "kube-scheduler.tar",
            ("images", Some((_, "tar"))) => "pause.tar",
            ("debs", Some((_, "deb"))) if name.starts_with("socat_") => "conntrack_*.deb",
            ("debs", Some((_, "deb"))) => "socat_*.deb",
            ("debs", Some(("ipset", "list"))) => "socat.list",
            ("debs", Some((_, "list"))) => "ipset.list",
            _ => panic!("{file} is of an unknown kind: damage it as well, or say why not"),
        };
        let another = format!("cat {OTHERS}/{other}");
        Target::of_role(&format!("payload/{file}"), &another)
    }
}

impl Drop for PayloadCopy<'_> {
    fn drop(&mut self) {
        // A pass may be reading it at this moment.
        let _ = self.master.try_sh(&format!(
            "umount --lazy {ROLE}/payload; rm -rf {WORK_DIRECTORY}/payload"
        ));
    }
}
