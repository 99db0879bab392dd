//! What `issue` and `export` share: which host a join file can be for. And what they and `certs send` do with the file they made. `nodes` serves
//! `cluster remove`, too.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use engine::host::{ClusterAccess, ClusterNode, Host};
use engine::kubernetes::admission::{Admission, LONGEST_LIFE};
use engine::kubernetes::join_file::{
    FileKind, JOIN_FILE, JoinKind, LONGEST_NODE_NAME, is_node_name,
};
use engine::kubernetes::node_request::Reserved;
use engine::kubernetes::workers::LEFT;
use engine::model::chain;
use engine::plan::Plan;
use engine::resource::Spec;
use engine::resource::pki::kubeconfig_path;
use serde_json::Value;

use crate::etcd::missing_quorum;
use crate::output::exit::WrongArguments;
use crate::output::say;

/// The kubeconfig of people, which names the API server that other hosts reach.
const ADMIN: &str = "admin";

/// A file for another host that was made and is not written yet. Its content is encrypted.
pub(in crate::commands) struct MadeFile<'m> {
    /// Where it goes; `None` for standard output.
    pub(in crate::commands) output: Option<&'m Path>,
    /// Whether to report in JSON.
    pub(in crate::commands) json: bool,
    /// What it is for.
    pub(in crate::commands) kind: FileKind,
    /// The node that the host becomes, or for a successor what is replaced.
    pub(in crate::commands) name: &'m str,
    pub(in crate::commands) sealed: Vec<u8>,
    /// Until when it is valid.
    pub(in crate::commands) expires: SystemTime,
}

impl MadeFile<'_> {
    /// Writes the file that the command line names, if it names one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(in crate::commands) fn save(&self) -> Result<()> {
        if let Some(path) = self.output {
            daemon::files::replace(path, &self.sealed, 0o600)?;
        }
        Ok(())
    }

    /// Checks that the file can be written, and leaves nothing there.
    ///
    /// # Errors
    /// It cannot.
    pub(in crate::commands) fn can_be_saved(&self) -> Result<()> {
        self.output.map_or(Ok(()), daemon::files::can_replace)
    }

    /// Writes to standard output where the file is, or the file itself. In JSON, `also` is one more field and its value.
    pub(in crate::commands) fn report(&self, also: (&str, Value)) {
        say(&self.reported(also));
    }

    fn reported(&self, (field, value): (&str, Value)) -> String {
        let expires = humantime::format_rfc3339_seconds(self.expires);
        let sealed = String::from_utf8_lossy(&self.sealed);
        if self.json {
            let (named, content) = match self.kind {
                FileKind::Join(_) => ("node", "join_file"),
                FileKind::Successor => ("of", "successor_file"),
            };
            let mut report = serde_json::json!({ "expires": expires.to_string() });
            report[named] = self.name.into();
            report[field] = value;
            match self.output {
                Some(path) => report["file"] = path.display().to_string().into(),
                None => report[content] = sealed.into(),
            }
            return format!("{report}\n");
        }
        let Some(path) = self.output else {
            return sealed.into_owned();
        };
        let (name, path) = (self.name, path.display());
        match self.kind {
            FileKind::Join(JoinKind::Worker) => format!(
                "node {name} may join until {expires}; copy {path} to its host as {JOIN_FILE}\n"
            ),
            FileKind::Join(JoinKind::Master) => format!(
                "master {name} may join until {expires}; copy {path} to its host as {JOIN_FILE}, and remove it there when the host has joined\n"
            ),
            FileKind::Successor => format!(
                "copy {path} to the other master, run `nodelet certs rotate {name} begin --from FILE` there until {expires}, and remove the file on both\n"
            ),
        }
    }
}

/// A time in seconds since 1970, as a file for another host has it.
pub(in crate::commands) fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}

/// Refuses a name that no node can have. `action` is what the command does with the node, for the message.
pub(super) fn is_name(action: &str, node: &str) -> Result<()> {
    if is_node_name(node) && node.len() <= LONGEST_NODE_NAME {
        return Ok(());
    }
    let text = format!(
        "{action} `{node}`: it is not the name of a node; use lower-case letters, digits, `-` and `.`, at most {LONGEST_NODE_NAME} of them"
    );
    Err(WrongArguments(text).into())
}

/// The URL at which other hosts reach the API server, as the plan of this master has it. `action` is for the message.
pub(super) fn api_of(action: &str, plan: &Plan) -> Result<String> {
    let steps = plan.phases.iter().flat_map(|phase| &phase.steps);
    let mut servers = steps.filter_map(|step| match &step.spec {
        Spec::Kubeconfig(kubeconfig) if kubeconfig.name == ADMIN => Some(&kubeconfig.server),
        _ => None,
    });
    let server = servers.next();
    server.cloned().with_context(|| {
        format!(
            "{action} a node: the role of this host writes no {}; run this on a master",
            Path::new(&kubeconfig_path(ADMIN)).display()
        )
    })
}

/// The nodes of the cluster, as the API server of this master has them. `action` and `node` are for the message.
pub(in crate::commands) async fn nodes(
    action: &str,
    node: &str,
    host: &dyn Host,
    access: &ClusterAccess,
) -> Result<BTreeMap<String, ClusterNode>> {
    match host.nodes(access).await {
        Ok(nodes) => Ok(nodes),
        Err(error) => Err(not_read(action, node, error.into(), host).await),
    }
}

/// That this master cannot read the cluster, and what to do. The cause comes after it, and after that the quorum, if etcd has none.
pub(super) async fn not_read(
    action: &str,
    node: &str,
    error: anyhow::Error,
    host: &dyn Host,
) -> anyhow::Error {
    let error = match missing_quorum(host).await {
        Some(why) => anyhow::Error::msg(why).context(chain(error.as_ref()).join(": ")),
        None => error,
    };
    error.context(format!(
        "{action} `{node}`: this master cannot read its cluster; `nodelet check` on this host says what is wrong, or run the command on another master"
    ))
}

/// Refuses names of servers that a new host would take over. `action` is for the message.
pub(super) fn is_free(action: &str, node: &str, reserved: &Reserved) -> Result<()> {
    if reserved.names.contains(node) {
        bail!("{action} `{node}`: it is a name of the API server");
    }
    if node
        .parse()
        .is_ok_and(|address| reserved.addresses.contains(&address))
    {
        bail!("{action} `{node}`: it is an address of the API server");
    }
    Ok(())
}

/// Whether the worker of this node has left; a master deletes the node soon.
pub(super) fn has_left(node: &ClusterNode) -> bool {
    node.annotations.contains_key(LEFT)
}

/// That a node has the name, and what to do. A node that is not Ready may come back, for example after a boot.
pub(super) fn taken(name: &str, node: &ClusterNode) -> String {
    let is = match node.ready {
        Some(true) => "Ready",
        Some(false) | None => "not Ready",
    };
    format!(
        "a node of this name is {is}; `nodelet cluster remove {name}` removes it if its host is gone, and with `--replace` the new host takes its place"
    )
}

/// What to say about a host that takes the place of another one.
pub(super) fn earlier_host(node: &str, replace: bool) -> Option<String> {
    let days = LONGEST_LIFE.as_secs() / (24 * 3600);
    replace.then(|| {
        format!(
            "an earlier host of node {node} stays accepted until its certificates end, at most {days} days; if it is not trusted, use another name, \
             and run `nodelet cluster remove {node}`"
        )
    })
}

/// Refuses the name of a node that was removed, as long as its host may have a valid certificate: with another node of this name, the
/// masters would accept that host again. `action` is for the message.
pub(super) fn may_return(
    action: &str,
    node: &str,
    replace: bool,
    record: Option<&Admission>,
    now: SystemTime,
) -> Result<()> {
    let Some(removed) = record.and_then(|record| record.removed.as_ref()) else {
        return Ok(());
    };
    let end = removed.certificates_end();
    if replace || end <= now {
        return Ok(());
    }
    bail!(
        "{action} `{node}`: it was removed at {}, and the certificate of its old host may be valid until {}; if that host was stolen or is not \
         trusted, use another name until then; if not, `--replace` lets a host with this name join",
        humantime::format_rfc3339_seconds(removed.at),
        humantime::format_rfc3339_seconds(end)
    )
}

#[cfg(test)]
mod tests {
    use engine::host::fake::FakeHost;
    use engine::kubernetes::admission::RemovedNode;

    use super::*;
    use crate::pass::tests::plan_of_master;

    #[tokio::test]
    async fn the_join_file_names_the_server_that_other_hosts_reach() {
        let plan = plan_of_master().await;
        assert_eq!(
            api_of("admit", &plan).expect("a master"),
            "https://172.30.0.100:443"
        );
        let other = Plan {
            phases: Vec::new(),
            ..plan
        };
        let error = api_of("admit", &other).expect_err("no master").to_string();
        assert!(error.contains("run this on a master"), "{error}");
    }

    /// The API server of a master that was removed does not answer this, for example.
    #[tokio::test]
    async fn a_master_that_cannot_read_the_cluster_names_the_cause_and_the_next_step() {
        let access = ClusterAccess::with("/etc/kubeconfig".as_ref());
        let host = FakeHost::new().with_file("/etc/kubeconfig", "");
        let error = nodes("admit", "w-1", &host, &access).await;
        let error = error.expect_err("no API server answers");
        let said = chain(error.as_ref()).join(": ");
        for part in [
            "admit `w-1`: ",
            "`nodelet check` on this host",
            "on another master: list the nodes: ",
        ] {
            assert!(said.contains(part), "{said}");
        }
        let host = host.with_kubernetes(|rules| rules.remote_api = true);
        let nodes = nodes("admit", "w-1", &host, &access).await;
        assert_eq!(nodes.expect("it answers"), BTreeMap::new());
    }

    #[test]
    fn a_name_that_no_node_can_have_is_refused() {
        is_name("admit", "w-1").expect("a name");
        for name in ["W_1", "", &"a".repeat(LONGEST_NODE_NAME + 1)] {
            let refused = is_name("admit", name).expect_err("no name");
            assert!(refused.is::<WrongArguments>(), "{refused}");
            let refused = refused.to_string();
            assert!(
                refused.starts_with(&format!("admit `{name}`: ")),
                "{refused}"
            );
        }
    }

    #[test]
    fn the_report_has_the_file_or_says_where_it_is() {
        let reported = |kind, output: Option<&str>, json| {
            let made = MadeFile {
                output: output.map(Path::new),
                json,
                kind,
                name: "n-1",
                sealed: b"sealed\n".to_vec(),
                expires: SystemTime::UNIX_EPOCH,
            };
            made.reported(("masters", 2.into()))
        };
        let worker = FileKind::Join(JoinKind::Worker);
        let master = FileKind::Join(JoinKind::Master);
        assert_eq!(
            reported(worker, Some("/tmp/a.age"), false),
            "node n-1 may join until 1970-01-01T00:00:00Z; copy /tmp/a.age to its host as /etc/pf9/nodelet/join.age\n"
        );
        assert_eq!(
            reported(master, Some("/tmp/a.age"), false),
            "master n-1 may join until 1970-01-01T00:00:00Z; copy /tmp/a.age to its host as /etc/pf9/nodelet/join.age, and remove it \
             there when the host has joined\n"
        );
        assert_eq!(reported(worker, None, false), "sealed\n");
        for (output, its) in [
            (None, r#""join_file":"sealed\n""#),
            (Some("/tmp/a.age"), r#""file":"/tmp/a.age""#),
        ] {
            let text = reported(master, output, true);
            let expected =
                format!(r#"{{"expires":"1970-01-01T00:00:00Z",{its},"masters":2,"node":"n-1"}}"#);
            assert_eq!(text, format!("{expected}\n"));
        }
        assert_eq!(
            reported(FileKind::Successor, Some("/tmp/a.age"), false),
            "copy /tmp/a.age to the other master, run `nodelet certs rotate n-1 begin --from FILE` there until 1970-01-01T00:00:00Z, and \
             remove the file on both\n"
        );
        assert_eq!(
            reported(FileKind::Successor, None, true),
            "{\"expires\":\"1970-01-01T00:00:00Z\",\"masters\":2,\"of\":\"n-1\",\"successor_file\":\"sealed\\n\"}\n"
        );
    }

    #[test]
    fn the_name_of_a_removed_node_is_free_when_its_certificates_have_ended() {
        let at = SystemTime::UNIX_EPOCH;
        let record = Admission {
            node: "w-1".to_owned(),
            removed: Some(RemovedNode {
                at,
                uid: String::new(),
            }),
            ..Admission::default()
        };
        let may = |replace, now| may_return("admit", "w-1", replace, Some(&record), now);
        let soon = at + LONGEST_LIFE - Duration::from_secs(1);
        let refused = may(false, soon).expect_err("too early").to_string();
        for why in ["1970-01-31T00:00:00Z", "another name", "--replace"] {
            assert!(refused.contains(why), "{refused}");
        }
        may(true, soon).expect("it was asked for");
        may(false, at + LONGEST_LIFE).expect("they have ended");
        let admitted = Admission::default();
        may_return("admit", "w-1", false, Some(&admitted), soon).expect("it was not removed");
        may_return("admit", "w-1", false, None, soon).expect("it is new");
    }

    #[test]
    fn a_replaced_host_is_named_as_still_accepted() {
        let text = earlier_host("w-1", true).expect("it takes a place");
        for said in ["stays accepted", "30 days", "nodelet cluster remove w-1"] {
            assert!(text.contains(said), "{text}");
        }
        assert_eq!(earlier_host("w-1", false), None);
    }
}
