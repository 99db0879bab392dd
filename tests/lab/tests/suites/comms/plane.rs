//! Hosts with pf9-comms, and a management plane: HAProxy, RabbitMQ, a registry, Keystone and nginx. One host reaches it through a proxy only, the other one
//! through a router that translates addresses, and in the end both over IPv6.

use std::time::Duration;

use lab::Host;
use lab::package::{COMMS, enrol};
use lab_suites::services::Amounts;
use lab_suites::status::{errors, listener};
use lab_suites::{Image, Planes, fails, paths, poll, refusals, services, sh, until};

/// A connection that finds no way to the plane is tried again at most so often if nothing changes, and then given up (`agents/comms/src/path/retry.rs`).
const WITHOUT_CHANGES: u64 = 7;
/// Until the cause of an error is in the status.
const REPORTED: Duration = Duration::from_secs(20);

/// What such a host does with each service, and what it cannot do. It is one test, because the plane takes longer to come up than all that is done with it.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_host_behind_a_proxy_uses_every_service_and_no_other_host_does() {
    let hosts = [("host-1", Image::Bare), ("host-2", Image::Bare)];
    let planes = Planes::create("planes", &hosts, &[("proxy", Image::Plane)]);
    let plane = planes.server();
    let (first, second) = (planes.host("host-1"), planes.host("host-2"));
    let router = planes.host("proxy");
    paths::start_proxy(&router, &plane);
    paths::only_through(&first, &router);
    paths::behind_nat(&second, &router);
    let refused = enrol(&first, &plane).expect_err("the proxy wants a password");
    assert!(format!("{refused:#}").contains("407"), "{refused:#}");
    paths::with_password(&first);
    for host in [&first, &second] {
        enrol(host, &plane).expect("it is enrolled");
    }
    let ids = [planes.id("host-1"), planes.id("host-2")];
    until(&first, "it listens", "ss -Hltn sport = :9080 | grep -q .");

    services::images_are_the_same(&first, &plane, planes.toolbox());
    services::all_answer(&planes, &first, &ids[0], Amounts::FULL);
    comes_from_the_router(&planes, &second, &router);
    changes_of_the_network_end_pauses(&second, &plane);
    services::image_is_pulled(&second, &plane);
    services::all_answer(&planes, &second, &ids[1], Amounts::SMALL);
    let [one, other] = ids.each_ref().map(String::as_str);
    for (host, ids) in [(&first, [one, other]), (&second, [other, one])] {
        services::a_token_of_keystone(host, &plane);
        refusals::all(&planes, host, ids);
    }
    outages(&planes, (&first, &ids[0]), (&second, &ids[1]));
    over_ipv6(&planes, &ids);
}

/// What goes on when parts of the plane are replaced, are down, or refuse.
fn outages(planes: &Planes, (first, id): (&Host, &str), (second, other): (&Host, &str)) {
    let plane = planes.server();
    let is_open = format!("{COMMS} status --json | grep -q '\"open\": 1,'");
    // A long download, which a reload leaves alone.
    sh(
        &plane,
        "head -c 200000000 /dev/urandom > /var/www/plane/files/long; sha256sum < /var/www/plane/files/long > /tmp/sum",
    );
    begin_download(first, "20M");
    until(first, "it has begun", &is_open);
    sh(&plane, "systemctl reload haproxy");
    sh(first, "curl --silent --fail http://localhost:9080/whoami");
    until(
        first,
        "the download has ended",
        "! systemctl is-active --quiet download",
    );
    assert_eq!(sh(first, "cat /run/sum"), sh(&plane, "cat /tmp/sum"));
    // The ingress and planectl are started again, and RabbitMQ runs on: a program waits a moment. A download fails or is whole, and no confirmed message is lost.
    begin_download(first, "10M");
    until(first, "it has begun", &is_open);
    services::confirmed_messages_outlast(first, id, || {
        sh(first, "systemctl is-active --quiet download");
        sh(&plane, "systemctl restart haproxy pf9-plane");
        until(
            first,
            "the plane answers again",
            "curl --silent --fail --max-time 10 http://localhost:9080/whoami",
        );
    });
    until(
        first,
        "the download has ended",
        "! systemctl is-active --quiet download",
    );
    let sum = sh(first, "cat /run/sum");
    assert!(
        sum == "failed" || sum == sh(&plane, "cat /tmp/sum"),
        "{sum}"
    );
    message_queue_is_restarted(&plane, (first, id), (second, other));
    // One service is down: it is an error of that one. The ingress says so in HTTP, or pf9-comms reports the cause.
    let before = errors(first, "registry");
    sh(&plane, "systemctl stop docker-registry");
    let status = sh(
        first,
        "curl --silent --output /dev/null --write-out '%{http_code}' --max-time 10 http://localhost:5001/v2/ || true",
    );
    if status != "503" {
        assert_eq!(status, "000", "no answer");
        let reported = || {
            let after = errors(first, "registry");
            let mut grown = after.iter().filter(|its| Some(its.1) > before.get(its.0));
            grown.next().map(|(cause, _)| cause.clone())
        };
        let cause = poll(REPORTED, reported).expect("a cause is reported");
        println!("the registry is down: {cause}");
    }
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
        hold_open(host);
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
    let errors = errors(second, "rest");
    assert!(
        ["refused", "broken", "no-answer"]
            .into_iter()
            .any(|cause| errors.contains_key(cause)),
        "{errors:?}"
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

/// RabbitMQ is restarted while one host publishes and another one waits for a message. Both are told that their connection has ended, and no confirmed message is lost.
fn message_queue_is_restarted(
    plane: &Host,
    (publisher, id): (&Host, &str),
    (consumer, other): (&Host, &str),
) {
    let process = || {
        sh(
            plane,
            "systemctl show --value --property MainPID rabbitmq-server",
        )
    };
    let before = process();
    let stop = || {
        sh(
            plane,
            "systemctl stop rabbitmq-server; test -z \"$(ss -Hltn sport = :5672)\"",
        );
    };
    let start = || {
        sh(plane, "systemctl start rabbitmq-server");
    };
    let told = services::confirmed_messages_outlast(publisher, id, || {
        services::waiting_client_outlasts(consumer, other, stop, start);
    });
    let after = process();
    assert!(
        before != "0" && after != "0" && before != after,
        "it was not restarted: process {before}, then {after}"
    );
    // The client did not find out only by its own time limit. Its first connection may have needed more than one attempt.
    let broken = |line: &&str| !line.starts_with("after 0 messages");
    let first = told.lines().find(broken).unwrap_or_default();
    assert!(
        first.starts_with("after ") && !first.contains("deadline"),
        "{told}"
    );
}

/// Downloads a long file at this rate in the background. `/run/sum` then has its sum, or says that curl failed.
fn begin_download(host: &Host, rate: &str) {
    sh(
        host,
        &format!(
            "systemd-run --quiet --unit=download --property=Type=exec bash -c 'set -o pipefail
             curl --silent --fail --limit-rate {rate} http://localhost:9080/files/long | sha256sum > /run/sum || echo failed > /run/sum'"
        ),
    );
}

/// Keeps a connection open with a request whose body does not end: HAProxy ends one on which nothing is asked.
fn hold_open(host: &Host) {
    sh(
        host,
        "systemd-run --quiet --unit=open --property=Type=exec sh -c \
         'while sleep 1 && echo; do :; done | curl --silent --fail --upload-file - http://localhost:9080/files/open'",
    );
}

/// For the plane, the host behind the router has the router's address.
fn comes_from_the_router(planes: &Planes, host: &Host, router: &Host) {
    hold_open(host);
    let plane = planes.server();
    let is_peer = |host: &Host| {
        format!(
            "ss -H -t -n state established sport = :443 dst {} | grep -q .",
            host.address()
        )
    };
    until(
        host,
        "it has a connection to the plane",
        &format!(
            "ss -H -t -n state established dst {} dport = :443 | grep -q .",
            plane.address()
        ),
    );
    until(&plane, "it is connected", &is_peer(router));
    fails(&plane, &is_peer(host));
    sh(host, "systemctl stop open");
}

/// While there is no way to the plane, pf9-comms pauses between its attempts, and a change of the network ends a pause. So changes cause more attempts than a connection
/// has time for without them. No connection of this listener may be in reserve. One attempt answers the changes of 50 to 100 ms, and on a busy machine those of a longer
/// time. So the network changes for two to three seconds, and the way is back before the attempts end, after five.
fn changes_of_the_network_end_pauses(host: &Host, plane: &Host) {
    let retries = || listener(host, "amqp")["retries"].as_u64().expect("a count");
    let before = retries();
    let address = plane.address();
    sh(
        host,
        &format!(
            "ip route add blackhole {address}/32
             exec 3<> /dev/tcp/127.0.0.1/5672
             printf 'AMQP\\0\\0\\11\\1' >&3
             end=$((SECONDS + 3))
             while [ $SECONDS -lt $end ]; do ip address add 198.51.100.1/32 dev eth0; ip address del 198.51.100.1/32 dev eth0; done
             ip route del blackhole {address}/32
             test $(timeout 20 head -c 1 <&3 | wc -c) = 1"
        ),
    );
    let attempts = retries() - before;
    assert!(attempts > WITHOUT_CHANGES, "{attempts} attempts");
}

/// The same without any IPv4: one host directly, the other one through a proxy that wants no password.
fn over_ipv6(planes: &Planes, ids: &[String; 2]) {
    let (plane, proxy) = (planes.server(), planes.host("proxy"));
    let (first, second) = (planes.host("host-1"), planes.host("host-2"));
    paths::change_to_ipv6(&plane, &proxy, [&first, &second]);
    let [one, other] = ids.each_ref().map(String::as_str);
    for (host, ids) in [(&first, [one, other]), (&second, [other, one])] {
        services::image_is_pulled(host, &plane);
        services::a_token_of_keystone(host, &plane);
        services::all_answer(planes, host, ids[0], Amounts::SMALL);
        refusals::all(planes, host, ids);
        enrol(host, &plane).expect("it is enrolled again");
        services::all_answer(planes, host, ids[0], Amounts::SMALL);
    }
}
