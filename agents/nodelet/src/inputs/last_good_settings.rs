//! Complete copies of the last good settings and of the last good role package. nodeletd uses them while the files that operators or
//! packages write are wrong.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use engine::env::{KubeEnv, SettingValue, Source};
use engine::host::live::LiveHost;
use engine::model::STATE;
use engine::model::old_records::{self, OldRecord};
use engine::role::RolePackage;
use serde::{Deserialize, Serialize};
use tokio::time::error::Elapsed;

use crate::cli::RoleArgs;
use crate::inputs::{Inputs, current};

/// Bound on the file.
const LIMIT: u64 = 1024 * 1024;

/// The file with the last good settings; for `--config`, together with `--merged-settings`.
pub(crate) fn path() -> PathBuf {
    PathBuf::from(STATE).join("settings.yaml")
}

/// Keeps these settings; does nothing if they are kept already. The file holds secrets, so only root can read it.
pub(crate) fn keep(settings: &KubeEnv) -> Result<()> {
    let text = render(settings);
    if daemon::files::read(&path(), LIMIT)
        .ok()
        .flatten()
        .as_deref()
        == Some(text.as_bytes())
    {
        return Ok(());
    }
    std::fs::create_dir_all(STATE).with_context(|| format!("make {STATE}"))?;
    daemon::files::replace(&path(), text.as_bytes(), 0o600)
}

/// Bound on the file with the role package: a thousand scripts and templates of usual size.
const ROLE_LIMIT: u64 = 32 * 1024 * 1024;

/// The last good role package, with the name or path by which it was requested. Its payload is not copied: it stays where it is
/// installed.
#[derive(Serialize, Deserialize)]
struct KeptRole<'a> {
    /// Of this format.
    version: u32,
    requested: Cow<'a, str>,
    role: Cow<'a, RolePackage>,
}

fn role_path() -> PathBuf {
    PathBuf::from(STATE).join("role.json")
}

/// Keeps this role package; does nothing if it is kept already. There are no secrets in it.
pub(crate) fn keep_role(requested: &str, role: &RolePackage) -> Result<()> {
    std::fs::create_dir_all(STATE).with_context(|| format!("make {STATE}"))?;
    keep_role_at(&role_path(), requested, role)
}

fn keep_role_at(path: &Path, requested: &str, role: &RolePackage) -> Result<()> {
    let kept = serde_json::to_vec(&KeptRole {
        version: 1,
        requested: Cow::Borrowed(requested),
        role: Cow::Borrowed(role),
    })?;
    let before = daemon::files::read(path, ROLE_LIMIT).ok().flatten();
    if before.as_deref() == Some(kept.as_slice()) {
        return Ok(());
    }
    daemon::files::replace(path, &kept, 0o600)
}

/// The last good role package, if it was requested by this name or path; `None` if there is no copy, or it cannot be read.
pub(crate) fn role(requested: &str) -> Option<RolePackage> {
    role_at(&role_path(), requested)
}

fn role_at(path: &Path, requested: &str) -> Option<RolePackage> {
    let kept = kept_at(path)?;
    (kept.requested == requested).then(|| kept.role.into_owned())
}

/// Whether the last good role package is the one of this name and named its checksums.
pub(crate) fn had_checksums(name: &str) -> bool {
    had_checksums_at(&role_path(), name)
}

fn had_checksums_at(path: &Path, name: &str) -> bool {
    kept_at(path).is_some_and(|kept| {
        kept.role.manifest.name == name && kept.role.manifest.checksums.is_some()
    })
}

fn kept_at(path: &Path) -> Option<KeptRole<'static>> {
    let content = daemon::files::read(path, ROLE_LIMIT).ok().flatten()?;
    let kept: KeptRole<'static> = old_records::read(OldRecord::LastGoodRole, &content).ok()?;
    (kept.version == 1).then_some(kept)
}

/// The settings that were set explicitly, as YAML. Defaults are left out: a new release may change them.
fn render(settings: &KubeEnv) -> String {
    let decided = settings
        .iter()
        .filter(|(name, _)| !matches!(settings.source_of(name), Some(Source::Default) | None));
    decided
        .map(|(name, value)| {
            let text = match value {
                SettingValue::Secret(secret) => secret.expose().to_owned(),
                value => value.to_string(),
            };
            // A JSON string is a YAML string that no reader takes for a number or a truth value.
            format!("{name}: {}\n", serde_json::Value::from(text))
        })
        .collect()
}

/// The last good settings, and the inputs planned from them.
///
/// # Errors
/// There are no last good settings, the role cannot be planned with them, or ([`Elapsed`]) gathering the facts of the host timed out.
pub(crate) async fn last_good(args: &RoleArgs, host: &LiveHost) -> Result<(KubeEnv, Inputs)> {
    let args = RoleArgs {
        role: args.role.clone(),
        config: path(),
        json: args.json,
        merged_settings: true,
    };
    current(&args, host).await
}

/// The same; `None` if there are no last good settings or they cannot be planned.
///
/// # Errors
/// Gathering the facts of the host timed out: it is not known then whether the last good settings can be planned.
pub(crate) async fn last_good_if_any(
    args: &RoleArgs,
    host: &LiveHost,
) -> Result<Option<(KubeEnv, Inputs)>> {
    known(last_good(args, host).await)
}

fn known<T>(last: Result<T>) -> Result<Option<T>> {
    match last {
        Ok(last) => Ok(Some(last)),
        Err(error) if error.is::<Elapsed>() => Err(error),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_too_busy_to_answer_does_not_lack_good_settings() {
        let wait = tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>());
        let late = wait.await.expect_err("it never ends");
        assert!(known::<()>(Err(late.into())).is_err());
        let lacking = anyhow::anyhow!("there is no file");
        assert_eq!(known::<()>(Err(lacking)).expect("that is known"), None);
        assert_eq!(known(Ok(1)).expect("it is there"), Some(1));
    }

    #[tokio::test]
    async fn a_kept_role_is_read_back_for_its_own_name() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let requested = repository.join("roles/pf9-kube").display().to_string();
        let role = RolePackage::load(&LiveHost::new(), &requested).await;
        let role = role.expect("the role");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("role.json");
        keep_role_at(&path, &requested, &role).expect("it is kept");
        let written = path.metadata().expect("it is there").modified();
        assert_eq!(role_at(&path, &requested).as_ref(), Some(&role));
        assert_eq!(role_at(&path, "another"), None);
        // A pass that finds it kept writes nothing.
        keep_role_at(&path, &requested, &role).expect("it is kept");
        let again = path.metadata().expect("it is there").modified();
        assert_eq!(written.ok(), again.ok());
        assert!(!had_checksums_at(&path, "pf9-kube"));
        let mut with_checksums = role;
        with_checksums.manifest.checksums = Some("00".repeat(32));
        keep_role_at(&path, &requested, &with_checksums).expect("it is kept");
        assert!(had_checksums_at(&path, "pf9-kube"));
        assert!(!had_checksums_at(&path, "another"));
        std::fs::write(&path, "{\"version\":1").expect("it is cut short");
        assert_eq!(role_at(&path, &requested), None);
        assert!(!had_checksums_at(&path, "pf9-kube"));
    }

    #[test]
    fn kept_settings_read_back_as_they_were() {
        let pairs = [
            ("ROLE", "master"),
            ("MASTER_IP", "10.0.0.1"),
            ("LOOP_INTERVAL", "90s"),
            ("API_SERVER_FLAGS", "--a=1,2,--b=\"x\""),
            ("DOCKERHUB_ID", "me"),
            ("DOCKERHUB_PASSWORD", "it's a \"secret\": #1"),
        ];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = KubeEnv::from_pairs(pairs).expect("good settings");
        let text = render(&settings);
        assert!(
            !text.contains("FULL_RETRY_COUNT"),
            "a default is not kept: {text}"
        );
        let file = ("settings.yaml".to_owned(), text.into_bytes());
        let again = KubeEnv::resolve(vec![file]).expect("they are read back");
        for ((name, was), (_, is)) in settings.iter().zip(again.iter()) {
            let expose = |value: &SettingValue| match value {
                SettingValue::Secret(secret) => secret.expose().to_owned(),
                value => value.to_string(),
            };
            assert_eq!(expose(was), expose(is), "{name}");
        }
    }
}
