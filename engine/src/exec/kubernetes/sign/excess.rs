//! Requests beyond what is kept of one requester.
//!
//! Any node can make requests, and the controller-manager deletes each of them an hour after its decision. So a single node could make the list so
//! long that no master reads it to its end, and no other node gets a certificate any more.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures::{StreamExt as _, stream};

use crate::host::{ClusterAccess, Host, ListedRequest, RequestState};
use crate::kubernetes::node_request::MOST_PENDING;
use crate::model::chain;

/// So many settled requests of a requester stay: the newest ones.
const SETTLED_KEPT: usize = 20;
/// So many undecided requests of a requester stay until they are decided. Those after the first [`MOST_PENDING`] are denied, so that their
/// requester finds the reason.
const PENDING_KEPT: usize = 2 * MOST_PENDING;
/// Most requests that one call deletes.
pub(super) const MOST_DELETED: usize = 5000;
/// So many are deleted at a time.
const AT_ONCE: usize = 16;
/// No further deletion begins after this time, and none after so many that have failed: the API server may not answer.
const LONGEST: Duration = Duration::from_secs(20);
const MOST_FAILED: usize = 10;

/// What became of the requests beyond what is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeletedRequests {
    /// How many are gone, by their requester. Another master may have deleted some of them.
    pub numbers: BTreeMap<String, usize>,
    /// How many were left for the next call.
    pub left: usize,
    /// Why one of them could not be deleted.
    pub problem: Option<String>,
}

/// Splits requests into those beyond what is kept of their requesters, and all others. Both stay in their order. An approved request is
/// no excess: it is about to be signed.
pub(super) fn split_excess(
    requests: Vec<ListedRequest>,
) -> (Vec<ListedRequest>, Vec<ListedRequest>) {
    let mut by_age: Vec<(usize, &ListedRequest)> = requests.iter().enumerate().collect();
    by_age.sort_by(|(_, one), (_, other)| {
        (one.created, &one.name).cmp(&(other.created, &other.name))
    });
    let is_pending = |its: &ListedRequest| its.is_open() && its.state == RequestState::Pending;
    let pending = by_age.iter().filter(|(_, its)| is_pending(its));
    let settled = by_age.iter().rev().filter(|(_, its)| !its.is_open());
    let mut is_excess = vec![false; requests.len()];
    mark_beyond(PENDING_KEPT, pending, &mut is_excess);
    mark_beyond(SETTLED_KEPT, settled, &mut is_excess);
    let mut excess = Vec::new();
    let mut kept = Vec::new();
    for (request, is_excess) in requests.into_iter().zip(is_excess) {
        match is_excess {
            true => excess.push(request),
            false => kept.push(request),
        }
    }
    (excess, kept)
}

/// Marks all but the first `most` requests of each requester.
fn mark_beyond<'a>(
    most: usize,
    requests: impl Iterator<Item = &'a (usize, &'a ListedRequest)>,
    marked: &mut [bool],
) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, request) in requests {
        let count = counts.entry(&request.requester).or_default();
        *count += 1;
        if *count > most {
            marked[*at] = true;
        }
    }
}

/// Deletes at most [`MOST_DELETED`] of these requests. One that has changed meanwhile is left for the next call. Cancel safe.
pub(super) async fn delete(
    host: &dyn Host,
    access: &ClusterAccess,
    mut excess: Vec<ListedRequest>,
) -> DeletedRequests {
    // Masters that delete at the same time begin at different places.
    let time = host.now().duration_since(SystemTime::UNIX_EPOCH);
    let start = time.unwrap_or_default().subsec_nanos() as usize % excess.len().max(1);
    excess.rotate_left(start);
    let all = excess.len();
    excess.truncate(MOST_DELETED);
    let mut deleted = DeletedRequests::default();
    let (began, mut failed) = (host.elapsed(), 0);
    let mut deletions = stream::iter(&excess)
        .map(async |request| {
            let ended = host.delete_certificate_request(access, request).await;
            (request, ended)
        })
        .buffered(AT_ONCE);
    while let Some((request, ended)) = deletions.next().await {
        match ended {
            Ok(()) => {
                *deleted
                    .numbers
                    .entry(request.requester.clone())
                    .or_default() += 1
            }
            Err(error) => {
                failed += 1;
                deleted.problem.get_or_insert(chain(&error).join(": "));
            }
        }
        if failed == MOST_FAILED || host.elapsed().saturating_sub(began) >= LONGEST {
            break;
        }
    }
    deleted.left = all - deleted.numbers.values().sum::<usize>();
    deleted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests of this user with the ages 0, 1, …, in this state.
    fn requests(user: &str, state: &RequestState, number: usize) -> Vec<ListedRequest> {
        let request = |age: usize| ListedRequest {
            // A name says nothing about the age.
            name: format!("{}-{user}", (age * 7) % 101),
            uid: format!("{age}"),
            requester: user.to_owned(),
            created: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age as u64)),
            state: state.clone(),
            has_certificate: false,
        };
        (0..number).map(request).collect()
    }

    fn ages(requests: &[ListedRequest], user: &str) -> Vec<usize> {
        let its = requests.iter().filter(|its| its.requester == user);
        its.map(|its| its.uid.parse().expect("a number")).collect()
    }

    #[test]
    fn the_oldest_pending_and_the_newest_settled_requests_of_a_requester_stay() {
        let denied = RequestState::Denied(String::new());
        let mut signed = requests("signed", &RequestState::Approved, SETTLED_KEPT + 1);
        for request in &mut signed {
            request.has_certificate = true;
        }
        let all = [
            requests("pending", &RequestState::Pending, PENDING_KEPT + 2),
            requests("approved", &RequestState::Approved, PENDING_KEPT + 2),
            requests("denied", &denied, SETTLED_KEPT + 3),
            signed,
            requests("few", &denied, SETTLED_KEPT),
        ];
        let (excess, kept) = split_excess(all.concat());
        assert_eq!(ages(&excess, "pending"), [0, 1]);
        let others = 2..PENDING_KEPT + 2;
        assert_eq!(ages(&kept, "pending"), others.collect::<Vec<_>>());
        assert!(ages(&excess, "approved").is_empty());
        assert_eq!(ages(&excess, "denied"), [20, 21, 22]);
        assert_eq!(ages(&excess, "signed"), [20]);
        assert!(ages(&excess, "few").is_empty());
    }
}
