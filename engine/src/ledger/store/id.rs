//! The id of a ledger: it names the host, and the time when the ledger began.
//!
//! By it, a ledger of another host is recognised. The id is in the header and in the tip (`last_run`).

use std::path::Path;

use sha2::Digest as _;

use super::disk::{failed, in_time};
use crate::host::Host;
use crate::ledger::LedgerError;

/// An id for a new ledger: from the host, and the time when the ledger began.
pub(super) async fn new_id(host: &dyn Host) -> Result<String, LedgerError> {
    let began = format!("{:?}", host.now());
    Ok(format!("{}-{}", host_part(host).await?, digest(&began)))
}

/// The part of a ledger's id that identifies the host.
pub(super) async fn host_part(host: &dyn Host) -> Result<String, LedgerError> {
    let machine = in_time(host.read(Path::new("/etc/machine-id"), 4096)).await;
    let machine = machine.map_err(failed("name"))?.unwrap_or_default();
    let mut known = String::from_utf8_lossy(&machine).trim().to_owned();
    if known.is_empty() {
        let name = in_time(host.sysctl("kernel.hostname")).await;
        known = name.map_err(failed("name"))?.unwrap_or_default();
    }
    Ok(digest(&known))
}

fn digest(text: &str) -> String {
    let mut hex = crate::model::hex(&sha2::Sha256::digest(text));
    hex.truncate(8);
    hex
}
