//! The masters of the cluster: how the file that lists them is read and written, and what the members of etcd say of them.
//!
//! The members of etcd are the truth. The file is their copy, so that a master knows the others while etcd does not answer. A master without the
//! file asks its own member; a plan from facts without masters is that of an only master. Start with [`members`].

pub mod exported;
pub mod settings;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use crate::facts::{MASTERS, MOST_MASTERS, MasterEntry, MastersError};
use crate::facts::{MASTERS_BYTES, MASTERS_REMEDY, checked_masters, masters_from, masters_text};
use crate::host::{Attributes, Host, HostError, HostResult, HttpsRequest};
use crate::kubernetes::etcd_members::{OWN_ENDPOINT, client_url, peer_url};

/// This file is there while the list was written and keepalived may not have it yet.
pub const PENDING: &str = "/var/opt/pf9/nodelet/masters.pending";
/// Mode and owner of the file and of its mark.
const PRIVATE: Attributes = Attributes::root(0o600);
/// The certificates with which a master asks its own member, and the roots that it trusts. The member answers clients and peers with
/// certificates of the same authority.
const CLIENT: &str = "/etc/pf9/kube.d/certs/etcdctl/etcd";
const PEER: &str = "/etc/pf9/kube.d/certs/etcd/peer";
/// Bound on one answer of etcd. A member without quorum answers after its own deadline, which is longer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A member of etcd, as it describes itself to other members. etcd adds fields from version to version.
#[derive(Debug, Deserialize)]
struct Member {
    id: u64,
    #[serde(default)]
    name: String,
    #[serde(rename = "peerURLs", default)]
    peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default)]
    is_learner: bool,
}

/// The masters that the file on this host lists, sorted by name; none if there is no file. Cancel safe.
///
/// # Errors
/// The file cannot be read, or is damaged.
pub async fn read(host: &dyn Host) -> HostResult<Vec<MasterEntry>> {
    match host.read(Path::new(MASTERS), MASTERS_BYTES).await? {
        None => Ok(Vec::new()),
        Some(content) => masters_from(&String::from_utf8_lossy(&content)).map_err(|error| {
            HostError::refused(
                format!("use {MASTERS}"),
                format!("{error}; {MASTERS_REMEDY}"),
            )
        }),
    }
}

/// The masters in a file with this content, sorted by name.
///
/// # Errors
/// It is damaged, of another format, or its masters cannot be those of a cluster.
pub fn parse(content: &[u8]) -> Result<Vec<MasterEntry>, MastersError> {
    masters_from(&String::from_utf8_lossy(content))
}

/// The content of the file for these masters.
///
/// # Errors
/// They cannot be the masters of a cluster.
pub fn render(masters: &[MasterEntry]) -> Result<Vec<u8>, MastersError> {
    masters_text(masters).map(String::into_bytes)
}

/// Checks that these can be the masters of a cluster.
///
/// # Errors
/// There are too many, a name or an address cannot be that of a master, or two are the same.
pub fn check(masters: &[MasterEntry]) -> Result<(), MastersError> {
    checked_masters(masters.to_vec()).map(drop)
}

/// Writes the file (mode 0600), in one step.
///
/// # Errors
/// These cannot be the masters of a cluster, or the file cannot be written.
///
/// # Cancel safety
/// The file has its earlier content or the new one.
pub async fn write(host: &dyn Host, masters: &[MasterEntry]) -> HostResult<()> {
    let text = masters_text(masters)
        .map_err(|error| HostError::refused(format!("write {MASTERS}"), error))?;
    host.write(Path::new(MASTERS), text.as_bytes(), PRIVATE)
        .await
}

/// Whether the file is not this list, or other users may read it, or keepalived may not have it yet. A file that cannot be read is out of
/// date. Cancel safe.
pub async fn is_outdated(host: &dyn Host, masters: &[MasterEntry]) -> bool {
    let is_settled = matches!(host.entry(Path::new(PENDING)).await, Ok(None));
    let is_private = match host.entry(Path::new(MASTERS)).await {
        Ok(Some(entry)) => entry.attributes == PRIVATE,
        Ok(None) | Err(_) => false,
    };
    !is_settled || !is_private || read(host).await.ok().as_deref() != Some(masters)
}

/// Writes the file, and before it the mark that keepalived does not have the list yet. [`settle`] removes the mark.
///
/// # Errors
/// As for [`write()`]. The mark may be there then.
///
/// # Cancel safety
/// The file has its earlier content or the new one. If it has the new one, the mark is there.
pub async fn write_pending(host: &dyn Host, masters: &[MasterEntry]) -> HostResult<()> {
    host.write(Path::new(PENDING), b"", PRIVATE).await?;
    write(host, masters).await
}

/// Removes the mark: keepalived has the list, or is not set up on this host. Cancel safe.
///
/// # Errors
/// The mark cannot be removed.
pub async fn settle(host: &dyn Host) -> HostResult<()> {
    let mark = Path::new(PENDING);
    match host.entry(mark).await? {
        Some(_) => host.remove(mark).await,
        None => Ok(()),
    }
}

/// The masters as this host's own member of etcd lists its cluster. `address` is the one at which it answers other members. Cancel safe.
///
/// The list is not older than the call: before it is read, the member has shown that it has quorum. That question goes through the whole
/// cluster, so the member has seen every change that was made before. A member that was added and has not started yet has no name, and is left
/// out.
///
/// # Errors
/// The member does not answer or has no quorum, or its list cannot be that of a cluster's masters.
pub async fn members(host: &dyn Host, address: IpAddr) -> HostResult<Vec<MasterEntry>> {
    let health = format!("{OWN_ENDPOINT}/health?exclude=NOSPACE");
    let answer = ask(host, &health, CLIENT).await?;
    if !answer.contains(r#""health":"true""#) {
        let why = "it has no quorum, so its list may be old";
        return Err(HostError::service("list the members of etcd", why));
    }
    let url = format!("{}/members", peer_url(address));
    let list = ask(host, &url, PEER).await?;
    masters_of(&list).map_err(|why| HostError::service("list the members of etcd", why))
}

/// Whether this host's own member answers other members at this URL, for example `https://172.30.0.11:2380`. It does so also while it waits
/// for a leader after its start. Cancel safe.
pub async fn answers_peers(host: &dyn Host, peer: &str) -> bool {
    ask(host, &format!("{peer}/version"), PEER).await.is_ok()
}

/// The answer of this host's own member.
async fn ask(host: &dyn Host, url: &str, certificate: &str) -> HostResult<String> {
    let file = |name: &str| PathBuf::from(certificate).join(name);
    let request = HttpsRequest {
        url: url.to_owned(),
        ca: Some(file("ca.crt")),
        client: Some((file("request.crt"), file("request.key"))),
        timeout: TIMEOUT,
    };
    let response = host.https_get(&request).await?;
    if response.status != 200 {
        let why = format!("it answers {}", response.status);
        return Err(HostError::service(format!("get {url}"), why));
    }
    Ok(response.body)
}

/// The masters of a list of members.
fn masters_of(list: &str) -> Result<Vec<MasterEntry>, String> {
    let members: Vec<Member> =
        serde_json::from_str(list).map_err(|error| format!("it is no list of members: {error}"))?;
    let started = members.into_iter().filter(|member| !member.name.is_empty());
    let masters: Result<Vec<MasterEntry>, String> = started
        .map(|member| {
            let url = member.peer_urls.first().map_or("", String::as_str);
            let address = address_in(url).ok_or_else(|| {
                let name = member.name.escape_debug();
                format!(
                    "member {name} has no address in its URL `{}`",
                    url.escape_debug()
                )
            })?;
            Ok(MasterEntry {
                name: member.name,
                address,
                etcd_id: Some(member.id),
                voter: !member.is_learner,
            })
        })
        .collect();
    let masters = checked_masters(masters?).map_err(|error| error.to_string())?;
    if masters.is_empty() {
        return Err("no member has a name".to_owned());
    }
    Ok(masters)
}

/// The address in a URL such as `https://172.30.0.11:2380`; `None` if it has a name.
#[must_use]
pub fn address_in(url: &str) -> Option<IpAddr> {
    let place: SocketAddr = url.strip_prefix("https://")?.parse().ok()?;
    Some(place.ip())
}

/// The address in a URL such as `https://172.30.0.11/version`, with or without a port; `None` if it has a name.
#[must_use]
pub fn host_address(url: &str) -> Option<IpAddr> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next(),
        None => rest.split([':', '/']).next(),
    };
    host?.parse().ok()
}

/// The endpoints of the members of all these masters but the one of this name.
#[must_use]
pub fn endpoints_of_others(masters: &[MasterEntry], name: &str) -> Vec<String> {
    let others = masters.iter().filter(|one| one.name != name);
    others.map(|one| client_url(one.address)).collect()
}

/// What an operator should know about the number of voters; `None` if there is nothing to say. An even number tolerates no more failures than
/// one voter less, and is normal only while a master joins or leaves.
#[must_use]
pub fn even_voters(masters: &[MasterEntry]) -> Option<String> {
    let voters = masters.iter().filter(|master| master.voter);
    let names: Vec<&str> = voters.map(|master| master.name.as_str()).collect();
    (!names.is_empty() && names.len().is_multiple_of(2)).then(|| {
        format!(
            "etcd has {} voters ({}): an even number tolerates no more failures than one less; add or remove a master",
            names.len(),
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Files as _;
    use crate::host::fake::{FakeHost, FaultPlan};

    const LIST: &str = r#"[
        {"id":10501334649042878790,"peerURLs":["https://172.30.0.12:2380"],"name":"cp-2","clientURLs":["https://172.30.0.12:4001"]},
        {"id":2,"peerURLs":["https://172.30.0.11:2380"],"name":"cp-1","clientURLs":[]},
        {"id":3,"peerURLs":["https://172.30.0.13:2380"],"name":"cp-3","isLearner":true},
        {"id":4,"peerURLs":["https://172.30.0.14:2380"],"isLearner":true}]"#;

    fn own() -> IpAddr {
        "172.30.0.11".parse().unwrap()
    }

    /// A master whose member says this of its health and of its cluster.
    fn master(health: &str, list: &str) -> FakeHost {
        let mut host = FakeHost::new()
            .with_endpoint("127.0.0.1:4001", 200, health)
            .with_endpoint("172.30.0.11:2380", 200, list)
            .with_directory("/var/opt/pf9/nodelet");
        for directory in [CLIENT, PEER] {
            for file in ["ca.crt", "request.crt", "request.key"] {
                host = host.with_file(format!("{directory}/{file}"), "pem");
            }
        }
        host
    }

    #[tokio::test]
    async fn masters_are_the_members_that_have_started() {
        let host = master(r#"{"health":"true"}"#, LIST);
        let masters = members(&host, own()).await.unwrap();
        let shown: Vec<String> = masters
            .iter()
            .map(|one| {
                format!(
                    "{} {} {:x?} {}",
                    one.name, one.address, one.etcd_id, one.voter
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "cp-1 172.30.0.11 Some(2) true",
                "cp-2 172.30.0.12 Some(91bc3c398fb3c146) true",
                "cp-3 172.30.0.13 Some(3) false",
            ]
        );
        write(&host, &masters).await.unwrap();
        assert_eq!(read(&host).await.unwrap(), masters);
        let entry = host.entry(Path::new(MASTERS)).await.unwrap();
        assert_eq!(entry.expect("it is there").attributes.mode, 0o600);
    }

    /// A member that is cut off from the others lists those that it knew then.
    #[tokio::test]
    async fn a_member_without_quorum_is_not_believed() {
        let host = master(r#"{"health":"false"}"#, LIST);
        let error = members(&host, own()).await.unwrap_err();
        let said = crate::model::chain(&error).join(": ");
        assert!(said.contains("no quorum"), "{said}");
    }

    #[tokio::test]
    async fn lists_that_no_cluster_has_are_refused() {
        for (list, says) in [
            ("{}", "no list of members"),
            ("[]", "no member has a name"),
            (r#"[{"id":1,"name":"a"}]"#, "member a has no address"),
            (
                r#"[{"id":1,"name":"a","peerURLs":["https://a.example:2380"]}]"#,
                "no address in its URL",
            ),
            (
                r#"[{"id":1,"name":"a","peerURLs":["https://[fd00::1]:2380"]},{"id":2,"name":"a","peerURLs":["https://[fd00::2]:2380"]}]"#,
                "two masters have the name a",
            ),
        ] {
            let host = master(r#"{"health":"true"}"#, list);
            let error = members(&host, own()).await.unwrap_err();
            let said = crate::model::chain(&error).join(": ");
            assert!(said.contains(says), "{said}");
        }
    }

    #[tokio::test]
    async fn a_missing_file_lists_none_and_a_damaged_one_is_an_error() {
        let host = FakeHost::new();
        assert_eq!(read(&host).await.unwrap(), Vec::new());
        let damaged = host.with_file(MASTERS, "{");
        let error = read(&damaged).await.unwrap_err();
        let said = crate::model::chain(&error).join(": ");
        assert!(said.contains("`nodelet masters --address"), "{said}");
        assert!(said.contains("file of another master"), "{said}");
    }

    /// The command may fail or be killed before keepalived has the new list: then it is tried again.
    #[tokio::test]
    async fn a_list_that_keepalived_does_not_have_is_out_of_date() {
        let host = master(r#"{"health":"true"}"#, LIST);
        let masters = members(&host, own()).await.unwrap();
        assert!(is_outdated(&host, &masters).await, "there is no list");
        write_pending(&host, &masters).await.unwrap();
        assert_eq!(read(&host).await.unwrap(), masters);
        assert!(is_outdated(&host, &masters).await, "it is not applied");
        settle(&host).await.unwrap();
        assert!(!is_outdated(&host, &masters).await);
        assert!(is_outdated(&host, &masters[1..]).await, "one has left");
        let text = host.with_world(|world| world.text(MASTERS));
        let text = text.expect("it is there");
        host.with_world_mut(|world| world.file_with_mode(MASTERS, text, 0o644));
        assert!(is_outdated(&host, &masters).await, "others may read it");
        host.clear_journal();
        settle(&host).await.unwrap();
        assert_eq!(host.mutations(), 0);
        let damaged = host.with_file(MASTERS, "{");
        assert!(is_outdated(&damaged, &masters).await);
    }

    /// The mark comes first, so a crash leaves no list without it.
    #[tokio::test]
    async fn no_crash_leaves_a_new_list_that_looks_applied() {
        for plan in [
            FaultPlan::none().crash_before(2),
            FaultPlan::none().crash_after(2),
        ] {
            let host = master(r#"{"health":"true"}"#, LIST);
            let masters = members(&host, own()).await.unwrap();
            host.set_faults(plan);
            write_pending(&host, &masters).await.unwrap_err();
            host.end_crash();
            assert!(is_outdated(&host, &masters).await);
        }
    }

    #[test]
    fn the_address_in_a_url_needs_no_port() {
        for (url, address) in [
            ("https://172.30.0.11:443", Some("172.30.0.11")),
            ("https://172.30.0.11/version", Some("172.30.0.11")),
            ("https://[fd00::1]:443", Some("fd00::1")),
            ("https://api.example.com:443", None),
            ("https://", None),
        ] {
            let shown = host_address(url).map(|its| its.to_string());
            assert_eq!(shown.as_deref(), address, "{url}");
        }
    }

    #[test]
    fn an_even_number_of_voters_is_named() {
        let masters = masters_of(LIST).unwrap();
        let note = even_voters(&masters).expect("two vote");
        assert!(note.contains("2 voters (cp-1, cp-2)"), "{note}");
        assert_eq!(even_voters(&masters[..1]), None);
        assert_eq!(even_voters(&[]), None);
    }
}
