//! The escape hatch: a command, with a condition that tells whether its work is done.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::CommandSpec;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult};

/// A command that runs unless its work is done. It has no undo: the phase's `on_rollback` has to revert it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandStep {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The work is done if this path exists.
    pub creates: Option<PathBuf>,
    /// The work is done if this command ends with 0.
    pub unless: Vec<String>,
    /// Bound on one run, in seconds.
    pub seconds: u64,
}

#[async_trait]
impl Resource for CommandStep {
    /// Whether its work is done.
    type Observed = bool;

    fn label(&self) -> String {
        self.argv.join(" ")
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<bool> {
        if let Some(path) = &self.creates {
            return Ok(cx.host.entry(path).await?.is_some());
        }
        if self.unless.is_empty() {
            return Ok(false);
        }
        Ok(cx.host.run(&self.spec(&self.unless)).await?.success())
    }

    fn diff(&self, done: &bool, _absent: bool) -> Option<Change> {
        (!done).then(|| Change::new(Action::Run).with("command", "", self.argv.join(" ")))
    }

    async fn converge(
        &self,
        _done: &bool,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        cx.host.run_ok(&self.spec(&self.argv)).await?;
        Ok(())
    }
}

impl CommandStep {
    fn spec(&self, argv: &[String]) -> CommandSpec {
        CommandSpec::new(argv.iter().cloned()).timeout(Duration::from_secs(self.seconds))
    }
}
