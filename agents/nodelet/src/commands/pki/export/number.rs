//! How many masters the cluster has after another one has joined: the members of etcd, and the hosts that may still join.
//!
//! etcd knows its members best: the file of masters is out of date while nodeletd does not run. The file and the Nodes only name a member that
//! has not started yet, because it has no name in etcd. Not here: which numbers are refused.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use engine::exec::{check_export, etcd_endpoints};
use engine::host::{ClusterAccess, EtcdMember, Host};
use engine::kubernetes::MASTER_LABEL;
use engine::kubernetes::etcd_members::removed;
use engine::kubernetes::masters::{self, MasterEntry, address_in, exported};
use engine::model::chain;

use super::{EXPORT, is_odd_in_the_end};
use crate::output::error_report;

/// The members of etcd, as masters.
pub(super) struct PresentMasters {
    /// Those whose name is known. The id is only known of a member that has started.
    pub(super) listed: Vec<MasterEntry>,
    /// How many others there are.
    nameless: usize,
}

impl PresentMasters {
    /// Asks etcd.
    ///
    /// # Errors
    /// etcd or the API server does not answer, or the file of masters is damaged.
    pub(super) async fn read(host: &dyn Host, access: &ClusterAccess) -> Result<Self> {
        let file = masters::read(host).await?;
        let members = host.member_list(&etcd_endpoints(&file)).await?;
        let of_file = file.into_iter().map(|its| (its.name, its.address));
        let mut names: Vec<(String, IpAddr)> = of_file.collect();
        for (name, node) in host.nodes(access).await? {
            if node.labels.contains_key(MASTER_LABEL) {
                let addresses = node.addresses.into_iter();
                names.extend(addresses.map(|address| (name.clone(), address)));
            }
        }
        Ok(Self::of(&members, &names))
    }

    /// `names` are the names of hosts that are or were masters, with their addresses.
    fn of(members: &[EtcdMember], names: &[(String, IpAddr)]) -> Self {
        let is_free = |name: &str| members.iter().all(|member| member.name != name);
        let entry = |member: &EtcdMember| {
            let mut urls = member.peer_urls.iter();
            let address = urls.find_map(|url| address_in(url))?;
            let has_started = !member.name.is_empty();
            let name = if has_started {
                member.name.clone()
            } else {
                let mut names = names.iter();
                let found = names.find(|(name, its)| *its == address && is_free(name))?;
                found.0.clone()
            };
            Some(MasterEntry {
                name,
                address,
                etcd_id: has_started.then_some(member.id),
                voter: !member.learner,
            })
        };
        let listed: Vec<MasterEntry> = members.iter().filter_map(entry).collect();
        Self {
            nameless: members.len() - listed.len(),
            listed,
        }
    }
}

/// The export of the keys to a host.
pub(super) struct Export<'e> {
    /// The name of this host's node.
    pub(super) own: &'e str,
    /// The name of the new master's node.
    pub(super) node: &'e str,
    /// The number of masters that the cluster is to have in the end.
    pub(super) of: Option<u8>,
    /// The authorities and the encryption keys.
    pub(super) keys: &'e [&'e str],
    /// The id of the member that has the name of the new master now.
    pub(super) member: Option<u64>,
    /// The end of the join file.
    pub(super) expires: SystemTime,
}

impl Export<'_> {
    /// How many masters the cluster has once this host and all that may still join have joined. Reads only.
    ///
    /// # Errors
    /// The number is refused, or etcd or the API server does not answer.
    pub(super) async fn number(&self, host: &dyn Host, access: &ClusterAccess) -> Result<usize> {
        let PresentMasters { listed, nameless } = PresentMasters::read(host, access).await?;
        let started = listed.iter();
        let started = started.filter_map(|its| Some((its.name.as_str(), its.etcd_id?)));
        let started: Vec<(&str, u64)> = started.collect();
        let mut awaited = exported::awaited(host, access, &started).await?;
        let names = listed.iter().map(|its| its.name.as_str());
        let mut present: BTreeSet<&str> = names.chain([self.own]).collect();
        present.remove(self.node);
        awaited.retain(|name, _| name != self.node && !present.contains(name.as_str()));
        let awaited: Vec<String> = awaited.into_keys().collect();
        let joining = awaited.len() + 1;
        // A member without a name is that of a host that joins.
        let number = present.len() + joining.max(nameless);
        is_odd_in_the_end(self.node, number, self.of, &awaited)?;
        Ok(number)
    }

    /// Notes the export for the other masters, and asks everything again: a replacement of keys or another export that begins in this moment
    /// sees the note, or this sees it. If the export is refused now, the note is taken back. If not, the host may join, also if it was removed
    /// before. Returns the number of masters.
    ///
    /// # Errors
    /// As [`Self::number`], a key is being replaced, or the note cannot be written.
    pub(super) async fn note(&self, host: &dyn Host, access: &ClusterAccess) -> Result<usize> {
        let node = self.node;
        let noted = exported::note(host, access, node, self.member, self.expires)
            .await
            .with_context(|| format!("{EXPORT} `{node}`: tell the other masters"))?;
        let checked = self.permit(host, access, noted.until()).await;
        if checked.is_err()
            && let Err(error) = exported::restore(host, access, node, &noted).await
        {
            error_report::say(&format!(
                "nodelet: warning: the other masters wait for `{node}` until the end of the file that was not made: {}",
                chain(&error).join(": ")
            ));
        }
        checked
    }

    async fn permit(
        &self,
        host: &dyn Host,
        access: &ClusterAccess,
        until: SystemTime,
    ) -> Result<usize> {
        let number = self.check(host, access).await?;
        let endpoints = etcd_endpoints(&masters::read(host).await?);
        removed::permit(host, &endpoints, self.node, until)
            .await
            .with_context(|| format!("{EXPORT} `{}`: let it join etcd", self.node))?;
        Ok(number)
    }

    async fn check(&self, host: &dyn Host, access: &ClusterAccess) -> Result<usize> {
        check_export(host, access, self.keys).await?;
        self.number(host, access).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine::host::fake::FakeHost;
    use engine::host::{Clock as _, ClusterNode};
    use engine::kubernetes::etcd_members::OWN_ENDPOINT;
    use engine::kubernetes::etcd_members::removed::Standing;
    use engine::kubernetes::masters::MASTERS;

    use super::*;

    const KUBECONFIG: &str = "/etc/kubeconfig";
    const HOUR: Duration = Duration::from_secs(3600);
    /// This host does not know of `cp-2` yet.
    const OUTDATED: &str =
        r#"{"version":1,"masters":[{"name":"cp-1","address":"172.30.0.11","voter":true}]}"#;

    fn access() -> ClusterAccess {
        ClusterAccess::with(KUBECONFIG.as_ref())
    }

    /// The first of two masters.
    fn host() -> FakeHost {
        let host = FakeHost::new()
            .with_file(MASTERS, OUTDATED)
            .with_file(KUBECONFIG, "")
            .with_kubernetes(|rules| rules.remote_api = true);
        host.with_world_mut(|world| {
            world.etcd.voter("cp-1", "172.30.0.11", 11);
            world.etcd.voter("cp-2", "172.30.0.12", 12);
            let own = world.etcd.states["https://172.30.0.11:4001"].clone();
            world.etcd.states.insert(OWN_ENDPOINT.to_owned(), own);
        });
        host
    }

    fn export<'e>(host: &FakeHost, node: &'e str) -> Export<'e> {
        Export {
            own: "cp-1",
            node,
            of: None,
            keys: &[],
            member: None,
            expires: host.now() + 2 * HOUR,
        }
    }

    async fn number(host: &FakeHost, node: &str) -> Result<usize> {
        export(host, node).number(host, &access()).await
    }

    #[tokio::test]
    async fn the_members_of_etcd_count_and_not_those_of_an_outdated_file() {
        let host = host();
        assert_eq!(number(&host, "cp-3").await.expect("it is odd"), 3);
        host.with_world_mut(|world| world.etcd.voter("cp-3", "172.30.0.13", 13));
        let refused = number(&host, "cp-4").await.expect_err("four are even");
        assert!(refused.to_string().contains("--of 5"), "{refused}");
        assert_eq!(number(&host, "cp-3").await.expect("it is replaced"), 3);
    }

    /// It is that of the host which joins, unless a Node has its address.
    #[tokio::test]
    async fn a_member_without_a_name_counts_once() {
        let host = host();
        let nameless = |id, address: &str| EtcdMember {
            id,
            name: String::new(),
            peer_urls: vec![format!("https://{address}:2380")],
            client_urls: Vec::new(),
            learner: true,
        };
        let first = nameless(13, "172.30.0.13");
        host.with_world_mut(|world| world.etcd.members.push(first));
        assert_eq!(number(&host, "cp-3").await.expect("it is odd"), 3);
        let node = ClusterNode {
            labels: [(MASTER_LABEL.to_owned(), String::new())].into(),
            addresses: vec!["172.30.0.13".parse().expect("an address")],
            ..ClusterNode::default()
        };
        host.with_world_mut(|world| world.node("cp-3", node));
        assert_eq!(number(&host, "cp-3").await.expect("it is odd"), 3);
        number(&host, "cp-4").await.expect_err("four are even");
        // Two hosts join.
        let second = nameless(14, "172.30.0.14");
        let third = nameless(15, "172.30.0.15");
        host.with_world_mut(|world| world.etcd.members.extend([second, third]));
        assert_eq!(number(&host, "cp-4").await.expect("it is odd"), 5);
    }

    /// Another master has noted its host after the first question of this one.
    #[tokio::test]
    async fn an_export_at_the_same_time_is_refused_and_its_note_taken_back() {
        for earlier in [false, true] {
            let (host, access) = (host(), access());
            let end = host.now() + HOUR;
            if earlier {
                let noted = exported::note(&host, &access, "cp-3", None, end).await;
                noted.expect("it answers");
            }
            let its = export(&host, "cp-3");
            its.number(&host, &access).await.expect("it is odd");
            let noted = exported::note(&host, &access, "cp-4", None, end).await;
            noted.expect("it answers");
            let refused = its.note(&host, &access).await.expect_err("four are even");
            assert!(refused.to_string().contains("with cp-4"), "{refused}");
            let awaited = exported::awaited(&host, &access, &[]).await;
            let awaited = awaited.expect("it answers");
            let expected = earlier.then_some(end);
            assert_eq!(awaited.get("cp-3").copied(), expected);
            assert!(awaited.contains_key("cp-4"));
        }
    }

    #[tokio::test]
    async fn an_export_that_is_allowed_stays_noted() {
        let (host, access) = (host(), access());
        let endpoints = etcd_endpoints(&[]);
        let marked = removed::mark(&host, &endpoints, "cp-3").await;
        marked.expect("it answers");
        let noted = export(&host, "cp-3").note(&host, &access).await;
        assert_eq!(noted.expect("it is odd"), 3);
        let standing = removed::standing(&host, &endpoints, "cp-3").await;
        assert!(matches!(standing, Ok(Standing::MayJoin { mark: Some(_) })));
        let awaited = exported::awaited(&host, &access, &[]).await;
        assert!(awaited.expect("it answers").contains_key("cp-3"));
    }
}
