//! A world's state for comparison: everything but time, identities and the journal.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::tree::{Node, NodeKind};
use crate::host::fake::world::World;
use crate::host::fake::world::unit::Unit;

/// State of a world, one line for each resource in it. Prints readably; compare with `==` or [`difference`].
#[derive(Clone, PartialEq, Eq)]
pub struct WorldSnapshot {
    resources: BTreeMap<String, String>,
}

impl WorldSnapshot {
    pub(crate) fn of(world: &World) -> Self {
        let mut resources = BTreeMap::new();
        let mut add = |kind: &str, name: &str, state: String| {
            resources.insert(format!("{kind} {name}"), state)
        };
        for (path, node) in world.tree.iter().filter(|(path, _)| !is_view(path)) {
            add("path", &path.display().to_string(), show_node(node));
        }
        let mut units = world.units.clone();
        for name in world.unit_files() {
            // The manager looks for a unit's file at the first query.
            let text = world.unit_text(&name).unwrap_or_default();
            units.entry(name).or_insert_with(|| Unit::loaded(text));
        }
        for (name, unit) in &units {
            let loaded = if unit.text.is_some() {
                "loaded"
            } else {
                "without a file"
            };
            let enabled = if unit.enabled { "enabled" } else { "disabled" };
            add(
                "unit",
                name,
                format!("{loaded}, {}, {enabled}", unit.active),
            );
        }
        for (name, container) in &world.containers {
            let state = if container.running {
                "runs"
            } else {
                "does not run"
            };
            add(
                "container",
                name,
                format!("{state}, {:?}", container.config),
            );
        }
        for reference in world.images.keys() {
            add("image", reference, "present".to_owned());
        }
        for (name, package) in &world.packages {
            add("package", name, package.version.clone());
        }
        for (name, link) in &world.links {
            add(
                "link",
                name,
                format!(
                    "{}, {:?}",
                    if link.up { "up" } else { "down" },
                    link.addresses
                ),
            );
        }
        for (subnet, via) in &world.node_routes {
            add("route", &subnet.to_string(), format!("via {via}"));
        }
        for (subnet, route) in &world.foreign_routes {
            add("foreign route", &subnet.to_string(), route.clone());
        }
        for service in &world.virtual_services {
            add(
                "virtual service",
                &service.to_string(),
                "balanced".to_owned(),
            );
        }
        for mount in &world.mounts {
            add("mount", &mount.display().to_string(), "mounted".to_owned());
        }
        for (name, rules) in world.firewall.chains() {
            add("chain", &name, rules);
        }
        for module in &world.modules {
            add("module", module, "loaded".to_owned());
        }
        for member in &world.etcd.members {
            add("etcd member", &member.id.to_string(), format!("{member:?}"));
        }
        for (name, node) in &world.cluster.nodes {
            add("node", name, format!("{node:?}"));
        }
        for (key, object) in &world.cluster.objects {
            add("object", key, object.to_string());
        }
        Self { resources }
    }

    /// The same without the resources below a path: data that is kept on purpose.
    #[must_use]
    pub fn without_path(mut self, path: impl AsRef<Path>) -> Self {
        self.resources.retain(|resource, _| {
            resource
                .strip_prefix("path ")
                .is_none_or(|there| !Path::new(there).starts_with(path.as_ref()))
        });
        self
    }

    /// The same without what the API server remembers: it lives as long as etcd's data.
    #[must_use]
    pub fn without_cluster(mut self) -> Self {
        self.resources.retain(|resource, _| {
            !resource.starts_with("node ") && !resource.starts_with("object ")
        });
        self
    }

    /// The resources with their state, sorted.
    pub fn resources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.resources
            .iter()
            .map(|(resource, state)| (resource.as_str(), state.as_str()))
    }
}

impl fmt::Debug for WorldSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (resource, state) in &self.resources {
            writeln!(f, "{resource}: {state}")?;
        }
        Ok(())
    }
}

/// What is different in `after`, one line each: `+` new, `-` gone, `~` changed. Empty if the worlds are equal.
#[must_use]
pub fn difference(before: &WorldSnapshot, after: &WorldSnapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for (resource, old) in &before.resources {
        match after.resources.get(resource) {
            None => lines.push(format!("- {resource}: {old}")),
            Some(new) if new != old => lines.push(format!("~ {resource}: {old} -> {new}")),
            Some(_) => {}
        }
    }
    let new = after
        .resources
        .iter()
        .filter(|(resource, _)| !before.resources.contains_key(*resource));
    lines.extend(new.map(|(resource, state)| format!("+ {resource}: {state}")));
    lines
}

/// Paths where the kernel shows state that is compared separately.
fn is_view(path: &Path) -> bool {
    path.starts_with("/sys/class") || (path.starts_with("/proc") && !path.starts_with("/proc/sys"))
}

fn show_node(node: &Node) -> String {
    let owner = format!(
        "{:04o} {}:{}",
        node.attributes.mode, node.attributes.uid, node.attributes.gid
    );
    match &node.kind {
        NodeKind::Directory => format!("directory {owner}"),
        NodeKind::Symlink(target) => format!("link to {target}"),
        NodeKind::Below(size) => format!("file {owner} of {size} bytes"),
        NodeKind::Unknown(why) => format!("file {owner}, known after apply: {why}"),
        NodeKind::Socket => format!("socket {owner}"),
        NodeKind::Other => format!("device {owner}"),
        NodeKind::File(content) => match std::str::from_utf8(content) {
            Ok(text) => format!("file {owner} {text:?}"),
            Err(_) => format!("file {owner} {content:02x?}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn differences_name_the_resource() {
        let host = FakeHost::new()
            .with_file("/etc/a", "1")
            .with_file("/etc/b", "1");
        let before = host.snapshot();
        host.with_world_mut(|world| {
            world.remove("/etc/a");
            world.file("/etc/b", "2");
            world.file("/etc/c", "3");
            world.advance(std::time::Duration::from_secs(1));
        });
        assert_eq!(
            difference(&before, &host.snapshot()),
            [
                "- path /etc/a: file 0644 0:0 \"1\"",
                "~ path /etc/b: file 0644 0:0 \"1\" -> file 0644 0:0 \"2\"",
                "+ path /etc/c: file 0644 0:0 \"3\"",
            ]
        );
        let without = |snapshot: WorldSnapshot| snapshot.without_path("/etc");
        assert_eq!(without(before), without(host.snapshot()));
    }
}
