//! The packet filter of a fake host: chains and rules, and the programs that show and change them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::host::fake::world::World;
use crate::host::fake::world::program::Program;
use crate::host::{CommandOutput, CommandSpec};

/// The kernel's built-in chains of one table. The fake host gives every table the same ones.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// The kernel's tables.
const TABLES: [&str; 5] = ["filter", "mangle", "nat", "raw", "security"];

/// Rules by chain, by table, by family (`iptables`, `ip6tables`).
#[derive(Debug, Clone, Default)]
pub(crate) struct Firewall {
    rules: BTreeMap<(String, String), BTreeMap<String, Vec<String>>>,
}

impl Firewall {
    /// Every chain with its rules, for comparison; built-in ones only with rules.
    pub(crate) fn chains(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for ((family, table), chains) in &self.rules {
            for (chain, rules) in chains {
                if !rules.is_empty() || !BUILT_IN.contains(&chain.as_str()) {
                    all.push((format!("{family} {table} {chain}"), rules.join("; ")));
                }
            }
        }
        all
    }

    fn save(&self, family: &str) -> String {
        let mut text = String::new();
        for ((_, table), chains) in self.rules.iter().filter(|((of, _), _)| of == family) {
            let _ = writeln!(text, "*{table}");
            for chain in chains.keys() {
                let policy = if BUILT_IN.contains(&chain.as_str()) {
                    "ACCEPT"
                } else {
                    "-"
                };
                let _ = writeln!(text, ":{chain} {policy} [0:0]");
            }
            for (chain, rules) in chains {
                for rule in rules {
                    let _ = writeln!(text, "-A {chain} {rule}");
                }
            }
            text.push_str("COMMIT\n");
        }
        text
    }

    /// The output of `iptables --list-rules CHAIN`, with a rule number or without.
    fn rule(
        &self,
        family: &str,
        table: &str,
        chain: &str,
        number: Option<usize>,
    ) -> Result<String, String> {
        let rules = self
            .rules
            .get(&(family.to_owned(), table.to_owned()))
            .and_then(|chains| chains.get(chain))
            .ok_or_else(|| format!("no chain {chain}"))?;
        // Like the program, prints nothing for a rule that does not exist.
        let asked = |at: usize| number.is_none_or(|number| number == at + 1);
        let rules = rules.iter().enumerate().filter(|(at, _)| asked(*at));
        Ok(rules
            .map(|(_, rule)| format!("-A {chain} {rule}\n"))
            .collect())
    }

    /// The chains of a table, with the kernel's own.
    fn table(&mut self, family: &str, table: &str) -> &mut BTreeMap<String, Vec<String>> {
        let built_in = || BUILT_IN.map(|chain| (chain.to_owned(), Vec::new()));
        let at = (family.to_owned(), table.to_owned());
        let its = self.rules.entry(at);
        its.or_insert_with(|| built_in().into_iter().collect())
    }

    /// What `iptables-restore --noflush` does with the declaration of a chain, `-A`, `-I` with a number, `-D`, `-F` and `-X`. Lines of
    /// `iptables-save` may be its input.
    fn restore(&mut self, family: &str, input: &str) -> Result<(), String> {
        let mut table = String::new();
        for line in input.lines().filter(|line| !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('*') {
                if !TABLES.contains(&name) {
                    return Err(format!("no table {name}"));
                }
                name.clone_into(&mut table);
                continue;
            }
            if table.is_empty() {
                return Err(format!("no table before {line}"));
            }
            let chains = self.table(family, &table);
            if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or(chain);
                // One of the kernel's chains keeps its rules, and any other is emptied.
                if !BUILT_IN.contains(&name) {
                    chains.insert(name.to_owned(), Vec::new());
                }
                continue;
            }
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
            let missing = || format!("no chain {chain}");
            match verb {
                "-A" => {
                    let target = rule.rsplit_once("-j ").map_or("", |(_, target)| target);
                    // The fake host knows no targets, only chains: a target of the role's own must be there.
                    if target.starts_with("PF9-") && !chains.contains_key(target) {
                        return Err(format!("no chain {target}"));
                    }
                    let rules = chains.get_mut(chain).ok_or_else(missing)?;
                    rules.push(rule.to_owned());
                }
                "-I" => {
                    let rules = chains.get_mut(chain).ok_or_else(missing)?;
                    let (number, rule) = rule.split_once(' ').unwrap_or((rule, ""));
                    let at = number
                        .parse::<usize>()
                        .ok()
                        .and_then(|at| at.checked_sub(1));
                    let at = at.filter(|at| *at <= rules.len());
                    let at = at.ok_or_else(|| format!("no place {number} in {chain}"))?;
                    rules.insert(at, rule.to_owned());
                }
                "-D" => {
                    let rules = chains.get_mut(chain).ok_or_else(missing)?;
                    let at = rules.iter().position(|one| one == rule);
                    rules.remove(at.ok_or_else(|| format!("no rule {rule}"))?);
                }
                "-F" => chains.get_mut(chain).ok_or_else(missing)?.clear(),
                "-X" => {
                    let jump = format!("-j {chain}");
                    if chains.values().flatten().any(|rule| rule.contains(&jump)) {
                        return Err(format!("chain {chain} is in use"));
                    }
                    chains.remove(chain).ok_or_else(missing)?;
                }
                "COMMIT" => {}
                other => return Err(format!("unknown verb {other}")),
            }
        }
        Ok(())
    }
}

impl World {
    /// Adds a rule, and its chain where there is none.
    pub fn firewall_rule(&mut self, family: &str, table: &str, chain: &str, rule: &str) {
        let chains = self.firewall.table(family, table);
        let rules = chains.entry(chain.to_owned()).or_default();
        if !rules.iter().any(|known| known == rule) {
            rules.push(rule.to_owned());
        }
    }

    /// Adds many rules to the end of a chain, without a search for rules that are there already.
    pub fn firewall_rules(&mut self, family: &str, table: &str, chain: &str, rules: Vec<String>) {
        let Some((last, others)) = rules.split_last() else {
            return;
        };
        // Adding the last rule makes the table and the chain.
        self.firewall_rule(family, table, chain, last);
        let at = (family.to_owned(), table.to_owned());
        if let Some(its) = self
            .firewall
            .rules
            .get_mut(&at)
            .and_then(|it| it.get_mut(chain))
        {
            its.extend_from_slice(others);
        }
    }

    /// Carries out input of `iptables-restore --noflush`, all of it or nothing: `Err` says why the program refused it.
    fn change_firewall(&mut self, family: &str, input: &str) -> Result<(), String> {
        let mut changed = self.firewall.clone();
        changed.restore(family, input)?;
        self.firewall = changed;
        Ok(())
    }

    /// The same for another program on the host. Does nothing if the input is refused.
    pub fn firewall_input(&mut self, family: &str, input: &str) {
        let _ = self.change_firewall(family, input);
    }

    /// The output of `iptables-save` or `ip6tables-save`.
    pub(crate) fn saved_firewall(&self, family: &str) -> String {
        self.firewall.save(family)
    }

    /// How `iptables-restore --noflush` or `ip6tables-restore --noflush` ends with this input.
    pub(crate) fn restored_firewall(&mut self, family: &str, input: &[u8]) -> CommandOutput {
        let input = String::from_utf8_lossy(input).into_owned();
        output(self.change_firewall(family, &input).map(|()| String::new()))
    }

    /// How many rules there are in all.
    #[must_use]
    pub fn firewall_count(&self) -> usize {
        let tables = self.firewall.rules.values();
        tables.flat_map(BTreeMap::values).map(Vec::len).sum()
    }

    /// The programs of both families.
    pub(crate) fn install_firewall_programs(&mut self) {
        for family in ["iptables", "ip6tables"] {
            let show = move |command: &CommandSpec, world: &World| {
                let words: Vec<&str> = command.argv.iter().map(String::as_str).collect();
                let [
                    _,
                    "--wait",
                    _,
                    "--table",
                    table,
                    "--list-rules",
                    chain,
                    ref number @ ..,
                ] = words[..]
                else {
                    return output(Err(format!("not known here: {}", words.join(" "))));
                };
                let number = number.first().map(|number| number.parse().unwrap_or(0));
                output(world.firewall.rule(family, table, chain, number))
            };
            self.program_does(family, Program::probe(show));
            let save =
                move |_: &CommandSpec, world: &World| output(Ok(world.saved_firewall(family)));
            self.program_does(&format!("{family}-save"), Program::probe(save));
            let restore = move |command: &CommandSpec, world: &mut World| {
                world.restored_firewall(family, &command.stdin)
            };
            self.program_does(&format!("{family}-restore"), Program::new(restore));
        }
    }
}

fn output(result: Result<String, String>) -> CommandOutput {
    let (status, stdout, stderr) = match result {
        Ok(text) => (0, text, String::new()),
        Err(problem) => (1, String::new(), problem),
    };
    CommandOutput {
        status,
        stdout,
        stderr,
    }
}
