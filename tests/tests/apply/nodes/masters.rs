//! A further master: it takes the keys of the cluster from its join file before it makes any.

use std::time::{Duration, SystemTime};

use behaviour::{Bringup, Case, CrashPoint, Scripts, block_on, fixtures, sample, try_each};
use engine::exec::{Recording, Runner};
use engine::host::Containers as _;
use engine::host::fake::{FakeHost, FaultPlan};
use engine::kubernetes::join_file::{
    IDENTITY, JOIN_FILE, JoinContent as _, MasterJoinFile, new_identity, public_key,
};
use engine::kubernetes::masters::{self, MASTERS, MasterEntry};
use engine::model::{Outcome, RECORDS};
use engine::resource::pki::export_keys;
use engine::resource::{MaskedSecrets, Spec};

use super::beside_two_masters;

const HOUR: Duration = Duration::from_secs(60 * 60);

const JOIN: &str = r#"
phase("join").about("Joins.").nodes(["master"]);
join_file("/etc/pf9/nodelet/join.age").node("cp-1").master(host.address, cluster.api_url).keep();
check("the host has what it needs").as_planned();
"#;

/// The keys of a first master.
const KEYS: &str = r#"
phase("keys").about("Makes keys.").nodes(["master"]);
certificate_authority("cluster").common_name("kubernetes").keep();
certificate_authority("etcd").common_name("etcd").keep();
certificate_authority("front-proxy").common_name("front-proxy").keep();
service_account_key().keep();
encryption_keys().keep();
check("keys are as planned").as_planned();
check("keys are kept").keys_kept().advisory();
"#;

/// What all masters of a cluster have alike.
const SHARED: [&str; 8] = [
    "/etc/pf9/kube.d/ca/cluster/ca.crt",
    "/etc/pf9/kube.d/ca/cluster/ca.key",
    "/etc/pf9/kube.d/ca/etcd/ca.key",
    "/etc/pf9/kube.d/ca/front-proxy/ca.key",
    "/etc/pf9/kube.d/certs/apiserver/svcacct.key",
    "/etc/pf9/kube.d/certs/apiserver/svcacct.pub",
    "/etc/pf9/kube.d/encryption/config.yaml",
    "/etc/pf9/kube.d/ca/encryption/keys.yaml",
];

/// The keys of a host that joins: they come after what is in its join file.
fn after_join() -> String {
    KEYS.replacen(
        r#".nodes(["master"]);"#,
        r#".nodes(["master"]).after(["join"]);"#,
        1,
    )
}

fn text(host: &FakeHost, path: &str) -> Option<String> {
    host.with_world(|world| world.text(path))
}

/// A master, and a host with a join file of it.
struct Cluster {
    bringup: Bringup,
    master: FakeHost,
    file: MasterJoinFile,
    host: FakeHost,
}

impl Cluster {
    fn new() -> Self {
        let master = FakeHost::new();
        let made = Bringup::of_scripts(&Scripts::default().phase("keys", KEYS)).apply(&master);
        assert_eq!(made.outcome, Outcome::Converged, "{}", made.text());
        let scripts = Scripts::default()
            .phase("join", JOIN)
            .phase("keys", &after_join());
        let bringup = Bringup::of_scripts(&scripts);
        let steps = bringup.plan.phases.iter().flat_map(|phase| &phase.steps);
        let mut joins = steps.filter_map(|step| match &step.spec {
            Spec::JoinMaster(join) => Some(join),
            _ => None,
        });
        let join = joins.next().expect("the plan joins");
        assert_eq!(join.api, "https://172.30.0.11:443");
        let (secret, public) = new_identity();
        let host = FakeHost::new().with_file(IDENTITY, secret);
        let now = host.with_world(|world| world.now());
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let expires = now.expect("it is after 1970") + HOUR;
        let mut file = MasterJoinFile::new("cp-1", &join.api, expires.as_secs());
        block_on(export_keys(&master, &mut file)).expect("it has all keys");
        file.masters = vec![MasterEntry {
            name: "cp-9".to_owned(),
            address: "172.30.0.19".parse().expect("an address"),
            etcd_id: Some(9),
            voter: true,
        }];
        let sealed = file.seal(&public).expect("it is sealed");
        host.with_world_mut(|world| world.file_with_mode(JOIN_FILE, sealed, 0o600));
        Self {
            bringup,
            master,
            file,
            host,
        }
    }

    /// A host with another join file: this one, changed before it was encrypted.
    fn host_with(&self, change: impl FnOnce(&mut MasterJoinFile)) -> FakeHost {
        let host = self.host.fork();
        let mut file = self.file.clone();
        change(&mut file);
        let identity = text(&host, IDENTITY).expect("it has one");
        let public = public_key(&identity).expect("it is an identity");
        let sealed = file.seal(&public).expect("it is sealed");
        host.with_world_mut(|world| world.file_with_mode(JOIN_FILE, sealed, 0o600));
        host
    }

    /// The shared files that a host has otherwise than the first master.
    fn differing(&self, host: &FakeHost) -> Vec<&'static str> {
        let differs = |path: &&str| text(host, path) != text(&self.master, path);
        SHARED.into_iter().filter(differs).collect()
    }
}

#[test]
fn a_master_comes_up_with_the_keys_of_the_others() {
    let cluster = Cluster::new();
    let (bringup, host) = (&cluster.bringup, &cluster.host);
    host.clear_journal();
    let predicted = bringup.predict(host);
    assert_eq!(
        predicted.outcome,
        Outcome::Predicted,
        "{}",
        predicted.text()
    );
    assert_eq!(host.mutations(), 0);
    let run = bringup.apply(host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert_eq!(run.changes(), predicted.changes());
    assert_eq!(cluster.differing(host), [""; 0]);
    let list = block_on(masters::read(host)).expect("a list");
    assert_eq!(list, cluster.file.masters);
    // Without the join file, too, and after it is over.
    host.with_world_mut(|world| {
        world.remove(JOIN_FILE);
        world.advance(HOUR * 2);
    });
    host.clear_journal();
    let second = bringup.apply(host);
    assert_eq!(second.outcome, Outcome::Converged, "{}", second.text());
    assert_eq!(second.changes(), Vec::<String>::new());
    let health = bringup.check(host);
    assert!(
        health
            .iter()
            .all(engine::exec::PhaseHealth::all_conditions_hold),
        "{health:?}"
    );
}

#[test]
fn a_clean_keeps_what_was_joined_and_a_purge_does_not() {
    let cluster = Cluster::new();
    let (bringup, host) = (&cluster.bringup, &cluster.host);
    let run = bringup.apply(host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    host.with_world_mut(|world| world.remove(JOIN_FILE));
    let clean = Bringup::clean(host, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    assert!(text(host, MASTERS).is_some());
    let again = bringup.apply(host);
    assert_eq!(again.outcome, Outcome::Converged, "{}", again.text());
    assert_eq!(cluster.differing(host), [""; 0]);
    host.with_world_mut(|world| world.file_with_mode(JOIN_FILE, "of operators", 0o600));
    assert!(text(host, IDENTITY).is_some(), "a clean keeps it");
    let purged = Bringup::clean(host, true);
    assert_eq!(purged.outcome, Outcome::Cleaned, "{}", purged.text());
    let record = format!("{RECORDS}/authority-cluster.json");
    let of_join = [MASTERS, JOIN_FILE, IDENTITY, record.as_str()];
    for path in SHARED.into_iter().chain(of_join) {
        assert_eq!(text(host, path), None, "{path}");
    }
    let refused = bringup.apply(host);
    assert_eq!(refused.outcome, Outcome::Refused, "it needs another file");
}

/// Also if only the phase that makes them is repaired, as nodeletd does it.
#[test]
fn without_a_join_file_a_repair_makes_no_key() {
    let cluster = Cluster::new();
    let (bringup, host) = (&cluster.bringup, &cluster.host);
    host.with_world_mut(|world| world.remove(JOIN_FILE));
    let events = Recording::default();
    let runner = Runner::new(&bringup.plan, host, &bringup.facts, &MaskedSecrets, &events);
    let keys = "keys".parse().expect("a name");
    let outcome = block_on(runner.restart(&[keys], &[]));
    assert_eq!(
        outcome.ok(),
        Some(Outcome::Refused),
        "{:?}",
        events.events()
    );
    for path in SHARED {
        assert_eq!(text(host, path), None, "{path}");
    }
}

#[test]
fn without_a_join_file_no_key_is_made() {
    let cluster = Cluster::new();
    let (bringup, host) = (&cluster.bringup, &cluster.host);
    host.with_world_mut(|world| world.remove(JOIN_FILE));
    let before = host.snapshot();
    for run in [bringup.predict(host), bringup.apply(host)] {
        assert_eq!(run.outcome, Outcome::Refused);
        let shown = run.text();
        for part in [
            "it is not there",
            "nodelet pki export cp-1 --to KEY",
            "ETCD_INITIAL_CLUSTER_STATE: new",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
    assert!(host.snapshot() == before, "nothing is touched");
}

#[test]
fn a_join_file_that_cannot_be_used_is_refused_before_anything_is_touched() {
    let cluster = Cluster::new();
    let own = "172.30.0.11".parse().expect("an address");
    let modified = cluster.host.fork();
    let sealed = text(&modified, JOIN_FILE).expect("it has one");
    let mut lines: Vec<String> = sealed.lines().map(str::to_owned).collect();
    let middle = lines.len() / 2;
    let first = if lines[middle].starts_with('A') {
        "B"
    } else {
        "A"
    };
    lines[middle].replace_range(..1, first);
    let sealed = lines.join("\n");
    modified.with_world_mut(|world| world.file_with_mode(JOIN_FILE, sealed, 0o600));
    for (host, what) in [
        (
            cluster.host_with(|file| file.node = "cp-3".to_owned()),
            "it is for node `cp-3`",
        ),
        (
            cluster.host_with(|file| file.expires = 1),
            "it expired at 1970",
        ),
        (modified, "it is damaged or incomplete"),
        (
            cluster.host_with(|file| file.masters[0].address = own),
            "master `cp-9` has the address of this host",
        ),
        (
            cluster.host_with(|file| file.addresses = vec![own]),
            "another node has the address of this host",
        ),
    ] {
        let before = host.snapshot();
        let run = cluster.bringup.apply(&host);
        assert_eq!(run.outcome, Outcome::Refused, "{what}: {}", run.text());
        assert!(run.text().contains(what), "{what}: {}", run.text());
        assert!(host.snapshot() == before, "{what}: nothing is touched");
    }
}

#[test]
fn an_interrupted_bring_up_continues_with_the_same_keys() {
    let cluster = Cluster::new();
    let whole = cluster.host.fork().with_history();
    let run = cluster.bringup.apply(&whole);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let points = sample(CrashPoint::all(&whole), 2);
    try_each(&points, |point| {
        let host = point.host.fork();
        let next = cluster.bringup.apply(&host);
        let mut problems = Vec::new();
        if next.outcome != Outcome::Converged {
            problems.push(format!("{}: {}", point.place, next.text()));
        }
        let differing = cluster.differing(&host);
        if !differing.is_empty() {
            problems.push(format!("{}: {differing:?}", point.place));
        }
        // Without the file, the keys are complete or none is made.
        let host = point.host.fork();
        host.with_world_mut(|world| world.remove(JOIN_FILE));
        let next = cluster.bringup.apply(&host);
        let differing = cluster.differing(&host);
        if next.outcome == Outcome::Converged && !differing.is_empty() {
            problems.push(format!("{}: other keys: {differing:?}", point.place));
        }
        problems
    });
}

/// Neither the plan nor what a run says or records of its steps has a key.
#[test]
fn no_key_is_shown_or_recorded() {
    let cluster = Cluster::new();
    let (bringup, host) = (&cluster.bringup, &cluster.host);
    let run = bringup.apply(host);
    let plan = serde_json::to_string(&bringup.plan).expect("a plan is JSON");
    let records = Bringup::records(host);
    assert!(!records.is_empty());
    let said = format!("{plan} {} {:?} {records:?}", run.text(), run.events);
    let its = cluster.file.authorities.values().map(|its| &its.key);
    let its = its.chain([&cluster.file.service_account_key]);
    for key in its {
        let line = key.lines().nth(1).expect("the key is in the second line");
        assert!(!said.contains(line));
    }
    let line = cluster.file.encryption_keys.lines();
    let mut line = line.filter(|line| line.trim_start().starts_with("secret:"));
    let line = line.next().expect("a key").trim();
    assert!(!said.contains(line.trim_start_matches("secret:").trim()));
}

/// The role's master `cp-1` with this state.
fn master_of_role(state: &str) -> Bringup {
    let settings = behaviour::text(fixtures("settings/cp-1.yaml"));
    let key = "ETCD_INITIAL_CLUSTER_STATE";
    let settings = settings.replace(&format!("{key}: new"), &format!("{key}: {state}"));
    assert!(settings.contains(state), "{settings}");
    Bringup::from_case(Case::of("cp-1", &settings))
}

#[test]
fn only_a_further_master_reads_a_join_file() {
    for (state, joins) in [("new", false), ("existing", true)] {
        let plan = master_of_role(state).plan;
        let mut phases = plan.phases.iter();
        let join = phases.find(|phase| phase.name.to_string() == "join");
        let join = join.expect("the role has it");
        assert_eq!(join.skipped.is_none(), joins, "{state}");
        let mut steps = join.steps.iter();
        assert!(
            !joins || steps.any(|step| matches!(step.spec, Spec::JoinMaster(_))),
            "{state}"
        );
    }
}

/// A member that may have its vote keeps its container: the quorum may need it.
#[test]
fn a_failed_promotion_takes_back_nothing() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    beside_two_masters(&host);
    host.set_faults(FaultPlan::none().fail("member_promote", "*"));
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    let etcd = || block_on(host.container("etcd")).expect("docker answers");
    let before = etcd().expect("it is left");
    assert!(before.running);
    let voters = || {
        host.with_world(|world| {
            let members = world.etcd.members.iter();
            members.filter(|member| !member.learner).count()
        })
    };
    assert_eq!(voters(), 2);
    host.set_faults(FaultPlan::none());
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert_eq!(voters(), 3);
    assert_eq!(etcd().map(|its| its.id), Some(before.id));
}

/// A first master has `existing` after its settings were changed, or by default after an upgrade. It keeps its keys and needs no file.
#[test]
fn a_first_master_keeps_its_keys_with_each_setting() {
    let new = master_of_role("new");
    let host = new.bare_host();
    host.with_world_mut(|world| world.remove(JOIN_FILE));
    let run = new.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let keys = || SHARED.map(|path| text(&host, path));
    let before = keys();
    assert!(before.iter().all(Option::is_some));
    for state in ["existing", "new"] {
        let run = master_of_role(state).apply(&host);
        assert_eq!(run.outcome, Outcome::Converged, "{state}: {}", run.text());
        assert!(keys() == before, "{state}");
    }
}
