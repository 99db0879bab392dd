//! The commands of `nodelet`: one file and one function for each.
//!
//! `run` has `apply` and `stop`, and what all commands do before they change the host. `report/` has the commands that only report. `pass`,
//! `pod_subnets`, `timer`, `cluster::workers`, `cluster::masters` and `cluster::trust` are for nodeletd.
//!
//! Arguments are in `cli`. The work is done by the engine. Start with `run`.

mod certs;

mod check;
mod clean;
mod cluster;
mod cluster_status;
mod drain;
mod etcd;
mod pass;
mod pki;
mod pod_subnets;
mod recover;
mod repair;
mod report;
mod run;
mod timer;

pub(crate) use certs::certs;
pub(crate) use check::check;
pub(crate) use clean::clean;
pub(crate) use cluster::{cluster, masters, trust, workers};
pub(crate) use drain::drain;
pub(crate) use etcd::etcd;
pub(crate) use pass::{join_cgroup, pass};
pub(crate) use pki::pki;
pub(crate) use pod_subnets::pod_subnets;
pub(crate) use recover::recover;
pub(crate) use repair::repair;
pub(crate) use report::facts::facts;
pub(crate) use report::history::history;
pub(crate) use report::phases::phases;
pub(crate) use report::plan::{diff, plan};
pub(crate) use report::status::{pause, resume, status};
pub(crate) use report::why::why;
pub(crate) use run::{apply, stop};
pub(crate) use timer::timer;
