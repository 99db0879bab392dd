//! Reads the settings of this host: the files that operators write, and the merged copy of the last good ones.
//!
//! Finds the files of a settings directory, reads them with a limit, and adds this host's own overrides. Not here: how files are merged
//! and values checked (`engine::env`), and how the last good settings are kept (`last_good_settings`). Start with [`settings`].

use std::path::Path;

use anyhow::{Result, bail};
use engine::env::{EnvError, KubeEnv};
use engine::host::live::LiveHost;
use engine::host::{EntryKind, Files as _};
use engine::model::count;

use crate::cli::RoleArgs;
use crate::output::problem::{Problem, Refused};

/// Wins over the settings directory where it is present.
const OVERRIDE: &str = "/etc/pf9/kube_override.env";
/// Bound on a settings file.
const LIMIT: u64 = 1024 * 1024;
/// Most files in a settings directory.
const FILES: usize = 64;

/// Reads the settings of this host that `args` names.
pub(crate) async fn settings(args: &RoleArgs, host: &LiveHost) -> Result<KubeEnv> {
    if args.merged_settings {
        return saved_settings(&args.config, host).await;
    }
    settings_in(&args.config, true, host).await
}

/// Reads the last good settings, which a status pass has merged and saved.
async fn saved_settings(path: &Path, host: &LiveHost) -> Result<KubeEnv> {
    let Some(content) = host.read(path, LIMIT).await? else {
        bail!(
            "read the last good settings: {} is not there; a status pass with good settings writes it",
            path.display()
        );
    };
    KubeEnv::resolve_saved(&path.display().to_string(), content)
        .map_err(|problems| refused_settings(path, &problems).into())
}

/// Reads the settings at this path; `with_override` also reads this host's own overrides of them.
pub(super) async fn settings_in(
    path: &Path,
    with_override: bool,
    host: &LiveHost,
) -> Result<KubeEnv> {
    let mut paths = Vec::new();
    match host.entry(path).await?.map(|entry| entry.kind) {
        None => bail!(
            "read settings: {} is not there; write it, or name another with --config",
            path.display()
        ),
        Some(EntryKind::Directory) => {
            for name in host.list(path).await? {
                match settings_file(&name) {
                    Some(true) => paths.push(path.join(name)),
                    Some(false) => bail!(
                        "read settings: the extension of {} must be lower-case `.yaml` or `.yml`; rename it, or move it away",
                        path.join(name).display()
                    ),
                    None => {}
                }
            }
        }
        Some(_) => paths.push(path.to_path_buf()),
    }
    if paths.len() > FILES {
        bail!(
            "read settings: {} holds more than {FILES} files",
            path.display()
        );
    }
    let mut files = Vec::new();
    for path in paths {
        let Some(content) = host.read(&path, LIMIT).await? else {
            let entry = host.entry(&path).await?;
            if let Some(EntryKind::Symlink(target)) = entry.map(|entry| entry.kind) {
                bail!(
                    "read settings: {} is a link to {target}, which is not there; bring that file back or remove the link",
                    path.display()
                );
            }
            bail!("read settings: {} was removed meanwhile", path.display());
        };
        files.push((path.display().to_string(), content));
    }
    let overrides = if with_override {
        host.read(Path::new(OVERRIDE), LIMIT)
            .await?
            .map(|content| (OVERRIDE.to_owned(), content))
    } else {
        None
    };
    KubeEnv::resolve_with_override(files, overrides)
        .map_err(|problems| refused_settings(path, &problems).into())
}

/// The refusal of the settings at this path, with these problems.
fn refused_settings(path: &Path, problems: &[EnvError]) -> Refused {
    Refused {
        what: format!(
            "use the settings in {}: {}",
            path.display(),
            count(problems.len(), "problem")
        ),
        items: problems.iter().map(Problem::from).collect(),
        problems: problems.iter().map(|p| format!("{p}\n")).collect(),
    }
}

/// Whether a file of a settings directory is read: true for settings, false for a file that was probably meant as settings but has
/// capitals in its extension. Hidden files are ignored, as by a shell's `*.yaml`: editors leave such copies.
fn settings_file(name: &str) -> Option<bool> {
    let (stem, extension) = name.rsplit_once('.')?;
    if stem.starts_with('.') || stem.is_empty() {
        return None;
    }
    match extension {
        "yaml" | "yml" => Some(true),
        _ if extension.eq_ignore_ascii_case("yaml") || extension.eq_ignore_ascii_case("yml") => {
            Some(false)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An update of the program must not leave a running host without settings.
    #[tokio::test]
    async fn the_last_good_settings_are_not_refused_by_a_new_rule() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = directory.path().join("settings.yaml");
        let half_an_account = "MASTER_IP: 192.0.2.1\nDOCKERHUB_PASSWORD: secret\n";
        std::fs::write(&config, half_an_account).expect("it is written");
        let read = async |merged_settings: bool| {
            let args = RoleArgs {
                role: "r".to_owned(),
                config: config.clone(),
                json: false,
                merged_settings,
            };
            settings(&args, &LiveHost::new()).await
        };
        read(true).await.expect("they were in force");
        let refused = read(false).await.expect_err("half an account");
        assert!(refused.is::<Refused>(), "{refused:#}");
    }
}
