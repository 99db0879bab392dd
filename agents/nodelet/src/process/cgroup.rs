//! The control groups `pf9-kube-status`, in which status passes run, and `pf9-etcd-backup`: limits on CPU time and memory, so
//! that checking a node does not take the resources that its workload needs.
//!
//! Version 1: a group in the `cpu` and one in the `memory` hierarchy. Version 2: our unit has its part of the tree
//! delegated; processes may not live beside groups that hand out controllers, so the daemon moves into a leaf
//! `supervisor`. Sources: the kernel's documents `cgroup-v1/` and `cgroup-v2.rst`, systemd's `CGROUP_DELEGATION`.

use std::fs;
use std::io::ErrorKind::{NotADirectory, NotFound, ResourceBusy};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::Instant;

const STATUS: &str = "pf9-kube-status";
const BACKUP: &str = "pf9-etcd-backup";
/// CPU limit of a backup, in percent of one CPU: it copies and hashes. The containers that verify it are not included.
const BACKUP_CPU: u32 = 50;
/// The controllers that limit CPU time and memory in version 2.
const CONTROLLERS: [&str; 2] = ["cpu", "memory"];
/// Where the hierarchies are.
pub(crate) const MOUNT: &str = "/sys/fs/cgroup";
/// Period of the CPU limit, in microseconds.
const PERIOD: u32 = 100_000;
/// Memory of one pass or backup with everything it starts, in bytes.
pub(crate) const MEMORY: u64 = 256 * 1024 * 1024;

/// Pause before a group that could not be made is tried again: the reason may have gone.
const AGAIN: Duration = Duration::from_secs(600);

/// A group that is ready to be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// The `cgroup.procs` of each hierarchy.
    pub(crate) procs: Vec<PathBuf>,
}

/// The group as the settings want it, or why there is none.
#[derive(Debug)]
pub(crate) struct StatusGroup {
    mount: PathBuf,
    group: Option<Leaf>,
    problem: String,
    made_for: Option<(bool, u32)>,
    tried: Option<Instant>,
}

impl Default for StatusGroup {
    fn default() -> Self {
        Self::below(PathBuf::from(MOUNT))
    }
}

impl StatusGroup {
    fn below(mount: PathBuf) -> Self {
        Self {
            mount,
            group: None,
            problem: String::new(),
            made_for: None,
            tried: None,
        }
    }

    /// Makes the group if the settings have changed, if the group was removed, or if it could not be made some time ago. Logs a
    /// problem once. Without a group, passes run with lowered priority.
    pub(crate) fn keep(&mut self, wanted: bool, cpu_limit: u32, now: Instant) {
        let as_before = self.made_for == Some((wanted, cpu_limit));
        let waits = || {
            let tried = self.tried.map(|tried| now.saturating_duration_since(tried));
            self.problem.is_empty() || tried.is_some_and(|ago| ago < AGAIN)
        };
        if as_before && self.group.as_ref().map_or_else(waits, Leaf::is_present) {
            return;
        }
        self.made_for = Some((wanted, cpu_limit));
        self.tried = Some(now);
        self.group = None;
        let before = std::mem::take(&mut self.problem);
        if !wanted {
            return;
        }
        match Leaf::prepare_in(&self.mount, STATUS, cpu_limit) {
            Ok(group) => self.group = Some(group),
            Err(error) => {
                self.problem = format!("{error:#}");
                if self.problem != before {
                    tracing::warn!(
                        "status passes run with lowered priority instead of in a control group: {error:#}"
                    );
                }
            }
        }
    }

    /// The group, if there is one.
    pub(crate) fn joined(&self) -> Option<&Leaf> {
        self.group.as_ref()
    }

    /// Why there is none although there should be; empty otherwise.
    pub(crate) fn problem(&self) -> &str {
        &self.problem
    }
}

impl Leaf {
    fn is_present(&self) -> bool {
        self.procs.iter().all(|file| file.exists())
    }

    /// Makes the group of status passes, or sets its limits again, for a command that makes the same checks.
    ///
    /// # Errors
    /// As [`Leaf::for_backups`].
    pub(crate) fn for_status(cpu_limit: u32) -> Result<Self> {
        Self::prepare_in(Path::new(MOUNT), STATUS, cpu_limit)
    }

    /// Its paths with symbolic links resolved: with version 1, `cpu` may be a link.
    fn resolved(&self) -> Vec<PathBuf> {
        let resolve = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        self.procs.iter().map(resolve).collect()
    }

    /// Moves this process into it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn join(&self) -> Result<()> {
        join(&self.procs)
    }

    /// The `cgroup.procs` of the groups that this process would leave by joining.
    ///
    /// # Errors
    /// They cannot be found.
    pub(crate) fn current_groups(&self) -> Result<Vec<PathBuf>> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
        let (groups, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
        let backs = self.resolved().into_iter().map(|procs| {
            let back = current_group(&procs, &groups, &mounts).filter(|back| back.is_file());
            let shown = procs.display();
            back.with_context(|| format!("find the present control group before joining {shown}"))
        });
        backs.collect()
    }

    /// Makes the group of backups, or sets its limits again.
    ///
    /// # Errors
    /// The kernel or the delegation lacks what is needed; nothing is limited then.
    pub(crate) fn for_backups() -> Result<Self> {
        Self::prepare_in(Path::new(MOUNT), BACKUP, BACKUP_CPU)
    }

    /// `cpu_limit` is in percent of one CPU.
    fn prepare_in(mount: &Path, name: &str, cpu_limit: u32) -> Result<Self> {
        let quota = PERIOD / 100 * cpu_limit;
        if mount.join("cgroup.controllers").exists() {
            version_2(mount, name, quota)
        } else {
            version_1(mount, name, quota)
        }
    }
}

fn version_1(mount: &Path, name: &str, quota: u32) -> Result<Leaf> {
    let cpu = group(&mount.join("cpu"), name)?;
    write(&cpu.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
    write(&cpu.join("cpu.cfs_quota_us"), &quota.to_string())?;
    let memory = group(&mount.join("memory"), name)?;
    write(&memory.join("memory.limit_in_bytes"), &MEMORY.to_string())?;
    Ok(Leaf {
        procs: vec![cpu.join("cgroup.procs"), memory.join("cgroup.procs")],
    })
}

fn version_2(mount: &Path, name: &str, quota: u32) -> Result<Leaf> {
    let own = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .context("find our own control group in /proc/self/cgroup")?;
    // After an earlier call we are in `supervisor`.
    let unit = own.strip_suffix("/supervisor").unwrap_or(own);
    if !unit.ends_with(".service") {
        bail!(
            "use control groups: {own} is not the group of a service, and nothing is delegated to us"
        );
    }
    delegate_controllers(mount, Path::new(unit))?;
    let unit = mount.join(unit);
    let supervisor = unit.join("supervisor");
    make(&supervisor)?;
    write(&supervisor.join("cgroup.procs"), "0")?;
    enable(&unit)?;
    let leaf = group(&unit, name)?;
    write(&leaf.join("cpu.max"), &format!("{quota} {PERIOD}"))?;
    write(&leaf.join("memory.max"), &MEMORY.to_string())?;
    Ok(Leaf {
        procs: vec![leaf.join("cgroup.procs")],
    })
}

/// Makes every group above `unit` hand its controllers down. systemd does this for a unit with `Delegate=`; another service manager
/// may not, and without it the unit has no controllers for its leaves.
fn delegate_controllers(mount: &Path, unit: &Path) -> Result<()> {
    enable(mount)?;
    let mut group = mount.to_path_buf();
    for part in unit.parent().into_iter().flat_map(Path::components) {
        group.push(part);
        enable(&group)?;
    }
    Ok(())
}

/// Makes `group` hand down the controllers that it does not hand down yet. The group may belong to another service, so it is written
/// to only if a controller is missing.
fn enable(group: &Path) -> Result<()> {
    let path = group.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let missing: Vec<String> = CONTROLLERS
        .iter()
        .filter(|controller| !enabled.split_whitespace().any(|one| one == **controller))
        .map(|controller| format!("+{controller}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    write(&path, &missing.join(" "))
}

/// Moves this process, with all its threads, into the groups of these `cgroup.procs`.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn join(procs: &[PathBuf]) -> Result<()> {
    procs.iter().try_for_each(|file| write(file, "0"))
}

/// The `cgroup.procs` of the group in which this process is, in the hierarchy of `procs`, by `/proc/self/cgroup` and
/// `/proc/self/mountinfo`.
fn current_group(procs: &Path, groups: &str, mounts: &str) -> Option<PathBuf> {
    // The longest mount point is the hierarchy's own: mount point and root are the fifth field and the fourth.
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let root = Path::new(fields.next()?);
        let point = Path::new(fields.next()?);
        let kind = line.split(" - ").nth(1)?.split(' ').next()?;
        (matches!(kind, "cgroup" | "cgroup2") && procs.starts_with(point)).then_some((point, root))
    });
    let (point, root) = mounted.max_by_key(|(point, _)| point.as_os_str().len())?;
    let name = point.file_name()?.to_str()?;
    let own = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let its = match Path::new(MOUNT) == point {
            true => controllers.is_empty(),
            false => controllers
                .split(',')
                .any(|one| name.split(',').any(|part| part == one)),
        };
        its.then_some(path)
    })?;
    let below = Path::new(own).strip_prefix(root).ok()?;
    let upwards = |part| matches!(part, std::path::Component::ParentDir);
    (!below.components().any(upwards)).then(|| point.join(below).join("cgroup.procs"))
}

/// Removes the groups of version 1 that have no process. A command that only made checks leaves its group behind, because nodeletd may
/// need the group; nodeletd makes a missing group again. With version 2 the groups are removed with their unit or scope.
pub(crate) fn remove_unused(mount: impl AsRef<Path>) {
    for (hierarchy, name) in ["cpu", "memory"]
        .iter()
        .flat_map(|hierarchy| [STATUS, BACKUP].map(|name| (hierarchy, name)))
    {
        let group = mount.as_ref().join(hierarchy).join(name);
        // The kernel refuses if a process is in it.
        match fs::remove_dir(&group) {
            Err(error) if !matches!(error.kind(), NotFound | NotADirectory | ResourceBusy) => {
                tracing::warn!("remove the control group {}: {error}", group.display());
            }
            _ => {}
        }
    }
}

/// The group below `parent`, made if it is not there.
fn group(parent: &Path, name: &str) -> Result<PathBuf> {
    if !parent.is_dir() {
        bail!("make a control group: there is no {}", parent.display());
    }
    let path = parent.join(name);
    make(&path)?;
    Ok(path)
}

fn make(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("make the control group {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("write {value} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_has_a_group_in_two_hierarchies() {
        let mount = tempfile::tempdir().expect("a directory");
        for hierarchy in ["cpu", "memory"] {
            fs::create_dir(mount.path().join(hierarchy)).expect("it is made");
        }
        let made = Leaf::prepare_in(mount.path(), STATUS, 40).expect("it is made");
        // Twice: the daemon starts more than once in a host's life.
        assert_eq!(
            Leaf::prepare_in(mount.path(), STATUS, 40).expect("again"),
            made
        );
        let cpu = mount.path().join("cpu").join(STATUS);
        let read = |name: &str| fs::read_to_string(cpu.join(name)).expect("it is written");
        assert_eq!(read("cpu.cfs_quota_us"), "40000");
        assert_eq!(read("cpu.cfs_period_us"), "100000");
        assert_eq!(made.procs.len(), 2);
    }

    #[test]
    fn a_clean_removes_groups_of_version_1_and_nothing_where_there_are_none() {
        let mount = tempfile::tempdir().expect("a directory");
        remove_unused(mount.path());
        for path in [
            "cpu/pf9-kube-status",
            "memory/pf9-etcd-backup",
            "cpu/theirs",
        ] {
            fs::create_dir_all(mount.path().join(path)).expect("it is made");
        }
        remove_unused(mount.path());
        let is_present = |path: &str| mount.path().join(path).exists();
        assert!(!is_present("cpu/pf9-kube-status") && !is_present("memory/pf9-etcd-backup"));
        assert!(is_present("cpu/theirs"));
    }

    #[test]
    fn parent_groups_delegate_missing_controllers() {
        let mount = tempfile::tempdir().expect("a directory");
        let unit = Path::new("system.slice/x.service");
        fs::create_dir_all(mount.path().join(unit)).expect("it is made");
        let file = |group: &str| mount.path().join(group).join("cgroup.subtree_control");
        fs::write(file(""), "cpuset cpu io memory pids\n").expect("it is written");
        fs::write(file("system.slice"), "memory pids\n").expect("it is written");
        delegate_controllers(mount.path(), unit).expect("they hand down");
        let read = |group: &str| fs::read_to_string(file(group)).expect("it is there");
        assert_eq!(read(""), "cpuset cpu io memory pids\n");
        assert_eq!(read("system.slice"), "+cpu");
    }

    #[test]
    fn a_group_that_could_not_be_made_is_made_later() {
        let mount = tempfile::tempdir().expect("a directory");
        let mut group = StatusGroup::below(mount.path().to_path_buf());
        let began = Instant::now();
        group.keep(true, 40, began);
        assert!(group.joined().is_none() && !group.problem().is_empty());
        for hierarchy in ["cpu", "memory"] {
            fs::create_dir(mount.path().join(hierarchy)).expect("it is made");
        }
        group.keep(true, 40, began + AGAIN / 2);
        assert!(group.joined().is_none(), "not at every pass");
        group.keep(true, 40, began + AGAIN);
        assert!(group.joined().is_some() && group.problem().is_empty());
    }

    #[test]
    fn a_missing_controller_is_reported() {
        let mount = tempfile::tempdir().expect("a directory");
        let error = Leaf::prepare_in(mount.path(), BACKUP, 40).expect_err("there is no cpu");
        assert!(error.to_string().contains("cpu"), "{error:#}");
    }

    #[test]
    fn the_group_that_is_left_is_found_again() {
        let version_1 = "4:memory:/docker/abc/system.slice\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n0::/\n";
        let mounts =
            "30 29 0:26 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 29 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
29 28 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n";
        let leaf = |below: &str| {
            Path::new(MOUNT)
                .join(below)
                .join("pf9-kube-status/cgroup.procs")
        };
        let back = |below: &str| current_group(&leaf(below), version_1, mounts);
        let memory = Path::new(MOUNT).join("memory/system.slice/cgroup.procs");
        assert_eq!(back("memory"), Some(memory));
        let cpu = Path::new(MOUNT).join("cpu,cpuacct/cgroup.procs");
        assert_eq!(back("cpu,cpuacct"), Some(cpu));
        assert_eq!(back("pids"), None);
        let version_2 = "0::/system.slice/pf9-nodeletd.service/supervisor\n";
        let mounts = "29 28 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let unit = Path::new(MOUNT).join("system.slice/pf9-nodeletd.service");
        assert_eq!(
            current_group(
                &leaf("system.slice/pf9-nodeletd.service"),
                version_2,
                mounts
            ),
            Some(unit.join("supervisor/cgroup.procs"))
        );
        let outside = "0::/../elsewhere\n";
        assert_eq!(current_group(&leaf("x"), outside, mounts), None);
    }
}
