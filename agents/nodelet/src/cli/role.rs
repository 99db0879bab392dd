//! The arguments of all commands that plan a role.

use std::path::PathBuf;

use clap::Args;

/// The role and its settings, for this host.
#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    /// Role: the name of an installed one (in /opt/pf9/roles), or a path, which contains a slash (./roles/pf9-kube). Its scripts
    /// are read from there; the packages, programs and images that it brings are those of the installed role. On the live host,
    /// only root may be able to change its files.
    #[arg(
        long,
        value_name = "NAME|PATH",
        default_value = "pf9-kube",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(crate) role: String,

    /// Settings: a YAML file, or a directory of YAML files. Later files override earlier ones.
    #[arg(long, value_name = "PATH", default_value = "/etc/pf9/nodelet")]
    pub(crate) config: PathBuf,

    /// Write JSON: one value, or one event per line.
    #[arg(long)]
    pub(crate) json: bool,

    /// The settings are complete: kube_override.env has been merged into them already.
    // A nodeletd from before the present names calls it so; to be removed at the first release.
    #[arg(long, hide = true, alias = "settled")]
    pub(crate) merged_settings: bool,
}

impl RoleArgs {
    /// The default role with the host's own settings, for commands that have no options for them.
    pub(crate) fn usual() -> Self {
        Self {
            role: "pf9-kube".to_owned(),
            config: PathBuf::from("/etc/pf9/nodelet"),
            json: false,
            merged_settings: false,
        }
    }
}
