//! Stands in front of runc where CAP_SYS_RESOURCE is missing: edits what runc is about to read, then becomes runc.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use lab::setup::oci::{OciFile, relax};
use serde_json::Value;

/// Where the real runc may be: beside a diverted wrapper, or in its package's place when the wrapper lies elsewhere.
fn real_runc() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell my own path")?;
    let mut beside = own.clone().into_os_string();
    beside.push(".real");
    [
        PathBuf::from(beside),
        PathBuf::from("/usr/sbin/runc"),
        PathBuf::from("/usr/bin/runc"),
    ]
    .into_iter()
    .find(|path| path.exists() && *path != own)
    .ok_or_else(|| {
        anyhow!(
            "no runc behind the lab's wrapper {}; install the package runc",
            own.display()
        )
    })
}

fn edit(path: &Path, part: impl FnOnce(&mut Value)) -> Result<()> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut value: Value =
        serde_json::from_slice(&text).with_context(|| format!("no JSON in {}", path.display()))?;
    part(&mut value);
    std::fs::write(path, serde_json::to_vec(&value)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match OciFile::of(&arguments) {
        OciFile::Bundle(directory) => edit(&Path::new(&directory).join("config.json"), |config| {
            if let Some(process) = config.get_mut("process") {
                relax(process);
            }
        })?,
        OciFile::Process(file) => edit(Path::new(&file), relax)?,
        OciFile::None => {}
    }
    let error = Command::new(real_runc()?)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(error).context("cannot become runc")
}
