//! Readers for what the kernel and the distribution show as text. Pure; a line that makes no sense is skipped.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::model::{DefaultRoute, Listener, OperatingSystem, Route, Swap};

/// `ID`, `VERSION_ID` and `PRETTY_NAME` of /etc/os-release.
pub(crate) fn os_release(text: &str) -> Option<OperatingSystem> {
    let value = |key: &str| {
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
    };
    let id = value("ID")?;
    let pretty = value("PRETTY_NAME").unwrap_or_else(|| id.clone());
    Some(OperatingSystem {
        id,
        version_id: value("VERSION_ID").unwrap_or_default(),
        pretty,
    })
}

/// `MemTotal` of /proc/meminfo.
pub(crate) fn memory(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// /proc/swaps.
pub(crate) fn swaps(text: &str) -> Vec<Swap> {
    let area = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // A file name with a blank is shown as \040, so words are columns.
        let kib: u64 = words.get(2)?.parse().ok()?;
        Some(Swap {
            path: words[0].replace("\\040", " "),
            bytes: kib.checked_mul(1024)?,
        })
    };
    let mut areas: Vec<Swap> = text.lines().skip(1).filter_map(area).collect();
    areas.sort();
    areas
}

/// The second number (effective) of the `Uid:` line of /proc/self/status.
pub(crate) fn effective_uid(text: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// First and last number of each range of processors in a list such as `0-3,6`.
pub(crate) fn cpu_ranges(text: &str) -> Option<Vec<(u32, u32)>> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some((first, last))
    };
    text.trim().split(',').map(range).collect()
}

/// How many processors a list such as `0-3,6` names.
pub(crate) fn cpu_count(text: &str) -> Option<u32> {
    let mut count = 0_u32;
    for (first, last) in cpu_ranges(text)? {
        count = count.checked_add((last - first).checked_add(1)?)?;
    }
    Some(count)
}

/// How many processors a list names, and the list itself if its numbers are not 0 to the count - 1.
pub(crate) fn online_cpus(text: &str) -> Option<(u32, Option<String>)> {
    let count = cpu_count(text)?;
    let ranges = cpu_ranges(text)?;
    let has_gaps = ranges != [(0, count.saturating_sub(1))];
    Some((count, has_gaps.then(|| text.trim().to_owned())))
}

/// The default route and the others of /proc/net/route (IPv4).
pub(crate) fn routes(text: &str) -> (Option<DefaultRoute>, Vec<Route>) {
    let mut default: Option<(u32, DefaultRoute)> = None;
    let mut others = Vec::new();
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [link, to, gateway, _, _, _, metric, mask, ..] = words[..] else {
            continue;
        };
        let (Some(to), Some(gateway), Some(mask)) = (ipv4(to), ipv4(gateway), ipv4(mask)) else {
            continue;
        };
        if mask.is_unspecified() {
            let metric = metric.parse().unwrap_or(u32::MAX);
            if default.as_ref().is_none_or(|(best, _)| metric < *best) {
                let gateway = (!gateway.is_unspecified()).then_some(IpAddr::V4(gateway));
                default = Some((
                    metric,
                    DefaultRoute {
                        link: link.to_owned(),
                        gateway,
                    },
                ));
            }
        } else if let Ok(to) = Ipv4Net::with_netmask(to, mask) {
            others.push(Route {
                to: IpNet::V4(to),
                link: link.to_owned(),
            });
        }
    }
    others.sort();
    others.dedup();
    (default.map(|(_, route)| route), others)
}

/// Listening sockets of /proc/net/tcp or /proc/net/tcp6.
pub(crate) fn listeners(text: &str) -> Vec<Listener> {
    const LISTEN: &str = "0A";
    let listener = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        if *words.get(3)? != LISTEN {
            return None;
        }
        let (address, port) = words[1].split_once(':')?;
        let address = match address.len() {
            8 => IpAddr::V4(ipv4(address)?),
            32 => IpAddr::V6(ipv6(address)?),
            _ => return None,
        };
        Some(Listener {
            port: u16::from_str_radix(port, 16).ok()?,
            address,
            program: None,
            cgroup: None,
        })
    };
    text.lines().skip(1).filter_map(listener).collect()
}

/// Program name and process id by port, from the output of `ss -Hltnp`. If several processes share a socket, the first one counts.
pub(crate) fn ss_programs(text: &str) -> BTreeMap<u16, (String, u32)> {
    let program = |line: &str| {
        let local = line.split_whitespace().nth(3)?;
        let port = local.rsplit_once(':')?.1.parse().ok()?;
        let (name, rest) = line.split_once("users:((\"")?.1.split_once('"')?;
        let id = rest
            .strip_prefix(",pid=")?
            .split(',')
            .next()?
            .parse()
            .ok()?;
        Some((port, (name.to_owned(), id)))
    };
    text.lines().filter_map(program).collect()
}

/// The control group from `/proc/PID/cgroup`: the one in systemd's version 1 hierarchy if there is one, else the one in version 2
/// (cgroups(7)).
pub(crate) fn control_group(text: &str) -> Option<String> {
    let of = |hierarchy: &str| {
        let mut paths = text.lines().filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            (controllers == hierarchy && path != "/").then(|| path.to_owned())
        });
        paths.next()
    };
    of("name=systemd").or_else(|| of(""))
}

/// Mount point, type and options of each line of /proc/mounts.
pub(crate) fn mounts(text: &str) -> Vec<(String, String, String)> {
    let mount = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, point, kind, options, ..] = words[..] else {
            return None;
        };
        Some((
            point.replace("\\040", " "),
            kind.to_owned(),
            options.to_owned(),
        ))
    };
    text.lines().filter_map(mount).collect()
}

/// The kernel shows an IPv4 address as one little-endian number (on every architecture we run on).
fn ipv4(hex: &str) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(
        u32::from_str_radix(hex, 16).ok()?.swap_bytes(),
    ))
}

/// An IPv6 address is shown as four such numbers.
fn ipv6(hex: &str) -> Option<Ipv6Addr> {
    let mut bytes = [0; 16];
    for (index, chunk) in bytes.chunks_mut(4).enumerate() {
        chunk.copy_from_slice(&ipv4(hex.get(index * 8..index * 8 + 8)?)?.octets());
    }
    Some(Ipv6Addr::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_with_and_without_quotes() {
        let os = os_release(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n",
        );
        let os = os.unwrap();
        assert_eq!((os.id.as_str(), os.version_id.as_str()), ("debian", "12"));
        assert_eq!(os.pretty, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(os_release("NAME=x\n"), None);
    }

    #[test]
    fn numbers() {
        assert_eq!(
            memory("MemTotal:       24669068 kB\nMemFree: 1 kB\n"),
            Some(24_669_068 * 1024)
        );
        assert_eq!(memory("MemTotal: many kB\n"), None);
        assert_eq!(effective_uid("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(0));
        for (list, count) in [
            ("0-1\n", Some(2)),
            ("0-3,6", Some(5)),
            ("0", Some(1)),
            ("3-1", None),
            ("", None),
        ] {
            assert_eq!(cpu_count(list), count, "{list:?}");
        }
        assert_eq!(online_cpus("0\n"), Some((1, None)));
        assert_eq!(online_cpus("0-3\n"), Some((4, None)));
        assert_eq!(online_cpus("0,2-3\n"), Some((3, Some("0,2-3".to_owned()))));
        assert_eq!(online_cpus("1\n"), Some((1, Some("1".to_owned()))));
    }

    #[test]
    fn swap_areas() {
        let text = "Filename\t\tType\t\tSize\t\tUsed\tPriority\n/dev/sda2 partition\t2097152\t0\t-2\nbroken\n";
        assert_eq!(
            swaps(text),
            [Swap {
                path: "/dev/sda2".to_owned(),
                bytes: 2 << 30
            }]
        );
        assert_eq!(swaps(""), []);
    }

    #[test]
    fn routes_are_little_endian_and_the_smallest_metric_wins() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            wlan0\t00000000\t0100000A\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\t01001EAC\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t00001EAC\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let (default, others) = routes(text);
        let gateway = "172.30.0.1".parse().ok();
        assert_eq!(
            default,
            Some(DefaultRoute {
                link: "eth0".to_owned(),
                gateway
            })
        );
        assert_eq!(
            others,
            [Route {
                to: "172.30.0.0/24".parse().unwrap(),
                link: "eth0".to_owned()
            }]
        );
    }

    #[test]
    fn listening_sockets_only() {
        let text = "  sl  local_address rem_address   st\n   \
            0: 0100007F:01BB 00000000:0000 0A 00000000:00000000\n   \
            1: 0100007F:01BC 0100007F:0001 01 00000000:00000000\n";
        let found = listeners(text);
        assert_eq!(
            (
                found.len(),
                found[0].port,
                found[0].address.to_string().as_str()
            ),
            (1, 443, "127.0.0.1")
        );
        let six = "sl\n 0: 00000000000000000000000001000000:094C 00000000000000000000000000000000:0000 0A 0\n";
        assert_eq!(listeners(six)[0].address.to_string(), "::1");
        assert_eq!(listeners(six)[0].port, 2380);
    }

    #[test]
    fn program_names_of_ss() {
        let text = "LISTEN 0 511 0.0.0.0:443 0.0.0.0:* users:((\"nginx\",pid=1,fd=6),(\"nginx\",pid=2,fd=6))\n\
            LISTEN 0 128 [::]:22 [::]:*\n";
        assert_eq!(
            ss_programs(text),
            BTreeMap::from([(443, ("nginx".to_owned(), 1))])
        );
    }

    #[test]
    fn a_process_is_in_the_group_that_its_manager_sees() {
        let first = "5:memory:/m\n1:name=systemd:/system.slice/kubelet.service\n0::/\n";
        assert_eq!(
            control_group(first).as_deref(),
            Some("/system.slice/kubelet.service")
        );
        let second = "0::/system.slice/docker-0a1b.scope\n";
        assert_eq!(
            control_group(second).as_deref(),
            Some("/system.slice/docker-0a1b.scope")
        );
        assert_eq!(control_group("0::/\n"), None);
    }
}
