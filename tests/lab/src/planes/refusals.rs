//! What a host with pf9-comms cannot do: reach what belongs to another host, have another name, let other local users in, or listen outside loopback.

use lab::Host;

use super::services::CREDENTIALS;
use super::status::errors;
use super::{Planes, fails, sh};

/// All of it. The ids are the host's own one, and that of another enrolled host.
pub fn all(planes: &Planes, host: &Host, [own, other]: [&str; 2]) {
    nothing_of_another_host(planes, host, [own, other]);
    no_other_name(host, [own, other]);
    only_allowed_users(host);
    listens_on_loopback_only(host);
}

/// With its credentials for the message queue, a host reads only its own queue and publishes only as itself. Other users of the host cannot read them.
fn nothing_of_another_host(planes: &Planes, host: &Host, [own, other]: [&str; 2]) {
    planes.put_example(host, "amqp");
    let amqp = |what: &str| format!("amqp {CREDENTIALS} 5672 {what}");
    for what in [
        format!("consume host.{other}.in"),
        format!("publish host.{other}.out host.{other}.x"),
        format!("publish host.{own}.out host.{other}.x"),
        format!("declare host.{own}.more"),
        format!("declare host.{other}.more"),
        // The default exchange reaches each queue by its name.
        format!("publish '' host.{other}.in"),
        format!("bind host.{own}.in host.{other}.out"),
        format!("bind host.{other}.in host.{own}.out"),
        format!("purge host.{other}.in"),
    ] {
        let said = fails(host, &amqp(&what));
        assert!(
            said.contains("ACCESS") || said.contains("access"),
            "{what}: {said}"
        );
    }
    let mode = sh(host, &format!("stat -L -c '%U %a' {CREDENTIALS}"));
    assert_eq!(mode, "root 600");
}

/// The plane knows the host by its certificate, and not by what a program on the host says.
fn no_other_name(host: &Host, [own, other]: [&str; 2]) {
    let who = sh(
        host,
        &format!(
            "curl --silent --header 'X-PF9-Host-Id: {other}' --header 'x-pf9-host-name: {other}' --header 'X_PF9_Host_Id: {other}' --header 'X.PF9.Host.Id: {other}' http://localhost:9080/whoami"
        ),
    );
    assert_eq!(who, own);
}

/// Users that a listener does not name reach nothing.
fn only_allowed_users(host: &Host) {
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
fn listens_on_loopback_only(host: &Host) {
    let listening = sh(
        host,
        "ss -H -l -t -n -p | grep pf9-comms | awk '{print $4}'",
    );
    assert!(listening.lines().count() >= 4, "{listening}");
    let is_loopback = |its: &str| its.starts_with("127.0.0.1:") || its.starts_with("[::1]:");
    assert!(listening.lines().all(is_loopback), "{listening}");
}
