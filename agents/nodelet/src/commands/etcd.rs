//! `nodelet etcd backup|list|verify|status`; `members` has `nodelet etcd members`.

mod members;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use chrono::SecondsFormat;
use engine::exec::room_for_backup;
use engine::host::live::LiveHost;
use engine::host::{ClusterAccess, Files as _};
use engine::kubernetes::etcd_backup::{SNAPSHOT, TIMER, too_old};
use engine::model::count;

use super::run::only_root;
use crate::cli::{EtcdBackupArgs, EtcdCommand, EtcdVerifyArgs, LOCAL_ADMIN, RoleArgs};
use crate::etcd::{self, AlarmKind, Backups, Etcd, Interrupted, Stored};
use crate::inputs;
use crate::nodeletd::timers::{self, Runs};
use crate::output::exit::Exit;
use crate::output::{error_report, say};
use crate::process::lock::Lock;
use crate::process::signals;

/// Runs in a row that other commands may end before the status reports a problem.
const PATIENT: u32 = 3;

pub(crate) async fn etcd(command: &EtcdCommand) -> Result<Exit> {
    match command {
        EtcdCommand::Backup(args) => backup(args).await,
        EtcdCommand::List(args) => list(args).await,
        EtcdCommand::Verify(args) => verify(args).await,
        EtcdCommand::Status(args) => status(args).await,
        EtcdCommand::Members(args) => members::members(args).await,
    }
}

async fn settings(args: &RoleArgs) -> Result<Backups> {
    only_root("look at etcd and its backups")?;
    Backups::of(&inputs::settings(args, &LiveHost::new()).await?)
}

async fn backup(args: &EtcdBackupArgs) -> Result<Exit> {
    let backups = settings(&args.role).await?;
    // Before the lock is taken: a command that wants the lock sends a signal to its owner.
    let cancel = signals::cancel_on_signal()?;
    let _lock = Lock::take("etcd backup")?;
    let host = LiveHost::new();
    let access = ClusterAccess::with(Path::new(LOCAL_ADMIN));
    if args.scheduled
        && let Some(left) = etcd::other_master(&host, &access, &backups).await?
    {
        etcd::note_left(&host, &left).await?;
        say(&format!("master {} takes the backup\n", left.master));
        return Ok(Exit::Ok);
    }
    let done = match etcd::backup(&backups, &cancel).await {
        Ok(done) => done,
        Err(error) if error.is::<Interrupted>() => {
            if args.scheduled
                && let Err(error) = etcd::give_up(&host, &access, &backups).await
            {
                tracing::warn!("could not {error:#}");
            }
            error_report::say(&format!("nodelet: could not {error}"));
            return Ok(Exit::Pending);
        }
        Err(error) => return Err(error),
    };
    if let Err(error) = etcd::forget_left(&host).await {
        tracing::warn!("could not {error:#}");
    }
    if let Some(taken) = done.manifest.taken()
        && let Err(error) = etcd::publish_taken(&host, &access, &backups, taken).await
    {
        tracing::warn!("could not {error:#}");
    }
    if args.role.json {
        let value = serde_json::json!({
            "name": done.name,
            "manifest": done.manifest,
            "removed": done.removed,
        });
        say(&format!("{value}\n"));
        return Ok(Exit::Ok);
    }
    let manifest = &done.manifest;
    say(&format!(
        "{}: verified, {} keys at revision {}, {} bytes\n",
        backups
            .directory
            .join(format!("{}.{SNAPSHOT}", done.name))
            .display(),
        manifest.keys,
        manifest.revision,
        manifest.content.size
    ));
    for name in &done.removed {
        say(&format!("removed {name}: there are newer ones\n"));
    }
    Ok(Exit::Ok)
}

async fn list(args: &RoleArgs) -> Result<Exit> {
    let backups = settings(args).await?;
    let all = etcd::stored(&backups.directory)?;
    if args.json {
        let values: Vec<_> = all
            .iter()
            .map(|one| {
                serde_json::json!({
                    "name": one.name,
                    "size": one.size,
                    "manifest": one.manifest.as_ref().ok(),
                    "problem": one.manifest.as_ref().err(),
                })
            })
            .collect();
        say(&format!("{:#}\n", serde_json::Value::from(values)));
    } else if all.is_empty() {
        say(&format!("no backups in {}\n", backups.directory.display()));
    } else {
        say(&all.iter().map(line).collect::<String>());
    }
    Ok(Exit::Ok)
}

fn line(one: &Stored) -> String {
    match &one.manifest {
        Ok(manifest) => format!(
            "{}  {:>10} bytes  {:>8} keys  revision {}  verified {}  cluster {}{}\n",
            one.name,
            one.size,
            manifest.keys,
            manifest.revision,
            manifest.verified,
            manifest.cluster,
            match manifest.encryption_keys.as_slice() {
                [] => String::new(),
                keys => format!("  needs encryption key {}", keys.join(" and ")),
            }
        ),
        Err(why) => format!(
            "{}  {:>10} bytes  not verified: {why}\n",
            one.name, one.size
        ),
    }
}

async fn verify(args: &EtcdVerifyArgs) -> Result<Exit> {
    let backups = settings(&args.role).await?;
    let cancel = signals::cancel_on_signal()?;
    let _lock = Lock::take("etcd verify")?;
    let mut bad = 0;
    let json = args.role.json;
    let verified = etcd::verify(&backups, &args.names, &cancel, |verdict| {
        bad += usize::from(!verdict.problems.is_empty());
        if json {
            say(&format!("{}\n", serde_json::json!(verdict)));
        } else if verdict.problems.is_empty() {
            say(&format!(
                "✓ {}: restores to what its manifest says\n",
                verdict.name
            ));
        } else {
            say(&format!(
                "✗ {}: {}\n",
                verdict.name,
                verdict.problems.join("; ")
            ));
        }
    });
    match verified.await {
        // An interrupted verification exits with 1, not with 2, which means that a backup is bad.
        Err(error) => Err(error),
        Ok(()) if bad > 0 => Ok(Exit::Pending),
        Ok(()) => Ok(Exit::Ok),
    }
}

/// The state of backups, collected once.
#[derive(Debug, serde::Serialize)]
struct EtcdBackupStatus {
    directory: String,
    enabled: bool,
    schedule: String,
    /// The master to which this host has left the last backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_to: Option<String>,
    /// When nodeletd takes the next one at the earliest, RFC 3339; unknown without its timer.
    next: Option<String>,
    /// Runs of the timer that failed since the last good one, and why the last one failed.
    failures: u32,
    reason: String,
    /// The newest verified backup.
    newest: Option<String>,
    /// Its age in seconds.
    age: Option<u64>,
    /// Size of etcd's store in bytes; unknown while etcd does not answer.
    store: Option<u64>,
    /// Free bytes where backups are kept.
    room: u64,
    /// What is wrong, each with the next thing to do.
    problems: Vec<String>,
}

async fn status(args: &RoleArgs) -> Result<Exit> {
    let backups = settings(args).await?;
    let all = etcd::stored(&backups.directory)?;
    let now = SystemTime::now();
    let (etcd, silence) = match ask().await {
        Ok(etcd) => (Some(etcd), None),
        Err(error) => (
            None,
            Some(format!(
                "etcd does not report its status: could not {error:#}"
            )),
        ),
    };
    let uid = etcd.as_ref().and_then(|etcd| etcd.cluster.as_deref());
    let newest = backups.newest(&all, uid, now);
    let age = newest.map(|(_, age)| age);
    let store = etcd.as_ref().map(|etcd| etcd.size);
    let host = LiveHost::new();
    let left = etcd::left(&host, &backups).await;
    let mut problems = Vec::new();
    if backups.enabled && left.is_none() {
        problems.extend(too_old(age, backups.max_age, &backups.directory));
    }
    if let Some(store) = store {
        problems.extend(room_for_backup(&host, &backups.directory, store).await?);
    }
    problems.extend(etcd.into_iter().flat_map(|etcd| etcd.alarms));
    problems.extend(silence);
    let room = host.space(&backups.directory).await?.free;
    let runs = timers::recorded(TIMER);
    if runs.failures > 0 {
        problems.push(format!(
            "the timer's last run failed ({} in a row): {}",
            runs.failures, runs.reason
        ));
    }
    problems.extend(preempted(&runs, age.and_then(|age| now.checked_sub(age))));
    let status = EtcdBackupStatus {
        directory: backups.directory.display().to_string(),
        enabled: backups.enabled,
        schedule: backups.schedule.clone(),
        left_to: left.map(|left| left.master),
        next: timers::next(TIMER).map(|next| next.to_rfc3339_opts(SecondsFormat::Secs, true)),
        failures: runs.failures,
        reason: runs.reason,
        newest: newest.map(|(one, _)| one.name.clone()),
        age: age.map(|age| age.as_secs()),
        store,
        room,
        problems,
    };
    if args.json {
        say(&format!("{:#}\n", serde_json::json!(status)));
    } else {
        say(&screen(&status, all.len(), SystemTime::now()));
    }
    Ok(if status.problems.is_empty() {
        Exit::Ok
    } else {
        Exit::Pending
    })
}

/// The problem of a timer whose runs were ended again and again. A backup that was taken after the last of them solves it: the remedy is one
/// by hand.
fn preempted(runs: &Runs, newest: Option<SystemTime>) -> Option<String> {
    let ended = runs.last.and_then(|last| u64::try_from(last).ok());
    let ended = ended.map(|last| SystemTime::UNIX_EPOCH + Duration::from_secs(last));
    let taken_since = newest
        .zip(ended)
        .is_some_and(|(taken, ended)| taken > ended);
    (runs.preempted >= PATIENT && !taken_since).then(|| {
        format!(
            "the timer's last {} runs were ended by repairs of this host; repair what fails (`nodelet status`), or take a backup by hand after `nodelet pause 1h`",
            runs.preempted
        )
    })
}

/// What etcd reports about itself.
struct EtcdReport {
    /// The size of its store, in bytes.
    size: u64,
    /// The UID of its namespace kube-system.
    cluster: Option<String>,
    /// Each with what to do.
    alarms: Vec<String>,
}

async fn ask() -> Result<EtcdReport> {
    let etcd = Etcd::member().await?;
    let alarms = etcd.alarms().await?.into_iter().map(|alarm| match alarm.kind {
        AlarmKind::NoSpace => format!("{alarm}: etcd refuses writes; compact and defragment it, then `etcdctl alarm disarm`, or raise ETCD_QUOTA_BACKEND_BYTES on one master after the other (`nodelet apply --accept-quorum-loss`, because a full etcd gives no lock)"),
        AlarmKind::Corrupt | AlarmKind::Other(_) => format!("{alarm}: see `etcdctl alarm list`"),
    });
    Ok(EtcdReport {
        size: etcd.status().await?.size,
        cluster: etcd.cluster().await?,
        alarms: alarms.collect(),
    })
}

fn screen(status: &EtcdBackupStatus, number: usize, now: SystemTime) -> String {
    let now = humantime::format_rfc3339_seconds(now).to_string();
    let mut text = String::new();
    let newest = match (&status.newest, status.age) {
        (Some(name), Some(age)) => format!("{name}, {} ago", span(Duration::from_secs(age))),
        _ => "none".to_owned(),
    };
    let schedule = if status.enabled {
        status.schedule.as_str()
    } else {
        "none (ETCD_BACKUP_ENABLED is false)"
    };
    let _ = writeln!(
        text,
        "directory        {} ({})",
        status.directory,
        count(number, "backup")
    );
    let _ = writeln!(text, "schedule         {schedule}");
    if let Some(master) = &status.left_to {
        let _ = writeln!(
            text,
            "taken by         master {master} (ETCD_BACKUP_MASTERS is one)"
        );
    }
    let next = match status.next.as_deref() {
        None => "unknown: there is no timer",
        // RFC 3339 in UTC sorts as text.
        Some(next) if next <= now.as_str() => "once nodeletd runs and the host is at rest",
        Some(next) => next,
    };
    let _ = writeln!(text, "next at          {next}");
    let _ = writeln!(text, "newest verified  {newest}");
    let store = status.store.map_or_else(
        || "unknown".to_owned(),
        |store| format!("{} MiB", store >> 20),
    );
    let _ = writeln!(
        text,
        "etcd's store     {store}; room for backups {} MiB",
        status.room >> 20
    );
    for problem in &status.problems {
        let _ = writeln!(text, "✗ {problem}");
    }
    text
}

fn span(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_by_hand_solves_that_runs_of_the_timer_were_ended() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let ended = |preempted| {
            let mut runs = Runs::default();
            (runs.last, runs.preempted) = (Some(1000), preempted);
            runs
        };
        let problem = preempted(&ended(3), None).expect("there is no backup");
        assert!(problem.contains("last 3 runs"), "{problem}");
        assert!(preempted(&ended(3), Some(at(900))).is_some(), "an old one");
        assert_eq!(preempted(&ended(3), Some(at(1001))), None);
        assert_eq!(preempted(&ended(2), None), None);
    }
}
