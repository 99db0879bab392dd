//! Hosts with pf9-comms, and a management plane: HAProxy, RabbitMQ, a registry, Keystone and nginx.

use std::path::Path;

use lab::Host;
use lab::package::{COMMS, PLANE, enrol};
use lab_suites::{Image, Planes, TOOLBOX_IMAGE, fails, only_through, sh, until};
use serde_json::Value;

/// The password of a proxy's user.
const PROXY_PASSWORD: &str = "of-the-proxy";
const MIB: u64 = 1024 * 1024;

/// What a host whose only route is to a proxy does with each service, and what it cannot do.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_host_behind_a_proxy_uses_every_service_and_no_other_host_does() {
    let hosts = [("host-1", Image::Bare), ("host-2", Image::NoDocker)];
    let planes = Planes::create("planes", &hosts, &[("proxy", Image::Plane)]);
    let plane = planes.server();
    let (first, second) = (planes.host("host-1"), planes.host("host-2"));
    start_proxy(&planes.host("proxy"), &plane);
    only_through(&first, &planes.host("proxy"), 8888);
    let refused = enrol(&first, &plane).expect_err("the proxy wants a password");
    assert!(format!("{refused:#}").contains("407"), "{refused:#}");
    sh(
        &first,
        &format!(
            "umask 077; printf 'plane:{PROXY_PASSWORD}' > /etc/pf9/proxy.password; chown pf9: /etc/pf9/proxy.password
             sed -i \"s|'}}|', credentials: /etc/pf9/proxy.password}}|\" /etc/pf9/comms.yaml"
        ),
    );
    for host in [&first, &second] {
        enrol(host, &plane).expect("it is enrolled");
    }
    let ids = [planes.id("host-1"), planes.id("host-2")];
    until(&first, "it listens", "ss -Hltn sport = :9080 | grep -q .");

    images_are_the_same(&first, &plane, planes.toolbox());
    messages_come_back(&planes, &first, &ids);
    a_token_of_keystone(&first, &plane);
    files_and_names(&first, &ids[0]);
    only_allowed_users(&first);
    listens_on_loopback_only(&first);
    outages(&planes, &first, &second);
}

/// A proxy that knows the plane, and wants a password.
fn start_proxy(proxy: &Host, plane: &Host) {
    sh(
        proxy,
        &format!(
            "systemctl disable --quiet --now haproxy rabbitmq-server docker-registry nginx 2> /dev/null || true
             echo '{} {PLANE}' >> /etc/hosts
             printf '%s\\n' 'Port 8888' 'Timeout 600' 'ConnectPort 443' 'BasicAuth plane {PROXY_PASSWORD}' 'LogFile \"/var/log/tinyproxy/tinyproxy.log\"' \
                 'User tinyproxy' 'Group tinyproxy' > /etc/tinyproxy/tinyproxy.conf
             systemctl restart tinyproxy",
            plane.address()
        ),
    );
}

/// An image that went to the registry comes back with the same digest, which the registry itself has.
fn images_are_the_same(host: &Host, plane: &Host, toolbox: &Path) {
    host.put_file(toolbox, "/var/tmp/toolbox.tar", 0o644)
        .expect("it is written");
    let name = "localhost:5001/toolbox:1";
    let pushed = sh(
        host,
        &format!(
            "docker load --quiet --input /var/tmp/toolbox.tar > /dev/null; rm /var/tmp/toolbox.tar
             docker tag {TOOLBOX_IMAGE} {name}; docker push {name} | grep -o 'sha256:[0-9a-f]*' | tail -1"
        ),
    );
    let pulled = sh(
        host,
        &format!(
            "docker rmi --force {name} {TOOLBOX_IMAGE} > /dev/null; docker pull --quiet {name} > /dev/null
             docker image inspect --format '{{{{index .RepoDigests 0}}}}' {name} | grep -o 'sha256:[0-9a-f]*'"
        ),
    );
    let kept = sh(
        plane,
        "curl -sI -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' http://127.0.0.1:5000/v2/toolbox/manifests/1 \
         | grep -i docker-content-digest | grep -o 'sha256:[0-9a-f]*'",
    );
    assert_eq!((pushed.len(), &pushed), (71, &pulled), "{kept}");
    assert_eq!(pushed, kept);
}

/// A client publishes and reads 10,000 messages; with the same credentials, it reaches nothing of another host.
fn messages_come_back(planes: &Planes, host: &Host, [own, other]: &[String; 2]) {
    planes.put_example(host, "amqp");
    sh(
        &planes.server(),
        &format!(
            "curl --silent --fail --user plane:$(cat /etc/pf9/plane/message-queue.password) --json '{{\"routing_key\": \"host.{own}.echo\"}}' \
             http://127.0.0.1:15672/api/bindings/pf9/e/host.{own}.out/q/host.{own}.in"
        ),
    );
    let amqp = |what: &str| format!("amqp /etc/pf9/comms/current/message-queue.json 5672 {what}");
    let echoed = sh(
        host,
        &amqp(&format!(
            "echo 10000 host.{own}.out host.{own}.echo host.{own}.in"
        )),
    );
    assert_eq!(echoed, "10000 there and back");
    for what in [
        format!("consume host.{other}.in"),
        format!("publish host.{other}.out host.{other}.x"),
        format!("publish host.{own}.out host.{other}.x"),
        format!("declare host.{own}.more"),
        format!("declare host.{other}.more"),
    ] {
        let said = fails(host, &amqp(&what));
        assert!(
            said.contains("ACCESS") || said.contains("access"),
            "{what}: {said}"
        );
    }
    let mode = sh(
        host,
        "stat -L -c '%U %a' /etc/pf9/comms/current/message-queue.json",
    );
    assert_eq!(mode, "root 600");
}

fn a_token_of_keystone(host: &Host, plane: &Host) {
    let password = sh(plane, "cat /etc/pf9/plane/keystone.password");
    let body = format!(
        r#"{{"auth": {{"identity": {{"methods": ["password"], "password": {{"user": {{"name": "admin", "domain": {{"id": "default"}}, "password": "{password}"}}}}}}}}}}"#
    );
    let said = sh(
        host,
        &format!(
            "runuser -u daemon -- curl --silent --dump-header - --output /dev/null --header 'Content-Type: application/json' --data @- \
             http://localhost:8158/v3/auth/tokens <<'BODY'\n{body}\nBODY"
        ),
    );
    assert!(
        said.contains("201") && said.to_lowercase().contains("x-subject-token: g"),
        "{said}"
    );
}

/// The plane knows the host by its certificate, and a GiB is the same after it went there and came back.
fn files_and_names(host: &Host, id: &str) {
    let who = sh(
        host,
        "curl --silent --header 'X-PF9-Host-Id: other' --header 'x-pf9-host-name: other' http://localhost:9080/whoami",
    );
    assert_eq!(who, id);
    let sums = sh(
        host,
        &format!(
            "head -c {} /dev/urandom > /var/tmp/file; sha256sum < /var/tmp/file
             curl --silent --fail --upload-file /var/tmp/file http://localhost:9080/files/file
             rm /var/tmp/file; curl --silent --fail http://localhost:9080/files/file | sha256sum
             curl --silent --fail --request DELETE http://localhost:9080/files/file",
            1024 * MIB
        ),
    );
    let sums: Vec<&str> = sums.lines().collect();
    assert_eq!((sums.len(), sums[0]), (2, sums[1]), "{sums:?}");
}

/// Users that a listener does not name reach nothing.
fn only_allowed_users(host: &Host) {
    for (listener, port) in [("rest", 9080), ("registry", 5001), ("amqp", 5672)] {
        fails(
            host,
            &format!("runuser -u daemon -- curl --silent --max-time 10 http://localhost:{port}/"),
        );
        let causes = causes(host, listener);
        assert!(
            causes.iter().any(|its| its == "user"),
            "{listener}: {causes:?}"
        );
    }
    sh(host, "curl --silent --fail http://localhost:9080/whoami");
}

/// The causes of the errors of a listener.
fn causes(host: &Host, listener: &str) -> Vec<String> {
    let status = sh(host, &format!("{COMMS} status --json"));
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let listeners = status["listeners"].as_array().expect("listeners");
    let its = listeners.iter().find(|its| its["name"] == listener);
    let errors = its.expect("it is there")["errors"].as_array();
    let causes = errors.expect("errors").iter();
    causes
        .filter_map(|its| its["cause"].as_str().map(str::to_owned))
        .collect()
}

fn listens_on_loopback_only(host: &Host) {
    let listening = sh(
        host,
        "ss -H -l -t -n -p | grep pf9-comms | awk '{print $4}'",
    );
    assert!(listening.lines().count() >= 4, "{listening}");
    let is_loopback = |its: &str| its.starts_with("127.0.0.1:") || its.starts_with("[::1]:");
    assert!(listening.lines().all(is_loopback), "{listening}");
}

/// What goes on when parts of the plane are replaced, are down, or refuse.
fn outages(planes: &Planes, first: &Host, second: &Host) {
    let plane = planes.server();
    let is_open = format!("{COMMS} status --json | grep -q '\"open\": 1,'");
    // A long download, which a reload leaves alone.
    sh(
        &plane,
        "head -c 200000000 /dev/urandom > /var/www/plane/files/long; sha256sum < /var/www/plane/files/long > /tmp/sum",
    );
    sh(
        first,
        "systemd-run --quiet --unit=download --property=Type=exec sh -c \
         'curl --silent --fail --limit-rate 20M http://localhost:9080/files/long | sha256sum > /run/sum'",
    );
    until(first, "it has begun", &is_open);
    sh(&plane, "systemctl reload haproxy");
    sh(first, "curl --silent --fail http://localhost:9080/whoami");
    until(
        first,
        "the download has ended",
        "! systemctl is-active --quiet download",
    );
    assert_eq!(sh(first, "cat /run/sum"), sh(&plane, "cat /tmp/sum"));
    // Everything of the plane is started again: a program waits a moment.
    sh(&plane, "systemctl restart haproxy pf9-plane");
    until(
        first,
        "the plane answers again",
        "curl --silent --fail --max-time 10 http://localhost:9080/whoami",
    );
    // One service is down: it is an error of that one.
    sh(&plane, "systemctl stop docker-registry");
    fails(
        first,
        "curl --silent --fail --max-time 10 http://localhost:5001/v2/",
    );
    sh(first, "curl --silent --fail http://localhost:9080/whoami");
    sh(&plane, "systemctl start docker-registry");
    until(
        first,
        "the registry answers again",
        "curl --silent --fail --max-time 10 http://localhost:5001/v2/",
    );
    // What the unit forbids would show when it writes what HAProxy reads.
    sh(
        &plane,
        "journalctl --output cat -u pf9-plane > /run/plane.log; ! grep 'could not write' /run/plane.log",
    );
    // A revoked host loses an open connection within a minute, and no other host does.
    for host in [first, second] {
        sh(
            host,
            r#"systemd-run --quiet --unit=open --property=Type=exec bash -c \
              'exec 3<> /dev/tcp/127.0.0.1/5001; printf "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n" >&3; cat <&3'"#,
        );
        until(host, "it is open", &is_open);
    }
    let said = planes.planectl("host revoke host-2");
    assert!(said.contains("Every ingress refuses them"), "{said}");
    until(
        second,
        "its connection has ended",
        "! systemctl is-active --quiet open",
    );
    sh(first, "systemctl is-active open; systemctl stop open");
    fails(
        second,
        "curl --silent --fail --max-time 10 http://localhost:9080/whoami",
    );
    let causes = causes(second, "rest");
    assert!(
        causes.iter().any(|its| its == "refused" || its == "broken"),
        "{causes:?}"
    );
    sh(first, "curl --silent --fail http://localhost:9080/whoami");
    // Enrolled again, it is let in: pf9-comms sees the new identity by itself.
    enrol(second, &plane).expect("it is enrolled");
    until(
        second,
        "it is let in",
        "curl --silent --fail --max-time 10 http://localhost:9080/whoami",
    );
}
