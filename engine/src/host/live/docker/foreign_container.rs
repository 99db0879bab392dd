//! The configuration of a container that another program made, if [`ContainerConfig`] can express all of it.
//!
//! The engine reports the image's settings mixed into the container's. Settings that equal the image's are left out. If a setting is
//! neither the engine's default nor one that [`ContainerConfig`] can express, the answer is `None`: a container made from the rest would be
//! a different one.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use bollard::models::{
    ContainerConfig as Reported, ContainerInspectResponse, HostConfig, ImageInspect,
};
use serde_json::Value;

use super::container_config::labels;
use crate::host::{ContainerConfig, Mount, RestartPolicy};

/// Settings of the host part that are read below, or that the engine fills in by itself.
const HOST_KNOWN: [&str; 18] = [
    "Binds",
    "CapAdd",
    "CgroupnsMode",
    "ConsoleSize",
    "IpcMode",
    "LogConfig",
    "MaskedPaths",
    "MemorySwappiness",
    "Mounts",
    "NetworkMode",
    "PidMode",
    "Privileged",
    "ReadonlyPaths",
    "RestartPolicy",
    "Runtime",
    "SecurityOpt",
    "ShmSize",
    "Isolation",
];

/// Settings of the container part that must be what the image says, or empty.
const AS_IMAGE: [&str; 5] = [
    "WorkingDir",
    "StopSignal",
    "Healthcheck",
    "Volumes",
    "Shell",
];

/// The configuration, or `None` if it uses what [`ContainerConfig`] cannot express.
pub(in crate::host::live) fn config(
    container: &ContainerInspectResponse,
    image: &ImageInspect,
) -> Option<ContainerConfig> {
    let reported = container.config.as_ref()?;
    let host = container.host_config.as_ref()?;
    if !host_is_plain(host) || !container_is_plain(reported, image) {
        return None;
    }
    let from_image = image.config.clone().unwrap_or_default();
    let name = container
        .name
        .as_deref()?
        .trim_start_matches('/')
        .to_owned();
    let host_network = match host.network_mode.as_deref() {
        Some("host") => true,
        None | Some("" | "default" | "bridge") => false,
        Some(_) => return None,
    };
    let host_pid = match host.pid_mode.as_deref() {
        Some("host") => true,
        None | Some("") => false,
        Some(_) => return None,
    };
    let entry = reported.entrypoint.clone().unwrap_or_default();
    let cmd = reported.cmd.clone().unwrap_or_default();
    let same = entry == from_image.entrypoint.unwrap_or_default()
        && cmd == from_image.cmd.unwrap_or_default();
    let image_labels = from_image.labels.unwrap_or_default();
    Some(ContainerConfig {
        name,
        image: reported.image.clone()?,
        command: if same {
            Vec::new()
        } else {
            [entry, cmd].concat()
        },
        env: environment(reported.env.as_deref(), from_image.env.as_deref())?,
        mounts: mounts(host)?,
        host_network,
        host_pid,
        privileged: host.privileged.unwrap_or(false),
        capabilities: host
            .cap_add
            .iter()
            .flatten()
            .map(|capability| capability.trim_start_matches("CAP_").to_owned())
            .collect(),
        user: own(reported.user.as_deref(), from_image.user.as_deref()),
        restart: restart(host)?,
        labels: labels(reported.labels.as_ref())
            .into_iter()
            .filter(|(key, value)| image_labels.get(key) != Some(value))
            .collect::<BTreeMap<_, _>>(),
    })
}

/// Whether all settings are ones that we can express.
fn host_is_plain(host: &HostConfig) -> bool {
    let Ok(Value::Object(settings)) = serde_json::to_value(host) else {
        return false;
    };
    let labels_off = |option: &String| option.starts_with("label=disable");
    let security = host.security_opt.iter().flatten().all(labels_off);
    let plain_runtime = matches!(host.runtime.as_deref(), None | Some("" | "runc"));
    security
        && plain_runtime
        && settings
            .iter()
            .filter(|(key, _)| !HOST_KNOWN.contains(&key.as_str()))
            .all(|(_, value)| is_nothing(value))
}

fn container_is_plain(reported: &Reported, image: &ImageInspect) -> bool {
    let said = |value: Result<Value, _>| value.ok().filter(|value: &Value| value.is_object());
    let (Some(container), Some(image)) = (
        said(serde_json::to_value(reported)),
        said(serde_json::to_value(
            image.config.clone().unwrap_or_default(),
        )),
    ) else {
        return false;
    };
    let is_plain = |key: &&str| is_nothing(&container[*key]) || container[*key] == image[*key];
    let interactive = [reported.tty, reported.open_stdin].contains(&Some(true));
    !interactive && is_nothing(&container["Domainname"]) && AS_IMAGE.iter().all(is_plain)
}

/// Null, false, zero, -1 (unlimited) or empty.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => matches!(number.as_i64(), Some(0 | -1)),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// What the container sets beyond the image. We cannot express the removal of a variable of the image.
fn environment(
    all: Option<&[String]>,
    image: Option<&[String]>,
) -> Option<BTreeMap<String, String>> {
    let split = |list: Option<&[String]>| -> HashMap<String, String> {
        list.into_iter()
            .flatten()
            .filter_map(|entry| entry.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    };
    let (all, image) = (split(all), split(image));
    if image.keys().any(|key| !all.contains_key(key)) {
        return None;
    }
    Some(
        all.into_iter()
            .filter(|(key, value)| image.get(key) != Some(value))
            .collect(),
    )
}

fn own(set: Option<&str>, image: Option<&str>) -> String {
    let set = set.unwrap_or_default();
    if set == image.unwrap_or_default() {
        String::new()
    } else {
        set.to_owned()
    }
}

fn restart(host: &HostConfig) -> Option<RestartPolicy> {
    let name = host.restart_policy.as_ref().and_then(|policy| policy.name);
    match name.map(|name| name.to_string()).as_deref() {
        None | Some("" | "no") => Some(RestartPolicy::No),
        Some("always") => Some(RestartPolicy::Always),
        Some("unless-stopped") => Some(RestartPolicy::UnlessStopped),
        Some(_) => None,
    }
}

/// Mounts of both forms: `source:target[:options]` and the newer objects.
fn mounts(host: &HostConfig) -> Option<Vec<Mount>> {
    let bound = host.binds.iter().flatten().map(|bind| bind_mount(bind));
    let mounted = host.mounts.iter().flatten().map(|mount| {
        let value = serde_json::to_value(mount).ok()?;
        if value["Type"] != "bind" {
            return None;
        }
        let propagated = match value["BindOptions"]["Propagation"].as_str() {
            None | Some("" | "rprivate") => false,
            Some("rslave") => true,
            Some(_) => return None,
        };
        Some(Mount {
            source: PathBuf::from(value["Source"].as_str()?),
            target: PathBuf::from(value["Target"].as_str()?),
            read_only: value["ReadOnly"].as_bool().unwrap_or(false),
            propagated,
        })
    });
    bound.chain(mounted).collect()
}

fn bind_mount(bind: &str) -> Option<Mount> {
    let mut parts = bind.split(':');
    // A source that is no path names a volume.
    let source = parts.next().filter(|source| source.starts_with('/'))?;
    let mut mount = Mount {
        source: PathBuf::from(source),
        target: PathBuf::from(parts.next()?),
        read_only: false,
        propagated: false,
    };
    for option in parts.next().unwrap_or_default().split(',') {
        match option {
            "" | "rw" | "rprivate" => {}
            "ro" => mount.read_only = true,
            "rslave" => mount.propagated = true,
            _ => return None,
        }
    }
    Some(mount)
}
