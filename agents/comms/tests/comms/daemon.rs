//! The program: it starts, reloads on SIGHUP, and ends on SIGTERM.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::plane::{Authority, Plane};
use crate::tunnels::{Host, NO_PROXY};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wire::comms::Status;

const LIMIT: Duration = Duration::from_secs(20);

/// The running program. It ends with the test.
struct Program {
    child: Child,
    log: Receiver<String>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(configuration: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pf9-comms"))
            .env("PF9_COMMS_CONFIG", configuration)
            .env_remove("NOTIFY_SOCKET")
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let (sender, log) = channel();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { child, log }
    }

    /// Waits until the log has a line with this text. Returns the lines before it.
    fn logs(&self, text: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let line = self.log.recv_timeout(LIMIT);
            let line = line.unwrap_or_else(|_| panic!("no `{text}` in {seen:#?}"));
            if line.contains(text) {
                return seen;
            }
            seen.push(line);
        }
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("it is there");
    }

    fn ends(mut self) -> Option<i32> {
        // Its log ends with it.
        while self.log.recv_timeout(LIMIT).is_ok() {}
        self.child.wait().expect("it ends").code()
    }
}

fn echoed(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream.write_all(b"hello").expect("it is open");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut back = String::new();
    stream.read_to_string(&mut back).expect("it comes back");
    back
}

/// The configuration of a host with a socket for the status of its own.
fn configured(host: &Host, plane: &Plane) -> PathBuf {
    let socket = host.place("status.sock");
    let more = format!("{NO_PROXY}\nsocket: {}", socket.display());
    host.configure(plane.address, "all", &more)
}

/// The output of `pf9-comms status` for this host.
async fn status(host: &Host, options: &'static [&'static str]) -> String {
    let socket = host.place("status.sock");
    let asked = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pf9-comms"));
        command.args(["status", "--socket"]).arg(socket);
        command.args(options).output().expect("it runs")
    });
    let output = asked.await.expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_reloads_and_ends() {
    let authority = Authority::new();
    let plane = Plane::start(&authority).await;
    let host = Host::new(&authority, &authority).await;
    let configuration = configured(&host, &plane);
    let text = std::fs::read_to_string(&configuration).expect("a file");
    let program = Program::start(&configuration);
    let address = host.address;
    program.logs(&format!("CN=host-1 carries echo on {address}"));
    let echoes = async || {
        let back = tokio::task::spawn_blocking(move || echoed(address)).await;
        assert_eq!(back.expect("it ends"), "hello");
    };
    echoes().await;
    host.write("comms.yaml", &format!("speed: 1\n{text}"), 0o644);
    program.signal(Signal::SIGHUP);
    program.logs("comms.yaml:1:1: unknown field `speed`");
    echoes().await;
    let shown = status(&host, &[]).await;
    assert!(shown.contains("reload       failed"), "{shown}");
    host.write("comms.yaml", &text, 0o644);
    program.signal(Signal::SIGHUP);
    program.logs("reloaded");
    echoes().await;
    // A tunnel ends a moment after its program has read the end.
    let began = Instant::now();
    let shown = loop {
        let text = status(&host, &["--json"]).await;
        let shown: Status = serde_json::from_str(&text).expect("JSON");
        if shown.listeners[0].open == 0 {
            break shown;
        }
        assert!(began.elapsed() < LIMIT, "{text}");
    };
    let listener = &shown.listeners[0];
    assert_eq!(
        (listener.accepted, listener.bytes_up, listener.bytes_down),
        (3, 15, 15)
    );
    let (full, resumed) = (listener.full_handshakes, listener.resumed_sessions);
    // A reload reads the identity anew, and sessions belong to one. Spare connections may have been made, too.
    assert!(full >= 2 && resumed >= 1, "{full} {resumed}");
    assert_eq!(shown.reload_problem, None);
    assert!(shown.tasks > 0, "it listens: {shown:?}");
    let metrics = status(&host, &["--metrics"]).await;
    assert!(
        metrics.contains("pf9_comms_accepted_connections_total{listener=\"echo\"} 3"),
        "{metrics}"
    );
    program.signal(Signal::SIGTERM);
    assert_eq!(program.ends(), Some(0));
}

/// The host is enrolled again while its configuration is being edited.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_identity_that_could_not_be_used_is_tried_again() {
    let authority = Authority::new();
    let plane = Plane::start(&authority).await;
    let host = Host::new(&authority, &authority).await;
    let configuration = configured(&host, &plane);
    let text = std::fs::read_to_string(&configuration).expect("a file");
    let program = Program::start(&configuration);
    program.logs("carries echo");
    host.write("comms.yaml", &format!("speed: 1\n{text}"), 0o644);
    let (certificate, key) = authority.issue("host-2", &[]);
    host.write("host.key", &key, 0o600);
    host.write("host.crt", &certificate, 0o644);
    program.logs("unknown field `speed`");
    let shown = status(&host, &[]).await;
    assert!(shown.contains("reload       failed"), "{shown}");
    host.write("comms.yaml", &text, 0o644);
    let before = program.logs("reloaded: CN=host-2");
    let again = before.iter().filter(|line| line.contains("`speed`"));
    assert_eq!(again.count(), 0, "{before:#?}");
    let shown = status(&host, &[]).await;
    assert!(!shown.contains("reload "), "{shown}");
}

/// With TLS 1.3, the plane judges the certificate of the host after the handshake.
#[tokio::test(flavor = "multi_thread")]
async fn its_log_says_that_the_plane_refuses_the_certificate_of_the_host() {
    let authority = Authority::new();
    let plane = Plane::start(&authority).await;
    let stranger = Host::new(&Authority::new(), &authority).await;
    let configuration = configured(&stranger, &plane);
    let program = Program::start(&configuration);
    program.logs("carries echo");
    let refused = stranger.echoed(b"x").await.unwrap_or_default();
    assert!(refused.is_empty(), "{refused:?}");
    program.logs("the plane refuses: enrol the host again");
    let shown = status(&stranger, &[]).await;
    assert!(shown.contains("1 × refused"), "{shown}");
    assert!(
        shown.contains("next: the plane refuses: enrol the host again"),
        "{shown}"
    );
}

#[test]
fn without_a_daemon_the_status_says_what_to_do() {
    let asked = Command::new(env!("CARGO_BIN_EXE_pf9-comms"))
        .args(["status", "--socket", "/nowhere/status.sock"])
        .output()
        .expect("it runs");
    assert_eq!(asked.status.code(), Some(1));
    let said = String::from_utf8_lossy(&asked.stderr);
    assert!(said.contains("systemctl status pf9-comms"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_it_says_what_is_missing() {
    let program = Program::start(Path::new("/nowhere/comms.yaml"));
    program.logs("/nowhere/comms.yaml: there is no such file; this host is not enrolled");
    assert_eq!(program.ends(), Some(1));
}
