//! Calls on the members of etcd over its JSON gateway (`/v3/…`), with the certificate of `etcdctl`.
//!
//! etcd 3.4 answers a list of members from the memory of the member that is asked, also without quorum. So a linearizable read comes first:
//! it succeeds only with quorum, and afterwards that member knows all changes that were made before it. A learner refuses both.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::https;
use crate::host::live::LiveHost;
use crate::host::live::blocking::within;
use crate::host::{
    EtcdKey, EtcdLock, EtcdMember, EtcdMembers, EtcdStatus, HostError, HostResult, HttpsRequest,
    HttpsResponse,
};

/// The authority's certificate, and the client's certificate and key.
const CERTIFICATE: &str = "/etc/pf9/kube.d/certs/etcdctl/etcd";
/// Timeout for a question.
const QUESTION: Duration = Duration::from_secs(3);
/// Timeout for a change: it waits for consensus, at most etcd's own 7 s.
const CHANGE: Duration = Duration::from_secs(10);
/// A key that does not exist, in base64: a read of it is as good as any.
const NO_KEY: &str = "AA==";
/// Maximum number of members that are read.
const MEMBERS: usize = 64;
/// Codes of gRPC.
const NOT_FOUND: u64 = 5;
const UNAVAILABLE: u64 = 14;

/// Why a member did not do what it was asked.
enum Refusal {
    /// It did not answer, or cannot serve: another member may.
    Away(HostError),
    /// It refused, with this gRPC code.
    Refused(u64, HostError),
}

impl Refusal {
    fn into_error(self) -> HostError {
        match self {
            Self::Away(error) | Self::Refused(_, error) => error,
        }
    }
}

#[async_trait::async_trait]
impl EtcdMembers for LiveHost {
    async fn member_list(&self, endpoints: &[String]) -> HostResult<Vec<EtcdMember>> {
        if endpoints.is_empty() {
            return Err(none_given("list the members of etcd"));
        }
        // All are asked at the same time: a host that is down costs no time while another one answers.
        let asked = endpoints.iter().map(|endpoint| Box::pin(listed(endpoint)));
        match futures::future::select_ok(asked).await {
            Ok((members, _)) => Ok(members),
            Err(refusal) => Err(refusal.into_error()),
        }
    }

    async fn member_add_learner(&self, endpoints: &[String], peer_url: &str) -> HostResult<u64> {
        let question = json!({ "peerURLs": [peer_url], "isLearner": true });
        let answer = change(endpoints, "/v3/cluster/member/add", &question)
            .await
            .map_err(Refusal::into_error)?;
        number(answer.pointer("/member/ID")).ok_or_else(|| {
            HostError::service("add a member to etcd", "the answer names no new member")
        })
    }

    async fn member_promote(&self, endpoints: &[String], id: u64) -> HostResult<()> {
        let question = json!({ "ID": id.to_string() });
        change(endpoints, "/v3/cluster/member/promote", &question)
            .await
            .map(drop)
            .map_err(Refusal::into_error)
    }

    async fn member_remove(&self, endpoints: &[String], id: u64) -> HostResult<()> {
        let question = json!({ "ID": id.to_string() });
        match change(endpoints, "/v3/cluster/member/remove", &question).await {
            Ok(_) | Err(Refusal::Refused(NOT_FOUND, _)) => Ok(()),
            Err(refusal) => Err(refusal.into_error()),
        }
    }

    async fn take_lock(
        &self,
        endpoints: &[String],
        key: &str,
        holder: &str,
        life: Duration,
    ) -> HostResult<EtcdLock> {
        let mut lease = granted(endpoints, life).await?;
        let mut taken = put_once(endpoints, key, holder, lease).await;
        if let Ok(Put::Exists {
            holder: other,
            lease: earlier,
        }) = &taken
            && other == holder
        {
            // An earlier command of this host was killed, or the answer to this attempt was lost.
            self.release_lock(endpoints, *earlier).await?;
            lease = granted(endpoints, life).await?;
            taken = put_once(endpoints, key, holder, lease).await;
        }
        if matches!(taken, Ok(Put::Done)) {
            return Ok(EtcdLock::Held { lease });
        }
        // After a lost answer the key may be there. If this fails, the lease ends by itself.
        let _ = self.release_lock(endpoints, lease).await;
        match taken? {
            Put::Done => Ok(EtcdLock::Held { lease }),
            Put::Exists { holder, .. } => Ok(EtcdLock::HeldBy(holder)),
        }
    }

    async fn release_lock(&self, endpoints: &[String], lease: u64) -> HostResult<()> {
        let question = json!({ "ID": lease.to_string() });
        match change(endpoints, "/v3/lease/revoke", &question).await {
            Ok(_) | Err(Refusal::Refused(NOT_FOUND, _)) => Ok(()),
            Err(refusal) => Err(refusal.into_error()),
        }
    }

    async fn get_key(&self, endpoints: &[String], key: &str) -> HostResult<Option<EtcdKey>> {
        let question = json!({ "key": STANDARD.encode(key) });
        if endpoints.is_empty() {
            return Err(none_given(&format!("read the key {key} of etcd")));
        }
        // All are asked at the same time, as in `member_list`.
        let path = "/v3/kv/range";
        let asked = endpoints.iter();
        let asked = asked.map(|endpoint| Box::pin(call(endpoint, path, &question, QUESTION)));
        let answer = futures::future::select_ok(asked).await;
        let (answer, _) = answer.map_err(Refusal::into_error)?;
        key_of(&answer).ok_or_else(|| {
            HostError::service(
                format!("read the key {key} of etcd"),
                "the answer is not understood",
            )
        })
    }

    async fn put_key(&self, endpoints: &[String], key: &str, value: &str) -> HostResult<u64> {
        let question = json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(value) });
        let answer = change(endpoints, "/v3/kv/put", &question).await;
        let answer = answer.map_err(Refusal::into_error)?;
        // A put is one change, so its revision is that of the answer.
        number(answer.pointer("/header/revision")).ok_or_else(|| {
            HostError::service(
                format!("write the key {key} of etcd"),
                "the answer is not understood",
            )
        })
    }

    async fn member_status(&self, endpoint: &str) -> HostResult<EtcdStatus> {
        let answer = call(endpoint, "/v3/maintenance/status", &json!({}), QUESTION)
            .await
            .map_err(Refusal::into_error)?;
        Ok(status(&answer))
    }
}

/// A new lease.
async fn granted(endpoints: &[String], life: Duration) -> HostResult<u64> {
    let question = json!({ "TTL": life.as_secs().to_string() });
    let answer = change(endpoints, "/v3/lease/grant", &question).await;
    let answer = answer.map_err(Refusal::into_error)?;
    number(answer.get("ID"))
        .ok_or_else(|| HostError::service("take a lock in etcd", "the answer names no lease"))
}

/// What became of an attempt to write a key that must not exist.
#[derive(Debug, PartialEq, Eq)]
enum Put {
    /// It is written.
    Done,
    /// It exists.
    Exists { holder: String, lease: u64 },
}

/// Writes a key that lives as long as the lease, unless it exists.
async fn put_once(endpoints: &[String], key: &str, holder: &str, lease: u64) -> HostResult<Put> {
    let (key, value) = (STANDARD.encode(key), STANDARD.encode(holder));
    let question = json!({
        "compare": [{ "key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0" }],
        "success": [{ "request_put": { "key": key, "value": value, "lease": lease.to_string() } }],
        "failure": [{ "request_range": { "key": key } }],
    });
    let answer = change(endpoints, "/v3/kv/txn", &question).await;
    let answer = answer.map_err(Refusal::into_error)?;
    put(&answer)
        .ok_or_else(|| HostError::service("take a lock in etcd", "the answer is not understood"))
}

fn put(answer: &Value) -> Option<Put> {
    // The gateway leaves out what is false.
    if answer.get("succeeded").and_then(Value::as_bool) == Some(true) {
        return Some(Put::Done);
    }
    let present = answer.pointer("/responses/0/response_range/kvs/0")?;
    let value = STANDARD.decode(present.get("value")?.as_str()?).ok()?;
    let holder = String::from_utf8_lossy(&value);
    Some(Put::Exists {
        holder: holder.escape_debug().take(256).collect(),
        lease: number(present.get("lease")).unwrap_or_default(),
    })
}

/// The key in the answer to a question for it; outer `None` if the answer is not understood.
fn key_of(answer: &Value) -> Option<Option<EtcdKey>> {
    // The gateway leaves out an empty list, and an empty value.
    let Some(found) = answer.get("kvs") else {
        return answer.get("header").map(|_| None);
    };
    let found = found.get(0)?;
    let value = STANDARD.decode(found.get("value").map_or(Some(""), Value::as_str)?);
    let value = String::from_utf8_lossy(&value.ok()?).into_owned();
    Some(Some(EtcdKey {
        value: value.escape_debug().take(256).collect(),
        revision: number(found.get("mod_revision"))?,
    }))
}

fn none_given(action: &str) -> HostError {
    HostError::service(action, "no other member is known")
}

/// The members, from a member with quorum.
async fn listed(endpoint: &str) -> Result<Vec<EtcdMember>, Refusal> {
    let read = json!({ "key": NO_KEY, "count_only": true });
    call(endpoint, "/v3/kv/range", &read, QUESTION).await?;
    let answer = call(endpoint, "/v3/cluster/member/list", &json!({}), QUESTION).await?;
    members(&answer).ok_or_else(|| {
        let action = format!("list the members of etcd at {endpoint}");
        Refusal::Away(HostError::service(action, "the answer is no list"))
    })
}

/// Asks one member after the other for a change, until one has decided about it.
async fn change(endpoints: &[String], path: &str, question: &Value) -> Result<Value, Refusal> {
    let mut last = Refusal::Away(none_given(&format!("post to {path}")));
    for endpoint in endpoints {
        match call(endpoint, path, question, CHANGE).await {
            Err(refusal @ Refusal::Away(_)) => last = refusal,
            decided => return decided,
        }
    }
    Err(last)
}

/// One call of the gateway.
async fn call(
    endpoint: &str,
    path: &str,
    question: &Value,
    timeout: Duration,
) -> Result<Value, Refusal> {
    let at = |name: &str| Path::new(CERTIFICATE).join(name);
    let request = HttpsRequest {
        url: format!("{endpoint}{path}"),
        ca: Some(at("ca.crt")),
        client: Some((at("request.crt"), at("request.key"))),
        timeout,
    };
    let action = || format!("post to {}", request.url);
    let answer = within(timeout, action, https::post(&request, question.to_string()))
        .await
        .map_err(Refusal::Away)?;
    understood(&answer, action)
}

/// The content of an answer, or etcd's own error.
fn understood(answer: &HttpsResponse, action: impl Fn() -> String) -> Result<Value, Refusal> {
    let content: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    if answer.status == 200 && content.is_object() {
        return Ok(content);
    }
    let code = number(content.get("code")).unwrap_or(UNAVAILABLE);
    let said = content.get("error").and_then(Value::as_str);
    let said = match said {
        Some(said) => said.chars().take(500).collect::<String>(),
        None => format!("HTTP status {}", answer.status),
    };
    let error = HostError::service(action(), said.escape_debug().to_string());
    // etcd has one such code for a learner, for a member without leader, and for a cluster that is not healthy.
    Err(match code {
        UNAVAILABLE => Refusal::Away(error),
        code => Refusal::Refused(code, error),
    })
}

/// The gateway writes 64-bit numbers as texts.
fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    }
}

fn members(answer: &Value) -> Option<Vec<EtcdMember>> {
    let listed = answer.get("members")?.as_array()?;
    let mut members = listed
        .iter()
        .take(MEMBERS)
        .map(|member| {
            Some(EtcdMember {
                id: number(member.get("ID"))?,
                name: text(member, "name"),
                peer_urls: texts(member, "peerURLs"),
                client_urls: texts(member, "clientURLs"),
                learner: member
                    .get("isLearner")
                    .and_then(Value::as_bool)
                    .unwrap_or_default(),
            })
        })
        .collect::<Option<Vec<_>>>()?;
    members.sort_by(|one, other| (&one.name, one.id).cmp(&(&other.name, other.id)));
    (!members.is_empty()).then_some(members)
}

fn status(answer: &Value) -> EtcdStatus {
    let field = |name: &str| number(answer.get(name)).unwrap_or_default();
    EtcdStatus {
        id: number(answer.pointer("/header/member_id")).unwrap_or_default(),
        leader: Some(field("leader")).filter(|leader| *leader != 0),
        raft_index: field("raftIndex"),
        db_size: field("dbSize"),
        version: text(answer, "version"),
        learner: answer
            .get("isLearner")
            .and_then(Value::as_bool)
            .unwrap_or_default(),
        errors: texts(answer, "errors"),
    }
}

fn text(value: &Value, name: &str) -> String {
    let text = value.get(name).and_then(Value::as_str).unwrap_or_default();
    text.escape_debug().take(256).collect()
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let all = value.get(name).and_then(Value::as_array);
    let all = all.into_iter().flatten().filter_map(Value::as_str);
    all.take(16)
        .map(|text| text.escape_debug().take(256).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> HttpsResponse {
        HttpsResponse {
            status,
            body: body.to_owned(),
            certificate: None,
        }
    }

    #[test]
    fn members_are_read_as_the_gateway_writes_them() {
        let answer = json!({
            "header": { "member_id": "7" },
            "members": [
                { "ID": "10501334649042878790", "name": "m-2", "peerURLs": ["https://172.30.0.12:2380"], "clientURLs": ["https://172.30.0.12:4001"] },
                { "ID": "2", "peerURLs": ["https://172.30.0.13:2380"], "isLearner": true },
            ],
        });
        let members = members(&answer).expect("it is a list");
        assert_eq!(members[0].name, "");
        assert!(members[0].learner && members[0].client_urls.is_empty());
        assert_eq!(members[1].id, 10_501_334_649_042_878_790);
        assert!(!members[1].learner);
        for other in [
            json!({}),
            json!({ "members": [] }),
            json!({ "members": [{ "name": "x" }] }),
        ] {
            assert!(super::members(&other).is_none(), "{other}");
        }
    }

    #[test]
    fn the_answer_to_a_lock_names_its_holder() {
        let done =
            json!({ "header": {}, "succeeded": true, "responses": [{ "response_put": {} }] });
        assert_eq!(put(&done), Some(Put::Done));
        let kept = json!({ "key": "L2s=", "value": "bS0y", "lease": "7587862094132102670" });
        let held = json!({ "responses": [{ "response_range": { "kvs": [kept], "count": "1" } }] });
        let by = Put::Exists {
            holder: "m-2".to_owned(),
            lease: 7_587_862_094_132_102_670,
        };
        assert_eq!(put(&held), Some(by));
        // It has ended between the comparison and the answer, or the answer is something else.
        for other in [
            json!({}),
            json!({ "responses": [{ "response_range": {} }] }),
        ] {
            assert_eq!(put(&other), None, "{other}");
        }
    }

    #[test]
    fn a_key_is_read_as_the_gateway_writes_it() {
        let header = json!({ "revision": "9" });
        let kvs = json!([{ "key": "L2E=", "value": "ZA==", "mod_revision": "7" }]);
        let key = EtcdKey {
            value: "d".to_owned(),
            revision: 7,
        };
        let answer = json!({ "header": header, "kvs": kvs, "count": "1" });
        assert_eq!(key_of(&answer), Some(Some(key)));
        assert_eq!(key_of(&json!({ "header": header })), Some(None));
        for other in [json!({}), json!({ "header": header, "kvs": [{}] })] {
            assert_eq!(key_of(&other), None, "{other}");
        }
    }

    #[test]
    fn a_status_without_a_leader_says_so() {
        let answer = json!({
            "header": { "member_id": "7" }, "version": "3.4.23", "dbSize": "20480", "raftIndex": "41",
            "leader": "7", "isLearner": true, "errors": ["memberID:7 alarm:NOSPACE"],
        });
        let read = status(&answer);
        assert_eq!((read.id, read.leader, read.raft_index), (7, Some(7), 41));
        assert_eq!((read.db_size, read.errors.len()), (20480, 1));
        assert!(read.learner);
        // The gateway leaves out what is zero.
        assert_eq!(status(&json!({ "raftIndex": "41" })).leader, None);
    }

    #[test]
    fn only_a_decision_of_etcd_ends_the_search_for_a_member() {
        let action = || "ask".to_owned();
        assert!(understood(&response(200, "{}"), action).is_ok());
        for (status, body, decided) in [
            (
                404,
                r#"{"error":"etcdserver: member not found","code":5}"#,
                true,
            ),
            (
                400,
                r#"{"error":"etcdserver: can only promote a learner member which is in sync with leader","code":9}"#,
                true,
            ),
            (
                503,
                r#"{"error":"etcdserver: rpc not supported for learner","code":14}"#,
                false,
            ),
            (404, "404 page not found", false),
            (200, "[]", false),
        ] {
            let refusal = understood(&response(status, body), action).expect_err("it is refused");
            assert_eq!(matches!(refusal, Refusal::Refused(..)), decided, "{body}");
        }
    }
}
