//! Members of etcd: who belongs to the cluster, how each of them is, and locks of masters. Every call has the implementation's own deadline.

use std::time::Duration;

use crate::host::HostResult;

/// A member, as the cluster lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdMember {
    /// Its id, which etcd computes when it is added.
    pub id: u64,
    /// Its name; empty until it has started for the first time.
    pub name: String,
    /// URLs for the other members.
    pub peer_urls: Vec<String>,
    /// URLs for clients; none until it has started for the first time.
    pub client_urls: Vec<String>,
    /// Whether it only follows and has no vote.
    pub learner: bool,
}

/// The state of one member, as it says itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdStatus {
    /// Its id.
    pub id: u64,
    /// The id of the leader that it follows; `None` if it knows no leader.
    pub leader: Option<u64>,
    /// The last entry of the log that it knows to be committed.
    pub raft_index: u64,
    /// Size of its store on disk in bytes.
    pub db_size: u64,
    /// Its version, for example `3.4.23`.
    pub version: String,
    /// Whether it only follows and has no vote.
    pub learner: bool,
    /// Alarms that are on, and errors that it reports, for example `NOSPACE`.
    pub errors: Vec<String>,
}

/// What became of an attempt to take a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtcdLock {
    /// The caller has it until this lease ends.
    Held {
        /// The id of the lease.
        lease: u64,
    },
    /// This other one has it.
    HeldBy(String),
}

/// A key of etcd's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdKey {
    /// Its value.
    pub value: String,
    /// The revision of its last change: a key that was written later has a greater one.
    pub revision: u64,
}

/// Calls on the members of an etcd cluster, with this host's client certificate. Those with several endpoints use the first one that answers.
#[async_trait::async_trait]
pub trait EtcdMembers {
    /// All members, as a voter that has quorum knows them now; sorted by name. An error if no endpoint answers with quorum. Cancel safe.
    async fn member_list(&self, endpoints: &[String]) -> HostResult<Vec<EtcdMember>>;

    /// Adds a member without a vote and returns its id. etcd has one learner at most. Not cancel safe: it may be added all the same.
    async fn member_add_learner(&self, endpoints: &[String], peer_url: &str) -> HostResult<u64>;

    /// Gives a learner its vote. etcd refuses this until the learner is in sync. Not cancel safe.
    async fn member_promote(&self, endpoints: &[String], id: u64) -> HostResult<()>;

    /// Removes a member. Fine if there is none. etcd refuses this if too few voters would be connected. Not cancel safe.
    async fn member_remove(&self, endpoints: &[String], id: u64) -> HostResult<()>;

    /// Takes a lock: a key whose value names the holder, and whose lease ends after `life` (whole seconds). A lock that the holder has already
    /// is taken anew, with a new lease. Needs quorum. Not cancel safe: the lock may be held until its lease ends.
    /// Source: <https://etcd.io/docs/v3.4/dev-guide/api_reference_v3/>.
    async fn take_lock(
        &self,
        endpoints: &[String],
        key: &str,
        holder: &str,
        life: Duration,
    ) -> HostResult<EtcdLock>;

    /// Ends a lease, and with it the lock. Fine if it has ended. Not cancel safe: it may go on until its end.
    async fn release_lock(&self, endpoints: &[String], lease: u64) -> HostResult<()>;

    /// A key; `None` if there is none. Needs quorum. Cancel safe.
    async fn get_key(&self, endpoints: &[String], key: &str) -> HostResult<Option<EtcdKey>>;

    /// Writes a key, and returns the revision of this change. Needs quorum. Not cancel safe: it may be written all the same.
    async fn put_key(&self, endpoints: &[String], key: &str, value: &str) -> HostResult<u64>;

    /// The state of the member at an endpoint. It need not have quorum. Cancel safe.
    async fn member_status(&self, endpoint: &str) -> HostResult<EtcdStatus>;
}
