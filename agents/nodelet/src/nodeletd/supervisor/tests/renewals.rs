//! Certificates that are due while other things fail.

use super::*;

/// A phase that fails for months must not keep the certificates of other components from renewal.
#[tokio::test(start_paused = true)]
async fn certificates_are_renewed_while_another_phase_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    *host.due.lock().expect("no test panicked") = ["etcd", "kubelet"].map(str::to_owned).into();
    beside(&host, directory.path(), async |_| {
        attempts(&host, 5).await;
        let renewed: Vec<String> = host
            .done()
            .into_iter()
            .map(|(_, words)| words)
            .filter(|words| words.starts_with("certs"))
            .collect();
        assert_eq!(
            renewed,
            ["certs renew kubelet"],
            "etcd itself is what fails"
        );
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(900)).await;
        let (_, last) = host.done().pop().expect("something was done");
        assert_eq!(last, "certs renew etcd");
    })
    .await;
}

/// A component whose renewal fails is tried again with growing pauses. The failure is reported, and does not block other renewals.
#[tokio::test(start_paused = true)]
async fn a_failed_renewal_does_not_block_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    *host.due.lock().expect("no test panicked") = ["etcd", "kubelet"].map(str::to_owned).into();
    *host.unrenewable.lock().expect("no test panicked") = "etcd".to_owned();
    let renewals = |of: &str| -> Vec<Duration> {
        let done = host.done().into_iter();
        let its = done.filter(|(_, words)| *words == format!("certs renew {of}"));
        its.map(|(at, _)| at).collect()
    };
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        assert_eq!(renewals("kubelet").len(), 1, "{:?}", host.done());
        let tried = renewals("etcd");
        assert!((3..100).contains(&tried.len()), "in a day: {tried:?}");
        let pauses: Vec<Duration> = tried.windows(2).map(|two| two[1] - two[0]).collect();
        let growing = pauses[1..].is_sorted() && pauses[1] < Duration::from_secs(65);
        let hourly = pauses
            .last()
            .is_some_and(|last| (3600..3700).contains(&last.as_secs()));
        assert!(growing && hourly, "{pauses:?}");
        let view = handles.view.borrow().clone().expect("it looks");
        let is_reported = view.conditions.iter().any(|condition| {
            condition.status == Status::False && condition.reason.contains("etcd")
        });
        assert!(is_reported, "{:?}", view.conditions);
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
        host.unrenewable.lock().expect("no test panicked").clear();
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        assert_eq!(renewals("etcd").len(), tried.len() + 1);
    })
    .await;
}
