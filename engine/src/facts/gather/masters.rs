//! The masters of the cluster, from the file that lists them.

use std::path::Path;

use super::Asking;
use crate::facts::model::{MASTERS, MASTERS_BYTES, MASTERS_UNKNOWN, MasterEntry, masters_from};

impl Asking<'_> {
    /// The masters in the file; none if there is no file. A file that cannot be read is noted: it must not look as if there were no other
    /// master.
    pub(super) async fn masters(&self) -> Vec<MasterEntry> {
        let read = self.host.read(Path::new(MASTERS), MASTERS_BYTES);
        let Some(Some(content)) = self.answer(MASTERS_UNKNOWN, read).await else {
            return Vec::new();
        };
        match masters_from(&String::from_utf8_lossy(&content)) {
            Ok(masters) => masters,
            Err(error) => {
                self.note(MASTERS_UNKNOWN, format!("{MASTERS}: {error}"));
                Vec::new()
            }
        }
    }
}
