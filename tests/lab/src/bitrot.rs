//! Files of a running master that are damaged, and what has to follow: a repair that restarts exactly the readers of the file, or a
//! report that names it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use engine::exec::Event;
use serde_json::Value;

use crate::master::Master;
use crate::watch::{Watch, restarted};

/// The installed role.
pub const ROLE: &str = "/opt/pf9/roles/pf9-kube/current";
/// nodeletd's state.
pub const STATE: &str = "/var/opt/pf9/nodelet";
/// The suite's own directory.
pub const PLACE: &str = "/root/bitrot";

/// The files that describe the package; while one of them is damaged, other damage may not be seen.
const DESCRIPTIONS: [&str; 2] = ["role.yaml", "SHA256SUMS"];
/// The directory with files that take the place of files of the payload.
const OTHERS: &str = "/root/bitrot/others";

/// Time limit of a repair. An API server needs time to start, and then a minute to be quiet.
pub const REPAIRED: Duration = Duration::from_secs(150);
/// Time limit until damage is reported, and until a pass finds no damage any more.
pub const REPORTED: Duration = Duration::from_secs(90);
/// Time limit until the cluster gives a token.
const GIVEN: Duration = Duration::from_secs(60);
/// Components that keep a lease at the API server.
const LEADERS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// Size of a truncated file in bytes. All files are longer.
pub(crate) const TRUNCATED: u64 = 20;

/// How a file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is removed.
    Delete,
    /// It is cut short.
    Truncate,
    /// Another valid file of the same kind takes its place.
    Replace,
    /// It has another owner and another mode.
    Attributes,
}

impl Damage {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Delete,
        Self::Truncate,
        Self::Replace,
        Self::Attributes,
    ];
    /// Those that change the content.
    pub const CONTENT: [Self; 3] = [Self::Delete, Self::Truncate, Self::Replace];

    /// A shell script that damages the file at `path`. The command `another` prints another valid file of the same kind.
    #[must_use]
    pub fn script(self, path: &str, another: &str) -> String {
        Self::together(&[(self, path, another)])
    }

    /// A shell script that damages all these files at once: it makes the files that replace others before it damages the first one.
    fn together(files: &[(Self, &str, &str)]) -> String {
        let (mut prepare, mut damage) = (Vec::new(), Vec::new());
        for (number, (kind, path, another)) in files.iter().enumerate() {
            let other = other_file(number);
            let command = match kind {
                Self::Delete => format!("rm {path}"),
                Self::Truncate => format!("truncate --size {TRUNCATED} {path}"),
                Self::Replace => {
                    prepare.push(format!("{{ {another}; }} > {other}; if cmp -s {other} {path}; then echo '{path} is the same'; exit 1; fi"));
                    format!("cat {other} > {path}")
                }
                Self::Attributes => format!("chown 1000:1000 {path}; chmod 0666 {path}"),
            };
            damage.push(command);
        }
        [prepare, damage].concat().join("\n")
    }
}

/// The file that replaces the damaged file of this number.
fn other_file(number: usize) -> String {
    format!("{PLACE}/other-{number}")
}

/// Makes the suite's own directory, empty.
pub fn make_place(master: &Master) {
    master.sh(&format!("rm -rf {PLACE}; install -d -m 0700 {PLACE}"));
}

/// Removes the suite's own directory, and gives the master its usual settings again: it is healthy with them.
pub fn remove_place(master: &Master) {
    master.sh(&format!("rm -rf {PLACE}"));
    master.configure(&[]);
    master.apply(&[]).exits(0);
    master.check(&[]).exits(0);
}

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
    pub fn texts(master: &Master) -> Vec<Self> {
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
    master: &Master,
    watch: &Watch<'_>,
    damage: Damage,
    targets: &[Target],
    mut meanwhile: impl FnMut(),
) {
    let saved = format!("{PLACE}/saved");
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
    master: &'a Master,
}

impl<'a> PayloadCopy<'a> {
    /// Puts the copy in place.
    #[must_use]
    pub fn mount(master: &'a Master) -> Self {
        master.sh(&format!(
            "cp -a {ROLE}/payload {PLACE}/payload
             install -d {OTHERS}
             cd {PLACE}/payload
             cp -p bin/* images/pause.tar images/kube-scheduler.tar debs/socat* debs/conntrack* debs/ipset.list {OTHERS}
             mount --bind {PLACE}/payload {ROLE}/payload"
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
            "umount --lazy {ROLE}/payload; rm -rf {PLACE}/payload"
        ));
    }
}

/// A file, and how it is damaged.
pub type DamagedFile = (Damage, String);

/// The groups of the files that hold a secret, or that the host keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Key or certificate of an authority.
    Authority,
    /// The key of service-account tokens and its public half.
    ServiceAccount,
    /// The keys that encrypt Secrets, and their copies.
    Encryption,
    /// The key of a certificate.
    LeafKey,
    /// A certificate.
    Leaf,
    /// A kubeconfig.
    Kubeconfig,
    /// The record of a key, with a copy of it.
    Record,
    /// The record of the id of etcd's data, and the id beside that data.
    DataId,
    /// Credentials at Docker Hub.
    DockerHub,
    /// The settings as variables of a shell, credentials among them.
    Environment,
    /// keepalived's configuration.
    Keepalived,
    /// Not secret and not kept: the suites `repair` and `certificates` are about it.
    Public,
}

/// Directories beside those with secrets. Their files are configuration from the plan.
const CONFIGURATION: [&str; 5] = ["apiserver", "etcd", "kube-proxy", "kubelet", "manifests"];

impl Group {
    /// The group of the file at `path`.
    ///
    /// # Panics
    /// It is in no group.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or_default();
        let in_directory = |directory: &str| path.starts_with(directory);
        let configures = |name: &&str| in_directory(&format!("/etc/pf9/kube.d/{name}/"));
        if CONFIGURATION.iter().any(configures) {
            return Self::Public;
        }
        match name {
            "config.json" if in_directory("/var/lib/kubelet/") => Self::DockerHub,
            "keepalived.conf" => Self::Keepalived,
            "kube.env" => Self::Environment,
            "nodelet-data-id" => Self::DataId,
            "svcacct.key" | "svcacct.pub" => Self::ServiceAccount,
            "config.yaml" if in_directory("/etc/pf9/kube.d/encryption/") => Self::Encryption,
            "keys.yaml" if in_directory("/etc/pf9/kube.d/ca/encryption/") => Self::Encryption,
            // No program reads them.
            _ if in_directory("/etc/pf9/kube.d/ca/encryption/retired/") => Self::Record,
            "ca.key" | "ca.crt" if in_directory("/etc/pf9/kube.d/ca/") => Self::Authority,
            "request.key" => Self::LeafKey,
            "request.crt" => Self::Leaf,
            // Copies of an authority's certificate; each is made with the certificate beside it.
            "ca.crt" if in_directory("/etc/pf9/kube.d/certs/") => Self::Public,
            _ if in_directory("/etc/pf9/kube.d/kubeconfigs/") => Self::Kubeconfig,
            "encryption.yaml" if in_directory(&format!("{STATE}/kept/")) => Self::Encryption,
            _ if in_directory(&format!("{STATE}/kept/data-")) => Self::DataId,
            _ if in_directory(&format!("{STATE}/data-")) => Self::DataId,
            _ if in_directory(&format!("{STATE}/kept/")) => Self::Record,
            _ => panic!("{path} is in no group: damage it as well, or say why not"),
        }
    }
}

/// A file at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileState {
    digest: String,
    size: u64,
    /// Mode and owner.
    access: String,
}

/// A master's kept and secret files, and their state before any damage.
#[derive(Debug)]
pub struct SecretFiles<'a> {
    master: &'a Master,
    files: Vec<String>,
    /// The script that prints digests, sizes, modes and owners of these files, and of the files that have replaced others.
    look: String,
    before: BTreeMap<String, FileState>,
}

impl<'a> SecretFiles<'a> {
    /// Takes their present state. The suite's own directory must exist.
    ///
    /// # Panics
    /// The state of a file cannot be taken.
    #[must_use]
    pub fn note(master: &'a Master) -> Self {
        let found = master.sh(&format!(
            "find /etc/pf9/kube.d {STATE}/kept -type f ! -name '.*' | sort
             for path in /etc/pf9/kube.env /var/lib/kubelet/config.json /etc/keepalived/keepalived.conf; do
                 if [ -e $path ]; then echo $path; fi
             done
             find /var/opt/pf9/kube/etcd/data/member {STATE} -maxdepth 1 '(' -name nodelet-data-id -o -name 'data-*.json' ')'"
        ));
        let files = found
            .lines()
            .filter(|path| Group::of(path) != Group::Public);
        let files: Vec<String> = files.map(str::to_owned).collect();
        let all = files.join(" ");
        master.sh(&format!(
            "cp {STATE}/kept/authority-*.json /etc/pf9/kube.d/kubeconfigs/admin.yaml /etc/pf9/kube.d/kubeconfigs/kubelet.yaml {PLACE}"
        ));
        let mut its = Self {
            master,
            files,
            look: format!(
                "sha256sum {all} {PLACE}/other-*; stat -c '%n %s %a %U:%G' {all} {PLACE}/other-*"
            ),
            before: BTreeMap::new(),
        };
        its.before = its.now();
        its.before.retain(|path, _| its.files.contains(path));
        assert_eq!(its.before.len(), its.files.len(), "{:?}", its.before);
        for (path, file) in &its.before {
            assert!(file.size > TRUNCATED, "{path}: {file:?}");
            if matches!(
                Group::of(path),
                Group::LeafKey | Group::Kubeconfig | Group::Record | Group::Encryption
            ) {
                assert_eq!(file.access, "600 root:root", "{path}");
            }
        }
        its.new_token("old");
        its
    }

    /// The files as they are now, without those that are missing.
    fn now(&self) -> BTreeMap<String, FileState> {
        // A missing file is no error here.
        let output = self.master.try_sh(&self.look);
        let text = String::from_utf8_lossy(&output.stdout);
        let digests = text.lines().filter_map(|line| line.split_once("  "));
        let digests: BTreeMap<&str, &str> = digests.map(|(digest, path)| (path, digest)).collect();
        let files = text.lines().filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [path, size, mode, owner] = words[..] else {
                return None;
            };
            let file = FileState {
                digest: (*digests.get(path)?).to_owned(),
                size: size.parse().ok()?,
                access: format!("{mode} {owner}"),
            };
            Some((path.to_owned(), file))
        });
        files.collect()
    }

    /// The files as they should be after the next repair: as they were before any damage. A certificate that was issued again since then,
    /// its key and the kubeconfigs with both have another content.
    fn expected(&self) -> BTreeMap<String, FileState> {
        let now = self.now();
        let mut expected = self.before.clone();
        for (path, file) in &mut expected {
            let may_differ = matches!(
                Group::of(path),
                Group::LeafKey | Group::Leaf | Group::Kubeconfig
            );
            if may_differ && let Some(now) = now.get(path) {
                file.digest.clone_from(&now.digest);
            }
        }
        expected
    }

    /// What is wrong with the files after this damage; empty if each of them is repaired.
    fn still_wrong(
        &self,
        expected: &BTreeMap<String, FileState>,
        damaged_files: &[DamagedFile],
    ) -> Vec<String> {
        let now = self.now();
        let mut wrong = Vec::new();
        for (path, should) in expected {
            let Some(is) = now.get(path) else {
                wrong.push(format!("{path} is missing"));
                continue;
            };
            if is.access != should.access {
                wrong.push(format!("{path} is {}, not {}", is.access, should.access));
            }
            if is.size <= TRUNCATED {
                wrong.push(format!("{path} has {} bytes", is.size));
            }
            if is.digest != should.digest && !is_made_again(path, damaged_files) {
                wrong.push(format!("{path} has another content"));
            }
        }
        for (number, (damage, path)) in damaged_files.iter().enumerate() {
            let (is, other) = (now.get(path), now.get(&other_file(number)));
            if *damage == Damage::Replace
                && let (Some(is), Some(other)) = (is, other)
                && is.digest == other.digest
            {
                wrong.push(format!("{path} is still the other file"));
            }
        }
        wrong
    }

    /// The paths of a group, sorted.
    #[must_use]
    pub fn of(&self, group: Group) -> Vec<String> {
        let its = self.files.iter().filter(|path| Group::of(path) == group);
        its.cloned().collect()
    }

    /// Makes an account, and writes the token that the cluster gives it to a file.
    fn new_token(&self, name: &str) {
        let ask = "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml --namespace default";
        self.master.sh(&format!(
            "{ask} delete serviceaccount bitrot-{name} --ignore-not-found; {ask} create serviceaccount bitrot-{name}"
        ));
        // Through a file: a token must not be on a command line.
        self.master.wait_for(
            "the account has a token",
            &format!(
                "umask 077; cd {PLACE}
                 secret=$({ask} get serviceaccount bitrot-{name} -o jsonpath='{{.secrets[0].name}}') && [ -n \"$secret\" ] &&
                 {{ printf 'Authorization: Bearer '; {ask} get secret $secret -o jsonpath='{{.data.token}}' | base64 -d; }} > {name}"
            ),
            GIVEN,
        );
    }

    /// The tokens, old and new, that the API server does not accept.
    #[must_use]
    pub fn refused_tokens(&self) -> Vec<String> {
        self.new_token("new");
        let answer = |name: &str| {
            self.master.sh(&format!(
                "curl --silent --max-time 10 --output /dev/null --write-out '%{{http_code}}' --header @{PLACE}/{name} \
                 --cacert /etc/pf9/kube.d/certs/apiserver/ca.crt https://127.0.0.1/api"
            ))
        };
        let answers = ["old", "new"].map(|name| (name, answer(name)));
        let refused = answers.into_iter().filter(|(_, answer)| answer != "200");
        refused
            .map(|(name, answer)| format!("{answer} to the {name} token"))
            .collect()
    }

    /// When each container and unit was started.
    #[must_use]
    pub fn started(&self) -> BTreeMap<String, String> {
        let text = self.master.sh(
            "docker ps --no-trunc --format '{{.ID}} {{.Names}}' | grep -v -e ' k8s_POD_' -e ' pf9-etcd-proof' | while read id name; do
                 echo $name $(docker inspect --format '{{.Id}}/{{.State.StartedAt}}' $id)
             done | sed -E 's/^k8s_([^_]*)_[^ ]*/\\1/'
             for unit in docker pf9-kubelet keepalived; do echo $unit $(systemctl show $unit --property InvocationID --value); done",
        );
        let pair = |line: &str| {
            line.split_once(' ')
                .map(|(name, at)| (name.to_owned(), at.to_owned()))
        };
        text.lines().filter_map(pair).collect()
    }

    /// Damages these files, and waits until nodeletd has repaired each of them, by a restart of one of `phases` if there are any. Gives
    /// what is wrong then: a file is damaged again, another reader was restarted, or a token is refused.
    ///
    /// # Panics
    /// A file is not repaired, or no phase was restarted.
    #[must_use]
    pub fn damage_and_repair(
        &self,
        watch: &Watch<'_>,
        damaged_files: &[DamagedFile],
        phases: &[&str],
        readers: &[&str],
    ) -> Vec<String> {
        // After the API server was down a few times, kubelet waits for minutes before it restarts containers that ended meanwhile.
        // A new kubelet process does not wait.
        self.master.sh("systemctl restart pf9-kubelet");
        watch.wait_until_healthy(REPAIRED);
        watch.record();
        let before = self.started();
        let expected = self.expected();
        let mut what = String::new();
        for (damage, path) in damaged_files {
            let _ = write!(what, "{damage:?} {path} ");
        }
        let others: Vec<String> = damaged_files
            .iter()
            .map(|(_, path)| another(path))
            .collect();
        let files = damaged_files.iter().zip(&others);
        let files: Vec<(Damage, &str, &str)> = files
            .map(|((damage, path), other)| (*damage, path.as_str(), other.as_str()))
            .collect();
        self.master.sh(&Damage::together(&files));
        let (began, mut left) = (Instant::now(), Vec::new());
        let repaired = crate::poll(REPAIRED, || {
            left = self.still_wrong(&expected, damaged_files);
            let repairs = restarted(&watch.recorded());
            if !phases.is_empty() && !repairs.iter().any(|one| phases.contains(&one.as_str())) {
                left.push(format!("none of {phases:?} was restarted"));
            }
            left.is_empty().then(|| began.elapsed())
        });
        let took = repaired.unwrap_or_else(|| {
            panic!(
                "{what}: not repaired within {} s: {}\n{}",
                REPAIRED.as_secs(),
                left.join("; "),
                watch.journal()
            )
        });
        watch.wait_until_healthy(REPAIRED);
        let by_us = restarts(&watch.recorded());
        let after = self.started();
        let mut ended: BTreeSet<&str> = before
            .iter()
            .filter(|(name, at)| after.get(*name) != Some(at))
            .map(|(name, _)| name.as_str())
            .collect();
        if by_us.contains("kube-apiserver") {
            // They end by themselves if the API server is down for longer than their lease.
            ended.retain(|name| !LEADERS.contains(name) || by_us.contains(*name));
        }
        println!("{what}: {:.1} s, {by_us:?} restarted", took.as_secs_f64());
        // A later step of the repair must not damage anything.
        let left = self.still_wrong(&expected, damaged_files);
        let mut wrong: Vec<String> = left.iter().map(|one| format!("{what}: {one}")).collect();
        let readers: BTreeSet<&str> = readers.iter().copied().collect();
        if by_us.iter().map(String::as_str).ne(readers.iter().copied()) || ended != readers {
            wrong.push(format!(
                "{what}: {by_us:?} were restarted and {ended:?} ended, not {readers:?}"
            ));
        }
        let refused = self.refused_tokens();
        wrong.extend(refused.iter().map(|token| format!("{what}: {token}")));
        wrong
    }
}

/// Whether the repair of these damaged files may give the file at `path` another content. A certificate without its key, and a key
/// without its certificate, are made again together, and kubeconfigs contain both. Every other file is restored as it was.
fn is_made_again(path: &str, damaged_files: &[DamagedFile]) -> bool {
    let mut leaves = damaged_files.iter().filter(|(damage, damaged)| {
        *damage != Damage::Attributes && matches!(Group::of(damaged), Group::LeafKey | Group::Leaf)
    });
    match Group::of(path) {
        Group::LeafKey | Group::Leaf => {
            leaves.any(|(_, leaf)| Path::new(leaf).parent() == Path::new(path).parent())
        }
        Group::Kubeconfig => leaves.next().is_some(),
        _ => false,
    }
}

/// The containers and units that repairs have restarted, without their paths and suffixes.
fn restarts(events: &[Event]) -> BTreeSet<String> {
    let restarted = events.iter().filter_map(|event| match event {
        Event::StepChanged { step, .. } => {
            let (kind, resource) = step.as_str().split_once('/')?.1.split_once(':')?;
            let runs = ["container", "pod_container", "service"].contains(&kind);
            let name = resource.rsplit('/').next()?.trim_end_matches(".service");
            runs.then(|| name.to_owned())
        }
        _ => None,
    });
    restarted.collect()
}

/// A command that prints another valid file of the kind of a secret or kept one.
#[must_use]
pub fn another(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let key = || "openssl genrsa 2048 2> /dev/null".to_owned();
    let certificate = |subject: &str| {
        format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN={subject} -days 365 2> /dev/null"
        )
    };
    match Group::of(path) {
        Group::Authority if name == "ca.crt" => certificate("kubernetes"),
        // A certificate of another authority, with another identity.
        Group::Leaf => certificate("admin"),
        Group::ServiceAccount if name == "svcacct.pub" => {
            "openssl genrsa 2048 2> /dev/null | openssl pkey -pubout".to_owned()
        }
        Group::Authority | Group::ServiceAccount | Group::LeafKey => key(),
        // The same with another secret.
        Group::Encryption => format!("sed -E 's/secret: ..../secret: AAAA/' {path}"),
        Group::Kubeconfig if name == "kubelet.yaml" => format!("cat {PLACE}/admin.yaml"),
        Group::Kubeconfig => format!("cat {PLACE}/kubelet.yaml"),
        // The record of another authority.
        Group::Record if name == "authority-cluster.json" => {
            format!("cat {PLACE}/authority-etcd.json")
        }
        Group::Record => format!("cat {PLACE}/authority-cluster.json"),
        Group::DataId if name == "nodelet-data-id" => {
            "echo 00112233445566778899aabbccddeeff".to_owned()
        }
        Group::DataId => {
            "echo '{\"version\":1,\"id\":\"00112233445566778899aabbccddeeff\"}'".to_owned()
        }
        // The credentials of another account.
        Group::DockerHub => format!("sed -E 's/(\"auth\": \").*/\\1b3RoZXI6d29yZA==\"/' {path}"),
        Group::Environment => {
            format!("sed -E 's/^(export DOCKERHUB_ID=).*/\\1\"other\"/' {path}")
        }
        Group::Keepalived => format!("sed -E 's/priority .*/priority 7/' {path}"),
        Group::Public => panic!("{path} is no secret"),
    }
}
