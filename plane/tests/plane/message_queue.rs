//! The users of a message queue that is none: it keeps what the plane tells the API of its management.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use plane::database;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::client::Host;
use crate::revoked::{MANY, add_revoked, database_of};
use crate::running::{Plane, until};

/// The things that are there, by their path.
type Kept = Arc<Mutex<BTreeMap<String, Value>>>;

async fn keep(State(kept): State<Kept>, method: Method, uri: Uri, body: String) -> StatusCode {
    let mut kept = kept.lock().expect("no panic");
    let place = uri.path().to_owned();
    if method == Method::PUT {
        let what = serde_json::from_str(&body).expect("JSON");
        kept.insert(place, what);
        return StatusCode::NO_CONTENT;
    }
    let found = match method {
        Method::DELETE => kept.remove(&place).is_some(),
        _ => kept.contains_key(&place),
    };
    match found {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::NOT_FOUND,
    }
}

/// Starts it.
async fn management(kept: Kept) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("its address");
    let router = Router::new().fallback(keep).with_state(kept);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A plane with this message queue.
async fn plane_with(kept: &Kept) -> Plane {
    let address = management(Arc::clone(kept)).await;
    Plane::start_with(|state| {
        let file = state.join("queue.password");
        std::fs::write(&file, "secret").expect("it is written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        format!(
            "database: sqlite://{}\nmessage_queue: {{management: '{address}', user: plane, password_file: {}}}\n",
            state.join("plane.db").display(),
            file.display()
        )
    })
    .await
}

/// The name of a host's user.
fn user_of(host: &Host) -> String {
    let told: Value = serde_json::from_str(&host.identity("message-queue.json")).expect("JSON");
    told["user"].as_str().expect("a user").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_keeps_its_password_until_it_is_revoked() {
    let kept = Kept::default();
    let plane = plane_with(&kept).await;
    let host = Host::new(&plane, "host-1").await;
    let fingerprint = plane.fingerprint();
    let mut passwords = Vec::new();
    for revoked_before in [false, false, true] {
        if revoked_before {
            let said = plane.said(&["host", "revoke", "host-1"]);
            assert!(said.contains("Every ingress refuses them"), "{said}");
            until("its user is deleted", async || {
                let kept = kept.lock().expect("no panic");
                !kept.keys().any(|place| place.starts_with("/api/users/"))
            })
            .await;
        }
        host.enrol(&plane.token(&["--host", "host-1"]), &fingerprint)
            .await
            .expect("it is enrolled");
        let told: Value = serde_json::from_str(&host.identity("message-queue.json")).expect("JSON");
        let user = format!("/api/users/{}", user_of(&host));
        let known = kept.lock().expect("no panic")[&user].clone();
        assert_eq!(known["password"], told["password"]);
        passwords.push(told["password"].clone());
    }
    // Its agents go on with the first one if an enrolment fails after the plane has told the message queue.
    assert_eq!(passwords[0], passwords[1]);
    assert_ne!(passwords[1], passwords[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_an_earlier_version_has_made_gets_the_permissions_of_this_one() {
    let kept = Kept::default();
    let mut plane = plane_with(&kept).await;
    let host = Host::enrolled(&plane, "host-1").await;
    let user = user_of(&host);
    let place = format!("/api/permissions/pf9/{user}");
    let present = || kept.lock().expect("no panic")[&place].clone();
    let wanted = present();
    assert_eq!(
        wanted["read"],
        format!(r"^{}\.in\z", user.replace('.', r"\."))
    );
    plane.stop_serve();
    let earlier = json!({"configure": "^$", "read": "^.*$", "write": "^.*$"});
    let replaced = kept
        .lock()
        .expect("no panic")
        .insert(place.clone(), earlier);
    assert!(replaced.is_some());
    plane.start_serve().await;
    until("it has them", async || present() == wanted).await;
}

/// Hosts that were revoked an hour ago, with their users: a plane that has just started does not know which ones it has deleted.
async fn add_revoked_hosts(plane: &Plane, kept: &Kept) {
    let before = SystemTime::now() - Duration::from_secs(3600);
    let database = database_of(plane).await;
    let mut all = database.begin().await.expect("a transaction");
    for number in 0..MANY {
        let name = format!("old-{number}");
        sqlx::query("INSERT INTO hosts (id, name, enrolled_at) VALUES ($1, $1, $2)")
            .bind(&name)
            .bind(database::seconds(before))
            .execute(&mut *all)
            .await
            .expect("it is written");
        add_revoked(&mut all, number, &name, before).await;
        let user = format!("/api/users/host.{name}");
        kept.lock().expect("no panic").insert(user, Value::Null);
    }
    all.commit().await.expect("it is written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_waits_for_no_users_of_hosts_that_were_revoked_before() {
    let kept = Kept::default();
    let plane = plane_with(&kept).await;
    let host = Host::enrolled(&plane, "host-1").await;
    let user = format!("/api/users/{}", user_of(&host));
    let has = |user: &String| kept.lock().expect("no panic").contains_key(user);
    assert!(has(&user));
    add_revoked_hosts(&plane, &kept).await;
    // Fails if it takes longer than a minute.
    let said = plane.said(&["host", "revoke", "host-1"]);
    assert!(said.contains("Every ingress refuses them"), "{said}");
    assert!(!has(&user), "its user is the first one that is deleted");
    until("the users of all others are deleted, too", async || {
        let kept = kept.lock().expect("no panic");
        !kept.keys().any(|place| place.starts_with("/api/users/"))
    })
    .await;
}

/// The time of a revocation says nothing about which one was the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_deleted_after_each_revocation_also_if_the_clock_was_set_back() {
    let kept = Kept::default();
    let plane = plane_with(&kept).await;
    let host = Host::new(&plane, "host-1").await;
    let fingerprint = plane.fingerprint();
    for round in 0..2 {
        host.enrol(&plane.token(&["--host", "host-1"]), &fingerprint)
            .await
            .expect("it is enrolled");
        let user = format!("/api/users/{}", user_of(&host));
        let has = || kept.lock().expect("no panic").contains_key(&user);
        assert!(has());
        if round == 0 {
            let ahead = SystemTime::now() + Duration::from_secs(3600);
            let mut database = database_of(&plane).await.acquire().await.expect("one");
            add_revoked(&mut database, 0, "host-1", ahead).await;
        }
        let said = plane.said(&["host", "revoke", "host-1"]);
        assert!(said.contains("Every ingress refuses them"), "{said}");
        assert!(!has(), "round {round}");
    }
}

/// A plane with another secret would give hosts passwords that the other planes with this database do not give.
#[tokio::test(flavor = "multi_thread")]
async fn another_secret_than_that_of_the_database_is_refused() {
    let plane = Plane::start().await;
    let configuration = plane.place("plane.yaml");
    let text = std::fs::read_to_string(&configuration).expect("it is there");
    let password = plane.place("queue.password");
    std::fs::write(&password, "secret").expect("it is written");
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    let queue = format!(
        "message_queue: {{management: '127.0.0.1:1', user: plane, password_file: {}}}\n",
        password.display()
    );
    std::fs::write(&configuration, text + &queue).expect("it is written");
    let file = plane.place("authority/message-queue.secret");
    let secret = std::fs::read_to_string(&file).expect("it is there");
    let refused = |wanted: &str| {
        for command in ["init", "serve"] {
            let output = plane.ctl(&[command]);
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(!output.status.success(), "{command}: {said}");
            assert!(said.contains(wanted), "{command}: {said}");
            assert!(said.contains("message-queue.secret"), "{command}: {said}");
            let hint = "copy it from another plane with this database";
            assert!(said.contains(hint), "{command}: {said}");
            assert!(!said.contains(secret.trim()), "{command}: {said}");
        }
    };
    std::fs::write(&file, "another one\n").expect("it is written");
    refused("are made from another secret");
    std::fs::remove_file(&file).expect("it is removed");
    refused("there is no such file");
    assert!(!file.exists(), "no other one is made");
    std::fs::write(&file, secret).expect("it is written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    plane.said(&["init"]);
}
