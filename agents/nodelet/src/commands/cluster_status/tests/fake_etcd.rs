//! What members of etcd answer.

use std::collections::BTreeMap;

use anyhow::anyhow;

use crate::commands::cluster_status::etcd::AskEtcd;
use crate::etcd::{EtcdMember, EtcdStatus, MEMBER};

/// An etcd of three members. A member without a status never answers.
#[derive(Clone)]
pub(super) struct FakeEtcd {
    pub(super) members: Vec<EtcdMember>,
    pub(super) states: BTreeMap<String, EtcdStatus>,
    /// Whether the member of this host answers.
    pub(super) here: bool,
}

impl FakeEtcd {
    /// All members answer.
    pub(super) fn healthy() -> Self {
        let mut all = Self {
            members: Vec::new(),
            states: BTreeMap::new(),
            here: true,
        };
        for (number, id) in [(1, 0xa1_u64), (2, 0xa2), (3, 0xa3)] {
            let url = url(number);
            all.members.push(EtcdMember {
                id,
                name: format!("cp-{number}"),
                url: Some(url.clone()),
                is_learner: false,
            });
            all.states.insert(url, state(id, 0xa2, 5000 - number));
        }
        all
    }

    /// Changes what the member with this number answers.
    pub(super) fn change(mut self, number: u64, change: impl FnOnce(&mut EtcdStatus)) -> Self {
        change(
            self.states
                .get_mut(&url(number))
                .expect("the member is there"),
        );
        self
    }

    async fn reach(&self, url: &str) -> anyhow::Result<()> {
        if url == MEMBER && !self.here {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// The URL of the member with this number.
pub(super) fn url(number: u64) -> String {
    format!("https://172.30.0.1{number}:4001")
}

/// What a healthy member answers.
pub(super) fn state(member_id: u64, leader: u64, raft_index: u64) -> EtcdStatus {
    EtcdStatus {
        version: "3.4.23".to_owned(),
        size: 21 << 20,
        cluster_id: 7,
        member_id,
        leader,
        raft_term: 4,
        raft_index,
        errors: Vec::new(),
    }
}

impl AskEtcd for FakeEtcd {
    async fn members(&self, url: &str) -> anyhow::Result<Vec<EtcdMember>> {
        self.reach(url).await?;
        Ok(self.members.clone())
    }

    async fn status(&self, url: &str) -> anyhow::Result<EtcdStatus> {
        match self.states.get(url) {
            Some(state) => Ok(state.clone()),
            None => std::future::pending().await,
        }
    }

    async fn alarms(&self, url: &str) -> anyhow::Result<Vec<String>> {
        self.reach(url).await?;
        Ok(Vec::new())
    }

    async fn cluster(&self, url: &str) -> anyhow::Result<Option<String>> {
        self.reach(url).await?;
        match self.states.values().any(|state| state.leader != 0) {
            true => Ok(Some("u".to_owned())),
            false => Err(anyhow!("etcdserver: no leader")),
        }
    }
}
