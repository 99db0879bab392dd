//! The rules of the kernel's packet filter: how they are read (`iptables-save`), and what changes them.
//!
//! Each change is one atomic `iptables-restore --noflush`: the kernel applies all of the input or nothing, and the rules and chains of
//! other programs are not written again.
//!
//! Not here: what a script says about chains (`firewall`, `firewall_chain`), and how an undo restores one (`undo`). Start with [`rules`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::host::{CommandSpec, Host, HostResult};

/// Both families: the program that shows their rules, and the one that takes them.
pub(super) const FAMILIES: [(&str, &str); 2] = [
    ("iptables-save", "iptables-restore"),
    ("ip6tables-save", "ip6tables-restore"),
];

/// The number of the protocol VRRP.
pub(super) const VRRP: &str = "112";

/// The kernel's chains. Only jumps from these have a place: chains of other programs may have thousands of rules.
const KERNEL_CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// The targets that decide about a packet.
const DECIDING: [&str; 10] = [
    "ACCEPT",
    "DNAT",
    "DROP",
    "MASQUERADE",
    "NFQUEUE",
    "QUEUE",
    "REDIRECT",
    "REJECT",
    "RETURN",
    "SNAT",
];

/// A family of the packet filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterFamily {
    /// IPv4: `iptables`.
    Ipv4,
    /// IPv6: `ip6tables`.
    Ipv6,
}

impl FilterFamily {
    /// The name of its program.
    pub(in crate::resource) fn program(self) -> &'static str {
        match self {
            Self::Ipv4 => "iptables",
            Self::Ipv6 => "ip6tables",
        }
    }

    /// The program that shows the rules, and the one that takes them.
    fn programs(self) -> (&'static str, &'static str) {
        let [four, six] = FAMILIES;
        match self {
            Self::Ipv4 => four,
            Self::Ipv6 => six,
        }
    }
}

/// The chain that a line of `iptables-save` declares.
pub(super) fn chain(line: &str) -> Option<&str> {
    line.strip_prefix(':')?.split(' ').next()
}

/// All rules of a family; empty if its programs are not installed.
pub(super) async fn rules(host: &dyn Host, save: &str) -> HostResult<String> {
    if !host.has_program(save).await? {
        return Ok(String::new());
    }
    let command = CommandSpec::new([save]).complete_output().cached_per_pass();
    Ok(host.run_ok(&command).await?.stdout)
}

/// Gives a restore program its input. All of it takes effect, or nothing.
///
/// # Errors
/// The program refused the input, or did not get the lock of the packet filter within ten seconds.
pub(super) async fn restore(host: &dyn Host, program: &str, input: String) -> HostResult<()> {
    let mut command = CommandSpec::new([program, "--noflush", "-w", "10"]);
    command.stdin = input.into_bytes();
    host.run_ok(&command).await.map(drop)
}

/// One chain: its rules, and the rules of other chains that lead to it. All as `iptables-save` prints them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChainContent {
    /// Its rules, without `-A` and the name of the chain.
    pub rules: Vec<String>,
    /// Rules that lead to it, without `-A`: for example `FORWARD -j PF9-FORWARD`.
    pub jumps: Vec<String>,
    /// Whether all jumps come before the rules of the kernel's chains that decide about packets, for example `-j DROP`. Of a chain as it
    /// has to be: `None` leaves jumps where they are, and adds new ones at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<bool>,
}

impl ChainContent {
    /// Whether the chain is what it has to be.
    fn is(&self, wanted: &Self) -> bool {
        let is_in_place = wanted.first.is_none() || self.first == wanted.first;
        self.rules == wanted.rules && self.jumps == wanted.jumps && is_in_place
    }
}

/// Where a chain is.
#[derive(Debug, Clone, Copy)]
pub(in crate::resource) struct ChainPlace<'a> {
    /// The family.
    pub(in crate::resource) family: FilterFamily,
    /// The table, for example `nat`.
    pub(in crate::resource) table: &'a str,
    /// The chain's name.
    pub(in crate::resource) name: &'a str,
}

impl ChainPlace<'_> {
    /// The chain as it is; `None` if there is none.
    ///
    /// # Errors
    /// The rules could not be read.
    pub(in crate::resource) async fn read(
        self,
        host: &dyn Host,
    ) -> HostResult<Option<ChainContent>> {
        let saved = rules(host, self.family.programs().0).await?;
        Ok(self.content(&saved))
    }

    /// Makes the chain what it has to be; `None` removes it. Does nothing if it is so already.
    ///
    /// # Errors
    /// The rules could not be read or changed.
    pub(in crate::resource) async fn set(
        self,
        host: &dyn Host,
        wanted: Option<&ChainContent>,
    ) -> HostResult<()> {
        let now = self.read(host).await?;
        if let Some(input) = self.input(now.as_ref(), wanted) {
            restore(host, self.family.programs().1, input).await?;
        }
        Ok(())
    }

    /// The chain in the output of `iptables-save`.
    fn content(self, saved: &str) -> Option<ChainContent> {
        let lines = saved
            .lines()
            .skip_while(|line| line.strip_prefix('*') != Some(self.table))
            .take_while(|line| *line != "COMMIT");
        let mut there = false;
        let mut content = ChainContent::default();
        let mut chains_that_decided = BTreeSet::new();
        for line in lines {
            there |= chain(line) == Some(self.name);
            let Some(rule) = line.strip_prefix("-A ") else {
                continue;
            };
            let (of, its) = rule.split_once(' ').unwrap_or((rule, ""));
            if of == self.name {
                content.rules.push(with_number(its));
            } else if after(rule, &["-j", "-g"]).any(|target| target == self.name) {
                content.jumps.push(rule.to_owned());
                let is_first = !chains_that_decided.contains(of);
                content.first = Some(is_first && content.first != Some(false));
            } else if KERNEL_CHAINS.contains(&of) && decides(its) {
                chains_that_decided.insert(of);
            }
        }
        there.then_some(content)
    }

    /// Input for the restore program; `None` if nothing differs. The line that declares a chain creates it, or empties it.
    fn input(self, now: Option<&ChainContent>, wanted: Option<&ChainContent>) -> Option<String> {
        let is_so = match (now, wanted) {
            (None, None) => true,
            (Some(now), Some(wanted)) => now.is(wanted),
            (Some(_), None) | (None, Some(_)) => false,
        };
        if is_so {
            return None;
        }
        let name = self.name;
        let mut lines = vec![format!("*{}", self.table)];
        if let Some(wanted) = wanted {
            lines.push(format!(":{name} - [0:0]"));
            lines.extend(wanted.rules.iter().map(|rule| format!("-A {name} {rule}")));
        }
        lines.extend(jump_changes(now, wanted));
        if wanted.is_none() {
            lines.extend([format!("-F {name}"), format!("-X {name}")]);
        }
        lines.push("COMMIT\n".to_owned());
        Some(lines.join("\n"))
    }
}

/// Input lines that make the jumps to a chain what they have to be.
fn jump_changes(now: Option<&ChainContent>, wanted: Option<&ChainContent>) -> Vec<String> {
    let there = now.map_or(&[][..], |now| &now.jumps);
    let mut missing = wanted.map_or_else(Vec::new, |wanted| wanted.jumps.clone());
    let place = wanted.and_then(|wanted| wanted.first);
    let is_in_place = there == missing && now.and_then(|now| now.first) == place;
    let stays = place.is_none() || is_in_place;
    let mut lines = Vec::new();
    // A jump that stays keeps its place among the rules of its chain. A duplicate goes.
    for jump in there {
        let same = missing.iter().position(|one| one == jump);
        match same.filter(|_| stays) {
            Some(at) => drop(missing.remove(at)),
            None => lines.push(format!("-D {jump}")),
        }
    }
    if place == Some(true) {
        // Each one is inserted before the others, so the first one comes last.
        let parts = missing.iter().rev().filter_map(|jump| jump.split_once(' '));
        lines.extend(parts.map(|(chain, rule)| format!("-I {chain} 1 {rule}")));
    } else {
        lines.extend(missing.iter().map(|jump| format!("-A {jump}")));
    }
    lines
}

/// Whether a rule may decide about a packet, so that the rules after it do not see the packet. A jump to another chain does not count:
/// docker and kube-proxy put theirs first when they start.
fn decides(rule: &str) -> bool {
    let ends = |target: &str| DECIDING.contains(&target);
    after(rule, &["-g"]).next().is_some() || after(rule, &["-j"]).any(ends)
}

/// The rule with the number of its protocol, if the program shows the name that the host's `/etc/protocols` has for it. The protocol
/// precedes all matches, so a text after `-m` is never changed.
fn with_number(rule: &str) -> String {
    let end = rule.find("-m ").unwrap_or(rule.len());
    let (conditions, rest) = rule.split_at(end);
    conditions.replacen("-p vrrp ", &format!("-p {VRRP} "), 1) + rest
}

/// Input for a restore program that removes chains and all rules that refer to them.
#[derive(Debug, PartialEq, Eq)]
pub struct Removal {
    pub(super) input: String,
    pub(super) chains: usize,
}

impl Removal {
    /// The removal of the chains for which `ours` is true; `None` if there are none.
    pub(super) fn of(
        rules: &str,
        ours: &dyn Fn(&str) -> bool,
        interface: Option<&str>,
    ) -> Option<Self> {
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
pub(super) fn after<'r>(rule: &'r str, options: &'r [&str]) -> impl Iterator<Item = &'r str> {
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

    const SAVED: &str = "*filter
:FORWARD DROP [0:0]
:PF9-A - [0:0]
-A FORWARD -j PF9-A
-A FORWARD -i eth0 -j PF9-A
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:PF9-A - [0:0]
:PF9-AB - [0:0]
-A POSTROUTING -m comment --comment \"-j PF9-A\" -j PF9-AB
-A POSTROUTING -j PF9-A
-A POSTROUTING -j PF9-A
-A PF9-A -d 10.20.0.0/16 -j RETURN
-A PF9-A -j MASQUERADE
-A PF9-AB -j RETURN
COMMIT
";

    fn place(table: &'static str, name: &'static str) -> ChainPlace<'static> {
        ChainPlace {
            family: FilterFamily::Ipv4,
            table,
            name,
        }
    }

    fn content(rules: &[&str], jumps: &[&str]) -> ChainContent {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        ChainContent {
            rules: owned(rules),
            jumps: owned(jumps),
            first: None,
        }
    }

    /// The same with the place of its jumps: before the rules that decide, or not.
    fn placed(first: bool, content: ChainContent) -> ChainContent {
        ChainContent {
            first: Some(first),
            ..content
        }
    }

    #[test]
    fn a_chain_is_read_from_its_table_with_the_jumps_to_it() {
        let jump = "POSTROUTING -j PF9-A";
        let rules = ["-d 10.20.0.0/16 -j RETURN", "-j MASQUERADE"];
        let found = place("nat", "PF9-A").content(SAVED);
        assert_eq!(found, Some(placed(true, content(&rules, &[jump, jump]))));
        let found = place("filter", "PF9-A").content(SAVED);
        let jumps = ["FORWARD -j PF9-A", "FORWARD -i eth0 -j PF9-A"];
        assert_eq!(found, Some(placed(true, content(&[], &jumps))));
        assert_eq!(place("filter", "PF9-AB").content(SAVED), None);
        assert_eq!(place("raw", "PF9-A").content(SAVED), None);
    }

    #[test]
    fn a_jump_is_first_if_no_rule_before_it_decides() {
        for (before, first) in [
            ("", true),
            ("-A INPUT -j KUBE-FIREWALL\n", true),
            ("-A INPUT -p tcp -j LOG\n", true),
            (
                "-A INPUT -m comment --comment \"-j DROP\" -j THEIRS\n",
                true,
            ),
            ("-A FORWARD -j DROP\n-A THEIRS -j DROP\n", true),
            ("-A INPUT -i lo -j ACCEPT\n", false),
            (
                "-A INPUT -j REJECT --reject-with icmp-port-unreachable\n",
                false,
            ),
            ("-A INPUT -g THEIRS\n", false),
            ("-A INPUT -j PF9-A\n-A INPUT -j DROP\n", false),
        ] {
            let saved = format!("*filter\n:PF9-A - [0:0]\n{before}-A INPUT -j PF9-A\nCOMMIT\n");
            let found = place("filter", "PF9-A").content(&saved);
            let found = found.expect("a chain").first;
            assert_eq!(found, Some(first), "{before}");
        }
    }

    #[test]
    fn a_jump_that_has_to_be_first_is_moved_and_stays_there() {
        let place = place("filter", "PF9-A");
        let jump = "INPUT -j PF9-A";
        let [delete, insert] = ["-D INPUT -j PF9-A", "-I INPUT 1 -j PF9-A"];
        let is_behind = placed(false, content(&[], &[jump]));
        let is_first = placed(true, content(&[], &[jump]));
        let cases: [(_, _, Option<&[&str]>); 7] = [
            (None, &is_first, Some(&[insert])),
            (Some(content(&[], &[])), &is_first, Some(&[insert])),
            (Some(is_first.clone()), &is_first, None),
            (Some(is_behind.clone()), &is_first, Some(&[delete, insert])),
            // It is not known which of two is the first.
            (
                Some(placed(false, content(&[], &[jump, jump]))),
                &is_first,
                Some(&[delete, delete, insert]),
            ),
            // The rules are written again, and the jump stays where it is.
            (
                Some(placed(true, content(&["-j DROP"], &[jump]))),
                &is_first,
                Some(&[]),
            ),
            // An undo.
            (
                Some(is_first.clone()),
                &is_behind,
                Some(&[delete, "-A INPUT -j PF9-A"]),
            ),
        ];
        for (now, wanted, expected) in cases {
            let input = place.input(now.as_ref(), Some(wanted));
            let expected = expected.map(|lines| {
                let head = &["*filter", ":PF9-A - [0:0]"][..];
                let whole = [head, lines, &["COMMIT"]].concat();
                whole.join("\n") + "\n"
            });
            assert_eq!(input, expected, "{now:?}");
        }
    }

    #[test]
    fn a_protocol_is_compared_by_its_number() {
        for (shown, compared) in [
            ("-p vrrp -j DROP", "-p 112 -j DROP"),
            (
                "-s 10.0.0.1/32 -p vrrp -j ACCEPT",
                "-s 10.0.0.1/32 -p 112 -j ACCEPT",
            ),
            ("-p 112 -j DROP", "-p 112 -j DROP"),
            ("-p tcp -j DROP", "-p tcp -j DROP"),
            (
                "-m comment --comment \"-p vrrp \" -j DROP",
                "-m comment --comment \"-p vrrp \" -j DROP",
            ),
        ] {
            assert_eq!(with_number(shown), compared);
        }
    }

    #[test]
    fn the_input_changes_only_what_differs() {
        let place = place("nat", "PF9-A");
        let jump = "POSTROUTING -j PF9-A";
        let wanted = content(&["-j MASQUERADE"], &[jump]);
        let whole = ["*nat", ":PF9-A - [0:0]", "-A PF9-A -j MASQUERADE"];
        let cases = [
            (None::<ChainContent>, None, None),
            (Some(wanted.clone()), Some(&wanted), None),
            (
                None,
                Some(&wanted),
                Some([&whole[..], &["-A POSTROUTING -j PF9-A", "COMMIT"]].concat()),
            ),
            // The jump stays where it is, and its duplicate goes.
            (
                Some(content(&[], &[jump, jump])),
                Some(&wanted),
                Some([&whole[..], &["-D POSTROUTING -j PF9-A", "COMMIT"]].concat()),
            ),
            (
                Some(content(&["-j MASQUERADE"], &["OUTPUT -j PF9-A"])),
                Some(&wanted),
                Some(
                    [
                        &whole[..],
                        &["-D OUTPUT -j PF9-A", "-A POSTROUTING -j PF9-A", "COMMIT"],
                    ]
                    .concat(),
                ),
            ),
            (
                Some(wanted.clone()),
                None,
                Some(vec![
                    "*nat",
                    "-D POSTROUTING -j PF9-A",
                    "-F PF9-A",
                    "-X PF9-A",
                    "COMMIT",
                ]),
            ),
        ];
        for (now, wanted, expected) in cases {
            let input = place.input(now.as_ref(), wanted);
            let expected = expected.map(|lines| lines.join("\n") + "\n");
            assert_eq!(input, expected, "{now:?}");
        }
    }
}
