//! How a fault is caused: on its host alone, or with a part that runs on a master, because a worker may not do everything itself.

use anyhow::Result;

use super::Fault;
use crate::topology::host::Host;

impl Fault {
    /// Causes the fault, and then removes what prevents its repair. A fault with a part on a master needs [`Self::cause_with`] on a worker.
    ///
    /// # Errors
    /// The script failed: this fault cannot happen on the host.
    pub fn cause(&self, host: &Host, vip: &str) -> Result<()> {
        self.cause_with(host, host, vip)
    }

    /// The same on any host. `master` is any master of its cluster that runs, also the host itself.
    ///
    /// # Errors
    /// A script failed: this fault cannot happen on the host.
    pub fn cause_with(&self, master: &Host, host: &Host, vip: &str) -> Result<()> {
        let breaks = if master.name() == host.name() || self.on_master.is_empty() {
            self.breaks_alone()
        } else {
            let asked = self.run(host, vip, self.asks)?;
            let on_master = with("ASKED", &asked, self.on_master);
            let made = self.run_on(master, host, vip, &on_master)?;
            with("MADE", &made, self.breaks)
        };
        self.run(host, vip, &format!("{breaks}\n{}", self.frees))?;
        if self.boots { host.reboot() } else { Ok(()) }
    }

    /// The script that causes the fault on a host that may do everything itself.
    pub(super) fn breaks_alone(&self) -> String {
        if self.on_master.is_empty() {
            return self.breaks.to_owned();
        }
        format!(
            "ASKED=$({}) && MADE=$({})\n{}",
            self.asks, self.on_master, self.breaks
        )
    }
}

/// A script that has a text in this variable.
fn with(variable: &str, text: &str, script: &str) -> String {
    let quoted = text.replace('\'', r"'\''");
    format!("{variable}='{quoted}'\n{script}")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const SIGNED: Fault = Fault {
        asks: "echo \"it's $ADDRESS\"",
        on_master: "cat <<< \"$ASKED, signed\"",
        breaks: "echo \"$MADE\"",
        ..Fault::NONE
    };

    fn printed(script: &str) -> String {
        let script = format!("ADDRESS=172.30.1.12\nset -e -o pipefail\n{script}");
        let output = Command::new("bash").args(["-c", &script]).output();
        let output = output.expect("bash runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[test]
    fn a_master_asks_and_answers_itself() {
        let printed_alone = printed(&SIGNED.breaks_alone());
        assert_eq!(printed_alone, "it's 172.30.1.12, signed");
        let alone = Fault {
            breaks: "echo broken",
            ..Fault::NONE
        };
        assert_eq!(alone.breaks_alone(), "echo broken");
    }

    #[test]
    fn a_worker_and_a_master_hand_over_what_they_print() {
        let asked = printed(SIGNED.asks);
        let made = printed(&with("ASKED", &asked, SIGNED.on_master));
        let broken = printed(&with("MADE", &made, SIGNED.breaks));
        assert_eq!(broken, "it's 172.30.1.12, signed");
        // A script that needs nothing of the host has nothing to ask.
        assert_eq!(printed(&with("ASKED", "", "echo made")), "made");
    }
}
