//! Requests to etcd: its gRPC calls, and the messages in them.
//!
//! Only the few requests that nodelet makes itself: status, members, alarms, snapshot and counts of keys. Not here: health checks of etcd
//! (`exec::check` of the engine). Start with `api`.

pub(in crate::etcd) mod api;
pub(in crate::etcd) mod messages;
