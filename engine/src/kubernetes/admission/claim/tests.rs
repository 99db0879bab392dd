//! Which claims count, and which of two goes first.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::kubernetes::admission::{DamagedRecord, RemovedNode, written};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const SECOND: Duration = Duration::from_secs(1);

fn address() -> IpAddr {
    "10.0.0.7".parse().expect("an address")
}

/// The time `seconds` after a day.
fn at(seconds: u64) -> SystemTime {
    NOW + Duration::from_secs(24 * 3600 + seconds)
}

fn claiming(node: &str, at: SystemTime, request: Option<&str>) -> Admission {
    Admission {
        node: node.to_owned(),
        claim: Some(AddressClaim {
            address: address(),
            at,
            request: request.map(str::to_owned),
        }),
        ..Admission::default()
    }
}

/// The names of the nodes whose claims give way to that of `w-2`, or why it waits.
fn behind(own: &Admission, other: &Admission, now: SystemTime) -> Result<Vec<String>, String> {
    let records = [own, other].map(|record| (record.node.clone(), record.clone()));
    let all = Admissions {
        records: BTreeMap::from(records),
        damaged: Vec::new(),
    };
    let behind = own.competitors(address(), &all, now)?;
    Ok(behind.iter().map(|its| its.node.clone()).collect())
}

#[test]
fn exactly_one_of_two_claims_goes_first() {
    for (one, other) in [(5, 5), (5, 6), (6, 5)] {
        let one = claiming("w-1", at(one), None);
        let other = claiming("w-2", at(other), None);
        let results = [behind(&one, &other, at(7)), behind(&other, &one, at(7))];
        assert_eq!(
            results.iter().filter(|result| result.is_ok()).count(),
            1,
            "{results:?}"
        );
    }
    let one = claiming("w-1", at(5), None);
    let waits = behind(&claiming("w-2", at(5), None), &one, at(7));
    let why = waits.expect_err("its name is the later one");
    assert!(why.contains("waits for node `w-1`"), "{why}");
}

#[test]
fn a_claim_that_is_not_signed_ends_soon() {
    let own = claiming("w-2", at(0), None);
    let other = claiming("w-1", at(0), None);
    let end = at(0) + CLAIM_LIFE;
    behind(&own, &other, end - SECOND).expect_err("it counts");
    assert_eq!(behind(&own, &other, end), Ok(vec!["w-1".to_owned()]));
    // The clock of its master was ahead.
    let ahead = claiming("w-1", at(0) + CLAIM_LIFE, None);
    assert_eq!(behind(&own, &ahead, at(0)), Ok(vec!["w-1".to_owned()]));
}

#[test]
fn a_claim_that_is_being_signed_counts_as_long_as_a_certificate_lives() {
    let own = claiming("w-2", at(0), None);
    let other = claiming("w-1", at(9), Some("1"));
    let end = at(9) + LONGEST_LIFE + CLOCKS_DIFFER;
    behind(&own, &other, end - SECOND).expect_err("its certificate may be there");
    assert_eq!(behind(&own, &other, end), Ok(vec!["w-1".to_owned()]));
    // It went first already: it does not wait in turn.
    assert_eq!(behind(&other, &own, at(10)), Ok(Vec::new()));
}

#[test]
fn claims_of_removed_nodes_and_to_other_addresses_do_not_count() {
    let own = claiming("w-2", at(5), None);
    let mut other = claiming("w-1", at(0), None);
    other.removed = Some(RemovedNode {
        at: NOW,
        uid: String::new(),
    });
    assert_eq!(behind(&own, &other, at(6)), Ok(Vec::new()));
    let mut other = claiming("w-1", at(0), None);
    let elsewhere = "10.0.0.8".parse().expect("an address");
    other.claim.as_mut().expect("it is there").address = elsewhere;
    assert_eq!(behind(&own, &other, at(6)), Ok(Vec::new()));
}

#[test]
fn a_claim_waits_for_a_damaged_record_unless_it_went_first_already() {
    let damaged = DamagedRecord::new("nodelet-node-w-1".to_owned(), "its field");
    let all = Admissions {
        records: BTreeMap::new(),
        damaged: vec![damaged],
    };
    let waits = claiming("w-2", at(0), None).competitors(address(), &all, at(1));
    let why = waits.expect_err("w-1 may have the address");
    assert!(why.contains("edit configmap nodelet-node-w-1"), "{why}");
    let first = claiming("w-2", at(0), Some("1"));
    assert_eq!(first.competitors(address(), &all, at(1)), Ok(Vec::new()));
}

#[test]
fn a_claim_is_renewed_only_when_it_has_ended() {
    let claimed = Admission::default().claiming(address(), at(0));
    let claimed = claimed.expect("it has none");
    assert_eq!(claimed.claiming(address(), at(1)), None);
    let end = at(0) + CLAIM_LIFE;
    let again = claimed.claiming(address(), end).expect("it has ended");
    assert_eq!(again.claim.map(|claim| claim.at), Some(end));
}

#[test]
fn a_claim_that_was_signed_for_another_request_is_kept() {
    let claimed = claiming("w-1", at(0), None);
    let first = claimed.signing(address(), "1", at(1));
    assert_eq!((first.address, first.bound_to()), (None, Some(address())));
    let second = first.signing(address(), "2", at(2));
    assert_eq!((second.address, second.claim), (Some(address()), None));
}

/// Otherwise the API server would give it no new version.
#[test]
fn the_record_of_a_request_that_is_looked_at_again_changes_also_at_the_same_time() {
    let claimed = claiming("w-1", at(0), Some("1"));
    for now in [at(0), at(0) + Duration::from_micros(1), at(1)] {
        let again = claimed.signing(address(), "1", now);
        assert_ne!(written(&again).data, written(&claimed).data, "{now:?}");
        assert_eq!(again.bound_to(), Some(address()));
    }
}
