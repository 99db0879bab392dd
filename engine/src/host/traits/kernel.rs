//! Kernel settings and modules.

use crate::host::HostResult;

/// Settings under `/proc/sys` and modules.
#[async_trait::async_trait]
pub trait Kernel {
    /// Value of a setting such as `net.ipv4.ip_forward`, trimmed; `None` where the kernel has none. Cancel safe.
    async fn sysctl(&self, key: &str) -> HostResult<Option<String>>;

    /// Sets a setting until the next boot.
    async fn set_sysctl(&self, key: &str, value: &str) -> HostResult<()>;

    /// Whether a module is loaded or built in. Cancel safe.
    async fn module_loaded(&self, name: &str) -> HostResult<bool>;

    /// Loads a module.
    async fn load_module(&self, name: &str) -> HostResult<()>;

    /// The modules that are loaded, as `/proc/modules` lists them; those that are built in are not. Cancel safe.
    async fn loaded_modules(&self) -> HostResult<Vec<String>>;

    /// Unloads a module and the modules that it depends on, except those that another module uses and those in `stay`. Fine if the module
    /// is not loaded. The error is [`InUse`](crate::host::HostError::InUse) if a module has users.
    async fn unload_module(&self, name: &str, stay: &[String]) -> HostResult<()>;
}
