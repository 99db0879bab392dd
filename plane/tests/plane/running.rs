//! A plane that runs: `planectl serve`, HAProxy, and services that say what they get.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Time for anything here.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// The port of the ingress.
pub(crate) const PORT: u16 = 8443;
/// Most connections of a host.
pub(crate) const MOST_OF_HOST: usize = 40;

/// A loopback address that nothing else uses.
pub(crate) fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, high | 0x80, low, next).into()
}

/// Waits until `done` says so.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !done().await {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, waiting).await;
    waited.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}

/// Its programs end with it.
pub(crate) struct Plane {
    directory: TempDir,
    haproxy: Option<Child>,
    serve: Option<Child>,
    /// Where the ingress listens.
    pub(crate) address: SocketAddr,
    /// How many connections the echo service has had.
    pub(crate) echoes: Arc<AtomicUsize>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        for mut program in [self.haproxy.take(), self.serve.take()]
            .into_iter()
            .flatten()
        {
            stop(&mut program);
        }
    }
}

/// Ends a program. HAProxy's master ends its workers only if it is asked to, and does not hear that while it starts itself again for a reload: so it is asked more than once.
pub(crate) fn stop(program: &mut Child) {
    let pid = program.id().to_string();
    let began = std::time::Instant::now();
    while began.elapsed() < LIMIT {
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        for _ in 0..20 {
            if !matches!(program.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
    let _ = program.kill();
    let _ = program.wait();
}

impl Plane {
    /// A plane that is ready to enrol hosts.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| String::new()).await
    }

    /// With these lines about its database.
    pub(crate) async fn start_with(database: impl FnOnce(PathBuf) -> String) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ip = own_address();
        let echoes = Arc::default();
        let echo = counted(echo, Arc::clone(&echoes)).await;
        let (rest, source) = (service(rest).await, service(source).await);
        let state = directory.path().to_owned();
        let text = format!(
            "host: plane.test\nstate: {}\nlisten: {ip}:9443\n{}\
             ingress:\n  bind: ['{ip}:{PORT}']\n  user: null\n  connections: 2000\n\
             \x20 connections_per_host: {MOST_OF_HOST}\n\
             \x20 master_socket: {}\n  services:\n\
             \x20 - {{name: echo, backend: '{echo}'}}\n  - {{name: rest, mode: http, backend: '{rest}'}}\n\
             \x20 - {{name: images, mode: http, read_only: true, backend: '{rest}'}}\n\
             \x20 - {{name: source, backend: '{source}'}}\n\
             \x20 - {{name: console, mode: http, backend: '{rest}'}}\n",
            state.display(),
            database(state.clone()),
            state.join("master.sock").display(),
        );
        std::fs::write(state.join("plane.yaml"), text).expect("it is written");
        let mut plane = Self {
            directory,
            haproxy: None,
            serve: None,
            address: SocketAddr::new(ip, PORT),
            echoes,
        };
        let made = plane.ctl(&["init"]);
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        plane.start_haproxy().await;
        plane.start_serve().await;
        plane
    }

    /// Starts `planectl serve`, and waits until it listens.
    pub(crate) async fn start_serve(&mut self) {
        let serve = self.command(&["serve"]).stdin(Stdio::null()).spawn();
        self.serve = Some(serve.expect("it starts"));
        let enrolment = SocketAddr::new(self.address.ip(), 9443);
        until("it listens", async || {
            TcpStream::connect(enrolment).await.is_ok()
        })
        .await;
    }

    /// Starts HAProxy, and waits until it listens.
    pub(crate) async fn start_haproxy(&mut self) {
        let haproxy = Command::new("haproxy")
            .arg("-W")
            .arg("-S")
            .arg(self.place("master.sock"))
            .arg("-f")
            .arg(self.place("ingress/haproxy.cfg"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("apt-get install haproxy");
        self.haproxy = Some(haproxy);
        let address = self.address;
        until("it listens", async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
    }

    /// Ends HAProxy.
    pub(crate) async fn stop_haproxy(&mut self) {
        stop(&mut self.haproxy.take().expect("it runs"));
    }

    /// Ends `planectl serve`.
    pub(crate) fn stop_serve(&mut self) {
        stop(&mut self.serve.take().expect("it runs"));
    }

    /// Makes HAProxy read its configuration again, as `systemctl reload` does, and waits for the new worker.
    pub(crate) async fn reload(&self) {
        let master = plane::ingress::master::Master(self.place("master.sock"));
        // The plane may do the same at this moment.
        until("there is a new worker", async || {
            master.reload().await.is_ok()
        })
        .await;
    }

    /// Waits until `planectl serve` has looked at what HAProxy reads, which may need a reload: a new worker has counted no connections.
    pub(crate) async fn settled(&self) {
        until("`planectl serve` has looked at its files", async || {
            let said = self.said(&["ingress", "list"]);
            said.trim_end().ends_with("  all are refused")
        })
        .await;
    }

    /// Starts `planectl`.
    pub(crate) fn start_ctl(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts")
    }

    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `planectl` with this configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_planectl"));
        command
            .arg("--config")
            .arg(self.place("plane.yaml"))
            .args(arguments);
        command
    }

    /// Runs `planectl`.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    /// What `planectl` says.
    pub(crate) fn said(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The fingerprint of its root.
    pub(crate) fn fingerprint(&self) -> String {
        self.said(&["fingerprint"]).trim().to_owned()
    }

    /// A new token.
    pub(crate) fn token(&self, arguments: &[&str]) -> String {
        self.said(&[&["token", "create"], arguments].concat())
            .trim()
            .to_owned()
    }
}

/// Starts a service on loopback.
async fn service<F>(answer: fn(TcpStream) -> F) -> SocketAddr
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    counted(answer, Arc::default()).await
}

/// The same, and its connections are counted.
async fn counted<F>(answer: fn(TcpStream) -> F, count: Arc<AtomicUsize>) -> SocketAddr
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// Sends without an end.
async fn source(mut stream: TcpStream) -> std::io::Result<()> {
    stream.read_u8().await?;
    loop {
        stream.write_all(&[0; 16 * 1024]).await?;
    }
}

/// Answers each request with its head.
async fn rest(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}",
            head.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// A proxy that finds the plane at `address` under each name.
pub(crate) async fn proxy(address: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let its = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let mut plane = TcpStream::connect(address).await?;
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                tokio::io::copy_bidirectional(&mut stream, &mut plane).await
            });
        }
    });
    its
}
