//! How a host reaches the plane: through a proxy, through a router that translates addresses, or over IPv6.

use lab::Host;
use lab::package::PLANE;

use super::sh;

/// Takes the routes of a host away, but the one to this address.
fn cut_off(host: &Host, other: &Host) {
    let address = other.address();
    sh(
        host,
        &format!(
            "ip route add {address}/32 dev eth0
             ip route flush default
             ip route del $(ip route show dev eth0 proto kernel scope link | cut -d' ' -f1) dev eth0"
        ),
    );
    let routes = sh(host, "ip route show dev eth0");
    assert_eq!(routes.lines().count(), 1, "{routes}");
}

/// Leaves a host no route but the one to a proxy, and tells pf9-comms of it.
pub fn only_through(host: &Host, proxy: &Host, port: u16) {
    cut_off(host, proxy);
    let address = proxy.address();
    sh(
        host,
        &format!(
            "sed -i '/{PLANE}/d' /etc/hosts
             mkdir -p /etc/pf9
             printf '%s\\n' 'plane: {{host: {PLANE}}}' \"proxy: {{url: 'http://{address}:{port}'}}\" > /etc/pf9/comms.yaml"
        ),
    );
}

/// Leaves a host no route but the one through a router, which gives its own address to what comes from it.
pub fn behind_nat(host: &Host, router: &Host) {
    cut_off(host, router);
    let (own, address) = (host.address(), router.address());
    sh(
        host,
        &format!("ip route add default via {address} dev eth0"),
    );
    sh(
        router,
        &format!(
            "sysctl --quiet --write net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0
             iptables --table nat --append POSTROUTING --source {own}/32 --jump MASQUERADE"
        ),
    );
}

/// Gives hosts an IPv6 address each, in a network of their own: `fd21::1` to the first one.
pub fn with_ipv6(hosts: &[&Host]) {
    for (number, host) in (1..).zip(hosts) {
        sh(
            host,
            &format!(
                "sysctl --quiet --write net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0
                 ip -6 address add fd21::{number}/64 dev eth0 nodad"
            ),
        );
    }
}

/// Leaves a host IPv6 only, and tells it the plane's address there.
pub fn only_ipv6(host: &Host) {
    sh(
        host,
        &format!(
            "ip -4 route flush dev eth0
             sed '/ {PLANE}$/d' /etc/hosts > /run/hosts; echo 'fd21::1 {PLANE}' >> /run/hosts; cat /run/hosts > /etc/hosts"
        ),
    );
}
