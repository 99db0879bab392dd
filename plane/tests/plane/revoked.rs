//! A revoked host loses what it has open, and gets nothing new.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use plane::database;
use plane::ingress::master::Master;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::{ECHO, Host, Stranger, answer, carries, is_resumed};
use crate::running::{LIMIT, Plane, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_loses_its_connections_and_no_other_does() {
    let plane = Plane::start().await;
    let revoked = Host::enrolled(&plane, "host-1").await;
    let other = Host::enrolled(&plane, "host-2").await;
    let (mut first, _second) = (revoked.start().await, other.start().await);
    let mut lost = [revoked.connect(ECHO).await, revoked.connect(ECHO).await];
    let mut kept = other.connect(ECHO).await;
    let stranger = Stranger::new(&plane, Some(&revoked));
    for open in &mut lost {
        assert!(carries(open).await);
    }
    assert!(carries(&mut kept).await);
    // A reload of HAProxy leaves these connections with the worker of before.
    plane.reload().await;
    let mut newer = revoked.connect(ECHO).await;
    assert!(carries(&mut newer).await);
    let mut with_session = stranger
        .connect("echo.plane.test")
        .await
        .expect("it is let in");
    assert!(carries(&mut with_session).await);
    let mut again = stranger
        .connect("echo.plane.test")
        .await
        .expect("it is let in");
    assert!(
        carries(&mut again).await && is_resumed(&again),
        "before, it resumes sessions"
    );
    let of_other = Stranger::new(&plane, Some(&other));
    for resumed in [false, true] {
        let stream = of_other.connect("echo.plane.test").await;
        let mut stream = stream.expect("it is let in");
        assert!(carries(&mut stream).await);
        assert_eq!(is_resumed(&stream), resumed);
    }
    let said = plane.said(&["host", "revoke", "host-1"]);
    assert!(said.contains("Every ingress refuses them"), "{said}");
    // The keys of session tickets are new: also another host's session from before is not resumed.
    let stream = of_other.connect("echo.plane.test").await;
    let mut stream = stream.expect("it is let in");
    assert!(carries(&mut stream).await && !is_resumed(&stream));
    for open in lost.iter_mut().chain([&mut newer]) {
        assert!(!carries(open).await, "its connections have ended");
    }
    assert!(!carries(&mut with_session).await);
    assert!(carries(&mut kept).await, "another host's go on");
    assert!(!revoked.reaches_echo().await);
    // Also not with a session from before.
    for _ in 0..4 {
        if let Ok(stream) = stranger.connect("echo.plane.test").await {
            assert_eq!(answer(stream, "ping").await, "");
        }
    }
    assert!(other.reaches_echo().await);
    // Enrolled anew, it is let in again.
    revoked
        .enrol(&plane.token(&["--host", "host-1"]), &plane.fingerprint())
        .await
        .expect("it is enrolled");
    first
        .reload(&revoked.configuration())
        .await
        .expect("it is reloaded");
    assert!(revoked.reaches_echo().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_revoked_while_haproxy_was_down_is_refused_when_it_is_up() {
    let mut plane = Plane::start().await;
    let host = Host::enrolled(&plane, "host-1").await;
    let _comms = host.start().await;
    assert!(host.reaches_echo().await);
    plane.stop_haproxy().await;
    let revoking = plane.ctl(&["host", "revoke", "no-such-host"]);
    let said = String::from_utf8_lossy(&revoking.stderr).into_owned();
    assert!(
        said.contains("there is no host with this name or id"),
        "{said}"
    );
    let mut revoking = plane.start_ctl(&["host", "revoke", "host-1"]);
    until("the file has it", async || {
        std::fs::read_to_string(plane.place("ingress/revoked.serials"))
            .is_ok_and(|text| !text.is_empty())
    })
    .await;
    plane.start_haproxy().await;
    assert!(!host.reaches_echo().await);
    until("the command ends", async || {
        revoking.try_wait().expect("it runs").is_some()
    })
    .await;
    assert!(revoking.wait().expect("it ended").success());
}

/// As one is that has no room, or that has become read-only.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_written_keeps_no_revoked_certificate_in_use() {
    let plane = Plane::start().await;
    let host = Host::enrolled(&plane, "host-1").await;
    let _comms = host.start().await;
    let mut open = host.connect(ECHO).await;
    assert!(carries(&mut open).await);
    plane.settled().await;
    let database = database_of(&plane).await;
    let run = async |statement: &'static str| {
        let done = sqlx::query(statement).execute(&database).await;
        done.expect("it is done");
    };
    run("CREATE TRIGGER no_room BEFORE INSERT ON ingresses BEGIN SELECT RAISE(FAIL, 'no room'); END")
        .await;
    let revoked = plane::host::revoke(&database, "host-1", SystemTime::now()).await;
    assert_eq!(revoked.expect("it is revoked"), 1);
    let ended = open.read_u8();
    let ended = tokio::time::timeout(LIMIT, ended).await;
    ended.expect("an end").expect_err("no byte comes");
    let said = plane.said(&["ingress", "list"]);
    assert!(said.contains("not all are refused yet"), "{said}");
    run("DROP TRIGGER no_room").await;
    plane.settled().await;
}

/// As a copy of a database is that only answers questions.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_behind_and_cannot_be_written_takes_back_no_revocation() {
    let mut plane = Plane::start().await;
    let _hosts = [
        Host::enrolled(&plane, "host-1").await,
        Host::enrolled(&plane, "host-2").await,
    ];
    plane.said(&["host", "revoke", "host-1"]);
    plane.stop_serve();
    let file = plane.place("ingress/revoked.serials");
    let serials = || std::fs::read_to_string(&file).expect("it is there");
    let before = serials();
    assert_eq!(before.lines().count(), 1);
    let database = database_of(&plane).await;
    for statement in [
        "CREATE TRIGGER no_room BEFORE INSERT ON ingresses BEGIN SELECT RAISE(FAIL, 'no room'); END",
        "UPDATE certificates SET revoked_at = NULL",
    ] {
        let done = sqlx::query(statement).execute(&database).await;
        done.expect("it is done");
    }
    let now = SystemTime::now();
    let revoked = plane::host::revoke(&database, "host-2", now).await;
    assert_eq!(revoked.expect("it is revoked"), 1);
    let revoked = plane::host::revoked(&database, now).await;
    let second = revoked.expect("it is there").remove(0).serial;
    plane.start_serve().await;
    until("it refuses the second one", async || {
        serials().lines().any(|its| its == second)
    })
    .await;
    let after = serials();
    assert!(after.contains(before.trim()), "{after}");
}

/// It tells HAProxy the serial numbers first, and may be ended after that.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_was_cut_off_is_completed_at_the_next_start() {
    let mut plane = Plane::start().await;
    let _host = Host::enrolled(&plane, "host-1").await;
    plane.settled().await;
    plane.stop_serve();
    let database = database_of(&plane).await;
    let now = SystemTime::now();
    let revoked = plane::host::revoke(&database, "host-1", now).await;
    assert_eq!(revoked.expect("it is revoked"), 1);
    let revoked = plane::host::revoked(&database, now).await;
    let serial = revoked.expect("it is there").remove(0).serial;
    let master = Master(plane.place("master.sock"));
    let worker = master.workers().await.expect("it runs")[0];
    let place = plane.place("ingress/revoked.serials");
    let add = format!("add acl {} {serial}", place.display());
    master.tell(worker, &add, &[]).await.expect("it is told");
    let keys = plane.place("ingress/ticket.keys");
    let keys = || std::fs::read_to_string(&keys).expect("it is there");
    let before = keys();
    // A reload would also give HAProxy the list: these files are older than it, so there is none.
    for name in ["haproxy.cfg", "server.pem", "roots.crt"] {
        let file = std::fs::File::options()
            .append(true)
            .open(plane.place("ingress").join(name))
            .expect("it is there");
        let earlier = now - Duration::from_secs(60 * 60);
        file.set_modified(earlier).expect("its time");
    }
    plane.start_serve().await;
    plane.settled().await;
    assert_ne!(keys(), before);
    let present = master.workers().await.expect("it runs")[0];
    assert_eq!(present.pid, worker.pid, "it was not reloaded");
    let list = plane.place("ingress/revoked.crl");
    let show = format!("show ssl crl-file {}:1", list.display());
    let shown = master.ask(worker, &show).await.expect("it answers");
    assert!(shown.contains(&serial), "{shown}");
}

/// `planectl serve` does not write it again, and an HAProxy that starts then would let the host in.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_during_an_init_is_in_the_files_of_haproxy_afterwards() {
    let mut plane = Plane::start().await;
    let _host = Host::enrolled(&plane, "host-1").await;
    plane.settled().await;
    plane.stop_serve();
    // An HAProxy that checks the configuration when it is let.
    let path = std::env::var("PATH").expect("it is set");
    let (started, go) = (plane.place("started"), plane.place("go"));
    let text = format!(
        "#!/bin/sh\nPATH={path}\n: > {}\nuntil [ -e {} ]; do sleep 0.05; done\nexec haproxy \"$@\"\n",
        started.display(),
        go.display()
    );
    std::fs::create_dir(plane.place("bin")).expect("it is made");
    let program = plane.place("bin/haproxy");
    std::fs::write(&program, text).expect("it is written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let mut init = plane
        .command(&["init"])
        .env("PATH", format!("{}:{path}", plane.place("bin").display()))
        .spawn()
        .expect("it starts");
    until("it has written what was revoked before", async || {
        started.exists()
    })
    .await;
    let database = database_of(&plane).await;
    let revoked = plane::host::revoke(&database, "host-1", SystemTime::now()).await;
    assert_eq!(revoked.expect("it is revoked"), 1);
    std::fs::write(&go, "").expect("it is written");
    until("it ends", async || {
        init.try_wait().expect("it runs").is_some()
    })
    .await;
    assert!(init.wait().expect("it ended").success());
    let serials = std::fs::read_to_string(plane.place("ingress/revoked.serials"));
    assert_eq!(serials.expect("it is there").lines().count(), 1);
}

/// A connection to a service that sends without an end. Of this, the host reads a byte.
async fn unread(plane: &Plane, host: &Host) -> TlsStream<TcpStream> {
    let client = Stranger::new(plane, Some(host));
    let stream = client.connect("source.plane.test").await;
    let mut stream = stream.expect("it is let in");
    stream.write_all(b"x").await.expect("it is written");
    stream.flush().await.expect("it is written");
    stream.read_u8().await.expect("the service sends");
    stream
}

/// Reads what comes until the connection ends.
async fn read_on(mut stream: TlsStream<TcpStream>) {
    let mut nowhere = tokio::io::sink();
    let read = tokio::io::copy(&mut stream, &mut nowhere);
    // An error is an end, too.
    let _ = tokio::time::timeout(LIMIT, read).await.expect("an end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_host_that_does_not_read_loses_its_service() {
    let plane = Plane::start().await;
    let mut hosts = Vec::new();
    for name in ["host-1", "host-2", "host-3"] {
        hosts.push(Host::enrolled(&plane, name).await);
    }
    let _comms = hosts[2].start().await;
    let mut kept = hosts[2].connect(ECHO).await;
    assert!(carries(&mut kept).await);
    let stalled = unread(&plane, &hosts[0]).await;
    let said = plane.said(&["host", "revoke", "host-1"]);
    assert!(said.contains("Every ingress refuses them"), "{said}");
    assert!(carries(&mut kept).await, "another host's goes on");
    read_on(stalled).await;
    // HAProxy has no means against one whose host has ended its own direction.
    let mut half_closed = unread(&plane, &hosts[1]).await;
    half_closed.shutdown().await.expect("its direction ends");
    let said = plane.said(&["host", "revoke", "host-2"]);
    assert!(said.contains("Every ingress refuses them"), "{said}");
    read_on(half_closed).await;
    until("another worker accepts", async || {
        hosts[2].reaches_echo().await
    })
    .await;
}

/// Certificates that were revoked before. Their list is longer than what HAProxy reads of a command (16 KiB).
pub(crate) const MANY: usize = 1000;

/// The database of a plane.
pub(crate) async fn database_of(plane: &Plane) -> sqlx::AnyPool {
    let url = format!("sqlite://{}", plane.place("plane.db").display());
    database::open(&url).await.expect("it is there")
}

/// Gives a host a certificate with this number that was revoked at this time and has not ended.
pub(crate) async fn add_revoked(
    database: &mut sqlx::AnyConnection,
    number: usize,
    name: &str,
    at: SystemTime,
) {
    sqlx::query(
        "INSERT INTO certificates (serial, host_id, issued_at, expires_at, revoked_at) \
         SELECT $1, id, $2, $3, $2 FROM hosts WHERE name = $4",
    )
    .bind(format!("7A{number:030X}"))
    .bind(database::seconds(at))
    .bind(database::seconds(at + Duration::from_secs(24 * 3600)))
    .bind(name)
    .execute(&mut *database)
    .await
    .expect("it is written");
}

/// Gives a host so many certificates more, which are revoked.
async fn revoke_many(plane: &Plane, name: &str) {
    let database = database_of(plane).await;
    let now = SystemTime::now();
    let mut all = database.begin().await.expect("a transaction");
    for number in 0..MANY {
        add_revoked(&mut all, number, name, now).await;
    }
    all.commit().await.expect("it is written");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_certificate_of_a_long_list_is_refused_at_once_and_by_a_new_haproxy() {
    let mut plane = Plane::start().await;
    let revoked = Host::enrolled(&plane, "host-1").await;
    let other = Host::enrolled(&plane, "host-2").await;
    let (comms, _second) = (revoked.start().await, other.start().await);
    let (mut lost, mut kept) = (revoked.connect(ECHO).await, other.connect(ECHO).await);
    assert!(carries(&mut lost).await && carries(&mut kept).await);
    revoke_many(&plane, "host-1").await;
    let said = plane.said(&["host", "revoke", "host-1"]);
    assert!(said.contains("Every ingress refuses them"), "{said}");
    let list = plane.place("ingress/revoked.crl");
    assert!(list.metadata().expect("it is there").len() > 16 * 1024);
    assert!(!carries(&mut lost).await, "its connection has ended");
    assert!(carries(&mut kept).await, "another host's goes on");
    for is_new in [false, true] {
        if is_new {
            plane.stop_haproxy().await;
            plane.start_haproxy().await;
        }
        let master = Master(plane.place("master.sock"));
        // A new one answers a moment after it listens.
        until("it answers", async || master.workers().await.is_ok()).await;
        let workers = master.workers().await.expect("it runs");
        let serials = plane.place("ingress/revoked.serials");
        let show = format!("show acl {}", serials.display());
        let known = master.ask(workers[0], &show).await;
        let known = known.expect("it answers");
        let known = known.lines().filter(|line| line.starts_with("0x"));
        assert_eq!(known.count(), MANY + 1, "new: {is_new}");
        assert!(!revoked.reaches_echo().await, "new: {is_new}");
        if !is_new {
            // The running one does not know the list, so it sends no alert.
            until("the host is told that it may be revoked", async || {
                let status = comms.status();
                let mut errors = status.listeners.iter().flat_map(|its| &its.errors);
                errors.any(|its| {
                    its.cause == "no-answer"
                        && its.next.contains("was revoked (`planectl host list`")
                })
            })
            .await;
        }
        assert!(other.reaches_echo().await, "new: {is_new}");
    }
}
