//! Images and containers of a container engine that does not run, read from its disk as docker writes them (`image/*/repositories.json`,
//! `containers/*/config.v2.json` and `hostconfig.json` under its data root). A request to docker would start it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::host::{ContainerState, Host, RestartPolicy};

/// Bound on one of its files.
const LIMIT: u64 = 4 << 20;
/// Bound on its containers.
const MOST: usize = 2000;

/// Everything in it.
#[derive(Debug, Default)]
pub(in crate::host::overlay) struct EngineData {
    /// References and content ids.
    pub(in crate::host::overlay) images: BTreeMap<String, String>,
    pub(in crate::host::overlay) containers: Vec<Kept>,
}

/// A container that the engine will have again when it starts.
#[derive(Debug)]
pub(in crate::host::overlay) struct Kept {
    pub(in crate::host::overlay) state: ContainerState,
    pub(in crate::host::overlay) restart: RestartPolicy,
    /// It was stopped on purpose.
    pub(in crate::host::overlay) stopped: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Repositories {
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    state: State,
    config: Config,
    #[serde(default)]
    restart_count: u64,
    #[serde(default)]
    has_been_manually_stopped: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    exit_code: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    image: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    network_mode: String,
    restart_policy: Restart,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Restart {
    #[serde(default)]
    name: String,
}

/// Reads the data; `None` if we may not read it, or if its format is not known here: half of it would be worse than nothing.
pub(in crate::host::overlay) async fn read(host: &dyn Host, root: &Path) -> Option<EngineData> {
    let mut data = EngineData::default();
    let drivers = root.join("image");
    for driver in host.list(&drivers).await.ok()? {
        let file = drivers.join(driver).join("repositories.json");
        let Some(known) = json::<Repositories>(host, &file).await? else {
            continue;
        };
        data.images
            .extend(known.repositories.into_values().flatten());
    }
    let containers = root.join("containers");
    host.entry(&containers).await.ok()??;
    let ids = host.list(&containers).await.ok()?;
    if ids.len() > MOST {
        return None;
    }
    for id in ids {
        let directory = containers.join(id);
        let its = json::<Container>(host, &directory.join("config.v2.json")).await??;
        let how = json::<HostConfig>(host, &directory.join("hostconfig.json")).await??;
        data.containers.push(kept(its, &how));
    }
    Some(data)
}

fn kept(its: Container, how: &HostConfig) -> Kept {
    Kept {
        restart: match how.restart_policy.name.as_str() {
            "always" => RestartPolicy::Always,
            "unless-stopped" => RestartPolicy::UnlessStopped,
            _ => RestartPolicy::No,
        },
        stopped: its.has_been_manually_stopped,
        state: ContainerState {
            id: its.id,
            name: its.name.trim_start_matches('/').to_owned(),
            running: its.state.running,
            paused: its.state.paused,
            exit_code: its.state.exit_code,
            started_at: None,
            restarts: its.restart_count,
            image: its.config.image,
            host_network: how.network_mode == "host",
            labels: its.config.labels.unwrap_or_default(),
        },
    }
}

/// `Some(None)` where there is no such file.
async fn json<T: serde::de::DeserializeOwned>(host: &dyn Host, file: &Path) -> Option<Option<T>> {
    match host.read(file, LIMIT).await.ok()? {
        None => Some(None),
        Some(text) => serde_json::from_slice(&text).ok().map(Some),
    }
}
