//! How a host reaches the plane: through a proxy, through a router that translates addresses, or over IPv6.

use lab::Host;
use lab::package::{COMMS, PLANE};

use super::{sh, until};

/// The port of a proxy.
const PORT: u16 = 8888;
/// The password of a proxy's user.
const PROXY_PASSWORD: &str = "of-the-proxy";

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

/// Makes a host a proxy that knows the plane, and wants a password.
pub fn start_proxy(proxy: &Host, plane: &Host) {
    sh(
        proxy,
        &format!(
            "systemctl disable --quiet --now haproxy rabbitmq-server docker-registry nginx 2> /dev/null || true
             echo '{} {PLANE}' >> /etc/hosts
             printf '%s\\n' 'Port {PORT}' 'Timeout 600' 'ConnectPort 443' 'BasicAuth plane {PROXY_PASSWORD}' 'LogFile \"/var/log/tinyproxy/tinyproxy.log\"' \
                 'User tinyproxy' 'Group tinyproxy' > /etc/tinyproxy/tinyproxy.conf
             systemctl restart tinyproxy",
            plane.address()
        ),
    );
}

/// Leaves a host no route but the one to a proxy, and tells pf9-comms of it.
pub fn only_through(host: &Host, proxy: &Host) {
    cut_off(host, proxy);
    let address = proxy.address();
    sh(
        host,
        &format!(
            "sed -i '/{PLANE}/d' /etc/hosts
             mkdir -p /etc/pf9
             printf '%s\\n' 'plane: {{host: {PLANE}}}' \"proxy: {{url: 'http://{address}:{PORT}'}}\" > /etc/pf9/comms.yaml"
        ),
    );
}

/// Gives pf9-comms of a host the password of its proxy, before it is started.
pub fn with_password(host: &Host) {
    sh(
        host,
        &format!(
            "umask 077; printf 'plane:{PROXY_PASSWORD}' > /etc/pf9/proxy.password; chown pf9: /etc/pf9/proxy.password
             sed -i \"s|'}}|', credentials: /etc/pf9/proxy.password}}|\" /etc/pf9/comms.yaml"
        ),
    );
}

/// From now on the proxy wants no password, and pf9-comms of this host, which runs, has none.
pub fn without_password(host: &Host, proxy: &Host) {
    sh(
        proxy,
        "sed -i '/^BasicAuth/d' /etc/tinyproxy/tinyproxy.conf; systemctl restart tinyproxy",
    );
    sh(
        host,
        "sed -i 's|, credentials: [^}]*||' /etc/pf9/comms.yaml; rm /etc/pf9/proxy.password; systemctl restart pf9-comms
         ! grep credentials /etc/pf9/comms.yaml",
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
fn with_ipv6(hosts: &[&Host]) {
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
fn only_ipv6(host: &Host) {
    sh(
        host,
        &format!(
            "ip -4 route flush dev eth0
             sed '/ {PLANE}$/d' /etc/hosts > /run/hosts; echo 'fd21::1 {PLANE}' >> /run/hosts; cat /run/hosts > /etc/hosts"
        ),
    );
}

/// Leaves two hosts with pf9-comms IPv6 only: the first one reaches the plane through the proxy, which wants no password from now on, the second one directly. Waits until
/// pf9-comms listens on IPv6, too.
pub fn change_to_ipv6(plane: &Host, proxy: &Host, [first, second]: [&Host; 2]) {
    with_ipv6(&[plane, proxy, first, second]);
    sh(
        proxy,
        &format!(
            "sed '/ {PLANE}$/d' /etc/hosts > /run/hosts; echo 'fd21::1 {PLANE}' >> /run/hosts; cat /run/hosts > /etc/hosts
             sed -i '/^BasicAuth/d' /etc/tinyproxy/tinyproxy.conf; echo 'Listen fd21::2' >> /etc/tinyproxy/tinyproxy.conf
             systemctl restart tinyproxy"
        ),
    );
    for host in [first, second] {
        only_ipv6(host);
    }
    sh(
        first,
        &format!(
            "sed -i '/ {PLANE}$/d' /etc/hosts; sed -i \"s|^proxy:.*|proxy: {{url: 'http://[fd21::2]:{PORT}'}}|\" /etc/pf9/comms.yaml; systemctl reload pf9-comms"
        ),
    );
    let through = format!("{COMMS} status --json | grep -qF 'fd21::2'");
    until(first, "it knows the proxy", &through);
    sh(second, "systemctl reload pf9-comms");
    for host in [first, second] {
        until(
            host,
            "it listens on IPv6, too",
            "for port in 5672 5001 8158 9080; do ss -Hltn sport = :$port | grep -qF '[::1]:' || exit 1; done",
        );
    }
}
