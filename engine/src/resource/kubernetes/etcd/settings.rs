//! The settings with which a new member begins or joins its cluster (`member.env`). etcd ignores them once it has data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How the member begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitialState {
    /// It begins a cluster.
    New,
    /// It joins one.
    Existing,
}

impl InitialState {
    /// The state of this name, as etcd names it.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "new" => Some(Self::New),
            "existing" => Some(Self::Existing),
            _ => None,
        }
    }

    /// As etcd names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Existing => "existing",
        }
    }
}

/// The text of the file.
pub(super) fn render(state: InitialState, token: &str, cluster: &str, peer: &str) -> String {
    format!(
        "ETCD_INITIAL_CLUSTER_STATE={}\nETCD_INITIAL_CLUSTER_TOKEN={token}\nETCD_INITIAL_CLUSTER={cluster}\nETCD_INITIAL_ADVERTISE_PEER_URLS={peer}\n",
        state.name()
    )
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) state: Option<InitialState>,
    /// The value of `ETCD_INITIAL_CLUSTER`.
    pub(super) cluster: String,
}

impl Written {
    /// Whether etcd could start with it.
    pub(super) fn is_whole(&self) -> bool {
        self.state.is_some() && !self.cluster.is_empty()
    }

    pub(super) fn of(text: &str) -> Self {
        let values: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .collect();
        let value = |name: &str| values.get(name).copied().unwrap_or_default();
        Self {
            state: InitialState::of(value("ETCD_INITIAL_CLUSTER_STATE")),
            cluster: value("ETCD_INITIAL_CLUSTER").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        for state in [InitialState::New, InitialState::Existing] {
            let text = render(
                state,
                "c-1",
                "a=https://172.30.0.11:2380",
                "https://172.30.0.11:2380",
            );
            let written = Written::of(&text);
            assert_eq!(written.state, Some(state));
            assert_eq!(written.cluster, "a=https://172.30.0.11:2380");
            assert!(written.is_whole());
        }
        for damaged in ["", "garbage", "ETCD_INITIAL_CLUSTER_STATE=existing\n"] {
            assert!(!Written::of(damaged).is_whole(), "{damaged}");
        }
        assert_eq!(InitialState::of("New"), None);
    }
}
