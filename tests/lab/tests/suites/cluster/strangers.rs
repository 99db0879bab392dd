//! What a host that is no master of the cluster does on the masters' network: it sends VRRP, it has the virtual IP and says nothing, or it begins
//! a cluster at the same time as another host.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use lab_suites::{After, Node, SCALED, Slate, at_once, holder, poll};

/// Messages that are sent to each master: more than an election takes at ten messages a second.
const MESSAGES: u64 = 50;
/// Time limit until a status shows what is expected, on a busy machine.
const WELL: Duration = Duration::from_secs(60);

/// A router id that no cluster of the lab has.
const FREE_ID: u8 = 77;

/// Time limit until etcd of a host has begun, on a busy machine. The host asks for other hosts before, with several limits of seconds.
const BEGUN: Duration = Duration::from_secs(60);

/// A rule of the packet filter: the host does not reach its own API server.
const OWN_API: &str = "INPUT --in-interface lo --protocol tcp --dport 443 --jump DROP";

/// Sends VRRP (version 3, RFC 5798) with the highest priority to one host. Arguments: own address, its address, router id, virtual IP,
/// number of messages.
const SENDER: &str = r#"
use strict; use Socket;
my ($own, $to, $id, $vip, $count) = @ARGV;
my ($source, $target) = map { inet_aton($_) } $own, $to;
sub sum { my $all = 0; $all += $_ for unpack("n*", shift); $all = ($all & 0xffff) + ($all >> 16) while $all >> 16; ~$all & 0xffff }
sub message { pack("CCCCnna4", 0x31, $id, 255, 1, 10, shift, inet_aton($vip)) }
my $pseudo = $source . $target . pack("CCn", 0, 112, 12);
my $message = message(sum($pseudo . message(0)));
socket(my $socket, PF_INET, SOCK_RAW, 112) or die "socket: $!";
setsockopt($socket, 0, 2, pack("i", 255)) or die "hops: $!";
for (1 .. $count) { defined send($socket, $message, 0, pack_sockaddr_in(0, $target)) or die "send: $!"; select(undef, undef, undef, 0.02) }
"#;

/// While a host begins a cluster at an address, another one that is to begin it there, too, stays as it is. The first one is ended.
pub(super) fn a_cluster_that_begins_is_alone(first: &Node, second: &Node, vip: &str) {
    let vip: Ipv4Addr = vip.parse().expect("an address");
    let beside = Ipv4Addr::from(u32::from(vip) + 1).to_string();
    let own = [
        ("MASTER_IP", beside.as_str()),
        ("MASTER_VIP_VROUTER_ID", "52"),
        ("ETCD_INITIAL_CLUSTER_STATE", "new"),
    ];
    let both = [first, second];
    let before = at_once(&both, |node| Slate::of_host(node.host()));
    for node in both {
        node.configure(&[SCALED, &own].concat());
    }
    thread::scope(|scope| {
        let begins = scope.spawn(|| first.apply(&[]));
        // Its claim has succeeded twice, and the run still holds it. Before the second time, a host that only asks would have it refused, too.
        let begun = "ss -H -l -t -n 'sport = :4001' | grep -q .";
        first.wait_for("its etcd has begun", begun, BEGUN);
        // It must not come to its end before the other host was refused, however busy the machine is: so it waits for its own API server.
        first.sh(&format!("iptables --wait --insert {OWN_API}"));
        let _ = second.apply(&[]).refused().says(&[
            "at this moment, so it begins a cluster there, too",
            "set ETCD_INITIAL_CLUSTER_STATE to new on exactly one master",
        ]);
        first.sh("pkill --signal INT --exact nodelet");
        let _ = begins.join().expect("it ends").exits(2);
        first.sh(&format!("iptables --wait --delete {OWN_API}"));
    });
    let _ = first.nodelet(&["clean", "--purge"]).exits(0);
    let compared: Vec<(&Node, Slate)> = both.into_iter().zip(before).collect();
    at_once(&compared, |(node, before)| {
        before.assert_same_host(node.host(), After::Purge, "a cluster that was not begun");
    });
}

/// Messages of a stranger with the highest priority reach each master, which drops them: none gives the address up.
pub(super) fn vrrp_of_a_stranger_changes_nothing(stranger: &Node, masters: &[Node], vip: &str) {
    let (before, _) = holder(masters, vip);
    let id = before.sh("sed -n 's/^ *virtual_router_id *//p' /etc/keepalived/keepalived.conf");
    let own = address(stranger);
    let marks: Vec<(u64, String)> = masters
        .iter()
        .map(|master| (dropped(master), journal_mark(master)))
        .collect();
    let id = id.trim();
    at_once(masters, |master| {
        let target = address(master);
        stranger.sh(&format!(
            "perl - {own} {target} {id} {vip} {MESSAGES} <<'SENDER'\n{SENDER}\nSENDER"
        ));
    });
    for (master, (drops, mark)) in masters.iter().zip(marks) {
        let name = master.name();
        let now = dropped(master);
        assert!(
            now >= drops + MESSAGES,
            "{name} dropped {drops} packets before and {now} after {MESSAGES} messages"
        );
        let journal = master.sh(&format!(
            "journalctl --quiet --after-cursor='{mark}' --unit=keepalived"
        ));
        let has_moved = ["Entering", "Received advert"]
            .iter()
            .any(|words| journal.contains(words));
        assert!(!has_moved, "{name} has listened to a stranger:\n{journal}");
    }
    let (after, _) = holder(masters, vip);
    assert_eq!(before.name(), after.name());
}

/// Before a master takes another router id, it hears that a stranger sends with it, although its packet filter drops that.
pub(super) fn a_router_id_of_a_stranger_is_refused(stranger: &Node, master: &Node, vip: &str) {
    let (own, target) = (address(stranger), address(master));
    stranger.sh(&format!(
        "cat > /root/sender.pl <<'SENDER'\n{SENDER}\nSENDER\n\
         systemd-run --quiet --unit=sender perl /root/sender.pl {own} {target} {FREE_ID} {vip} 100000"
    ));
    let other = "/root/other-settings";
    master.sh(&format!(
        "cp -r /etc/pf9/nodelet {other}; echo 'MASTER_VIP_VROUTER_ID: {FREE_ID}' > {other}/zz.yaml"
    ));
    let wanted = format!("{own} sends VRRP with router id {FREE_ID}");
    let mut last = String::new();
    let is_refused = poll(WELL, || {
        last = master.nodelet(&["plan", "--config", other]).text();
        last.contains(&wanted).then_some(())
    });
    stranger.sh("systemctl stop sender; rm /root/sender.pl");
    master.sh(&format!("rm -r {other}"));
    assert!(is_refused.is_some(), "{}: {last}", master.name());
}

/// A host that has the address and says nothing takes connections from the holder. Each master reports it until it gives the address up.
pub(super) fn a_silent_holder_is_reported(stranger: &Node, masters: &[Node], vip: &str) {
    let hardware = stranger.sh("cat /sys/class/net/eth0/address");
    let hardware = hardware.trim();
    // It ends by itself, also if this test does not come to its end.
    stranger.sh(&format!(
        "ip address add {vip}/32 dev eth0 valid_lft 300 preferred_lft 300"
    ));
    at_once(masters, |master| {
        let mut last = String::new();
        let is_reported = poll(WELL, || {
            last = master.nodelet(&["cluster", "status"]).text();
            let wanted = ["2 hosts hold the virtual IP", hardware, "no master"];
            wanted.iter().all(|text| last.contains(text)).then_some(())
        });
        assert!(is_reported.is_some(), "{}: {last}", master.name());
    });
    stranger.sh(&format!("ip address del {vip}/32 dev eth0"));
    at_once(masters, |master| {
        master.wait_for("all is well again", "nodelet cluster status", WELL);
    });
}

/// The packets that the rule for strangers has dropped.
fn dropped(master: &Node) -> u64 {
    let packets = master.sh("iptables -w 10 -nvxL PF9-VRRP | awk '$3 == \"DROP\" { print $1 }'");
    packets.trim().parse().expect("one rule drops")
}

/// The end of the journal at present.
fn journal_mark(master: &Node) -> String {
    let mark = master.sh("journalctl --quiet --lines=0 --show-cursor | sed -n 's/^-- cursor: //p'");
    assert!(!mark.trim().is_empty(), "the journal has no end");
    mark.trim().to_owned()
}

/// The address of a host in the lab's network.
fn address(host: &Node) -> String {
    let address = host
        .sh("ip -4 -o address show dev eth0 | awk '{ sub(\"/.*\", \"\", $4); print $4; exit }'");
    address.trim().to_owned()
}
