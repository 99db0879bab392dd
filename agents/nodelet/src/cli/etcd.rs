//! Arguments of the commands about etcd: its backups and its members.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::role::RoleArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum EtcdCommand {
    /// Take a snapshot, verify it by a restore into a temporary directory, and keep it.
    ///
    /// Commands that change the host have priority: they end the backup, which leaves nothing (exit code 2). If nodeletd began the
    /// backup, it takes another one when no command changes the host.
    Backup(EtcdBackupArgs),
    /// List the backups. Reads only their manifests.
    List(RoleArgs),
    /// Verify backups: compare each one with its hash, its manifest, this cluster and a restored copy. Changes no backup.
    ///
    /// Exit codes: 0 all are good; 1 some could not be verified, or the command was interrupted; 2 at least one is not good.
    Verify(EtcdVerifyArgs),
    /// Show the state of backups: the newest verified one, free space, alarms of etcd.
    Status(RoleArgs),
    /// List the members of etcd: their votes, the leader, versions, and how far each one is. Changes nothing.
    ///
    /// Exit codes: 0 all members work; 1 they cannot be listed; 2 at least one does not work.
    Members(EtcdMembersArgs),
}

impl EtcdCommand {
    /// Whether JSON was asked for.
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Backup(args) => args.role.json,
            Self::List(args) | Self::Status(args) => args.json,
            Self::Verify(args) => args.role.json,
            Self::Members(args) => args.json,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct EtcdBackupArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// Leave the backup to another master if it is that one's turn (`ETCD_BACKUP_MASTERS`).
    #[arg(long, hide = true)]
    pub(crate) scheduled: bool,

    /// Files named cgroup.procs through which the backup joins its control group before it does anything.
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) cgroup: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct EtcdMembersArgs {
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EtcdVerifyArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// Verify only these backups. `list` shows their names.
    pub(crate) names: Vec<String>,
}
