//! The arguments of `nodelet`, as its help shows them.
//!
//! Not here: the arguments of `nodeletd` (`nodeletd`), and what a command does (`commands`). Start with [`Command`].

mod certs;
mod cluster;
mod etcd;
mod role;
mod workers;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use engine::exec::{FailureCounts, Selection};

pub(crate) use certs::{
    CertsArgs, CertsCommand, RenewArgs, RolloutArgs, RotateArgs, RotateStep, SendArgs, TrustArgs,
};
pub(crate) use cluster::{
    LOCAL_ADMIN, MastersArgs, PkiCommand, PkiExportArgs, PkiIssueArgs, PkiKeyArgs, PkiSignArgs,
    PodSubnetsArgs,
};
pub(crate) use etcd::{EtcdBackupArgs, EtcdCommand, EtcdMembersArgs, EtcdVerifyArgs};
pub(crate) use role::RoleArgs;
pub(crate) use workers::{
    ClusterCommand, ClusterRemoveArgs, ClusterStatusArgs, ClusterTaintArgs, WorkersArgs,
};

/// Longest pause. After it, nodeletd repairs the host again, also if an operator has forgotten the pause.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Brings this host to a role and keeps it there.
///
/// Exit codes: 0 the host is as desired; 1 the command failed or was refused; 2 changes are pending, the run was interrupted, or a
/// check does not hold; 64 wrong usage; 75 another command works on the host.
#[derive(Debug, Parser)]
#[command(name = "nodelet", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what an apply would do to this host, phase by phase. Changes nothing.
    Plan(PlanArgs),
    /// Show only what an apply would change. Changes nothing.
    ///
    /// Exit codes: 0 an apply would change nothing; 2 it would change something.
    Diff(DiffArgs),
    /// Apply the role to this host, phase by phase.
    Apply(ApplyArgs),
    /// Make every check once. Changes nothing.
    Check(RunArgs),
    /// Stop what the role runs, in reverse order. Its files stay.
    Stop(StopArgs),
    /// Show this host's state: phases, conditions, attempts and the next action. Reads it from nodeletd.
    Status(StatusArgs),
    /// Pause nodeletd for some time: it checks the host, but changes nothing.
    Pause(PauseArgs),
    /// End the pause of nodeletd.
    Resume,
    /// Drain this node for some time: evict its pods and accept no new ones. The node's own components continue to run.
    ///
    /// After this time, or after `nodelet resume`, nodeletd lets the node accept pods again.
    Drain(DrainArgs),
    /// Check the host, and restart the phases that failed and the phases that need them. Other phases are not changed.
    Repair(RepairArgs),
    /// One status pass, as nodeletd makes it.
    #[command(hide = true)]
    Pass(PassArgs),
    /// Assign a free pod subnet to each node of the cluster that has none, as nodeletd does on masters.
    #[command(hide = true)]
    PodSubnets(PodSubnetsArgs),
    /// Label the workers of the cluster, and delete the nodes of workers that have left, as nodeletd does on masters.
    #[command(hide = true)]
    Workers(WorkersArgs),
    /// Write the list of masters as etcd has it, and apply what depends on it, as nodeletd does on masters.
    #[command(hide = true)]
    Masters(MastersArgs),
    /// Take the authorities that the masters have published, as nodeletd does on workers.
    #[command(hide = true)]
    Trust(TrustArgs),
    /// Show the state of the cluster, or remove nodes from it. For masters.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Remove the role from this host. Afterwards the host is as it was before the role, except what is kept.
    Clean(CleanArgs),
    /// Recover the ledger of a host where the role runs and the ledger was lost, damaged or replaced. Changes nothing else.
    ///
    /// If the copy of the ledger is complete, it is used. Otherwise each resource on the host that is as the role makes it is recorded as a
    /// resource of the role. What cannot be known is listed: for example, values from before the role.
    Recover(RecoverArgs),
    /// Show every certificate: its end, when it is due for renewal, and which component uses it. Reads only files.
    ///
    /// Exit codes: 0 all are valid; 2 a certificate is not valid or cannot be read, or there are too many to read all.
    Certs(CertsArgs),
    /// Let hosts join the cluster, and sign the certificates of its nodes (docs/clusters.md).
    #[command(subcommand)]
    Pki(PkiCommand),
    /// List the role's phases for this host, in order.
    Phases(TargetArgs),
    /// Print the facts of this host as a file for --facts. Changes nothing.
    ///
    /// The file has packages, units, links and ports, but no files, containers or objects of the cluster. On a host with a role, it
    /// therefore does not describe a bare host, and names the role.
    Facts,
    /// Take, list and verify backups of this master's etcd, and list the members of etcd.
    #[command(subcommand)]
    Etcd(EtcdCommand),
    /// Show the timers of this host, and how their last runs ended.
    #[command(subcommand)]
    Timer(TimerVerb),
    /// Show what each run did to this host. Reads only the ledger.
    History(HistoryArgs),
    /// Show which step made a resource, what failed there, and what happens next. Changes nothing.
    Why(WhyArgs),
}

impl Command {
    /// Whether JSON was asked for.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Plan(args) => args.target.role.json,
            Self::Diff(args) => args.target.role.json,
            Self::Apply(args) => args.run.role.json,
            Self::Check(args) => args.role.json,
            Self::Stop(args) => args.run.role.json,
            Self::Drain(args) => args.role.json,
            Self::Status(args) => args.json,
            Self::Repair(args) => args.role.json,
            Self::Masters(args) => args.role.json,
            Self::Trust(args) => args.role.json,
            Self::Pass(args) => args.role.json,
            Self::Clean(args) => args.role.json,
            Self::Recover(args) => args.role.json,
            Self::Phases(target) => target.role.json,
            Self::History(args) => args.json,
            Self::Why(args) => args.role.json,
            Self::Certs(args) => match &args.command {
                Some(CertsCommand::Renew(args)) => args.role.json,
                Some(CertsCommand::Rotate(args)) => args.role.json,
                Some(CertsCommand::Send(args)) => args.json,
                Some(CertsCommand::Rollout(args)) => args.role.json,
                None => args.json,
            },
            Self::Etcd(command) => command.json(),
            Self::Pki(command) => command.json(),
            Self::Cluster(command) => command.json(),
            Self::Timer(TimerVerb::Status(args)) => args.json,
            Self::Timer(TimerVerb::Run(_)) => false,
            Self::Pause(_)
            | Self::Resume
            | Self::Facts
            | Self::PodSubnets(_)
            | Self::Workers(_) => false,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum TimerVerb {
    /// List the timers: what each runs, when it runs next, and why its last run failed. Reads only files.
    ///
    /// Exit codes: 0 the last run of each timer succeeded; 2 the last run of a timer failed.
    Status(TimerStatusArgs),
    /// Run the program of a timer once, as nodeletd does.
    ///
    /// Commands that change the host have priority: they end the program (exit code 2).
    #[command(hide = true)]
    Run(TimerRunArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TimerStatusArgs {
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TimerRunArgs {
    /// The timer, by its name in `nodelet timer status`.
    pub(crate) name: String,

    /// Files named cgroup.procs through which the run joins its control group before it does anything.
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) cgroup: Vec<PathBuf>,
}

/// The role, its settings and the host. Only commands that plan have these options: with a facts file, any user may own the role, and a
/// command that works on this host would run the role's files as root.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// Plan for the host that this file describes, instead of this one.
    #[arg(long, value_name = "FILE")]
    pub(crate) facts: Option<PathBuf>,
}

/// The phases.
#[derive(Debug, Args)]
pub(crate) struct PhaseArgs {
    /// Begin at this phase.
    #[arg(long, value_name = "PHASE")]
    from: Option<String>,

    /// End with this phase.
    #[arg(long, value_name = "PHASE")]
    to: Option<String>,

    /// Only these phases.
    #[arg(long, value_name = "PHASE", conflicts_with_all = ["from", "to"])]
    only: Vec<String>,
}

impl PhaseArgs {
    pub(crate) fn selection(&self) -> Selection {
        Selection {
            from: self.from.clone(),
            to: self.to.clone(),
            only: self.only.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// Restart these phases and the phases that need them, even if their checks hold.
    pub(crate) phases: Vec<String>,

    /// Restart these phases and the phases that need them, too, but only if their checks still fail.
    #[arg(long, value_name = "PHASE", hide = true)]
    pub(crate) if_failing: Vec<String>,

    /// Make a full clean, which leaves only what is kept, and start from the first phase. Only if a check still fails when this command
    /// begins, and if an apply could begin afterwards.
    #[arg(long, conflicts_with_all = ["phases", "prune"])]
    pub(crate) rebuild: bool,

    /// Only remove what is on the host but not in the plan; restart nothing.
    #[arg(long, conflicts_with_all = ["phases", "if_failing"])]
    pub(crate) prune: bool,

    /// Go on although etcd loses its quorum: the cluster then accepts no writes until enough members work again.
    #[arg(long)]
    pub(crate) accept_quorum_loss: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Show the status again at each change, until interrupted.
    #[arg(long, conflicts_with = "json")]
    pub(crate) watch: bool,

    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// Duration of the pause, for example 30m; at most 7 days.
    #[arg(value_name = "TIME", value_parser = pause_time)]
    pub(crate) time: Duration,

    /// The reason, which `nodelet status` shows.
    #[arg(long, default_value = "")]
    pub(crate) because: String,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// Time for which the node stays drained, for example 30m; at most 7 days.
    #[arg(long, value_name = "TIME", value_parser = pause_time, default_value = "1h")]
    pub(crate) duration: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct PassArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// Files named cgroup.procs through which the pass joins its control group before it does anything.
    #[arg(long, value_name = "FILE")]
    pub(crate) cgroup: Vec<PathBuf>,

    /// Failures in a row before this pass, as the previous pass reported them, in JSON.
    #[arg(long, value_name = "JSON", value_parser = failure_counts)]
    pub(crate) before: Option<FailureCounts>,
}

/// The time of a pause, for example `30m`. Longer times would overflow the end of the pause.
fn pause_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(1) || time > LONGEST_PAUSE {
        return Err("a pause takes from 1 second to 7 days".to_owned());
    }
    Ok(time)
}

fn failure_counts(json: &str) -> Result<FailureCounts, serde_json::Error> {
    serde_json::from_str(json)
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    #[command(flatten)]
    pub(crate) phases: PhaseArgs,

    /// Show every step in full, with the text of every file, instead of what would change.
    #[arg(long)]
    pub(crate) full: bool,

    /// Show each change. Without this option, a terminal shows only one line for each phase of a long plan.
    #[arg(long, conflicts_with = "full")]
    pub(crate) details: bool,

    /// `plan` is always a dry run; with --json, this writes one event per line.
    #[arg(long, requires = "facts", hide = true)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    #[command(flatten)]
    pub(crate) phases: PhaseArgs,

    /// Make every check, and show what `nodelet repair` would stop and change, instead of what `nodelet apply` would change.
    #[arg(long, conflicts_with_all = ["facts", "from", "to", "only"])]
    pub(crate) repair: bool,

    /// Also show whether an apply could begin after a full clean. Ports that the role uses count as free, other ports in use do not.
    #[arg(long, conflicts_with_all = ["facts", "repair"])]
    pub(crate) rebuild: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,

    /// If another role is on this host, replace it: remove what only that role has, and apply this role. Without this option, `apply` refuses
    /// to run on such a host.
    #[arg(long, conflicts_with_all = ["from", "to", "only"])]
    pub(crate) replace_role: bool,

    /// Go on although etcd loses its quorum: the cluster then accepts no writes until enough members work again.
    #[arg(long)]
    pub(crate) accept_quorum_loss: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    #[command(flatten)]
    pub(crate) phases: PhaseArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,

    /// nodeletd runs this command itself, so the command does not ask nodeletd whether it would bring the role up again.
    #[arg(long, hide = true)]
    pub(crate) by_nodeletd: bool,

    /// Go on although etcd loses its quorum: the cluster then accepts no writes until enough members work again.
    #[arg(long)]
    pub(crate) accept_quorum_loss: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Show this run in full: its steps and failures.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) run: Option<u64>,

    /// Maximum number of runs to show; the newest run is last.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub(crate) last: usize,

    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// A phase, a step, a path or its last part, or the name of a container, unit, image, package or kernel setting.
    pub(crate) resource: String,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// Show what would be recovered, and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CleanArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// Also remove what a clean keeps: the cluster's data, its backups and its certificate authorities; and the join file with its key.
    #[arg(long)]
    pub(crate) purge: bool,

    /// Go on although etcd loses its quorum: the cluster then accepts no writes until enough members work again.
    #[arg(long)]
    pub(crate) accept_quorum_loss: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_has_a_limit() {
        for (text, seconds) in [
            ("1s", Some(1)),
            ("7days", Some(604_800)),
            ("500ms", None),
            ("604801s", None),
            ("99999999d", None),
            ("1", None),
        ] {
            let time = pause_time(text).ok().map(|time| time.as_secs());
            assert_eq!(time, seconds, "{text}");
            for arguments in [
                &["nodelet", "drain", "--duration", text][..],
                &["nodelet", "pause", text],
            ] {
                assert_eq!(
                    Cli::try_parse_from(arguments).is_ok(),
                    seconds.is_some(),
                    "{arguments:?}"
                );
            }
        }
    }
}
