//! `nodelet pki issue`: admits a node to the cluster of this master, and writes its join file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use engine::exec::reserved_for_api_servers;
use engine::host::live::LiveHost;
use engine::host::{ClusterAccess, ClusterNode, Host};
use engine::kubernetes::MASTER_LABEL;
use engine::kubernetes::admission::{
    Admission, NewToken, admission, admissions, admit, check_taints, end_of,
};
use engine::kubernetes::join_file::{FileKind, JoinContent as _, JoinFile, JoinKind, Token};
use engine::kubernetes::masters::{self, MasterEntry};
use engine::kubernetes::node_request::Reserved;
use engine::kubernetes::workers::keep_taints_of;
use engine::model::chain;
use engine::resource::pki::Authority;

use super::export::{addresses_of_others, own_entry};
use super::made_file::{
    MadeFile, api_of, earlier_host, has_left, is_free, is_name, may_return, nodes, seconds, taken,
};
use crate::cli::{LOCAL_ADMIN, PkiIssueArgs};
use crate::commands::run::unchanged;
use crate::inputs;
use crate::output::error_report;
use crate::output::exit::{Exit, WrongArguments};

/// What the command does, for messages.
const ADMIT: &str = "admit";

pub(crate) async fn issue(args: &PkiIssueArgs) -> Result<Exit> {
    is_name(ADMIT, &args.node)?;
    if let Err(why) = check_taints(&args.taint) {
        return Err(WrongArguments(format!("admit `{}`: {why}", args.node)).into());
    }
    let host = LiveHost::new();
    let inputs = inputs::read(&args.file.role, &host).await?;
    // The join file has settings of this host, and the name of its node.
    unchanged(&args.file.role, &host, &inputs).await?;
    let api = api_of(ADMIT, &inputs.plan)?;
    let authority = Authority::read(&host, "cluster").await?;
    let authority = authority.filter(Authority::can_sign);
    let authority = authority.context(
        "admit a node: the key of the cluster's authority is not on this host; run this on a master",
    )?;
    let access = ClusterAccess::with(Path::new(LOCAL_ADMIN));
    let nodes = nodes(ADMIT, &args.node, &host, &access).await?;
    let reserved = reserved_for_api_servers(&host).await?;
    is_free(ADMIT, &args.node, &reserved)?;
    is_no_master(&args.node, &reserved)?;
    may_join(&args.node, args.replace, &nodes)?;
    let now = SystemTime::now();
    let record = admission(&host, &access, &args.node).await?;
    may_return(ADMIT, &args.node, args.replace, record.as_ref(), now)?;
    if !args.replace && !nodes.contains_key(&args.node) {
        is_not_deleted(&args.node, record.as_ref())?;
    }
    is_not_awaited(&host, &access, &args.node).await?;
    let expires = end_of(now, args.file.sealed.valid_for);
    let authorities = str::from_utf8(authority.pem()).context("read the cluster's authority")?;
    let token = Token::random().context("admit a node")?;
    let mut file = JoinFile::new(&args.node, &api, authorities, token, seconds(expires));
    let workers = admissions(&host, &access).await?.records;
    file.issued = Some(seconds(now));
    name_others(&mut file, &own_entry(&inputs.plan)?, &reserved, &workers);
    file.settings = inputs.settings().shared();
    // Sealed first: a mistake in the key of the host must not end an earlier token.
    let made = MadeFile {
        output: args.file.sealed.output.as_deref(),
        json: args.file.role.json,
        kind: FileKind::Join(JoinKind::Worker),
        name: &args.node,
        sealed: file.seal(&args.file.sealed.to).context("admit a node")?,
        expires,
    };
    let new = NewToken {
        token: &file.token,
        now,
        expires,
        replaces: args.replace,
        taints: (!args.taint.is_empty()).then_some(args.taint.as_slice()),
    };
    // Written first: if that fails, the earlier join file must still be valid.
    made.save()?;
    let admitted = admit(&host, &access, &args.node, &new).await;
    admitted.with_context(|| match &args.file.sealed.output {
        Some(path) => format!(
            "admit node {}: {} may not be valid; run the command again",
            args.node,
            path.display()
        ),
        None => format!("admit node {}", args.node),
    })?;
    made.report(("token_id", file.token.id().into()));
    if let Some(text) = earlier_host(&args.node, args.replace) {
        error_report::say(&format!("nodelet: warning: {text}"));
    }
    // Masters may look at a node that is already there only minutes later.
    if let Err(error) = keep_taints_of(&host, &access, &args.node).await {
        let why = chain(&error).join(": ");
        error_report::say(&format!(
            "nodelet: warning: node {} is admitted, and may not have all taints yet: could not {why}; nodeletd on the masters tries again when it next looks at the node",
            args.node
        ));
    }
    Ok(Exit::Ok)
}

/// Names the masters and the other workers in the file, for the host that joins to compare their addresses with its own.
fn name_others(
    file: &mut JoinFile,
    own: &MasterEntry,
    reserved: &Reserved,
    workers: &BTreeMap<String, Admission>,
) {
    file.masters = masters_of(own.address, reserved);
    let node = file.node.clone();
    let listed = reserved.masters.iter();
    let listed = listed.map(|(name, address)| (name.as_str(), *address));
    let others = addresses_of_others(&node, workers);
    // The masters first: there may be no room for all.
    file.add_addresses([(own.name.as_str(), own.address)]);
    file.add_addresses(listed.chain(others));
}

/// The addresses of all masters, each once. A master that is alone has no list.
fn masters_of(own: IpAddr, reserved: &Reserved) -> Vec<IpAddr> {
    let known = reserved.masters.values().copied();
    let all: BTreeSet<IpAddr> = known.chain([own]).collect();
    all.into_iter().collect()
}

/// Refuses the names and addresses of masters that this master knows, also if they have no Node.
fn is_no_master(node: &str, reserved: &Reserved) -> Result<()> {
    if reserved.masters.contains_key(node) {
        bail!("admit `{node}`: it is a master of this cluster");
    }
    let address: Option<IpAddr> = node.parse().ok();
    if address.is_some_and(|address| reserved.masters.values().any(|its| *its == address)) {
        bail!("admit `{node}`: it is the address of a master of this cluster");
    }
    Ok(())
}

/// Refuses the name of a worker that has joined and has not left, and whose node was deleted: its host may still have a valid certificate, and
/// would share the node with the new one.
fn is_not_deleted(node: &str, record: Option<&Admission>) -> Result<()> {
    if record.is_some_and(Admission::is_member) {
        bail!(
            "admit `{node}`: a worker of this name has joined, and its node was deleted; `nodelet repair kubelet` on its host registers it again; `nodelet cluster remove {node}` removes it; `--replace` if its host is gone and another one takes its place"
        );
    }
    Ok(())
}

/// Refuses the name of a host that may still join as a master.
async fn is_not_awaited(host: &dyn Host, access: &ClusterAccess, node: &str) -> Result<()> {
    let known = masters::read(host).await?;
    let members = known
        .iter()
        .filter_map(|its| Some((its.name.as_str(), its.etcd_id?)));
    let members: Vec<(&str, u64)> = members.collect();
    let awaited = masters::exported::awaited(host, access, &members).await?;
    if awaited.contains_key(node) {
        bail!(
            "admit `{node}`: the keys of the cluster were exported to this host, and it may still join as a master; {}",
            masters::exported::next_step(node)
        );
    }
    Ok(())
}

/// Refuses names of nodes that a new worker would take over.
fn may_join(node: &str, replace: bool, nodes: &BTreeMap<String, ClusterNode>) -> Result<()> {
    let Some(present) = nodes.get(node) else {
        return Ok(());
    };
    if present.labels.contains_key(MASTER_LABEL) {
        bail!("admit `{node}`: it is a master of this cluster");
    }
    if replace || has_left(present) {
        return Ok(());
    }
    bail!("admit `{node}`: {}", taken(node, present))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine::host::Clock as _;
    use engine::host::fake::FakeHost;
    use engine::kubernetes::admission::{CertificateKind, RemovedNode};
    use engine::kubernetes::workers::LEFT;

    use super::*;

    #[test]
    fn the_file_names_each_master_once() {
        let own = IpAddr::from([10, 0, 0, 1]);
        let names = (1..=5).map(|n| (format!("cp-{n}"), IpAddr::from([10, 0, 0, n])));
        let mut reserved = Reserved::default();
        assert_eq!(masters_of(own, &reserved), [own]);
        reserved.masters = names.collect();
        assert_eq!(masters_of(own, &reserved).len(), 5);
    }

    #[test]
    fn the_new_worker_learns_which_addresses_are_taken() {
        let of = |last| IpAddr::from([10, 0, 0, last]);
        let worker = |node: &str, last| {
            let record = Admission {
                node: node.to_owned(),
                address: Some(of(last)),
                ..Admission::default()
            };
            (node.to_owned(), record)
        };
        let mut workers = BTreeMap::from([worker("w-1", 21), worker("w-2", 22), worker("w-3", 23)]);
        workers.get_mut("w-3").expect("it is there").removed = Some(RemovedNode {
            at: SystemTime::UNIX_EPOCH,
            uid: String::new(),
        });
        let reserved = Reserved {
            masters: [("cp-2".to_owned(), of(2))].into(),
            ..Reserved::default()
        };
        let own = MasterEntry {
            name: "cp-1".to_owned(),
            address: of(1),
            etcd_id: None,
            voter: true,
        };
        let token = Token::random().expect("random numbers");
        let mut file = JoinFile::new("w-1", "https://10.0.0.1", "", token, 1);
        name_others(&mut file, &own, &reserved, &workers);
        let named = [("cp-1", 1), ("cp-2", 2), ("w-2", 22)];
        let named = named.map(|(name, last)| (of(last), name.to_owned()));
        assert_eq!(file.addresses, BTreeMap::from(named), "not its own");
        assert_eq!(file.masters, [of(1), of(2)]);
    }

    #[test]
    fn only_a_free_name_may_join() {
        let node = |ready: bool, master: bool| ClusterNode {
            ready: Some(ready),
            labels: master
                .then(|| (MASTER_LABEL.to_owned(), String::new()))
                .into_iter()
                .collect(),
            ..ClusterNode::default()
        };
        let mark = (LEFT.to_owned(), "2026-01-01T00:00:00Z".to_owned());
        let left = ClusterNode {
            annotations: [mark].into(),
            ..node(true, false)
        };
        let nodes = BTreeMap::from([
            ("cp-1".to_owned(), node(false, true)),
            ("w-1".to_owned(), node(true, false)),
            ("w-2".to_owned(), node(false, false)),
            ("w-4".to_owned(), left),
        ]);
        let reserved = Reserved {
            names: ["kubernetes".to_owned()].into(),
            addresses: ["10.0.0.1".parse().expect("an address")].into(),
            masters: [("cp-2".to_owned(), "10.0.0.3".parse().expect("an address"))].into(),
        };
        let refused = |name: &str, replace: bool| {
            let result = is_free(ADMIT, name, &reserved)
                .and_then(|()| is_no_master(name, &reserved))
                .and_then(|()| may_join(name, replace, &nodes));
            result.err().map(|error| error.to_string())
        };
        assert_eq!(refused("w-3", false), None);
        assert_eq!(refused("w-4", false), None, "its worker has left");
        assert_eq!(refused("w-1", true), None);
        assert_eq!(refused("w-2", true), None);
        for (name, replace, why) in [
            ("w-1", false, "is Ready; `nodelet cluster remove w-1`"),
            ("w-2", false, "is not Ready; `nodelet cluster remove w-2`"),
            ("w-2", false, "`--replace`"),
            ("cp-1", true, "a master"),
            ("cp-2", true, "a master"),
            ("10.0.0.3", true, "the address of a master"),
            ("kubernetes", true, "a name of the API server"),
            ("10.0.0.1", true, "an address of the API server"),
        ] {
            let refused = refused(name, replace).expect("it is taken");
            assert!(refused.contains(why), "{refused}");
        }
    }

    /// Two hosts would have valid certificates for one node.
    #[test]
    fn the_name_of_a_worker_whose_node_was_deleted_is_taken_until_it_leaves() {
        let joined = Admission {
            keys: [(CertificateKind::KubeletClient, "k".to_owned())].into(),
            ..Admission::default()
        };
        let refused = is_not_deleted("w-1", Some(&joined)).expect_err("it may come back");
        assert!(refused.to_string().contains("`--replace`"), "{refused}");
        let left = Admission {
            left: Some(SystemTime::UNIX_EPOCH),
            ..joined.clone()
        };
        let joins = Admission {
            token_id: Some("t".to_owned()),
            ..joined
        };
        for record in [None, Some(&left), Some(&joins)] {
            is_not_deleted("w-1", record).expect("it is free");
        }
    }

    #[tokio::test]
    async fn the_name_of_a_host_that_may_still_join_as_a_master_is_taken() {
        const KUBECONFIG: &str = "/etc/kubeconfig";
        let host = FakeHost::new()
            .with_file(KUBECONFIG, "")
            .with_kubernetes(|rules| rules.remote_api = true);
        let access = ClusterAccess::with(KUBECONFIG.as_ref());
        let end = host.now() + Duration::from_secs(3600);
        let noted = masters::exported::note(&host, &access, "cp-2", None, end).await;
        noted.expect("it answers");
        let refused = is_not_awaited(&host, &access, "cp-2").await;
        let refused = refused.expect_err("it may join").to_string();
        assert!(refused.contains("let cp-2 join first"), "{refused}");
        let free = is_not_awaited(&host, &access, "w-1").await;
        free.expect("it is free");
    }
}
