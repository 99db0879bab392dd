//! Labs that go with the command that made them.

use std::path::PathBuf;

use anyhow::Result;
use lab::{Setup, Suites, command};

/// What suites on labs are given: this program, and what the set-up has made.
pub(crate) fn suites(setup: &Setup, nodelet: PathBuf) -> Suites {
    Suites {
        run: Suites::run_name(),
        nodelet,
        payload: setup.payload.clone(),
        toolbox: setup.toolbox.clone(),
        machine: None,
    }
}

/// Does work whose labs all have names that begin with `run`, and takes them down however it ends: also after an interrupt, which
/// ends what runs at the time and lets the work fail.
pub(crate) fn with_labs<T>(
    setup: Setup,
    run: &str,
    work: impl FnOnce(&Setup) -> Result<T>,
) -> Result<T> {
    command::outlive_interrupts();
    let result = work(&setup);
    if Suites::keep() {
        println!(
            "The labs stay, as NODELET_LAB_KEEP says; `cargo xtask status` shows them, `cargo xtask down --all` ends them."
        );
        return result;
    }
    let cache = setup.cache.clone();
    // As long as it lives, the outer docker has a user.
    drop(setup);
    match (result, Suites::clear(&cache, run)) {
        (Err(error), Err(left)) => Err(error.context(format!("labs are left: {left:#}"))),
        (result, cleared) => cleared.and(result),
    }
}
