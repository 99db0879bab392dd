//! Virtual services of IPVS, the kernel's load balancer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// An address whose packets IPVS balances. Its servers are added and removed with it. Services selected by a firewall mark are not
/// included; no component of Kubernetes makes them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VirtualService {
    /// How the packets are carried.
    pub transport: Transport,
    /// To which address and port they go.
    pub at: SocketAddr,
}

/// A protocol above IP that IPVS balances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

impl Transport {
    /// All of them, with their names in `/proc/net/ip_vs`.
    const NAMES: [(Self, &str); 3] = [(Self::Tcp, "TCP"), (Self::Udp, "UDP"), (Self::Sctp, "SCTP")];

    /// Its number (IANA, Assigned Internet Protocol Numbers).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    fn name(self) -> &'static str {
        let mut names = Self::NAMES.iter();
        names
            .find(|(one, _)| *one == self)
            .map_or("", |(_, name)| name)
    }
}

impl fmt::Display for VirtualService {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.transport.name(), self.at)
    }
}

impl VirtualService {
    /// All services that `/proc/net/ip_vs` lists (`ip_vs_info_seq_show` in the kernel's `ip_vs_ctl.c` writes it). The head and the indented
    /// lines of servers are skipped.
    ///
    /// # Errors
    /// A line that cannot be read: an unknown service would be left behind.
    pub fn listed(text: &str) -> Result<Vec<Self>, String> {
        let skipped = ["IP Virtual Server", "Prot ", "FWM ", " ", "\t"];
        let services = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .filter(|line| !skipped.iter().any(|start| line.starts_with(start)));
        services
            .map(|line| Self::of_line(line).ok_or_else(|| line.trim().to_owned()))
            .collect()
    }

    /// One line, for example `TCP  0A150001:01BB rr` or `UDP  [fd00:…:0001]:0035 rr`.
    fn of_line(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let (transport, _) = Transport::NAMES.iter().find(|(_, one)| *one == name)?;
        let (address, port) = words.next()?.rsplit_once(':')?;
        let six = address
            .strip_prefix('[')
            .and_then(|it| it.strip_suffix(']'));
        let address = match six {
            Some(six) => IpAddr::V6(six.parse::<Ipv6Addr>().ok()?),
            None => IpAddr::V4(Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?)),
        };
        let port = u16::from_str_radix(port, 16).ok()?;
        Some(Self {
            transport: *transport,
            at: SocketAddr::new(address, port),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_read_and_servers_are_not() {
        let text = "IP Virtual Server version 1.2.1 (size=4096)\n\
            Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n\
            TCP  0A150001:01BB rr persistent 10800 FFFFFFFF\n  -> AC1E000B:01BB      Masq    1      0          0         \n\
            UDP  [fd00:0000:0000:0000:0000:0000:0000:000a]:0035 rr \nSCTP 0A15000A:0035 wrr\nFWM  0000000A sh\n";
        let told: Vec<String> = VirtualService::listed(text)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "TCP 10.21.0.1:443",
                "UDP [fd00::a]:53",
                "SCTP 10.21.0.10:53"
            ]
        );
        assert_eq!(VirtualService::listed(""), Ok(Vec::new()));
        for bad in [
            "QUIC 0A150001:01BB rr",
            "TCP  0A150001",
            "TCP  0A15000:1FFFF rr",
        ] {
            assert_eq!(VirtualService::listed(bad), Err(bad.to_owned()));
        }
    }
}
