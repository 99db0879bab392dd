//! Certificates and time.

use super::*;
use crate::host::Clock as _;
use crate::resource::Action;
use crate::resource::pki::certificate::facts::Certificate;

fn end(host: &FakeHost, path: &str) -> std::time::SystemTime {
    let certificate = Certificate::parse(path, text(host, path).as_bytes()).expect("it parses");
    certificate.facts.not_after
}

#[tokio::test]
async fn it_is_renewed_past_three_fifths_of_its_life() {
    let host = with_certificate().await;
    // Its validity began two days ago and ends in 90 days.
    let due = DAY * 92 / 5 * 3 - DAY * 2;
    advance(&host, due - Duration::from_secs(600));
    assert_eq!(reissue_reasons(&host, &apiserver()).await, [""; 0]);
    advance(&host, Duration::from_secs(600));
    assert_eq!(
        reissue_reasons(&host, &apiserver()).await,
        [
            "valid until: past three fifths of its life, ends 2026-04-01T00:00:00Z → 90 days from now"
        ]
    );
    apply(&host, &apiserver()).await;
    assert_eq!(apply(&host, &apiserver()).await, None);
}

#[tokio::test]
async fn an_expired_one_is_issued_again() {
    let host = with_certificate().await;
    advance(&host, DAY * 91);
    assert_eq!(
        reissue_reasons(&host, &apiserver()).await,
        ["valid until: 2026-04-01T00:00:00Z, which is over → 90 days from now"]
    );
    apply(&host, &apiserver()).await;
    assert_eq!(apply(&host, &apiserver()).await, None);
}

/// A certificate cannot be valid longer than its authority, and is not issued again and again shortly before that ends.
#[tokio::test]
async fn nothing_is_renewed_near_the_end_of_the_authority() {
    let host = with_authority().await;
    let authority_end = end(&host, CA);
    advance(&host, DAY * 3650);
    apply(&host, &apiserver()).await;
    assert_eq!(end(&host, CRT), authority_end);
    while host.now() + Duration::from_secs(3600) < authority_end {
        assert_eq!(reissue_reasons(&host, &apiserver()).await, [""; 0]);
        advance(&host, Duration::from_secs(3600));
    }
    advance(&host, DAY);
    let error = failure(&host, &apiserver()).await;
    assert!(
        error.contains("issue certificate `apiserver`: the clock says 2036-01-01T"),
        "{error}"
    );
    assert!(
        error.contains("authority `cluster` is valid from 2025-12-30T00:00:00Z until"),
        "{error}"
    );
}

/// A component whose clock is a day behind accepts the API server's certificate that was made a moment ago.
#[tokio::test]
async fn a_clock_one_day_behind_does_not_prevent_issuing() {
    let later = with_certificate().await;
    let behind = later.now() - DAY;
    for path in [CA, CRT] {
        let certificate = Certificate::parse(path, text(&later, path).as_bytes());
        let facts = certificate.expect("it parses").facts;
        assert!(facts.is_valid_at(behind), "{path} {:?}", facts.not_before);
    }
}

/// A host that starts without a hardware clock has a time in 1970 until it is synchronized. Nothing is issued then.
#[tokio::test]
async fn a_clock_that_is_far_behind_issues_nothing() {
    let later = FakeHost::new();
    advance(&later, DAY * 365);
    apply(&later, &cluster()).await;
    apply(&later, &apiserver()).await;
    let host = FakeHost::new();
    for path in [CA, CA_KEY, CRT, KEY, TRUST] {
        let mode = if path.ends_with("key") { 0o600 } else { 0o644 };
        put(&host, path, &text(&later, path), mode);
    }
    let error = failure(&host, &apiserver()).await;
    assert!(
        error.contains("valid only from 2026-12-30T00:00:00Z"),
        "{error}"
    );
    assert!(
        error.contains("the clock says 2026-01-01T00:00:"),
        "{error}"
    );
    assert_eq!(text(&host, CRT), text(&later, CRT));
}

/// A certificate that was made while the clock was ahead does not block a host whose clock is right again: an operator removes it.
#[tokio::test]
async fn a_certificate_from_a_fast_clock_is_issued_again_after_removal() {
    let host = with_authority().await;
    let ahead = FakeHost::new();
    for path in [CA, CA_KEY] {
        let mode = if path.ends_with("key") { 0o600 } else { 0o644 };
        put(&ahead, path, &text(&host, path), mode);
    }
    advance(&ahead, DAY * 700);
    apply(&ahead, &cluster()).await;
    apply(&ahead, &apiserver()).await;
    for path in [CRT, KEY, TRUST] {
        let mode = if path.ends_with("key") { 0o600 } else { 0o644 };
        put(&host, path, &text(&ahead, path), mode);
    }
    let error = failure(&host, &apiserver()).await;
    assert!(
        error.contains(", and the clock says 2026-01-01T"),
        "{error}"
    );
    host.with_world_mut(|world| world.remove(CRT));
    apply(&host, &apiserver()).await;
    assert_eq!(apply(&host, &apiserver()).await, None);
    assert!(end(&host, CRT) < end(&ahead, CRT));
}

/// A certificate that is only due can wait; one that also differs cannot.
#[tokio::test]
async fn due_is_a_change_of_its_own_kind() {
    let host = with_certificate().await;
    advance(&host, DAY * 61);
    assert_eq!(action(&host, &apiserver()).await, Some(Action::Renew));
    let renamed = CertificateSpec {
        common_name: "another".to_owned(),
        ..apiserver()
    };
    assert_eq!(action(&host, &renamed).await, Some(Action::Change));
    advance(&host, DAY * 30);
    assert_eq!(action(&host, &apiserver()).await, Some(Action::Change));
}

#[tokio::test]
async fn short_lifetimes_are_shown_in_minutes() {
    let host = with_authority().await;
    let minute = Duration::from_secs(60);
    let short = CertificateSpec {
        life: minute * 30,
        ..apiserver()
    };
    apply(&host, &short).await;
    let leaf = Certificate::parse(CRT, text(&host, CRT).as_bytes()).expect("it parses");
    let life = leaf.facts.not_after.duration_since(leaf.facts.not_before);
    assert_eq!(life.expect("it has one"), minute * 33);
    let due = minute * 16 + Duration::from_secs(48);
    advance(&host, due - Duration::from_secs(10));
    assert_eq!(action(&host, &short).await, None);
    advance(&host, Duration::from_secs(10));
    assert_eq!(action(&host, &short).await, Some(Action::Renew));
    assert_eq!(leaf.facts.near_its_end(host.now()), None);
    advance(&host, minute * 25 - due);
    let message = leaf.facts.near_its_end(host.now()).expect("it is told");
    assert!(
        message.contains("apiserver/request.crt ends in 4m 59s"),
        "{message}"
    );
}

async fn action(host: &FakeHost, spec: &CertificateSpec) -> Option<Action> {
    let outputs = Outputs::default();
    let cx = Context {
        host,
        outputs: &outputs,
        secrets: &NoSecrets,
        absent: false,
        cancel: None,
    };
    let observed = spec.observe(&cx).await.expect("it can be observed");
    spec.diff(&observed, false).map(|change| change.action)
}

#[test]
fn a_plan_shows_lifetimes_in_readable_units() {
    for (life, text) in [(DAY * 365, "365 days"), (DAY / 48, "30m")] {
        let spec = CertificateSpec {
            life,
            ..apiserver()
        };
        let json = serde_json::to_value(&spec).expect("it is data");
        assert_eq!(json["life"], text);
        let read: CertificateSpec = serde_json::from_value(json).expect("it is one");
        assert_eq!(read, spec);
    }
}
