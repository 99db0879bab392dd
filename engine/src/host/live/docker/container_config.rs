//! From [`ContainerConfig`] to what the container runtime calls a configuration.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, HostConfig, Mount as DockerMount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, RestartPolicy as DockerPolicy,
    RestartPolicyNameEnum,
};

use crate::host::{ContainerConfig, HostError, HostResult, Mount, RestartPolicy};

/// Label under which a container carries the configuration it was made from, as JSON.
///
/// What the runtime reports is mixed with what the image says (environment, user, command), so the configuration of a
/// container is read back from here. It is left out of the labels we report.
pub(in crate::host::live) const LABEL: &str = "pf9.io/config";

/// What to send to the runtime so that it makes this container.
pub(in crate::host::live) fn body(config: &ContainerConfig) -> HostResult<ContainerCreateBody> {
    let written = serde_json::to_string(config)
        .map_err(|error| HostError::service("write down a container configuration", error))?;
    let labels = config
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .chain([(LABEL.to_owned(), written)])
        .collect();
    // With an entry point given, the runtime takes neither entry point nor command from the image.
    let (entrypoint, cmd) = match config.command.split_first() {
        Some((program, arguments)) => (
            Some(vec![program.clone()]),
            Some(arguments.to_vec()).filter(|arguments| !arguments.is_empty()),
        ),
        None => (None, None),
    };
    Ok(ContainerCreateBody {
        image: Some(config.image.clone()),
        entrypoint,
        cmd,
        env: Some(environment(&config.env)),
        user: Some(config.user.clone()).filter(|user| !user.is_empty()),
        labels: Some(labels),
        host_config: Some(host_config(config)),
        ..ContainerCreateBody::default()
    })
}

fn host_config(config: &ContainerConfig) -> HostConfig {
    HostConfig {
        mounts: Some(config.mounts.iter().map(mount).collect()),
        network_mode: config.host_network.then(|| "host".to_owned()),
        pid_mode: config.host_pid.then(|| "host".to_owned()),
        privileged: Some(config.privileged),
        cap_add: Some(config.capabilities.clone()),
        restart_policy: Some(DockerPolicy {
            name: Some(match config.restart {
                RestartPolicy::No => RestartPolicyNameEnum::NO,
                RestartPolicy::UnlessStopped => RestartPolicyNameEnum::UNLESS_STOPPED,
                RestartPolicy::Always => RestartPolicyNameEnum::ALWAYS,
            }),
            maximum_retry_count: None,
        }),
        ..HostConfig::default()
    }
}

/// A mount in the runtime's newer form, which refuses a missing source where the older `binds` would create it.
fn mount(mount: &Mount) -> DockerMount {
    DockerMount {
        typ: Some(MountType::BIND),
        source: Some(mount.source.to_string_lossy().into_owned()),
        target: Some(mount.target.to_string_lossy().into_owned()),
        read_only: Some(mount.read_only),
        bind_options: mount.propagated.then(|| MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RSLAVE),
            ..MountBindOptions::default()
        }),
        ..DockerMount::default()
    }
}

fn environment(env: &BTreeMap<String, String>) -> Vec<String> {
    env.iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

/// The labels of a container, without the one that carries our configuration.
pub(in crate::host::live) fn labels(
    reported: Option<&HashMap<String, String>>,
) -> BTreeMap<String, String> {
    reported
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != LABEL)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The configuration that a container of ours carries.
pub(in crate::host::live) fn carried(
    reported: Option<&HashMap<String, String>>,
) -> Option<ContainerConfig> {
    serde_json::from_str(reported?.get(LABEL)?).ok()
}
