//! What no step may make or change: files in the kernel's own trees, and what belongs to nodelet itself.
//!
//! Settings are held to the same lists (`env::rules`). Words that only read a path may name these paths.

use std::path::{Path, PathBuf};

use crate::model::{Diagnostic, KERNEL_TREES, OWN_PATHS};
use crate::resource::Spec;
use crate::script::recorder::Call;

/// The unit of nodeletd. The directory of its drop-ins has the same name with `.d`.
const UNIT: &str = "pf9-nodeletd.service";

/// A finding if a step would make or change what belongs to the kernel or to nodelet.
pub(in crate::script::lower) fn protected(
    call: &Call,
    spec: &Spec,
    is_absent: bool,
) -> Option<Diagnostic> {
    match spec {
        // A container may need the kernel's trees, but it cannot replace what nodelet has written.
        Spec::Container(container) => {
            let writable = container.mounts.iter().filter(|mount| !mount.read_only);
            let mut sources = writable.map(|mount| without_link(&mount.source));
            return sources.find_map(|source| of_nodelet(call, &source, false));
        }
        Spec::Service(service) if service.unit == UNIT => return Some(daemon(call)),
        _ => {}
    }
    let path = without_link(spec.properties().path?);
    // A directory whose content stays may contain a path of nodelet, as `/etc/pf9` does.
    let with_content = match spec {
        Spec::Directory(directory) => directory.exclusive || is_absent,
        _ => true,
    };
    of_kernel(call, &path).or_else(|| of_nodelet(call, &path, with_content))
}

/// A path without the link `/var/run` of the base system, which leads to `/run`.
fn without_link(path: &Path) -> PathBuf {
    match path.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => path.to_path_buf(),
    }
}

/// A finding for a path in one of the kernel's trees.
fn of_kernel(call: &Call, path: &Path) -> Option<Diagnostic> {
    let tree = KERNEL_TREES.iter().find(|tree| path.starts_with(tree))?;
    let message = format!(
        "`{}` lies in {tree}, which belongs to the kernel: a role can make nothing there that stays",
        path.display()
    );
    let help = match setting(path) {
        Some(key) => format!("write sysctl({key:?}, \"…\"), which nodelet can also set back"),
        None => "name a path outside of /dev, /proc and /sys; `sysctl(…)` changes the settings in /proc/sys".to_owned(),
    };
    Some(Diagnostic::new("P0331", call.span.clone(), message).help(help))
}

/// The key of the kernel setting at a path. None if a name in it has a dot, which would be read as a separator.
fn setting(path: &Path) -> Option<String> {
    let below = path.strip_prefix("/proc/sys").ok()?.to_str()?;
    (!below.is_empty() && !below.contains('.')).then(|| below.replace('/', "."))
}

/// A finding for a path of nodelet itself, and for one that contains such a path if the step also replaces or removes its content.
fn of_nodelet(call: &Call, path: &Path, with_content: bool) -> Option<Diagnostic> {
    let is_unit = |name: &str| name == UNIT || name.strip_suffix(".d") == Some(UNIT);
    if path.iter().filter_map(|name| name.to_str()).any(is_unit) {
        return Some(daemon(call));
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
        let own = inside.next().filter(|_| with_content)?;
        (
            format!("`{shown}` contains {own}, which belongs to nodelet itself"),
            "name a directory that contains nothing of nodelet: the step would replace or remove all that is in this one",
        )
    };
    Some(Diagnostic::new("P0332", call.span.clone(), message).help(help))
}

/// A finding for a step about nodeletd.
fn daemon(call: &Call) -> Diagnostic {
    let message = format!("`{UNIT}` runs nodelet itself, so a role cannot change it");
    Diagnostic::new("P0332", call.span.clone(), message).help(
        "remove the step: the package of nodelet brings this unit, and an operator starts and stops it with `systemctl`",
    )
}
