//! One function per subcommand.

mod certs;
mod check;
mod clean;
mod drain;
mod etcd;
mod facts;
mod history;
mod pass;
mod phases;
mod plan;
mod pod_subnets;
mod recover;
mod repair;
mod rotate;
mod run;
mod status;
mod why;

pub(crate) use certs::certs;
pub(crate) use check::check;
pub(crate) use clean::clean;
pub(crate) use drain::drain;
pub(crate) use etcd::etcd;
pub(crate) use facts::facts;
pub(crate) use history::history;
pub(crate) use pass::{join_cgroup, pass};
pub(crate) use phases::phases;
pub(crate) use plan::{diff, plan};
pub(crate) use pod_subnets::pod_subnets;
pub(crate) use recover::recover;
pub(crate) use repair::repair;
pub(crate) use run::{apply, stop};
pub(crate) use status::{pause, resume, status};
pub(crate) use why::why;

use std::io::Write as _;

use crate::output::Out;

/// Writes to standard output. An error is reported when the command ends.
pub(crate) fn say(text: &str) {
    let _ = is_heard(text);
}

/// The same; returns whether the text could be written.
fn is_heard(text: &str) -> bool {
    let mut out = Out::new();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}
