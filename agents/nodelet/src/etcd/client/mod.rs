//! Requests to etcd: its gRPC calls, and the messages in them.

pub(in crate::etcd) mod api;
pub(in crate::etcd) mod messages;
