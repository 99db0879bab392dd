//! What a host may not change while it stands: of which cluster it is, as what, and in which networks.
//!
//! Written down after the first run that was not refused, and removed with the role's last data. Every command that
//! changes the host compares first, so a wrong setting is refused before anything is touched.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use engine::env::KubeEnv;
use engine::exec::STATE;
use serde::{Deserialize, Serialize};

/// Settings that cannot change in place, with the way out for each.
const FIXED: &[(&str, &str)] = &[
    ("ROLE", "take the role off first: `nodelet clean`"),
    (
        "CLUSTER_ID",
        "a host leaves its cluster with all it knows of it: `nodelet clean --purge`",
    ),
    (
        "CONTAINERS_CIDR",
        "pods would lose their addresses; make the cluster anew: `nodelet clean --purge`",
    ),
    (
        "SERVICES_CIDR",
        "Services would lose their addresses; make the cluster anew: `nodelet clean --purge`",
    ),
    (
        "NODE_CIDR_MASK_SIZE",
        "nodes have their subnets already; make the cluster anew: `nodelet clean --purge`",
    ),
    (
        "CLUSTER_DNS_DOMAIN",
        "certificates and pods have it in their names; make the cluster anew: `nodelet clean --purge`",
    ),
    (
        "ETCD_DATA_DIR",
        "etcd's data would be left behind; `nodelet clean`, move the directory, then apply",
    ),
    (
        "DOCKER_ROOT",
        "containers and images would be left behind; `nodelet clean` first",
    ),
    (
        "KUBE_PROXY_MODE",
        "what the other mode has left in the kernel would go on routing; `nodelet clean` first, which keeps the cluster's data",
    ),
];
/// Those that a clean ends: what it keeps, the cluster's data and authorities, does not hang on them.
const ENDED_BY_CLEAN: &[&str] = &["ROLE", "ETCD_DATA_DIR", "DOCKER_ROOT", "KUBE_PROXY_MODE"];
/// Bound on the file.
const LIMIT: u64 = 64 * 1024;

/// The values of the fixed settings, and the name of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    host: String,
    settings: BTreeMap<String, String>,
}

/// A setting that may not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "use {name}={wanted} on this host: it stands with {name}={stands}; set it back, or: {way_out}"
)]
pub(crate) struct Changed {
    name: String,
    stands: String,
    wanted: String,
    way_out: String,
}

fn path() -> PathBuf {
    PathBuf::from(STATE).join("identity.json")
}

impl Identity {
    pub(crate) fn of(host: &str, settings: &KubeEnv) -> Self {
        let text = |name: &str| settings.get(name).map(ToString::to_string);
        let values = FIXED
            .iter()
            .filter_map(|(name, _)| Some(((*name).to_owned(), text(name)?)));
        Self {
            host: host.to_owned(),
            settings: values.collect(),
        }
    }

    /// What the host stands with; `None` on a host without a role. A file that cannot be understood counts as none: what
    /// it was for is a refusal, and a host must never be refused for our own loss.
    pub(crate) fn recorded() -> Result<Option<Self>> {
        let Some(content) = daemon::files::read(&path(), LIMIT)? else {
            return Ok(None);
        };
        match serde_json::from_slice(&content) {
            Ok(identity) => Ok(Some(identity)),
            Err(error) => {
                tracing::warn!(%error, "{} is not understood and will be written anew", path().display());
                Ok(None)
            }
        }
    }

    /// The first thing in `wanted` that differs from what stands.
    pub(crate) fn changed_by(&self, wanted: &Self) -> Option<Changed> {
        if self.host != wanted.host {
            return Some(Changed {
                name: "the host name".to_owned(),
                stands: self.host.clone(),
                wanted: wanted.host.clone(),
                way_out: "the node is known by it: give the host its name back (`hostnamectl`), or `nodelet clean --purge`".to_owned(),
            });
        }
        FIXED.iter().find_map(|(name, way_out)| {
            let stands = self.settings.get(*name)?;
            let wanted = wanted.settings.get(*name)?;
            // Identifiers are the same in capitals.
            let same =
                stands == wanted || *name == "CLUSTER_ID" && stands.eq_ignore_ascii_case(wanted);
            (!same).then(|| Changed {
                name: (*name).to_owned(),
                stands: stands.clone(),
                wanted: wanted.clone(),
                way_out: (*way_out).to_owned(),
            })
        })
    }

    /// After a clean that kept the cluster's data: what the host is still bound to.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn loosen() -> Result<()> {
        let Some(mut identity) = Self::recorded()? else {
            return Ok(());
        };
        identity
            .settings
            .retain(|name, _| !ENDED_BY_CLEAN.contains(&name.as_str()));
        identity.write()
    }

    pub(crate) fn write(&self) -> Result<()> {
        std::fs::create_dir_all(STATE).with_context(|| format!("make {STATE}"))?;
        daemon::files::replace(&path(), &serde_json::to_vec_pretty(self)?, 0o600)
    }

    pub(crate) fn forget() -> Result<()> {
        match std::fs::remove_file(path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path().display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(host: &str, pairs: &[(&str, &str)]) -> Identity {
        Identity {
            host: host.to_owned(),
            settings: pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn what_may_not_change_is_refused_with_a_way_out() {
        let stands = identity(
            "m",
            &[("ROLE", "master"), ("CONTAINERS_CIDR", "10.20.0.0/16")],
        );
        assert_eq!(stands.changed_by(&stands), None);
        let wanted = identity(
            "m",
            &[("ROLE", "master"), ("CONTAINERS_CIDR", "10.30.0.0/16")],
        );
        let refused = stands.changed_by(&wanted).expect("it changed").to_string();
        assert!(
            refused.contains("CONTAINERS_CIDR=10.30.0.0/16"),
            "{refused}"
        );
        assert!(
            refused.contains("stands with CONTAINERS_CIDR=10.20.0.0/16"),
            "{refused}"
        );
        assert!(refused.contains("nodelet clean --purge"), "{refused}");
        let renamed = identity("n", &[]);
        assert!(stands.changed_by(&renamed).is_some());
    }

    #[test]
    fn a_setting_that_an_older_release_did_not_have_is_no_change() {
        let stands = identity("m", &[]);
        assert_eq!(
            stands.changed_by(&identity("m", &[("ROLE", "master")])),
            None
        );
    }

    #[test]
    fn every_fixed_setting_is_one() {
        for (name, _) in FIXED {
            assert!(
                engine::env::KEYS.iter().any(|key| key.name == *name),
                "{name}"
            );
        }
    }
}
