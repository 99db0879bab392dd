//! What nodelet keeps on disk, as a pass finds it and keeps it: the ledger, backups, copies of what is good.

use std::path::Path;

use engine::env::KubeEnv;
use engine::exec::{AnotherRole, PhaseHealth, Recording, Runner, Status};
use engine::host::Host;
use engine::host::live::LiveHost;
use engine::kubernetes::etcd_backup::ClusterIdentity;
use engine::ledger::Ledger;
use engine::model::STATE;
use engine::resource::ResourceResult;

use super::timeouts::TIMEOUT;
use crate::cli::RoleArgs;
use crate::etcd::{self, Backups};
use crate::inputs::identity::Identity;
use crate::inputs::{Inputs, Role, last_good_settings, private_state};
use crate::process::lock::Lock;

/// Why the ledger cannot be relied on, and what else is wrong with it; each is empty if nothing is. Lost copies beside the ledger are
/// written again.
pub(super) async fn ledger(runner: &Runner<'_>) -> (String, String) {
    let problem_of = |error: &(dyn std::error::Error + 'static)| {
        format!("could not {}", engine::model::chain(error).join(": "))
    };
    if let Some(lost) = runner.lost_ledger().await {
        return (problem_of(&lost), String::new());
    }
    match Ledger::are_copies_due(runner.host).await {
        // A run writes them itself, in the middle of its work. Two writers would take each other's temporary file away, and an older tip
        // could replace a newer one.
        Ok(true) => match Lock::take_for_pass() {
            Ok(Some(_held_until_the_process_ends)) => {
                match Ledger::renew_copies(runner.host).await {
                    Ok(true) => tracing::warn!(
                        "ledger.tip or ledger.backup.jsonl was lost or damaged; both are written again"
                    ),
                    Ok(false) => {}
                    Err(error) => return (String::new(), problem_of(&error)),
                }
            }
            Ok(None) => {}
            Err(error) => return (String::new(), format!("could not {error:#}")),
        },
        Ok(false) => {}
        Err(error) => return (String::new(), problem_of(&error)),
    }
    match Ledger::damaged_contents(runner.host).await {
        Ok(problems) => (String::new(), problems.join("; ")),
        Err(error) => (String::new(), problem_of(&error)),
    }
}

/// Sets back mode and owner of our own files.
pub(super) fn protect_state() {
    match private_state::protect(Path::new(STATE)) {
        Ok(changed) => {
            for path in changed {
                let path = path.display();
                tracing::warn!(
                    "mode and owner of {path} are set back: only root may have access to it"
                );
            }
        }
        Err(error) => tracing::warn!("could not protect {STATE}: {error}"),
    }
}

/// Whether this host needs a backup before the next time of the schedule: it has none, or the one that it has left to another master is soon too
/// old. False if the directory cannot be read or does not answer: the phase has a condition for that.
pub(super) async fn lacks_backup(settings: &KubeEnv) -> bool {
    match Backups::of(settings) {
        Ok(backups) => needs_backup(&LiveHost::new(), backups).await,
        Err(_) => false,
    }
}

async fn needs_backup(host: &dyn Host, backups: Backups) -> bool {
    let must_ask_again = etcd::must_ask_again(host, &backups).await;
    if !must_ask_again && etcd::left(host, &backups).await.is_some() {
        return false;
    }
    let now = host.now();
    let work = tokio::task::spawn_blocking(move || {
        let cluster = ClusterIdentity::Id(&backups.cluster_id);
        backups.enabled
            && etcd::stored(&backups.directory).is_ok_and(|stored| match must_ask_again {
                true => backups
                    .newest(&stored, None, now)
                    .is_none_or(|(_, age)| age >= backups.max_age),
                false => !stored.iter().any(|one| one.is_verified_of(cluster)),
            })
    });
    matches!(tokio::time::timeout(TIMEOUT, work).await, Ok(Ok(true)))
}

/// Whether the ledger says that no other role than that of the plan is on the host. If the ledger cannot be read, this is not known, and a
/// condition reports it.
pub(super) async fn has_no_other_role(inputs: &Inputs, host: &LiveHost) -> bool {
    let ignored_events = Recording::default();
    let runner = inputs.runner(host, &ignored_events);
    is_certainly_none(&runner.another_role().await)
}

/// Whether it is known that there is no other role.
fn is_certainly_none(another: &ResourceResult<Option<AnotherRole>>) -> bool {
    matches!(another, Ok(None))
}

/// Saves the settings and the role in use as the last good ones, for when the files become wrong.
pub(super) fn keep(args: &RoleArgs, settings: &KubeEnv, inputs: &Inputs) {
    if let Err(error) = last_good_settings::keep(settings) {
        tracing::warn!("could not save the settings as the last good ones: {error:#}");
    }
    if let Role::Installed(role) = &inputs.role
        && let Err(error) = last_good_settings::keep_role(&args.role, role)
    {
        tracing::warn!("could not save the role as the last good one: {error:#}");
    }
}

/// Writes a lost identity again. Called right after the role was seen on the host, because a `nodelet clean` may be removing it.
pub(super) fn remember(observed: &Identity, health: &[PhaseHealth]) {
    let well = health.iter().all(|phase| phase.status() == Status::True);
    let renewed = Identity::renewed(Identity::recorded().as_ref(), observed, well);
    if let Some(Err(error)) = renewed.map(|renewed| renewed.write()) {
        tracing::warn!("{}: {error:#}", Identity::NOT_NOTED);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine::host::Clock as _;
    use engine::host::fake::FakeHost;
    use engine::kubernetes::etcd_backup::LeftBackup;
    use engine::resource::ResourceError;

    use super::*;
    use crate::etcd::BackupMasters;

    /// With `ETCD_BACKUP_MASTERS` `one`: the note is followed by a question before it has ended.
    #[tokio::test]
    async fn a_backup_that_was_left_to_another_master_is_soon_asked_for_again() {
        const HOUR: Duration = Duration::from_secs(3600);
        let directory = tempfile::tempdir().expect("a directory");
        let backups = |masters| Backups {
            enabled: true,
            masters,
            schedule: "@daily".to_owned(),
            directory: directory.path().to_owned(),
            count: 3,
            keep: 168 * HOUR,
            max_age: 26 * HOUR,
            image: "etcd:3".to_owned(),
            cluster_id: "lab".to_owned(),
        };
        let host = FakeHost::new().with_directory(STATE);
        let needs = async || needs_backup(&host, backups(BackupMasters::One)).await;
        assert!(needs().await, "it has none");
        let note = LeftBackup::new(host.now(), "m-1", "lab");
        etcd::note_left(&host, &note).await.expect("it is noted");
        assert!(!needs().await);
        host.with_world_mut(|world| world.advance(25 * HOUR));
        assert!(
            !needs().await,
            "the other master may just be taking its next one"
        );
        host.with_world_mut(|world| world.advance(HOUR / 2));
        assert!(
            etcd::left(&host, &backups(BackupMasters::One))
                .await
                .is_some()
        );
        assert!(needs().await, "the note still counts, but not for long");
        // An own backup that is old does not count either.
        let own = |taken| {
            let taken = humantime::format_rfc3339_seconds(taken);
            let manifest = format!(
                r#"{{"version":1,"taken":"{taken}","verified":"{taken}","revision":5,"keys":3,"content":{{"size":1,"sha256":""}},"cluster":"u","cluster_id":"lab","host":"h","versions":{{"etcd":"3.4.23","nodelet":"0","image":"etcd:3"}}}}"#
            );
            std::fs::write(directory.path().join("etcd-1.db"), "x").expect("written");
            std::fs::write(directory.path().join("etcd-1.json"), manifest).expect("written");
        };
        own(host.now() - 27 * HOUR);
        assert!(needs().await, "its own backup is too old");
        own(host.now() - HOUR);
        assert!(!needs().await, "its own backup is young");
    }

    #[test]
    fn an_unreadable_ledger_does_not_rule_out_another_role() {
        let another = AnotherRole {
            installed_role: "a 1".to_owned(),
            planned: "b 1".to_owned(),
            removed: Vec::new(),
        };
        let unreadable = ResourceError::Missing {
            what: "read the ledger".to_owned(),
        };
        assert!(is_certainly_none(&Ok(None)));
        assert!(!is_certainly_none(&Ok(Some(another))));
        assert!(!is_certainly_none(&Err(unreadable)));
    }
}
