//! Which host has an address on a network of this host, by the kernel's table of neighbours.
//!
//! The kernel asks for the hardware address (ARP, or neighbour discovery of IPv6) before it sends a first packet, and every host answers
//! that, no matter which packets it drops. So the kernel's entry is removed, a packet is sent that means nothing, and the table is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::host::{CommandSpec, HostError, HostResult, Processes};

/// The port `discard`.
const DISCARD: u16 = 9;
/// How long a host may take to answer: it does within milliseconds.
const ANSWER: Duration = Duration::from_millis(500);
/// The same for a host whose entry is old: the kernel asks it again only after five seconds, and then for three.
const CONFIRMATION: Duration = Duration::from_millis(8500);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// An entry as `ip -json neigh show` prints it, with only the fields that are read here.
#[derive(Debug, Deserialize)]
struct Shown {
    #[serde(default)]
    lladdr: Option<String>,
    #[serde(default)]
    state: Vec<String>,
}

/// What the kernel's table says of an address.
#[derive(Debug, PartialEq, Eq)]
enum Neighbour {
    /// A host with this hardware address has answered.
    There(String),
    /// None has answered.
    Nowhere,
    /// The kernel asks, and no host has answered yet.
    Asked,
    /// A host was there, and the kernel is going to ask it again.
    Old,
}

/// The hardware address of the host that has this address. A user other than root cannot remove the kernel's entry: then a host that was
/// there half a minute ago can still count. Cancel safe.
pub(super) async fn hardware_address(
    host: &(dyn Processes + Sync),
    address: IpAddr,
) -> HostResult<Option<String>> {
    let started = Instant::now();
    let shown = address.to_string();
    // The kernel believes an entry for up to 45 s without a new question. Entries that an operator has set (`PERMANENT`) stay.
    let forget = CommandSpec::new(["ip", "neigh", "flush", "to", shown.as_str()]);
    if let Err(error) = host.run_ok(&forget).await {
        tracing::debug!("could not remove the kernel's entry of {address}: {error}");
    }
    // No route leads there, or the kernel knows already that no host answers: the table tells.
    if let Err(error) = knock(address).await {
        tracing::debug!("could not send a packet to {address}: {error}");
    }
    let command =
        CommandSpec::new(["ip", "-json", "neigh", "show", "to", shown.as_str()]).complete_output();
    loop {
        let output = host.run_ok(&command).await?.stdout;
        let found = parsed(&output)
            .map_err(|error| HostError::service(format!("read `{}`", command.display()), error))?;
        match found {
            Neighbour::There(hardware) => return Ok(Some(hardware)),
            Neighbour::Nowhere => return Ok(None),
            Neighbour::Asked if started.elapsed() >= ANSWER => return Ok(None),
            Neighbour::Old if started.elapsed() >= CONFIRMATION => return Ok(None),
            Neighbour::Asked | Neighbour::Old => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Sends an empty packet.
async fn knock(address: IpAddr) -> std::io::Result<()> {
    let any = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    let to = SocketAddr::new(address, DISCARD);
    socket.send_to(&[], to).await.map(drop)
}

/// The program prints nothing, or an empty list, if there is no entry. An entry that is `STALE` was not asked about since.
fn parsed(output: &str) -> Result<Neighbour, serde_json::Error> {
    let shown: Vec<Shown> = match output.trim() {
        "" => Vec::new(),
        text => serde_json::from_str(text)?,
    };
    let is = |entry: &Shown, states: &[&str]| {
        let mut its = entry.state.iter();
        its.any(|state| states.contains(&state.as_str()))
    };
    let there = |entry: &&Shown| is(entry, &["REACHABLE", "PERMANENT"]);
    if let Some(hardware) = shown.iter().find(there).and_then(|its| its.lladdr.clone()) {
        return Ok(Neighbour::There(hardware));
    }
    let any = |states: &[&str]| shown.iter().any(|entry| is(entry, states));
    if any(&["DELAY", "PROBE"]) {
        return Ok(Neighbour::Old);
    }
    Ok(match any(&["INCOMPLETE"]) {
        true => Neighbour::Asked,
        false => Neighbour::Nowhere,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::host::CommandOutput;
    use crate::host::fake::{FakeHost, Program};

    /// The kernel's entry of a host that left a moment ago.
    #[tokio::test]
    async fn an_entry_from_before_the_question_does_not_count() {
        let host = FakeHost::new();
        host.with_world_mut(|world| {
            let forgotten = AtomicBool::new(false);
            let ip = Program::probe(move |command, _| {
                if command.argv.iter().any(|word| word == "flush") {
                    forgotten.store(true, Ordering::Relaxed);
                }
                let state = match forgotten.load(Ordering::Relaxed) {
                    true => r#""state":["FAILED"]"#,
                    false => r#""lladdr":"02:42:ac:1e:00:07","state":["REACHABLE"]"#,
                };
                CommandOutput {
                    status: 0,
                    stdout: format!(r#"[{{"dst":"127.0.0.9","dev":"eth0",{state}}}]"#),
                    stderr: String::new(),
                }
            });
            world.program_does("ip", ip);
        });
        let address = "127.0.0.9".parse().expect("an address");
        let found = hardware_address(&host, address).await;
        assert_eq!(found.expect("the table is read"), None);
    }

    #[test]
    fn the_table_of_neighbours_is_read_as_ip_prints_it() {
        let entry = |state: &str| {
            format!(
                r#"[{{"dst":"172.30.0.100","dev":"eth0","lladdr":"02:42:ac:1e:00:07","state":["{state}"]}}]"#
            )
        };
        let there = || Neighbour::There("02:42:ac:1e:00:07".to_owned());
        for (output, found) in [
            (String::new(), Neighbour::Nowhere),
            ("[]\n".to_owned(), Neighbour::Nowhere),
            (entry("REACHABLE"), there()),
            (entry("PERMANENT"), there()),
            (entry("STALE"), Neighbour::Nowhere),
            (entry("DELAY"), Neighbour::Old),
            (entry("PROBE"), Neighbour::Old),
            (
                r#"[{"dst":"172.30.0.100","dev":"eth0","state":["FAILED"]}]"#.to_owned(),
                Neighbour::Nowhere,
            ),
            (
                r#"[{"dst":"172.30.0.100","dev":"eth0","state":["INCOMPLETE"]}]"#.to_owned(),
                Neighbour::Asked,
            ),
        ] {
            assert_eq!(parsed(&output).expect("it is JSON"), found, "{output}");
        }
        assert!(parsed("172.30.0.100 dev eth0").is_err());
    }
}
