//! The settings that nodeletd itself acts on.

use std::time::Duration;

use engine::env::{KubeEnv, SettingValue};
use serde::{Deserialize, Serialize};

/// The settings that nodeletd itself acts on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Desired {
    pub(crate) service_state: ServiceState,
    pub(crate) node: String,
    pub(crate) cluster_id: String,
    pub(crate) loop_interval: Duration,
    pub(crate) full_retry_count: u32,
    pub(crate) use_cgroups: bool,
    /// In percent of one CPU.
    pub(crate) cpu_limit: u32,
    /// On 127.0.0.1; 0 for none.
    pub(crate) metrics_port: u16,
    pub(crate) debug: bool,
}

/// `KUBE_SERVICE_STATE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServiceState {
    /// The role is to be up.
    True,
    /// It is to be down.
    False,
    /// It is watched, but not changed.
    Ignore,
}

impl Default for Desired {
    /// Until the first good settings: watch, and touch nothing.
    fn default() -> Self {
        Self {
            service_state: ServiceState::Ignore,
            node: "none".to_owned(),
            cluster_id: String::new(),
            loop_interval: Duration::from_secs(60),
            full_retry_count: 10,
            use_cgroups: true,
            cpu_limit: 40,
            metrics_port: 0,
            debug: false,
        }
    }
}

impl Desired {
    /// Whether the role is to be up, but `CLUSTER_ID` is empty.
    pub(crate) fn lacks_cluster(&self) -> bool {
        self.service_state == ServiceState::True
            && self.node != "none"
            && self.cluster_id.is_empty()
    }

    /// Whether the host is not to be a node: its role is `none`, or nothing is installed and it has no cluster id. An installed role is kept
    /// up also without an id.
    pub(crate) fn is_unassigned(&self, installed: bool) -> bool {
        self.node == "none" || self.cluster_id.is_empty() && !installed
    }

    pub(super) fn of(settings: &KubeEnv) -> Self {
        let text = |name: &str| {
            settings
                .get(name)
                .map(ToString::to_string)
                .unwrap_or_default()
        };
        let number = |name: &str, otherwise: u32| match settings.get(name) {
            Some(SettingValue::Integer(number)) => u32::try_from(*number).unwrap_or(otherwise),
            _ => otherwise,
        };
        let flag = |name: &str| matches!(settings.get(name), Some(SettingValue::Bool(true)));
        let usual = Self::default();
        Self {
            service_state: match text("KUBE_SERVICE_STATE").as_str() {
                "true" => ServiceState::True,
                "false" => ServiceState::False,
                _ => ServiceState::Ignore,
            },
            node: text("ROLE"),
            cluster_id: text("CLUSTER_ID"),
            loop_interval: match settings.get("LOOP_INTERVAL") {
                Some(SettingValue::Duration(interval)) => *interval,
                _ => usual.loop_interval,
            },
            full_retry_count: number("FULL_RETRY_COUNT", usual.full_retry_count),
            use_cgroups: flag("USE_CGROUPS"),
            cpu_limit: number("CPU_LIMIT", usual.cpu_limit),
            metrics_port: u16::try_from(number("METRICS_PORT", 0)).unwrap_or(0),
            debug: flag("DEBUG"),
        }
    }
}
