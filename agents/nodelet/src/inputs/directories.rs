//! Refuses settings that name an unsuitable directory: one that users other than root could replace, or a place where the host has
//! something else, for example a file.
//!
//! An apply would find this only in the phase that uses the directory, or never. Not here: what the host has at the place of etcd's
//! directories, because they have a precondition for that (`engine::facts`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use engine::env::{KubeEnv, SettingValue, Source};
use engine::facts::Facts;
use engine::host::live::LiveHost;
use engine::host::{Files, HostResult, changeable_way_to};
use engine::model::count;

use crate::output::problem::{Problem, Refused};

/// Timeout of checking the directories that settings name.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Settings whose directory may be missing, but must not be something else, such as a file. The directories of etcd have a precondition
/// instead.
const DIRECTORIES: [&str; 3] = ["API_SERVER_EXTRA_DIR", "DOCKER_ROOT", "USER_IMAGES_DIR"];

/// Refuses a directory from the settings if a user other than root could replace it: root creates these directories, sets their owner,
/// and empties them. A status pass skips this check, because every command that nodeletd then runs makes it.
pub(super) async fn files_are_in_directories_of_root(
    settings: &KubeEnv,
    host: &LiveHost,
) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        return Ok(());
    }
    let looking = directory_problems(settings, host);
    let problems = tokio::time::timeout(TIMEOUT, looking)
        .await
        .context("look at the directories that settings name within 30s")?
        .context("look at the directories that settings name")?;
    refuse_directories(problems)
}

/// Refuses settings if their directories have problems.
pub(super) fn refuse_directories(problems: Vec<String>) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    bail!(Refused {
        what: format!(
            "use the directories that settings name: {}",
            count(problems.len(), "problem")
        ),
        items: problems.iter().map(|p| Problem::of_text(p)).collect(),
        problems,
    })
}

/// The problems of the paths to directories that settings name, one sentence each. Defaults are not checked: they are the role's own
/// directories.
async fn directory_problems(
    settings: &KubeEnv,
    files: &(dyn Files + Sync),
) -> HostResult<Vec<String>> {
    let paths = settings.paths();
    let mut problems = Vec::new();
    for (name, value) in settings.iter() {
        let (SettingValue::Text(path), Some(source)) = (value, settings.source_of(name)) else {
            continue;
        };
        if matches!(source, Source::Default) || !paths.contains(path) {
            continue;
        }
        if let Some(problem) = changeable_way_to(files, Path::new(path)).await? {
            problems.push(format!(
                "{name}: users other than root can replace {path}: {problem}, or name another directory\n"
            ));
        }
    }
    Ok(problems)
}

/// The directories of settings at whose path the host has something else, one sentence each. A link may lead to a directory.
pub(super) fn taken_directories(settings: &KubeEnv, facts: &Facts) -> Vec<String> {
    let mut problems = Vec::new();
    for name in DIRECTORIES {
        let Some(SettingValue::Text(path)) = settings.get(name) else {
            continue;
        };
        let disk = facts.disks.iter().find(|disk| disk.path == *path);
        let obstacle = disk.and_then(|disk| disk.taken_by.as_ref());
        let Some(what) = obstacle.filter(|obstacle| !obstacle.may_lead_to_directory()) else {
            continue;
        };
        let place = settings.source_of(name).and_then(Source::place);
        let place = place.map_or_else(String::new, |place| format!("{place}: "));
        problems.push(format!(
            "{place}{name}: {path} is not a directory: {what} is there; name another directory, or move away what is there\n"
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use engine::facts::{Disk, ObstacleKind};
    use engine::host::Attributes;
    use engine::host::fake::FakeHost;

    use super::*;

    /// The owner of the parent directory decides what is at the path when root uses it.
    #[tokio::test]
    async fn directories_of_settings_lie_where_only_root_can_exchange_them() {
        let named = |name: &str, path: &str| {
            let pairs = [("ROLE", "master"), ("MASTER_IP", "10.0.0.1"), (name, path)];
            let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
            KubeEnv::from_pairs(pairs).expect("good settings")
        };
        let host = FakeHost::new().with_directory("/srv/u");
        let theirs = Attributes {
            uid: 1000,
            ..Attributes::root(0o755)
        };
        for name in [
            "API_SERVER_EXTRA_DIR",
            "USER_IMAGES_DIR",
            "ETCD_BACKUP_DIR",
            "ETCD_DATA_DIR",
        ] {
            let settings = named(name, "/srv/u/place");
            host.with_world_mut(|world| world.own(Path::new("/srv/u"), Attributes::root(0o755)));
            let fine = directory_problems(&settings, &host).await;
            assert_eq!(fine.expect("the host answers"), [""; 0]);
            host.with_world_mut(|world| world.own(Path::new("/srv/u"), theirs));
            let told = directory_problems(&settings, &host).await;
            let told = told.expect("the host answers").concat();
            let parts = [name, "/srv/u/place", "/srv/u: it belongs to user 1000"];
            assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        }
        // The role's own directories are not chosen by the operator, so they are not checked.
        host.with_world_mut(|world| world.file("/var/opt/pf9/a", ""));
        host.with_world_mut(|world| world.own(Path::new("/var/opt/pf9"), theirs));
        let told = directory_problems(&named("ETCD_BACKUP_DIR", "/mnt/backups"), &host).await;
        assert_eq!(told.expect("the host answers"), [""; 0]);
    }

    #[test]
    fn a_file_at_the_place_of_a_directory_is_reported_with_its_line() {
        let text = b"ROLE: master\nMASTER_IP: 10.0.0.1\nUSER_IMAGES_DIR: /etc/shadow\n";
        let files = vec![("settings.yaml".to_owned(), text.to_vec())];
        let settings = KubeEnv::resolve(files).expect("good settings");
        let told = |taken_by: Option<ObstacleKind>| {
            let mut facts = Facts::nothing_about("h");
            facts.disks.push(Disk {
                path: "/etc/shadow".to_owned(),
                free: 1,
                total: 1,
                filesystem: None,
                read_only: false,
                mode: None,
                taken_by: taken_by.map(Into::into),
            });
            taken_directories(&settings, &facts).concat()
        };
        for fine in [None, Some(ObstacleKind::Link)] {
            assert_eq!(told(fine), "", "{fine:?}");
        }
        for (kind, what) in [
            (ObstacleKind::File, "a file"),
            (ObstacleKind::Socket, "a socket"),
            (ObstacleKind::Device, "a device"),
        ] {
            assert_eq!(
                told(Some(kind)),
                format!(
                    "settings.yaml:3:1: USER_IMAGES_DIR: /etc/shadow is not a directory: {what} is there; \
                     name another directory, or move away what is there\n"
                )
            );
        }
    }
}
