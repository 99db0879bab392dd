//! The role's plan and dry run for each fixture host, as snapshots: the same on every machine, and without secrets.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use behaviour::{
    CASES, Case, Program, Scripts, block_on, fixtures, golden, repository, snapshot_names, text,
};
use engine::env::KEYS;
use engine::exec::{Runner, simulated_host};
use engine::model::SecretRef;
use engine::plan::Plan;
use engine::report::{self, Detail, TextReport};
use engine::resource::SecretStore;

/// The value of every secret; no written text may contain it.
const SECRET: &str = "hunter2-not-for-anyones-eyes";

/// The user of the secret, where one is needed.
const USER: &str = "account";

#[test]
fn plans_are_as_reviewed() {
    let usual = Case::named("cp-1").planned();
    for (name, _) in CASES {
        let plan = Case::named(name).planned();
        let folder = format!("plans/pf9-kube/{name}");
        let mut expected = BTreeSet::new();
        for phase in &plan.phases {
            // A review reads what a case is about; phases that are as in `cp-1` have their snapshot there.
            if *name == "cp-1" || usual.phase(phase.name.as_str()) != Some(phase) {
                golden(&folder, phase.name.as_str(), &report::plan(phase));
                expected.insert(phase.name.to_string());
            }
        }
        assert_eq!(
            snapshot_names(&folder),
            expected,
            "{folder}: left: files, right: phases"
        );
    }
}

#[test]
fn dry_runs_are_as_reviewed() {
    for (name, _) in CASES {
        let case = Case::named(name);
        let plan = case.planned();
        golden("diffs/pf9-kube", name, &dry_run(&case, &plan));
    }
    let unfit = Case::of("unfit", &text(fixtures("settings/unfit.yaml")));
    let mut plan = unfit.planned();
    plan.phases
        .retain(|phase| phase.name.as_str() == "preflight");
    golden("diffs/pf9-kube", "unfit", &dry_run(&unfit, &plan));

    let mut expected: BTreeSet<String> = CASES.iter().map(|(name, _)| (*name).to_owned()).collect();
    expected.insert("unfit".to_owned());
    assert_eq!(
        snapshot_names("diffs/pf9-kube"),
        expected,
        "left: files, right: cases"
    );
}

#[test]
fn addresses_that_no_node_can_have_are_refused_before_anything_is_touched() {
    let settings = |name: &str| text(fixtures(format!("settings/{name}.yaml")));
    let of_masters = |host: &str, name: &str, from: &str, to: &str| {
        Case::of(host, &settings(name).replace(from, to))
    };
    let only_ipv6 = |name: &str| {
        let mut case = Case::named(name);
        case.facts.address = "fd00:30::11".parse().ok();
        let links = case.facts.links.iter_mut().flatten();
        for link in links.filter(|link| link.name == "eth0") {
            link.addresses = vec!["fd00:30::11/64".parse().expect("a network")];
        }
        case
    };
    let no_host = "of 172.30.0.0/24 (eth0), which no host can have";
    let no_ipv4 = "fd00:30::11 is no IPv4 address, and nodes reach one another over IPv4";
    for (case, says) in [
        (
            of_masters("cp-1", "cp-1-vip", "172.30.0.100", "172.30.0.255"),
            no_host,
        ),
        (
            of_masters("cp-1", "cp-1", "172.30.0.11", "172.30.0.255"),
            no_host,
        ),
        (
            of_masters("w-1", "wk-1", "172.30.0.11", "172.30.0.0"),
            no_host,
        ),
        (only_ipv6("cp-1"), no_ipv4),
        (only_ipv6("wk-1"), no_ipv4),
    ] {
        refuses(&case, says);
    }
}

#[test]
fn a_host_with_a_name_of_the_api_server_is_refused_before_anything_is_touched() {
    let domain = "CLUSTER_DNS_DOMAIN: example.org\n";
    let usual = Case::of("cp-1", &(text(fixtures("settings/cp-1.yaml")) + domain)).planned();
    let certs = usual.phase("certs").map(report::plan).unwrap_or_default();
    for name in [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.example.org",
    ] {
        let named = |settings: &str| {
            let settings = text(fixtures(format!("settings/{settings}.yaml"))) + domain;
            let host = if settings.contains("worker") {
                "w-1"
            } else {
                "cp-1"
            };
            let mut case = Case::of(host, &settings);
            case.facts.hostname = name.to_owned();
            case
        };
        for case in [named("cp-1"), named("wk-1")] {
            let says = format!("the host's name is `{name}`, which is a name of the API server");
            refuses(&case, &says);
        }
        // `nodelet pki issue` refuses each name of the API server's certificate.
        assert!(certs.contains(&format!("{name:?}")), "{certs}");
    }
}

/// Asserts that the dry run of the preconditions refuses the host, once, for this reason.
#[track_caller]
fn refuses(case: &Case, says: &str) {
    let mut plan = case.planned();
    plan.phases
        .retain(|phase| phase.name.as_str() == "preflight");
    let shown = dry_run(case, &plan);
    assert_eq!(shown.matches(says).count(), 1, "{says}: {shown}");
    assert!(
        shown.contains("preconditions that do not hold (1)")
            && shown
                .trim_end()
                .ends_with("refused: preconditions do not hold, nothing was touched"),
        "{shown}"
    );
}

#[test]
fn a_dry_run_is_the_same_every_time() {
    let case = Case::named("cp-1-vip");
    let plan = case.planned();
    assert_eq!(dry_run(&case, &plan), dry_run(&case, &plan));
}

#[test]
fn secret_settings_are_in_no_plan_and_no_dry_run() {
    let mut settings = text(fixtures("settings/cp-1.yaml"));
    // A password is only written if there is a user for it.
    let _ = writeln!(settings, "DOCKERHUB_ID: {USER}");
    for key in KEYS.iter().filter(|key| key.secret) {
        let _ = writeln!(settings, "{}: {SECRET}", key.name);
    }
    let case = Case::of("cp-1", &settings);
    let plan = case.planned();
    assert_without_secret(&case, &plan);
    for key in KEYS.iter().filter(|key| key.secret) {
        assert!(
            plan_text(&plan).contains(&format!("kube/{}", key.name)),
            "{} is in kube.env by reference",
            key.name
        );
    }
}

#[test]
fn secrets_of_scripts_are_in_no_plan_and_no_dry_run() {
    let case = Case::named("cp-1");
    let script = r#"
        phase("example").about("Uses a secret everywhere it may stand.").nodes(["master"]);
        let token = secret("kube/DOCKERHUB_PASSWORD");
        template("token.tmpl", "/etc/pf9/token").vars(#{ token: token }).mode("0600");
        env_file("/etc/pf9/token.env").values(#{ TOKEN: token });
        file("/etc/pf9/copy").copy_of("/etc/pf9/token");
    "#;
    let scripts = Scripts::default()
        .phase("example", script)
        .template("token.tmpl", "token={{ token }}\n");
    let plan = scripts
        .plan(&case)
        .unwrap_or_else(|message| panic!("{message}"));
    assert!(
        plan_text(&plan).contains("kube/DOCKERHUB_PASSWORD"),
        "{}",
        plan_text(&plan)
    );
    assert_without_secret(&case, &plan);
}

#[test]
fn no_secret_is_in_any_snapshot() {
    let mut folders = vec![repository().join("snapshots")];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of snapshots") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let snapshot = text(&path);
            read += 1;
            for secret in [SECRET, "hunter2", "PRIVATE KEY-----"] {
                assert!(
                    !snapshot.contains(secret),
                    "{} holds `{secret}`",
                    path.display()
                );
            }
        }
    }
    assert!(read > 0, "there are snapshots");
}

#[test]
fn a_plan_has_the_same_bytes_in_each_directory() {
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let home = elsewhere.path().display().to_string();
    let here = Program::for_cp_1("plan", &["--json"]).answer();
    let there = Program::for_cp_1("plan", &["--json"])
        .env("LANG", "tr_TR.UTF-8")
        .env("LC_ALL", "tr_TR.UTF-8")
        .env("TZ", "Pacific/Kiritimati")
        .env("HOME", &home)
        .env("COLUMNS", "40")
        .in_directory(elsewhere.path())
        .answer();
    assert_eq!(here.code, 0, "{}", here.err);
    assert_eq!(here.out, there.out);

    let json: serde_json::Value = serde_json::from_str(&here.out).expect("--json is JSON");
    let plan: Plan = serde_json::from_value(json["plan"].clone()).expect("a plan survives JSON");
    assert_eq!(
        json["digest"],
        plan.digest(),
        "the digest is that of the plan that was written"
    );
    assert_eq!(plan, Case::named("cp-1").planned());
}

/// 40 MiB is the bound of the program as it is shipped, which `cargo xtask bench` measures (docs/benchmarks.md: 20.5 MB). A debug
/// build is many times as large, and the pages of it that are touched count as well.
const PEAK: u64 = if cfg!(debug_assertions) { 64 } else { 40 } * 1024;

#[test]
fn planning_takes_little_memory() {
    let peak = Program::for_cp_1("plan", &["--json"]).peak_memory();
    let started = Instant::now();
    let answer = Program::for_cp_1("plan", &["--json"]).answer();
    // The time depends on the machine: it is printed and not judged.
    println!("nodelet plan: {:?}, {peak} KiB at most", started.elapsed());
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert!(peak <= PEAK, "{peak} KiB, bound {PEAK}");
}

/// Every phase as a review reads it.
fn plan_text(plan: &Plan) -> String {
    plan.phases.iter().map(report::plan).collect()
}

/// The dry run of a plan as `nodelet plan --dry-run` shows it.
fn dry_run(case: &Case, plan: &Plan) -> String {
    let page = Page::default();
    let detail = Detail {
        unchanged: true,
        diffs: true,
        times: false,
    };
    let report = TextReport::new(page.clone(), detail);
    let host = simulated_host(&case.facts, plan);
    let runner = Runner::new(plan, &host, &case.facts, &OneSecret, &report);
    block_on(runner.dry_run()).expect("a simulated host does not fail");
    page.text()
}

fn assert_without_secret(case: &Case, plan: &Plan) {
    let json = serde_json::to_string(plan).expect("a plan is JSON");
    for (what, text) in [
        ("the plan", json),
        ("its text", plan_text(plan)),
        ("its debug form", format!("{plan:?}")),
        ("its dry run", dry_run(case, plan)),
    ] {
        assert!(!text.contains(SECRET), "{what} holds the secret");
        // In the form that registries need: base64 of `user:password`.
        let encoded = STANDARD.encode(format!("{USER}:{SECRET}"));
        assert!(
            !text.contains(&encoded),
            "{what} holds the secret in base64"
        );
    }
}

/// Returns a value for every secret, so that a leak would show.
struct OneSecret;

impl SecretStore for OneSecret {
    fn get(&self, _: &SecretRef) -> Option<String> {
        Some(SECRET.to_owned())
    }
}

/// Keeps what a report writes.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no writer panics").clone())
            .expect("a report is text")
    }
}

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("no writer panics")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
