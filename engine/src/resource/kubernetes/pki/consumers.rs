//! Which component uses which certificate, and how the component starts to use a renewed one. Renewals, `nodelet certs` and
//! `docs/certificates.md` are based on this table. Every line was observed on real hosts with Kubernetes 1.20.2 and etcd 3.4.23; the
//! document describes how.

use std::time::Duration;

/// A certificate's use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumer {
    /// Path below `certs`.
    pub certificate: &'static str,
    /// The component that it is renewed with. One component is renewed at a time, in the order of the table.
    pub component: &'static str,
    /// Its purpose.
    pub purpose: &'static str,
    /// How the component starts to use a renewed one.
    pub reload: ReloadMode,
}

/// How a component starts to use a renewed certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadMode {
    /// The component reads it for each new connection.
    EachConnection,
    /// The component reads the file once in this time and then uses the new certificate.
    Reload {
        /// Maximum time.
        within: Duration,
    },
    /// The component reads the file once in this time and then closes its connections. Which certificate it uses cannot be
    /// observed, so its container is restarted if the old certificate expires sooner.
    Reconnect {
        /// Maximum time.
        within: Duration,
        /// Name of the container in the control plane's static pod.
        container: &'static str,
    },
    /// The component's phase restarts the component.
    Restart {
        /// What a restart costs.
        cost: &'static str,
    },
    /// It is read for each use.
    EachUse,
}

/// Interval in which the API server, controller-manager and scheduler read their own files
/// (`FileRefreshDuration` in `k8s.io/apiserver`).
const MINUTE: Duration = Duration::from_secs(60);
/// Interval in which a Kubernetes client reads the files that its kubeconfig names
/// (`CertCallbackRefreshDuration` in `k8s.io/client-go/transport`).
const FIVE_MINUTES: Duration = Duration::from_secs(300);
/// For the certificates of kubelet.
const KUBELET: ReloadMode = ReloadMode::Restart {
    cost: "containers go on running; requests to kubelet (logs, exec) break",
};

/// Every certificate of the role, in the order of renewal.
pub const CONSUMERS: &[Consumer] = &[
    Consumer {
        certificate: "etcd/client",
        component: "etcd",
        purpose: "etcd serves its clients",
        reload: ReloadMode::EachConnection,
    },
    Consumer {
        certificate: "etcd/peer",
        component: "etcd",
        purpose: "etcd's members know each other",
        reload: ReloadMode::EachConnection,
    },
    Consumer {
        certificate: "etcdctl/etcd",
        component: "etcd",
        purpose: "checks and people ask etcd",
        reload: ReloadMode::EachUse,
    },
    Consumer {
        certificate: "apiserver",
        component: "kube-apiserver",
        purpose: "the API server serves the API",
        reload: ReloadMode::Reload { within: MINUTE },
    },
    Consumer {
        certificate: "apiserver/etcd",
        component: "kube-apiserver",
        purpose: "the API server asks etcd",
        reload: ReloadMode::EachConnection,
    },
    Consumer {
        certificate: "aggregator",
        component: "kube-apiserver",
        purpose: "the API server asks extension API servers",
        reload: ReloadMode::Reload { within: MINUTE },
    },
    Consumer {
        certificate: "kube-controller-manager/apiserver",
        component: "kube-controller-manager",
        purpose: "the controller-manager asks the API server",
        reload: ReloadMode::Reconnect {
            within: FIVE_MINUTES,
            container: "kube-controller-manager",
        },
    },
    Consumer {
        certificate: "kube-controller-manager/server",
        component: "kube-controller-manager",
        purpose: "the controller-manager serves its health and metrics",
        reload: ReloadMode::Reload { within: MINUTE },
    },
    Consumer {
        certificate: "kube-scheduler/apiserver",
        component: "kube-scheduler",
        purpose: "the scheduler asks the API server",
        reload: ReloadMode::Reconnect {
            within: FIVE_MINUTES,
            container: "kube-scheduler",
        },
    },
    Consumer {
        certificate: "kube-scheduler/server",
        component: "kube-scheduler",
        purpose: "the scheduler serves its health and metrics",
        reload: ReloadMode::Reload { within: MINUTE },
    },
    Consumer {
        certificate: "kubelet/apiserver",
        component: "kubelet",
        purpose: "kubelet asks the API server",
        reload: KUBELET,
    },
    Consumer {
        certificate: "kubelet/server",
        component: "kubelet",
        purpose: "kubelet serves logs, exec and metrics",
        reload: KUBELET,
    },
    // The API server reads it for each new connection but keeps a connection in use, and kubelet verifies the certificate at each
    // request: a restart of kubelet ends the kept connections.
    Consumer {
        certificate: "apiserver/kubelet",
        component: "kubelet",
        purpose: "the API server asks kubelet",
        reload: KUBELET,
    },
    Consumer {
        certificate: "kube-proxy/apiserver",
        component: "kube-proxy",
        purpose: "kube-proxy asks the API server",
        reload: ReloadMode::Restart {
            cost: "rules stay; changes of services wait for about two seconds",
        },
    },
    Consumer {
        certificate: "admin",
        component: "admin",
        purpose: "people and phases ask the API server",
        reload: ReloadMode::EachUse,
    },
];

/// The components in the order in which they are renewed.
#[must_use]
pub fn components() -> Vec<&'static str> {
    let mut names: Vec<&str> = CONSUMERS.iter().map(|one| one.component).collect();
    names.dedup();
    names
}

/// The use of the certificate at this path below `certs`.
#[must_use]
pub fn consumer_of(certificate: &str) -> Option<&'static Consumer> {
    CONSUMERS.iter().find(|one| one.certificate == certificate)
}

impl std::fmt::Display for ReloadMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let minutes = |within: &Duration| humantime::format_duration(*within).to_string();
        match self {
            Self::EachConnection => f.write_str("from its next connection on"),
            Self::Reload { within } => write!(f, "within {}", minutes(within)),
            Self::Reconnect { within, .. } => write!(
                f,
                "within {}, on new connections; if the old one expires sooner, after a restart of its container",
                minutes(within)
            ),
            Self::Restart { cost } => write!(f, "after a restart: {cost}"),
            Self::EachUse => f.write_str("at once: it reads the file for each use"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_stand_together_and_paths_are_named_once() {
        let names = components();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        for one in CONSUMERS {
            assert_eq!(consumer_of(one.certificate), Some(one));
        }
    }
}
