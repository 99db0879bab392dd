//! Commands: none is run, it might change something. The packet filter is in `network::firewall`.

use super::OverlayHost;
use crate::host::fake::PROGRAM_PATH;
use crate::host::{
    CommandOutput, CommandSpec, HostError, HostResult, Processes, StoppedProcess, StoppedShim,
};

#[async_trait::async_trait]
impl Processes for OverlayHost<'_> {
    async fn run(&self, command: &CommandSpec) -> HostResult<CommandOutput> {
        if let Some(output) = self.packet_filter(command).await? {
            return Ok(output);
        }
        self.known().ran = true;
        Err(HostError::service(
            format!("run `{}`", command.display()),
            "a dry run runs no commands",
        ))
    }

    async fn stopped_processes(&self) -> HostResult<Vec<StoppedProcess>> {
        self.lower.stopped_processes().await
    }

    async fn stopped_shims(&self) -> HostResult<Vec<StoppedShim>> {
        self.lower.stopped_shims().await
    }

    async fn has_program(&self, name: &str) -> HostResult<bool> {
        if Self::is_of_packet_filter(name) && self.lower.has_program(name).await? {
            return Ok(true);
        }
        for directory in PROGRAM_PATH {
            let real = self
                .fetch(&std::path::Path::new(directory).join(name), true)
                .await?;
            if self
                .upper
                .with_world(|world| world.tree.content(&real).is_some())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
