//! Tunnels through HAProxy, the ingress of a management plane: it ends TLS, checks the certificate of the host, and routes by server name.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use comms::supervisor::Comms;
use rustls::{HandshakeKind, ProtocolVersion};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::plane::Authority;
use crate::tunnels::{Host, NO_PROXY, bytes, own_address};

const LIMIT: Duration = Duration::from_secs(20);

/// What HAProxy reads of a connection to the service.
#[derive(Debug, Clone, Copy)]
enum Mode {
    Tcp,
    Http,
}

/// A running HAProxy with a service behind it. Both end with the test.
struct Ingress {
    _directory: TempDir,
    haproxy: Child,
    address: SocketAddr,
}

impl Drop for Ingress {
    fn drop(&mut self) {
        let _ = self.haproxy.kill();
        let _ = self.haproxy.wait();
    }
}

impl Ingress {
    async fn start(authority: &Authority, backend: SocketAddr) -> Self {
        Self::start_with(authority, backend, "ssl-min-ver TLSv1.2").await
    }

    /// With these options of TLS.
    async fn start_with(authority: &Authority, backend: SocketAddr, options: &str) -> Self {
        Self::start_as(authority, backend, options, Mode::Tcp).await
    }

    async fn start_as(
        authority: &Authority,
        backend: SocketAddr,
        options: &str,
        mode: Mode,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let place = |name: &str| directory.path().join(name).display().to_string();
        let (certificate, key) = authority.issue("plane", &["*.plane.test"]);
        std::fs::write(place("plane.pem"), certificate + &key).expect("it is written");
        std::fs::write(place("roots.crt"), authority.root()).expect("it is written");
        let address = SocketAddr::new(own_address(), 8443);
        let (switch, mode) = match mode {
            Mode::Tcp => ("", "tcp"),
            Mode::Http => (
                "    tcp-request content switch-mode http if { req.len gt 0 }\n",
                "http",
            ),
        };
        // As the plane has it: the connection to the service begins with the first byte, so that a connection in reserve costs it nothing.
        let configuration = format!(
            "global\n    maxconn 2000\n\
             defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n\
             frontend plane\n\
             \x20   bind {address} ssl crt {} ca-file {} verify required {options}\n\
             \x20   tcp-request inspect-delay 30s\n\
             \x20   tcp-request content reject unless {{ ssl_fc_sni -i echo.plane.test }}\n\
             {switch}\
             \x20   tcp-request content accept if {{ req.len gt 0 }}\n\
             \x20   default_backend echo\n\
             backend echo\n    mode {mode}\n    server echo {backend}\n",
            place("plane.pem"),
            place("roots.crt"),
        );
        std::fs::write(place("haproxy.cfg"), configuration).expect("it is written");
        let haproxy = Command::new("haproxy")
            .args(["-db", "-f", &place("haproxy.cfg")])
            .stdin(Stdio::null())
            .spawn()
            .expect("apt-get install haproxy");
        let ingress = Self {
            _directory: directory,
            haproxy,
            address,
        };
        let listens = async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, listens)
            .await
            .expect("it listens");
        ingress
    }
}

/// A service that sends back what it gets, and then the number of bytes.
async fn counting_echo() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("its address");
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut buffer = vec![0; 8192];
                let mut total = 0;
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    total += length;
                    if stream.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
                // Only after the end of the other direction.
                let _ = stream.write_all(format!(" {total}").as_bytes()).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_ends_go_through_haproxy_in_both_directions() {
    let authority = Authority::new();
    let (backend, asked) = counting_echo().await;
    let ingress = Ingress::start(&authority, backend).await;
    let host = Host::new(&authority, &authority).await;
    let path = host.configure(ingress.address, "all", NO_PROXY);
    let _comms = Comms::start(&path).await.expect("it starts");
    for length in [1, 3_000_000] {
        let sent = bytes(length);
        let back = host.echoed(&sent).await.expect("it comes back");
        let wanted = [&sent[..], format!(" {length}").as_bytes()].concat();
        assert!(back == wanted, "{length}: {} bytes came back", back.len());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

/// A service of HTTP that answers every request with this body, and how many answers it has written to their ends.
async fn http_service(body: &[u8]) -> (SocketAddr, watch::Receiver<usize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("its address");
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let answer = [head.as_bytes(), body].concat();
    let (sender, written) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                if !matches!(stream.read_buf(&mut asked).await, Ok(1..)) {
                    break;
                }
            }
            if stream.write_all(&answer).await.is_ok() {
                let _ = stream.shutdown().await;
                sender.send_modify(|count| *count += 1);
            }
        }
    });
    (address, written)
}

/// Waits until this is so.
pub(crate) async fn until(is_so: impl AsyncFn() -> bool) {
    let waits = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, waits)
        .await
        .expect("it is so in time");
}

/// HAProxy may drop a request whose program has ended its direction. It also may end such a connection before it has read that end: then its kernel
/// resets the connection, and what is on its way is lost. The program must not take a part for everything.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_http_after_the_end_of_the_program_is_never_cut_without_an_error() {
    let authority = Authority::new();
    let body = bytes(4 * 1024 * 1024);
    let (backend, written) = http_service(&body).await;
    let options = "ssl-min-ver TLSv1.2";
    let ingress = Ingress::start_as(&authority, backend, options, Mode::Http).await;
    let host = Host::new(&authority, &authority).await;
    let path = host.configure(ingress.address, "all", NO_PROXY);
    let comms = Comms::start(&path).await.expect("it starts");
    let unanswered = || {
        let errors = comms.status().listeners[0].errors.clone();
        let its = errors.iter().find(|error| error.cause == "no-answer");
        its.map_or(0, |error| error.count)
    };
    for _ in 0..8 {
        let before = (*written.borrow(), unanswered());
        let mut program = TcpStream::connect(host.address).await.expect("it listens");
        let request = b"GET / HTTP/1.1\r\nHost: echo\r\n\r\n";
        program.write_all(request).await.expect("it is open");
        program.shutdown().await.expect("it is open");
        // The program reads late: buffers have the whole answer by then, unless the connection has ended.
        until(async || {
            let state = program.ready(Interest::READABLE | Interest::WRITABLE).await;
            state.expect("it tells").is_read_closed() || *written.borrow() > before.0
        })
        .await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(LIMIT, program.read_to_end(&mut answer)).await;
        let head = answer.windows(4).position(|its| its == b"\r\n\r\n");
        let arrived = head.map_or(&[][..], |at| &answer[at + 4..]);
        match read.expect("it ends in time") {
            // No program takes that for an answer, and it is reported.
            Ok(0) => until(async || unanswered() > before.1).await,
            Ok(_) => assert!(arrived == body, "{} bytes, and an end", arrived.len()),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                assert!(body.starts_with(arrived), "{} others", arrived.len());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_that_knows_tls_1_2_only_is_reached() {
    let authority = Authority::new();
    let (backend, _) = counting_echo().await;
    let options = "ssl-min-ver TLSv1.2 ssl-max-ver TLSv1.2";
    let ingress = Ingress::start_with(&authority, backend, options).await;
    let host = Host::new(&authority, &authority).await;
    let version = handshake(&ingress, &host).await.1;
    assert_eq!(version, Some(ProtocolVersion::TLSv1_2));
    let path = host.configure(ingress.address, "all", NO_PROXY);
    let comms = Comms::start(&path).await.expect("it starts");
    for _ in 0..2 {
        assert_eq!(host.echoed(b"x").await.expect("it is carried"), b"x 1");
    }
    let errors = comms.status().listeners[0].errors.clone();
    assert!(errors.is_empty(), "{errors:?}");
}

/// How a connection to the ingress has begun, and its version of TLS.
async fn handshake(
    ingress: &Ingress,
    host: &Host,
) -> (Option<HandshakeKind>, Option<ProtocolVersion>) {
    let route = host.route(ingress.address);
    let sni = ServerName::try_from("echo.plane.test").expect("a name");
    let stream = route.open(&sni).await.expect("it is reached");
    let tls = &stream.get_ref().1;
    (tls.handshake_kind(), tls.protocol_version())
}

/// The curve of the plane is offered first: another one would cost a second round trip.
#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_without_other_curves_asks_for_no_second_hello() {
    let authority = Authority::new();
    let (backend, _) = counting_echo().await;
    let ingress =
        Ingress::start_with(&authority, backend, "ssl-min-ver TLSv1.2 curves P-256").await;
    let host = Host::new(&authority, &authority).await;
    let (kind, version) = handshake(&ingress, &host).await;
    assert_eq!(version, Some(ProtocolVersion::TLSv1_3));
    assert_eq!(kind, Some(HandshakeKind::Full));
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_refuses_a_foreign_certificate_and_another_server_name() {
    let authority = Authority::new();
    let (backend, asked) = counting_echo().await;
    let ingress = Ingress::start(&authority, backend).await;
    let stranger = Host::new(&Authority::new(), &authority).await;
    let path = stranger.configure(ingress.address, "all", NO_PROXY);
    let _comms = Comms::start(&path).await.expect("it starts");
    stranger.echoed(b"x").await.expect_err("it is refused");
    let host = Host::new(&authority, &authority).await;
    let path = host.configure(ingress.address, "all", NO_PROXY);
    let comms = Comms::start(&path).await.expect("it starts");
    assert_eq!(host.echoed(b"x").await.expect("it is carried"), b"x 1");
    drop(comms);
    let host = Host::new(&authority, &authority).await;
    let path = host.configure(ingress.address, "all", NO_PROXY);
    let text = std::fs::read_to_string(&path).expect("a file");
    let text = text.replace("echo.plane.test", "other.plane.test");
    host.write("comms.yaml", &text, 0o644);
    let comms = Comms::start(&path).await.expect("it starts");
    // HAProxy ends such a connection without an answer.
    let back = host.echoed(b"x").await.unwrap_or_default();
    assert!(back.is_empty(), "{back:?}");
    let reported = async {
        loop {
            if let Some(error) = comms.status().listeners[0].errors.first() {
                break error.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let error = tokio::time::timeout(LIMIT, reported).await;
    let error = error.expect("it is reported");
    assert_eq!((error.cause.as_str(), error.count), ("no-answer", 1));
    assert!(error.next.contains("check `sni`"), "{}", error.next);
    assert_eq!(
        asked.load(Ordering::SeqCst),
        1,
        "the service sees no stranger"
    );
}

/// Whether OpenSSL's client completes a handshake with this version of TLS.
fn openssl_connects(address: SocketAddr, version: &str) -> bool {
    let ended = Command::new("openssl")
        .args(["s_client", version, "-cipher", "DEFAULT@SECLEVEL=0"])
        .args(["-connect", &address.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("apt-get install openssl");
    String::from_utf8_lossy(&ended.stdout).contains("-----BEGIN CERTIFICATE-----")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_knows_old_tls_only_is_refused() {
    let authority = Authority::new();
    let (backend, asked) = counting_echo().await;
    let old = "ssl-min-ver TLSv1.1 ssl-max-ver TLSv1.1 ciphers DEFAULT@SECLEVEL=0";
    let ingress = Ingress::start_with(&authority, backend, old).await;
    let address = ingress.address;
    let old_client = tokio::task::spawn_blocking(move || openssl_connects(address, "-tls1_1"));
    assert!(old_client.await.expect("it ends"), "others get through");
    let host = Host::new(&authority, &authority).await;
    let path = host.configure(address, "all", NO_PROXY);
    let comms = Comms::start(&path).await.expect("it starts");
    host.echoed(b"x").await.expect_err("it is refused");
    let errors = comms.status().listeners[0].errors.clone();
    let said = &errors.first().expect("an error").last;
    assert!(said.contains("ProtocolVersion"), "{said}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}
