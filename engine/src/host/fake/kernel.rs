//! Kernel settings and modules of a fake host. Settings are the files under /proc/sys, as in the kernel.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::file_error;
use super::world::World;
use crate::host::fake::fake_host::FakeHost;
use crate::host::{HostError, HostResult, Kernel};
use crate::model::SysctlKey;

const DEADLINE: Duration = Duration::from_secs(30);

/// Settings that come and go with a module.
const MODULE_SETTINGS: [(&str, &str, &str); 2] = [
    ("br_netfilter", "net.bridge.bridge-nf-call-iptables", "1"),
    ("br_netfilter", "net.bridge.bridge-nf-call-ip6tables", "1"),
];

#[async_trait::async_trait]
impl Kernel for FakeHost {
    async fn sysctl(&self, key: &str) -> HostResult<Option<String>> {
        self.observe("sysctl", key, DEADLINE, |world| {
            setting(key)?;
            Ok(world.sysctl(key))
        })
        .await
    }

    async fn set_sysctl(&self, key: &str, value: &str) -> HostResult<()> {
        self.mutate("set_sysctl", key, DEADLINE, |world| {
            let path = setting(key)?;
            if world.sysctl(key).is_none() {
                return Err(file_error(
                    "write",
                    &path,
                    std::io::ErrorKind::NotFound.into(),
                ));
            }
            world.set_sysctl(key, value);
            Ok(())
        })
        .await
    }

    async fn module_loaded(&self, name: &str) -> HostResult<bool> {
        self.observe("module_loaded", name, DEADLINE, |world| {
            Ok(world.modules.contains(name))
        })
        .await
    }

    async fn load_module(&self, name: &str) -> HostResult<()> {
        self.mutate("load_module", name, DEADLINE, |world| {
            if !world.modules.contains(name) && !world.loadable_modules.contains(name) {
                return Err(HostError::service(
                    format!("load module {name}"),
                    "it is not in this kernel's modules",
                ));
            }
            world.load_module(name);
            Ok(())
        })
        .await
    }

    async fn loaded_modules(&self) -> HostResult<Vec<String>> {
        self.observe("loaded_modules", "", DEADLINE, |world| {
            Ok(world.modules.iter().cloned().collect())
        })
        .await
    }

    /// The fake host's modules depend on no other modules.
    async fn unload_module(&self, name: &str, _stay: &[String]) -> HostResult<()> {
        self.mutate("unload_module", name, DEADLINE, |world| {
            // IPVS uses these modules while it has virtual services.
            if name.starts_with("ip_vs") && !world.virtual_services.is_empty() {
                return Err(HostError::in_use(
                    format!("unload module {name}"),
                    "it is in use",
                ));
            }
            world.modules.remove(name);
            for (module, key, _) in MODULE_SETTINGS {
                if module == name {
                    let path = setting(key)?;
                    world.remove(&path);
                    // The directory of the module's settings was made with the module.
                    if let Some(directory) = path.parent()
                        && world.tree.names(directory).is_empty()
                    {
                        world.remove(directory);
                    }
                }
            }
            Ok(())
        })
        .await
    }
}

impl World {
    /// Value of a kernel setting.
    #[must_use]
    pub fn sysctl(&self, key: &str) -> Option<String> {
        let path = setting(key).ok()?;
        self.tree.text(path).map(|text| text.trim().to_owned())
    }

    /// Sets a kernel setting, a new one too. A text that is no name of a setting changes nothing.
    pub fn set_sysctl(&mut self, key: &str, value: &str) {
        if let Ok(path) = setting(key) {
            self.file(path, format!("{value}\n"));
        }
    }

    /// Loads a module, even one that the kernel did not have.
    pub fn load_module(&mut self, name: &str) {
        if self.modules.insert(name.to_owned()) {
            for (module, key, value) in MODULE_SETTINGS {
                if module == name && self.sysctl(key).is_none() {
                    self.set_sysctl(key, value);
                }
            }
        }
    }
}

/// Where the kernel shows a setting.
fn setting(key: &str) -> HostResult<PathBuf> {
    match key.parse::<SysctlKey>() {
        Ok(key) => Ok(key.path()),
        Err(error) => {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, error);
            Err(file_error("use kernel setting", Path::new(key), source))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settings_must_exist_and_come_with_their_module() {
        let host = FakeHost::new();
        let key = "net.bridge.bridge-nf-call-iptables";
        assert!(host.set_sysctl(key, "1").await.is_err());
        host.load_module("br_netfilter").await.unwrap();
        assert_eq!(host.sysctl(key).await.unwrap().as_deref(), Some("1"));
        host.set_sysctl("net.ipv4.ip_forward", "1").await.unwrap();
        assert_eq!(
            host.sysctl("net.ipv4.ip_forward").await.unwrap().as_deref(),
            Some("1")
        );
        host.unload_module("br_netfilter", &[]).await.unwrap();
        assert_eq!(host.sysctl(key).await.unwrap(), None);
        assert!(host.load_module("no_such_module").await.is_err());
    }

    #[tokio::test]
    async fn a_setting_has_one_file_in_both_spellings_of_its_name() {
        let host = FakeHost::new();
        let file = "/proc/sys/net/ipv4/conf/eth0.100/rp_filter";
        host.with_world_mut(|world| world.file(file, "1\n"));
        for key in [
            "net.ipv4.conf.eth0/100.rp_filter",
            "net/ipv4/conf/eth0.100/rp_filter",
        ] {
            let value = host.sysctl(key).await.unwrap();
            assert_eq!(value.as_deref(), Some("1"), "{key}");
        }
        assert!(host.sysctl("net..rp_filter").await.is_err());
    }
}
