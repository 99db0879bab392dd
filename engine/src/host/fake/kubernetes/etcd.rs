//! Members of a fake etcd cluster. This host's own member answers while its container runs; the others answer as a test says.

use std::io;
use std::time::Duration;

use crate::host::fake::fake_host::FakeHost;
use crate::host::fake::world::World;
use crate::host::{EtcdKey, EtcdLock, EtcdMember, EtcdMembers, EtcdStatus, HostError, HostResult};

const DEADLINE: Duration = Duration::from_secs(10);
/// The endpoint of this host's own member.
const OWN: &str = "https://127.0.0.1:4001";

impl World {
    /// The state of this host's own member, while its container runs.
    fn own_member(&self) -> Option<EtcdStatus> {
        if !self.container_runs(&self.kubernetes.etcd_container) {
            return None;
        }
        let states = self.etcd.states.values();
        let newest = states.max_by_key(|state| state.raft_index).cloned();
        let learner = self.etcd.members.iter().find(|member| member.learner);
        let mut status = newest.unwrap_or_default();
        status.learner = learner.is_some();
        if let Some(learner) = learner {
            status.id = learner.id;
        }
        Some(status)
    }
}

#[async_trait::async_trait]
impl EtcdMembers for FakeHost {
    async fn member_list(&self, endpoints: &[String]) -> HostResult<Vec<EtcdMember>> {
        self.observe("member_list", endpoints.join(" "), DEADLINE, |world| {
            world.etcd.reach(endpoints, "list the members of etcd")?;
            Ok(world.etcd.members.clone())
        })
        .await
    }

    async fn member_add_learner(&self, endpoints: &[String], peer_url: &str) -> HostResult<u64> {
        self.mutate("member_add_learner", peer_url, DEADLINE, |world| {
            let action = || format!("add {peer_url} to etcd");
            world.etcd.reach(endpoints, &action())?;
            let members = &mut world.etcd.members;
            if members.iter().any(|member| member.learner) {
                return Err(HostError::service(action(), "too many learner members"));
            }
            let id = members.iter().map(|member| member.id).max();
            let id = id.unwrap_or_default() + 1;
            members.push(EtcdMember {
                id,
                name: String::new(),
                peer_urls: vec![peer_url.to_owned()],
                client_urls: Vec::new(),
                learner: true,
            });
            Ok(id)
        })
        .await
    }

    async fn member_promote(&self, endpoints: &[String], id: u64) -> HostResult<()> {
        self.mutate("member_promote", id.to_string(), DEADLINE, |world| {
            world.etcd.reach(endpoints, "promote a learner")?;
            let mut members = world.etcd.members.iter_mut();
            let Some(member) = members.find(|member| member.id == id) else {
                return Err(HostError::service("promote a learner", "member not found"));
            };
            member.learner = false;
            Ok(())
        })
        .await
    }

    async fn member_remove(&self, endpoints: &[String], id: u64) -> HostResult<()> {
        self.mutate("member_remove", id.to_string(), DEADLINE, |world| {
            world.etcd.reach(endpoints, "remove a member")?;
            world.etcd.members.retain(|member| member.id != id);
            Ok(())
        })
        .await
    }

    async fn take_lock(
        &self,
        endpoints: &[String],
        key: &str,
        holder: &str,
        life: Duration,
    ) -> HostResult<EtcdLock> {
        self.mutate("take_lock", key, DEADLINE, |world| {
            world.etcd.reach(endpoints, "take a lock in etcd")?;
            let now = world.now();
            Ok(world.etcd.take_lock(key, holder, now, life))
        })
        .await
    }

    async fn release_lock(&self, endpoints: &[String], lease: u64) -> HostResult<()> {
        self.mutate("release_lock", lease.to_string(), DEADLINE, |world| {
            world.etcd.reach(endpoints, "release a lock in etcd")?;
            world.etcd.locks.retain(|_, lock| lock.lease != lease);
            Ok(())
        })
        .await
    }

    async fn get_key(&self, endpoints: &[String], key: &str) -> HostResult<Option<EtcdKey>> {
        self.observe("get_key", key, DEADLINE, |world| {
            world.etcd.reach(endpoints, "read a key of etcd")?;
            Ok(world.etcd.keys.get(key).cloned())
        })
        .await
    }

    async fn put_key(&self, endpoints: &[String], key: &str, value: &str) -> HostResult<u64> {
        self.mutate("put_key", key, DEADLINE, |world| {
            world.etcd.reach(endpoints, "write a key of etcd")?;
            Ok(world.etcd.put_key(key, value))
        })
        .await
    }

    async fn member_status(&self, endpoint: &str) -> HostResult<EtcdStatus> {
        self.observe("member_status", endpoint, DEADLINE, |world| {
            let silent = || {
                let refused =
                    io::Error::new(io::ErrorKind::ConnectionRefused, "it does not answer");
                HostError::service(format!("reach {endpoint}"), refused)
            };
            let stated = world.etcd.states.get(endpoint).cloned();
            let own = || world.own_member().filter(|_| endpoint == OWN);
            stated.or_else(own).ok_or_else(silent)
        })
        .await
    }
}
