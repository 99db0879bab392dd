//! The programs that are measured, each with what its manual recommends for such a tunnel, and the ingress that all of them reach.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::command;

/// Where programs listen.
pub(super) const LOCAL: u16 = 19001;
/// The service behind the ingress.
pub(super) const SERVICE: u16 = 19100;
/// The name of the service.
const NAME: &str = "echo.plane.test";
/// Time for a program to listen, and for one to end.
const LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// A program that carries connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tunnel {
    Comms,
    Nginx,
    /// nginx with buffers of the size of ours.
    LargeNginx,
    HaProxy,
    Stunnel,
    /// The service is reached without a tunnel.
    None,
}

pub(super) const TUNNELS: [Tunnel; 6] = [
    Tunnel::Comms,
    Tunnel::Nginx,
    Tunnel::LargeNginx,
    Tunnel::HaProxy,
    Tunnel::Stunnel,
    Tunnel::None,
];

impl Tunnel {
    /// Its name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Comms => "pf9-comms",
            Self::Nginx => "nginx",
            Self::LargeNginx => "nginx, 64 KiB",
            Self::HaProxy => "HAProxy",
            Self::Stunnel => "stunnel",
            Self::None => "no tunnel",
        }
    }
}

/// What the ingress does with sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ingress {
    /// It resumes them.
    Resumes,
    /// Each handshake is a full one.
    Forgets,
}

impl Ingress {
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Resumes => 19443,
            Self::Forgets => 19444,
        }
    }

    /// Where it is asked.
    fn socket(self) -> String {
        format!("ingress-{}.sock", self.port())
    }
}

/// A program that runs. It ends with this value.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Running {
    /// The id of its first process.
    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The directory with certificates and configurations, and the programs of this checkout.
#[derive(Debug)]
pub(super) struct Programs {
    directory: tempfile::TempDir,
    /// `pf9-comms`.
    comms: PathBuf,
    /// `agents/comms/examples/traffic`.
    traffic: PathBuf,
}

impl Programs {
    /// Makes certificates and configurations.
    ///
    /// # Errors
    /// OpenSSL is not installed, or a file cannot be written.
    pub(super) fn new(comms: PathBuf, traffic: PathBuf) -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a directory")?;
        let programs = Self {
            directory,
            comms,
            traffic,
        };
        programs.certificates()?;
        programs.write("openssl.cnf", CURVE)?;
        Ok(programs)
    }

    fn place(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.place(name);
        fs::write(&path, text).with_context(|| format!("cannot write {path}"))?;
        Ok(path)
    }

    /// An authority, the ingress and a host, all with keys of the curve P-256.
    fn certificates(&self) -> Result<()> {
        let script = format!(
            "set -eu; umask 077
             new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
             openssl req -x509 $new -keyout ca.key -out ca.crt -days 30 -subj /CN=ca
             for name in plane host; do
                 openssl req $new -keyout $name.key -out $name.csr -subj /CN=$name
                 printf 'subjectAltName=DNS:{NAME}\\n' > $name.ext
                 openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 20 -extfile $name.ext -out $name.crt
                 cat $name.crt $name.key > $name.pem
             done"
        );
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &script])
            .current_dir(self.directory.path());
        command::text(&shell, LIMIT).context("cannot make certificates")?;
        Ok(())
    }

    /// Starts the service.
    ///
    /// # Errors
    /// It does not listen.
    pub(super) fn service(&self) -> Result<Running> {
        let address = format!("127.0.0.1:{SERVICE}");
        let mut command = program(&self.traffic);
        command.args(["serve", &address]);
        started(&mut command, SERVICE)
    }

    /// Starts an ingress.
    ///
    /// # Errors
    /// HAProxy does not listen.
    pub(super) fn ingress(&self, ingress: Ingress) -> Result<Running> {
        let (sessions, tickets) = match ingress {
            Ingress::Resumes => ("tune.ssl.cachesize 100000", ""),
            Ingress::Forgets => ("tune.ssl.cachesize 0", "no-tls-tickets"),
        };
        let text = format!(
            "global\n    maxconn 9000\n    stats socket {}\n    {sessions}\n    ssl-default-bind-curves P-256\n{DEFAULTS}\
             frontend plane\n\
             \x20   bind 127.0.0.1:{} ssl crt {} ca-file {} verify required ssl-min-ver TLSv1.2 {tickets}\n\
             \x20   tcp-request inspect-delay 55s\n    tcp-request content track-sc0 int(1) table resumed if {{ ssl_fc_is_resumed }}\n\
             \x20   tcp-request content accept if {{ req.len gt 0 }}\n    default_backend service\n\
             backend service\n    server service 127.0.0.1:{SERVICE}\n\
             backend resumed\n    stick-table type integer size 10 store conn_cnt\n",
            self.place(&ingress.socket()),
            ingress.port(),
            self.place("plane.pem"),
            self.place("ca.crt"),
        );
        let path = self.write(&format!("ingress-{}.cfg", ingress.port()), &text)?;
        let mut command = program("haproxy");
        command.args(["-db", "-f", &path]);
        started(&mut command, ingress.port())
    }

    /// How many connections with a resumed session an ingress has had.
    ///
    /// # Errors
    /// It does not tell.
    pub(super) fn resumed(&self, ingress: Ingress) -> Result<u32> {
        let mut socket =
            UnixStream::connect(self.place(&ingress.socket())).context("cannot ask the ingress")?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.write_all(b"show table resumed\n")?;
        let mut said = String::new();
        socket.read_to_string(&mut said)?;
        let count = said.split_once("conn_cnt=").map(|(_, after)| after.trim());
        // Without an entry there was none.
        count.map_or(Ok(0), |count| {
            let count = count.split_whitespace().next().unwrap_or_default();
            count.parse().context("the ingress has no number")
        })
    }

    /// Starts a tunnel to an ingress; `None` if there is none.
    ///
    /// # Errors
    /// The program does not listen.
    pub(super) fn tunnel(&self, tunnel: Tunnel, ingress: Ingress) -> Result<Option<Running>> {
        let port = ingress.port();
        let mut command = match tunnel {
            Tunnel::None => return Ok(None),
            Tunnel::Comms => {
                let path = self.write("comms.yaml", &self.of_comms(port))?;
                let mut command = program(&self.comms);
                command.env("PF9_COMMS_CONFIG", path);
                command
            }
            Tunnel::Nginx | Tunnel::LargeNginx => {
                // Records of TLS have at most 16 KiB.
                let buffer = match tunnel {
                    Tunnel::LargeNginx => "64k",
                    _ => "16k",
                };
                let path = self.write("nginx.conf", &self.of_nginx(port, buffer))?;
                let mut command = program("nginx");
                command.args(["-p", &self.place(""), "-e", "stderr", "-c", &path]);
                command
            }
            Tunnel::HaProxy => {
                let path = self.write("haproxy.cfg", &self.of_haproxy(port))?;
                let mut command = program("haproxy");
                command.args(["-db", "-f", &path]);
                command
            }
            Tunnel::Stunnel => {
                let path = self.write("stunnel.conf", &self.of_stunnel(port))?;
                let mut command = program("stunnel4");
                command.arg(path);
                command
            }
        };
        // OpenSSL would offer another curve first, which costs less.
        command.env("OPENSSL_CONF", self.place("openssl.cnf"));
        started(&mut command, LOCAL).map(Some)
    }

    fn of_comms(&self, port: u16) -> String {
        format!(
            "plane: {{host: 127.0.0.1, port: {port}}}\n\
             identity: {{certificate: {}, key: {}, roots: {}}}\n\
             proxy: {{url: none}}\nsocket: {}\nconnections: 6400\n\
             listeners:\n- {{name: echo, port: {LOCAL}, sni: {NAME}, users: all, addresses: [127.0.0.1], connections: 6400}}\n",
            self.place("host.crt"),
            self.place("host.key"),
            self.place("ca.crt"),
            self.place("status.sock"),
        )
    }

    fn of_nginx(&self, port: u16, buffer: &str) -> String {
        format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
             daemon off;\nworker_processes auto;\nworker_rlimit_nofile 20000;\nerror_log stderr error;\npid nginx.pid;\n\
             events {{ worker_connections 18000; }}\n\
             stream {{\n  access_log off;\n  server {{\n    listen 127.0.0.1:{LOCAL} backlog=1024;\n    tcp_nodelay on;\n\
             \x20   proxy_pass 127.0.0.1:{port};\n    proxy_timeout 10m;\n    proxy_buffer_size {buffer};\n    proxy_socket_keepalive on;\n\
             \x20   proxy_ssl on;\n    proxy_ssl_protocols TLSv1.2 TLSv1.3;\n    proxy_ssl_session_reuse on;\n\
             \x20   proxy_ssl_verify on;\n    proxy_ssl_server_name on;\n    proxy_ssl_name {NAME};\n\
             \x20   proxy_ssl_certificate {};\n    proxy_ssl_certificate_key {};\n    proxy_ssl_trusted_certificate {};\n  }}\n}}\n",
            self.place("host.crt"),
            self.place("host.key"),
            self.place("ca.crt"),
        )
    }

    fn of_haproxy(&self, port: u16) -> String {
        format!(
            "global\n    maxconn 9000\n{DEFAULTS}\
             frontend local\n    bind 127.0.0.1:{LOCAL} backlog 1024\n    default_backend plane\n\
             backend plane\n\
             \x20   server plane 127.0.0.1:{port} ssl crt {} ca-file {} verify required verifyhost {NAME} sni str({NAME}) ssl-min-ver TLSv1.2\n",
            self.place("host.pem"),
            self.place("ca.crt"),
        )
    }

    fn of_stunnel(&self, port: u16) -> String {
        format!(
            "foreground = quiet\npid =\ndebug = err\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
             [plane]\nclient = yes\naccept = 127.0.0.1:{LOCAL}\nconnect = 127.0.0.1:{port}\n\
             cert = {}\nkey = {}\nCAfile = {}\nverifyChain = yes\ncheckHost = {NAME}\nsni = {NAME}\nsslVersionMin = TLSv1.2\nsessionCacheSize = 1000\n",
            self.place("host.crt"),
            self.place("host.key"),
            self.place("ca.crt"),
        )
    }

    /// A program that uses the tunnel.
    pub(super) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = program(&self.traffic);
        command.args(arguments);
        command
    }
}

/// A program that may open as many files as pf9-comms under its unit.
fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("prlimit");
    command.arg("--nofile=20000").arg(name);
    command
}

/// The curve of the plane, for programs with OpenSSL (config(5), `ssl_conf`).
const CURVE: &str = "openssl_conf = init
[init]
ssl_conf = modules
[modules]
system_default = defaults
[defaults]
Groups = P-256
";

/// As long as the plane's: local programs are silent as they like.
const DEFAULTS: &str = "defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
";

/// Starts a program, and waits until it listens.
fn started(command: &mut Command, port: u16) -> Result<Running> {
    let name = command.get_args().nth(1).unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    if TcpStream::connect(("127.0.0.1", port)).is_ok() {
        bail!("something listens on port {port} already; end it");
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let mut running = Running(child);
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = running.0.try_wait()? {
            bail!("{name} ended with {status}");
        }
        if began.elapsed() > LIMIT {
            bail!("{name} does not listen on port {port}");
        }
        std::thread::sleep(PAUSE);
    }
    Ok(running)
}

/// The processes of a program: the first one and its children.
fn processes(pid: u32) -> Result<Vec<u32>> {
    let mut all = vec![pid];
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let entry = entry?;
        let Ok(other) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        if stat(other).is_some_and(|fields| fields.get(1) == Some(&u64::from(pid))) {
            all.push(other);
        }
    }
    Ok(all)
}

/// What `/proc/PID/stat` has after the name of the program (proc(5)), from the state on; other than numbers as 0. `None` if the process is gone.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    let fields = fields.split_whitespace();
    Some(
        fields
            .map(|field| field.parse().unwrap_or_default())
            .collect(),
    )
}

/// Processor time of a program in seconds. The kernel counts hundredths.
///
/// # Errors
/// It has ended.
pub(super) fn processor_time(running: &Running) -> Result<f64> {
    let mut ticks = 0;
    for pid in processes(running.pid())? {
        let fields = stat(pid).context("the program has ended")?;
        ticks +=
            fields.get(11).context("its user time")? + fields.get(12).context("its system time")?;
    }
    Ok(ticks as f64 / 100.0)
}

/// Memory of a program in KiB: its proportional share (`Pss`) of what it has mapped.
///
/// # Errors
/// It has ended.
pub(super) fn memory(running: &Running) -> Result<f64> {
    let mut sum = 0.0;
    for pid in processes(running.pid())? {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .context("the program has ended")?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        sum += number.context("its memory")?.parse::<f64>()?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_time_and_memory() {
        let child = Command::new("sleep").arg("60").spawn().expect("it starts");
        let running = Running(child);
        assert!(processor_time(&running).expect("it runs") < 1.0);
        assert!(memory(&running).expect("it runs") > 0.0);
        assert_eq!(processes(running.pid()).expect("it runs").len(), 1);
        let this = std::process::id();
        assert!(processes(this).expect("it runs").contains(&running.pid()));
    }
}
