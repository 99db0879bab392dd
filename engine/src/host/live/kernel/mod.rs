//! Settings and modules of the running kernel.
//!
//! Contains reading and writing of settings, and loading and removal of modules. `ipvs` lists and removes the virtual services of IPVS, the
//! kernel's load balancer, without a program that has to be installed.
//!
//! Not here: control groups, which are files, the packet filter, which programs change, links (`network`), and what a kernel must be able
//! to do (`facts::kernel`). Start with this file.

pub(in crate::host::live) mod ipvs;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::LiveHost;
use super::blocking::{blocking, file_error};
use super::files;
use crate::host::live::files::effects::{Fence, PathPurpose};
use crate::host::{CommandSpec, HostError, HostResult, Kernel, Processes};
use crate::model::{SysctlKey, is_module_name};

/// Bound for the files of the kernel that are read whole.
const MAX: u64 = 1024 * 1024;

/// The module of links that are bridges.
const BRIDGE: &str = "bridge";

/// Paths that show a feature for which the kernel lists no module.
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
        let work = move |path: &Path, fence: &Fence| {
            let mut file = OpenOptions::new().write(true).open(path)?;
            fence.pass()?;
            // One write, because the kernel takes each write as a whole value. The file is never created.
            file.write_all(value.as_bytes())
        };
        let action = "set kernel setting";
        self.effects
            .make(action, &path, PathPurpose::Touch, work)
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

    async fn loaded_modules(&self) -> HostResult<Vec<String>> {
        let modules = blocking(modules).await?;
        Ok(modules.into_iter().map(|module| module.name).collect())
    }

    async fn unload_module(&self, name: &str, stay: &[String]) -> HostResult<()> {
        let name = normal(name);
        let loaded = blocking(modules).await?;
        // A built-in module cannot be unloaded, and no program has loaded it.
        if !loaded.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let bridges = blocking(has_bridges).await?;
        let mut rest = modules_unloaded_with(&loaded, &name, stay, bridges)?;
        let mut next = Some(name);
        while let Some(name) = next {
            // Another program may have made a bridge in the meantime.
            if name == BRIDGE && blocking(has_bridges).await? {
                break;
            }
            let unload = CommandSpec::new(["rmmod", "--", &name]);
            let unloaded = self.run_ok(&unload).await;
            let loaded = blocking(modules).await?;
            unloaded.map_err(|error| refusal(&loaded, &name, error))?;
            let unused = |name: &String| {
                let mut modules = loaded.iter();
                modules.any(|module| module.name == *name && module.uses == 0)
            };
            let at = rest.iter().position(unused);
            next = at.map(|at| rest.swap_remove(at));
        }
        Ok(())
    }
}

/// The file of a setting.
fn setting(key: &str) -> HostResult<PathBuf> {
    match key.parse::<SysctlKey>() {
        Ok(key) => Ok(key.path()),
        Err(error) => {
            let source = io::Error::new(io::ErrorKind::InvalidInput, error);
            Err(file_error("use kernel setting", Path::new(key))(source))
        }
    }
}

/// Modules are written with dashes and listed with underscores.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// A line of `/proc/modules` (`m_show` in the kernel's `kernel/module/procfs.c` writes it).
#[derive(Debug, PartialEq, Eq)]
struct Module {
    name: String,
    /// How many users it has, of any kind. A module that cannot be unloaded has at least one.
    uses: u64,
    /// The modules that use it.
    used_by: Vec<String>,
}

impl Module {
    fn of(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let name = words.next().filter(|name| !name.is_empty())?.to_owned();
        let uses = words.nth(1)?;
        let used_by = words.next()?.split(',');
        Some(Self {
            name,
            // A kernel that cannot unload modules says `-`.
            uses: uses.parse().unwrap_or(u64::MAX),
            used_by: used_by
                .filter(|one| !one.is_empty() && *one != "-")
                .map(str::to_owned)
                .collect(),
        })
    }
}

/// The modules to unload together with a module, once they are unused. `modprobe -r` would unload everything that the module depends on,
/// even a module that was loaded before and is to `stay`. It would also remove the bridges of this host.
///
/// # Errors
/// The module itself must stay.
fn modules_unloaded_with(
    loaded: &[Module],
    name: &str,
    stay: &[String],
    bridges: bool,
) -> HostResult<Vec<String>> {
    if bridges && name == BRIDGE {
        return Err(HostError::in_use(
            format!("unload module {name}"),
            "it is in use: bridges of this host would be removed with it",
        ));
    }
    let mut along = builds_on(loaded, name);
    let stays = |one: &String| stay.contains(one) || (bridges && one == BRIDGE);
    along.retain(|one| !stays(one));
    Ok(along)
}

/// Why a module was not unloaded: it is still listed with users, or another error.
fn refusal(loaded: &[Module], name: &str, error: HostError) -> HostError {
    // A kernel that cannot unload modules lists no number of users.
    let is_used = |module: &Module| module.name == name && (1..u64::MAX).contains(&module.uses);
    if loaded.iter().any(is_used) {
        return HostError::in_use(format!("unload module {name}"), error);
    }
    error
}

/// Whether any link is a bridge. Bridges do not count as users of their module: the kernel removes them when the module is unloaded
/// (`br_net_exit` in the kernel's `net/bridge/br.c`).
fn has_bridges() -> HostResult<bool> {
    let links = Path::new("/sys/class/net");
    let found = std::fs::read_dir(links).map_err(file_error("list", links))?;
    Ok(found
        .flatten()
        .any(|link| link.path().join("bridge").is_dir()))
}

/// The modules that the kernel lists as loaded.
fn modules() -> HostResult<Vec<Module>> {
    let lines = lines("/proc/modules")?;
    Ok(lines.iter().filter_map(|line| Module::of(line)).collect())
}

/// Whether the kernel lists it as a loaded module.
fn is_loaded(name: &str) -> HostResult<bool> {
    Ok(modules()?.iter().any(|module| module.name == name))
}

/// The modules that this one depends on, directly or not.
fn builds_on(loaded: &[Module], name: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut of = vec![name.to_owned()];
    while let Some(one) = of.pop() {
        for module in loaded {
            if module.used_by.contains(&one) && !found.contains(&module.name) {
                found.push(module.name.clone());
                of.push(module.name.clone());
            }
        }
    }
    found
}

/// Whether the running kernel has the feature without a module: it lists it under `/sys/module`, its build says
/// so (`modules.builtin`), it is a registered file system, or one of [`PROBES`] finds its trace.
fn is_built_in(name: &str) -> HostResult<bool> {
    if !is_module_name(name) {
        return Err(HostError::service(
            format!("look for module {name:?}"),
            "this is not the name of a module",
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
    fn module_dependencies_are_read_from_the_kernel() {
        let list = "ip_vs_rr 16384 1 - Live 0x0\n\
            ip_vs 212992 3 ip_vs_rr,ip_vs_sh, Live 0x0\n\
            nf_conntrack 188416 4 ip_vs,xt_conntrack, Live 0x0\n\
            libcrc32c 16384 2 ip_vs,nf_conntrack, Live 0x0 (E)\n\
            overlay 200704 - - Live 0x0\n\
            \n";
        let loaded: Vec<Module> = list.lines().filter_map(Module::of).collect();
        let uses: Vec<u64> = loaded.iter().map(|module| module.uses).collect();
        assert_eq!(uses, [1, 3, 4, 2, u64::MAX]);
        let mut below = builds_on(&loaded, "ip_vs_rr");
        below.sort();
        assert_eq!(below, ["ip_vs", "libcrc32c", "nf_conntrack"]);
        assert_eq!(builds_on(&loaded, "overlay"), [""; 0]);
        assert_eq!(builds_on(&loaded, "nobody"), [""; 0]);
    }

    #[test]
    fn modules_needed_by_others_are_not_unloaded() {
        let list = "br_netfilter 32768 0 - Live 0x0\n\
            bridge 311296 1 br_netfilter, Live 0x0\n\
            stp 16384 1 bridge, Live 0x0\n\
            llc 16384 2 bridge,stp, Live 0x0\n";
        let loaded: Vec<Module> = list.lines().filter_map(Module::of).collect();
        let along = |name, stay: &[&str], bridges| {
            let stay: Vec<String> = stay.iter().map(|one| (*one).to_owned()).collect();
            let mut along = modules_unloaded_with(&loaded, name, &stay, bridges).ok()?;
            along.sort();
            Some(along.join(" "))
        };
        let of = "br_netfilter";
        assert_eq!(along(of, &[], false).as_deref(), Some("bridge llc stp"));
        assert_eq!(along(of, &["llc"], false).as_deref(), Some("bridge stp"));
        assert_eq!(along(of, &[], true).as_deref(), Some("llc stp"));
        assert_eq!(along("bridge", &[], false).as_deref(), Some("llc stp"));
        assert_eq!(along("bridge", &[], true), None);
    }

    #[test]
    fn only_a_module_with_users_is_in_use() {
        let list = "ip_vs 212992 3 ip_vs_rr, Live 0x0\n\
            stp 16384 0 - Live 0x0\n\
            overlay 200704 - - Live 0x0\n";
        let loaded: Vec<Module> = list.lines().filter_map(Module::of).collect();
        let is_used = |name: &str| {
            let error = HostError::service("run `rmmod`", "exit status 1");
            matches!(refusal(&loaded, name, error), HostError::InUse { .. })
        };
        assert!(is_used("ip_vs"));
        for free in ["stp", "overlay", "tun"] {
            assert!(!is_used(free), "{free}");
        }
    }

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
