//! Labs that are removed when the command that made them ends.

use std::path::PathBuf;

use anyhow::Result;
use lab::{Setup, Suites, command};

/// The inputs of suites on labs: this program, and the artifacts of the set-up.
pub(crate) fn suites(setup: &Setup, nodelet: PathBuf) -> Suites {
    Suites {
        run: Suites::run_name(),
        nodelet,
        payload: setup.payload.clone(),
        toolbox: setup.toolbox.clone(),
        machine: None,
    }
}

/// Does work whose labs all have names that begin with `run`, and takes these labs down afterwards, also if the work fails. An
/// interrupt ends the running command, so the work fails and the labs are taken down.
pub(crate) fn with_labs<T>(
    setup: Setup,
    run: &str,
    work: impl FnOnce(&Setup) -> Result<T>,
) -> Result<T> {
    command::outlive_interrupts();
    let result = work(&setup);
    if Suites::keep() {
        println!(
            "The labs stay because NODELET_LAB_KEEP is 1; `cargo xtask status` shows them, `cargo xtask down --all` removes them."
        );
        return result;
    }
    let cache = setup.cache.clone();
    // While `setup` exists, the outer docker counts as used and is not stopped.
    drop(setup);
    match (result, Suites::clear(&cache, run)) {
        (Err(error), Err(left)) => Err(error.context(format!("labs remain: {left:#}"))),
        (result, cleared) => cleared.and(result),
    }
}
