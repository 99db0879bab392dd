//! The virtual IP of several masters: a change of the masters reloads keepalived, and a firewall rule lets only masters take the address.

use behaviour::{Bringup, Case, Run, block_on, fixtures, text};
use engine::exec::{Event, Recording, Runner, failed_phases, restart_set};
use engine::facts::{AddressUser, FactQuery, MasterEntry, Requirement, gather_with};
use engine::host::VrrpSender;
use engine::host::fake::FakeHost;
use engine::model::{Outcome, PhaseName};
use engine::resource::MaskedSecrets;

const CONFIG: &str = "/etc/keepalived/keepalived.conf";

/// The first master's plan while the masters with these numbers form the cluster.
fn among(masters: &[u8]) -> Bringup {
    let mut case = Case::named("cp-1-vip");
    case.facts.masters = masters.iter().copied().map(master).collect();
    Bringup::from_case(case)
}

fn master(number: u8) -> MasterEntry {
    MasterEntry {
        name: format!("cp-{number}"),
        address: [172, 30, 0, 10 + number].into(),
        etcd_id: Some(u64::from(number)),
        voter: true,
    }
}

/// The plan of the same master, or of one that joins, in a cluster that exists, with this setting in place of the usual one.
fn existing(usual: &str, setting: &str) -> Bringup {
    let mut settings = text(fixtures("settings/cp-1-vip.yaml"));
    for (from, to) in [
        (
            "ETCD_INITIAL_CLUSTER_STATE: new",
            "ETCD_INITIAL_CLUSTER_STATE: existing",
        ),
        (usual, setting),
    ] {
        assert!(settings.contains(from), "{from}: {settings}");
        settings = settings.replace(from, to);
    }
    let mut case = Case::of("cp-1", &settings);
    case.facts.masters = [1, 2].map(master).into();
    Bringup::from_case(case)
}

/// VRRP with this router id from the host whose address ends with this number.
fn sender(router_id: u8, last: u8) -> VrrpSender {
    VrrpSender {
        router_id,
        address: [172, 30, 0, last].into(),
    }
}

/// Lets a host outside of the cluster have this address.
fn taken(bringup: &mut Bringup, address: &str) {
    let user = AddressUser::Another("unknown issuer".to_owned());
    let users = &mut bringup.facts.address_users;
    users.insert(format!("{address}:443"), user);
}

/// Whether other hosts decide about it.
fn is_about_other_hosts(requirement: &Requirement) -> bool {
    matches!(
        requirement,
        Requirement::VirtualIpFree { .. } | Requirement::VirtualRouterFree { .. }
    )
}

/// The rules of the chain for VRRP, and whether all packets get there.
fn rules(host: &FakeHost) -> (String, bool) {
    let snapshot = host.snapshot();
    let state = |chain: &str| {
        let name = format!("chain iptables filter {chain}");
        let mut resources = snapshot.resources();
        let found = resources.find(|(resource, _)| *resource == name);
        found.map(|(_, state)| state.to_owned()).unwrap_or_default()
    };
    (state("PF9-VRRP"), state("INPUT").starts_with("-j PF9-VRRP"))
}

/// Calls that concern the unit of keepalived.
fn calls(host: &FakeHost) -> Vec<&'static str> {
    let calls = host.mutating_calls().into_iter();
    let calls = calls.filter(|call| call.argument.starts_with("keepalived"));
    calls.map(|call| call.name).collect()
}

/// Applies what depends on the masters, as `nodelet masters` does.
fn follow(bringup: &Bringup, host: &FakeHost) -> Run {
    host.clear_journal();
    let run = bringup.apply_only(host, &["vrrp-firewall", "keepalived"]);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    run
}

fn restart(bringup: &Bringup, host: &FakeHost, set: &[PhaseName]) -> Outcome {
    let (plan, facts, ignored) = (&bringup.plan, &bringup.facts, Recording::default());
    let runner = Runner::new(plan, host, facts, &MaskedSecrets, &ignored);
    block_on(runner.restart(set, &[])).expect("it is written down")
}

#[test]
fn a_change_of_the_masters_reloads_keepalived_and_restarts_nothing() {
    let alone = among(&[]);
    let host = alone.bare_host();
    let run = alone.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let first = host.snapshot();
    let nothing_else = "-p 112 -j DROP";
    assert_eq!(rules(&host), (nothing_else.to_owned(), true));
    for (masters, peers) in [
        (&[1, 2][..], &["172.30.0.12"][..]),
        (&[1, 2, 3], &["172.30.0.12", "172.30.0.13"]),
        (&[1, 3], &["172.30.0.13"]),
    ] {
        let several = among(masters);
        follow(&several, &host);
        assert_eq!(calls(&host), ["reload_unit"], "{masters:?}");
        let text = host.with_world(|world| world.text(CONFIG)).expect("a file");
        let words: Vec<&str> = text.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "unicast_peer");
        let listed = &words[at.expect("a block") + 2..];
        assert_eq!(listed[..peers.len()], *peers, "{text}");
        assert_eq!(listed[peers.len()], "}", "{text}");
        assert!(text.contains("unicast_src_ip 172.30.0.11\n"), "{text}");
        let accepted = peers.iter();
        let accepted: String = accepted
            .map(|peer| format!("-s {peer}/32 -p 112 -j ACCEPT; "))
            .collect();
        assert_eq!(rules(&host), (accepted + nothing_else, true));
        assert_eq!(follow(&several, &host).changes(), [""; 0], "{masters:?}");
        assert_eq!(calls(&host), [""; 0], "{masters:?}");
    }
    // The last master is as the only one was.
    follow(&among(&[1]), &host);
    assert_eq!(calls(&host), ["reload_unit"]);
    let text = |snapshot: &engine::host::fake::WorldSnapshot| {
        let ours = snapshot.resources();
        let ours =
            ours.filter(|(name, _)| name.contains("keepalived.conf") || name.contains("VRRP"));
        ours.map(|(name, one)| format!("{name}: {one}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(text(&host.snapshot()), text(&first));
}

/// Equal priorities would let two masters take the address in the same moment. This host has each place in the list once.
#[test]
fn no_two_masters_have_the_same_priority() {
    let host = Bringup::brought_up("cp-1-vip").1;
    for (setting, expected) in [
        (1, [5, 4, 3, 2, 1]),
        (80, [80, 61, 42, 23, 4]),
        (100, [100, 80, 60, 40, 20]),
        (254, [254, 234, 214, 194, 174]),
    ] {
        for (place, priority) in expected.into_iter().enumerate() {
            let settings = text(fixtures("settings/cp-1-vip.yaml"));
            let settings = format!("{settings}\nMASTER_VIP_PRIORITY: {setting}\n");
            let mut case = Case::of("cp-1", &settings);
            let others = (0..4_u8).map(|number| MasterEntry {
                name: match usize::from(number) < place {
                    true => format!("before-{number}"),
                    false => format!("later-{number}"),
                },
                address: [172, 30, 0, 20 + number].into(),
                etcd_id: Some(u64::from(number)),
                voter: true,
            });
            case.facts.masters = others.collect();
            follow(&Bringup::from_case(case), &host);
            let config = host.with_world(|world| world.text(CONFIG)).expect("a file");
            let line = format!("priority {priority}\n");
            assert!(config.contains(&line), "{setting}, {place}: {config}");
        }
    }
}

/// Reports hide the old lines of a file that other users cannot read. This one has no secret.
#[test]
fn a_change_of_keepalived_shows_the_old_line_beside_the_new_one() {
    let host = Bringup::brought_up("cp-1-vip").1;
    let settings = text(fixtures("settings/cp-1-vip.yaml"));
    let settings = format!("{settings}\nMASTER_VIP_PRIORITY: 90\n");
    let run = follow(&Bringup::from_case(Case::of("cp-1", &settings)), &host);
    let mut changes = run.events.iter().filter_map(|event| match event {
        Event::StepChanging { step, change, .. } if step.as_str().ends_with(CONFIG) => {
            change.text.as_ref()
        }
        _ => None,
    });
    let shown = changes.next().expect("the file changes");
    assert!(shown.before.contains("priority 100\n"), "{}", shown.before);
    assert!(shown.after.contains("priority 90\n"), "{}", shown.after);
}

/// A boot, a firewall script or an operator changes the rules. A repair that restarted keepalived would move the address.
#[test]
fn a_repair_of_the_rules_leaves_keepalived_alone() {
    let bringup = among(&[]);
    let host = bringup.bare_host();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let intact = rules(&host);
    for input in [
        "*filter\n-F PF9-VRRP\nCOMMIT\n",
        "*filter\n-D INPUT -j PF9-VRRP\n-F PF9-VRRP\n-X PF9-VRRP\nCOMMIT\n",
        "*filter\n-I INPUT 1 -j REJECT\nCOMMIT\n",
    ] {
        host.with_world_mut(|world| world.firewall_input("iptables", input));
        assert_ne!(rules(&host), intact, "{input}");
        let set = restart_set(&bringup.plan, &failed_phases(&bringup.check(&host)));
        let names: Vec<&str> = set.iter().map(PhaseName::as_str).collect();
        assert_eq!(names, ["vrrp-firewall"], "{input}");
        host.clear_journal();
        let outcome = restart(&bringup, &host, &set);
        assert_eq!(outcome, Outcome::Converged, "{input}");
        assert_eq!(calls(&host), [""; 0], "{input}");
        assert_eq!(rules(&host), intact, "{input}");
    }
}

/// It is active for the service manager, and announces nothing: another master takes the address, and this one still has it.
#[test]
fn a_keepalived_whose_process_is_stopped_is_restarted() {
    let bringup = among(&[]);
    let host = bringup.bare_host();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert_eq!(failed_phases(&bringup.check(&host)).len(), 0);
    host.with_world_mut(|world| world.stop_process("0::/system.slice/keepalived.service\n"));
    let set = restart_set(&bringup.plan, &failed_phases(&bringup.check(&host)));
    let names: Vec<&str> = set.iter().map(PhaseName::as_str).collect();
    assert_eq!(names, ["keepalived"]);
    let outcome = restart(&bringup, &host, &set);
    assert_eq!(outcome, Outcome::Converged);
    assert_eq!(failed_phases(&bringup.check(&host)).len(), 0);
}

#[test]
fn each_of_several_masters_warns_of_a_virtual_ip_that_does_not_answer() {
    let warns = |masters: &[u8]| {
        let plan = among(masters).plan;
        let keepalived = plan.phase("keepalived").expect("a phase");
        let mut checks = keepalived.checks.iter();
        let check = checks.find(|check| check.name == "the virtual IP answers");
        check.map(|check| check.advisory)
    };
    assert_eq!(warns(&[]), None);
    assert_eq!(warns(&[1]), None);
    assert_eq!(warns(&[1, 2]), Some(true));
}

#[test]
fn a_master_with_a_virtual_ip_needs_the_program_of_the_check_script() {
    let mut bringup = among(&[]);
    let programs = bringup.facts.programs.as_mut().expect("they are known");
    assert!(programs.remove("curl"));
    let host = bringup.bare_host();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Refused, "{}", run.text());
    assert!(run.text().contains("curl"), "{}", run.text());
}

#[test]
fn a_virtual_ip_that_another_host_uses_is_refused_before_anything_is_changed() {
    let mut bringup = among(&[]);
    taken(&mut bringup, "172.30.0.100");
    let host = bringup.bare_host();
    let before = host.snapshot();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Refused, "{}", run.text());
    let text = run.text();
    assert!(text.contains("172.30.0.100 is in use by a host"), "{text}");
    assert_eq!(host.snapshot(), before);
}

#[test]
fn a_router_id_that_another_host_uses_is_refused_before_anything_is_changed() {
    let mut bringup = among(&[]);
    let mut heard = |router_id| {
        let senders = [sender(router_id, 77)].into();
        bringup.facts.vrrp_senders = [("eth0".to_owned(), senders)].into();
        let host = bringup.bare_host();
        let before = host.snapshot();
        let run = bringup.apply(&host);
        let is_bare = host.snapshot() == before;
        (run.outcome, run.text(), is_bare)
    };
    let (outcome, text, is_bare) = heard(51);
    assert_eq!(outcome, Outcome::Refused, "{text}");
    for part in [
        "172.30.0.77 sends VRRP with router id 51",
        "choose a router id",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(is_bare);
    let (outcome, text, _) = heard(52);
    assert_eq!(outcome, Outcome::Converged, "{text}");
}

#[test]
fn each_master_needs_a_free_virtual_ip_and_router_id() {
    let asked = |bringup: &Bringup| {
        let all = bringup.plan.phases.iter();
        let all = all.flat_map(|phase| &phase.requirements);
        all.filter(|one| is_about_other_hosts(&one.requirement))
            .count()
    };
    assert_eq!(asked(&among(&[])), 2);
    let usual = "MASTER_IP: 172.30.0.100";
    assert_eq!(asked(&existing(usual, usual)), 2);
}

/// Whether an apply is refused because of this, and leaves the host as it is.
fn assert_refused(bringup: &Bringup, host: &FakeHost, parts: &[&str]) {
    let before = host.snapshot();
    let run = bringup.apply(host);
    assert_eq!(run.outcome, Outcome::Refused, "{}", run.text());
    for part in parts {
        assert!(run.text().contains(part), "{part}: {}", run.text());
    }
    assert_eq!(host.snapshot(), before);
}

#[test]
fn a_master_that_runs_refuses_values_that_another_host_uses() {
    let (_, host) = Bringup::brought_up("cp-1-vip");
    let address = ("MASTER_IP: 172.30.0.100", "MASTER_IP: 172.30.0.101");
    let mut moved = existing(address.0, address.1);
    taken(&mut moved, "172.30.0.101");
    let why = [
        "172.30.0.101 is in use by a host that is no master",
        "choose an address that no host has",
    ];
    assert_refused(&moved, &host, &why);
    let id = ("MASTER_VIP_VROUTER_ID: 51", "MASTER_VIP_VROUTER_ID: 52");
    let mut renumbered = existing(id.0, id.1);
    let senders = [sender(52, 77), sender(51, 12)].into();
    renumbered.facts.vrrp_senders = [("eth0".to_owned(), senders)].into();
    let why = [
        "172.30.0.77 sends VRRP with router id 52",
        "choose a router id",
    ];
    assert_refused(&renumbered, &host, &why);
}

/// The masters change one after the other: those that were changed use the new values already, the others still the old ones.
#[test]
fn a_master_that_runs_takes_the_values_of_its_cluster() {
    let (_, host) = Bringup::brought_up("cp-1-vip");
    let mut moved = existing("MASTER_IP: 172.30.0.100", "MASTER_IP: 172.30.0.101");
    let users = &mut moved.facts.address_users;
    users.insert("172.30.0.101:443".to_owned(), AddressUser::ThisCluster);
    // The address itself is a new one, too.
    assert_eq!(judged(&mut moved, &host), (2, Vec::new()));
    let id = ("MASTER_VIP_VROUTER_ID: 51", "MASTER_VIP_VROUTER_ID: 52");
    let mut renumbered = existing(id.0, id.1);
    let senders = [sender(52, 12), sender(51, 12), sender(51, 77)].into();
    renumbered.facts.vrrp_senders = [("eth0".to_owned(), senders)].into();
    assert_eq!(judged(&mut renumbered, &host), (1, Vec::new()));
    // Nothing has changed, so nothing is asked, and no answer counts.
    let mut same = existing("MASTER_IP: 172.30.0.100", "MASTER_IP: 172.30.0.100");
    taken(&mut same, "172.30.0.100");
    same.facts.vrrp_senders = [("eth0".to_owned(), [sender(51, 77)].into())].into();
    assert_eq!(judged(&mut same, &host), (0, Vec::new()));
    // Another port belongs to the same address, which its holder may not listen on yet.
    let port = "MASTER_IP: 172.30.0.100\nK8S_API_PORT: 6443";
    let mut same_address = existing("MASTER_IP: 172.30.0.100", port);
    let user = AddressUser::Another("a host is there".to_owned());
    let users = &mut same_address.facts.address_users;
    users.insert("172.30.0.100:6443".to_owned(), user);
    let (_, failed) = judged(&mut same_address, &host);
    assert_eq!(failed, Vec::<String>::new());
}

/// Its cluster uses the virtual IP and the router id, and it knows neither the certificates nor all addresses of its masters yet.
#[test]
fn a_master_that_joins_does_not_ask_about_its_own_cluster() {
    let usual = "MASTER_IP: 172.30.0.100";
    let mut joining = existing(usual, usual);
    joining.facts.masters.clear();
    taken(&mut joining, "172.30.0.100");
    joining.facts.vrrp_senders = [("eth0".to_owned(), [sender(51, 12)].into())].into();
    let host = joining.bare_host();
    let (_, failed) = judged(&mut joining, &host);
    assert_eq!(failed, Vec::<String>::new());
    let unmet = |bringup: &Bringup| {
        let (plan, facts, ignored) = (&bringup.plan, &bringup.facts, Recording::default());
        let runner = Runner::new(plan, &host, facts, &MaskedSecrets, &ignored);
        let unmet = block_on(runner.unmet_requirements());
        unmet.into_iter().any(is_about_other_hosts)
    };
    assert!(!unmet(&joining), "it listens to no other host");
    assert!(unmet(&among(&[])), "the first master asks");
}

/// Its first apply has recorded what was met, and has failed before it had the authority of its cluster.
#[test]
fn a_master_whose_join_has_failed_does_not_ask_about_its_own_cluster() {
    let (_, host) = Bringup::brought_up("cp-1-vip");
    for path in ["certs/apiserver/ca.crt", "ca/cluster/ca.crt"] {
        host.with_world_mut(|world| world.remove(format!("/etc/pf9/kube.d/{path}")));
    }
    let mut moved = existing("MASTER_IP: 172.30.0.100", "MASTER_IP: 172.30.0.101");
    taken(&mut moved, "172.30.0.101");
    let (_, failed) = judged(&mut moved, &host);
    assert_eq!(failed, Vec::<String>::new());
}

/// An earlier release has not asked a master that joined, and has recorded nothing.
#[test]
fn a_joined_master_of_an_earlier_release_asks_only_about_another_address() {
    let (_, host) = upgraded(is_about_other_hosts);
    let usual = "MASTER_IP: 172.30.0.100";
    let mut same = existing(usual, usual);
    taken(&mut same, "172.30.0.100");
    same.facts.vrrp_senders = [("eth0".to_owned(), [sender(51, 77)].into())].into();
    assert_eq!(judged(&mut same, &host), (0, Vec::new()));
    let mut moved = existing(usual, "MASTER_IP: 172.30.0.101");
    taken(&mut moved, "172.30.0.101");
    let (_, failed) = judged(&mut moved, &host);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].contains("172.30.0.101 is in use"), "{failed:?}");
}

/// The bring-up, and a host that an earlier release has brought up: it knew none of the requirements of which this is true.
fn upgraded(unknown: fn(&Requirement) -> bool) -> (Bringup, FakeHost) {
    let mut bringup = among(&[]);
    let plan = bringup.plan.clone();
    for phase in &mut bringup.plan.phases {
        phase.requirements.retain(|one| !unknown(&one.requirement));
    }
    let host = bringup.bare_host();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    bringup.plan = plan;
    let rivals = [sender(51, 77), sender(52, 77)].into();
    bringup.facts.vrrp_senders = [("eth0".to_owned(), rivals)].into();
    (bringup, host)
}

/// How many requirements need facts, and what keeps an apply from beginning.
fn judged(bringup: &mut Bringup, host: &FakeHost) -> (usize, Vec<String>) {
    let gathered = block_on(gather_with(host, &FactQuery::for_a_plan()));
    bringup.facts.met_before = gathered.expect("they are gathered").met_before;
    let ignored = Recording::default();
    let runner = Runner::new(
        &bringup.plan,
        host,
        &bringup.facts,
        &MaskedSecrets,
        &ignored,
    );
    let unmet = block_on(runner.unmet_requirements()).len();
    let failed = block_on(runner.failed_preconditions()).expect("they are judged");
    (unmet, failed.into_iter().map(|its| its.problem).collect())
}

#[test]
fn a_master_that_an_earlier_release_brought_up_does_not_listen_again() {
    let is_of_router = |one: &Requirement| matches!(one, Requirement::VirtualRouterFree { .. });
    let (mut bringup, host) = upgraded(is_of_router);
    assert_eq!(judged(&mut bringup, &host), (0, Vec::new()));
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    // The apply has recorded the id, so another one is judged.
    for phase in &mut bringup.plan.phases {
        for one in &mut phase.requirements {
            if let Requirement::VirtualRouterFree { router_id, .. } = &mut one.requirement {
                *router_id = 52;
            }
        }
    }
    let (unmet, failed) = judged(&mut bringup, &host);
    assert_eq!((unmet, failed.len()), (1, 1), "{failed:?}");
    assert!(failed[0].contains("router id 52"), "{failed:?}");
}

#[test]
fn a_master_that_gets_a_virtual_ip_later_needs_a_free_router_id() {
    let is_of_virtual_ip = |one: &Requirement| {
        matches!(
            one,
            Requirement::VirtualRouterFree { .. } | Requirement::VirtualIp { .. }
        )
    };
    let (mut bringup, host) = upgraded(is_of_virtual_ip);
    let (unmet, failed) = judged(&mut bringup, &host);
    assert_eq!((unmet, failed.len()), (2, 1), "{failed:?}");
}
