//! How tests call `nodelet`, or what they run in its place.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Worker;

/// A worker that runs this program. It has neither problems nor warnings yet.
pub(in crate::nodeletd) fn test_worker(nodelet: &str) -> Worker {
    Worker {
        nodelet: nodelet.into(),
        role: "pf9-kube".to_owned(),
        config: "/nowhere".into(),
        shutdown: CancellationToken::new(),
        warned: Arc::default(),
        cluster_problems: Arc::default(),
    }
}
