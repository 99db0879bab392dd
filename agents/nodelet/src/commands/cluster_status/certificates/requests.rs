//! The requests of nodes for certificates that masters have not decided about in time. Pure.

use std::time::{Duration, SystemTime};

use engine::host::{CertificateRequestList, ListedRequest};

use crate::commands::cluster_status::observed::{OpenRequest, OpenRequests, Problem, shown};

/// A master decides within seconds.
const DECIDED: Duration = Duration::from_secs(60);
/// Most requests that are shown.
const SHOWN: usize = 20;

/// The requests that have been open for longer than a minute, the oldest first.
pub(in crate::commands::cluster_status) fn open(
    list: &CertificateRequestList,
    now: SystemTime,
) -> OpenRequests {
    let age = |one: &ListedRequest| now.duration_since(one.created?).ok();
    let open = list.requests.iter().filter(|one| one.is_open());
    let mut late: Vec<(Duration, &ListedRequest)> = open
        .filter_map(|one| Some((age(one)?, one)))
        .filter(|(age, _)| *age > DECIDED)
        .collect();
    late.sort_by_key(|(age, one)| (std::cmp::Reverse(*age), one.name.as_str()));
    let named = late.iter().take(SHOWN).map(|(age, one)| OpenRequest {
        name: shown(&one.name),
        requester: shown(&one.requester),
        age: age.as_secs(),
    });
    OpenRequests {
        named: named.collect(),
        more: late.len().saturating_sub(SHOWN),
        unread: list.has_more,
    }
}

/// A problem for each request that is shown, and one for the others.
pub(in crate::commands::cluster_status) fn problems(open: &OpenRequests) -> Vec<Problem> {
    let next = "`nodelet pki sign` on a master decides about it, or says why it cannot";
    let one = |its: &OpenRequest| {
        let age = humantime::format_duration(Duration::from_secs(its.age));
        let what = format!(
            "no master has decided about the request {} of {} for a certificate in {age}",
            its.name, its.requester
        );
        Problem::new(what, next)
    };
    let mut all: Vec<Problem> = open.named.iter().map(one).collect();
    if open.more > 0 {
        let what = format!("there are {} more such requests", open.more);
        all.push(Problem::new(what, next));
    }
    if open.unread {
        let what = "there are more requests for certificates than a master reads at a time";
        let next = "`nodelet pki sign` on a master deletes those that are too many, and says whose they were";
        all.push(Problem::new(what, next));
    }
    all
}

#[cfg(test)]
mod tests {
    use engine::host::RequestState;

    use super::*;

    fn request(name: String, state: RequestState, created: Option<SystemTime>) -> ListedRequest {
        ListedRequest {
            name,
            uid: String::new(),
            requester: "system:node:w-1".to_owned(),
            created,
            state,
            has_certificate: false,
        }
    }

    #[test]
    fn only_open_requests_of_more_than_a_minute_are_late_and_twenty_are_named() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let pending =
            |name: &str, created| request(name.to_owned(), RequestState::Pending, created);
        let requests = vec![
            pending("late", Some(at(939))),
            pending("in time", Some(at(940))),
            pending("of a later time", Some(at(1001))),
            pending("of no time", None),
            request(
                "denied".to_owned(),
                RequestState::Denied(String::new()),
                Some(at(1)),
            ),
        ];
        let mut all = CertificateRequestList {
            requests,
            has_more: false,
        };
        let found = open(&all, at(1000));
        assert_eq!(
            (found.named.len(), found.named[0].age, found.more),
            (1, 61, 0)
        );
        assert_eq!(found.named[0].name, "late");
        all.requests
            .extend((0..99).map(|number| pending(&format!("old-{number:02}"), Some(at(1)))));
        let found = open(&all, at(1000));
        assert_eq!((found.named.len(), found.more), (SHOWN, 80));
        assert_eq!(found.named[0].name, "old-00");
        let problems = problems(&found);
        assert_eq!(problems.len(), SHOWN + 1);
        assert!(problems[SHOWN].what.contains("80 more"), "{problems:?}");
        all.has_more = true;
        let problems = super::problems(&open(&all, at(1000)));
        assert_eq!(problems.len(), SHOWN + 2);
    }
}
