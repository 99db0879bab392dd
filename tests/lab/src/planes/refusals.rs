//! What a host with pf9-comms does not do: let other local users in, or listen outside loopback.

use lab::Host;

use super::status::errors;
use super::{fails, sh};

/// Users that a listener does not name reach nothing.
pub fn only_allowed_users(host: &Host) {
    for (listener, port) in [("rest", 9080), ("registry", 5001), ("amqp", 5672)] {
        let before = errors(host, listener);
        fails(
            host,
            &format!("runuser -u daemon -- curl --silent --max-time 10 http://localhost:{port}/"),
        );
        let after = errors(host, listener);
        assert!(
            after.get("user") > before.get("user"),
            "{listener}: {before:?} {after:?}"
        );
    }
    sh(host, "curl --silent --fail http://localhost:9080/whoami");
}

/// pf9-comms listens on loopback and nowhere else.
pub fn listens_on_loopback_only(host: &Host) {
    let listening = sh(
        host,
        "ss -H -l -t -n -p | grep pf9-comms | awk '{print $4}'",
    );
    assert!(listening.lines().count() >= 4, "{listening}");
    let is_loopback = |its: &str| its.starts_with("127.0.0.1:") || its.starts_with("[::1]:");
    assert!(listening.lines().all(is_loopback), "{listening}");
}
