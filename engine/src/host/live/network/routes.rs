//! Routes to the pods of other nodes, by the program `ip`: it shows them as JSON, and changes all of them in one batch.
//!
//! A route is added, never replaced, unless it is ours: the kernel refuses a second route for the same subnet, so a route that another
//! program adds meanwhile survives.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::Deserialize;

use crate::host::live::LiveHost;
use crate::host::{
    CommandSpec, Files as _, HostError, HostResult, NodeRoute, Processes as _, ROUTE_PROTOCOL,
    Routes,
};

/// The options of `ip` for the families.
const FAMILIES: [&str; 2] = ["-4", "-6"];
/// With this, `ip -batch -` ends what it says about a line that failed. The number of the line follows, from 1 on.
const FAILED: &str = "Command failed -:";
/// Most lines that an error names.
const NAMED: usize = 5;
/// Exists where the kernel has IPv6.
const IPV6: &str = "/proc/net/if_inet6";

/// A route as `ip -json route show` prints it: one for each, with only the fields that are read here.
#[derive(Debug, Deserialize)]
struct Shown {
    /// A network, an address, or `default`.
    dst: String,
    /// For example `blackhole`. The program leaves it out if the route is unicast.
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    gateway: Option<String>,
    #[serde(default)]
    dev: Option<String>,
    /// A name or a number.
    #[serde(default)]
    protocol: Option<String>,
}

#[async_trait::async_trait]
impl Routes for LiveHost {
    async fn node_routes(&self) -> HostResult<Vec<NodeRoute>> {
        let protocol = ROUTE_PROTOCOL.to_string();
        let mut routes = Vec::new();
        for family in FAMILIES {
            let what = ["table", "main", "proto", protocol.as_str()];
            let shown = self.shown(family, &what).await?;
            routes.extend(shown.iter().filter_map(ours));
        }
        routes.sort_unstable();
        Ok(routes)
    }

    async fn foreign_routes(&self, network: IpNet) -> HostResult<BTreeMap<IpNet, String>> {
        let within = network.to_string();
        let what = ["table", "main", "root", within.as_str()];
        let shown = self.shown(family(network), &what).await?;
        Ok(foreign(&shown))
    }

    async fn set_node_routes(&self, routes: &[NodeRoute]) -> HostResult<()> {
        let present = self.node_routes().await?;
        let ours: BTreeSet<IpNet> = present.into_iter().map(|route| route.subnet).collect();
        let line = |NodeRoute { subnet, via }: &NodeRoute| {
            let verb = match ours.contains(subnet) {
                true => "replace",
                false => "add",
            };
            let text = format!("route {verb} {subnet} via {via} proto {ROUTE_PROTOCOL}");
            (family(*subnet), text)
        };
        self.batch(routes.iter().map(line).collect()).await
    }

    async fn remove_node_routes(&self, subnets: &[IpNet]) -> HostResult<()> {
        let present = self.ours_to(subnets).await?;
        let line = |subnet: &IpNet| {
            let text = format!("route del {subnet} proto {ROUTE_PROTOCOL}");
            (family(*subnet), text)
        };
        match self.batch(present.iter().map(line).collect()).await {
            // Another program has removed them first.
            Err(HostError::Exit { .. }) if self.ours_to(subnets).await?.is_empty() => Ok(()),
            result => result,
        }
    }
}

impl LiveHost {
    /// The subnets among these that one of our routes leads to.
    async fn ours_to(&self, subnets: &[IpNet]) -> HostResult<Vec<IpNet>> {
        let asked: BTreeSet<&IpNet> = subnets.iter().collect();
        let routes = self.node_routes().await?.into_iter();
        let ours = routes.map(|route| route.subnet);
        Ok(ours.filter(|subnet| asked.contains(subnet)).collect())
    }

    /// Runs lines of `ip -batch`, each for its family: one process for each family, and not one for each of thousands of routes. A line
    /// that fails does not end the others.
    async fn batch(&self, lines: Vec<(&'static str, String)>) -> HostResult<()> {
        let mut result = Ok(());
        for family in FAMILIES {
            let its = lines.iter().filter(|(of, _)| *of == family);
            let its: Vec<&str> = its.map(|(_, line)| line.as_str()).collect();
            if !its.is_empty() {
                result = result.and(self.batch_of(family, &its).await);
            }
        }
        result
    }

    async fn batch_of(&self, family: &'static str, lines: &[&str]) -> HostResult<()> {
        let mut command = CommandSpec::new(["ip", family, "-force", "-batch", "-"]);
        command.stdin = format!("{}\n", lines.join("\n")).into_bytes();
        let output = self.run(&command).await?;
        if output.success() {
            return Ok(());
        }
        Err(HostError::Exit {
            command: command.display(),
            status: output.status,
            stderr: failures(&output.stderr, lines),
        })
    }

    /// Routes of a family; none of IPv6 where the kernel has none.
    async fn shown(&self, family: &str, what: &[&str]) -> HostResult<Vec<Shown>> {
        if family == "-6" && self.entry(Path::new(IPV6)).await?.is_none() {
            return Ok(Vec::new());
        }
        let words = ["ip", "-json", family, "route", "show"];
        let words = words.into_iter().chain(what.iter().copied());
        let command = CommandSpec::new(words).complete_output();
        let output = self.run_ok(&command).await?.stdout;
        parsed(&output)
            .map_err(|error| HostError::service(format!("read `{}`", command.display()), error))
    }
}

impl Shown {
    /// Where the route leads; `None` for the default route. A single address is shown without its prefix length.
    fn subnet(&self) -> Option<IpNet> {
        let address = || self.dst.parse::<IpAddr>().ok().map(IpNet::from);
        self.dst.parse::<IpNet>().ok().or_else(address)
    }

    fn is_ours(&self) -> bool {
        self.protocol.as_deref() == Some(&ROUTE_PROTOCOL.to_string())
    }

    /// As `ip route` shows it.
    fn describe(&self, subnet: IpNet) -> String {
        let kind = self.kind.as_deref().filter(|kind| *kind != "unicast");
        let mut text = match kind {
            Some(kind) => format!("{kind} {subnet}"),
            None => subnet.to_string(),
        };
        for (word, value) in [
            ("via", &self.gateway),
            ("dev", &self.dev),
            ("proto", &self.protocol),
        ] {
            if let Some(value) = value {
                text = format!("{text} {word} {value}");
            }
        }
        text
    }
}

/// The program prints nothing, or an empty list, if there are no routes.
fn parsed(output: &str) -> Result<Vec<Shown>, serde_json::Error> {
    if output.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(output)
}

/// One of our routes.
fn ours(shown: &Shown) -> Option<NodeRoute> {
    let subnet = shown.subnet()?;
    let via = shown.gateway.as_deref()?.parse().ok()?;
    Some(NodeRoute { subnet, via })
}

/// The routes of other programs. Of several for one subnet, the first one counts.
fn foreign(shown: &[Shown]) -> BTreeMap<IpNet, String> {
    let mut routes = BTreeMap::new();
    for route in shown.iter().filter(|route| !route.is_ours()) {
        if let Some(subnet) = route.subnet() {
            let described = || route.describe(subnet);
            routes.entry(subnet).or_insert_with(described);
        }
    }
    routes
}

/// The lines of a batch that failed, each with what the program said about it.
fn failures(said: &str, lines: &[&str]) -> String {
    let (mut failed, mut words) = (Vec::new(), Vec::new());
    for line in said.lines() {
        let Some(number) = line.strip_prefix(FAILED) else {
            words.push(line.trim());
            continue;
        };
        let index = number.trim().parse::<usize>().ok();
        let index = index.and_then(|number| number.checked_sub(1));
        let what = index.and_then(|index| lines.get(index)).copied();
        failed.push(format!("`{}`: {}", what.unwrap_or(line), words.join(", ")));
        words.clear();
    }
    // What ends the program itself names no line.
    if !words.is_empty() {
        failed.push(words.join(", "));
    }
    let more = failed.len().saturating_sub(NAMED);
    failed.truncate(NAMED);
    if more > 0 {
        failed.push(format!("{more} more"));
    }
    failed.join("; ")
}

/// The option of `ip` for the family of a subnet.
fn family(subnet: IpNet) -> &'static str {
    match subnet {
        IpNet::V4(_) => "-4",
        IpNet::V6(_) => "-6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_the_program_prints_them() {
        let output = r#"[{"dst":"10.20.1.0/24","gateway":"172.30.0.12","dev":"eth0","flags":[]},
            {"dst":"10.20.2.7","gateway":"172.30.0.13","dev":"eth0","protocol":"92","flags":["linkdown"]},
            {"dst":"default","gateway":"172.30.0.1","dev":"eth0","flags":[]},
            {"dst":"10.20.3.0/24","dev":"cni0","protocol":"kernel","scope":"link","flags":[]},
            {"type":"blackhole","dst":"10.20.4.0/24","flags":[]},
            {"type":"unicast","dst":"10.20.5.0/24","dev":"eth1","flags":[]}]"#;
        let shown = parsed(output).expect("it is JSON");
        let routes: Vec<String> = shown
            .iter()
            .filter_map(ours)
            .map(|route| format!("{} {}", route.subnet, route.via))
            .collect();
        let expected = ["10.20.1.0/24 172.30.0.12", "10.20.2.7/32 172.30.0.13"];
        assert_eq!(routes, expected);
        let is_ours: Vec<bool> = shown.iter().map(Shown::is_ours).collect();
        assert_eq!(is_ours, [false, true, false, false, false, false]);
        let subnet = "10.20.3.0/24".parse().expect("a network");
        let described = shown[3].describe(subnet);
        assert_eq!(described, "10.20.3.0/24 dev cni0 proto kernel");
        let all = foreign(&shown);
        let all: Vec<&str> = all.values().map(String::as_str).collect();
        assert_eq!(
            all,
            [
                "10.20.1.0/24 via 172.30.0.12 dev eth0",
                "10.20.3.0/24 dev cni0 proto kernel",
                "blackhole 10.20.4.0/24",
                "10.20.5.0/24 dev eth1"
            ],
            "neither ours nor the default route"
        );
        for nothing in ["", "\n", "[ ]\n"] {
            assert!(parsed(nothing).expect("nothing is fine").is_empty());
        }
        assert!(parsed("Error: x").is_err());
    }
    /// As iproute2 6.1 says it.
    #[test]
    fn the_lines_of_a_batch_that_failed_are_named() {
        let lines = ["route add a", "route add b", "route add c"];
        let said = "RTNETLINK answers: File exists\nCommand failed -:1\nError: Nexthop has invalid gateway.\nCommand failed -:3\n";
        assert_eq!(
            failures(said, &lines),
            "`route add a`: RTNETLINK answers: File exists; `route add c`: Error: Nexthop has invalid gateway."
        );
        let many = "No such process\nCommand failed -:2\n".repeat(7);
        let named = failures(&many, &lines);
        assert!(named.ends_with("; 2 more"), "{named}");
        assert_eq!(named.matches("`route add b`").count(), 5);
        assert_eq!(failures("Killed\n", &lines), "Killed");
        assert!(failures("x\nCommand failed -:9\n", &lines).starts_with("`Command failed -:9`"));
    }
}
