//! Containers that end, and images that are removed.

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::models::EventMessageTypeEnum;
use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt as _;

use super::trigger::Triggers;
use crate::pass::WatchList;

const SOCKET: &str = "/var/run/docker.sock";
/// Timeout of the connection and of the first answer, in seconds.
const TIMEOUT: u64 = 10;

pub(super) async fn listen(targets: WatchList, triggers: Triggers) -> Result<()> {
    let docker = Docker::connect_with_unix(SOCKET, TIMEOUT, bollard::API_DEFAULT_VERSION)
        .context("connect to docker")?;
    let filters = [
        ("type", vec!["container", "image"]),
        (
            "event",
            vec!["die", "destroy", "pause", "oom", "untag", "delete"],
        ),
    ];
    let filters: std::collections::HashMap<&str, Vec<&str>> = filters.into();
    let options = EventsOptionsBuilder::default().filters(&filters).build();
    let mut events = docker.events(Some(options));
    while let Some(event) = events.next().await {
        let event = event.context("listen to docker's events")?;
        if event.typ == Some(EventMessageTypeEnum::IMAGE) {
            // A removed image no longer has names. This is rare, so a pass may find out whether it was one of ours.
            let image = event.actor.and_then(|actor| actor.id).unwrap_or_default();
            triggers.add(format!(
                "image {image}: {}",
                event.action.unwrap_or_default()
            ));
            continue;
        }
        let name = event
            .actor
            .and_then(|actor| actor.attributes)
            .and_then(|attributes| attributes.get("name").cloned())
            .unwrap_or_default();
        // Ignores containers of others, and those of pods, which kubelet looks after.
        if targets.containers.contains(&name) {
            let what = event.action.unwrap_or_default();
            triggers.add(format!("container {name}: {what}"));
        }
    }
    Ok(())
}
