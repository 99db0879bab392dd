//! Writes that a stalled disk carries out after their callers have given up, like those of a thread that hangs in the kernel.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;

use super::fault::FaultKind;
use super::files::{append_file, write_file};
use crate::host::fake::fake_host::FakeHost;
use crate::host::{Attributes, HostResult};

/// Writes that have begun and not arrived.
#[derive(Debug, Clone, Default)]
pub(super) struct LateWrites {
    waiting: Vec<LateWrite>,
    arrived: Arc<Notify>,
}

#[derive(Debug, Clone)]
struct LateWrite {
    /// Whether it adds to the end of the file.
    appends: bool,
    path: PathBuf,
    content: Vec<u8>,
    attributes: Attributes,
}

impl FakeHost {
    /// Carries out all writes that the fault plan holds up, whether their callers still wait for them or not.
    pub fn late_writes_arrive(&self) {
        let mut state = self.lock();
        for late in std::mem::take(&mut state.late.waiting) {
            let carry_out = if late.appends {
                append_file
            } else {
                write_file
            };
            // If the directory is gone by now, the error is ignored: it has no caller to go to.
            let _ = carry_out(&mut state.world, &late.path, &late.content, late.attributes);
        }
        state.late.arrived.notify_waiters();
    }

    /// Holds up a write if the fault plan says so. Returns once the write has arrived.
    pub(super) async fn delay_write(
        &self,
        name: &'static str,
        path: &Path,
        content: &[u8],
        attributes: Attributes,
    ) -> Option<HostResult<()>> {
        let arrived = {
            let mut state = self.lock();
            if !state
                .faults
                .takes_fault(name, &path.display().to_string(), FaultKind::Late)
            {
                return None;
            }
            state.late.waiting.push(LateWrite {
                appends: name == "append",
                path: path.to_owned(),
                content: content.to_vec(),
                attributes,
            });
            state.late.arrived.clone().notified_owned()
        };
        arrived.await;
        Some(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fault::FaultPlan;
    use super::*;
    use crate::host::Files as _;

    #[tokio::test(start_paused = true)]
    async fn a_late_write_arrives_though_its_caller_gave_up() {
        let path = Path::new("/etc/a");
        let late = FaultPlan::none().late("write", "/etc/a").times(1);
        let host = FakeHost::new().with_faults(late);
        let text = |host: &FakeHost| host.with_world(|world| world.text(path));
        let write = |content: &'static [u8]| host.write(path, content, Attributes::root(0o644));
        let given_up = tokio::time::timeout(Duration::from_secs(1), write(b"old")).await;
        assert!(given_up.is_err());
        write(b"new").await.unwrap();
        assert_eq!(text(&host).as_deref(), Some("new"));
        host.late_writes_arrive();
        assert_eq!(text(&host).as_deref(), Some("old"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_write_completes_for_a_waiting_caller() {
        let path = Path::new("/etc/a");
        let host = FakeHost::new().with_faults(FaultPlan::none().late("append", "*"));
        let write = host.append(path, b"x", Attributes::root(0o644));
        let arrive = async {
            tokio::task::yield_now().await;
            host.late_writes_arrive();
        };
        let (written, ()) = tokio::join!(write, arrive);
        written.unwrap();
    }
}
