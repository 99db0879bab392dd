//! Kernel settings and modules, now and after the next boot.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::Attributes;
use crate::model::SysctlKey;
use crate::resource::change::Differences;
use crate::resource::files::file::remember;
use crate::resource::{
    Action, Change, Context, READ_LIMIT, Receipt, Resource, ResourceError, ResourceResult, Undo,
    create_parents,
};

/// A setting under `/proc/sys`, written to `/etc/sysctl.d/` as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SysctlSpec {
    /// Its key, for example `net.ipv4.ip_forward`.
    pub key: SysctlKey,
    /// Its value.
    pub value: String,
}

/// The current state of a setting.
#[derive(Debug)]
pub struct ObservedSysctl {
    value: Option<String>,
    persisted: Option<Vec<u8>>,
}

impl SysctlSpec {
    fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/etc/sysctl.d/90-pf9-{}.conf",
            self.key.in_file_name()
        ))
    }

    fn line(&self) -> String {
        format!("{} = {}\n", self.key, self.value)
    }

    /// Whether the kernel has another value, or no such setting.
    fn differs(&self, observed: &ObservedSysctl) -> bool {
        let is = observed.value.as_deref().unwrap_or("not there");
        is.split_whitespace().ne(self.value.split_whitespace())
    }
}

#[async_trait]
impl Resource for SysctlSpec {
    type Observed = ObservedSysctl;

    fn label(&self) -> String {
        self.key.to_string()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<ObservedSysctl> {
        Ok(ObservedSysctl {
            value: cx.host.sysctl(self.key.as_str()).await?,
            persisted: cx.host.read(&self.path(), READ_LIMIT).await?,
        })
    }

    fn diff(&self, observed: &ObservedSysctl, _absent: bool) -> Option<Change> {
        let mut differences = Differences::default();
        if self.differs(observed) {
            let is = observed.value.as_deref().unwrap_or("not there");
            differences.note("value", is, &self.value);
        }
        if observed.persisted.as_deref() != Some(self.line().as_bytes()) {
            differences.note("after boot", "not set", &self.value);
        }
        differences.into_change(Action::Change)
    }

    async fn converge(
        &self,
        observed: &ObservedSysctl,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if self.differs(observed) {
            let Some(before) = &observed.value else {
                return Err(ResourceError::Missing {
                    what: format!(
                        "set {}: this kernel has no such setting (is its module loaded?)",
                        self.key
                    ),
                });
            };
            receipt
                .push(Undo::SetSysctl {
                    key: self.key.to_string(),
                    value: before.clone(),
                })
                .await?;
            cx.host.set_sysctl(self.key.as_str(), &self.value).await?;
        }
        let persisted = observed.persisted.as_deref();
        persist(&self.path(), &self.line(), persisted, cx, receipt).await
    }
}

/// A kernel module, loaded now and at boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelModuleSpec {
    /// Its name.
    pub name: String,
}

/// The current state of a module.
#[derive(Debug)]
pub struct ObservedModule {
    loaded: bool,
    persisted: Option<Vec<u8>>,
}

impl KernelModuleSpec {
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/etc/modules-load.d/pf9-{}.conf", self.name))
    }
}

#[async_trait]
impl Resource for KernelModuleSpec {
    type Observed = ObservedModule;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<ObservedModule> {
        Ok(ObservedModule {
            loaded: cx.host.module_loaded(&self.name).await?,
            persisted: cx.host.read(&self.path(), READ_LIMIT).await?,
        })
    }

    fn diff(&self, observed: &ObservedModule, _absent: bool) -> Option<Change> {
        let mut differences = Differences::default();
        if !observed.loaded {
            differences.note("state", "not loaded", "loaded");
        }
        if observed.persisted.as_deref() != Some(format!("{}\n", self.name).as_bytes()) {
            differences.note("at boot", "not loaded", "loaded");
        }
        differences.into_change(Action::Change)
    }

    async fn converge(
        &self,
        observed: &ObservedModule,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if !observed.loaded {
            receipt
                .push(Undo::UnloadModule {
                    name: self.name.clone(),
                    stay: cx.host.loaded_modules().await?,
                })
                .await?;
            cx.host.load_module(&self.name).await?;
        }
        let line = format!("{}\n", self.name);
        let persisted = observed.persisted.as_deref();
        persist(&self.path(), &line, persisted, cx, receipt).await
    }
}

/// Writes a line to a file that is read at boot, unless it is there.
async fn persist(
    path: &Path,
    line: &str,
    persisted: Option<&[u8]>,
    cx: &Context<'_>,
    receipt: &mut Receipt<'_>,
) -> ResourceResult<()> {
    if persisted == Some(line.as_bytes()) {
        return Ok(());
    }
    create_parents(cx.host, path, receipt).await?;
    let entry = cx.host.entry(path).await?;
    remember(cx.host, path, entry.as_ref(), "a file", receipt).await?;
    let attributes = Attributes::root(0o644);
    Ok(cx.host.write(path, line.as_bytes(), attributes).await?)
}
