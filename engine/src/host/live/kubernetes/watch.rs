//! Watches nodes and requests for certificates: reports what the API server says of them, as soon as it changes.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::certificate_requests::request;
use super::cluster::node;
use super::kubeconfig::{CALL, connect, status};
use crate::host::live::blocking::within;
use crate::host::live::error_class::classified;
use crate::host::{CertificateRequest, ClusterAccess, ClusterNode, HostError, HostResult};

/// Seconds after which the API server ends a watch. We then begin another one, with the credentials of that time.
const LENGTH: u32 = 240;
/// A watch that sends nothing and does not end in this time hangs.
const SILENCE: Duration = Duration::from_secs(LENGTH as u64 + 30);
/// A watch that ends sooner is an error: the caller waits before the next one.
const SHORTEST: Duration = Duration::from_secs(5);

/// An event about nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// The state of a node.
    Seen {
        /// Its name.
        name: String,
        /// The node.
        node: Box<ClusterNode>,
    },
    /// A node was deleted.
    Gone {
        /// Its name.
        name: String,
    },
    /// All existing nodes have been reported. A node that the caller knows and that was not among them is gone.
    Listed,
}

/// An event about requests for certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestEvent {
    /// The state of a request.
    Seen(Box<CertificateRequest>),
    /// A request was deleted.
    Gone {
        /// Its name.
        name: String,
    },
    /// All existing requests have been reported. A request that the caller knows and that was not among them is gone.
    Listed,
}

/// An event about objects of any kind.
enum ObjectEvent<K> {
    Seen(Box<K>),
    Gone { name: String },
    Listed,
}

/// Calls `event` with the state of all nodes, or of the node with this `name`, and then with each change.
///
/// # Errors
/// Always, in the end: the API server does not answer, refuses, or no longer has the version to watch from (410). The next call begins with
/// a list, so it reports what changed after the error.
///
/// # Cancel safety
/// Nothing is changed.
pub async fn watch_nodes(
    access: &ClusterAccess,
    name: Option<&str>,
    mut event: impl FnMut(NodeEvent),
) -> HostResult<()> {
    let field = name.map(|name| format!("metadata.name={name}"));
    watch(access, field, |object: ObjectEvent<Node>| {
        event(of_node(object));
    })
    .await
}

/// Calls `event` with the state of all requests for this signer, and then with each change.
///
/// # Errors
/// As [`watch_nodes`].
///
/// # Cancel safety
/// Nothing is changed.
pub async fn watch_certificate_requests(
    access: &ClusterAccess,
    signer: &str,
    mut event: impl FnMut(RequestEvent),
) -> HostResult<()> {
    let field = Some(format!("spec.signerName={signer}"));
    watch(access, field, |object| event(of_request(object))).await
}

/// What a kind needs so that its objects can be watched.
trait Watchable: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned {
    /// What the watch does, for messages.
    const ACTION: &str;

    /// Objects per page of a list, so that a large cluster needs little memory.
    const PER_PAGE: u32;

    /// All objects of the cluster.
    fn all(client: Client) -> Api<Self>;
}

impl Watchable for Node {
    const ACTION: &str = "watch the nodes of the cluster";
    const PER_PAGE: u32 = 100;

    fn all(client: Client) -> Api<Self> {
        Api::all(client)
    }
}

impl Watchable for CertificateSigningRequest {
    const ACTION: &str = "watch the requests for certificates";
    const PER_PAGE: u32 = super::certificate_requests::PER_PAGE;

    fn all(client: Client) -> Api<Self> {
        Api::all(client)
    }
}

async fn watch<K: Watchable>(
    access: &ClusterAccess,
    field: Option<String>,
    mut event: impl FnMut(ObjectEvent<K>),
) -> HostResult<()> {
    // kube uses the process's choice of a TLS implementation; an error means that the choice was made before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let api = K::all(connect(&access.kubeconfig).await?);
    let mut version = list(&api, field.as_deref(), &mut event).await?;
    let params = WatchParams {
        field_selector: field,
        timeout: Some(LENGTH),
        bookmarks: true,
        ..WatchParams::default()
    };
    loop {
        let api = K::all(connect(&access.kubeconfig).await?);
        let began = Instant::now();
        follow(&api, &params, &mut version, &mut event).await?;
        if began.elapsed() < SHORTEST {
            return Err(HostError::service(
                K::ACTION,
                "the API server ends each watch at once",
            ));
        }
    }
}

fn failed<K: Watchable>(error: kube::Error) -> HostError {
    classified(K::ACTION, error)
}

/// Lists the objects. Returns the version to watch from.
async fn list<K: Watchable>(
    api: &Api<K>,
    field: Option<&str>,
    event: &mut impl FnMut(ObjectEvent<K>),
) -> HostResult<String> {
    let mut params = ListParams::default().limit(K::PER_PAGE);
    params.field_selector = field.map(str::to_owned);
    loop {
        let page = within(CALL, || K::ACTION.to_owned(), async {
            api.list(&params).await.map_err(failed::<K>)
        })
        .await?;
        for object in page.items {
            event(ObjectEvent::Seen(Box::new(object)));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => {
                event(ObjectEvent::Listed);
                return Ok(page.metadata.resource_version.unwrap_or_default());
            }
        }
    }
}

/// Watches until the API server ends the watch.
async fn follow<K: Watchable>(
    api: &Api<K>,
    params: &WatchParams,
    version: &mut String,
    event: &mut impl FnMut(ObjectEvent<K>),
) -> HostResult<()> {
    let stream = within(CALL, || K::ACTION.to_owned(), async {
        api.watch(params, version).await.map_err(failed::<K>)
    })
    .await?;
    let mut stream = pin!(stream);
    loop {
        let next = tokio::time::timeout(SILENCE, stream.next()).await;
        let said = match next {
            Ok(Some(said)) => said.map_err(failed::<K>)?,
            Ok(None) => return Ok(()),
            Err(_) => {
                return Err(HostError::service(
                    K::ACTION,
                    "the watch sends nothing and does not end",
                ));
            }
        };
        match said {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                if let Some(newer) = &object.meta().resource_version {
                    version.clone_from(newer);
                }
                event(ObjectEvent::Seen(Box::new(object)));
            }
            WatchEvent::Deleted(object) => {
                if let Some(newer) = &object.meta().resource_version {
                    version.clone_from(newer);
                }
                event(ObjectEvent::Gone {
                    name: object.name_any(),
                });
            }
            WatchEvent::Bookmark(mark) => version.clone_from(&mark.metadata.resource_version),
            WatchEvent::Error(error) => {
                let error = kube::Error::Api(error);
                let code = status(&error).unwrap_or_default();
                return Err(HostError::service(
                    K::ACTION,
                    format!("{error} (status {code})"),
                ));
            }
        }
    }
}

fn of_node(event: ObjectEvent<Node>) -> NodeEvent {
    match event {
        ObjectEvent::Seen(object) => NodeEvent::Seen {
            name: object.name_any(),
            node: Box::new(node(*object)),
        },
        ObjectEvent::Gone { name } => NodeEvent::Gone { name },
        ObjectEvent::Listed => NodeEvent::Listed,
    }
}

fn of_request(event: ObjectEvent<CertificateSigningRequest>) -> RequestEvent {
    match event {
        ObjectEvent::Seen(object) => RequestEvent::Seen(Box::new(request(*object))),
        ObjectEvent::Gone { name } => RequestEvent::Gone { name },
        ObjectEvent::Listed => RequestEvent::Listed,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node_object(version: u64, labels: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "cp-1", "resourceVersion": version.to_string(), "labels": labels}})
    }

    /// A client of an API server that gives these answers one after the other, and the paths that were requested.
    fn client(answers: Vec<String>) -> (Client, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
        let asked: std::sync::Arc<std::sync::Mutex<Vec<String>>> = std::sync::Arc::default();
        let seen = asked.clone();
        let answers = std::sync::Mutex::new(answers.into_iter());
        let service = tower::service_fn(move |request: hyper::Request<kube::client::Body>| {
            seen.lock().unwrap().push(request.uri().to_string());
            let body = answers.lock().unwrap().next().unwrap_or_default();
            async move {
                let body = http_body_util::Full::new(bytes::Bytes::from(body));
                Ok::<_, std::convert::Infallible>(hyper::Response::new(body))
            }
        });
        (Client::new(service, "default"), asked)
    }

    #[tokio::test]
    async fn a_watch_goes_on_where_the_list_ended_and_ends_with_410() {
        let list = json!({"apiVersion": "v1", "kind": "NodeList", "metadata": {"resourceVersion": "7"},
            "items": [node_object(5, json!({"role": "x"}))]});
        let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired",
            "message": "too old resource version", "code": 410});
        let watch = [
            json!({"type": "MODIFIED", "object": node_object(8, json!({}))}),
            json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "Node", "metadata": {"resourceVersion": "9"}}}),
            json!({"type": "DELETED", "object": node_object(10, json!({}))}),
            json!({"type": "ERROR", "object": gone}),
        ];
        let watch: String = watch.iter().map(|line| format!("{line}\n")).collect();
        let (client, asked) = client(vec![list.to_string(), watch]);
        let api = Node::all(client);
        let mut events = Vec::new();
        let mut event = |event: ObjectEvent<Node>| {
            events.push(match of_node(event) {
                NodeEvent::Seen { name, node } => format!("{name} {:?}", node.labels),
                NodeEvent::Gone { name } => format!("{name} gone"),
                NodeEvent::Listed => "listed".to_owned(),
            });
        };
        let field = "metadata.name=cp-1";
        let mut version = list_of(&api, field, &mut event).await;
        assert_eq!(version, "7");
        let params = WatchParams::default();
        let ended = follow(&api, &params, &mut version, &mut event).await;
        let ended = crate::model::chain(&ended.expect_err("410")).join(": ");
        assert!(ended.contains("status 410"), "{ended}");
        assert_eq!(version, "10");
        assert_eq!(
            events,
            ["cp-1 {\"role\": \"x\"}", "listed", "cp-1 {}", "cp-1 gone"]
        );
        let asked = asked.lock().unwrap().join(" ");
        assert!(
            asked.contains("fieldSelector=metadata.name%3Dcp-1"),
            "{asked}"
        );
        assert!(asked.contains("resourceVersion=7"), "{asked}");
    }

    async fn list_of(
        api: &Api<Node>,
        field: &str,
        event: &mut impl FnMut(ObjectEvent<Node>),
    ) -> String {
        list(api, Some(field), event).await.expect("it answers")
    }
}
