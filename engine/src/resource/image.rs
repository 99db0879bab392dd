//! A container image that is on the host, loaded from an archive of the role's payload.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult, Undo};

/// An image. Nothing is pulled: what the role needs comes with the role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// Its reference.
    pub reference: String,
    /// Archive as `docker save` writes it.
    pub archive: PathBuf,
}

/// What the engine has.
#[derive(Debug)]
pub struct Observed {
    present: bool,
    absent: bool,
}

#[async_trait]
impl Resource for ImageSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.reference.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        let present = match cx.host.container_engine().await {
            Ok(_) => cx.host.image(&self.reference).await?.is_some(),
            Err(_) => false,
        };
        Ok(Observed {
            present,
            absent: cx.absent,
        })
    }

    fn diff(&self, observed: &Observed) -> Option<Change> {
        match (observed.present, observed.absent) {
            (false, false) => Some(
                Change::new(Action::Create).with(
                    "archive",
                    "",
                    self.archive
                        .file_name()
                        .unwrap_or_default()
                        .to_string_lossy(),
                ),
            ),
            (true, true) => Some(Change::new(Action::Remove)),
            _ => None,
        }
    }

    async fn converge(
        &self,
        observed: &Observed,
        _change: &Change,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if observed.absent {
            cx.host.remove_image(&self.reference).await?;
            return Ok(());
        }
        if cx.host.entry(&self.archive).await?.is_none() {
            return Err(ResourceError::Missing {
                what: format!(
                    "find image {}: neither the container engine nor the role's payload ({}) has it; \
                     put the archive there, or name an image that the role brings",
                    self.reference,
                    self.archive.display()
                ),
            });
        }
        receipt
            .push(Undo::RemoveImage {
                reference: self.reference.clone(),
            })
            .await?;
        cx.host.load_image(&self.archive).await?;
        if cx.host.image(&self.reference).await?.is_none() {
            return Err(ResourceError::NotConverged {
                what: format!(
                    "load image {}: the archive {} holds other images",
                    self.reference,
                    self.archive.display()
                ),
            });
        }
        Ok(())
    }
}
