//! Decisions about the members of etcd: how this host joins, when it gets its vote, whether the cluster keeps its quorum without a
//! member, and whose silence has taken the quorum. All are pure: members and their states in, what to do out. `removed` keeps in etcd
//! which masters were removed.
//!
//! Not here: the calls on etcd (`host::EtcdMembers`), the steps that follow the decisions (`resource::kubernetes::etcd`), and the guard of
//! commands (`exec::kubernetes::quorum`). Start with [`Seen`].

mod join;
mod promotion;
mod quorum;
pub mod removed;
mod seen;
mod silent;

pub use join::{Join, initial_cluster, join, same_members};
pub use promotion::{Promotion, promotion};
pub use quorum::{Loss, QuorumLoss, after_loss, quorum, without_quorum};
pub use seen::{Me, OWN_ENDPOINT, Seen, client_url, look, peer_url};
pub use silent::silent_voters;
