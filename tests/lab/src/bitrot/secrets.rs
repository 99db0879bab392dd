//! The kept and secret files of a host, which nodeletd repairs: their state, and what is wrong with them after damage.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::exec::Event;

use super::groups::{Group, another};
use super::{Damage, REPAIRED, STATE, TRUNCATED, WORK_DIRECTORY, other_file};
use crate::master::Node;
use crate::watch::{Watch, restarted};

/// Time limit until the cluster gives a token.
const GIVEN: Duration = Duration::from_secs(60);
/// Components that keep a lease at the API server.
const LEADERS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// A file, and how it is damaged.
pub type DamagedFile = (Damage, String);

/// A file at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileState {
    digest: String,
    size: u64,
    /// Mode and owner.
    access: String,
}

/// A host's kept and secret files, and their state before any damage.
#[derive(Debug)]
pub struct SecretFiles<'a> {
    master: &'a Node,
    files: Vec<String>,
    /// The script that prints digests, sizes, modes and owners of these files, and of the files that have replaced others.
    look: String,
    before: BTreeMap<String, FileState>,
    /// The kubeconfigs that contain a certificate and its key, with the directory of both. The others contain only their paths.
    certificate_of: BTreeMap<String, PathBuf>,
}

impl<'a> SecretFiles<'a> {
    /// Takes their present state. The suite's own directory must exist.
    ///
    /// # Panics
    /// The state of a file cannot be taken.
    #[must_use]
    pub fn note(master: &'a Node) -> Self {
        let found = master.sh(&format!(
            "find /etc/pf9/kube.d {STATE}/kept -type f ! -name '.*' | sort
             for path in /etc/pf9/kube.env /var/lib/kubelet/config.json /etc/keepalived/keepalived.conf; do
                 if [ -e $path ]; then echo $path; fi
             done
             for directory in /var/opt/pf9/kube/etcd/data/member {STATE}; do
                 if [ -d $directory ]; then find $directory -maxdepth 1 '(' -name nodelet-data-id -o -name 'data-*.json' ')'; fi
             done"
        ));
        let files = found
            .lines()
            .filter(|path| Group::of(path) != Group::Public);
        let files: Vec<String> = files.map(str::to_owned).collect();
        let all = files.join(" ");
        master.sh(&format!(
            // A worker has no kubeconfig of an administrator.
            "for path in {STATE}/kept/authority-*.json /etc/pf9/kube.d/kubeconfigs/admin.yaml /etc/pf9/kube.d/kubeconfigs/kubelet.yaml; do
                 if [ -e $path ]; then cp $path {WORK_DIRECTORY}; fi
             done"
        ));
        let mut its = Self {
            master,
            files,
            look: format!(
                "sha256sum {all} {WORK_DIRECTORY}/other-*; stat -c '%n %s %a %U:%G' {all} {WORK_DIRECTORY}/other-*"
            ),
            before: BTreeMap::new(),
            certificate_of: BTreeMap::new(),
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
        its.certificate_of = its.kubeconfigs_with_certificates();
        if !its.master.is_worker() {
            its.new_token("old");
        }
        its
    }

    /// The kubeconfigs that contain a certificate, with the directory of the certificate.
    ///
    /// # Panics
    /// A kubeconfig contains neither a certificate that is on the host nor the path of one.
    fn kubeconfigs_with_certificates(&self) -> BTreeMap<String, PathBuf> {
        let all = self.of(Group::Kubeconfig);
        let mut script = String::new();
        for path in &all {
            let certificate = embedded(path, "certificate");
            let _ = writeln!(
                script,
                "echo \"$({certificate} | sha256sum | cut -d ' ' -f 1) {path}\""
            );
        }
        let text = self.master.sh(&script);
        let directory = |digest: &str| {
            let mut files = self.before.iter();
            let (path, _) = files
                .find(|(path, file)| Group::of(path) == Group::Leaf && file.digest == digest)?;
            Some(Path::new(path).parent()?.to_path_buf())
        };
        let with = text.lines().filter_map(|line| {
            let (digest, path) = line.split_once(' ')?;
            Some((path.to_owned(), directory(digest)?))
        });
        let with: BTreeMap<String, PathBuf> = with.collect();
        for path in all.iter().filter(|path| !with.contains_key(*path)) {
            self.master.sh(&format!(
                "grep -q '^ *client-certificate: /etc/pf9/kube.d/certs/' {path}"
            ));
        }
        with
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
    /// its key and the kubeconfigs that contain both have another content.
    fn expected(&self) -> BTreeMap<String, FileState> {
        let now = self.now();
        let mut expected = self.before.clone();
        for (path, file) in &mut expected {
            let may_differ = match Group::of(path) {
                Group::LeafKey | Group::Leaf => true,
                Group::Kubeconfig => self.certificate_of.contains_key(path),
                _ => false,
            };
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
            if is.digest != should.digest && !self.may_change(path, damaged_files) {
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
        if wrong.is_empty() {
            wrong = self.mismatches(damaged_files);
        }
        wrong
    }

    /// Whether the repair of these damaged files may give the file at `path` another content: a certificate that is reissued, its key,
    /// and a kubeconfig that contains both. Every other file is restored as it was.
    fn may_change(&self, path: &str, damaged_files: &[DamagedFile]) -> bool {
        let directory = match Group::of(path) {
            Group::LeafKey | Group::Leaf => Path::new(path).parent(),
            Group::Kubeconfig => self.certificate_of.get(path).map(PathBuf::as_path),
            _ => None,
        };
        directory.is_some_and(|directory| reissued(damaged_files).contains(directory))
    }

    /// The keys that were reissued and do not match their certificates, and the kubeconfigs that do not contain both as they are now.
    fn mismatches(&self, damaged_files: &[DamagedFile]) -> Vec<String> {
        let mut script = String::new();
        for directory in reissued(damaged_files) {
            let [key, certificate] = ["request.key", "request.crt"]
                .map(|name| directory.join(name).display().to_string());
            let _ = writeln!(
                script,
                "of_key=$(openssl pkey -in {key} -pubout 2> /dev/null)
                 of_certificate=$(openssl x509 -in {certificate} -noout -pubkey 2> /dev/null)
                 [ -n \"$of_key\" ] && [ \"$of_key\" = \"$of_certificate\" ] || echo '{key} does not match {certificate}'"
            );
            for (path, _) in self
                .certificate_of
                .iter()
                .filter(|(_, of)| *of == directory)
            {
                for (field, file) in [("key", &key), ("certificate", &certificate)] {
                    let content = embedded(path, field);
                    let _ = writeln!(
                        script,
                        "{content} 2> /dev/null | cmp -s - {file} || echo '{path} does not contain {file}'"
                    );
                }
            }
        }
        if script.is_empty() {
            return Vec::new();
        }
        let output = self.master.try_sh(&script);
        let text = String::from_utf8_lossy(&output.stdout);
        let mut mismatches: Vec<String> = text.lines().map(str::to_owned).collect();
        if !output.status.success() {
            mismatches.push("keys and certificates could not be compared".to_owned());
        }
        mismatches
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
                "umask 077; cd {WORK_DIRECTORY}
                 secret=$({ask} get serviceaccount bitrot-{name} -o jsonpath='{{.secrets[0].name}}') && [ -n \"$secret\" ] &&
                 {{ printf 'Authorization: Bearer '; {ask} get secret $secret -o jsonpath='{{.data.token}}' | base64 -d; }} > {name}"
            ),
            GIVEN,
        );
    }

    /// The tokens, old and new, that the API server of this host does not accept. A worker has none.
    #[must_use]
    pub fn refused_tokens(&self) -> Vec<String> {
        if self.master.is_worker() {
            return Vec::new();
        }
        self.new_token("new");
        let answer = |name: &str| {
            self.master.sh(&format!(
                "curl --silent --max-time 10 --output /dev/null --write-out '%{{http_code}}' --header @{WORK_DIRECTORY}/{name} \
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

/// The directories of the certificates that the repair of these damaged files makes again. A certificate without its key, and a key without
/// its certificate, are reissued together.
fn reissued(damaged_files: &[DamagedFile]) -> BTreeSet<&Path> {
    let leaves = damaged_files.iter().filter(|(damage, path)| {
        *damage != Damage::Attributes && matches!(Group::of(path), Group::LeafKey | Group::Leaf)
    });
    leaves
        .filter_map(|(_, path)| Path::new(path).parent())
        .collect()
}

/// A command that prints the certificate or the key that a kubeconfig contains; nothing if it contains none.
fn embedded(kubeconfig: &str, field: &str) -> String {
    format!("sed -n 's/^ *client-{field}-data: *//p' {kubeconfig} | base64 -d")
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
