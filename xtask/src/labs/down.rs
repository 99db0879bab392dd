//! `cargo xtask down`: take labs down; the cache stays unless asked for.

use std::process::ExitCode;

use anyhow::Result;
use lab::Cache;
use lab::topology::down;

/// The options of `down`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The lab's name.
    #[arg(long, default_value = "default", conflicts_with = "all")]
    lab: String,
    /// All labs.
    #[arg(long)]
    all: bool,
    /// The cache too: the next `up` builds everything again.
    #[arg(long)]
    cache: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let cache = Cache::locate()?;
    if arguments.all {
        let names: Vec<String> = down::all(&cache)?.into_iter().collect();
        println!(
            "{}",
            if names.is_empty() {
                "There was no lab.".to_owned()
            } else {
                format!("Took down: {}.", names.join(", "))
            }
        );
    } else if down::lab(&cache, &arguments.lab)? {
        println!("Took down the lab `{}`.", arguments.lab);
    } else {
        println!("There is no lab `{}`.", arguments.lab);
    }
    let left: Vec<String> = down::labs(&cache)?.into_iter().collect();
    if !left.is_empty() {
        println!("Labs that remain: {}.", left.join(", "));
    }
    if arguments.cache {
        down::cache(&cache)?;
        println!("Removed the cache {}.", cache.root().display());
    }
    Ok(ExitCode::SUCCESS)
}
