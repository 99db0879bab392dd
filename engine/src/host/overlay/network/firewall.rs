//! The packet filter: its rules are fetched from below the first time, and changes stay in the upper world.
//!
//! `iptables-save` is the only command that a dry run runs on the host below: it shows the rules and changes nothing.

use crate::host::overlay::OverlayHost;
use crate::host::{CommandOutput, CommandSpec, HostResult};

/// Both families: their name, the program that shows their rules, and the one that takes them.
const FAMILIES: [(&str, &str, &str); 2] = [
    ("iptables", "iptables-save", "iptables-restore"),
    ("ip6tables", "ip6tables-save", "ip6tables-restore"),
];

impl OverlayHost<'_> {
    /// Whether a program is one of those that [`OverlayHost::packet_filter`] answers for.
    pub(in crate::host::overlay) fn is_of_packet_filter(name: &str) -> bool {
        FAMILIES
            .iter()
            .any(|(_, save, restore)| name == *save || name == *restore)
    }

    /// The end of a command that shows or changes the packet filter; `None` for any other command.
    pub(in crate::host::overlay) async fn packet_filter(
        &self,
        command: &CommandSpec,
    ) -> HostResult<Option<CommandOutput>> {
        let (program, arguments) = match command.argv.split_first() {
            Some((program, arguments)) => (program.as_str(), arguments),
            None => return Ok(None),
        };
        for (family, save, restore) in FAMILIES {
            if program == save && arguments.is_empty() {
                self.fetch_rules(family, save).await?;
                let stdout = self.upper.with_world(|world| world.saved_firewall(family));
                return Ok(Some(CommandOutput {
                    status: 0,
                    stdout,
                    stderr: String::new(),
                }));
            }
            if program == restore && arguments.first().is_some_and(|one| one == "--noflush") {
                self.fetch_rules(family, save).await?;
                self.changes();
                let ended = self
                    .upper
                    .with_world_mut(|world| world.restored_firewall(family, &command.stdin));
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    async fn fetch_rules(&self, family: &'static str, save: &str) -> HostResult<()> {
        if self.known().firewalls.contains(family) {
            return Ok(());
        }
        let mut saved = String::new();
        // A package that a step installs may bring the programs: then there are no rules below.
        if self.lower.has_program(save).await? {
            let command = CommandSpec::new([save]).complete_output();
            saved = self.lower.run_ok(&command).await?.stdout;
        }
        self.keep_rules(family, &saved);
        Ok(())
    }

    /// Takes the rules from below, once: checks ask at the same time, and a second time would add each rule again.
    fn keep_rules(&self, family: &'static str, saved: &str) {
        // Held until the rules are there: who finds the family known reads them.
        let mut known = self.known();
        if known.firewalls.insert(family) {
            self.upper
                .with_world_mut(|world| world.firewall_input(family, saved));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn rules_that_are_fetched_twice_at_the_same_time_are_there_once() {
        const SAVED: &str =
            "*filter\n:INPUT ACCEPT [0:0]\n:PF9-VRRP - [0:0]\n-A INPUT -j PF9-VRRP\nCOMMIT\n";
        let lower = FakeHost::new();
        let host = OverlayHost::new(&lower);
        for _ in 0..2 {
            host.keep_rules("iptables", SAVED);
        }
        let rules = host
            .upper
            .with_world(|world| world.saved_firewall("iptables"));
        assert_eq!(rules.matches("-A INPUT -j PF9-VRRP").count(), 1, "{rules}");
    }
}
