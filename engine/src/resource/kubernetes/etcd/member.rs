//! This host's membership in the cluster of etcd, before its container runs.
//!
//! A member with data is as planned: etcd knows its cluster from the data, and `member.env` is never compared again. Only a list of members
//! that has quorum says that the cluster has removed it; then a person decides. Without data it begins a cluster, if the settings say so and
//! nothing speaks against it, or joins the one of the other masters as a learner. It never begins a cluster by mistake.
//!
//! Not here: the decisions (`kubernetes::etcd_members`), what a removed member is told (`removal`), and the vote (`promoted`).

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::settings::{InitialState, Written, render};
use super::{api, marker};
use crate::host::{Entry, EtcdMember, Host};
use crate::kubernetes::etcd_members::removed;
use crate::kubernetes::etcd_members::{Join, Me, initial_cluster, join, look, same_members};
use crate::kubernetes::masters::{self, MASTERS};
use crate::model::chain;
use crate::resource::files::data_id::{self, DataIdSpec};
use crate::resource::files::file::{PRIVATE, remember};
use crate::resource::{
    Action, Change, Context, READ_LIMIT, Receipt, Resource, ResourceError, ResourceResult, Undo,
    create_parents,
};

/// Timeout for an answer of an API server of the cluster.
const PROBE: Duration = Duration::from_secs(3);
/// The same once `member.env` is written: a first master behind a virtual IP that no host has yet waits for it again before etcd starts.
const PROBE_AGAIN: Duration = Duration::from_secs(1);

/// The member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdMemberSpec {
    /// Its name: that of the node.
    pub name: String,
    /// Its data directory.
    pub data: PathBuf,
    /// Its URL for other members.
    pub peer: String,
    /// The file with its first settings.
    pub settings: PathBuf,
    /// How it begins, if it has no data.
    pub initial_state: InitialState,
    /// Tells clusters apart while members join.
    pub token: String,
    /// URL of the cluster's API server: a cluster that has one is not begun again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Name of the data's id. It is forgotten when the member joins without data, because the others have all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_id: Option<String>,
}

/// What to do while this host waits for other members.
pub(super) const LOOK: &str = "look at the members on another master (`nodelet etcd members`)";

/// Where a host stands that is set to begin a cluster and knows no other master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bootstrap {
    /// It has no data of etcd yet.
    Pending,
    /// It has begun its cluster.
    Done,
}

/// What is there, and what has to be done.
#[derive(Debug)]
pub struct MemberState {
    /// The file with the first settings.
    entry: Option<Entry>,
    todo: Todo,
}

#[derive(Debug)]
enum Todo {
    Nothing,
    /// Only the file is missing; the member has data.
    Write(String),
    /// A cluster of this host alone.
    Begin(String),
    /// The host joins the cluster of the members at these endpoints.
    Join {
        endpoints: Vec<String>,
        decision: Join,
        /// The data on the disk is that of a learner which the cluster has removed.
        wipe: bool,
    },
}

#[async_trait]
impl Resource for EtcdMemberSpec {
    type Observed = MemberState;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<MemberState> {
        let entry = cx.host.entry(&self.settings).await?;
        let todo = match cx.absent {
            true => Todo::Nothing,
            false => self.todo(cx).await?,
        };
        Ok(MemberState { entry, todo })
    }

    fn diff(&self, observed: &MemberState, _: bool) -> Option<Change> {
        let action = match observed.entry {
            None => Action::Create,
            Some(_) => Action::Change,
        };
        let with =
            |before: &str, after: &str| Some(Change::new(action).with("cluster", before, after));
        match &observed.todo {
            Todo::Nothing => None,
            Todo::Write(_) => with("", "the one of its data"),
            Todo::Begin(_) => with("", "new, with this host alone"),
            Todo::Join { decision, .. } => match decision {
                Join::Replace(id) => with(
                    &format!("member {id:x}, whose data is gone"),
                    "joined as a learner",
                ),
                Join::Added => with("added as a learner", "its members are written down"),
                Join::Add | Join::Wait(_) | Join::Refuse { .. } => with("", "joined as a learner"),
            },
        }
    }

    async fn converge(
        &self,
        observed: &MemberState,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let entry = observed.entry.as_ref();
        match &observed.todo {
            Todo::Nothing => Ok(()),
            Todo::Write(text) | Todo::Begin(text) => {
                self.write(cx.host, entry, text, receipt).await
            }
            Todo::Join {
                endpoints,
                decision,
                wipe,
            } => {
                self.join_as(decision, endpoints, *wipe, cx.host, receipt)
                    .await?;
                let members = cx.host.member_list(endpoints).await?;
                let cluster = initial_cluster(self.me(), &members);
                let text = render(InitialState::Existing, &self.token, &cluster, &self.peer);
                self.write(cx.host, entry, &text, receipt).await
            }
        }
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.settings.clone()]
    }
}

impl EtcdMemberSpec {
    /// Who this host is in the cluster.
    #[must_use]
    pub fn me(&self) -> Me<'_> {
        Me {
            name: &self.name,
            peer: &self.peer,
        }
    }

    /// The undo of the addition to the cluster.
    pub(in crate::resource) fn removal(&self, endpoints: &[String]) -> Undo {
        Undo::RemoveEtcdLearner {
            endpoints: endpoints.to_vec(),
            peer: self.peer.clone(),
        }
    }

    /// Whether its first settings name other members: then it has joined them. A file that cannot be read counts as one that does. Cancel
    /// safe.
    pub(crate) async fn joined_others(&self, host: &dyn Host) -> bool {
        match self.written(host).await {
            Ok(written) => written.cluster.contains(','),
            Err(_) => true,
        }
    }

    /// Whether this member has no data that counts, and is going to get all of it from the other masters. Then the data of this id is not
    /// needed any more. Cancel safe.
    ///
    /// # Errors
    /// It has to wait for the other masters, or must not join them; or the host cannot be read.
    pub(crate) async fn joins_without(
        &self,
        data: &DataIdSpec,
        cx: &Context<'_>,
    ) -> ResourceResult<bool> {
        if self.data_id.as_ref() != Some(&data.name) {
            return Ok(false);
        }
        let masters = masters::read(cx.host).await?;
        if masters::endpoints_of_others(&masters, &self.name).is_empty() {
            return Ok(false);
        }
        match self.todo(cx).await? {
            Todo::Nothing | Todo::Write(_) | Todo::Begin(_) => Ok(false),
            Todo::Join { decision, .. } => match decision {
                Join::Replace(_) | Join::Add | Join::Added => Ok(true),
                Join::Wait(why) => Err(self.awaited(&why, LOOK)),
                Join::Refuse { .. } => Ok(false),
            },
        }
    }

    async fn todo(&self, cx: &Context<'_>) -> ResourceResult<Todo> {
        let host = cx.host;
        let masters = masters::read(host).await?;
        let endpoints = masters::endpoints_of_others(&masters, &self.name);
        if marker::has_data(host, &self.data).await? {
            return self.with_data(host, endpoints).await;
        }
        match self.initial_state {
            InitialState::New if endpoints.is_empty() => self.begin(cx).await,
            // The first master of a cluster of several may have lost its disk: it joins the others, and begins nothing.
            InitialState::New | InitialState::Existing => self.join(host, endpoints, false).await,
        }
    }

    /// The member has data. If no other master answers with quorum, it is taken to be a member.
    async fn with_data(&self, host: &dyn Host, endpoints: Vec<String>) -> ResourceResult<Todo> {
        let listed = match endpoints.is_empty() {
            true => None,
            false => host.member_list(&endpoints).await.ok(),
        };
        if let Some(members) = &listed
            && !members.iter().any(|member| self.me().is_at(member))
        {
            if let Some(own) = members.iter().find(|member| self.me().is(member)) {
                return Err(self.has_moved(own));
            }
            if marker::is_there(host, &self.data).await? {
                return self.join(host, endpoints, true).await;
            }
            return Err(self.was_removed(members));
        }
        if self.written(host).await?.is_whole() {
            return Ok(Todo::Nothing);
        }
        let cluster = match &listed {
            Some(members) => initial_cluster(self.me(), members),
            None => self.alone(),
        };
        // etcd ignores it, because it has data. In a cluster of several masters it must not begin another one in any case.
        let state = match endpoints.is_empty() {
            true => self.initial_state,
            false => InitialState::Existing,
        };
        Ok(Todo::Write(render(
            state,
            &self.token,
            &cluster,
            &self.peer,
        )))
    }

    /// The member has no data, this host knows no other master, and the settings let it begin the cluster.
    ///
    /// That `member.env` was written is no permission: the data may have been lost since then.
    async fn begin(&self, cx: &Context<'_>) -> ResourceResult<Todo> {
        self.had_no_data(cx).await?;
        let written = self.written(cx.host).await?;
        let is_written = written.is_whole() && written.state == Some(InitialState::New);
        let timeout = match is_written {
            true => PROBE_AGAIN,
            false => PROBE,
        };
        self.no_cluster_answers(timeout, cx.host).await?;
        if is_written {
            return Ok(Todo::Nothing);
        }
        let text = render(InitialState::New, &self.token, &self.alone(), &self.peer);
        Ok(Todo::Begin(text))
    }

    /// Whether this host is set to begin a cluster, or has begun one and is alone in it. A host that knows other masters begins none. Cancel safe.
    ///
    /// # Errors
    /// The host cannot be read.
    pub(crate) async fn bootstrap(&self, host: &dyn Host) -> ResourceResult<Option<Bootstrap>> {
        match self.initial_state {
            InitialState::Existing => return Ok(None),
            InitialState::New => {}
        }
        let masters = masters::read(host).await?;
        if masters.iter().any(|one| one.name != self.name) {
            return Ok(None);
        }
        Ok(Some(match marker::has_data(host, &self.data).await? {
            true => Bootstrap::Done,
            false => Bootstrap::Pending,
        }))
    }

    /// An error if this host is set to begin a cluster that exists. Takes about a second. Changes nothing. Cancel safe.
    ///
    /// # Errors
    /// The cluster exists, or the host cannot be read.
    pub(crate) async fn may_begin(&self, host: &dyn Host) -> ResourceResult<()> {
        match self.bootstrap(host).await? {
            Some(Bootstrap::Pending) => self.no_cluster_answers(PROBE_AGAIN, host).await,
            Some(Bootstrap::Done) | None => Ok(()),
        }
    }

    /// An error if an API server of the cluster answers.
    async fn no_cluster_answers(&self, timeout: Duration, host: &dyn Host) -> ResourceResult<()> {
        let Some(url) = &self.api else {
            return Ok(());
        };
        match api::answers(url, timeout, host).await? {
            None => Ok(()),
            Some(answer) => Err(ResourceError::Unmet {
                what: format!(
                    "begin a cluster of etcd on {}: an API server answers at {url} ({answer}), so the cluster exists",
                    self.name
                ),
                next: "if this host is to join that cluster, set ETCD_INITIAL_CLUSTER_STATE to existing; exactly one master of a cluster has new; if this host itself serves that address through a name or a load balancer, run `nodelet stop` first".to_owned(),
            }),
        }
    }

    /// An error if the records of this host say that it had data, which is lost.
    async fn had_no_data(&self, cx: &Context<'_>) -> ResourceResult<()> {
        let Some(name) = &self.data_id else {
            return Ok(());
        };
        let data = DataIdSpec {
            name: name.clone(),
            path: marker::identity(&self.data),
        };
        match data.problem(cx).await {
            Ok(_) => Ok(()),
            Err(ResourceError::Unmet { what, next }) => Err(ResourceError::Unmet {
                what,
                next: format!(
                    "{next}; if this host is to join other masters, set ETCD_INITIAL_CLUSTER_STATE to existing"
                ),
            }),
            Err(error) => Err(error),
        }
    }

    /// The member has no data that counts, and joins the cluster of the other masters.
    async fn join(
        &self,
        host: &dyn Host,
        endpoints: Vec<String>,
        wipe: bool,
    ) -> ResourceResult<Todo> {
        if endpoints.is_empty() {
            return Err(ResourceError::Unmet {
                what: format!(
                    "start etcd on {}: this host has no data of etcd, and knows no other master ({MASTERS})",
                    self.name
                ),
                next: format!(
                    "on the first master of a new cluster, set ETCD_INITIAL_CLUSTER_STATE to new; on another one, put a join file for masters in place (`nodelet pki export` on a master), or, if it has joined before, copy {MASTERS} of another master; if the data was lost and there is no other master, put it back or restore a backup"
                ),
            });
        }
        let members = host.member_list(&endpoints).await.map_err(|error| {
            self.awaited(
                &format!("no other master answers with quorum: {}", chain(&error).join(": ")),
                &format!(
                    "start the other masters; if the hosts of all of them are lost for good, move {MASTERS} away and restore a backup"
                ),
            )
        })?;
        let listed = members.clone();
        let seen = look(host, members).await;
        let decision = join(self.me(), &seen);
        let mark = match decision {
            Join::Add | Join::Replace(_) | Join::Added => {
                self.may_join(&decision, host, &endpoints).await?
            }
            Join::Wait(_) | Join::Refuse { .. } => None,
        };
        // A mark that it may pass has to be lifted first.
        let is_ready = decision == Join::Added && !wipe && mark.is_none();
        if is_ready && self.names(&listed, host).await? {
            return Ok(Todo::Nothing);
        }
        // What cannot succeed is said before anything is changed.
        if let Join::Refuse { why, next } = decision {
            return Err(ResourceError::Unmet {
                what: format!("add {} to etcd: {why}", self.name),
                next,
            });
        }
        Ok(Todo::Join {
            endpoints,
            decision,
            wipe,
        })
    }

    /// Carries out what was decided, up to the point where the cluster lists this host as a learner that has not started.
    async fn join_as(
        &self,
        decision: &Join,
        endpoints: &[String],
        wipe: bool,
        host: &dyn Host,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        match decision {
            Join::Wait(why) => return Err(self.awaited(why, LOOK)),
            Join::Refuse { why, next } => {
                return Err(ResourceError::Unmet {
                    what: format!("add {} to etcd: {why}", self.name),
                    next: next.clone(),
                });
            }
            Join::Replace(_) | Join::Add | Join::Added => {}
        }
        // Beside the marker there may also be the rest of an earlier removal, or what etcd writes before it knows whether it may join.
        if wipe || marker::is_there(host, &self.data).await? {
            marker::wipe(host, &self.data).await?;
        }
        // The data comes from the others, so it gets a new id.
        if let Some(name) = &self.data_id {
            for record in data_id::records(name) {
                host.remove(&record).await?;
            }
        }
        if let Join::Replace(id) = decision {
            host.member_remove(endpoints, *id).await?;
        }
        marker::set(host, &self.data, receipt).await?;
        // The undo comes first: whether an addition that was interrupted has happened is not known.
        receipt.push(self.removal(endpoints)).await?;
        // Asked again: it may have been removed since the members were listed.
        let mut mark = self.may_join(decision, host, endpoints).await?;
        if *decision != Join::Added {
            host.member_add_learner(endpoints, &self.peer).await?;
            // A removal that has not seen the new member has marked it before this.
            mark = self.may_join(&Join::Added, host, endpoints).await?;
        }
        // Only now: until it is a member, a removal that is called again has to know that it was permitted after this mark.
        if let Some(mark) = mark {
            removed::lift(host, endpoints, &self.name, mark).await?;
        }
        Ok(())
    }

    async fn write(
        &self,
        host: &dyn Host,
        entry: Option<&Entry>,
        text: &str,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        create_parents(host, &self.settings, receipt).await?;
        remember(host, &self.settings, entry, "a file", receipt).await?;
        Ok(host.write(&self.settings, text.as_bytes(), PRIVATE).await?)
    }

    /// The cluster of this host alone.
    fn alone(&self) -> String {
        format!("{}={}", self.name, self.peer)
    }

    async fn written(&self, host: &dyn Host) -> ResourceResult<Written> {
        let content = host.read(&self.settings, READ_LIMIT).await?;
        let content = content.unwrap_or_default();
        Ok(Written::of(&String::from_utf8_lossy(&content)))
    }

    /// Whether the file is there, lets the member join, and names these members.
    async fn names(&self, members: &[EtcdMember], host: &dyn Host) -> ResourceResult<bool> {
        let written = self.written(host).await?;
        let joins = written.state == Some(InitialState::Existing);
        Ok(joins
            && same_members(&written.cluster, members)
            && marker::is_there(host, &self.data).await?)
    }

    pub(super) fn awaited(&self, why: &str, next: &str) -> ResourceError {
        ResourceError::Awaited {
            what: format!("add {} to etcd: {why}; the next try goes on", self.name),
            next: next.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
