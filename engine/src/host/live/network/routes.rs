//! Routes to the pods of other nodes, by the program `ip`: it shows them as JSON and changes one at a time.
//!
//! A route is added, never replaced, unless it is ours: the kernel refuses a second route for the same subnet, so a route that another
//! program adds meanwhile survives.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::Deserialize;

use crate::host::live::LiveHost;
use crate::host::{
    CommandSpec, Files as _, HostError, HostResult, NodeRoute, Processes as _, ROUTE_PROTOCOL,
    Routes,
};

/// Exists where the kernel has IPv6.
const IPV6: &str = "/proc/net/if_inet6";

/// A route as `ip -json route show` prints it: one for each, with only the fields that are read here.
#[derive(Debug, Deserialize)]
struct Shown {
    /// A network, an address, or `default`.
    dst: String,
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
        for family in ["-4", "-6"] {
            let what = ["table", "main", "proto", protocol.as_str()];
            let shown = self.shown(family, &what).await?;
            routes.extend(shown.iter().filter_map(ours));
        }
        routes.sort_unstable();
        Ok(routes)
    }

    async fn foreign_route(&self, subnet: IpNet) -> HostResult<Option<String>> {
        let exact = subnet.to_string();
        let what = ["table", "main", "exact", exact.as_str()];
        let shown = self.shown(family(subnet), &what).await?;
        let mut foreign = shown.iter().filter(|route| !route.is_ours());
        Ok(foreign.next().map(|route| route.describe(subnet)))
    }

    async fn set_node_route(&self, route: &NodeRoute) -> HostResult<()> {
        let is_ours = {
            let routes = self.node_routes().await?;
            routes.iter().any(|one| one.subnet == route.subnet)
        };
        let verb = if is_ours { "replace" } else { "add" };
        let (subnet, via) = (route.subnet.to_string(), route.via.to_string());
        let protocol = ROUTE_PROTOCOL.to_string();
        self.run_ok(&CommandSpec::new([
            "ip",
            family(route.subnet),
            "route",
            verb,
            &subnet,
            "via",
            &via,
            "proto",
            &protocol,
        ]))
        .await
        .map(drop)
    }

    async fn remove_node_route(&self, subnet: IpNet) -> HostResult<()> {
        let is_there = async || {
            let routes = self.node_routes().await?;
            Ok::<bool, HostError>(routes.iter().any(|route| route.subnet == subnet))
        };
        if !is_there().await? {
            return Ok(());
        }
        let (exact, protocol) = (subnet.to_string(), ROUTE_PROTOCOL.to_string());
        let command = CommandSpec::new([
            "ip",
            family(subnet),
            "route",
            "del",
            &exact,
            "proto",
            &protocol,
        ]);
        match self.run_ok(&command).await {
            // Another program has removed it first.
            Err(HostError::Exit { .. }) if !is_there().await? => Ok(()),
            result => result.map(drop),
        }
    }
}

impl LiveHost {
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
    fn is_ours(&self) -> bool {
        self.protocol.as_deref() == Some(&ROUTE_PROTOCOL.to_string())
    }

    /// As `ip route` shows it.
    fn describe(&self, subnet: IpNet) -> String {
        let mut text = subnet.to_string();
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

/// One of our routes. A route to a single address is shown without its prefix length.
fn ours(shown: &Shown) -> Option<NodeRoute> {
    let address = || shown.dst.parse::<IpAddr>().ok().map(IpNet::from);
    let subnet = shown.dst.parse::<IpNet>().ok().or_else(address)?;
    let via = shown.gateway.as_deref()?.parse().ok()?;
    Some(NodeRoute { subnet, via })
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
            {"dst":"10.20.3.0/24","dev":"cni0","protocol":"kernel","scope":"link","flags":[]}]"#;
        let shown = parsed(output).expect("it is JSON");
        let routes: Vec<String> = shown
            .iter()
            .filter_map(ours)
            .map(|route| format!("{} {}", route.subnet, route.via))
            .collect();
        let expected = ["10.20.1.0/24 172.30.0.12", "10.20.2.7/32 172.30.0.13"];
        assert_eq!(routes, expected);
        let is_ours: Vec<bool> = shown.iter().map(Shown::is_ours).collect();
        assert_eq!(is_ours, [false, true, false, false]);
        let subnet = "10.20.3.0/24".parse().expect("a network");
        let described = shown[3].describe(subnet);
        assert_eq!(described, "10.20.3.0/24 dev cni0 proto kernel");
        for nothing in ["", "\n", "[ ]\n"] {
            assert!(parsed(nothing).expect("nothing is fine").is_empty());
        }
        assert!(parsed("Error: x").is_err());
    }
}
