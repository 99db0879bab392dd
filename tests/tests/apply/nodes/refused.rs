//! Hosts of the whole role that are refused before anything on them is touched.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use behaviour::{Bringup, Case, Run, block_on, fixtures};
use engine::exec::{Event, EventSink, Recording, Runner};
use engine::host::ClaimKind;
use engine::host::fake::{FakeHost, FaultPlan};
use engine::kubernetes::join_file::{
    IDENTITY, JOIN_FILE, JoinContent as _, JoinFile, new_identity, public_key,
};
use engine::model::Outcome;
use engine::resource::MaskedSecrets;

use super::beside_two_masters;

/// The virtual IP of the case `cp-1-vip`.
const VIP: &str = "172.30.0.100";

/// A host of the case `cp-1` with these changes to its settings.
fn with_settings(changes: &[(&str, &str)]) -> Bringup {
    let mut settings = behaviour::text(fixtures("settings/cp-1.yaml"));
    for (before, after) in changes {
        assert!(settings.contains(before), "{before}: {settings}");
        settings = settings.replace(before, after);
    }
    Bringup::from_case(Case::of("cp-1", &settings))
}

/// Applies the plan, which is refused for these reasons, and checks that the host stays as it is. No master gives it another join file before.
fn refused(bringup: &Bringup, host: &FakeHost, reasons: &[&str]) {
    let Bringup { plan, facts } = bringup;
    let before = host.snapshot();
    let events = Recording::default();
    let runner = Runner::new(plan, host, facts, &MaskedSecrets, &events);
    let outcome = block_on(runner.apply()).expect("it ends");
    let run = Run {
        outcome,
        events: events.events(),
    };
    let text = run.text();
    assert_eq!(run.outcome, Outcome::Refused, "{text}");
    for reason in reasons {
        assert!(text.contains(reason), "{reason}: {text}");
    }
    assert!(host.snapshot() == before, "nothing is touched");
}

/// The text of a file of the host.
fn text(host: &FakeHost, path: &str) -> String {
    let text = host.with_world(|world| world.text(path));
    text.expect("it is there")
}

/// The join file of a bare worker.
fn join_file(host: &FakeHost) -> JoinFile {
    let opened = JoinFile::open(text(host, JOIN_FILE).as_bytes(), &text(host, IDENTITY));
    opened.expect("it is for this host")
}

/// Puts this join file on a worker, encrypted to the host with this identity.
fn put_join_file(host: &FakeHost, file: &JoinFile, identity: &str) {
    let public = public_key(identity).expect("an identity");
    let sealed = file.seal(&public).expect("it is sealed");
    host.with_world_mut(|world| world.file_with_mode(JOIN_FILE, sealed, 0o600));
}

/// Changes the join file of a bare worker.
fn change_join_file(host: &FakeHost, change: impl FnOnce(&mut JoinFile)) {
    let mut file = join_file(host);
    change(&mut file);
    put_join_file(host, &file, &text(host, IDENTITY));
}

/// Changes a character in the middle of the sealed file.
fn modify_join_file(host: &FakeHost) {
    let sealed = text(host, JOIN_FILE);
    let mut lines: Vec<String> = sealed.lines().map(str::to_owned).collect();
    let middle = lines.len() / 2;
    let other = if lines[middle].starts_with('A') {
        "B"
    } else {
        "A"
    };
    lines[middle].replace_range(..1, other);
    let sealed = lines.join("\n");
    host.with_world_mut(|world| world.file_with_mode(JOIN_FILE, sealed, 0o600));
}

#[test]
fn a_worker_without_a_usable_join_file_stays_bare() {
    /// What is done to the bare host, and what the refusal says.
    type Refusal<'a> = (&'a dyn Fn(&FakeHost), [&'a str; 2]);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let own = IpAddr::from([172, 30, 0, 21]);
    let taken_by = |host: &FakeHost, node: &str, is_master: bool| {
        change_join_file(host, |file| {
            file.add_addresses([(node, own)]);
            file.masters.extend(is_master.then_some(own));
        });
    };
    let bringup = Bringup::of("wk-1");
    let cases: [Refusal<'_>; 9] = [
        (
            &|host| host.with_world_mut(|world| world.file_with_mode(JOIN_FILE, "garbage", 0o600)),
            [JOIN_FILE, "copy the file from the master"],
        ),
        (
            &|host| put_join_file(host, &join_file(host), &new_identity().0),
            [
                "it is encrypted to the key of another host",
                "nodelet pki key",
            ],
        ),
        (
            &|host| change_join_file(host, |file| file.node = "w-2".to_owned()),
            ["it is for node `w-2`", "put the file on host `w-2`"],
        ),
        (
            &|host| change_join_file(host, |file| file.expires = 1),
            ["it expired at 1970", "nodelet pki issue w-1 --to KEY"],
        ),
        (
            &modify_join_file,
            [
                "it is damaged or incomplete",
                "copy the file from the master",
            ],
        ),
        (
            &|host| host.with_world_mut(|world| world.advance(DAY * 366 * 11)),
            ["the clock of this host says", "set the clock of this host"],
        ),
        (
            &|host| {
                let user = format!("system:bootstrap:{}", join_file(host).token.id());
                host.with_world_mut(|world| world.refuse_user(&user, true));
            },
            [
                "does not accept its token (status 401)",
                "nodelet pki issue w-1 --to KEY",
            ],
        ),
        (
            &|host| taken_by(host, "cp-1", true),
            [
                "master `cp-1` has the address of this host, 172.30.0.21",
                "nodelet cluster remove cp-1",
            ],
        ),
        (
            &|host| taken_by(host, "w-2", false),
            [
                "node `w-2` has the address of this host, 172.30.0.21",
                "nodelet cluster remove w-2",
            ],
        ),
    ];
    for (prepare, reasons) in cases {
        let host = bringup.bare_host();
        prepare(&host);
        refused(&bringup, &host, &reasons);
    }
    // With the file of its masters, it comes up.
    let run = bringup.apply(&bringup.bare_host());
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
}

/// It waits for the masters in the step that needs them, as it does if they start later.
#[test]
fn a_worker_whose_masters_do_not_answer_is_not_refused() {
    let bringup = Bringup::of("wk-1");
    let host = bringup
        .bare_host()
        .with_kubernetes(|rules| rules.remote_api = false);
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
}

/// Two hosts of a cluster behind a load balancer have `new`. The first one has begun the cluster. With a virtual IP, the precondition about
/// its user says the same.
#[test]
fn a_second_host_that_is_to_begin_the_cluster_stays_bare() {
    let bringup = with_settings(&[("MASTER_IP: 172.30.0.11", "MASTER_IP: 172.30.0.200")]);
    let host = bringup
        .bare_host()
        .with_endpoint("172.30.0.200:443", 401, "");
    let reasons = [
        "an API server answers at https://172.30.0.200:443",
        "so the cluster exists",
        "set ETCD_INITIAL_CLUSTER_STATE to existing",
    ];
    refused(&bringup, &host, &reasons);
    // The first one finds no API server.
    let run = bringup.apply(&bringup.bare_host());
    assert_ne!(run.outcome, Outcome::Refused, "{}", run.text());
}

/// Two hosts of a cluster with a virtual IP have `new`, and are started together: neither has an API server yet.
#[test]
fn hosts_that_are_to_begin_the_cluster_at_the_same_time_stay_bare() {
    let bringup = Bringup::of("cp-1-vip");
    let with_other = |host: FakeHost| {
        host.with_world_mut(|world| {
            let vip = VIP.parse().expect("an address");
            world.add_conflicting_claim(vip, "02:42:ac:1e:00:07", ClaimKind::New);
        });
        host
    };
    let host = with_other(bringup.bare_host());
    let reasons = [
        "(hardware address 02:42:ac:1e:00:07) claims 172.30.0.100 at this moment",
        "set ETCD_INITIAL_CLUSTER_STATE to new on exactly one master",
    ];
    refused(&bringup, &host, &reasons);
    // A host that has begun its cluster was first.
    let begun = bringup.bare_host();
    let run = bringup.apply(&begun);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let run = bringup.apply(&with_other(begun));
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    // A link without ARP keeps no host from beginning its cluster.
    let without = with_other(bringup.bare_host());
    without.set_faults(FaultPlan::none().fail("claim_address", "eth0"));
    let run = bringup.apply(&without);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
}

/// Looks whether a host claims the virtual IP when its phases start. When the phase `conflict_at` starts, another host
/// begins to claim it.
struct Claims<'a> {
    host: &'a FakeHost,
    conflict_at: Option<(&'a str, ClaimKind)>,
    seen: Mutex<Vec<bool>>,
}

impl EventSink for Claims<'_> {
    fn emit(&self, event: Event) {
        let Event::PhaseStarted { phase, .. } = event else {
            return;
        };
        let vip = VIP.parse().expect("an address");
        let claims = self.host.with_world(|world| world.claims(vip));
        let mut seen = self.seen.lock().expect("no other panic");
        seen.push(claims);
        if let Some((name, kind)) = self.conflict_at
            && name == phase.as_str()
        {
            self.host.with_world_mut(|world| {
                world.add_conflicting_claim(vip, "02:42:ac:1e:00:07", kind)
            });
        }
    }
}

/// Applies; gives the outcome, and for each phase whether the host claimed the virtual IP when it started.
fn claimed_in(
    bringup: &Bringup,
    host: &FakeHost,
    conflict_at: Option<(&str, ClaimKind)>,
) -> (Outcome, Vec<bool>) {
    let claims = Claims {
        host,
        conflict_at,
        seen: Mutex::default(),
    };
    let outcome = bringup.apply_for(host, &claims);
    let vip = VIP.parse().expect("an address");
    assert!(
        !host.with_world(|world| world.claims(vip)),
        "its claim ends with the run"
    );
    let seen = claims.seen.into_inner().expect("no other panic");
    (outcome, seen)
}

#[test]
fn the_virtual_ip_is_claimed_as_long_as_the_cluster_begins() {
    let bringup = Bringup::of("cp-1-vip");
    // The other host asks when this one holds its claim, and hears that.
    let host = bringup.bare_host();
    let (outcome, _) = claimed_in(&bringup, &host, Some(("etcd", ClaimKind::New)));
    assert_eq!(outcome, Outcome::Converged);
    // The switch lets frames of the other host through before etcd begins: this host has no data then.
    let host = bringup.bare_host();
    let (outcome, _) = claimed_in(&bringup, &host, Some(("etcd", ClaimKind::Held)));
    assert_eq!(outcome, Outcome::Failed);
    assert!(!host.with_world(|world| world.container_runs("etcd")));
    // keepalived does not start: etcd has data, and no host has the virtual IP.
    let host = bringup.bare_host();
    host.set_faults(FaultPlan::none().fail("start_unit", "keepalived.service"));
    let (outcome, seen) = claimed_in(&bringup, &host, None);
    assert_eq!(outcome, Outcome::Failed);
    assert!(
        seen.len() > 2 && seen.iter().all(|claims| *claims),
        "{seen:?}"
    );
    let began = seen.len();
    // A host that begins its cluster later does not disturb it.
    let (_, seen) = claimed_in(&bringup, &host, Some(("etcd", ClaimKind::Held)));
    assert_eq!(seen, vec![true; began]);
    host.set_faults(FaultPlan::none());
    let (outcome, _) = claimed_in(&bringup, &host, None);
    assert_eq!(outcome, Outcome::Converged);
    // It holds the address.
    let (outcome, seen) = claimed_in(&bringup, &host, None);
    assert_eq!(outcome, Outcome::Converged);
    assert!(
        seen.len() > 2 && seen.iter().all(|claims| !claims),
        "{seen:?}"
    );
}

#[test]
fn a_master_does_not_become_a_worker_before_it_is_cleaned() {
    let master = Bringup::of("cp-1");
    let host = master.bare_host();
    beside_two_masters(&host);
    let run = master.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    host.with_world_mut(|world| world.etcd.silence("172.30.0.19"));
    let worker = with_settings(&[
        ("ROLE: master", "ROLE: worker"),
        ("MASTER_IP: 172.30.0.11", "MASTER_IP: 172.30.0.18"),
    ]);
    // A clean asks for the quorum in turn.
    let reasons = ["so it is or was a master", "run `nodelet clean --purge`"];
    refused(&worker, &host, &reasons);
    assert!(host.with_world(|world| world.container_runs("etcd")));
}
