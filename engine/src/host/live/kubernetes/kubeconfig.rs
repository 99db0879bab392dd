//! Clients of API servers, one per kubeconfig file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::Mutex;
use tower::{BoxError, ServiceBuilder};

use crate::host::live::blocking::{blocking, file_error, within};
use crate::host::live::error_class::{classified, is_status_permanent};
use crate::host::{ClusterAccess, HostError, HostResult};

/// Deadline of one call.
pub(in crate::host::live) const CALL: Duration = Duration::from_secs(10);

/// When a connection that carries nothing is probed (`TCP_KEEPIDLE`, tcp(7)), how often then, and how many probes without an answer end it.
const IDLE: Duration = Duration::from_secs(5);
const PROBE: Duration = Duration::from_secs(3);
const PROBES: u32 = 3;

/// A kubeconfig larger than this is refused.
const MAX: u64 = 1024 * 1024;

/// A client is made again after this time, because the certificates that a kubeconfig names are rotated without a change of the kubeconfig
/// itself.
const LIFE: Duration = Duration::from_secs(5 * 60);

/// The clients made so far.
#[derive(Default)]
pub(in crate::host::live) struct Clients {
    kept: Mutex<HashMap<PathBuf, CachedClient>>,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Clients").finish_non_exhaustive()
    }
}

struct CachedClient {
    client: Client,
    modified: SystemTime,
    made: Instant,
}

impl Clients {
    /// Makes one call. `action` completes "failed to …".
    pub(in crate::host::live) async fn call<T, F: Future<Output = Result<T, kube::Error>>>(
        &self,
        access: &ClusterAccess,
        action: impl Into<String>,
        call: impl FnOnce(Client) -> F,
    ) -> HostResult<T> {
        let action = action.into();
        let answer = within(CALL, || action.clone(), async {
            let client = self.client(&access.kubeconfig).await?;
            Ok(call(client).await)
        })
        .await;
        let failed = match &answer {
            Ok(Ok(_)) => false,
            Ok(Err(error)) => matches!(status(error), None | Some(401)),
            Err(_) => true,
        };
        if failed {
            self.kept.lock().await.remove(&access.kubeconfig);
        }
        answer?.map_err(|error| match status(&error) {
            Some(code) if is_status_permanent(code) => HostError::refused(action, plain(error)),
            _ => classified(action, plain(error)),
        })
    }

    async fn client(&self, path: &Path) -> HostResult<Client> {
        let owned = path.to_owned();
        let modified = blocking(move || modified(&owned)).await?;
        let mut kept = self.kept.lock().await;
        if let Some(known) = kept.get(path)
            && known.modified == modified
            && known.made.elapsed() < LIFE
        {
            return Ok(known.client.clone());
        }
        let client = connect(path).await?;
        let fresh = CachedClient {
            client: client.clone(),
            modified,
            made: Instant::now(),
        };
        kept.insert(path.to_owned(), fresh);
        Ok(client)
    }
}

fn modified(path: &Path) -> HostResult<SystemTime> {
    let failed = || file_error("read", path);
    let metadata = path.metadata().map_err(failed())?;
    if metadata.len() > MAX {
        return Err(HostError::TooLarge {
            path: path.to_owned(),
            limit: MAX,
        });
    }
    metadata.modified().map_err(failed())
}

pub(in crate::host::live) async fn connect(path: &Path) -> HostResult<Client> {
    let action = || format!("use kubeconfig {}", path.display());
    let owned = path.to_owned();
    let kubeconfig = blocking(move || {
        Kubeconfig::read_from(&owned).map_err(|error| {
            HostError::refused(format!("use kubeconfig {}", owned.display()), error)
        })
    })
    .await?;
    connect_with(kubeconfig, &action).await
}

/// A client with this kubeconfig. `action` completes "failed to …".
pub(in crate::host::live) async fn connect_with(
    kubeconfig: Kubeconfig,
    action: &(dyn Fn() -> String + Sync),
) -> HostResult<Client> {
    let declared_proxy = kubeconfig.clusters.iter().any(|named| {
        named
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.proxy_url.is_some())
    });
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| HostError::refused(action(), error))?;
    if !declared_proxy {
        // kube would take a proxy from HTTPS_PROXY; a node reaches its own API server without one.
        config.proxy_url = None;
    }
    config.connect_timeout = Some(CALL);
    // How often to try is decided above us.
    config.default_retry = false;
    // kube says why it cannot use a proxy.
    let client = match config.proxy_url {
        Some(_) => Client::try_from(config),
        None => client_with_keepalive(&config),
    };
    client.map_err(|error| HostError::service(action(), error))
}

/// As the client that kube makes, with TCP keep-alive. A virtual IP that moves to another master leaves connections whose other end is gone, and a watch only
/// listens: without a probe, it would hear of no change until its length is over.
fn client_with_keepalive(config: &Config) -> Result<Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(config.connect_timeout);
    tcp.set_keepalive(Some(IDLE));
    tcp.set_keepalive_interval(Some(PROBE));
    tcp.set_keepalive_retries(Some(PROBES));
    let https = config.rustls_https_connector_with_connector(tcp)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// The server's answer in one sentence. kube prints the whole status object, twice.
fn plain(error: kube::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error {
        kube::Error::Api(status) if status.message.trim() == "404 page not found" => {
            "the API server knows no such kind of object (is its CustomResourceDefinition applied?)"
                .into()
        }
        kube::Error::Api(status) => format!("{} (status {})", status.message, status.code).into(),
        other => other.into(),
    }
}

/// The HTTP status with which the server refused; `None` when it was not the server that failed.
pub(in crate::host::live) fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Turns "no such thing" into `None`: no such object, or no such kind of object.
pub(in crate::host::live) fn if_there<T>(
    result: Result<T, kube::Error>,
) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Discovery(_)) => Ok(None),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a connection that waits for its next keep-alive probe, in /proc/net/tcp (proc(5)).
    const KEEPALIVE_TIMER: &str = "02:";

    #[tokio::test]
    async fn a_connection_to_an_api_server_is_probed() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}'}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
        );
        let kubeconfig = Kubeconfig::from_yaml(&text).expect("a kubeconfig");
        let client = connect_with(kubeconfig, &|| "connect".to_owned()).await;
        let client = client.expect("a client");
        let asks = tokio::spawn(async move { client.apiserver_version().await });
        let silent = listener.accept().await.expect("it connects");
        let other_end = format!("0100007F:{port:04X} 01 ");
        let is_probed = || {
            let all = std::fs::read_to_string("/proc/net/tcp").expect("Linux lists connections");
            let mut its = all.lines().filter(|line| line.contains(&other_end));
            // The timer comes after the state and the sizes of the queues.
            its.any(|line| {
                let timer = line.split_whitespace().nth(5).unwrap_or_default();
                timer.starts_with(KEEPALIVE_TIMER)
            })
        };
        let probed = async {
            while !is_probed() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let probed = tokio::time::timeout(CALL, probed).await;
        probed.expect("the kernel probes the connection");
        asks.abort();
        drop(silent);
    }
}
