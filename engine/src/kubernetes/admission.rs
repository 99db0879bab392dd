//! What a cluster knows of a node that may join: its record of admission, and its token.
//!
//! Only an administrator's access can write either of them. `nodelet pki issue` does so on a master, for one node. The record
//! (a ConfigMap) stays as long as the node may have certificates, and after its removal as a tombstone, until these have ended. The token (a
//! Secret that the API server reads) ends when the node uses its own certificate, or at its expiry. The record names the only token that counts, so an earlier
//! one is useless at once, and the keys that the token was used for, so it cannot be used for another host.

mod claim;
mod record;
mod taints;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures::{StreamExt as _, stream};
use serde_json::json;

use crate::host::{ClusterAccess, Host, HostError, HostResult, Taint};
use crate::model::chain;

pub(super) use record::CLOCKS_DIFFER;
pub use record::{
    AddressClaim, Admission, CLAIM_LIFE, CertificateKind, DamagedRecord, LONGEST_LIFE, RemovedNode,
};
use record::{RECORD_PREFIX, read, record_name, written, written_time};
pub use taints::{check_taints, parse_taint};
pub(super) use taints::{is_automatic, line_of, read_line};
pub use token::{NewToken, TokenRecord};
use token::{read_token, secret_key, secret_name, secret_object};

/// The namespace of both objects. The API server reads tokens only there.
const NAMESPACE: &str = "kube-system";
/// The label of records of admission. A record without it counts, too.
const ADMISSION_LABEL: &str = "nodelet.pf9.io/admission";
/// The group that the API server adds to the user of a token. It may ask for certificates and nothing else.
pub const JOINING: &str = "system:bootstrappers:nodelet";
/// The annotation that masters give a node which uses its own certificate, so that its token has ended.
pub const JOINED: &str = "nodelet.pf9.io/joined";
/// So many records without their label are read at a time.
const READ_AT_ONCE: usize = 16;
/// So often a record is written again if another client was faster.
const TRIES: usize = 5;

/// The record of this node, also if it is a tombstone; `None` if it was not admitted. Cancel safe.
///
/// # Errors
/// The API server does not answer or refuses, or the record is damaged.
pub async fn admission(
    host: &dyn Host,
    access: &ClusterAccess,
    node: &str,
) -> HostResult<Option<Admission>> {
    let name = record_name(node);
    let found = host.config_map(access, NAMESPACE, &name).await?;
    let record = found.map(read).transpose();
    record.map_err(|problem| DamagedRecord::new(name, &problem).error())
}

/// All records of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admissions {
    /// The readable ones by node, with the tombstones.
    pub records: BTreeMap<String, Admission>,
    /// The others. They admit no node. Their addresses are unknown, so no address is known to be free.
    pub damaged: Vec<DamagedRecord>,
}

/// All records. Cancel safe.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn admissions(host: &dyn Host, access: &ClusterAccess) -> HostResult<Admissions> {
    let mut all = Admissions::default();
    let mut maps = host.config_maps(access, NAMESPACE, ADMISSION_LABEL).await?;
    let known: BTreeSet<String> = maps.iter().map(|map| map.name.clone()).collect();
    // Any client may have removed a label.
    let mut names = host
        .config_map_names(access, NAMESPACE, RECORD_PREFIX)
        .await?;
    names.retain(|name| !known.contains(name));
    let mut unlabelled = stream::iter(&names)
        .map(|name| host.config_map(access, NAMESPACE, name))
        .buffered(READ_AT_ONCE);
    while let Some(found) = unlabelled.next().await {
        maps.extend(found?);
    }
    for map in maps {
        let name = map.name.clone();
        match read(map) {
            Ok(record) => {
                all.records.insert(record.node.clone(), record);
            }
            Err(problem) => all.damaged.push(DamagedRecord::new(name, &problem)),
        }
    }
    Ok(all)
}

/// The token with this id; `None` if there is none, or if it is not one of ours. Cancel safe.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn token(
    host: &dyn Host,
    access: &ClusterAccess,
    id: &str,
) -> HostResult<Option<TokenRecord>> {
    let found = host.secret(access, NAMESPACE, &secret_name(id)).await?;
    Ok(found.and_then(|found| read_token(id, &found)))
}

/// Writes a record over the version that it was read from. False if another client was faster.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn put(host: &dyn Host, access: &ClusterAccess, record: &Admission) -> HostResult<bool> {
    host.put_config_map(access, &written(record)).await
}

/// Admits a node with a new token, which is valid until `expires`. The record begins anew, and the earlier token of the node ends. The
/// node keeps its address until the token brings a certificate for another one: its earlier certificate is still valid. It also keeps the taints
/// of the earlier record, unless others are given.
///
/// A record names two tokens at most: the present one, and the one before, whose deletion may have failed. So the one before is deleted first:
/// a token that no record names would stay valid until its expiry.
///
/// If this fails or is interrupted, the earlier token counts, or the new one; never none of them.
///
/// # Errors
/// The API server does not answer or refuses, or another client has changed the record. If only the deletion of the earlier token has failed,
/// the new token counts, and the error says so.
pub async fn admit(
    host: &dyn Host,
    access: &ClusterAccess,
    node: &str,
    new: &NewToken<'_>,
) -> HostResult<()> {
    let earlier = admission(host, access, node).await?;
    if let Some(id) = earlier.as_ref().and_then(|its| its.token_before.as_ref()) {
        let deleted = delete_token(host, access, id).await;
        deleted.map_err(|error| {
            let action =
                format!("delete the earlier token {id} of node {node}, so it has no new token");
            HostError::service(action, error)
        })?;
    }
    let record = Admission {
        node: node.to_owned(),
        token_id: Some(new.token.id().to_owned()),
        token_before: earlier.as_ref().and_then(|its| its.token_id.clone()),
        admitted_at: written_time(new.now),
        version: earlier
            .as_ref()
            .map_or_else(String::new, |its| its.version.clone()),
        address: earlier.as_ref().and_then(|its| its.address),
        claim: earlier.as_ref().and_then(|its| its.claim.clone()),
        taints: earlier
            .as_ref()
            .map_or_else(Vec::new, |its| its.taints.clone()),
        untainted: earlier
            .as_ref()
            .map_or_else(Vec::new, |its| its.untainted.clone()),
        ..Admission::default()
    };
    let record = match new.taints {
        Some(taints) => record.with_taints(taints),
        None => record,
    };
    if let Err(error) = create(host, access, &record, new).await {
        delete_unnamed(host, access, node, new.token.id()).await;
        return Err(error);
    }
    // Also if the node cannot be marked: the earlier token must not outlive its use.
    let ended = match &record.token_before {
        Some(id) => delete_token(host, access, id).await.map_err(|error| {
            let action =
                format!("delete the earlier token {id} of node {node}, whose new token is valid");
            HostError::service(action, error)
        }),
        None => Ok(()),
    };
    look_again(host, access, node).await?;
    ended
}

/// Lets masters look at a node again: they do at one without this mark.
async fn look_again(host: &dyn Host, access: &ClusterAccess, node: &str) -> HostResult<()> {
    let present = host.node(access, node).await?;
    if present.is_some_and(|present| present.annotations.contains_key(JOINED)) {
        let mark = json!({ "metadata": { "annotations": { JOINED: null } } });
        host.patch_node(access, node, &mark).await?;
    }
    Ok(())
}

/// Writes a new token, and then the record that names it: a token that no record names counts for nothing.
async fn create(
    host: &dyn Host,
    access: &ClusterAccess,
    record: &Admission,
    new: &NewToken<'_>,
) -> HostResult<()> {
    let secret = secret_object(&record.node, new);
    host.apply_object(access, &secret).await?;
    match put(host, access, record).await? {
        true => Ok(()),
        false => Err(changed(&record.node)),
    }
}

/// Deletes the new token of an admission that has failed, unless the record names it: the answer to a write may have been lost. A record that the
/// API server writes later than this look names a token that is gone: then the node has no token until the command is repeated.
async fn delete_unnamed(host: &dyn Host, access: &ClusterAccess, node: &str, id: &str) {
    let deleted = match admission(host, access, node).await {
        Ok(Some(record)) if record.token_id.as_deref() == Some(id) => Ok(()),
        Ok(_) => delete_token(host, access, id).await,
        Err(error) => Err(error),
    };
    if let Err(error) = deleted {
        let problem = chain(&error).join(": ");
        tracing::warn!(
            "delete the token {id}, which node {node} did not get and which is valid until it expires: {problem}"
        );
    }
}

/// Deletes the token with this id. Fine if there is none.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn delete_token(host: &dyn Host, access: &ClusterAccess, id: &str) -> HostResult<()> {
    if !super::join_file::is_token_id(id) {
        return Ok(());
    }
    host.delete_object(access, &secret_key(id)).await
}

/// Deletes the tokens that a record names.
async fn delete_tokens_of(
    host: &dyn Host,
    access: &ClusterAccess,
    record: &Admission,
) -> HostResult<()> {
    for id in record.token_id.iter().chain(&record.token_before) {
        delete_token(host, access, id).await?;
    }
    Ok(())
}

/// Deletes the token of a node, and notes that in its record. If the record has changed since it was read, only the token is deleted: false.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn end_token(
    host: &dyn Host,
    access: &ClusterAccess,
    record: &Admission,
) -> HostResult<bool> {
    if record.token_id.is_none() && record.token_before.is_none() {
        return Ok(true);
    }
    delete_tokens_of(host, access, record).await?;
    let ended = Admission {
        token_id: None,
        token_before: None,
        ..record.clone()
    };
    put(host, access, &ended).await
}

/// Deletes the token of a node and replaces its record by a tombstone: the node gets no certificates any more. `uid` is that of its Node,
/// empty if it has none. Returns the record from before; `None` if there is none. A tombstone stays as it is. A Node without a record (an administrator
/// has deleted it) gets a tombstone, too: its host may have a certificate, and register again.
///
/// # Errors
/// The API server does not answer or refuses, or other clients change the record all the time.
pub async fn revoke(
    host: &dyn Host,
    access: &ClusterAccess,
    node: &str,
    uid: &str,
) -> HostResult<Option<Admission>> {
    for _ in 0..TRIES {
        let record = admission(host, access, node).await?;
        match &record {
            Some(its) => {
                delete_tokens_of(host, access, its).await?;
                if its.removed.is_some() {
                    return Ok(record);
                }
            }
            None if uid.is_empty() => return Ok(None),
            None => {}
        }
        let before = record.clone().unwrap_or_default();
        let tombstone = Admission {
            node: node.to_owned(),
            admitted_at: before.admitted_at,
            removed: Some(RemovedNode {
                at: host.now(),
                uid: uid.to_owned(),
            }),
            version: before.version,
            ..Admission::default()
        };
        if put(host, access, &tombstone).await? {
            return Ok(record);
        }
    }
    Err(changed(node))
}

/// Writes these taints into the record of a node, in place of those that it names. False if the cluster has not admitted such a node, or has
/// removed it.
///
/// # Errors
/// The API server does not answer or refuses, or other clients change the record all the time.
pub async fn set_taints(
    host: &dyn Host,
    access: &ClusterAccess,
    node: &str,
    taints: &[Taint],
) -> HostResult<bool> {
    for _ in 0..TRIES {
        let record = admission(host, access, node).await?;
        let Some(record) = record.filter(|record| record.removed.is_none()) else {
            return Ok(false);
        };
        if put(host, access, &record.with_taints(taints)).await? {
            look_again(host, access, node).await?;
            return Ok(true);
        }
    }
    Err(changed(node))
}

/// Deletes a record as it was read. False if another client has changed it since. Fine if there is none.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn forget(
    host: &dyn Host,
    access: &ClusterAccess,
    record: &Admission,
) -> HostResult<bool> {
    host.delete_config_map(access, &written(record)).await
}

/// Deletes the record of a node and its token, also if it is a tombstone: the node was no worker, or is none any more. Fine if there is none.
///
/// # Errors
/// The API server does not answer or refuses, or other clients change the record all the time.
pub async fn withdraw(host: &dyn Host, access: &ClusterAccess, node: &str) -> HostResult<()> {
    for _ in 0..TRIES {
        let Some(record) = admission(host, access, node).await? else {
            return Ok(());
        };
        delete_tokens_of(host, access, &record).await?;
        if forget(host, access, &record).await? {
            return Ok(());
        }
    }
    Err(changed(node))
}

fn changed(node: &str) -> HostError {
    HostError::service(
        format!("write the ConfigMap {NAMESPACE}/{}", record_name(node)),
        "another client has changed it meanwhile; try again",
    )
}

/// The end of a validity that begins now, in whole seconds as a Secret has them.
#[must_use]
pub fn end_of(now: SystemTime, valid_for: Duration) -> SystemTime {
    let end = now + valid_for;
    let since = end.duration_since(SystemTime::UNIX_EPOCH);
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.unwrap_or_default().as_secs())
}

#[cfg(test)]
pub(crate) mod tests;
