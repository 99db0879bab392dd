//! What no step may make or change: files in the kernel's own trees, and what belongs to nodelet itself.
//!
//! The same lists hold for settings (`env::rules`). Words that only read a path may name these paths.

use std::path::Path;

use crate::model::{Diagnostic, KERNEL_TREES, OWN_PATHS, SysctlKey, resolve_var_run};
use crate::resource::Spec;
use crate::script::recorder::Call;

/// The unit of nodeletd. The directory of its drop-ins has the same name with `.d`.
const UNIT: &str = "pf9-nodeletd.service";

/// Help for a step that replaces or removes the content of a directory.
const NAME_ANOTHER: &str = "name a directory that contains nothing of nodelet: the step would replace or remove everything in this directory";
/// Help for a container that could write to a directory.
const MOUNT_ANOTHER: &str =
    "mount a directory that contains nothing of nodelet, or mount this one as read-only";

/// A finding if a step would make or change what belongs to the kernel or to nodelet.
pub(in crate::script::lower) fn protected(
    call: &Call,
    spec: &Spec,
    is_absent: bool,
) -> Option<Diagnostic> {
    // A container may need the kernel's trees, but it may not write to what belongs to nodelet.
    if let Spec::Container(container) = spec {
        let writable = container.mounts.iter().filter(|mount| !mount.read_only);
        let mut sources = writable.map(|mount| resolve_var_run(&mount.source));
        return sources.find_map(|source| {
            // A container that changes the packet filter needs the lock of iptables in /run. What nodelet has there ends with the boot.
            let about_content = (source != Path::new("/run")).then_some(MOUNT_ANOTHER);
            of_nodelet(call, &source, about_content)
        });
    }
    if let Spec::Service(service) = spec
        && service.unit == UNIT
    {
        return Some(of_unit(call));
    }
    let path = resolve_var_run(spec.properties().path?);
    // A directory whose content stays may contain a path of nodelet, as `/etc/pf9` does.
    let keeps_content =
        matches!(spec, Spec::Directory(directory) if !directory.exclusive && !is_absent);
    let about_content = (!keeps_content).then_some(NAME_ANOTHER);
    of_kernel(call, &path).or_else(|| of_nodelet(call, &path, about_content))
}

/// A finding for a path in one of the kernel's trees.
fn of_kernel(call: &Call, path: &Path) -> Option<Diagnostic> {
    let tree = KERNEL_TREES.iter().find(|tree| path.starts_with(tree))?;
    let message = format!(
        "`{}` lies in {tree}, which belongs to the kernel, so a role cannot make anything permanent there",
        path.display()
    );
    let help = match sysctl_key(path) {
        Some(key) => format!("write sysctl(\"{key}\", \"…\"), which nodelet can also set back"),
        None => "name a path outside of /dev, /proc and /sys; `sysctl(…)` changes the settings in /proc/sys".to_owned(),
    };
    Some(Diagnostic::new("P0331", call.span.clone(), message).help(help))
}

/// The key of the kernel setting at a path.
fn sysctl_key(path: &Path) -> Option<SysctlKey> {
    let below = path.strip_prefix("/proc/sys").ok()?.to_str()?;
    below.parse().ok()
}

/// A finding for a path of nodelet itself, and, with the help `about_content`, for one that contains such a path.
fn of_nodelet(call: &Call, path: &Path, about_content: Option<&str>) -> Option<Diagnostic> {
    let is_unit = |name: &str| name == UNIT || name.strip_suffix(".d") == Some(UNIT);
    if path.iter().filter_map(|name| name.to_str()).any(is_unit) {
        return Some(of_unit(call));
    }
    let shown = path.display();
    let (message, help) = if OWN_PATHS.iter().any(|own| path.starts_with(own)) {
        (
            format!("`{shown}` belongs to nodelet itself, so a role cannot make or change it"),
            "name another path: nodelet needs its own files to undo what the role changes",
        )
    } else {
        let mut inside = OWN_PATHS
            .iter()
            .filter(|own| Path::new(own).starts_with(path));
        let help = about_content?;
        let own = inside.next()?;
        (
            format!("`{shown}` contains {own}, which belongs to nodelet itself"),
            help,
        )
    };
    Some(Diagnostic::new("P0332", call.span.clone(), message).help(help))
}

/// A finding for a step about the unit of nodeletd.
fn of_unit(call: &Call) -> Diagnostic {
    let message = format!("`{UNIT}` runs nodelet itself, so a role cannot change it");
    Diagnostic::new("P0332", call.span.clone(), message).help(
        "remove the step: the package of nodelet installs this unit, and an operator starts and stops it with `systemctl`",
    )
}
