//! Kept and secret files of a running master that are deleted, truncated, replaced by another valid file of their kind, or given
//! another mode and owner, one at a time: each is repaired with exactly its readers restarted, and the API server accepts old and new
//! tokens afterwards.
//!
//! Faults of files that have nothing to do with each other strike together, so that one repair is about them all: a file of each
//! authority, whose repair restarts nothing, and one half of the key of service-account tokens; the records; the keys of certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use engine::exec::Event;
use lab_suites::{Master, SCALED, Watch, restarted, shared};

/// No fault takes longer to be repaired. An API server takes its time to start, and then a minute to be quiet.
const REPAIRED: Duration = Duration::from_secs(150);
/// For the cluster to give a token.
const GIVEN: Duration = Duration::from_secs(60);

const AUTHORITIES: [&str; 3] = ["cluster", "etcd", "front-proxy"];
const SIGNS: &str = "/etc/pf9/kube.d/certs/apiserver/svcacct.key";
/// The controller-manager has a copy of its own.
const SIGNS_TOKENS: &str = "/etc/pf9/kube.d/certs/kube-controller-manager/svcacct.key";
const VERIFIES: &str = "/etc/pf9/kube.d/certs/apiserver/svcacct.pub";
/// The keys that encrypt Secrets: the API server's file, and the copies.
const ENCRYPTION: [&str; 3] = [
    "/etc/pf9/kube.d/encryption/config.yaml",
    "/etc/pf9/kube.d/ca/encryption/keys.yaml",
    "/var/opt/pf9/nodelet/kept/encryption.yaml",
];
/// Those that keep a lease at the API server.
const LEADERS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
/// Where the suite has its own files.
const PLACE: &str = "/root/bitrot";

/// What befalls a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Delete,
    Truncate,
    Replace,
    Attributes,
}

/// Those after which a file has to come from its copy, or be made anew.
const DAMAGES: [Fault; 3] = [Fault::Delete, Fault::Truncate, Fault::Replace];

/// A file, and what befalls it.
type Struck = (Fault, String);

impl Fault {
    /// Strikes a file.
    fn script(self, path: &str) -> String {
        match self {
            Self::Delete => format!("rm {path}"),
            Self::Truncate => format!("truncate --size 60 {path}"),
            Self::Replace => format!("{} > {path}", another(path)),
            Self::Attributes => format!("chown 1000:1000 {path}; chmod 0666 {path}"),
        }
    }
}

/// Prints another valid file of the same kind.
fn another(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    match name {
        "ca.crt" => "openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=kubernetes -days 365 2> /dev/null".to_owned(),
        // With another secret.
        "config.yaml" | "keys.yaml" | "encryption.yaml" => {
            format!("sed -E 's/secret: ..../secret: AAAA/' {path} > {PLACE}/other; cat {PLACE}/other")
        }
        // A certificate that another authority has signed, and one with another identity.
        "request.crt" => "openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=admin -days 365 2> /dev/null".to_owned(),
        "kubelet.yaml" => format!("cat {PLACE}/admin.yaml"),
        _ if name.ends_with(".yaml") => format!("cat {PLACE}/kubelet.yaml"),
        "svcacct.pub" => "openssl genrsa 2048 2> /dev/null | openssl pkey -pubout".to_owned(),
        // That of another authority.
        "authority-cluster.json" => "cat /var/opt/pf9/nodelet/kept/authority-etcd.json".to_owned(),
        _ if name.ends_with(".json") => format!("cat {PLACE}/authority-cluster.json"),
        _ => "openssl genrsa 2048 2> /dev/null".to_owned(),
    }
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn kept_and_secret_files_are_repaired_with_exactly_their_readers_restarted() {
    let master = shared();
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    master.sh(&format!("rm -rf {PLACE}; install -d -m 0700 {PLACE}"));
    let rot = Rot::prepare(&master);
    let watch = Watch::start(&master);
    let mut wrong = Vec::new();
    for fault in DAMAGES {
        for (half, encryption, files, readers) in [
            (
                SIGNS,
                ENCRYPTION[0],
                ["ca.key", "ca.crt", "ca.key"],
                &["kube-apiserver", "kube-controller-manager"][..],
            ),
            (
                VERIFIES,
                ENCRYPTION[1],
                ["ca.crt", "ca.key", "ca.crt"],
                &["kube-apiserver"],
            ),
        ] {
            let authorities = AUTHORITIES.iter().zip(files);
            let mut struck: Vec<Struck> = authorities
                .map(|(name, file)| (fault, format!("/etc/pf9/kube.d/ca/{name}/{file}")))
                .collect();
            struck.push((fault, half.to_owned()));
            if half == SIGNS {
                struck.push((fault, SIGNS_TOKENS.to_owned()));
            }
            struck.push((fault, encryption.to_owned()));
            wrong.extend(rot.strikes(&watch, &struck, readers));
        }
        // The records of the keys, with their copies.
        let records = rot.records.iter().map(String::as_str);
        let all = records
            .chain([ENCRYPTION[2]])
            .map(|path| (fault, path.to_owned()));
        wrong.extend(rot.strikes(&watch, &all.collect::<Vec<_>>(), &[]));
    }
    // The keys of certificates, which are issued anew: kubelet and kube-proxy read theirs at their start.
    let leaves = rot.leaf_keys.iter().zip(DAMAGES.iter().cycle());
    let leaves: Vec<Struck> = leaves.map(|(path, fault)| (*fault, path.clone())).collect();
    wrong.extend(rot.strikes(&watch, &leaves, &["pf9-kubelet", "proxy"]));
    // The certificates themselves, and what clients find the API server by.
    for (files, readers) in [
        (&rot.leaves, &["pf9-kubelet", "proxy"][..]),
        (
            &rot.kubeconfigs,
            &[
                "kube-controller-manager",
                "kube-scheduler",
                "pf9-kubelet",
                "proxy",
            ],
        ),
    ] {
        let all = files.iter().zip(DAMAGES.iter().cycle());
        let all: Vec<Struck> = all.map(|(path, fault)| (*fault, path.clone())).collect();
        wrong.extend(rot.strikes(&watch, &all, readers));
    }
    // Modes and owners, of which no reader has to know.
    let all = rot
        .kept_files
        .iter()
        .chain(&rot.leaf_keys)
        .chain(&rot.kubeconfigs)
        .chain(&rot.records)
        .map(String::as_str)
        .chain(ENCRYPTION);
    let all: Vec<Struck> = all
        .map(|path| (Fault::Attributes, path.to_owned()))
        .collect();
    wrong.extend(rot.strikes(&watch, &all, &[]));
    wrong.extend(rot.lost_with_its_copy(&watch));
    drop(watch);
    master.sh(&format!("rm -rf {PLACE}"));
    master.configure(&[]);
    master.apply(&[]).exits(0);
    master.check(&[]).exits(0);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What repairs have restarted, by the last part of its name.
fn restarts(events: &[Event]) -> BTreeSet<String> {
    let restarted = events.iter().filter_map(|event| match event {
        Event::StepChanged { step, .. } => {
            let (kind, thing) = step.as_str().split_once('/')?.1.split_once(':')?;
            let runs = ["container", "pod_container", "service"].contains(&kind);
            let name = thing.rsplit('/').next()?.trim_end_matches(".service");
            runs.then(|| name.to_owned())
        }
        _ => None,
    });
    restarted.collect()
}

/// The master, and what its files were before anything befell them.
struct Rot<'a> {
    master: &'a Master,
    /// Digests of the kept files, which must come back as they were.
    kept: String,
    kept_files: Vec<String>,
    leaf_keys: Vec<String>,
    leaves: Vec<String>,
    kubeconfigs: Vec<String>,
    records: Vec<String>,
}

const KEPT: &str = "cd /etc/pf9/kube.d; files=\"$(ls -d ca/*/ca.* certs/apiserver/svcacct.* encryption/config.yaml ca/encryption/keys.yaml /var/opt/pf9/nodelet/kept/encryption.yaml)\"
sha256sum $files; stat -c '%n %a %U:%G' $files";

impl<'a> Rot<'a> {
    fn prepare(master: &'a Master) -> Self {
        let lines = |script: &str| {
            let text = master.sh(script);
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let its = Self {
            master,
            kept: master.sh(KEPT),
            kept_files: lines(
                "ls /etc/pf9/kube.d/ca/*/ca.* /etc/pf9/kube.d/certs/apiserver/svcacct.*",
            ),
            leaf_keys: lines("find /etc/pf9/kube.d/certs -name request.key | sort"),
            leaves: lines("find /etc/pf9/kube.d/certs -name request.crt | sort"),
            kubeconfigs: lines("find /etc/pf9/kube.d/kubeconfigs -name '*.yaml' | sort"),
            // What etcd's data is known by is the matter of the suite etcd_data.
            records: lines("find /var/opt/pf9/nodelet/kept -name '*.json' ! -name 'data-*' | sort"),
        };
        assert!(its.leaf_keys.len() > 10, "{:?}", its.leaf_keys);
        assert!(its.leaves.len() >= its.leaf_keys.len(), "{:?}", its.leaves);
        assert!(its.kubeconfigs.len() > 4, "{:?}", its.kubeconfigs);
        assert_eq!(its.records.len(), 4, "{:?}", its.records);
        let modes = master
            .sh("stat -c '%a %U' /var/opt/pf9/nodelet/kept /var/opt/pf9/nodelet/kept/* | sort -u");
        assert_eq!(modes, "600 root\n700 root");
        assert_eq!(its.kept_files.len(), 8, "{:?}", its.kept_files);
        master.sh(&format!(
            "cp /var/opt/pf9/nodelet/kept/authority-cluster.json /etc/pf9/kube.d/kubeconfigs/admin.yaml /etc/pf9/kube.d/kubeconfigs/kubelet.yaml {PLACE}"
        ));
        its.new_token("old");
        its
    }

    /// Has the cluster give a token to a new account, and keeps it in a file.
    fn new_token(&self, name: &str) {
        let ask = "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml --namespace default";
        self.master.sh(&format!(
            "{ask} delete serviceaccount bitrot-{name} --ignore-not-found; {ask} create serviceaccount bitrot-{name}"
        ));
        // Through a file: a token is nothing for a command line.
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

    /// What the API server answers to a token.
    fn answer(&self, name: &str) -> String {
        self.master.sh(&format!(
            "curl --silent --max-time 10 --output /dev/null --write-out '%{{http_code}}' --header @{PLACE}/{name} \
             --cacert /etc/pf9/kube.d/certs/apiserver/ca.crt https://127.0.0.1/api"
        ))
    }

    /// When each part was started.
    fn started(&self) -> BTreeMap<String, String> {
        let text = self.master.sh(
            "docker ps --no-trunc --format '{{.ID}} {{.Names}}' | grep -v -e ' k8s_POD_' -e ' pf9-etcd-proof' | while read id name; do
                 echo $name $(docker inspect --format '{{.Id}}/{{.State.StartedAt}}' $id)
             done | sed -E 's/^k8s_([^_]*)_[^ ]*/\\1/'
             for unit in docker pf9-kubelet; do echo $unit $(systemctl show $unit --property InvocationID --value); done",
        );
        let pair = |line: &str| {
            line.split_once(' ')
                .map(|(name, at)| (name.to_owned(), at.to_owned()))
        };
        text.lines().filter_map(pair).collect()
    }

    /// Strikes these files, and waits until nodeletd has repaired them. Says what is wrong then.
    fn strikes(&self, watch: &Watch<'_>, struck: &[Struck], readers: &[&str]) -> Vec<String> {
        // Where the API server was away a few times, kubelet waits for minutes before it starts those that ended meanwhile; a new one
        // does not.
        self.master.sh("systemctl restart pf9-kubelet");
        watch.calm(REPAIRED);
        watch.record();
        let before = self.started();
        let mut script = String::new();
        let mut what = String::new();
        for (fault, path) in struck {
            let _ = writeln!(script, "{}", fault.script(path));
            let _ = write!(what, "{fault:?} {path} ");
        }
        self.master.sh(&script);
        let took = watch.until(&what, REPAIRED, || {
            let now = self.master.try_sh(KEPT);
            let kept = String::from_utf8_lossy(&now.stdout).trim() == self.kept;
            let repairs = restarted(&watch.recorded());
            // Kubeconfigs have a phase of their own.
            let its = ["certs", "kubeconfigs"];
            kept && repairs.iter().any(|phase| its.contains(&phase.as_str()))
        });
        watch.calm(REPAIRED);
        let by_us = restarts(&watch.recorded());
        let after = self.started();
        let mut ended: BTreeSet<&str> = before
            .iter()
            .filter(|(name, at)| after.get(*name) != Some(at))
            .map(|(name, _)| name.as_str())
            .collect();
        if by_us.contains("kube-apiserver") {
            // They end by themselves where the API server is away for longer than their lease.
            ended.retain(|name| !LEADERS.contains(name) || by_us.contains(*name));
        }
        println!("{what}: {:.1} s, {by_us:?} restarted", took.as_secs_f64());
        let mut wrong = Vec::new();
        let readers: BTreeSet<&str> = readers.iter().copied().collect();
        if by_us.iter().map(String::as_str).ne(readers.iter().copied()) || ended != readers {
            wrong.push(format!(
                "{what}: {by_us:?} were restarted and {ended:?} ended, not {readers:?}"
            ));
        }
        self.new_token("new");
        for token in ["old", "new"] {
            let answer = self.answer(token);
            if answer != "200" {
                wrong.push(format!("{what}: {answer} to the {token} token"));
            }
        }
        wrong
    }

    /// A key whose copy is damaged as well is told by name, nothing is derived from the foreign one, and everything runs on.
    fn lost_with_its_copy(&self, watch: &Watch<'_>) -> Vec<String> {
        watch.calm(REPAIRED);
        watch.record();
        let (before, mut wrong) = (self.started(), Vec::new());
        let record = "/var/opt/pf9/nodelet/kept/service-account.json";
        self.master.sh(&format!(
            "cp -p {SIGNS} {VERIFIES} {record} {PLACE}
             sed -i -E 's/\"content\":\"[^\"]{{40}}/\"content\":\"/' {record}
             openssl genrsa 2048 > {SIGNS} 2> /dev/null"
        ));
        let told = |view: &serde_json::Value| {
            let phases = view["phases"].as_array().cloned().unwrap_or_default();
            let conditions = phases
                .iter()
                .filter_map(|phase| phase["conditions"].as_array());
            conditions.flatten().any(|one| {
                let reason = one["reason"].as_str().unwrap_or_default();
                one["status"] == "False"
                    && reason.contains(SIGNS)
                    && reason.contains("from a backup")
            })
        };
        watch.until("it is told by name", REPAIRED, || {
            watch.view().is_some_and(|view| told(&view))
        });
        watch.passes(3, REPAIRED);
        if !watch.view().is_some_and(|view| told(&view)) {
            wrong.push("a foreign key without a copy is not told any more".to_owned());
        }
        let repairs = restarted(&watch.recorded());
        if !repairs.is_empty() || self.started() != before {
            wrong.push(format!(
                "a foreign key without a copy restarted {repairs:?}"
            ));
        }
        self.master
            .sh(&format!("cmp {VERIFIES} {PLACE}/svcacct.pub"));
        let run = self.master.nodelet(&["diff"]);
        if !run.text().contains(SIGNS) {
            wrong.push(format!("diff does not name {SIGNS}: {}", run.text()));
        }
        self.master
            .sh(&format!("cp -p {PLACE}/svcacct.key {SIGNS}"));
        watch.calm(REPAIRED);
        for token in ["old", "new"] {
            if self.answer(token) != "200" {
                wrong.push(format!(
                    "the {token} token is refused after the key came back"
                ));
            }
        }
        wrong
    }
}
