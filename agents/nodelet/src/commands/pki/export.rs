//! `nodelet pki export`: writes the join file of another master. `number` counts the masters.

mod number;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use engine::exec::{authorities, check_export, reserved_for_api_servers};
use engine::host::live::LiveHost;
use engine::host::{ClusterAccess, ClusterNode, Host};
use engine::kubernetes::MASTER_LABEL;
use engine::kubernetes::admission::{Admission, admission, admissions, end_of, withdraw};
use engine::kubernetes::join_file::{
    FileKind, JoinContent as _, JoinKind, MOST_ADDRESSES, MasterJoinFile,
};
use engine::kubernetes::masters::{self, MOST_MASTERS, MasterEntry, exported};
use engine::plan::Plan;
use engine::resource::Spec;
use engine::resource::pki::export_keys;

use self::number::{Export, PresentMasters};
use super::made_file::{
    MadeFile, api_of, earlier_host, has_left, is_free, is_name, may_return, nodes, not_read,
    seconds,
};
use crate::cli::{LOCAL_ADMIN, PkiExportArgs};
use crate::commands::run::unchanged;
use crate::inputs;
use crate::output::error_report;
use crate::output::exit::Exit;

/// What the command does, for messages.
const EXPORT: &str = "export the keys to";
/// The certificate that has the name and the address of this host's node.
const OWN_SERVER: &str = "kubelet/server";
/// The begin of the subject of a node's certificate.
const OF_NODE: &str = "system:node:";

pub(crate) async fn export(args: &PkiExportArgs) -> Result<Exit> {
    let node = &args.node;
    is_name(EXPORT, node)?;
    let host = LiveHost::new();
    let inputs = inputs::read(&args.file.role, &host).await?;
    // The new master would know this one by another name than the cluster, and count it twice.
    unchanged(&args.file.role, &host, &inputs).await?;
    let api = api_of(EXPORT, &inputs.plan)?;
    let own = own_entry(&inputs.plan)?;
    let access = ClusterAccess::with(Path::new(LOCAL_ADMIN));
    let known = present_masters(node, &host, &access).await?;
    let before = known.iter().find(|its| its.name == *node);
    let member = before.and_then(|its| its.etcd_id);
    let others = remaining(node, args.replace, &own, known)?;
    is_reachable(&api, &others)?;
    is_free(EXPORT, node, &reserved_for_api_servers(&host).await?)?;
    let nodes = nodes(EXPORT, node, &host, &access).await?;
    is_no_other_node(node, args.replace, &nodes)?;
    let all = authorities(&inputs.plan);
    check_export(&host, &access, &all).await?;
    let now = SystemTime::now();
    let expires = end_of(now, args.file.sealed.valid_for);
    let its_export = Export {
        own: &own.name,
        node,
        of: args.of,
        keys: &all,
        member,
        expires,
    };
    its_export.number(&host, &access).await?;
    let record = admission(&host, &access, node).await?;
    let workers = admissions(&host, &access).await?.records;
    may_return(EXPORT, node, args.replace, record.as_ref(), now)?;
    let mut file = MasterJoinFile::new(node, &api, seconds(expires));
    file.issued = Some(seconds(now));
    export_keys(&host, &mut file).await?;
    file.masters = others;
    file.addresses = taken_addresses(node, &workers);
    file.settings = inputs.settings().shared();
    let sealed = file.seal(&args.file.sealed.to);
    let made = MadeFile {
        output: args.file.sealed.output.as_deref(),
        json: args.file.role.json,
        kind: FileKind::Join(JoinKind::Master),
        name: node,
        sealed: sealed.with_context(|| format!("export the keys to `{node}`"))?,
        expires,
    };
    // Without the file, the host must not be awaited.
    made.can_be_saved()?;
    let number = its_export.note(&host, &access).await?;
    // As a record of a worker says, the masters would label this node as one, or delete it after the worker's removal.
    withdraw(&host, &access, node)
        .await
        .with_context(|| format!("{EXPORT} `{node}`: end its admission as a worker"))?;
    made.save()?;
    made.report(("masters", number.into()));
    if let Some(text) = note(number).filter(|_| !args.file.role.json) {
        error_report::say(&format!("nodelet: {text}"));
    }
    if let Some(text) = earlier_host(node, record.is_some()) {
        error_report::say(&format!("nodelet: warning: {text}"));
    }
    Ok(Exit::Ok)
}

/// The masters that the cluster has, before another one joins.
async fn present_masters(
    node: &str,
    host: &dyn Host,
    access: &ClusterAccess,
) -> Result<Vec<MasterEntry>> {
    match PresentMasters::read(host, access).await {
        Ok(present) => Ok(present.listed),
        Err(error) => Err(not_read(EXPORT, node, error, host).await),
    }
}

/// Refuses a number of masters that is even and is to stay so. `of` is the number that the cluster is to have in the end. The number includes the hosts
/// that are awaited.
fn is_odd_in_the_end(node: &str, number: usize, of: Option<u8>, awaited: &[String]) -> Result<()> {
    let also = match awaited {
        [] => String::new(),
        [first, ..] => format!(
            " (with {}, which may still join; {})",
            awaited.join(", "),
            exported::next_step(first)
        ),
    };
    if number > MOST_MASTERS {
        bail!(
            "export the keys to `{node}`: the cluster then has {number} masters{also}, and at most {MOST_MASTERS} are possible"
        );
    }
    match of.map(usize::from) {
        Some(of) if number > of => bail!(
            "export the keys to `{node}`: the cluster then has {number} masters{also}, and `--of` says {of}; give the right number, or remove one \
             first, `nodelet cluster remove NAME`"
        ),
        None if number.is_multiple_of(2) => bail!(
            "export the keys to `{node}`: the cluster then has {number} masters{also}, and survives the loss of no more of them than with {}; if \
             another one joins after it, give `--of {}`",
            number - 1,
            number + 1
        ),
        Some(_) | None => Ok(()),
    }
}

/// The addresses of the cluster's workers, for the host that joins to compare with its own: those for which they have certificates. What they
/// report of themselves does not count, because a worker could keep any host out with it.
fn taken_addresses(node: &str, workers: &BTreeMap<String, Admission>) -> Vec<IpAddr> {
    let others = addresses_of_others(node, workers);
    let addresses = others.map(|(_, address)| address);
    addresses.take(MOST_ADDRESSES).collect()
}

/// The workers beside this node, each with the address for which it has a certificate. The address of a removed one is free.
pub(super) fn addresses_of_others<'w>(
    node: &'w str,
    workers: &'w BTreeMap<String, Admission>,
) -> impl Iterator<Item = (&'w str, IpAddr)> {
    let others = workers
        .values()
        .filter(move |its| its.node != node && its.removed.is_none());
    others.filter_map(|its| Some((its.node.as_str(), its.address?)))
}

/// What to say about a number of masters that does not stay.
fn note(number: usize) -> Option<String> {
    number.is_multiple_of(2).then(|| {
        format!(
            "the cluster then has {number} masters, and survives the loss of no more of them than with {}; let another one join",
            number - 1
        )
    })
}

/// This host as a master, as its plan has it.
pub(in crate::commands) fn own_entry(plan: &Plan) -> Result<MasterEntry> {
    let steps = plan.phases.iter().flat_map(|phase| &phase.steps);
    let mut own = steps.filter_map(|step| match &step.spec {
        Spec::Certificate(its) if its.path == OWN_SERVER => {
            let name = its.common_name.strip_prefix(OF_NODE)?;
            Some((name.to_owned(), *its.addresses.first()?))
        }
        _ => None,
    });
    let (name, address) = own
        .next()
        .context("the role of this host has no node; run this on a master")?;
    Ok(MasterEntry {
        name,
        address,
        etcd_id: None,
        voter: true,
    })
}

/// The masters that the cluster has beside the new one.
fn remaining(
    node: &str,
    replace: bool,
    own: &MasterEntry,
    mut known: Vec<MasterEntry>,
) -> Result<Vec<MasterEntry>> {
    if own.name == node {
        bail!("export the keys to `{node}`: it is this host, which is a master");
    }
    if !known.iter().any(|its| its.name == own.name) {
        known.push(own.clone());
    }
    if known.iter().any(|its| its.name == node) && !replace {
        bail!(
            "export the keys to `{node}`: a master of this cluster has this name; with `--replace`, the host takes its place"
        );
    }
    known.retain(|its| its.name != node);
    if known.len() >= MOST_MASTERS {
        bail!(
            "export the keys to `{node}`: the cluster has {} masters, and at most {MOST_MASTERS} are possible; remove one first, \
             `nodelet cluster remove NAME`",
            known.len()
        );
    }
    known.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(known)
}

/// Refuses a second master if clients reach the API at the address of one of the masters.
fn is_reachable(api: &str, masters: &[MasterEntry]) -> Result<()> {
    let Some(address) = masters::host_address(api) else {
        return Ok(());
    };
    let Some(master) = masters.iter().find(|its| its.address == address) else {
        return Ok(());
    };
    bail!(
        "export the keys: MASTER_IP is {address}, the address of master `{}`, so the cluster would depend on that host; choose a virtual IP \
         (MASTER_VIP_ENABLED, MASTER_VIP_IFACE, MASTER_VIP_VROUTER_ID) or a load balancer, set it on all hosts, and apply there first",
        master.name
    );
}

/// Refuses the name of a worker's node, and of a master unless the host takes its place. The labels and annotations of a worker must not stay at the
/// node of a master.
fn is_no_other_node(
    node: &str,
    replace: bool,
    nodes: &BTreeMap<String, ClusterNode>,
) -> Result<()> {
    let Some(present) = nodes.get(node) else {
        return Ok(());
    };
    if present.labels.contains_key(MASTER_LABEL) {
        if replace {
            return Ok(());
        }
        bail!(
            "{EXPORT} `{node}`: a master of this cluster has this name; with `--replace`, the host takes its place"
        );
    }
    let is = match has_left(present) {
        true => "has left, and the masters delete its node within seconds; then repeat the command"
            .to_owned(),
        false => format!(
            "is in the cluster; clean its host, or run `nodelet cluster remove {node}` if its host is gone, then repeat the command"
        ),
    };
    bail!("{EXPORT} `{node}`: the worker of this name {is}")
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::slice;

    use engine::host::fake::FakeHost;
    use engine::kubernetes::etcd_members::OWN_ENDPOINT;
    use engine::kubernetes::workers::LEFT;
    use engine::model::chain;

    use super::*;
    use crate::pass::tests::plan_of_master;

    fn master(number: u8) -> MasterEntry {
        MasterEntry {
            name: format!("cp-{number}"),
            address: IpAddr::from([172, 30, 0, 10 + number]),
            etcd_id: Some(number.into()),
            voter: true,
        }
    }

    #[tokio::test]
    async fn a_master_knows_its_own_name_and_address() {
        let own = own_entry(&plan_of_master().await).expect("a master");
        assert_eq!(
            (own.name.as_str(), own.address),
            ("cp-1", master(1).address)
        );
    }

    #[tokio::test]
    async fn an_export_that_cannot_read_the_cluster_names_the_next_step() {
        let access = ClusterAccess::with("/etc/kubeconfig".as_ref());
        let host = FakeHost::new().with_file("/etc/kubeconfig", "");
        let refused = async |host: &FakeHost| {
            let error = present_masters("cp-2", host, &access).await;
            let error = error.expect_err("one does not answer");
            let said = chain(error.as_ref()).join(": ");
            for part in ["`cp-2`: ", "`nodelet check`", "on another master: "] {
                assert!(said.contains(part), "{said}");
            }
        };
        // Nothing answers, then etcd alone.
        refused(&host).await;
        host.with_world_mut(|world| {
            world.etcd.voter("cp-1", "172.30.0.11", 1);
            let own = world.etcd.states["https://172.30.0.11:4001"].clone();
            world.etcd.states.insert(OWN_ENDPOINT.to_owned(), own);
        });
        refused(&host).await;
        let host = host.with_kubernetes(|rules| rules.remote_api = true);
        let known = present_masters("cp-2", &host, &access).await;
        assert_eq!(known.expect("both answer"), [master(1)]);
    }

    #[test]
    fn a_name_is_given_twice_only_to_replace_a_master() {
        let own = master(1);
        let known = || vec![master(2), master(1)];
        let result = |node: &str, replace| remaining(node, replace, &own, known());
        assert_eq!(
            result("cp-3", false).expect("it is new"),
            [own.clone(), master(2)]
        );
        let refused = result("cp-2", false).expect_err("it is taken").to_string();
        assert!(refused.contains("--replace"), "{refused}");
        assert_eq!(
            result("cp-2", true).expect("it is replaced"),
            slice::from_ref(&own)
        );
        let refused = result("cp-1", true).expect_err("this host").to_string();
        assert!(refused.contains("it is this host"), "{refused}");
        let alone = remaining("cp-2", false, &own, Vec::new());
        assert_eq!(alone.expect("no list yet"), slice::from_ref(&own));
        let five: Vec<_> = (1..=5).map(master).collect();
        let refused = remaining("cp-6", false, &own, five.clone()).expect_err("a sixth");
        assert!(refused.to_string().contains("cluster remove"), "{refused}");
        let replaced = remaining("cp-5", true, &own, five).expect("one of five is replaced");
        assert_eq!(replaced.len(), 4);
    }

    #[test]
    fn a_second_master_needs_an_address_that_is_no_masters() {
        let masters = [master(1)];
        for api in [
            "https://172.30.0.100:443",
            "https://api.example.com",
            "https://[fd00::1]:443",
        ] {
            is_reachable(api, &masters).expect(api);
        }
        for api in ["https://172.30.0.11:443", "https://172.30.0.11"] {
            let refused = is_reachable(api, &masters).expect_err(api).to_string();
            assert!(refused.contains("MASTER_VIP_ENABLED"), "{refused}");
        }
        let six = [MasterEntry {
            address: "fd00::1".parse().expect("an address"),
            ..master(1)
        }];
        is_reachable("https://[fd00::1]:443", &six).expect_err("it is a master's");
    }

    #[test]
    fn a_master_is_replaced_only_on_request_and_a_worker_never() {
        let node = |ready| ClusterNode {
            ready: Some(ready),
            ..ClusterNode::default()
        };
        let lost = ClusterNode {
            labels: [(MASTER_LABEL.to_owned(), String::new())].into(),
            ..node(false)
        };
        let mark = (LEFT.to_owned(), "2026-01-01T00:00:00Z".to_owned());
        let left = ClusterNode {
            annotations: [mark].into(),
            ..node(false)
        };
        let nodes = BTreeMap::from([
            ("w-1".to_owned(), node(true)),
            ("w-2".to_owned(), node(false)),
            ("w-3".to_owned(), left),
            ("cp-2".to_owned(), lost),
        ]);
        is_no_other_node("cp-9", false, &nodes).expect("it is new");
        is_no_other_node("cp-2", true, &nodes).expect("it was asked for");
        for (node, replace, next) in [
            ("cp-2", false, "--replace"),
            ("w-1", false, "nodelet cluster remove w-1"),
            ("w-1", true, "nodelet cluster remove w-1"),
            ("w-2", true, "nodelet cluster remove w-2"),
            ("w-3", false, "repeat the command"),
        ] {
            let refused = is_no_other_node(node, replace, &nodes).expect_err("it is taken");
            assert!(refused.to_string().contains(next), "{refused}");
        }
    }

    #[test]
    fn an_even_number_of_masters_is_refused_unless_another_one_follows() {
        for (number, of) in [
            (1, None),
            (3, None),
            (5, None),
            (2, Some(3)),
            (2, Some(5)),
            (3, Some(3)),
            (4, Some(5)),
        ] {
            is_odd_in_the_end("cp-9", number, of, &[]).expect("the number becomes odd");
        }
        for (number, of, next) in [
            (2, None, "--of 3"),
            (4, None, "--of 5"),
            (4, Some(3), "`--of` says 3"),
        ] {
            let refused =
                is_odd_in_the_end("cp-9", number, of, &[]).expect_err("even, or too many");
            let refused = refused.to_string();
            assert!(refused.contains(next), "{refused}");
        }
        let awaited = ["cp-3".to_owned()];
        for number in [4, 6] {
            let refused = is_odd_in_the_end("cp-9", number, Some(3), &awaited);
            let refused = refused.expect_err("too many").to_string();
            assert!(
                refused.contains("with cp-3, which may still join"),
                "{refused}"
            );
        }
    }

    #[test]
    fn the_new_master_learns_which_addresses_are_taken() {
        let worker = |node: &str, address: &str| {
            let record = Admission {
                node: node.to_owned(),
                address: address.parse().ok(),
                ..Admission::default()
            };
            (node.to_owned(), record)
        };
        let mut workers =
            BTreeMap::from([worker("cp-2", "172.30.0.12"), worker("w-1", "172.30.0.21")]);
        let other: IpAddr = "172.30.0.21".parse().expect("an address");
        assert_eq!(taken_addresses("cp-2", &workers), [other], "not its own");
        assert_eq!(taken_addresses("cp-3", &workers).len(), 2);
        let removed = engine::kubernetes::admission::RemovedNode {
            at: SystemTime::UNIX_EPOCH,
            uid: String::new(),
        };
        workers.get_mut("w-1").expect("it is there").removed = Some(removed);
        assert_eq!(taken_addresses("cp-2", &workers), [] as [IpAddr; 0]);
    }

    #[test]
    fn an_even_number_of_masters_is_named() {
        for (number, even) in [(1, false), (2, true), (3, false), (4, true), (5, false)] {
            assert_eq!(note(number).is_some(), even, "{number}");
        }
    }
}
