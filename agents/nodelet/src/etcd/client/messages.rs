//! The few messages of etcd's API that backups need, and the identity of a cluster in what etcd holds.
//!
//! Field numbers are those of etcd 3.4's `etcdserver/etcdserverpb/rpc.proto` and `mvcc/mvccpb/kv.proto`, and of
//! Kubernetes' `generated.proto` files; they are part of formats that do not change.

use prost::Message;

/// The key of the namespace whose UID is the cluster's identity.
pub(in crate::etcd) const KUBE_SYSTEM: &[u8] = b"/registry/namespaces/kube-system";
/// The range of the keys of Secrets.
pub(in crate::etcd) const SECRETS: (&[u8], &[u8]) = (b"/registry/secrets/", b"/registry/secrets0");
/// The prefix of a Kubernetes object in protobuf.
const MAGIC: &[u8] = b"k8s\0";

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct Header {
    #[prost(uint64, tag = "1")]
    pub(in crate::etcd) cluster_id: u64,
    /// The member that answers.
    #[prost(uint64, tag = "2")]
    pub(in crate::etcd) member_id: u64,
    #[prost(int64, tag = "3")]
    pub(in crate::etcd) revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::etcd) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(in crate::etcd) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(in crate::etcd) limit: i64,
    #[prost(int64, tag = "4")]
    pub(in crate::etcd) revision: i64,
    #[prost(bool, tag = "9")]
    pub(in crate::etcd) count_only: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(in crate::etcd) header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    pub(in crate::etcd) kvs: Vec<KeyValue>,
    #[prost(bool, tag = "3")]
    pub(in crate::etcd) more: bool,
    #[prost(int64, tag = "4")]
    pub(in crate::etcd) count: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::etcd) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(in crate::etcd) value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct SnapshotRequest {}

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct SnapshotResponse {
    #[prost(uint64, tag = "2")]
    pub(in crate::etcd) remaining_bytes: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub(in crate::etcd) blob: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(in crate::etcd) header: Option<Header>,
    #[prost(string, tag = "2")]
    pub(in crate::etcd) version: String,
    #[prost(int64, tag = "3")]
    pub(in crate::etcd) db_size: i64,
    #[prost(uint64, tag = "4")]
    pub(in crate::etcd) leader: u64,
    #[prost(uint64, tag = "5")]
    pub(in crate::etcd) raft_index: u64,
    #[prost(uint64, tag = "6")]
    pub(in crate::etcd) raft_term: u64,
    #[prost(string, repeated, tag = "8")]
    pub(in crate::etcd) errors: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct MemberListRequest {}

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct MemberListResponse {
    #[prost(message, repeated, tag = "2")]
    pub(in crate::etcd) members: Vec<Member>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct Member {
    #[prost(uint64, tag = "1")]
    pub(in crate::etcd) id: u64,
    #[prost(string, tag = "2")]
    pub(in crate::etcd) name: String,
    #[prost(string, repeated, tag = "4")]
    pub(in crate::etcd) client_urls: Vec<String>,
    #[prost(bool, tag = "5")]
    pub(in crate::etcd) is_learner: bool,
}

/// Action 0 asks which alarms are on; member 0 stands for all.
#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct AlarmRequest {
    #[prost(int32, tag = "1")]
    pub(in crate::etcd) action: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct AlarmResponse {
    #[prost(message, repeated, tag = "2")]
    pub(in crate::etcd) alarms: Vec<AlarmMember>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::etcd) struct AlarmMember {
    #[prost(uint64, tag = "1")]
    pub(in crate::etcd) member: u64,
    #[prost(int32, tag = "2")]
    pub(in crate::etcd) alarm: i32,
}

/// `runtime.Unknown`: the envelope of every object.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Object {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
}

#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, tag = "5")]
    uid: String,
}

/// The UID of an object as the API server stores it, in protobuf or JSON; `None` if it is neither.
pub(in crate::etcd) fn uid(value: &[u8]) -> Option<String> {
    let uid = if let Some(envelope) = value.strip_prefix(MAGIC) {
        let envelope = Envelope::decode(envelope).ok()?;
        Object::decode(envelope.raw.as_slice()).ok()?.metadata?.uid
    } else {
        let object: serde_json::Value = serde_json::from_slice(value).ok()?;
        object.pointer("/metadata/uid")?.as_str()?.to_owned()
    };
    (!uid.is_empty()).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_found_in_either_form() {
        let object = Object {
            metadata: Some(ObjectMeta {
                uid: "0f1e".to_owned(),
            }),
        };
        let envelope = Envelope {
            raw: object.encode_to_vec(),
        };
        let stored = [MAGIC, &envelope.encode_to_vec()].concat();
        assert_eq!(uid(&stored).as_deref(), Some("0f1e"));
        assert_eq!(
            uid(br#"{"metadata":{"uid":"0f1e"}}"#).as_deref(),
            Some("0f1e")
        );
        for other in [&b"k8s\0\xff\xff"[..], b"", b"{}", b"k8s\0", b"text"] {
            assert_eq!(uid(other), None, "{other:?}");
        }
    }
}
