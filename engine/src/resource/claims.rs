//! What a step wants to be there, in the words of [`Undo::about`]: whoever takes things back asks here first whether
//! somebody needs them by now.
//!
//! Packages are left out: an undo names all that came along, so who takes packages back compares names.

use std::path::Path;

use super::manifest::identity;
use super::{Spec, Undo};

impl Spec {
    /// The things that this resource is about.
    #[must_use]
    pub(crate) fn claims(&self) -> Vec<String> {
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
                let mut things = vec![
                    format!("running unit {}", service.unit),
                    format!("unit at boot {}", service.unit),
                ];
                things.extend(file(&service.stamp_path()));
                things
            }
            Self::Sysctl(_) => vec![format!("sysctl {}", self.label())],
            Self::KernelModule(_) => vec![format!("module {}", self.label())],
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
                    .about()
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
