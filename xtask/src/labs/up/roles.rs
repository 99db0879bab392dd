//! What the hosts of a lab's cluster are, by their names: `worker-1`, `worker-2` and so on are workers, all others are masters.

use std::collections::BTreeSet;

use lab::Host;
use lab::topology::Choices;

/// Most masters of a cluster.
const MOST_MASTERS: u8 = 5;
/// Most workers of a lab. All hosts share the processors and the memory of this machine.
pub(super) const MOST_WORKERS: u8 = 5;

/// What a host of a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It runs a member of etcd and the control plane.
    Master,
    /// It runs workloads only.
    Worker,
}

impl Role {
    /// The role of the host of this name.
    pub(crate) fn of(name: &str) -> Self {
        let number = name.strip_prefix(Self::Worker.prefix());
        let is_worker = number
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
        if is_worker {
            Self::Worker
        } else {
            Self::Master
        }
    }

    /// What the names of such hosts begin with; a number follows.
    fn prefix(self) -> &'static str {
        match self {
            Self::Master => "master-",
            Self::Worker => "worker-",
        }
    }

    /// The hosts of this role, in their order.
    pub(crate) fn hosts(self, mut hosts: Vec<Host>) -> Vec<Host> {
        hosts.retain(|host| Self::of(host.name()) == self);
        hosts
    }

    /// The names of the hosts of this role that a lab lacks until it has as many as wanted: those with the lowest free numbers.
    pub(super) fn missing(self, hosts: &[&str], wanted: u8) -> Vec<String> {
        let existing: BTreeSet<&str> = hosts
            .iter()
            .copied()
            .filter(|one| Self::of(one) == self)
            .collect();
        let lacking = usize::from(wanted).saturating_sub(existing.len());
        (1..=u32::from(MOST_MASTERS.max(MOST_WORKERS)) + u32::from(wanted))
            .map(|number| format!("{}{number}", self.prefix()))
            .filter(|name| !existing.contains(name.as_str()))
            .take(lacking)
            .collect()
    }
}

/// Reads a number of masters. With an even number, a cluster survives no more losses than with one master less.
pub(super) fn number_of_masters(text: &str) -> Result<u8, String> {
    match text.parse::<u8>() {
        Ok(number @ (1 | 3 | MOST_MASTERS)) => Ok(number),
        Ok(_) | Err(_) => {
            Err("a cluster has 1, 3 or 5 masters: an even number survives no more losses than one master less".to_owned())
        }
    }
}

/// What to say about a number of masters that does not stay.
pub(crate) fn even_number(masters: usize) -> Option<String> {
    (masters > 0 && masters.is_multiple_of(2)).then(|| {
        format!(
            "the cluster has {masters} masters now, and survives no more losses than with {}: add one with `cargo xtask up --masters {}`, or \
             take another one down",
            masters - 1,
            masters + 1
        )
    })
}

/// The name of the host's node in the cluster.
pub(crate) fn node_name(chosen: &Choices, host: &Host) -> String {
    let by_address = chosen
        .settings
        .get("USE_HOSTNAME")
        .is_some_and(|value| value == "false");
    if by_address {
        host.address().to_string()
    } else {
        host.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_known_by_their_names() {
        for name in ["worker-1", "worker-12"] {
            assert_eq!(Role::of(name), Role::Worker, "{name}");
        }
        for name in ["master-1", "worker", "worker-", "worker-a", "cp-1"] {
            assert_eq!(Role::of(name), Role::Master, "{name}");
        }
    }

    #[test]
    fn a_lab_gets_only_the_workers_that_it_lacks() {
        let missing = |hosts: &[&str], wanted| Role::Worker.missing(hosts, wanted);
        assert_eq!(missing(&["master-1"], 2), ["worker-1", "worker-2"]);
        assert_eq!(missing(&["master-1", "worker-1"], 2), ["worker-2"]);
        // Worker 2 was taken down alone.
        let two = ["master-1", "worker-1", "worker-3"];
        assert_eq!(missing(&two, 3), ["worker-2"]);
        assert_eq!(missing(&two, 1), [""; 0], "none is removed");
        assert_eq!(missing(&two, 0), [""; 0]);
        assert_eq!(missing(&[], MOST_WORKERS).len(), usize::from(MOST_WORKERS));
    }

    #[test]
    fn a_lab_gets_only_the_masters_that_it_lacks() {
        let missing = |hosts: &[&str], wanted| Role::Master.missing(hosts, wanted);
        assert_eq!(missing(&["master-1"], 3), ["master-2", "master-3"]);
        // The first master was taken down, and there are workers.
        let others = ["master-2", "worker-1", "master-3"];
        assert_eq!(missing(&others, 3), ["master-1"]);
        assert_eq!(missing(&others, 1), [""; 0], "none is removed");
        assert_eq!(missing(&["cp-1"], 3), ["master-1", "master-2"]);
        assert_eq!(missing(&["cp-1"], MOST_MASTERS).len(), 4);
    }

    #[test]
    fn the_number_of_masters_is_odd() {
        for (text, number) in [("1", 1), ("3", 3), ("5", 5)] {
            assert_eq!(number_of_masters(text), Ok(number));
        }
        for text in ["0", "2", "4", "7", "-1", "many"] {
            let refused = number_of_masters(text).expect_err(text);
            assert!(refused.contains("1, 3 or 5"), "{refused}");
        }
        assert_eq!(even_number(3), None);
        let note = even_number(2).expect("a note");
        assert!(note.contains("--masters 3"), "{note}");
    }
}
