//! What the ingress passes on to a service, and what it refuses.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use daemon::files::ABANDONED;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::client::{Host, Stranger, answer, carries};
use crate::running::{LIMIT, MOST_OF_HOST, Plane, until};

/// A host that is enrolled, once HAProxy has all that the plane has written.
async fn enrolled(plane: &Plane, name: &str) -> Host {
    plane.settled().await;
    Host::enrolled(plane, name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_change_nothing_behind_a_service_that_is_read_only() {
    let plane = Plane::start().await;
    let host = enrolled(&plane, "host-1").await;
    let client = Stranger::new(&plane, Some(&host));
    for (name, method, wanted) in [
        ("images", "GET", " 200 "),
        ("images", "HEAD", " 200 "),
        ("images", "POST", " 403 "),
        ("images", "PUT", " 403 "),
        ("images", "PATCH", " 403 "),
        ("images", "DELETE", " 403 "),
        ("images", "get", " 403 "),
        ("rest", "PUT", " 200 "),
    ] {
        let request = format!(
            "{method} /v2/ HTTP/1.1\r\nHost: localhost:5001\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let stream = client.connect(&format!("{name}.plane.test")).await;
        let said = answer(stream.expect("it is let in"), &request).await;
        let status = said.lines().next().unwrap_or_default();
        assert!(status.contains(wanted), "{name}, {method}: {said}");
        // The URLs in the answers of a registry are made of it and of the header `Host`.
        let is_told = said.to_lowercase().contains("x-forwarded-proto");
        assert_eq!(is_told, name == "rest", "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ingress_reads_is_for_its_group_and_nothing_else_is() {
    let plane = Plane::start().await;
    for (place, wanted) in [
        ("ingress", 0o750),
        ("ingress/server.pem", 0o640),
        ("ingress/ticket.keys", 0o640),
        ("authority", 0o700),
        ("authority/root.key", 0o600),
        ("plane.db", 0o600),
    ] {
        let metadata = plane.place(place).metadata().expect("it is there");
        assert_eq!(metadata.mode() & 0o777, wanted, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_takes_no_place_of_other_hosts() {
    let plane = Plane::start().await;
    let (greedy, other) = (
        enrolled(&plane, "host-1").await,
        enrolled(&plane, "host-2").await,
    );
    plane.settled().await;
    let client = Stranger::new(&plane, Some(&greedy));
    let mut open = Vec::new();
    for _ in 0..MOST_OF_HOST {
        let mut stream = client
            .connect("echo.plane.test")
            .await
            .expect("it is let in");
        assert!(carries(&mut stream).await);
        open.push(stream);
    }
    let one_more = async || match client.connect("echo.plane.test").await {
        Ok(mut stream) => carries(&mut stream).await,
        Err(_) => false,
    };
    assert!(!one_more().await);
    let of_other = Stranger::new(&plane, Some(&other));
    let stream = of_other.connect("echo.plane.test").await;
    assert!(carries(&mut stream.expect("it is let in")).await);
    assert!(carries(&mut open[0]).await, "what is open goes on");
    drop(open);
    until("its connections have ended", one_more).await;
}

/// Sends so many requests on one connection, and returns how many are answered with 200, and how many with 429.
async fn statuses(client: &Stranger, name: &str, count: usize) -> (usize, usize) {
    let one = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let stream = client.connect(name).await.expect("it is let in");
    let said = answer(stream, &(one.repeat(count - 1) + last)).await;
    let with = |status: &str| said.matches(&format!("HTTP/1.1 {status} ")).count();
    (with("200"), with("429"))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_enrolment_are_limited_with_a_certificate_and_without() {
    const ENROL: &str = "enroll.plane.test";
    /// The limit, and two more.
    const TOO_MANY: usize = 62;
    let plane = Plane::start().await;
    let (greedy, other) = (
        enrolled(&plane, "host-1").await,
        enrolled(&plane, "host-2").await,
    );
    let client = Stranger::new(&plane, Some(&greedy));
    // Requests to other services do not count.
    let of_service = statuses(&client, "rest.plane.test", TOO_MANY).await;
    assert_eq!(of_service, (TOO_MANY, 0));
    assert_eq!(statuses(&client, ENROL, TOO_MANY).await, (60, 2));
    assert_eq!(statuses(&client, ENROL, 1).await, (0, 1), "not on another");
    let of_other = Stranger::new(&plane, Some(&other));
    assert_eq!(statuses(&of_other, ENROL, 1).await, (1, 0), "another host");
    let without = Stranger::new(&plane, None);
    let (answered, refused) = statuses(&without, ENROL, TOO_MANY).await;
    assert_eq!(answered + refused, TOO_MANY);
    // Both hosts were enrolled from the same address: their requests count, too.
    assert!((2..10).contains(&refused), "{refused} are refused");
}

/// What the service with HTTP answers on a connection that stays open: its own head and that of the request. An end counts as no answer.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    let said = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut all = String::new();
        while all.matches("\r\n\r\n").count() < 2 {
            all.push(stream.read_u8().await?.into());
        }
        std::io::Result::Ok(all)
    };
    let said = tokio::time::timeout(LIMIT, said).await;
    said.expect("an answer or an end").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_a_connection_has_the_name_in_the_certificate() {
    const FORGED: &str =
        "GET / HTTP/1.1\r\nHost: x\r\nX-PF9-Host-Id: other\r\nx_pf9-host_id: other\r\n\r\n";
    let plane = Plane::start().await;
    let host = enrolled(&plane, "host-1").await;
    let client = Stranger::new(&plane, Some(&host));
    let stream = client.connect("rest.plane.test").await;
    let mut stream = stream.expect("it is let in");
    let first = ask(&mut stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let first = first.to_lowercase();
    let id = first.split_once("x-pf9-host-id: ").expect("its id").1;
    let id = id.lines().next().expect("its id");
    let second = ask(&mut stream, FORGED).await.to_lowercase();
    assert_eq!(second.matches("pf9").count(), 1, "{second}");
    assert!(second.contains(&format!("x-pf9-host-id: {id}")), "{second}");
    // Nothing is asked on it at this moment, so HAProxy has nothing to end: it refuses what comes.
    let said = plane.said(&["host", "revoke", "host-1"]);
    assert!(said.contains("Every ingress refuses them"), "{said}");
    assert_eq!(ask(&mut stream, FORGED).await, "");
}

/// A service may take another sign for the hyphen in the name of a header.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_the_name_of_a_host_is_passed_on() {
    let plane = Plane::start().await;
    let host = enrolled(&plane, "host-1").await;
    let client = Stranger::new(&plane, Some(&host));
    // All that such a name may have (RFC 9110, section 5.6.2).
    let forged = "!#$%&'*+-.^_`|~".chars().map(|sign| {
        format!("X{sign}PF9{sign}Host{sign}Id: other\r\nX-PF9{sign}Host-Id: other\r\n")
    });
    let forged: String = forged.collect();
    let request =
        format!("GET / HTTP/1.1\r\nHost: x\r\n{forged}X_Own-1: kept\r\nConnection: close\r\n\r\n");
    for (name, count) in [("rest", 1), ("images", 1), ("console", 0)] {
        let stream = client.connect(&format!("{name}.plane.test")).await;
        let said = answer(stream.expect("it is let in"), &request).await;
        assert!(said.starts_with("HTTP/1.1 200 "), "{name}: {said}");
        let said = said.to_lowercase();
        assert_eq!(said.matches("pf9").count(), count, "{name}: {said}");
        assert!(!said.contains(": other"), "{name}: {said}");
        assert!(said.contains("x_own-1: kept"), "{name}: {said}");
    }
}

/// A service may be a proxy, which removes the headers that `Connection` names.
#[tokio::test(flavor = "multi_thread")]
async fn no_host_has_its_name_removed_behind_the_ingress() {
    let plane = Plane::start().await;
    let host = enrolled(&plane, "host-1").await;
    let client = Stranger::new(&plane, Some(&host));
    for (named, wanted) in [
        ("x-other", "HTTP/1.1 200 "),
        ("X-PF9-Host-Id", "HTTP/1.1 400 "),
        ("x-other, x-pf9-host-id", "HTTP/1.1 400 "),
        ("X-Forwarded-For", "HTTP/1.1 400 "),
        ("\"a, X-PF9-Host-Id", "HTTP/1.1 400 "),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close, {named}\r\n\r\n");
        let stream = client.connect("rest.plane.test").await;
        let said = answer(stream.expect("it is let in"), &request).await;
        assert!(said.starts_with(wanted), "{named}: {said}");
    }
}

/// A service may read what comes after a body as header fields.
#[tokio::test(flavor = "multi_thread")]
async fn no_host_announces_its_name_after_a_body() {
    let plane = Plane::start().await;
    let host = enrolled(&plane, "host-1").await;
    let client = Stranger::new(&plane, Some(&host));
    for (named, wanted) in [
        ("x-checksum", "HTTP/1.1 200 "),
        ("X-PF9-Host-Id", "HTTP/1.1 400 "),
        ("x-checksum, x_pf9-host_id", "HTTP/1.1 400 "),
        ("X.PF9.Host.Id", "HTTP/1.1 400 "),
        ("x-checksum\r\nTrailer: x'pf9#host!id", "HTTP/1.1 400 "),
        ("X-Forwarded-For", "HTTP/1.1 400 "),
    ] {
        let request =
            format!("GET / HTTP/1.1\r\nHost: x\r\nTrailer: {named}\r\nConnection: close\r\n\r\n");
        let stream = client.connect("rest.plane.test").await;
        let said = answer(stream.expect("it is let in"), &request).await;
        assert!(said.starts_with(wanted), "{named}: {said}");
    }
}

/// After both, HAProxy would pass on bytes as they are.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_opens_a_way_around_the_ingress() {
    const CONNECT: &str = "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\nConnection: close\r\n\r\n";
    const HTTP_2: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const FORGED: &str = "GET / HTTP/1.1\r\nHost: x\r\nX-PF9-Host-Id: other\r\n\r\n";
    let plane = Plane::start().await;
    let host = enrolled(&plane, "host-1").await;
    let known = Stranger::new(&plane, Some(&host));
    let without = Stranger::new(&plane, None);
    for (client, name) in [(&known, "rest"), (&known, "images"), (&without, "console")] {
        let stream = client.connect(&format!("{name}.plane.test")).await;
        let said = answer(stream.expect("it is let in"), &[CONNECT, FORGED].concat()).await;
        assert!(said.starts_with("HTTP/1.1 405 "), "{name}: {said}");
        assert!(!said.contains("other"), "{name}: {said}");
        let stream = client.connect(&format!("{name}.plane.test")).await;
        let said = answer(stream.expect("it is let in"), HTTP_2).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{name}: {said}");
    }
    let websocket = "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for (service, upgrade, is_passed_on) in [
        ("rest", websocket, true),
        // Hosts only read there.
        ("images", websocket, false),
        ("rest", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk", false),
        ("rest", "Upgrade: TLS/1.0", false),
        ("rest", "Upgrade: websocket\r\nUpgrade: h2c", false),
    ] {
        let stream = known.connect(&format!("{service}.plane.test")).await;
        let mut stream = stream.expect("it is let in");
        let request =
            format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n{upgrade}\r\n\r\n");
        let said = ask(&mut stream, &request).await.to_lowercase();
        assert!(said.contains("x-pf9-host-id"), "{upgrade}: {said}");
        let has_it = said.lines().any(|line| line.starts_with("upgrade:"));
        assert_eq!(has_it, is_passed_on, "{service}, {upgrade}: {said}");
        assert!(!said.contains("http2-settings"), "{upgrade}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_connected_with_the_first_byte() {
    let plane = Plane::start().await;
    let host = enrolled(&plane, "host-1").await;
    let client = Stranger::new(&plane, Some(&host));
    let connect = async || {
        let stream = client.connect("echo.plane.test").await;
        stream.expect("it is let in")
    };
    let mut silent = connect().await;
    // What comes later has its service.
    assert!(carries(&mut connect().await).await);
    assert_eq!(plane.echoes.load(Ordering::Relaxed), 1);
    assert!(carries(&mut silent).await);
    assert_eq!(plane.echoes.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_haproxy_refuses_takes_no_place() {
    let plane = Plane::start().await;
    let (file, place) = (
        plane.place("plane.yaml"),
        plane.place("ingress/haproxy.cfg"),
    );
    plane.settled().await;
    let before = std::fs::read_to_string(&place).expect("it is there");
    let text = std::fs::read_to_string(&file).expect("it is there");
    let text = text.replace("user: null", "user: no-such-user");
    std::fs::write(&file, text).expect("it is written");
    let made = plane.ctl(&["init"]);
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(
        !made.status.success() && said.contains("no-such-user"),
        "{said}"
    );
    let after = std::fs::read_to_string(&place).expect("it is there");
    assert_eq!(before, after);
    let directory = std::fs::read_dir(plane.place("ingress")).expect("it is there");
    let left = directory
        .map(|entry| entry.expect("it can be read").file_name())
        .filter(|name| name.to_string_lossy().starts_with('.'));
    assert_eq!(left.count(), 0, "a temporary file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_haproxy_refuses_keeps_no_old_certificate_in_use() {
    let mut plane = Plane::start().await;
    plane.settled().await;
    plane.stop_serve();
    let file = plane.place("plane.yaml");
    let text = std::fs::read_to_string(&file).expect("it is there");
    let text = text.replace("user: null", "user: no-such-user");
    std::fs::write(&file, text).expect("it is written");
    // As one that ends soon, it is made anew.
    let certificate = plane.place("ingress/server.pem");
    std::fs::remove_file(&certificate).expect("it is removed");
    plane.start_serve().await;
    until("HAProxy shows the new one", async || {
        let Ok(new) = CertificateDer::from_pem_file(&certificate) else {
            return false;
        };
        let client = Stranger::new(&plane, None);
        let Ok(stream) = client.connect("enroll.plane.test").await else {
            return false;
        };
        let shown = stream.get_ref().1.peer_certificates();
        shown.is_some_and(|its| its.first() == Some(&new))
    })
    .await;
}

/// As one is in a file system that is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_removed_keeps_nothing_from_haproxy() {
    let mut plane = Plane::start().await;
    plane.settled().await;
    plane.stop_serve();
    let configuration = plane.place("ingress/haproxy.cfg");
    std::fs::remove_file(&configuration).expect("it is removed");
    let left = plane.place("ingress/.new-000old");
    let file = std::fs::File::create(&left).expect("it is made");
    let before = SystemTime::now() - ABANDONED * 2;
    file.set_modified(before).expect("its time");
    let init = plane.command(&["init"]);
    let made = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null"])
        .args(["-e", "inject=unlink,unlinkat:error=EIO", "-P"])
        .arg(&left)
        .arg(init.get_program())
        .args(init.get_args())
        .output()
        .expect("apt-get install strace");
    let said = String::from_utf8_lossy(&[made.stdout, made.stderr].concat()).into_owned();
    assert!(made.status.success(), "{said}");
    let warning = format!("Warning: could not remove {}", left.display());
    assert!(said.contains(&warning), "{said}");
    assert!(left.exists() && configuration.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_write_the_configuration_at_the_same_time() {
    let plane = Plane::start().await;
    for _ in 0..3 {
        let started: Vec<_> = (0..4).map(|_| plane.start_ctl(&["init"])).collect();
        for mut one in started {
            assert!(one.wait().expect("it ends").success());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_takes_a_table_with_the_most_services() {
    let plane = Plane::start().await;
    // Otherwise `planectl serve` may write the configuration of before at the same time.
    plane.settled().await;
    let configuration = plane.place("plane.yaml");
    let text = std::fs::read_to_string(&configuration).expect("it is there");
    let present = text.matches("{name: ").count();
    let more = (present..64).map(|number| {
        let name = format!("{}-{number}", "long".repeat(10));
        format!("  - {{name: {name}, mode: http, backend: '127.0.0.1:1'}}\n")
    });
    let text = text + &more.collect::<String>();
    std::fs::write(&configuration, text).expect("it is written");
    plane.said(&["init"]);
    let written = plane.place("ingress/haproxy.cfg");
    let written = written.metadata().expect("it is there");
    assert!(written.len() > 64 * 1024, "{} bytes", written.len());
    // What is there is read, and compared.
    plane.said(&["init"]);
}
