//! Address sets of the packet filter (ipsets) that another program creates, selected by the prefix of their names.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::CommandSpec;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult};

/// Sets whose names have this prefix. They can only be made absent, after the rules that use them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpsetsSpec {
    /// Prefix of their names, for example `KUBE-`.
    pub prefix: String,
}

#[async_trait]
impl Resource for IpsetsSpec {
    /// Their names.
    type Observed = Vec<String>;

    fn label(&self) -> String {
        self.prefix.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        let mut names = Vec::new();
        if cx.host.has_program("ipset").await? {
            let output = cx
                .host
                .run(&CommandSpec::new(["ipset", "list", "-name"]).complete_output())
                .await?;
            // On a kernel without ipsets the program fails, and there are none.
            if output.success() {
                names.extend(
                    output
                        .stdout
                        .lines()
                        .filter(|name| name.starts_with(&self.prefix))
                        .map(str::to_owned),
                );
            }
        }
        Ok(names)
    }

    fn diff(&self, names: &Self::Observed, absent: bool) -> Option<Change> {
        (absent && !names.is_empty())
            .then(|| Change::new(Action::Remove).with("sets", names.len(), 0))
    }

    async fn converge(
        &self,
        names: &Self::Observed,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        for name in names {
            cx.host
                .run_ok(&CommandSpec::new(["ipset", "destroy", name.as_str()]))
                .await?;
        }
        Ok(())
    }
}
