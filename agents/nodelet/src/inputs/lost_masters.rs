//! The masters of a host that has no list of them: it was lost, or this is the only master, or no master yet.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use engine::facts::{MASTERS, MasterEntry};
use engine::host::Host;
use engine::kubernetes::join_file::masters_to_join;
use engine::kubernetes::masters::members;
use engine::model::chain;

/// What names the other masters, too, if they share a virtual IP: the check script of keepalived. Its configuration may be one of another owner.
const CHECK_SCRIPT: &str = "/etc/keepalived/check-apiserver";
/// The begin of the question to another master in it (`phases/templates/keepalived/check-apiserver.tmpl`).
const ASKS_OTHER: &str = " asks 1 ";
/// Bound on this file, in bytes.
const LIMIT: u64 = 64 << 10;
/// Timeout of the questions to etcd.
const ANSWER: Duration = Duration::from_secs(8);

/// The masters as this host's own member of etcd names them; on a host that is to join, those of its join file for a node with one of these names; otherwise none.
///
/// # Errors
/// There are other masters, and it is not known which: a plan without them would take them for strangers.
pub(super) async fn masters_without_list(
    host: &dyn Host,
    address: Option<IpAddr>,
    names: &[String],
) -> Result<Vec<MasterEntry>, String> {
    let why = match address {
        None => "this host has no address".to_owned(),
        Some(address) => match tokio::time::timeout(ANSWER, members(host, address)).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => format!("could not {}", chain(&error).join(": ")),
            Err(_) => format!("it did not answer within {} s", ANSWER.as_secs()),
        },
    };
    let to_join = masters_to_join(host, names).await;
    if !to_join.is_empty() || !has_peers(host).await {
        return Ok(to_join);
    }
    Err(format!(
        "{MASTERS} is missing, {CHECK_SCRIPT} has other masters, and this host's member of etcd does not name them: {why}; if this is the only master now, move {CHECK_SCRIPT} away"
    ))
}

/// Whether keepalived of this host knows other masters.
async fn has_peers(host: &dyn Host) -> bool {
    let read = host.read(Path::new(CHECK_SCRIPT), LIMIT).await;
    let content = read.ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&content).contains(ASKS_OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::host::fake::FakeHost;

    const LIST: &str = r#"[
        {"id":1,"peerURLs":["https://172.30.0.11:2380"],"name":"cp-1","clientURLs":[]},
        {"id":2,"peerURLs":["https://172.30.0.12:2380"],"name":"cp-2","clientURLs":[]}]"#;

    /// A master whose member of etcd has this health.
    fn master(health: &str) -> FakeHost {
        let mut host = FakeHost::new()
            .with_endpoint("127.0.0.1:4001", 200, health)
            .with_endpoint("172.30.0.11:2380", 200, LIST);
        for directory in ["etcdctl/etcd", "etcd/peer"] {
            for file in ["ca.crt", "request.crt", "request.key"] {
                let path = format!("/etc/pf9/kube.d/certs/{directory}/{file}");
                host = host.with_file(path, "pem");
            }
        }
        host
    }

    #[tokio::test(start_paused = true)]
    async fn a_master_that_has_lost_its_list_is_not_the_only_one() {
        let names = ["cp-1".to_owned()];
        let found = async |host: &FakeHost| {
            masters_without_list(host, "172.30.0.11".parse().ok(), &names).await
        };
        let count = |found: Result<Vec<MasterEntry>, String>| found.map(|all| all.len());
        let template = include_str!("../../../../phases/templates/keepalived/check-apiserver.tmpl");
        let (before, rest) = template.split_once("{% for").expect("a loop");
        let (others, after) = rest.split_once("{% endfor %}").expect("its end");
        assert!(others.contains(ASKS_OTHER), "{template}");
        let alone = [before, after].concat();
        let healthy = master(r#"{"health":"true"}"#).with_file(CHECK_SCRIPT, template);
        assert_eq!(count(found(&healthy).await), Ok(2));

        let silent = master(r#"{"health":"false"}"#);
        assert_eq!(count(found(&silent).await), Ok(0), "it may be alone");
        let silent = silent.with_file(CHECK_SCRIPT, alone);
        assert_eq!(count(found(&silent).await), Ok(0), "it is alone");
        let silent = silent.with_file(CHECK_SCRIPT, template);
        let why = found(&silent).await.expect_err("it is not alone");
        for part in [MASTERS, "it has no quorum", "move /etc/keepalived"] {
            assert!(why.contains(part), "{why}");
        }
        // A host that was never set up.
        assert_eq!(count(found(&FakeHost::new()).await), Ok(0));
    }
}
