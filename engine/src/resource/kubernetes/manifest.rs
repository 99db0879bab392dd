//! Objects in the Kubernetes API, by server-side apply.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::{ClusterAccess, ClusterObject};
use crate::model::Text;
use crate::resource::undo::SavedContent;
use crate::resource::{
    Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult, Undo,
};

/// The objects of one manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestSpec {
    /// Name of the template it comes from.
    pub name: String,
    /// YAML documents.
    pub text: Text,
    /// Kubeconfig to apply it with.
    pub kubeconfig: PathBuf,
}

/// One object and its current state.
#[derive(Debug)]
pub struct ObservedObject {
    object: serde_json::Value,
    /// The object in the cluster; `None` if it does not exist.
    there: Option<ClusterObject>,
}

#[async_trait]
impl Resource for ManifestSpec {
    type Observed = Vec<ObservedObject>;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        let yaml = self.text.render(&mut |value| cx.resolve(value))?;
        let mut observed_objects = Vec::new();
        for object in documents(&self.name, &yaml)? {
            let there = cx.host.compare_object(&self.access(), &object).await?;
            observed_objects.push(ObservedObject { object, there });
        }
        Ok(observed_objects)
    }

    fn diff(&self, observed_objects: &Self::Observed, absent: bool) -> Option<Change> {
        let mut change = Change::new(if absent {
            Action::Remove
        } else if observed_objects.iter().any(|one| one.there.is_some()) {
            Action::Change
        } else {
            Action::Create
        });
        for one in observed_objects {
            let name = describe(&one.object);
            change = match (one.differs(), absent) {
                (Some(_), true) => change.with(name, "there", ""),
                (None, false) => change.with(name, "", "there"),
                (Some(true), false) => change.with(name, "differs", "as planned"),
                _ => change,
            };
        }
        (!change.differences.is_empty()).then_some(change)
    }

    async fn converge(
        &self,
        observed_objects: &Self::Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let access = self.access();
        for one in observed_objects {
            if one.differs() == Some(false) && !cx.absent || one.there.is_none() && cx.absent {
                continue;
            }
            receipt.push(self.restoring_undo(one)).await?;
            if cx.absent {
                cx.host.delete_object(&access, &one.object).await?;
            } else {
                cx.host.apply_object(&access, &one.object).await?;
            }
        }
        Ok(())
    }
}

impl ObservedObject {
    /// Whether the object in the cluster differs; `None` if it does not exist.
    fn differs(&self) -> Option<bool> {
        self.there.as_ref().map(|there| there.differs)
    }
}

impl ManifestSpec {
    /// The undo that restores the current state of an object.
    fn restoring_undo(&self, one: &ObservedObject) -> Undo {
        let (access, object) = (self.access(), identity(&one.object));
        match &one.there {
            None => Undo::DeleteObject { access, object },
            Some(there) => Undo::RestoreObject {
                access,
                object,
                content: SavedContent::new(there.present.to_string().into_bytes()),
            },
        }
    }

    /// The objects of a manifest without late values.
    pub(crate) fn known_objects(&self) -> Option<Vec<serde_json::Value>> {
        match &self.text {
            Text::Known(yaml) => documents(&self.name, yaml).ok(),
            Text::Late { .. } => None,
        }
    }

    pub(in crate::resource) fn access(&self) -> ClusterAccess {
        ClusterAccess::with(&self.kubeconfig)
    }
}

/// The documents of a YAML text as JSON objects.
fn documents(name: &str, yaml: &str) -> ResourceResult<Vec<serde_json::Value>> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let value = serde_json::Value::deserialize(document).map_err(|error| {
            ResourceError::NotConverged {
                what: format!("read manifest {name}: {error}"),
            }
        })?;
        if value.is_object() {
            objects.push(value);
        }
    }
    Ok(objects)
}

/// `Kind namespace/name`.
fn describe(object: &serde_json::Value) -> String {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(|v| v.as_str())
            .unwrap_or_default()
    };
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let slash = if namespace.is_empty() { "" } else { "/" };
    format!("{} {namespace}{slash}{name}", text("/kind"))
}

/// Enough of an object to find it again.
pub(in crate::resource) fn identity(object: &serde_json::Value) -> serde_json::Value {
    let at = |pointer: &str| object.pointer(pointer).cloned().unwrap_or_default();
    serde_json::json!({
        "apiVersion": at("/apiVersion"),
        "kind": at("/kind"),
        "metadata": { "name": at("/metadata/name"), "namespace": at("/metadata/namespace") },
    })
}
