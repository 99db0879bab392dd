//! How far each node of a cluster is with a replacement.
//!
//! A master shows it in an annotation of its Node, after a step has converged there: the stage and ids, no key. The annotation names the master's
//! member of etcd, so a host that has joined again has shown nothing. A step is refused until every node shows that the step before is done.
//! Which nodes there are is known from the members of etcd and the Nodes. Not here: who makes the successor (`claim`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::workers::workers;
use crate::exec::kubernetes::quorum::endpoints;
use crate::host::{ClusterAccess, ClusterNode, EtcdMember, Host};
use crate::kubernetes::MASTER_LABEL;
use crate::kubernetes::masters;
use crate::model::chain;
use crate::resource::pki::{Replacement, Rotation, Stage};
use crate::resource::{ResourceError, ResourceResult};

/// The annotation of a Node, before the name of what is replaced.
const SHOWN: &str = "nodelet.pf9.io/rotation-";
/// Most nodes that a message names.
const NAMED: usize = 10;

/// How far the nodes of a cluster are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    of: String,
    own: String,
    /// The id of this host's member of etcd.
    own_id: u64,
    /// The names and ids of the members of etcd.
    members: Vec<(String, u64)>,
    nodes: BTreeMap<String, Option<Replacement>>,
    workers: BTreeMap<String, Option<Replacement>>,
    /// Other nodes that have the label of a master, and are no members of etcd: they can show nothing.
    not_members: BTreeSet<String>,
}

/// A node that a step has to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub node: String,
    /// How far it is.
    pub is: String,
    /// On which node something is to be done.
    pub at: String,
    /// What to do there.
    pub next: String,
}

impl Rollout {
    /// How far the nodes are; `None` if this host is the only master and has no node, so it can show nothing. `of` is an authority or the
    /// encryption keys, and `own` the name of this host's node, or empty. Reads only. Cancel safe.
    ///
    /// # Errors
    /// It is not known which masters there are, one of them has not started yet, or the API server does not answer.
    pub async fn read(
        host: &dyn Host,
        access: &ClusterAccess,
        of: &str,
        own: &str,
    ) -> ResourceResult<Option<Self>> {
        let refused = |why: String, next: &str| ResourceError::Unmet {
            what: format!("replace `{of}`: {why}"),
            next: next.to_owned(),
        };
        let listed = masters::read(host).await.map_err(|error| {
            let next =
                "wait until nodeletd has written the file again (`systemctl status pf9-nodeletd`)";
            refused(chain(&error).join(": "), next)
        })?;
        // The file may be missing or old, so without an answer no host is known to be the only master.
        let members = host.member_list(&endpoints(&listed)).await;
        let members = members.map_err(|error| {
            let why = chain(&error).join(": ");
            let why = format!("etcd does not tell which masters there are: {why}");
            let next = "`nodelet etcd members` shows the members; if an interrupted step has left etcd down on this host, run `nodelet apply`, which completes the step, then take it again";
            refused(why, next)
        })?;
        let is_alone = members.len() < 2;
        if is_alone && own.is_empty() {
            return Ok(None);
        }
        let nodes = host.nodes(access).await.map_err(|error| {
            let why = chain(&error).join(": ");
            let why = format!("the API server does not tell which nodes there are: {why}");
            let next = "`nodelet check` shows whether it works; if an interrupted step has left it down on this host, run `nodelet apply`, which completes the step, then take it again";
            refused(why, next)
        })?;
        let mut workers = workers(of, &nodes, &members);
        workers.remove(own);
        if let Some(new) = members.iter().find(|member| member.name.is_empty()) {
            let why = format!("a master is joining: {}", new.peer_urls.join(", "));
            let next = "wait until it has joined, or remove it (`nodelet cluster remove`)";
            return Err(refused(why, next));
        }
        let own_id = match id_of(&members, own) {
            Some(id) => id,
            // No other master compares it.
            None if is_alone => 0,
            None => {
                let why = format!("etcd has no member `{own}`, which is this host");
                let next = "run this on a master (`nodelet etcd members`)";
                return Err(refused(why, next));
            }
        };
        let its = |name: &str| (name.to_owned(), shown(of, name, &members, &nodes));
        let names = members.iter().filter(|_| !is_alone);
        let names = names.map(|member| member.name.as_str()).chain([own]);
        let labelled = nodes.iter();
        let labelled = labelled.filter(|(_, node)| node.labels.contains_key(MASTER_LABEL));
        let labelled = labelled.map(|(name, _)| name.as_str());
        let not_members = labelled.clone();
        let not_members =
            not_members.filter(|name| *name != own && id_of(&members, name).is_none());
        let not_members = not_members.map(str::to_owned).collect();
        Ok(Some(Self {
            of: of.to_owned(),
            own: own.to_owned(),
            own_id,
            members: members
                .iter()
                .map(|one| (one.name.clone(), one.id))
                .collect(),
            nodes: names.chain(labelled).map(its).collect(),
            workers,
            not_members,
        }))
    }

    /// The masters by name, each with what it shows; `None` if it shows nothing that counts.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<String, Option<Replacement>> {
        &self.nodes
    }

    /// The workers by name, as the masters; none unless authority `cluster` is replaced.
    #[must_use]
    pub fn workers(&self) -> &BTreeMap<String, Option<Replacement>> {
        &self.workers
    }

    /// The members of etcd, by name and id.
    pub(super) fn members(&self) -> Vec<(&str, u64)> {
        let members = self.members.iter();
        members.map(|(name, id)| (name.as_str(), *id)).collect()
    }

    /// What is replaced: the name of an authority, or `encryption`.
    #[must_use]
    pub fn of(&self) -> &str {
        &self.of
    }

    /// The name of this host's node.
    #[must_use]
    pub fn own(&self) -> &str {
        &self.own
    }

    /// Whether this host is the only master.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.nodes.len() < 2
    }

    /// Refuses a step while another node is not as far as the step needs. `present` is how far this host is, and `takes` says that it takes the
    /// successor that another master has made.
    ///
    /// # Errors
    /// The step is refused; the message names the nodes and what to do there.
    pub fn check(&self, step: Rotation, present: &Replacement, takes: bool) -> ResourceResult<()> {
        if takes && step == Rotation::Begin {
            return Ok(());
        }
        let missing = self.missing(step, present);
        let Some(first) = missing.first() else {
            return self.check_members(step, present);
        };
        let named = missing.iter().take(NAMED);
        let named: Vec<String> = named
            .map(|its| format!("{} {}", its.node, its.is))
            .collect();
        let mut text = named.join("; ");
        if missing.len() > NAMED {
            text += &format!("; and {} more", missing.len() - NAMED);
        }
        Err(ResourceError::Unmet {
            what: format!("replace `{}`: not every node is so far: {text}", self.of),
            next: format!("on {}: {}", first.at, first.next),
        })
    }

    /// Refuses to make a successor while a node cannot take part in the next steps: a successor cannot be taken back.
    fn check_members(&self, step: Rotation, present: &Replacement) -> ResourceResult<()> {
        let makes = (step, present.stage) == (Rotation::Begin, Stage::Settled);
        let Some(node) = self.not_members.first().filter(|_| makes) else {
            return Ok(());
        };
        Err(ResourceError::Unmet {
            what: format!(
                "replace `{}`: node {node} has the label of a master and is no member of etcd, so it could not take part",
                self.of
            ),
            next: next_of_no_member(node),
        })
    }

    /// Refuses the successor `id` from a file unless another master shows that it has it: a file does not prove who made it, and only a master
    /// or an administrator can change what a master shows.
    ///
    /// # Errors
    /// No other master shows it.
    pub fn check_received(&self, id: &str) -> ResourceResult<()> {
        let mut others = self.nodes.iter().filter(|(name, _)| **name != self.own);
        let has = |its: &Replacement| its.uses == id || its.successor() == Some(id);
        if others.any(|(_, its)| its.as_ref().is_some_and(has)) {
            return Ok(());
        }
        let of = &self.of;
        Err(ResourceError::Unmet {
            what: format!(
                "replace `{of}`: no other master shows that it has the successor in the file"
            ),
            next: format!(
                "take `nodelet certs rotate {of} begin` again on the master that made it; if it did not make this one, the file is not to be trusted"
            ),
        })
    }

    /// The other nodes that are not as far as this step needs, given how far this host is: first the masters.
    #[must_use]
    pub fn missing(&self, step: Rotation, present: &Replacement) -> Vec<Missing> {
        let masters = self.missing_masters(step, present);
        let masters = masters.map(|(node, its)| {
            let (at, next) = self.next(present, node, its.as_ref());
            let (node, is) = (node.clone(), said(its.as_ref()));
            let at = at.to_owned();
            Missing { node, is, at, next }
        });
        let workers = self.workers.iter();
        let workers = workers.filter(|(_, its)| !is_worker_enough(step, present, its.as_ref()));
        let workers = workers.map(|(node, its)| Missing {
            node: node.clone(),
            is: said(its.as_ref()),
            at: node.clone(),
            next: "nodeletd takes part by itself within minutes, when all masters are so far (`nodelet status` there); if it does not, take the last step of a master again, so that it is published; if the host is lost, `nodelet cluster remove` on a master".to_owned(),
        });
        masters.chain(workers).collect()
    }

    pub(super) fn missing_masters(
        &self,
        step: Rotation,
        present: &Replacement,
    ) -> impl Iterator<Item = (&String, &Option<Replacement>)> {
        let others = self.nodes.iter().filter(|(name, _)| **name != self.own);
        others.filter(move |(_, its)| !is_enough(step, present, its.as_ref()))
    }

    /// What to do, and on which node, because of a master that is so far.
    fn next<'s>(
        &'s self,
        present: &Replacement,
        node: &'s str,
        its: Option<&Replacement>,
    ) -> (&'s str, String) {
        let of = &self.of;
        let take = format!(
            "`nodelet certs rotate {of} begin --from FILE`, with the file of `nodelet certs send {of}` on the master that has the successor"
        );
        let taken_there = || {
            let next =
                format!("{take}; if the host is lost, `nodelet cluster remove` on another master");
            (node, next)
        };
        let Some(its) = its else {
            return match self.not_members.contains(node) {
                true => (self.own.as_str(), next_of_no_member(node)),
                false => taken_there(),
            };
        };
        let or_lost = format!(
            "; if the host is lost, `nodelet cluster remove {node}` on another master, then, if all that are left have finished, `nodelet certs rotate {of} finish` there again, which ends the claim"
        );
        let is_settled = present.stage == Stage::Settled;
        let has_finished = is_settled && its.successor() == Some(present.uses.as_str());
        match its.stage {
            Stage::Settled => taken_there(),
            Stage::Begun | Stage::Switched if is_settled && its.predecessor() == present.uses => {
                let next = format!("a replacement goes on, and this host takes part in it: {take}");
                (self.own.as_str(), next)
            }
            Stage::Begun if present.is_of_same(its) || has_finished => {
                (node, format!("`nodelet certs rotate {of} switch`{or_lost}"))
            }
            Stage::Switched if present.is_of_same(its) || has_finished => {
                (node, format!("`nodelet certs rotate {of} finish`{or_lost}"))
            }
            Stage::Begun | Stage::Switched => {
                let next = "it has another successor than this host: two were made; let the hosts without the right one leave and join again (`nodelet cluster remove`)";
                (node, next.to_owned())
            }
        }
    }

    /// Whether every master uses the successor: nothing more is signed or encrypted with the predecessor.
    #[must_use]
    pub fn masters_use_successor(&self, present: &Replacement) -> bool {
        let mut missing = self.missing_masters(Rotation::Finish, present);
        present.stage == Stage::Switched && missing.next().is_none()
    }

    /// Whether every master has only what this host has.
    #[must_use]
    pub fn is_over(&self, present: &Replacement) -> bool {
        let mut nodes = self.nodes.iter();
        present.stage == Stage::Settled
            && nodes.all(|(name, its)| *name == self.own || its.as_ref() == Some(present))
    }

    /// Whether this host has finished, and does not show it yet: the command was interrupted before.
    #[must_use]
    pub fn has_to_show_end(&self, present: &Replacement) -> bool {
        let own = self.nodes.get(&self.own).and_then(Option::as_ref);
        present.stage == Stage::Settled
            && own.is_some_and(|own| own.successor() == Some(present.uses.as_str()))
    }

    /// What the last step still has to do after this host has finished, because it was interrupted; empty if nothing. Reads only. Cancel safe.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn end_left(
        &self,
        host: &dyn Host,
        access: &ClusterAccess,
        present: &Replacement,
    ) -> ResourceResult<Vec<&'static str>> {
        let mut left = Vec::new();
        if self.has_to_show_end(present) {
            left.push("show the end on its Node");
        }
        if self.has_to_publish_end(host, access, present).await? {
            left.push("publish the end for workers");
        }
        if self.has_to_end_claim(host, access, present).await? {
            left.push("end the claim");
        }
        Ok(left)
    }

    /// Shows on this host's Node how far it is. Call it only after a step has converged, and after `switch` only if no certificate is left
    /// that the predecessor has signed. `self` has it afterwards, too.
    ///
    /// # Errors
    /// This host has nothing of the kind, or the API server does not answer or refuses. A repeated step shows it.
    pub async fn show(
        &mut self,
        host: &dyn Host,
        access: &ClusterAccess,
    ) -> ResourceResult<Replacement> {
        let present = Replacement::read(host, &self.of).await?;
        let present = present.ok_or_else(|| ResourceError::Missing {
            what: format!("show how far `{}` is replaced: this host has none", self.of),
        })?;
        let value = format!("{present} {:x}", self.own_id);
        let key = annotation(&self.of);
        let patch = json!({ "metadata": { "annotations": { key: value } } });
        host.patch_node(access, &self.own, &patch).await?;
        self.nodes.insert(self.own.clone(), Some(present.clone()));
        Ok(present)
    }
}

/// What a node shows, if it is of its present member of etcd.
pub(super) fn shown(
    of: &str,
    name: &str,
    members: &[EtcdMember],
    nodes: &BTreeMap<String, ClusterNode>,
) -> Option<Replacement> {
    let text = nodes.get(name)?.annotations.get(&annotation(of))?;
    let (shown, id) = text.rsplit_once(' ')?;
    let is_present = format!("{:x}", id_of(members, name)?) == id;
    shown.parse().ok().filter(|_| is_present)
}

/// What to do about a node that has the label of a master, and is no member of etcd.
fn next_of_no_member(node: &str) -> String {
    format!(
        "if its host is gone or has left etcd, `nodelet cluster remove {node}`; if it is no master, `kubectl label node {node} {MASTER_LABEL}-`"
    )
}

fn id_of(members: &[EtcdMember], name: &str) -> Option<u64> {
    let mut members = members.iter();
    members.find(|its| its.name == name).map(|its| its.id)
}

pub(super) fn annotation(of: &str) -> String {
    format!("{SHOWN}{of}")
}

/// Whether another node is as far as a step of this host needs. A step that this host has taken may be repeated.
fn is_enough(step: Rotation, present: &Replacement, its: Option<&Replacement>) -> bool {
    let is_settled = |its: &Replacement| its.stage == Stage::Settled && its.uses == present.uses;
    match (step, present.stage, its) {
        // A successor is made. A node that has never replaced one shows nothing.
        (Rotation::Begin, Stage::Settled, Some(its)) => is_settled(its),
        (Rotation::Switch, Stage::Begun, Some(its)) => its.is_of_same(present),
        (Rotation::Switch, Stage::Switched, Some(its)) => {
            its.is_of_same(present) || is_settled(its)
        }
        (Rotation::Finish, Stage::Switched, Some(its)) => {
            its.stage == Stage::Switched && its.is_of_same(present) || is_settled(its)
        }
        (Rotation::Switch, Stage::Begun | Stage::Switched, None)
        | (Rotation::Finish, Stage::Switched, None) => false,
        // The last two are steps that the stage of this host refuses.
        (Rotation::Begin, Stage::Settled, None)
        | (Rotation::Begin, Stage::Begun | Stage::Switched, _)
        | (Rotation::Switch, Stage::Settled, _)
        | (Rotation::Finish, Stage::Settled | Stage::Begun, _) => true,
    }
}

/// Whether a worker is as far as a step of this host needs. A worker may trust a successor that was abandoned, because it was published at once.
/// The next one that is published takes its place.
fn is_worker_enough(step: Rotation, present: &Replacement, its: Option<&Replacement>) -> bool {
    let is_abandoned = |its: &Replacement| {
        (step, present.stage, its.stage) == (Rotation::Begin, Stage::Settled, Stage::Begun)
            && its.uses == present.uses
    };
    is_enough(step, present, its) || its.is_some_and(is_abandoned)
}

/// How far a node is, for people.
#[must_use]
pub fn said(its: Option<&Replacement>) -> String {
    let Some(its) = its else {
        return "has not shown that it took part in a replacement".to_owned();
    };
    let id = |id: &str| id.chars().take(18).collect::<String>();
    let (uses, beside) = (id(&its.uses), its.beside.as_deref().map(id));
    let beside = beside.unwrap_or_default();
    match its.stage {
        Stage::Settled => format!("has only {uses}"),
        Stage::Begun => format!("uses {uses}, and also trusts {beside} (begin)"),
        Stage::Switched => format!("uses {uses}, and still trusts {beside} (switch)"),
    }
}

#[cfg(test)]
mod tests;
