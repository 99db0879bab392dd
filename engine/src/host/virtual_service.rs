//! Virtual services of IPVS, the kernel's load balancer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// What IPVS balances: packets to an address, or those with a mark of the packet filter. Its servers come and go with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VirtualService {
    /// Packets to an address and port.
    Address {
        /// How they are carried.
        transport: Transport,
        /// To which address.
        address: IpAddr,
        /// To which port.
        port: u16,
    },
    /// Packets that the packet filter has marked.
    Mark {
        /// The mark.
        mark: u32,
        /// Whether those of IPv6.
        six: bool,
    },
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
    /// Its number (IANA, Assigned Internet Protocol Numbers).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for VirtualService {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address {
                transport,
                address,
                port,
            } => {
                let at = std::net::SocketAddr::new(*address, *port);
                write!(out, "{transport:?} {at}")
            }
            Self::Mark { mark, six } => {
                write!(out, "mark {mark}{}", if *six { " of IPv6" } else { "" })
            }
        }
    }
}

impl VirtualService {
    /// All that `/proc/net/ip_vs` lists. Lines of servers, which are indented, and the head say nothing of them; a line that
    /// cannot be read is an error, for what is not known would be left behind.
    ///
    /// # Errors
    /// The line that cannot be read.
    pub fn listed(text: &str) -> Result<Vec<Self>, String> {
        let services = text
            .lines()
            .filter(|line| !line.starts_with([' ', '\t']) && !line.trim().is_empty())
            .filter(|line| !line.starts_with("IP Virtual Server") && !line.starts_with("Prot "));
        services
            .map(|line| Self::of_line(line).ok_or_else(|| line.trim().to_owned()))
            .collect()
    }

    /// One line, for example `TCP  0A150001:01BB rr`, `UDP  [fd00:…:0001]:0035 rr` or `FWM  00000001 IPv6 rr`.
    fn of_line(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let transport = match words.next()? {
            "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            "SCTP" => Transport::Sctp,
            "FWM" => {
                return Some(Self::Mark {
                    mark: u32::from_str_radix(words.next()?, 16).ok()?,
                    six: words.next() == Some("IPv6"),
                });
            }
            _ => return None,
        };
        let (address, port) = words.next()?.rsplit_once(':')?;
        let six = address
            .strip_prefix('[')
            .and_then(|it| it.strip_suffix(']'));
        let address = match six {
            Some(six) => IpAddr::V6(six.parse::<Ipv6Addr>().ok()?),
            None => IpAddr::V4(Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?)),
        };
        Some(Self::Address {
            transport,
            address,
            port: u16::from_str_radix(port, 16).ok()?,
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
            UDP  [fd00:0000:0000:0000:0000:0000:0000:000a]:0035 rr \nSCTP 0A15000A:0035 wrr\nFWM  0000000A sh\nFWM  0000000B IPv6 sh\n";
        let told: Vec<String> = VirtualService::listed(text)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "Tcp 10.21.0.1:443",
                "Udp [fd00::a]:53",
                "Sctp 10.21.0.10:53",
                "mark 10",
                "mark 11 of IPv6"
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
