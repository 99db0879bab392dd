//! A lost ledger of a host that has joined a cluster.

use std::collections::BTreeSet;

use behaviour::{Bringup, Case, fixtures, text};
use engine::ledger::{Ledger, Record};
use engine::model::Outcome;

use super::{applied_host, at, lost, recover};

/// What only the masters can give, a simulated host does not have: the content of a join file, and signatures.
#[test]
fn a_lost_ledger_of_a_host_that_joined_is_rebuilt() {
    let settings = text(fixtures("settings/cp-1.yaml"));
    let (new, existing) = (
        "ETCD_INITIAL_CLUSTER_STATE: new",
        "ETCD_INITIAL_CLUSTER_STATE: existing",
    );
    assert!(settings.contains(new));
    let joined = Bringup::from_case(Case::of("cp-1", &settings.replace(new, existing)));
    let (_, master, bare_master) = applied_host("cp-1");
    assert_eq!(joined.apply(&master).outcome, Outcome::Converged);
    let (worker, host, bare_worker) = applied_host("wk-1");
    for (what, bringup, host, before_role) in [
        ("master", joined, master, bare_master),
        ("worker", worker, host, bare_worker),
    ] {
        let all = Bringup::records(&host);
        host.with_world_mut(|world| {
            for name in ["ledger.jsonl", "ledger.tip", "ledger.backup.jsonl"] {
                world.remove(at(name));
            }
        });
        assert!(lost(&bringup, &host).is_some(), "{what}: it is noticed");
        let recovered = recover(&bringup, &host, false).expect("it can be recovered");
        assert_eq!(
            lost(&bringup, &host).map(|its| its.to_string()),
            None,
            "{what}"
        );
        let again = bringup.apply(&host);
        assert_eq!(again.outcome, Outcome::Converged, "{}", again.text());
        assert_eq!(again.changes(), [""; 0], "{what}");
        let keys = |records: &[Record]| -> BTreeSet<String> {
            let live = Ledger::live_in(records).into_iter();
            live.map(|its| its.undo.key()).collect()
        };
        let (before, now) = (keys(&all), keys(&Bringup::records(&host)));
        // A resource is named by its last word.
        let told = |resource: &str| {
            let name = resource.split(' ').next_back().unwrap_or_default();
            let mut lines = recovered.unknown.iter();
            lines.any(|line| line.split([' ', ':']).any(|word| word == name))
        };
        let missing: Vec<&String> = before.difference(&now).filter(|its| !told(its)).collect();
        assert_eq!(missing, [""; 0], "{what}: {:#?}", recovered.unknown);
        let clean = Bringup::clean(&host, true);
        assert_eq!(clean.outcome, Outcome::Cleaned, "{what}: {}", clean.text());
        let mut left = bringup.not_cleaned(&before_role, &host, true);
        left.retain(|line| line.contains("/etc/pf9") || line.contains("/opt/pf9"));
        assert_eq!(left, [""; 0], "{what}");
    }
}
