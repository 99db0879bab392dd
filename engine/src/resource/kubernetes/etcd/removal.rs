//! Whether this host may add itself to etcd again after its master was removed, and what the operator of a removed member is told.

use super::member::{EtcdMemberSpec, LOOK};
use crate::host::{EtcdMember, Host};
use crate::kubernetes::etcd_members::Join;
use crate::kubernetes::etcd_members::removed::{self, Standing};
use crate::kubernetes::masters::address_in;
use crate::model::chain;
use crate::resource::{ResourceError, ResourceResult};

impl EtcdMemberSpec {
    /// An error if an administrator has removed this master, and has not let it join again. The revision of the mark that it may pass, if there
    /// is one.
    pub(super) async fn may_join(
        &self,
        decision: &Join,
        host: &dyn Host,
        endpoints: &[String],
    ) -> ResourceResult<Option<u64>> {
        let replace = match decision {
            Join::Add => "",
            _ => " --replace",
        };
        let (what, next) = match removed::standing(host, endpoints, &self.name).await {
            Ok(Standing::MayJoin { mark }) => return Ok(mark),
            // It was permitted when it added itself.
            Ok(Standing::PermitEnded { mark }) if *decision == Join::Added => {
                return Ok(Some(mark));
            }
            Ok(Standing::PermitEnded { .. }) => (
                "this master was removed from the cluster, and the join file that was made for it afterwards has ended",
                format!(
                    "export the keys to it again on a master (`nodelet pki export {}{replace} --to KEY`; `nodelet pki key` prints the key of this host), and run `nodelet apply`",
                    self.name
                ),
            ),
            Ok(Standing::Removed) => match decision {
                // What removed it was interrupted.
                Join::Replace(_) => (
                    "its removal from the cluster has begun and is not over (`nodelet cluster remove`)",
                    format!(
                        "run `nodelet cluster remove {0}` on another master again; if it is to stay, let it join there (`nodelet pki export {0}{replace} --to KEY`; `nodelet pki key` prints the key of this host)",
                        self.name
                    ),
                ),
                // Its member has no name, so it is removed by its address.
                Join::Added => (
                    "this master was removed from the cluster (`nodelet cluster remove`) while it joined",
                    format!(
                        "run `nodelet cluster remove {}` on another master, and then {}",
                        address_in(&self.peer)
                            .map_or_else(|| self.name.clone(), |its| its.to_string()),
                        self.join_as_new()
                    ),
                ),
                Join::Add | Join::Wait(_) | Join::Refuse { .. } => (
                    "this master was removed from the cluster (`nodelet cluster remove`)",
                    self.join_as_new(),
                ),
            },
            Err(error) => {
                let why = chain(&error).join(": ");
                let why = format!("etcd does not tell whether this master was removed: {why}");
                return Err(self.awaited(&why, LOOK));
            }
        };
        let what = format!("add {} to etcd: {what}", self.name);
        Err(ResourceError::Unmet { what, next })
    }

    /// What to do with a host that was removed from its cluster. Keys may have been replaced since then.
    fn join_as_new(&self) -> String {
        format!(
            "clean it (`nodelet clean --purge`); if it is to join again, then also run `nodelet pki key` on it, `nodelet pki export {} --to KEY` on a master, and apply with that join file",
            self.name
        )
    }

    pub(super) fn has_moved(&self, listed: &EtcdMember) -> ResourceError {
        ResourceError::Unmet {
            what: format!(
                "start etcd on {}: the cluster lists this member at {}, and this host is at {}; its data stays as it is",
                self.name,
                listed.peer_urls.join(", "),
                self.peer
            ),
            next: format!(
                "give this host its earlier address; or remove it on another master (`nodelet cluster remove {}`), and then {}",
                self.name,
                self.join_as_new()
            ),
        }
    }

    pub(super) fn was_removed(&self, members: &[EtcdMember]) -> ResourceError {
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        ResourceError::Unmet {
            what: format!(
                "start etcd on {}: this member was removed from the cluster, whose members are {}; its data stays as it is",
                self.name,
                names.join(", ")
            ),
            next: self.join_as_new(),
        }
    }
}
