//! Settings and modules of the running kernel.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::LiveHost;
use super::blocking::{blocking, file_error};
use super::files;
use crate::host::{CommandSpec, HostError, HostResult, Kernel, Processes};

/// Bound for the files of the kernel that are read whole.
const MAX: u64 = 1024 * 1024;

/// What the presence of a feature looks like where the kernel lists no module for it.
///
/// A kernel with everything built in has no `/lib/modules`, and a feature without parameters has no folder in
/// `/sys/module` then. These paths exist exactly when the feature does.
const PROBES: [(&str, &str); 6] = [
    ("br_netfilter", "/proc/sys/net/bridge"),
    ("nf_conntrack", "/proc/sys/net/netfilter/nf_conntrack_max"),
    ("ip_vs", "/proc/net/ip_vs"),
    ("ip_tables", "/proc/net/ip_tables_names"),
    ("ip6_tables", "/proc/net/ip6_tables_names"),
    ("tun", "/sys/class/misc/tun"),
];

#[async_trait::async_trait]
impl Kernel for LiveHost {
    async fn sysctl(&self, key: &str) -> HostResult<Option<String>> {
        let path = setting(key)?;
        let value = blocking(move || files::read(&path, MAX)).await?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).trim().to_owned()))
    }

    async fn set_sysctl(&self, key: &str, value: &str) -> HostResult<()> {
        let path = setting(key)?;
        let value = value.to_owned();
        blocking(move || {
            // One write, because the kernel takes each as a whole value; and never a new file.
            OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut file| file.write_all(value.as_bytes()))
                .map_err(file_error("set kernel setting", &path))
        })
        .await
    }

    async fn module_loaded(&self, name: &str) -> HostResult<bool> {
        let name = normal(name);
        blocking(move || Ok(is_loaded(&name)? || is_built_in(&name)?)).await
    }

    async fn load_module(&self, name: &str) -> HostResult<()> {
        if self.module_loaded(name).await? {
            return Ok(());
        }
        self.run_ok(&CommandSpec::new(["modprobe", "--", name]))
            .await
            .map(drop)
    }

    async fn unload_module(&self, name: &str) -> HostResult<()> {
        let wanted = normal(name);
        // What is built in cannot be unloaded, and was not loaded by anybody.
        if !blocking(move || is_loaded(&wanted)).await? {
            return Ok(());
        }
        self.run_ok(&CommandSpec::new(["modprobe", "-r", "--", name]))
            .await
            .map(drop)
    }
}

/// The file of a setting. As with sysctl(8), a dot separates and a slash stands for a dot within a name
/// (`net.ipv4.conf.eth0/100.rp_filter`).
fn setting(key: &str) -> HostResult<PathBuf> {
    let path: String = key
        .chars()
        .map(|one| match one {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        let source = io::Error::new(
            io::ErrorKind::InvalidInput,
            "this is no name of a kernel setting",
        );
        return Err(file_error("use kernel setting", Path::new(key))(source));
    }
    Ok(Path::new("/proc/sys").join(path))
}

/// Modules are written with dashes and listed with underscores.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// Whether the kernel lists it as a loaded module.
fn is_loaded(name: &str) -> HostResult<bool> {
    Ok(lines("/proc/modules")?
        .iter()
        .any(|line| line.split(' ').next() == Some(name)))
}

/// Whether the running kernel has the feature without a module: it lists it under `/sys/module`, its build says
/// so (`modules.builtin`), it is a registered file system, or one of [`PROBES`] finds its trace.
fn is_built_in(name: &str) -> HostResult<bool> {
    let plain = !name.is_empty()
        && name
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || one == '_');
    if !plain {
        return Err(HostError::service(
            format!("look for module {name:?}"),
            "this is no name of a module",
        ));
    }
    if Path::new("/sys/module").join(name).is_dir() {
        return Ok(true);
    }
    if PROBES
        .iter()
        .any(|(known, trace)| *known == name && Path::new(trace).exists())
    {
        return Ok(true);
    }
    let release = lines("/proc/sys/kernel/osrelease")?.concat();
    let listed = |line: &String| {
        let file = line.rsplit('/').next().unwrap_or_default();
        normal(file.split('.').next().unwrap_or_default()) == name
    };
    Ok(lines("/proc/filesystems")?
        .iter()
        .any(|line| line.split('\t').nth(1) == Some(name))
        || lines(&format!("/lib/modules/{}/modules.builtin", release.trim()))?
            .iter()
            .any(listed))
}

/// Lines of a file of the kernel; none where there is no such file.
fn lines(path: &str) -> HostResult<Vec<String>> {
    let content = files::read(Path::new(path), MAX)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&content)
        .lines()
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_stay_below_proc_sys() {
        let path = |key| setting(key).ok();
        assert_eq!(
            path("net.ipv4.ip_forward"),
            Some("/proc/sys/net/ipv4/ip_forward".into())
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/100.rp_filter"),
            Some("/proc/sys/net/ipv4/conf/eth0.100/rp_filter".into())
        );
        for bad in ["", "..", "net..x", "net.//.//.etc", "/"] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }
}
