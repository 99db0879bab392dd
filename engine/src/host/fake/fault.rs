//! Faults as data: what goes wrong, and when.

use serde::{Deserialize, Serialize};

/// Everything that shall go wrong. Empty by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultPlan {
    /// The faults; the first that applies to a call wins.
    pub faults: Vec<Fault>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which call it strikes.
    pub trigger: Trigger,
    /// What happens to it.
    pub fault_kind: FaultKind,
    /// How often it may still strike; `None` is for ever.
    pub remaining: Option<usize>,
}

/// Which call a fault strikes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Trigger {
    /// The nth mutating call since the plan was set, counted from 1.
    Mutation(usize),
    /// Calls of this name. An argument that ends in `*` is a prefix; `*` is any.
    Call {
        /// Method name, for example `write`.
        name: String,
        /// The call's argument as the journal shows it.
        argument: String,
    },
}

/// What happens to a struck call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// It fails without effect.
    Fail,
    /// It has its effect and then fails, as when the answer is lost.
    FailAfter,
    /// It has no effect and ends at its own deadline.
    Hang,
    /// It reports success without effect.
    Lie,
    /// The program ends before the effect; every later call fails until `revive`.
    CrashBefore,
    /// The program ends after the effect; every later call fails until `revive`.
    CrashAfter,
    /// It has no effect and never returns: the caller has to give up by itself.
    Stall,
    /// It has its effect and never returns.
    StallAfter,
    /// A write of a file that has no effect and does not return before `FakeHost::late_writes_arrive`. Then it takes effect, even if its
    /// caller has given up. Only a fault that names its call can do this.
    Late,
    /// Half of what is to be appended arrives, and the call fails, as on a disk that is full. Calls that append
    /// nothing fail without effect.
    Tear,
}

impl FaultPlan {
    /// Nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a fault.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// The nth mutating call fails, once.
    #[must_use]
    pub fn fail_call(self, n: usize) -> Self {
        self.with(nth(n, FaultKind::Fail))
    }

    /// The nth mutating call has its effect and then fails, once.
    #[must_use]
    pub fn fail_after_call(self, n: usize) -> Self {
        self.with(nth(n, FaultKind::FailAfter))
    }

    /// The program ends just before the nth effect.
    #[must_use]
    pub fn crash_before(self, n: usize) -> Self {
        self.with(nth(n, FaultKind::CrashBefore))
    }

    /// The program ends just after the nth effect.
    #[must_use]
    pub fn crash_after(self, n: usize) -> Self {
        self.with(nth(n, FaultKind::CrashAfter))
    }

    /// The nth mutating call has its effect and never returns.
    #[must_use]
    pub fn stall_after_call(self, n: usize) -> Self {
        self.with(nth(n, FaultKind::StallAfter))
    }

    /// Every call of this name and argument fails.
    #[must_use]
    pub fn fail(self, name: &str, argument: &str) -> Self {
        self.with(named(name, argument, FaultKind::Fail, None))
    }

    /// Every call of this name and argument hangs to its deadline.
    #[must_use]
    pub fn hang(self, name: &str, argument: &str) -> Self {
        self.with(named(name, argument, FaultKind::Hang, None))
    }

    /// Every call of this name and argument never returns.
    #[must_use]
    pub fn stall(self, name: &str, argument: &str) -> Self {
        self.with(named(name, argument, FaultKind::Stall, None))
    }

    /// Every write of this name (`write`, `append`) and path is held up, and arrives late.
    #[must_use]
    pub fn late(self, name: &str, argument: &str) -> Self {
        self.with(named(name, argument, FaultKind::Late, None))
    }

    /// Every call of this name and argument appends half of what it should, and fails.
    #[must_use]
    pub fn truncate_append(self, name: &str, argument: &str) -> Self {
        self.with(named(name, argument, FaultKind::Tear, None))
    }

    /// The next call of this name and argument reports success without effect.
    #[must_use]
    pub fn lie(self, name: &str, argument: &str) -> Self {
        self.with(named(name, argument, FaultKind::Lie, Some(1)))
    }

    /// Bounds how often the fault added last may strike.
    #[must_use]
    pub fn times(mut self, n: usize) -> Self {
        if let Some(last) = self.faults.last_mut() {
            last.remaining = Some(n);
        }
        self
    }

    /// Whether this mischief strikes such a call. If it does, one use of the fault is spent.
    pub(crate) fn takes_fault(
        &mut self,
        name: &str,
        argument: &str,
        fault_kind: FaultKind,
    ) -> bool {
        let first = self.faults.iter_mut().find(|fault| {
            let named = match &fault.trigger {
                Trigger::Mutation(_) => false,
                Trigger::Call {
                    name: wanted,
                    argument: pattern,
                } => wanted == name && matches(pattern, argument),
            };
            named && fault.remaining != Some(0)
        });
        let Some(fault) = first.filter(|fault| fault.fault_kind == fault_kind) else {
            return false;
        };
        fault.remaining = fault.remaining.map(|n| n - 1);
        true
    }

    /// The mischief for a call, if any; one use of the fault is spent. `mutation` is the call's number when it changes something.
    pub(crate) fn take_fault(
        &mut self,
        name: &str,
        argument: &str,
        mutation: Option<usize>,
    ) -> Option<FaultKind> {
        let fault = self.faults.iter_mut().find(|fault| {
            fault.remaining != Some(0)
                // Observations have no effect that could be left out.
                && (fault.fault_kind != FaultKind::Lie || mutation.is_some())
                && fault.fault_kind != FaultKind::Late
                && match &fault.trigger {
                    Trigger::Mutation(n) => mutation == Some(*n),
                    Trigger::Call { name: wanted, argument: pattern } => {
                        wanted == name && matches(pattern, argument)
                    }
                }
        })?;
        fault.remaining = fault.remaining.map(|n| n - 1);
        Some(fault.fault_kind)
    }
}

fn nth(n: usize, fault_kind: FaultKind) -> Fault {
    Fault {
        trigger: Trigger::Mutation(n),
        fault_kind,
        remaining: Some(1),
    }
}

fn named(name: &str, argument: &str, fault_kind: FaultKind, remaining: Option<usize>) -> Fault {
    let trigger = Trigger::Call {
        name: name.to_owned(),
        argument: argument.to_owned(),
    };
    Fault {
        trigger,
        fault_kind,
        remaining,
    }
}

fn matches(pattern: &str, argument: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(pattern == argument, |prefix| argument.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_strike_once_and_names_until_used_up() {
        let mut plan = FaultPlan::none()
            .fail_call(2)
            .fail("write", "/etc/*")
            .times(1);
        assert_eq!(plan.take_fault("write", "/var/x", Some(1)), None);
        assert_eq!(
            plan.take_fault("write", "/etc/x", Some(2)),
            Some(FaultKind::Fail)
        );
        assert_eq!(
            plan.take_fault("write", "/etc/x", Some(3)),
            Some(FaultKind::Fail)
        );
        assert_eq!(plan.take_fault("write", "/etc/x", Some(4)), None);
    }

    #[test]
    fn observations_cannot_lie() {
        let mut plan = FaultPlan::none().lie("read", "*");
        assert_eq!(plan.take_fault("read", "/etc/x", None), None);
    }
}
