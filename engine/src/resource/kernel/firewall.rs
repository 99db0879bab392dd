//! Packet filter chains that another program creates, selected by the prefix of their names.
//!
//! Not here: a chain of the role's own (`firewall_chain`), and how rules are read and changed (`packet_filter`).

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::{CommandSpec, Host, HostResult};
use crate::resource::kernel::packet_filter::{FAMILIES, Removal, after, chain, restore, rules};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult};

/// Chains whose names have this prefix, in all tables of both families. They can only be made absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FirewallChainsSpec {
    /// Prefix of their names, for example `KUBE-`.
    pub prefix: String,
    /// An interface whose rules are removed, too, in every chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Chains that existed before the role was applied stay; the others are removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_existing: bool,
    /// The chains that existed before the role was applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spared: Vec<String>,
}

impl FirewallChainsSpec {
    /// The same, with the chains of now recorded as the ones that existed before the role was applied.
    pub(crate) async fn excluding_current(&self, host: &dyn Host) -> ResourceResult<Self> {
        let mut spared = Vec::new();
        for (save, _) in FAMILIES {
            let rules = rules(host, save).await?;
            let names = rules.lines().filter_map(chain);
            spared.extend(
                names
                    .filter(|name| name.starts_with(&self.prefix))
                    .map(str::to_owned),
            );
        }
        spared.sort();
        spared.dedup();
        Ok(Self {
            spared,
            ..self.clone()
        })
    }

    /// Whether a chain of this name has the prefix and did not exist before the role was applied.
    pub(crate) fn is_ours(&self, name: &str) -> bool {
        self.ours()(name)
    }

    /// The same for many names: there may be thousands of chains, and thousands that existed before the role was applied.
    fn ours(&self) -> impl Fn(&str) -> bool {
        let spared: HashSet<&str> = self.spared.iter().map(String::as_str).collect();
        move |name| name.starts_with(&self.prefix) && !spared.contains(name)
    }
}

#[async_trait]
impl Resource for FirewallChainsSpec {
    /// The removal of each family's chains, with the restore program that carries it out.
    type Observed = Vec<(&'static str, Removal)>;

    fn label(&self) -> String {
        self.prefix.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        let mut removals = Vec::new();
        for (save, restore) in FAMILIES {
            let rules = rules(cx.host, save).await?;
            if let Some(removal) = Removal::of(&rules, &self.ours(), self.interface.as_deref()) {
                removals.push((restore, removal));
            }
        }
        Ok(removals)
    }

    fn diff(&self, removals: &Self::Observed, absent: bool) -> Option<Change> {
        let chains: usize = removals.iter().map(|(_, one)| one.chains).sum();
        (absent && chains > 0).then(|| Change::new(Action::Remove).with("chains", chains, 0))
    }

    async fn converge(
        &self,
        removals: &Self::Observed,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        for (program, removal) in removals {
            restore(cx.host, program, removal.input.clone()).await?;
        }
        Ok(())
    }
}

/// Whether a chain of the IPv4 packet filter has a rule that leads to `target`, or any rule if `target` is empty; `None` if the chain does
/// not exist. The rules are read once for all callers that share a [`View`](crate::host::View).
///
/// # Errors
/// The rules cannot be read, or not within `timeout`.
pub(crate) async fn leads_to(
    host: &dyn Host,
    (table, chain, target): (&str, &str, &str),
    timeout: Duration,
) -> HostResult<Option<bool>> {
    let save = CommandSpec::new([FAMILIES[0].0])
        .complete_output()
        .cached_per_pass();
    let saved = host.run_ok(&save.timeout(timeout)).await?.stdout;
    Ok(leads(&saved, table, chain, target))
}

/// The same for the output of `iptables-save`.
fn leads(saved: &str, table: &str, wanted: &str, target: &str) -> Option<bool> {
    let its = saved
        .lines()
        .skip_while(|line| line.strip_prefix('*') != Some(table))
        .take_while(|line| *line != "COMMIT");
    let mut there = false;
    for line in its {
        there |= chain(line) == Some(wanted);
        let rule = line.strip_prefix("-A ").and_then(|rule| {
            let (of, rule) = rule.split_once(' ').unwrap_or((rule, ""));
            (of == wanted).then_some(rule)
        });
        if let Some(rule) = rule
            && (target.is_empty() || after(rule, &["-j", "-g"]).any(|one| one == target))
        {
            return Some(true);
        }
    }
    there.then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::CommandOutput;
    use crate::host::fake::{FakeHost, Program};
    use crate::resource::tests::{apply_in, context};

    const SAVED: &str = r#"# Generated by iptables-save v1.8.9
*filter
:INPUT ACCEPT [10:20]
:MINE - [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -m comment --comment "not -j KUBE-FIREWALL \" at all" -j MINE
-A INPUT -j KUBE-FIREWALL
-A MINE -g KUBE-FIREWALL
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:MINE - [0:0]
-A PREROUTING -j MINE
COMMIT
"#;

    #[test]
    fn chains_are_removed_with_their_jumps_and_foreign_chains_stay() {
        let removal = Removal::of(SAVED, &|name| name.starts_with("KUBE-"), None).unwrap();
        assert_eq!(removal.chains, 1);
        assert_eq!(
            removal.input,
            "*filter\n-D INPUT -j KUBE-FIREWALL\n-D MINE -g KUBE-FIREWALL\n-F KUBE-FIREWALL\n-X KUBE-FIREWALL\nCOMMIT\n"
        );
        assert_eq!(
            Removal::of(SAVED, &|name| name.starts_with("CNI-"), None),
            None
        );
    }

    #[test]
    fn a_chain_leads_to_the_target_of_any_of_its_rules() {
        for (table, chain, target, leads_there) in [
            ("filter", "INPUT", "KUBE-FIREWALL", Some(true)),
            ("filter", "MINE", "KUBE-FIREWALL", Some(true)),
            ("filter", "MINE", "KUBE", Some(false)),
            ("filter", "MINE", "", Some(true)),
            ("filter", "PREROUTING", "MINE", None),
            ("nat", "PREROUTING", "MINE", Some(true)),
            ("nat", "MINE", "", Some(false)),
            ("nat", "KUBE-FIREWALL", "", None),
            ("raw", "PREROUTING", "", None),
        ] {
            let leads_to_target = leads(SAVED, table, chain, target);
            assert_eq!(leads_to_target, leads_there, "{table} {chain} {target}");
        }
    }

    /// A ruleset of the size of a large blocklist is read completely.
    #[tokio::test]
    async fn the_rules_of_others_may_be_many() {
        let host = FakeHost::new();
        host.with_world_mut(|world| {
            // Our rules come first: output that is truncated at its beginning would lose them.
            world.firewall_rule("iptables", "filter", "FORWARD", "-j KUBE-FORWARD");
            world.firewall_rule("iptables", "filter", "KUBE-FORWARD", "-j ACCEPT");
            let theirs = |n: usize| format!("-s 198.{}.{}.7/32 -j DROP", n / 250, n % 250);
            let theirs = (0..20_000).map(theirs).collect();
            world.firewall_rules("iptables", "filter", "FORWARD", theirs);
        });
        let spec = FirewallChainsSpec {
            prefix: "KUBE-".to_owned(),
            interface: None,
            keep_existing: false,
            spared: Vec::new(),
        };
        let to_it = ("filter", "FORWARD", "KUBE-FORWARD");
        let leads = leads_to(&host, to_it, Duration::from_secs(5)).await;
        assert_eq!(leads.unwrap(), Some(true));
        let cx = Context {
            absent: true,
            ..context(&host)
        };
        let removed = apply_in(&cx, &spec, &mut Receipt::default()).await;
        removed.unwrap().expect("there are chains of ours");
        let left = spec.observe(&cx).await.unwrap();
        assert_eq!(spec.diff(&left, true), None);
        let of_others = host.with_world(|world| world.firewall_count());
        assert_eq!(of_others, 20_000, "rules of others stay");
    }

    /// Truncated output proves nothing: our chains must not be considered absent.
    #[tokio::test]
    async fn more_rules_than_can_be_read_are_an_error() {
        let host = FakeHost::new();
        let large = Program::probe(|_, _| {
            let rule = format!(
                "-A INPUT -m comment --comment \"{}\" -j DROP\n",
                "x".repeat(200)
            );
            let enough = CommandOutput::WHOLE / rule.len() + 1;
            CommandOutput {
                status: 0,
                stdout: format!("*filter\n:KUBE-A - [0:0]\n{}COMMIT\n", rule.repeat(enough)),
                stderr: String::new(),
            }
        });
        host.with_world_mut(|world| world.program_does("iptables-save", large));
        let spec = FirewallChainsSpec {
            prefix: "KUBE-".to_owned(),
            interface: None,
            keep_existing: true,
            spared: Vec::new(),
        };
        let error = spec
            .excluding_current(&host)
            .await
            .expect_err("it is too much");
        assert!(
            error.to_string().contains("more than 67108864 bytes"),
            "{error}"
        );
        let to_it = ("filter", "INPUT", "KUBE-A");
        let leads = leads_to(&host, to_it, Duration::from_secs(5)).await;
        leads.expect_err("it is too much");
    }

    #[test]
    fn quoted_words_are_not_options() {
        let jump = |rule| after(rule, &["-j"]).collect::<Vec<_>>();
        assert_eq!(jump("INPUT -m comment --comment \"a -j B\" -j C"), ["C"]);
        assert_eq!(jump("INPUT -p tcp"), Vec::<&str>::new());
    }

    #[test]
    fn rules_of_an_interface_go_too() {
        let saved =
            "*nat\n:A - [0:0]\n-A A ! -o docker0 -j MASQUERADE\n-A A -i docker01 -j A\nCOMMIT\n";
        let removal =
            Removal::of(saved, &|name| name.starts_with("DOCKER"), Some("docker0")).unwrap();
        assert_eq!(
            removal.input,
            "*nat\n-D A ! -o docker0 -j MASQUERADE\nCOMMIT\n"
        );
    }
}
