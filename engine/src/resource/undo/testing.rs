//! Reverts receipts in the tests of resources.

use super::data::Undo;
use super::order::{in_order, within};
use super::receipt::Receipt;
use crate::host::Host;
use crate::resource::{ResourceError, ResourceResult};

impl Receipt<'_> {
    /// Carries out all undos. See [`revert`].
    pub(crate) async fn revert(&self, host: &dyn Host) -> Vec<ResourceError> {
        revert(&self.undos, host).await
    }
}

/// Carries out all undos in their order, and returns the errors.
pub(crate) async fn revert(undos: &[Undo], host: &dyn Host) -> Vec<ResourceError> {
    let all = revert_each(undos, host).await.into_iter();
    all.filter_map(|(_, result)| result.err()).collect()
}

/// The same, with the result of each undo.
pub(crate) async fn revert_each<'u>(
    undos: &'u [Undo],
    host: &dyn Host,
) -> Vec<(&'u Undo, ResourceResult<()>)> {
    let mut all = Vec::new();
    for undo in in_order(undos) {
        let action = format!("revert {}", undo.key());
        let result = within(undo.properties().timeout, action, undo.carry_out(host)).await;
        all.push((undo, result));
    }
    all
}
