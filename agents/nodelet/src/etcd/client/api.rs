//! Requests to an etcd, over gRPC: to this host's own member, to another member, or to a restored one behind a unix socket.
//!
//! tonic with messages of our own instead of a client library: only a few calls are needed, and they need no code generator.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hyper::http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use super::messages::{
    AlarmRequest, AlarmResponse, KUBE_SYSTEM, MemberListRequest, MemberListResponse, RangeRequest,
    RangeResponse, SECRETS, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse, uid,
};

/// This host's own member.
pub(crate) const MEMBER: &str = "https://127.0.0.1:4001";
/// The authority's certificate, and the client's certificate and key, for connections to it.
const CERTIFICATE: &str = "/etc/pf9/kube.d/certs/etcdctl/etcd";
/// Bound on a PEM file.
const PEM: u64 = 1024 * 1024;
/// Timeout for a connection, and for a small answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of values in one answer if they may be large, and maximum size of the answer: by default etcd accepts 1.5 MiB for one
/// value.
const PAGE: i64 = 16;
const ANSWER: usize = 64 * 1024 * 1024;
/// Timeout for an answer that needs a walk over all keys.
const WALK: Duration = Duration::from_secs(60);

/// A connection to one etcd.
#[derive(Debug, Clone)]
pub(crate) struct Etcd {
    channel: Channel,
}

/// The status of an etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EtcdStatus {
    pub(crate) version: String,
    /// Size of its store on disk in bytes.
    pub(crate) size: u64,
    /// The identity etcd itself gave its cluster; it changes with a restore.
    pub(crate) cluster_id: u64,
    /// The id of the member that answers.
    pub(crate) member_id: u64,
    /// The id of the leader that it follows; 0 if it knows none.
    pub(crate) leader: u64,
    pub(crate) raft_term: u64,
    /// The last entry of its raft log that is committed.
    pub(crate) raft_index: u64,
    /// What it reports as wrong, alarms among them.
    pub(crate) errors: Vec<String>,
}

/// A member of an etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EtcdMember {
    pub(crate) id: u64,
    /// Empty before the member has started for the first time.
    pub(crate) name: String,
    /// Where it answers clients; none before it has started for the first time.
    pub(crate) url: Option<String>,
    /// It gets all entries, and has no vote.
    pub(crate) is_learner: bool,
}

/// An alarm that is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alarm {
    pub(crate) kind: AlarmKind,
    /// The id of the member that has raised it.
    pub(crate) member: u64,
}

/// What an alarm means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AlarmKind {
    /// The store has reached its quota: etcd refuses writes.
    NoSpace,
    /// The data of the member is damaged.
    Corrupt,
    /// A kind that this program does not know, by its number.
    Other(i32),
}

impl AlarmKind {
    /// By the number that etcd's protocol gives to it.
    fn of(number: i32) -> Self {
        match number {
            1 => Self::NoSpace,
            2 => Self::Corrupt,
            other => Self::Other(other),
        }
    }
}

/// For example `NOSPACE of member 8e9e05c52164694d`.
impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            AlarmKind::NoSpace => f.write_str("NOSPACE")?,
            AlarmKind::Corrupt => f.write_str("CORRUPT")?,
            AlarmKind::Other(number) => write!(f, "alarm {number}")?,
        }
        write!(f, " of member {:x}", self.member)
    }
}

impl Etcd {
    /// Connects to this host's own member.
    ///
    /// # Errors
    /// The certificate is not there, or etcd does not answer within 10 s.
    pub(crate) async fn member() -> Result<Self> {
        Self::at(MEMBER).await
    }

    /// Connects to the member at this URL, for example `https://10.0.0.2:4001`. It has to show a certificate of etcd's authority. Cancel
    /// safe.
    ///
    /// # Errors
    /// The URL is not one of HTTPS, the certificate is not there, or etcd does not answer within 10 s.
    pub(crate) async fn at(url: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .with_context(|| format!("understand the URL {url}"))?;
        let is_https = endpoint.uri().scheme_str() == Some("https");
        let (true, Some(host)) = (is_https, endpoint.uri().host()) else {
            bail!("connect to etcd at {url}: it is not a URL of HTTPS");
        };
        // An IPv6 address has brackets in a URL, and none in a certificate.
        let name = host.trim_matches(['[', ']']).to_owned();
        let pem = |name: &str| -> Result<Vec<u8>> {
            let path = Path::new(CERTIFICATE).join(name);
            daemon::files::read(&path, PEM)?
                .with_context(|| format!("use {}: it is not there", path.display()))
        };
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(pem("ca.crt")?))
            .identity(Identity::from_pem(pem("request.crt")?, pem("request.key")?))
            .domain_name(name);
        let endpoint = endpoint
            .tls_config(tls)
            .context("use the certificate in /etc/pf9/kube.d/certs/etcdctl/etcd")?;
        let channel = connected(&endpoint, url).await?;
        Ok(Self { channel })
    }

    /// Connects to an etcd that listens on a unix socket.
    pub(in crate::etcd) async fn at_socket(socket: PathBuf) -> Result<Self> {
        let at = socket.clone();
        let connector = tower::service_fn(move |_| {
            let at = at.clone();
            async move { UnixStream::connect(at).await.map(TokioIo::new) }
        });
        // The URL is required, but the connector does not use it.
        let channel = Endpoint::from_static("http://restore-test")
            .connect_timeout(TIMEOUT)
            .connect_with_connector(connector)
            .await
            .with_context(|| format!("connect to etcd at {}", socket.display()))?;
        Ok(Self { channel })
    }

    pub(crate) async fn status(&self) -> Result<EtcdStatus> {
        let answer: StatusResponse = self
            .call(
                "/etcdserverpb.Maintenance/Status",
                StatusRequest {},
                TIMEOUT,
            )
            .await
            .context("ask etcd for its status")?;
        let header = answer.header.unwrap_or_default();
        Ok(EtcdStatus {
            version: answer.version,
            size: u64::try_from(answer.db_size).unwrap_or(0),
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            leader: answer.leader,
            raft_term: answer.raft_term,
            raft_index: answer.raft_index,
            errors: answer.errors,
        })
    }

    /// The members of the cluster, as the member that is asked knows them: it answers also without a leader.
    pub(crate) async fn members(&self) -> Result<Vec<EtcdMember>> {
        let answer: MemberListResponse = self
            .call(
                "/etcdserverpb.Cluster/MemberList",
                MemberListRequest {},
                TIMEOUT,
            )
            .await
            .context("ask etcd for its members")?;
        let members = answer.members.into_iter().map(|member| EtcdMember {
            id: member.id,
            name: member.name,
            url: member.client_urls.into_iter().next(),
            is_learner: member.is_learner,
        });
        Ok(members.collect())
    }

    /// The alarms that are on.
    pub(crate) async fn alarms(&self) -> Result<Vec<Alarm>> {
        let answer: AlarmResponse = self
            .call(
                "/etcdserverpb.Maintenance/Alarm",
                AlarmRequest::default(),
                TIMEOUT,
            )
            .await
            .context("ask etcd for its alarms")?;
        let alarms = answer.alarms.iter().map(|alarm| Alarm {
            kind: AlarmKind::of(alarm.alarm),
            member: alarm.member,
        });
        Ok(alarms.collect())
    }

    /// The revision at which this etcd is now.
    pub(in crate::etcd) async fn revision(&self) -> Result<i64> {
        let request = RangeRequest {
            key: KUBE_SYSTEM.to_vec(),
            count_only: true,
            ..RangeRequest::default()
        };
        let answer = self
            .range(request, TIMEOUT)
            .await
            .context("ask etcd for its revision")?;
        Ok(answer.header.unwrap_or_default().revision)
    }

    /// How many keys there were at a revision.
    ///
    /// # Errors
    /// Among others: the revision has been compacted meanwhile (Kubernetes keeps five minutes).
    pub(in crate::etcd) async fn keys(&self, revision: i64) -> Result<u64> {
        let request = RangeRequest {
            // From the first key on, without an end.
            key: vec![0],
            range_end: vec![0],
            revision,
            count_only: true,
            ..RangeRequest::default()
        };
        let answer = self
            .range(request, WALK)
            .await
            .with_context(|| format!("count the keys at revision {revision}"))?;
        Ok(u64::try_from(answer.count).unwrap_or(0))
    }

    /// Which Kubernetes cluster's data this is: the UID of the namespace kube-system. `None` if there is none.
    pub(crate) async fn cluster(&self) -> Result<Option<String>> {
        let request = RangeRequest {
            key: KUBE_SYSTEM.to_vec(),
            ..RangeRequest::default()
        };
        let answer = self
            .range(request, TIMEOUT)
            .await
            .context("read the cluster's identity")?;
        Ok(answer.kvs.first().and_then(|pair| uid(&pair.value)))
    }

    /// How many Secrets are stored with a value that does not begin with `prefix`.
    pub(crate) async fn secrets_without_prefix(&self, prefix: &str) -> Result<u64> {
        let (mut from, end) = (SECRETS.0.to_vec(), SECRETS.1.to_vec());
        let mut others = 0;
        loop {
            let request = RangeRequest {
                key: from,
                range_end: end.clone(),
                limit: PAGE,
                ..RangeRequest::default()
            };
            let answer = self
                .range(request, WALK)
                .await
                .context("see how Secrets are stored")?;
            let is_other = |value: &[u8]| !value.starts_with(prefix.as_bytes());
            others += answer.kvs.iter().filter(|one| is_other(&one.value)).count() as u64;
            match answer.kvs.last() {
                Some(last) if answer.more => {
                    // The next key in etcd's order.
                    from = last.key.clone();
                    from.push(0);
                }
                _ => return Ok(others),
            }
        }
    }

    /// A snapshot as a stream of pieces. Only its beginning has a timeout.
    pub(in crate::etcd) async fn snapshot(&self) -> Result<Streaming<SnapshotResponse>> {
        let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Snapshot");
        let begun = tokio::time::timeout(TIMEOUT, async {
            let mut grpc = tonic::client::Grpc::new(self.channel.clone());
            grpc.ready().await.context("reach it")?;
            grpc.server_streaming(
                Request::new(SnapshotRequest {}),
                path,
                ProstCodec::<SnapshotRequest, SnapshotResponse>::default(),
            )
            .await
            .map_err(|status| etcd_error(&status))
        });
        let begun = begun.await.context("ask etcd for a snapshot in time")?;
        Ok(begun.context("ask etcd for a snapshot")?.into_inner())
    }

    async fn range(&self, request: RangeRequest, within: Duration) -> Result<RangeResponse> {
        self.call("/etcdserverpb.KV/Range", request, within).await
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q, within: Duration) -> Result<A>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let work = async {
            let mut grpc =
                tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER);
            grpc.ready().await.context("reach it")?;
            let answer = grpc
                .unary(
                    Request::new(request),
                    PathAndQuery::from_static(path),
                    ProstCodec::<Q, A>::default(),
                )
                .await
                .map_err(|status| etcd_error(&status))?;
            Ok(answer.into_inner())
        };
        tokio::time::timeout(within, work)
            .await
            .with_context(|| format!("get an answer within {} s", within.as_secs()))?
    }
}

/// Connects. The timeout includes TLS: after its start, a member accepts connections, and does not answer on them until it knows a leader.
async fn connected(endpoint: &Endpoint, url: &str) -> Result<Channel> {
    match tokio::time::timeout(TIMEOUT, endpoint.connect()).await {
        Ok(connected) => connected.with_context(|| format!("connect to etcd at {url}")),
        Err(_) => bail!(
            "connect to etcd at {url}: no answer within {} s",
            TIMEOUT.as_secs()
        ),
    }
}

/// The error that etcd answered with, in etcd's own words.
pub(in crate::etcd) fn etcd_error(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{:?}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A member that waits for a leader after its start is silent so.
    #[tokio::test(start_paused = true)]
    async fn a_member_that_accepts_a_connection_and_is_silent_is_not_waited_for() {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let url = format!("https://{}", silent.local_addr().expect("it listens"));
        let endpoint = Endpoint::from_shared(url.clone()).expect("a URL");
        let tls = ClientTlsConfig::new().domain_name("127.0.0.1");
        let endpoint = endpoint.tls_config(tls).expect("a name of a server");
        let asked = tokio::time::timeout(2 * TIMEOUT, connected(&endpoint, &url)).await;
        let error = asked.expect("it has a deadline");
        let error = error.expect_err("it is silent").to_string();
        assert!(error.ends_with("no answer within 10 s"), "{error}");
    }

    #[test]
    fn an_alarm_is_named_with_its_member() {
        for (number, name) in [(1, "NOSPACE"), (2, "CORRUPT"), (7, "alarm 7")] {
            let alarm = Alarm {
                kind: AlarmKind::of(number),
                member: 0x8e9e,
            };
            assert_eq!(alarm.to_string(), format!("{name} of member 8e9e"));
        }
    }
}
