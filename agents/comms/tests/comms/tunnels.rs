//! Tunnels to a plane in this process: a TLS server that asks for the certificate of the host, with and without a proxy before it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use crate::plane::{Authority, NAMES, Plane, acceptor, proxy};
use comms::config::IdentityFiles;
use comms::identity::Identity;
use comms::path::network;
use comms::path::proxy::Proxies;
use comms::supervisor::Comms;
use comms::tunnel::PlaneRoute;
use socket2::SockRef;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(20);

/// The plane is reached directly, also if the environment names a proxy.
pub(crate) const NO_PROXY: &str = "proxy: {url: none}";
/// The port of the listener of each host.
const PORT: u16 = 5001;

/// A host that is enrolled.
pub(crate) struct Host {
    directory: TempDir,
    /// The address of its listener. No other test has it.
    pub(crate) address: SocketAddr,
}

impl Host {
    /// A host with a certificate of `authority`, which trusts `roots`.
    pub(crate) async fn new(authority: &Authority, roots: &Authority) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (certificate, key) = authority.issue("host-1", &[]);
        let host = Self {
            directory,
            address: SocketAddr::new(own_address(), PORT),
        };
        host.write("host.crt", &certificate, 0o644);
        host.write("host.key", &key, 0o600);
        host.write("roots.crt", &roots.root(), 0o644);
        host
    }

    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.place(name);
        std::fs::write(&path, text).expect("it is written");
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("its mode is set");
    }

    /// Writes the configuration with a listener `echo`; `more` follows its top level.
    pub(crate) fn configure(&self, plane: SocketAddr, users: &str, more: &str) -> PathBuf {
        let text = format!(
            "plane: {{host: {}, port: {}}}\n\
             identity: {{certificate: {}, key: {}, roots: {}}}\n\
             listeners:\n\
             - {{name: echo, port: {PORT}, sni: echo.plane.test, users: {users}, addresses: [{}]}}\n{more}\n",
            plane.ip(),
            plane.port(),
            self.place("host.crt").display(),
            self.place("host.key").display(),
            self.place("roots.crt").display(),
            self.address.ip()
        );
        self.write("comms.yaml", &text, 0o644);
        self.place("comms.yaml")
    }

    /// The direct way to a plane, with the certificate of the host.
    pub(crate) fn route(&self, plane: SocketAddr) -> PlaneRoute {
        let files = IdentityFiles::below(&self.place(""));
        let identity = Identity::read(&files, SystemTime::now()).expect("it is right");
        PlaneRoute {
            plane: comms::config::Plane {
                host: plane.ip().to_string(),
                port: plane.port(),
            },
            proxies: Proxies::default(),
            tls: identity.tls,
        }
    }

    pub(crate) async fn start(&self, plane: &Plane) -> Comms {
        let path = self.configure(plane.address, "all", NO_PROXY);
        Comms::start(&path).await.expect("it starts")
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    /// Sends bytes through a tunnel and reads until its end.
    pub(crate) async fn echoed(&self, sent: &[u8]) -> std::io::Result<Vec<u8>> {
        // A refusal may be faster than the connection.
        let stream = TcpStream::connect(self.address).await?;
        let (mut from, mut to) = stream.into_split();
        let sent = sent.to_vec();
        let sending = tokio::spawn(async move {
            to.write_all(&sent).await?;
            to.shutdown().await
        });
        let mut back = Vec::new();
        let read = tokio::time::timeout(LIMIT, from.read_to_end(&mut back)).await;
        read.expect("it ends in time")?;
        sending.await.expect("it ends").map(|()| back)
    }
}

/// A loopback address that nothing else uses.
pub(crate) fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, high | 0x80, low, next).into()
}

/// A plane, and a host that it knows.
async fn enrolled() -> (Plane, Host) {
    let authority = Authority::new();
    let plane = Plane::start(&authority).await;
    let host = Host::new(&authority, &authority).await;
    (plane, host)
}

/// Sends a few bytes through an open tunnel and reads them back.
async fn ping(open: &mut TcpStream) {
    let mut back = [0; 4];
    open.write_all(b"ping").await.expect("it is open");
    open.read_exact(&mut back).await.expect("it comes back");
    assert_eq!(&back, b"ping");
}

/// Bytes that are no pattern of a buffer's length.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7919 % 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_and_each_end_is_passed_on() {
    let (plane, host) = enrolled().await;
    let _comms = host.start(&plane).await;
    for length in [0, 1, 16 * 1024, 5_000_000] {
        let sent = bytes(length);
        let back = host.echoed(&sent).await.expect("it comes back");
        assert!(back == sent, "{length}: {} bytes came back", back.len());
    }
    assert_eq!(plane.clients(), ["CN=host-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_at_a_time_do_not_mix() {
    let (plane, host) = enrolled().await;
    let _comms = host.start(&plane).await;
    let all = (0..40_usize).map(|number| {
        let host = &host;
        async move {
            let sent: Vec<u8> = bytes(20_000)
                .into_iter()
                .map(|byte| byte ^ number as u8)
                .collect();
            let back = host.echoed(&sent).await.expect("it comes back");
            assert!(back == sent, "{number}");
        }
    });
    futures::future::join_all(all).await;
}

/// The plane ends without telling: what has arrived is not everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_is_reset_and_not_ended() {
    let authority = Authority::new();
    let plane = Plane::start_cutting(&authority, 1000).await;
    let host = Host::new(&authority, &authority).await;
    let _comms = host.start(&plane).await;
    let error = host.echoed(&bytes(100_000)).await.expect_err("it is reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

/// The service must not take what has arrived for the whole request.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_resets_its_connection_resets_that_of_the_service() {
    let authority = Authority::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("its address");
    let acceptor = acceptor(&authority, authority.issue("plane", NAMES));
    let host = Host::new(&authority, &authority).await;
    let path = host.configure(address, "all", NO_PROXY);
    let _comms = Comms::start(&path).await.expect("it starts");
    let mut program = host.connect().await;
    program.write_all(b"half").await.expect("it is open");
    let serves = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut service = acceptor.accept(stream).await.expect("a handshake");
        let mut half = [0; 4];
        service.read_exact(&mut half).await.expect("it arrives");
        service
    };
    let serves = tokio::time::timeout(LIMIT, serves).await;
    let mut service = serves.expect("the service is asked");
    let linger = SockRef::from(&program).set_linger(Some(Duration::ZERO));
    linger.expect("it is set");
    drop(program);
    let mut rest = [0; 1];
    let read = tokio::time::timeout(LIMIT, service.read(&mut rest)).await;
    let error = read.expect("it is told").expect_err("that is no end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_listed_users_are_carried() {
    let (plane, host) = enrolled().await;
    let own = nix::unistd::User::from_uid(nix::unistd::geteuid());
    let own = own.expect("it is looked up").expect("it has a name").name;
    let path = host.configure(plane.address, &format!("[{own}]"), NO_PROXY);
    let mut comms = Comms::start(&path).await.expect("it starts");
    assert_eq!(host.echoed(b"mine").await.expect("it is carried"), b"mine");
    let path = host.configure(plane.address, "[daemon]", NO_PROXY);
    comms.reload(&path).await.expect("it is right");
    host.echoed(b"mine").await.expect_err("it is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_asked_with_its_password() {
    let (plane, host) = enrolled().await;
    let open = proxy(None).await;
    let closed = proxy(Some("me:secret")).await;
    host.write("right", "me:secret\n", 0o600);
    host.write("wrong", "me:other\n", 0o600);
    let credentials = |name: &str| format!(", credentials: {}", host.place(name).display());
    let mut comms = host.start(&plane).await;
    for (proxy, more, works) in [
        (&open, String::new(), true),
        (&closed, credentials("right"), true),
        (&closed, credentials("wrong"), false),
        (&closed, String::new(), false),
    ] {
        let before = proxy.carried();
        let address = proxy.address;
        let path = host.configure(
            plane.address,
            "all",
            &format!("proxy: {{url: 'http://{address}'{more}}}"),
        );
        comms.reload(&path).await.expect("it is right");
        let sent = bytes(100_000);
        let back = host.echoed(&sent).await;
        assert_eq!(back.is_ok_and(|back| back == sent), works, "{more}");
        assert_eq!(proxy.carried() - before, usize::from(works), "{more}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_connections_and_a_wrong_one_changes_nothing() {
    let (plane, host) = enrolled().await;
    let mut comms = host.start(&plane).await;
    let mut open = host.connect().await;
    let mut echo = async || {
        open.write_all(b"ping").await.expect("it is open");
        let mut back = [0; 4];
        open.read_exact(&mut back).await.expect("it comes back");
        assert_eq!(&back, b"ping");
    };
    echo().await;
    // This program itself has the port.
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let socket = socket.expect("a port");
    let taken = socket.local_addr().expect("its address").port();
    let second = format!(
        "- {{name: second, port: {taken}, sni: second.plane.test, users: all, addresses: [127.0.0.1]}}\nproxy: {{url: none}}"
    );
    let before = comms.summary();
    let path = host.configure(plane.address, "all", &second);
    let error = format!("{:#}", comms.reload(&path).await.expect_err("it is in use"));
    assert!(
        error.contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    for (name, wrong) in [("host.key", ""), ("roots.crt", "")] {
        let right = std::fs::read_to_string(host.place(name)).expect("a file");
        host.write(name, wrong, 0o600);
        let path = host.configure(plane.address, "all", NO_PROXY);
        let error = format!("{:#}", comms.reload(&path).await.expect_err("it is wrong"));
        assert!(error.contains(name), "{error}");
        host.write(name, &right, 0o600);
    }
    assert_eq!(comms.summary(), before);
    echo().await;
    assert_eq!(host.echoed(b"new").await.expect("it is carried"), b"new");
    // The listener goes, its connection stays.
    let path = host.configure(plane.address, "all", NO_PROXY);
    let text = std::fs::read_to_string(&path).expect("a file");
    let text = text.replace("port: 5001", "port: 5002");
    host.write("comms.yaml", &text, 0o644);
    comms.reload(&path).await.expect("it is right");
    echo().await;
    let gone = async || TcpStream::connect(host.address).await.is_err();
    tokio::time::timeout(LIMIT, async {
        while !gone().await {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it does not listen any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_a_reload_removes_is_shown_as_long_as_it_has_tunnels() {
    let (plane, host) = enrolled().await;
    let mut comms = host.start(&plane).await;
    let mut open = host.connect().await;
    ping(&mut open).await;
    let path = host.configure(plane.address, "all", NO_PROXY);
    let text = std::fs::read_to_string(&path).expect("a file");
    let text = text.replace("name: echo", "name: other");
    host.write("comms.yaml", &text, 0o644);
    comms.reload(&path).await.expect("it is right");
    ping(&mut open).await;
    let shown = comms.status().listeners;
    let [removed, other] = &shown[..] else {
        panic!("there are two: {shown:?}")
    };
    assert_eq!((removed.name.as_str(), removed.open), ("echo", 1));
    assert!(removed.addresses.is_empty(), "{removed:?}");
    assert_eq!((other.name.as_str(), other.open), ("other", 0));
    assert_eq!(other.addresses.len(), 1, "{other:?}");
    drop(open);
    let ended = async {
        while comms.status().listeners.len() > 1 {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(LIMIT, ended).await;
    ended.expect("the one that is removed is shown no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_connections_and_takes_no_more() {
    let (plane, host) = enrolled().await;
    let comms = host.start(&plane).await;
    let mut open = host.connect().await;
    let mut back = [0; 4];
    ping(&mut open).await;
    let draining = tokio::spawn(comms.drain(LIMIT));
    let refuses = async {
        while TcpStream::connect(host.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let refuses = tokio::time::timeout(LIMIT, refuses).await;
    refuses.expect("it takes no more connections");
    open.write_all(b"more").await.expect("it is open");
    open.read_exact(&mut back).await.expect("it comes back");
    assert_eq!(&back, b"more");
    assert!(!draining.is_finished());
    drop(open);
    assert_eq!(draining.await.expect("it ends"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_resets_what_does_not_end_in_time() {
    let (plane, host) = enrolled().await;
    let comms = host.start(&plane).await;
    let mut open = host.connect().await;
    let mut back = [0; 4];
    ping(&mut open).await;
    assert_eq!(comms.drain(Duration::from_millis(100)).await, 1);
    let error = open.read(&mut back).await.expect_err("it is reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_full_refuses_the_next_connection() {
    let (plane, host) = enrolled().await;
    let path = host.configure(plane.address, "all", "connections: 1\nproxy: {url: none}");
    let mut comms = Comms::start(&path).await.expect("it starts");
    let mut first = host.connect().await;
    first.write_all(b"ping").await.expect("it is open");
    let mut back = [0; 4];
    first.read_exact(&mut back).await.expect("it comes back");
    host.echoed(b"second").await.expect_err("it is refused");
    // What is open counts after a reload, too.
    let path = host.configure(plane.address, "all", "connections: 2\nproxy: {url: none}");
    comms.reload(&path).await.expect("it is right");
    let mut second = host.connect().await;
    second.write_all(b"ping").await.expect("it is open");
    second.read_exact(&mut back).await.expect("it comes back");
    host.echoed(b"third").await.expect_err("it is refused");
    first.write_all(b"more").await.expect("it is open");
    first.read_exact(&mut back).await.expect("it comes back");
    assert_eq!(&back, b"more");
    // A listener has its own limit.
    let text = std::fs::read_to_string(&path).expect("a file");
    let text = text.replace("users: all", "users: all, connections: 2");
    let text = text.replace("\nconnections: 2", "\nconnections: 10");
    host.write("comms.yaml", &text, 0o644);
    comms.reload(&path).await.expect("it is right");
    host.echoed(b"third").await.expect_err("it is refused");
    drop(second);
    let works = async { while host.echoed(b"third").await.is_err() {} };
    let works = tokio::time::timeout(LIMIT, works).await;
    works.expect("a place is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_does_not_take_all_connections_of_a_listener() {
    let (plane, host) = enrolled().await;
    let path = host.configure(plane.address, "all, connections_per_user: 2", NO_PROXY);
    let comms = Comms::start(&path).await.expect("it starts");
    let (mut first, mut second) = (host.connect().await, host.connect().await);
    ping(&mut first).await;
    ping(&mut second).await;
    host.echoed(b"third").await.expect_err("it is refused");
    let errors = comms.status().listeners[0].errors.clone();
    let [error] = &errors[..] else {
        panic!("there is one: {errors:?}")
    };
    assert_eq!(error.cause, "user-full");
    let own = format!("the user with id {}:", nix::unistd::geteuid());
    assert!(error.last.contains(&own), "{}", error.last);
    assert!(
        error.next.contains("`connections_per_user`"),
        "{}",
        error.next
    );
    ping(&mut first).await;
    drop(second);
    let works = async { while host.echoed(b"third").await.is_err() {} };
    let works = tokio::time::timeout(LIMIT, works).await;
    works.expect("a place is free again");
}

/// Waits until a listener in use has its spare connections.
async fn spares_are_ready(host: &Host, comms: &Comms) {
    for _ in 0..2 {
        host.echoed(b"x").await.expect("it is carried");
    }
    let ready = async {
        while comms.status().listeners[0].spares < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ready = tokio::time::timeout(LIMIT, ready).await;
    ready.expect("there are spare connections");
}

/// Tests spare connections, and once more if the network of this machine has changed meanwhile, which ends them. `once` says what is wrong.
async fn in_a_still_network(once: impl AsyncFn() -> Result<(), String>) {
    let mut changes = network::changes().expect("the kernel tells");
    for _ in 0..5 {
        changes.mark_unchanged();
        let Err(wrong) = once().await else { return };
        let has_changed = changes.has_changed().expect("the kernel tells");
        assert!(has_changed, "{wrong}");
    }
    panic!("the network of this machine changes all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_in_use_has_connections_ready() {
    in_a_still_network(async || -> Result<(), String> {
        let (plane, host) = enrolled().await;
        let comms = host.start(&plane).await;
        host.echoed(b"x").await.expect("it is carried");
        let spares = comms.status().listeners[0].spares;
        assert_eq!(spares, 0, "it is not in use yet");
        spares_are_ready(&host, &comms).await;
        let its = comms.status().listeners[0].clone();
        let handshakes = its.full_handshakes + its.resumed_sessions;
        // That of a spare connection counts when it is made.
        assert!(handshakes >= its.accepted + 2, "{its:?}");
        // Only these are left.
        plane.closed.cancel();
        let sent = bytes(100_000);
        let back = host.echoed(&sent).await;
        let back = back.map_err(|error| format!("it is not carried: {error}"))?;
        assert!(back == sent);
        assert!(comms.status().listeners[0].spares_used > 0);
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spare_connection_that_the_plane_has_ended_is_not_used() {
    in_a_still_network(async || -> Result<(), String> {
        let (plane, host) = enrolled().await;
        let comms = host.start(&plane).await;
        spares_are_ready(&host, &comms).await;
        let used = comms.status().listeners[0].spares_used;
        plane.impatient.send_replace(());
        plane.open.close();
        let ended = tokio::time::timeout(LIMIT, plane.open.wait()).await;
        ended.map_err(|_| "the plane has not ended them")?;
        let back = host.echoed(b"new").await.expect("it is carried");
        assert_eq!(back, b"new");
        let now = comms.status().listeners[0].spares_used;
        match now == used {
            true => Ok(()),
            false => Err(format!("{used} were used, and then {now}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_ends_the_spare_connections_of_before() {
    let (plane, host) = enrolled().await;
    let mut comms = host.start(&plane).await;
    let mut open = host.connect().await;
    ping(&mut open).await;
    spares_are_ready(&host, &comms).await;
    let path = host.configure(plane.address, "all", NO_PROXY);
    comms.reload(&path).await.expect("it is right");
    let ended = async {
        while plane.open.len() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ended = tokio::time::timeout(LIMIT, ended).await;
    ended.expect("only the open tunnel is left");
    ping(&mut open).await;
}

/// A program that connects while the plane is restarted waits a moment, and sees no error.
#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_comes_a_moment_later_is_no_error() {
    let authority = Authority::new();
    let host = Host::new(&authority, &authority).await;
    let address = SocketAddr::new(own_address(), 8443);
    let path = host.configure(address, "all", NO_PROXY);
    let comms = Comms::start(&path).await.expect("it starts");
    let status = || comms.status().listeners[0].clone();
    let asking = host.echoed(b"early");
    let comes = async {
        while status().retries == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Plane::start_at(&authority, address).await
    };
    let both = async { tokio::join!(asking, comes) };
    let both = tokio::time::timeout(Duration::from_secs(20), both).await;
    let (answer, _plane) = both.expect("it is asked again");
    assert_eq!(answer.expect("it is carried"), b"early");
    assert!(status().errors.is_empty(), "{:?}", status().errors);
}
