//! Packet filter chains that another program creates, selected by the prefix of their names.
//!
//! Removal uses `iptables-save` and one atomic `iptables-restore --noflush` for each family: the kernel applies all of the
//! input or nothing, and the rules and chains of other programs are not written again.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::{CommandSpec, Host, HostResult};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult};

/// Both families: the program that shows their rules, and the one that takes them.
const FAMILIES: [(&str, &str); 2] = [
    ("iptables-save", "iptables-restore"),
    ("ip6tables-save", "ip6tables-restore"),
];

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

/// The chain that a line of `iptables-save` declares.
fn chain(line: &str) -> Option<&str> {
    line.strip_prefix(':')?.split(' ').next()
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
        for (restore, removal) in removals {
            let mut command = CommandSpec::new([*restore, "--noflush", "-w", "10"]);
            command.stdin = removal.input.clone().into_bytes();
            cx.host.run_ok(&command).await?;
        }
        Ok(())
    }
}

/// All rules of a family; empty if its programs are not installed.
async fn rules(host: &dyn Host, save: &str) -> ResourceResult<String> {
    if !host.has_program(save).await? {
        return Ok(String::new());
    }
    let command = CommandSpec::new([save]).complete_output().cached_per_pass();
    Ok(host.run_ok(&command).await?.stdout)
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

/// Input for a restore program that removes chains and all rules that refer to them.
#[derive(Debug, PartialEq, Eq)]
pub struct Removal {
    input: String,
    chains: usize,
}

impl Removal {
    /// The removal of the chains for which `ours` is true; `None` if there are none.
    fn of(rules: &str, ours: &dyn Fn(&str) -> bool, interface: Option<&str>) -> Option<Self> {
        let mut removal = Self {
            input: String::new(),
            chains: 0,
        };
        let mut table = Vec::new();
        for line in rules.lines() {
            table.push(line);
            if line == "COMMIT" {
                removal.table(&table, ours, interface);
                table.clear();
            }
        }
        (removal.chains > 0).then_some(removal)
    }

    fn table(&mut self, lines: &[&str], ours: &dyn Fn(&str) -> bool, interface: Option<&str>) {
        let chains: Vec<&str> = lines
            .iter()
            .copied()
            .filter_map(chain)
            .filter(|name| ours(name))
            .collect();
        let Some(name) = lines.iter().find(|line| line.starts_with('*')) else {
            return;
        };
        // Rules in other chains that lead to these chains or match the interface.
        let rules: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.strip_prefix("-A "))
            .filter(|rule| {
                !rule.split(' ').next().is_some_and(ours)
                    && (after(rule, &["-j", "-g"]).any(ours)
                        || after(rule, &["-i", "-o"]).any(|name| Some(name) == interface))
            })
            .collect();
        if chains.is_empty() && rules.is_empty() {
            return;
        }
        // Rules without a chain count as one chain, so that they are a difference.
        self.chains += chains.len().max(1);
        let mut say = |text: String| {
            self.input.push_str(&text);
            self.input.push('\n');
        };
        say((*name).to_owned());
        for rule in rules {
            say(format!("-D {rule}"));
        }
        // All chains are emptied before the first one is deleted: they may refer to each other.
        for chain in &chains {
            say(format!("-F {chain}"));
        }
        for chain in &chains {
            say(format!("-X {chain}"));
        }
        say("COMMIT".to_owned());
    }
}

/// The words of a rule that directly follow one of these options, outside of quotes.
fn after<'r>(rule: &'r str, options: &'r [&str]) -> impl Iterator<Item = &'r str> {
    let words = words(rule);
    let found: Vec<&str> = words
        .iter()
        .zip(words.iter().skip(1))
        .filter(|(before, _)| options.contains(before))
        .map(|(_, word)| *word)
        .collect();
    found.into_iter()
}

/// The words of a rule; a quoted text is one word.
fn words(rule: &str) -> Vec<&str> {
    let (mut quoted, mut escaped, mut start) = (false, false, 0);
    let mut words = Vec::new();
    for (at, one) in rule.char_indices() {
        match one {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => {
                words.push(&rule[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    words.push(&rule[start..]);
    words
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
