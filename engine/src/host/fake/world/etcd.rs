//! What a fake host knows of the members of etcd. How they are asked is in `kubernetes::etcd`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::host::{EtcdKey, EtcdLock, EtcdMember, EtcdStatus, HostError, HostResult};

/// The members and what they answer.
#[derive(Debug, Clone, Default)]
pub struct EtcdWorld {
    /// The members, as the cluster lists them; empty if this host's etcd is the only one, or if there is none.
    pub members: Vec<EtcdMember>,
    /// What members answer at their client URLs. A member without an entry does not answer.
    pub states: BTreeMap<String, EtcdStatus>,
    /// The address of a member that fails while the pods of a node are evicted.
    pub fails_during_eviction: Option<String>,
    /// Locks by key.
    pub(in crate::host::fake) locks: BTreeMap<String, HeldLock>,
    /// Keys of the store.
    pub(in crate::host::fake) keys: BTreeMap<String, EtcdKey>,
    /// The revision of the last change of a key.
    revision: u64,
    /// The last lease that was granted.
    leases: u64,
}

/// A lock that is held.
#[derive(Debug, Clone)]
pub(in crate::host::fake) struct HeldLock {
    holder: String,
    pub(in crate::host::fake) lease: u64,
    ends: SystemTime,
}

impl EtcdWorld {
    /// Adds a voter that answers, with its name, its address and its id.
    pub fn voter(&mut self, name: &str, address: &str, id: u64) {
        let client = format!("https://{address}:4001");
        self.members.push(EtcdMember {
            id,
            name: name.to_owned(),
            peer_urls: vec![format!("https://{address}:2380")],
            client_urls: vec![client.clone()],
            learner: false,
        });
        let leader = self.members.first().map(|member| member.id);
        let status = EtcdStatus {
            id,
            leader,
            raft_index: 100,
            db_size: 20_480,
            version: "3.4.23".to_owned(),
            learner: false,
            errors: Vec::new(),
        };
        self.states.insert(client, status);
    }

    /// The member at this client URL does not answer any more.
    pub fn silence(&mut self, address: &str) {
        self.states.remove(&format!("https://{address}:4001"));
    }

    /// The keys of the store.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// Takes a lock that is free, or that the holder has.
    pub(in crate::host::fake) fn take_lock(
        &mut self,
        key: &str,
        holder: &str,
        now: SystemTime,
        life: Duration,
    ) -> EtcdLock {
        let held = self.locks.get(key).filter(|lock| now < lock.ends);
        if let Some(other) = held.filter(|lock| lock.holder != holder) {
            return EtcdLock::HeldBy(other.holder.clone());
        }
        self.leases += 1;
        let lease = self.leases;
        let lock = HeldLock {
            holder: holder.to_owned(),
            lease,
            ends: now + life,
        };
        self.locks.insert(key.to_owned(), lock);
        EtcdLock::Held { lease }
    }

    /// Writes a key, and returns the revision of the change.
    pub(in crate::host::fake) fn put_key(&mut self, key: &str, value: &str) -> u64 {
        self.revision += 1;
        let written = EtcdKey {
            value: value.to_owned(),
            revision: self.revision,
        };
        self.keys.insert(key.to_owned(), written);
        self.revision
    }

    fn has_quorum(&self) -> bool {
        let voters = self.members.iter().filter(|member| !member.learner);
        let answers = |member: &&EtcdMember| {
            let mut urls = member.client_urls.iter();
            urls.any(|url| self.states.contains_key(url))
        };
        voters.clone().filter(answers).count() > voters.count() / 2
    }

    /// Fails unless one of the endpoints answers with quorum.
    pub(in crate::host::fake) fn reach(
        &self,
        endpoints: &[String],
        action: &str,
    ) -> HostResult<()> {
        let voter = |url: &&String| self.states.get(*url).is_some_and(|state| !state.learner);
        let answers = endpoints.iter().any(|url| voter(&url));
        match answers && self.has_quorum() {
            true => Ok(()),
            false => Err(HostError::service(action, "no member of etcd answers")),
        }
    }
}
