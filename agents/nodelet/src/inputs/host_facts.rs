//! The facts that a plan is made from: gathered on this host, or read from a facts file.
//!
//! Here the facts get the address and the name with which the host was set up. How facts are gathered is in `engine::facts`. Start with
//! [`gather_facts`].

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use engine::env::KubeEnv;
use engine::facts::{self, FactQuery, Facts};
use engine::host::Files as _;
use engine::host::live::LiveHost;

use crate::cli::RoleArgs;
use crate::inputs::identity::{Changed, Identity};

/// Bound on a facts file.
const LIMIT: u64 = 1024 * 1024;
/// Timeout of gathering the facts of this host.
const LEARN: Duration = Duration::from_secs(30);

/// Gathers the facts of this host. Its address is the recorded one as long as one of its links has that, so a plan by an operator and one
/// by nodeletd are the same.
pub(crate) async fn gather_facts(host: &LiveHost, query: &FactQuery) -> Result<Facts> {
    let gathering = facts::gather_with(host, query);
    let mut facts = tokio::time::timeout(LEARN, gathering)
        .await
        .context("learn about this host within 30s")?
        .context("learn about this host")?;
    let recorded = Identity::recorded();
    if let Some(address_of_link) = recorded.and_then(|recorded| recorded.address_in_use(&facts)) {
        facts.address = Some(address_of_link);
    }
    Ok(facts)
}

/// The facts of this host for a plan with these settings. With the last good settings the host keeps the name of its set-up: while its name
/// is wrong, what is down is started again as it was. Also returns that the host has another name now, if so.
pub(super) async fn facts_for(
    args: &RoleArgs,
    settings: &KubeEnv,
    host: &LiveHost,
    query: &FactQuery,
) -> Result<(Facts, Option<Changed>)> {
    let facts = gather_facts(host, query).await?;
    let recorded = match args.merged_settings {
        true => Identity::recorded(),
        false => None,
    };
    Ok(match recorded {
        Some(recorded) => recorded.with_its_name(settings, facts),
        None => (facts, None),
    })
}

pub(super) async fn read_facts(path: &Path, host: &LiveHost) -> Result<Facts> {
    let content = host
        .read(path, LIMIT)
        .await
        .context("read facts")?
        .with_context(|| format!("read facts: {} is not there", path.display()))?;
    let text = String::from_utf8(content)
        .with_context(|| format!("read facts: {} is not text", path.display()))?;
    Facts::from_yaml(&text).with_context(|| format!("read facts from {}", path.display()))
}
