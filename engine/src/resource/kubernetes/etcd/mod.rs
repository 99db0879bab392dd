//! This host's member of etcd: how it begins or joins the cluster (`member`), and how it gets its vote (`promoted`).
//!
//! `settings` is the file that etcd reads for it, and `marker` notes on the disk that the member has never had a vote. `api` looks for an
//! API server of the cluster, and `removal` says whether a master that was removed may join again. Decisions are in `engine::kubernetes::etcd_members`. Start with `member`.

mod api;
pub(crate) mod marker;
pub(in crate::resource) mod member;
pub(in crate::resource) mod promoted;
mod removal;
pub(in crate::resource) mod settings;
