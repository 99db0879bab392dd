//! What the suites share: hosts with nodelet on them, runs of nodelet, and ways to look at a host before and after.
//!
//! The suites themselves are in `tests/suites`, a file for each group of behaviour. They run on real hosts (see the crate `lab`), so
//! they need what `cargo xtask test` sets up; started without it, each says that it is skipped and passes. Helpers panic with all
//! that the host said: a suite is a test, and its reader wants the words of the host.
//!
//! `cargo xtask test --only lab -- FILTER` runs some of them; with `NODELET_LAB_KEEP=1` the labs stay for a look. Those in `tests/soak`
//! take minutes each and are marked `ignore`: `cargo xtask soak` runs them.

#![forbid(unsafe_code)]

mod leaves;
mod load;
mod master;
mod prediction;
mod record;
mod run;
mod slate;
mod standing;
mod watch;

pub use lab::command::poll;
pub use lab::{FAULTS, Fault, HostSpec, Image, TOOLBOX_IMAGE, TRIALS};
pub use leaves::Leaves;
pub use load::{Asker, Load, Seen};
pub use master::{CLIENT, Master, shared, shared_with_vip};
pub use prediction::{no_repair, predicted_repair, prediction};
pub use record::record;
pub use run::Run;
pub use slate::{After, Slate};
pub use standing::{Standing, changes, listing};
pub use watch::{SCALED, Watch, restarted};
