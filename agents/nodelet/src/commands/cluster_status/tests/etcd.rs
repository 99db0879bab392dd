//! Members of etcd that do not answer, lag or have no leader.

use engine::kubernetes::masters::MASTERS;

use super::fake_etcd::state;
use super::*;
use crate::etcd::EtcdMember;

/// A backup was restored on one host alone: its etcd works, and is another cluster.
#[tokio::test(start_paused = true)]
async fn an_etcd_that_is_not_the_listed_member_is_not_healthy() {
    let mut cluster = Cluster::healthy().await;
    cluster.etcd = cluster.etcd.change(3, |state| state.member_id = 0xff);
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    assert!(
        problems.contains("cp-3") && problems.contains("another member answers"),
        "{problems}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_etcd_without_a_leader_is_a_problem() {
    let mut cluster = Cluster::healthy().await;
    for number in 1..=2 {
        cluster.etcd = cluster.etcd.change(number, |state| state.leader = 0);
    }
    cluster.etcd.states.remove(&url(3));
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    assert!(problems.starts_with("etcd has no leader"), "{problems}");
    assert!(
        problems.contains("etcd member cp-3 does not answer: no answer within 3 s"),
        "{problems}"
    );
    assert_eq!(problems.lines().count(), 2, "{problems}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lags_or_reports_errors_is_a_problem() {
    let mut cluster = Cluster::healthy().await;
    cluster.etcd = cluster.etcd.change(3, |state| state.raft_index = 3998);
    assert_eq!(
        cluster.problems().await,
        (String::new(), 0),
        "1000 entries are allowed"
    );
    cluster.etcd = cluster.etcd.change(3, |state| state.raft_index = 3997);
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    assert!(
        problems.starts_with("etcd member cp-3 is 1001 entries behind"),
        "{problems}"
    );
    cluster.etcd = cluster
        .etcd
        .change(3, |state| state.errors = vec!["NOSPACE".to_owned()]);
    let (problems, _) = cluster.problems().await;
    assert!(
        problems.starts_with("etcd member cp-3 reports NOSPACE"),
        "{problems}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_of_voters_etcd_has_a_problem_and_a_learner_has_no_vote() {
    let mut cluster = Cluster::healthy().await;
    cluster.etcd.members[2].is_learner = true;
    cluster.etcd.states.remove(&url(1));
    let (problems, _) = cluster.problems().await;
    assert!(
        problems.starts_with("only 1 of 2 voting members"),
        "{problems}"
    );
}

/// It blocks all later joins. One that never started has no name, and perhaps no host.
#[tokio::test(start_paused = true)]
async fn a_learner_that_does_not_answer_is_named_with_the_command_that_removes_it() {
    for (name, next) in [
        ("", "`nodelet cluster remove a4`"),
        ("cp-4", "`nodelet cluster remove cp-4`"),
    ] {
        let mut cluster = Cluster::healthy().await;
        cluster.etcd.members.push(EtcdMember {
            id: 0xa4,
            name: name.to_owned(),
            url: None,
            is_learner: true,
        });
        let (problems, code) = cluster.problems().await;
        assert_eq!(code, 2);
        assert_eq!(problems.lines().count(), 1, "{problems}");
        assert!(problems.contains("it has never started"), "{problems}");
        assert!(problems.contains(next), "{problems}");
    }
    // The advice for a voter stays: its removal may cost the quorum.
    let mut cluster = Cluster::healthy().await;
    cluster.etcd.states.remove(&url(3));
    let (problems, _) = cluster.problems().await;
    assert!(!problems.contains("nodelet cluster remove"), "{problems}");
}

#[tokio::test(start_paused = true)]
async fn an_even_number_of_voters_is_a_problem() {
    for (number, is_even) in [(1, false), (2, true), (3, false), (4, true)] {
        let mut cluster = Cluster::healthy().await;
        cluster.etcd.members.truncate(number);
        if number == 4 {
            cluster.etcd.members.push(EtcdMember {
                id: 0xa4,
                name: "cp-4".to_owned(),
                url: Some(url(4)),
                is_learner: false,
            });
            cluster.etcd.states.insert(url(4), state(0xa4, 0xa2, 4996));
        }
        let (problems, _) = cluster.problems().await;
        let said = format!(
            "etcd has {number} voting members: it survives the loss of {}, an even number no more than {} would",
            if number == 2 { 0 } else { 1 },
            number - 1
        );
        assert_eq!(problems.contains(&said), is_even, "{number}: {problems}");
        let next = "`nodelet cluster remove NODE` removes one";
        assert_eq!(problems.contains(next), is_even, "{number}: {problems}");
    }
}

#[tokio::test(start_paused = true)]
async fn if_this_hosts_member_is_silent_another_one_names_the_members() {
    let mut cluster = Cluster::healthy().await;
    cluster.etcd.here = false;
    cluster.etcd.states.remove(&url(1));
    let status = cluster.status().await;
    let etcd = status.etcd.known().expect("another master is asked");
    assert_eq!(etcd.asked, url(2));
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    assert!(
        problems.starts_with("etcd member cp-1 does not answer"),
        "{problems}"
    );
    cluster.host = cluster
        .host
        .with_kubernetes(|rules| rules.remote_api = false);
    let status = cluster.status().await;
    assert_eq!(status.etcd.reason(), Some("no answer within 3 s"));

    // The list on this host names the other masters.
    let masters = r#"{"version":1,"masters":[{"name":"cp-1","address":"172.30.0.11","voter":true},{"name":"cp-2","address":"172.30.0.12","voter":true}]}"#;
    cluster.host = cluster.host.with_file(MASTERS, masters);
    let status = cluster.status().await;
    let asked = status.etcd.known().map(|etcd| etcd.asked.clone());
    assert_eq!(asked, Some(url(2)));
}
