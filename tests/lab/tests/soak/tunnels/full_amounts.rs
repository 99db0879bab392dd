//! 10,000 messages, and a GiB up and down, on each path to the plane: through a proxy with and without a password, behind NAT, and over IPv6. What a host cannot do is tried on
//! each path, too. Outages are in the suite `comms::plane`.

use std::time::Instant;

use lab::Host;
use lab::package::enrol;
use lab_suites::services::Amounts;
use lab_suites::{Image, Planes, paths, refusals, services, until};

#[test]
#[ignore = "cargo xtask soak runs it"]
fn full_amounts_go_through_on_each_path() {
    let hosts = [("host-1", Image::Bare), ("host-2", Image::Bare)];
    let planes = Planes::create("amounts", &hosts, &[("proxy", Image::Plane)]);
    let plane = planes.server();
    let (first, second) = (planes.host("host-1"), planes.host("host-2"));
    let router = planes.host("proxy");
    paths::start_proxy(&router, &plane);
    paths::only_through(&first, &router);
    paths::with_password(&first);
    paths::behind_nat(&second, &router);
    for host in [&first, &second] {
        enrol(host, &plane).expect("it is enrolled");
    }
    until(&first, "it listens", "ss -Hltn sport = :9080 | grep -q .");
    services::images_are_the_same(&first, &plane, planes.toolbox());

    everything(&planes, "a proxy with a password", &first, &second);
    paths::without_password(&first, &router);
    everything(&planes, "a proxy without one", &first, &second);
    everything(&planes, "NAT", &second, &first);
    paths::change_to_ipv6(&plane, &router, [&first, &second]);
    everything(&planes, "a proxy over IPv6", &first, &second);
    everything(&planes, "IPv6", &second, &first);
}

/// What a host does on this path, and what it cannot do. Its enrolment takes this path, too.
fn everything(planes: &Planes, path: &str, host: &Host, other: &Host) {
    let began = Instant::now();
    let plane = planes.server();
    enrol(host, &plane).expect("it is enrolled again");
    until(
        host,
        "it is let in",
        "curl --silent --fail --max-time 10 http://localhost:9080/whoami",
    );
    let [own, other] = [host, other].map(|host| planes.id(host.name()));
    services::image_is_pulled(host, &plane);
    services::a_token_of_keystone(host, &plane);
    services::all_answer(planes, host, &own, Amounts::FULL);
    refusals::all(planes, host, [&own, &other]);
    println!("{path}: {:.0} s", began.elapsed().as_secs_f64());
}
