//! Keys of the resources that a step needs, in the form of [`Undo::key`]. Before a resource is removed, its key is compared
//! with these, because another step may need it now.
//!
//! Packages are left out: their undo names all packages that were installed together, so their names are compared instead.

use std::path::Path;

use super::{Spec, Undo};
use crate::resource::kubernetes::manifest::identity;

impl Spec {
    /// Keys of the resources that this resource needs. Those of a kind that is not named here are its files, see
    /// [`Resource::paths`](super::Resource::paths).
    #[must_use]
    pub(crate) fn keys(&self) -> Vec<String> {
        match self {
            Self::Directory(directory) => {
                let path = directory.path.display();
                vec![format!("directory {path}"), format!("attributes {path}")]
            }
            Self::Image(image) => vec![format!("image {}", image.reference)],
            Self::Container(container) => vec![
                format!("container {}", container.name),
                format!("running container {}", container.name),
            ],
            Self::Service(service) => {
                let mut resources = vec![
                    format!("running unit {}", service.unit),
                    format!("unit at boot {}", service.unit),
                ];
                resources.extend(file(&service.stamp_path()));
                resources
            }
            Self::Sysctl(_) => vec![format!("sysctl {}", self.label())],
            Self::KernelModule(_) => vec![format!("module {}", self.label())],
            Self::FirewallChain(chain) => vec![chain.key()],
            Self::NodeRoutes(_) => vec![Undo::RemoveNodeRoutes.key()],
            Self::EtcdMember(member) => {
                let mut keys = vec![member.removal(&[]).key()];
                keys.extend(file(&member.settings));
                keys
            }
            Self::Node(node) => vec![format!("node {}", node.name)],
            Self::Manifest(manifest) => manifest
                .known_objects()
                .into_iter()
                .flatten()
                .map(|object| {
                    Undo::DeleteObject {
                        access: manifest.access(),
                        object: identity(&object),
                    }
                    .key()
                })
                .collect(),
            Self::Symlink(link) => file(&link.path).to_vec(),
            other => other.paths().iter().flat_map(|path| file(path)).collect(),
        }
    }
}

fn file(path: &Path) -> [String; 2] {
    let path = path.display();
    [format!("file {path}"), format!("attributes {path}")]
}
