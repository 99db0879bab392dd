//! Builders for fake hosts. Each makes the parent directories it needs, and bypasses journal and faults.
//! Those of docker and Kubernetes are in `docker::daemon` and `kubernetes::rules`.

use std::net::IpAddr;
use std::path::Path;

use super::world::World;
use crate::host::Space;
use crate::host::fake::fake_host::FakeHost;
use crate::host::fake::world::program::Program;

/// Directories of a fresh Debian.
const DIRECTORIES: [&str; 29] = [
    "/bin",
    "/dev",
    "/etc/systemd/system",
    "/home",
    "/lib/systemd/system",
    "/lib/modules",
    "/opt",
    "/proc/sys",
    "/root",
    "/run/lock",
    "/run/systemd/system",
    "/sbin",
    "/sys/class/net",
    "/sys/fs/cgroup",
    "/tmp",
    "/usr/bin",
    "/usr/lib",
    "/usr/libexec",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/sbin",
    "/usr/share",
    "/usr/src",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/opt",
    "/var/spool",
    "/var/tmp",
];

/// Kernel settings that every fresh host has and phases care about.
const SETTINGS: [(&str, &str); 8] = [
    ("fs.inotify.max_user_instances", "128"),
    ("kernel.panic", "0"),
    ("kernel.panic_on_oops", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.ip_nonlocal_bind", "0"),
    ("net.ipv6.conf.all.forwarding", "0"),
    ("vm.overcommit_memory", "0"),
];

/// Modules that Debian's kernel can load.
const MODULES: [&str; 9] = [
    "br_netfilter",
    "dummy",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_sh",
    "ip_vs_wrr",
    "nf_conntrack",
    "overlay",
    "vxlan",
];

impl FakeHost {
    /// A bare Debian-like host `cp-1` with one link, `eth0` 172.30.0.11/24, and cgroup v1.
    #[must_use]
    pub fn new() -> Self {
        let mut world = World::debian("cp-1");
        world.link("lo", true, &[(IpAddr::from([127, 0, 0, 1]), 8)]);
        world.link("eth0", true, &[(IpAddr::from([172, 30, 0, 11]), 24)]);
        for hierarchy in ["cpu", "memory"] {
            world.cgroup_root(&Path::new("/sys/fs/cgroup").join(hierarchy), None);
        }
        Self::of(world)
    }

    /// With a file, mode 0644.
    #[must_use]
    pub fn with_file(self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Self {
        self.having(|world| world.file(path, content))
    }

    /// With a directory.
    #[must_use]
    pub fn with_directory(self, path: impl AsRef<Path>) -> Self {
        self.having(|world| world.directory(path))
    }

    /// With a package file; `items` are `unit=…`, `program=…`, `file=…` and `directory=…`.
    #[must_use]
    pub fn with_package_file(
        self,
        path: impl AsRef<Path>,
        name: &str,
        version: &str,
        items: &[&str],
    ) -> Self {
        let mut content = format!("fake-deb:{name}:{version}");
        for item in items {
            content += &format!(":{item}");
        }
        self.having(|world| world.file(path, content))
    }

    /// With a package already installed that brings nothing.
    #[must_use]
    pub fn with_package(self, name: &str, version: &str) -> Self {
        self.having(|world| world.package(name, version))
    }

    /// With a program and what it does.
    #[must_use]
    pub fn with_program(self, name: &str, program: Program) -> Self {
        self.having(|world| world.program_does(name, program))
    }

    /// With a unit that is loaded but not active.
    #[must_use]
    pub fn with_unit(self, name: &str, text: &str) -> Self {
        self.having(|world| world.unit(name, text))
    }

    /// With a unit that is active and starts at boot.
    #[must_use]
    pub fn with_active_unit(self, name: &str, text: &str) -> Self {
        self.having(|world| {
            world.unit(name, text);
            // If the unit cannot start, its state shows that.
            world.start_unit(name).ok();
            if let Some(unit) = world.units.get_mut(name) {
                unit.enabled = true;
            }
        })
    }

    /// With an endpoint elsewhere, `host:port`, and what it answers to every request.
    #[must_use]
    pub fn with_endpoint(self, endpoint: &str, status: u16, body: &str) -> Self {
        self.having(|world| {
            world
                .endpoints
                .insert(endpoint.to_owned(), (status, body.to_owned()));
        })
    }

    /// With room on the file system that starts at a path.
    #[must_use]
    pub fn with_space(self, path: impl AsRef<Path>, space: Space) -> Self {
        self.having(|world| {
            world.space.insert(path.as_ref().to_owned(), space);
        })
    }

    pub(in crate::host::fake) fn having(self, change: impl FnOnce(&mut World)) -> Self {
        self.with_world_mut(change);
        self
    }
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A fresh Debian without links and cgroups.
    pub(crate) fn debian(host_name: &str) -> Self {
        let mut world = Self::bare(host_name);
        for path in DIRECTORIES {
            world.directory(path);
        }
        for (key, value) in SETTINGS {
            world.set_sysctl(key, value);
        }
        world.set_sysctl("kernel.hostname", host_name);
        world.loadable_modules = MODULES.map(str::to_owned).into();
        world.install_firewall_programs();
        world.install_ip_program();
        world.program_does("true", Program::ends(0, ""));
        world.program_does("false", Program::ends(1, ""));
        for program in ["true", "false"] {
            world.file_with_mode(format!("/usr/bin/{program}"), "fake program\n", 0o755);
        }
        world
    }

    /// Makes a directory the root of a cgroup hierarchy; `controllers` for version 2.
    pub(crate) fn cgroup_root(&mut self, path: &Path, controllers: Option<&str>) {
        self.file(path.join("cgroup.procs"), "1\n");
        if let Some(controllers) = controllers {
            self.file(path.join("cgroup.controllers"), format!("{controllers}\n"));
            self.file(
                path.join("cgroup.subtree_control"),
                format!("{controllers}\n"),
            );
        }
    }
}
