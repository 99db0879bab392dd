//! Arguments of the commands about certificates.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use engine::resource::pki::components;

use super::cluster::SealedFileArgs;
use crate::cli::role::RoleArgs;

#[derive(Debug, Args)]
pub(crate) struct CertsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<CertsCommand>,

    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Renew the certificates of the first component that has one past three fifths of its life, and wait until it uses them.
    Renew(RenewArgs),
    /// Replace an authority in three steps: begin, switch, finish (docs/certificates.md).
    ///
    /// Each step restarts the components that read their roots only when they start. You may wait between the steps; the cluster continues
    /// to run. After `begin`, copy the admin's kubeconfig again to each machine that uses it, and restart workloads that call the API
    /// server; then take the step `switch`. With several masters, take each step on each of them.
    Rotate(RotateArgs),
    /// Write the file with which another master takes part in a replacement: the successor with its key, encrypted to that host.
    ///
    /// With it, the host can act as the successor. So copy it to no other host, and remove it afterwards. Changes nothing in the cluster.
    Send(SendArgs),
    /// Show how far each master is with the replacement of an authority or of the encryption key, and what comes next. Changes nothing.
    ///
    /// Exit codes: 0 nothing is being replaced; 2 something is; 1 the command failed.
    Rollout(RolloutArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// The authority: cluster, etcd or front-proxy; or `encryption`, the key that encrypts Secrets in etcd.
    pub(crate) authority: String,

    /// The step to take.
    #[arg(value_enum)]
    pub(crate) step: RotateStep,

    /// With the step `begin`: take the successor from this file, which another master has written with `nodelet certs send` for this host.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,

    /// Go on although etcd loses its quorum: the cluster then accepts no writes until enough members work again.
    #[arg(long)]
    pub(crate) accept_quorum_loss: bool,

    /// Show what the step would change, and change nothing. Exit code 2 if it would change something.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum RotateStep {
    /// Make a successor that components trust together with the present authority; or the next encryption key, which decrypts but does
    /// not encrypt yet.
    Begin,
    /// Sign with the successor, and renew all certificates that its predecessor signed; or encrypt with the next key, and store all Secrets
    /// again.
    Switch,
    /// Stop trusting the predecessor; or retire the previous key.
    Finish,
}

#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// Renew the certificates of this component, if one of them is due.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(components()))]
    pub(crate) component: Option<String>,

    /// Renew the due certificates of all components, one component after the other.
    #[arg(long, conflicts_with = "component")]
    pub(crate) all: bool,

    /// Go on although etcd loses its quorum: the cluster then accepts no writes until enough members work again.
    #[arg(long)]
    pub(crate) accept_quorum_loss: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The authority: cluster, etcd or front-proxy; or `encryption`, the key that encrypts Secrets in etcd.
    pub(crate) authority: String,

    #[command(flatten)]
    pub(crate) sealed: SealedFileArgs,

    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RolloutArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// Only this authority, or only `encryption`.
    pub(crate) authority: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
}
