//! `planectl serve`: enrolment for hosts, and the ingress kept as the database wants it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use daemon::health::Health;
use daemon::{shutdown, systemd};
use rand::Rng as _;
use sqlx::AnyPool;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use wire::enrolment::{self, LARGEST_REQUEST, Refusal};

use crate::authority::Authority;
use crate::config::Configuration;
use crate::database;
use crate::enrolment::{Enrolment, Failure};
use crate::host;
use crate::ingress::files::Files;
use crate::ingress::master::Master;
use crate::ingress::reconcile::Reconciler;
use crate::message_queue::{self, MessageQueue};

/// Hosts that are enrolled at a time. More are asked to come again.
const AT_A_TIME: usize = 32;
/// Time for one.
const LIMIT: Duration = Duration::from_secs(30);
/// Pauses between attempts to prepare the message queue.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Time for what runs to end.
pub const DRAIN: Duration = Duration::from_secs(40);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration, the authority or the database cannot be used, or enrolment cannot listen.
pub async fn run(path: &Path) -> Result<()> {
    let signals = shutdown::listen()?;
    let configuration = Configuration::read(path)?;
    let authority = Arc::new(Authority::read(&configuration.state)?);
    let database = database::open(&configuration.database_url()?).await?;
    database::check_root(&database, &authority.fingerprint()?).await?;
    let queue = match &configuration.message_queue {
        Some(its) => {
            let secret = message_queue::shared_secret(&configuration.state, &database).await;
            let queue = secret.and_then(|secret| MessageQueue::new(its, secret));
            Some(Arc::new(queue.context("use `message_queue`")?))
        }
        None => None,
    };
    let listener = TcpListener::bind(configuration.listen)
        .await
        .with_context(|| format!("listen on {}", configuration.listen))?;
    let health = Health::default();
    systemd::feed_watchdog(signals.shutdown.clone(), health.clone())
        .context("feed the watchdog")?;
    let reconciler = Reconciler {
        files: Files::below(&configuration.state),
        master: Master(configuration.ingress.master_socket.clone()),
        authority: Arc::clone(&authority),
        database: database.clone(),
        message_queue: queue.clone(),
        configuration: configuration.clone(),
    };
    let beat = health.part("ingress", LIMIT * 4);
    let ingress = tokio::spawn(reconciler.run(signals.shutdown.clone(), beat));
    if let Some(queue) = queue.clone() {
        let (database, end) = (database.clone(), signals.shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = prepare(&queue, &database) => {}
                () = end.cancelled() => {}
            }
        });
    }
    let service = Service {
        enrolment: Enrolment {
            database,
            authority,
            life: configuration.certificate_life,
            message_queue: queue,
        },
        free: Semaphore::new(AT_A_TIME),
    };
    let mut services = configuration.ingress.services.iter();
    if services.any(|its| its.name == "registry" && !its.read_only) {
        tracing::warn!(
            "hosts can write to the registry, and other hosts start what is there: set `mode: http, read_only: true` for this service"
        );
    }
    let line = format!(
        "enrols hosts of {} on {}",
        configuration.host, configuration.listen
    );
    tracing::info!("{line}");
    systemd::status(&line);
    systemd::ready();
    let end = signals.shutdown.clone();
    let served = axum::serve(listener, router(service))
        .with_graceful_shutdown(async move { end.cancelled().await });
    tokio::select! {
        served = served => served.context("serve enrolment")?,
        () = async {
            signals.shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        } => tracing::warn!("ended requests that did not end within {} s", DRAIN.as_secs()),
    }
    ingress.await.context("end the ingress")
}

/// Prepares the message queue, which may start later than this program.
async fn prepare(queue: &MessageQueue, database: &AnyPool) {
    let (mut pause, mut limited) = (PAUSE, BTreeSet::new());
    loop {
        match prepare_once(queue, database, &mut limited).await {
            Ok(()) => return,
            Err(error) => tracing::error!("could not {error:#}; it is tried again"),
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.75..1.0));
        tokio::time::sleep(jittered).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Makes the virtual host, and gives users that are there the permissions of this version. `limited` has the ids of hosts for which that is done: after a failure, the next attempt
/// asks RabbitMQ for the others only.
async fn prepare_once(
    queue: &MessageQueue,
    database: &AnyPool,
    limited: &mut BTreeSet<String>,
) -> Result<()> {
    queue.prepare().await?;
    for its in host::list(database, SystemTime::now()).await? {
        if limited.contains(&its.id) {
            continue;
        }
        let done = queue.limit(&its.id).await;
        done.context("give the user of a host its permissions")?;
        limited.insert(its.id);
    }
    Ok(())
}

/// What answers requests.
#[derive(Debug)]
pub struct Service {
    enrolment: Enrolment,
    free: Semaphore,
}

/// The routes: enrolment, and whether this program runs.
pub fn router(service: Service) -> Router {
    Router::new()
        .route(enrolment::PATH, post(enrol))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(Arc::new(service))
}

async fn enrol(State(service): State<Arc<Service>>, headers: HeaderMap, body: Body) -> Response {
    let Ok(_permit) = service.free.try_acquire() else {
        return refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many hosts are enrolled at the moment",
            "try again in a minute",
        );
    };
    // The ingress sets it.
    let client = headers
        .get("x-forwarded-for")
        .and_then(|its| its.to_str().ok())
        .unwrap_or("an unknown address");
    let answered = tokio::time::timeout(LIMIT, answer(&service.enrolment, client, body)).await;
    answered.unwrap_or_else(|_| {
        tracing::error!(
            "could not enrol a host of {client} within {} s",
            LIMIT.as_secs()
        );
        unable()
    })
}

async fn answer(enrolment: &Enrolment, client: &str, body: Body) -> Response {
    let body = axum::body::to_bytes(body, LARGEST_REQUEST).await;
    let request = body.map(|its| serde_json::from_slice::<enrolment::Request>(&its));
    // A message of serde may have a part of the token.
    let Ok(Ok(request)) = request else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "the request cannot be read",
            "install the pf9-comms of this plane",
        );
    };
    let name = match enrolment::is_host_name(&request.host_name) {
        true => request.host_name.as_str(),
        false => "a name that is none",
    };
    match enrolment.enrol(&request, SystemTime::now()).await {
        Ok(response) => Json(response).into_response(),
        Err(Failure::Refused(its)) => {
            tracing::warn!("{client} is not enrolled as {name}: {}", its.error);
            (StatusCode::FORBIDDEN, Json(its)).into_response()
        }
        Err(Failure::Unable(error)) => {
            tracing::error!("could not enrol {name} of {client}: {error:#}");
            unable()
        }
    }
}

fn unable() -> Response {
    refusal(
        StatusCode::SERVICE_UNAVAILABLE,
        "the plane cannot enrol hosts at the moment; its log has the reason",
        "try again with the same token",
    )
}

fn refusal(status: StatusCode, error: &str, next: &str) -> Response {
    let refusal = Refusal {
        error: error.to_owned(),
        next: next.to_owned(),
    };
    (status, Json(refusal)).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::http::Uri;

    use super::*;
    use crate::config;

    /// The paths that the management of a message queue was asked for.
    type Asked = Arc<Mutex<Vec<String>>>;

    /// Fails once, for the second host.
    async fn fail_once(State(asked): State<Asked>, uri: Uri) -> StatusCode {
        let mut asked = asked.lock().expect("no panic");
        let place = uri.path().to_owned();
        let fails = place == "/api/permissions/pf9/host.host-2" && !asked.contains(&place);
        asked.push(place);
        match fails {
            true => StatusCode::INTERNAL_SERVER_ERROR,
            false => StatusCode::NO_CONTENT,
        }
    }

    #[tokio::test]
    async fn after_a_failure_the_message_queue_is_not_asked_again_for_hosts_that_are_done() {
        let directory = tempfile::tempdir().expect("a directory");
        let asked = Asked::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let management = Router::new()
            .fallback(fail_once)
            .with_state(Arc::clone(&asked));
        tokio::spawn(async move { axum::serve(listener, management).await });
        let password_file = directory.path().join("queue.password");
        daemon::files::replace(&password_file, b"secret", 0o600).expect("it is written");
        let configured = config::MessageQueue {
            management: address.to_string(),
            user: "plane".to_owned(),
            password_file,
            virtual_host: "pf9".to_owned(),
        };
        let queue = MessageQueue::new(&configured, "secret".to_owned()).expect("it is right");
        let url = format!("sqlite://{}", directory.path().join("plane.db").display());
        let database = database::create(&url).await.expect("it is made");
        for name in ["host-1", "host-2", "host-3"] {
            sqlx::query("INSERT INTO hosts (id, name, enrolled_at) VALUES ($1, $1, 0)")
                .bind(name)
                .execute(&database)
                .await
                .expect("it is written");
        }
        let mut limited = BTreeSet::new();
        let first = prepare_once(&queue, &database, &mut limited).await;
        first.expect_err("it fails for the second host");
        let second = prepare_once(&queue, &database, &mut limited).await;
        second.expect("it is prepared");
        let asked = asked.lock().expect("no panic");
        for (host, wanted) in [("host-1", 1), ("host-2", 2), ("host-3", 1)] {
            let place = format!("/api/permissions/pf9/host.{host}");
            let count = asked.iter().filter(|its| **its == place).count();
            assert_eq!(count, wanted, "{host}");
        }
    }
}
