//! A chain of the packet filter that belongs to the role: its rules, and the jump to it from one of the kernel's own chains.
//!
//! The jump is the last rule of the kernel's chain, so that rules of an operator and of other programs decide first. A chain that has to
//! decide before them gets its jump at the first place.
//!
//! Not here: chains that another program creates (`firewall`).

use std::fmt;

use async_trait::async_trait;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::resource::change::Differences;
use crate::resource::kernel::packet_filter::{ChainContent, ChainPlace, FilterFamily, VRRP};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult, Undo};

/// A chain with these rules, to which one of the kernel's chains leads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FirewallChainSpec {
    /// Its name.
    pub name: String,
    /// The table, for example `nat`.
    pub table: String,
    /// The kernel's chain that leads to it, for example `POSTROUTING`.
    pub jump_from: String,
    /// Whether the jump comes before all rules that decide about packets. Otherwise it is added at the end, and stays where it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// The family of all its rules.
    pub family: FilterFamily,
    /// Its rules, in order.
    pub rules: Vec<FirewallRule>,
}

/// One rule: all its conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallRule {
    /// Network of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpNet>,
    /// Network of the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpNet>,
    /// Network that the destination is not in. Never beside [`FirewallRule::destination`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_destination: Option<IpNet>,
    /// The link over which the packet came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_interface: Option<String>,
    /// The link over which the packet goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_interface: Option<String>,
    /// The protocol of the packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<RuleProtocol>,
    /// What happens to the packet.
    pub action: RuleAction,
}

/// The protocol of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// VRRP, by which routers and keepalived share an address.
    Vrrp,
}

impl RuleProtocol {
    /// The protocol as `iptables` takes it. VRRP is written as a number, because not every host has a file with its name.
    fn option(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Vrrp => VRRP,
        }
    }
}

/// What a rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleAction {
    /// It passes.
    Accept,
    /// It gets the address of the link over which it leaves.
    Masquerade,
    /// The rules after the jump decide.
    Return,
    /// It is discarded, and the sender is not told.
    Drop,
}

impl RuleAction {
    /// The target of `iptables`.
    fn target(self) -> &'static str {
        match self {
            Self::Accept => "ACCEPT",
            Self::Masquerade => "MASQUERADE",
            Self::Return => "RETURN",
            Self::Drop => "DROP",
        }
    }
}

impl fmt::Display for FirewallRule {
    /// As `iptables-save` prints it, so that texts can be compared.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks = [
            ("-s", self.source),
            ("-d", self.destination),
            ("! -d", self.not_destination),
        ];
        for (option, network) in networks {
            if let Some(network) = network {
                write!(f, "{option} {network} ")?;
            }
        }
        let links = [("-i", &self.in_interface), ("-o", &self.out_interface)];
        for (option, link) in links {
            if let Some(link) = link {
                write!(f, "{option} {link} ")?;
            }
        }
        if let Some(protocol) = self.protocol {
            write!(f, "-p {} ", protocol.option())?;
        }
        write!(f, "-j {}", self.action.target())
    }
}

impl FirewallChainSpec {
    fn place(&self) -> ChainPlace<'_> {
        ChainPlace {
            family: self.family,
            table: &self.table,
            name: &self.name,
        }
    }

    fn wanted(&self) -> ChainContent {
        ChainContent {
            rules: self.rules.iter().map(ToString::to_string).collect(),
            jumps: vec![format!("{} -j {}", self.jump_from, self.name)],
            first: self.first.then_some(true),
        }
    }

    /// The undo that makes the chain again what it was; `None` if it was not there.
    fn undo(&self, before: Option<ChainContent>) -> Undo {
        Undo::RestoreChain {
            family: self.family,
            table: self.table.clone(),
            name: self.name.clone(),
            before,
        }
    }

    /// Key of the chain, in the form of [`Undo::key`].
    pub(in crate::resource) fn key(&self) -> String {
        self.undo(None).key()
    }
}

#[async_trait]
impl Resource for FirewallChainSpec {
    /// The chain; `None` if there is none.
    type Observed = Option<ChainContent>;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        let mut found = self.place().read(cx.host).await?;
        if let Some(found) = found.as_mut().filter(|_| !self.first) {
            found.first = None;
        }
        Ok(found)
    }

    fn diff(&self, observed: &Self::Observed, absent: bool) -> Option<Change> {
        if absent {
            return observed.is_some().then(|| Change::new(Action::Remove));
        }
        let wanted = self.wanted();
        let action = match observed {
            Some(_) => Action::Change,
            None => Action::Create,
        };
        let found = observed.clone().unwrap_or_default();
        let mut differences = Differences::default();
        let list = |rules: &[String]| rules.join("; ");
        differences.compare("rules", &list(&found.rules), &list(&wanted.rules));
        differences.compare("jumps to it", &list(&found.jumps), &list(&wanted.jumps));
        if self.first && found.first == Some(false) {
            differences.note(
                "place of the jump",
                "behind a rule that decides",
                "before all rules that decide",
            );
        }
        differences.into_change(action)
    }

    async fn converge(
        &self,
        observed: &Self::Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        receipt.push(self.undo(observed.clone())).await?;
        let wanted = (!cx.absent).then(|| self.wanted());
        Ok(self.place().set(cx.host, wanted.as_ref()).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, World};
    use crate::host::overlay::OverlayHost;
    use crate::resource::tests::{apply_in, context};

    fn rule(action: RuleAction) -> FirewallRule {
        FirewallRule {
            source: None,
            destination: None,
            not_destination: None,
            in_interface: None,
            out_interface: None,
            protocol: None,
            action,
        }
    }

    fn masquerade() -> FirewallChainSpec {
        let pods: IpNet = "10.20.0.0/16".parse().expect("a network");
        FirewallChainSpec {
            name: "PF9-MASQUERADE".to_owned(),
            table: "nat".to_owned(),
            jump_from: "POSTROUTING".to_owned(),
            first: false,
            family: FilterFamily::Ipv4,
            rules: vec![
                FirewallRule {
                    destination: "224.0.0.0/4".parse().ok(),
                    ..rule(RuleAction::Return)
                },
                FirewallRule {
                    source: Some(pods),
                    not_destination: Some(pods),
                    ..rule(RuleAction::Masquerade)
                },
            ],
        }
    }

    #[test]
    fn a_rule_is_written_as_the_kernels_program_prints_it() {
        let every = FirewallRule {
            source: "fd00:1::/64".parse().ok(),
            destination: "fd00:2::/64".parse().ok(),
            in_interface: Some("cni0".to_owned()),
            out_interface: Some("eth0".to_owned()),
            protocol: Some(RuleProtocol::Tcp),
            ..rule(RuleAction::Accept)
        };
        let expected = "-s fd00:1::/64 -d fd00:2::/64 -i cni0 -o eth0 -p tcp -j ACCEPT";
        assert_eq!(every.to_string(), expected);
        assert_eq!(rule(RuleAction::Return).to_string(), "-j RETURN");
        let masquerade = masquerade().rules[1].to_string();
        let expected = "-s 10.20.0.0/16 ! -d 10.20.0.0/16 -j MASQUERADE";
        assert_eq!(masquerade, expected);
    }

    /// The kernel's program shows a protocol by its name if the host knows it.
    #[tokio::test]
    async fn a_rule_about_vrrp_reads_back_by_name_and_by_number() {
        let vrrp = |action| FirewallRule {
            protocol: Some(RuleProtocol::Vrrp),
            ..rule(action)
        };
        let peer = FirewallRule {
            source: "172.30.0.12/32".parse().ok(),
            ..vrrp(RuleAction::Accept)
        };
        assert_eq!(peer.to_string(), "-s 172.30.0.12/32 -p 112 -j ACCEPT");
        let spec = FirewallChainSpec {
            name: "PF9-VRRP".to_owned(),
            table: "filter".to_owned(),
            jump_from: "INPUT".to_owned(),
            first: true,
            family: FilterFamily::Ipv4,
            rules: vec![peer, vrrp(RuleAction::Drop)],
        };
        for (name, is_as_planned) in [("112", true), ("vrrp", true), ("tcp", false)] {
            let host = FakeHost::new();
            host.with_world_mut(|world| {
                world.firewall_rule("iptables", "filter", "INPUT", "-j PF9-VRRP");
                for rule in [
                    format!("-s 172.30.0.12/32 -p {name} -j ACCEPT"),
                    format!("-p {name} -j DROP"),
                ] {
                    world.firewall_rule("iptables", "filter", "PF9-VRRP", &rule);
                }
            });
            let observed = spec.observe(&context(&host)).await.expect("it is known");
            assert_eq!(
                spec.diff(&observed, false).is_none(),
                is_as_planned,
                "{name}"
            );
        }
    }

    /// The rules of INPUT on a host.
    fn of_input(host: &FakeHost) -> Vec<String> {
        let saved = host.with_world(|world| world.saved_firewall("iptables"));
        let rules = saved
            .lines()
            .filter_map(|line| line.strip_prefix("-A INPUT "));
        rules.map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_first_jump_precedes_all_rules_that_decide() {
        let jump = "-j PF9-VRRP";
        let spec = FirewallChainSpec {
            name: "PF9-VRRP".to_owned(),
            table: "filter".to_owned(),
            jump_from: "INPUT".to_owned(),
            first: true,
            family: FilterFamily::Ipv4,
            rules: vec![rule(RuleAction::Drop)],
        };
        // The rules before and afterwards.
        let cases: [(&[&str], &[&str]); 6] = [
            (&[], &[jump]),
            (&["-j REJECT"], &[jump, "-j REJECT"]),
            (&["-i lo -j ACCEPT", jump], &[jump, "-i lo -j ACCEPT"]),
            (&["-g THEIRS", jump], &[jump, "-g THEIRS"]),
            (&[jump, "-j DROP"], &[jump, "-j DROP"]),
            // Other programs put their jumps first when they start.
            (
                &["-j KUBE-FIREWALL", jump, "-j DROP"],
                &["-j KUBE-FIREWALL", jump, "-j DROP"],
            ),
        ];
        for (before, after) in cases {
            let host = FakeHost::new();
            let lines = before.iter().map(|rule| format!("-A INPUT {rule}\n"));
            let lines: String = lines.collect();
            let input = format!("*filter\n:PF9-VRRP - [0:0]\n-A PF9-VRRP -j DROP\n{lines}COMMIT\n");
            host.with_world_mut(|world| world.firewall_input("iptables", &input));
            assert_eq!(of_input(&host), before);
            let (cx, mut receipt) = (context(&host), Receipt::default());
            let made = apply_in(&cx, &spec, &mut receipt).await.expect("it works");
            assert_eq!(made.is_none(), before == after, "{before:?}");
            assert_eq!(of_input(&host), after, "{before:?}");
            let again = apply_in(&cx, &spec, &mut receipt).await.expect("it works");
            assert_eq!(again, None, "{before:?}");
            assert!(receipt.revert(&host).await.is_empty(), "{before:?}");
            assert_eq!(of_input(&host), before);
        }
    }

    #[tokio::test]
    async fn a_chain_is_made_repaired_and_taken_back() {
        type Breaks = fn(&mut World);
        let cases: [(&str, Breaks); 4] = [
            ("nothing", |_| ()),
            ("the chain is flushed", |world| {
                world.firewall_input("iptables", "*nat\n-F PF9-MASQUERADE\nCOMMIT\n");
            }),
            ("the jump is removed", |world| {
                let input = "*nat\n-D POSTROUTING -j PF9-MASQUERADE\nCOMMIT\n";
                world.firewall_input("iptables", input);
            }),
            ("a rule and a jump of another program are added", |world| {
                world.firewall_rule("iptables", "nat", "PF9-MASQUERADE", "-j ACCEPT");
                world.firewall_rule("iptables", "nat", "OUTPUT", "-j PF9-MASQUERADE");
            }),
        ];
        for (case, breaks) in cases {
            let host = FakeHost::new();
            host.with_world_mut(|world| {
                world.firewall_rule("iptables", "nat", "POSTROUTING", "-j THEIRS");
                world.firewall_rule("ip6tables", "nat", "PF9-MASQUERADE", "-j RETURN");
            });
            let before = host.snapshot();
            let (cx, spec) = (context(&host), masquerade());
            let mut receipt = Receipt::default();
            let made = apply_in(&cx, &spec, &mut receipt).await.expect("it works");
            assert_eq!(made.map(|change| change.action), Some(Action::Create));
            let after = host.snapshot();
            host.with_world_mut(breaks);
            let is_broken = host.snapshot() != after;
            let repaired = apply_in(&cx, &spec, &mut receipt).await.expect("it works");
            assert_eq!(repaired.is_some(), is_broken, "{case}");
            assert_eq!(is_broken, case != "nothing", "{case}");
            assert_eq!(host.snapshot(), after, "{case}");
            assert!(receipt.revert(&host).await.is_empty(), "{case}");
            assert_eq!(host.snapshot(), before, "{case}");
        }
    }

    /// A chain that was there before the step is restored with the jumps to it.
    #[tokio::test]
    async fn an_earlier_chain_of_the_same_name_comes_back() {
        let host = FakeHost::new();
        host.with_world_mut(|world| {
            world.firewall_rule("iptables", "nat", "PF9-MASQUERADE", "-p tcp -j RETURN");
            let jump = "-o eth1 -j PF9-MASQUERADE";
            world.firewall_rule("iptables", "nat", "POSTROUTING", jump);
        });
        let before = host.snapshot();
        let mut receipt = Receipt::default();
        let made = apply_in(&context(&host), &masquerade(), &mut receipt).await;
        let made = made.expect("it works").expect("it differs");
        assert_eq!(made.action, Action::Change);
        assert_ne!(host.snapshot(), before);
        assert!(receipt.revert(&host).await.is_empty());
        assert_eq!(host.snapshot(), before);
    }

    /// A dry run reads the rules of the host, and its own changes stay above.
    #[tokio::test]
    async fn a_dry_run_predicts_the_chain() {
        let host = FakeHost::new();
        let spec = masquerade();
        let predicted = async || {
            let before = host.snapshot();
            let overlay = OverlayHost::new(&host);
            let cx = context(&overlay);
            let change = apply_in(&cx, &spec, &mut Receipt::default()).await;
            let after = spec.observe(&cx).await.expect("it is known");
            assert_eq!(spec.diff(&after, false), None);
            assert_eq!(host.snapshot(), before, "the host itself is not changed");
            change.expect("it is known").map(|change| change.action)
        };
        assert_eq!(predicted().await, Some(Action::Create));
        let applied = apply_in(&context(&host), &spec, &mut Receipt::default()).await;
        applied.expect("it works");
        assert_eq!(predicted().await, None);
        host.with_world_mut(|world| {
            world.firewall_input("iptables", "*nat\n-F PF9-MASQUERADE\nCOMMIT\n");
        });
        assert_eq!(predicted().await, Some(Action::Change));
    }

    /// The kernel's program takes all of the input or nothing, so a failure leaves the host as it was.
    #[tokio::test]
    async fn a_refused_input_changes_nothing() {
        let host = FakeHost::new();
        let before = host.snapshot();
        let spec = FirewallChainSpec {
            jump_from: "NO-SUCH-CHAIN".to_owned(),
            ..masquerade()
        };
        let mut receipt = Receipt::default();
        let refused = apply_in(&context(&host), &spec, &mut receipt).await;
        refused.expect_err("there is no such chain");
        assert_eq!(host.snapshot(), before);
        assert!(receipt.revert(&host).await.is_empty());
        assert_eq!(host.snapshot(), before);
    }
}
