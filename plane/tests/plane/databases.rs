//! The same with both databases, and what they do when several requests come at a time.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::client::{ECHO, Host, carries};
use crate::running::{Plane, own_address, stop, until};

/// So many hosts ask at the same time.
const MANY: usize = 8;

/// A PostgreSQL with an empty database. It ends with it.
struct PostgreSql {
    _directory: TempDir,
    server: Child,
    url: String,
}

impl Drop for PostgreSql {
    fn drop(&mut self) {
        stop(&mut self.server);
    }
}

/// A program of PostgreSQL. It refuses to run as root.
fn program(name: &str) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("apt-get install postgresql");
    let programs = versions
        .flatten()
        .map(|its| its.path().join("bin").join(name));
    let program = programs.max().expect("a version");
    let mut command = match nix::unistd::geteuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
            command.arg(program);
            command
        }
        false => Command::new(program),
    };
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

impl PostgreSql {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let place = |name: &str| directory.path().join(name);
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777))
            .expect("its mode");
        let made = program("initdb")
            .args(["--auth=trust", "--username=plane", "--no-sync", "-D"])
            .arg(place("data"))
            .status();
        assert!(made.expect("it runs").success());
        let address = SocketAddr::new(own_address(), 5432);
        let server = program("postgres")
            .arg("-D")
            .arg(place("data"))
            .args([
                "-c",
                &format!("listen_addresses={}", address.ip()),
                "-c",
                "fsync=off",
                "-k",
            ])
            .arg(directory.path())
            .spawn()
            .expect("it starts");
        let postgres = Self {
            _directory: directory,
            server,
            url: format!("postgres://plane@{address}/postgres"),
        };
        until("PostgreSQL listens", async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        postgres
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_does_what_sqlite_does() {
    let postgres = PostgreSql::start().await;
    let url = postgres.url.clone();
    let plane = Plane::start_with(|_| format!("database: {url}\n")).await;
    let host = Host::new(&plane, "host-1").await;
    let fingerprint = plane.fingerprint();
    host.enrol(&plane.token(&["--group", "racks"]), &fingerprint)
        .await
        .expect("it is enrolled");
    let token = plane.token(&["--host", "host-1"]);
    host.enrol(&token, &fingerprint)
        .await
        .expect("it is enrolled again");
    let error = host
        .enrol(&token, &fingerprint)
        .await
        .expect_err("it was used");
    assert!(error.contains("the token was used"), "{error}");
    let _comms = host.start().await;
    let mut open = host.connect(ECHO).await;
    assert!(carries(&mut open).await);
    let hosts = plane.said(&["host", "list"]);
    assert!(
        hosts.contains("host-1") && hosts.contains("racks") && hosts.contains("valid until"),
        "{hosts}"
    );
    assert!(plane.said(&["token", "list"]).contains("used "));
    let said = plane.said(&["host", "revoke", "host-1"]);
    assert!(said.contains("Revoked 2 certificates"), "{said}");
    assert!(!carries(&mut open).await);
    one_of_many_gets_a_token(&plane).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_hosts_with_one_token_one_is_enrolled() {
    one_of_many_gets_a_token(&Plane::start().await).await;
}

async fn one_of_many_gets_a_token(plane: &Plane) {
    let token = plane.token(&["--group", "many"]);
    let fingerprint = plane.fingerprint();
    let mut hosts = Vec::new();
    for at in 0..MANY {
        hosts.push(Host::new(plane, &format!("many-{at}")).await);
    }
    let mut asking = tokio::task::JoinSet::new();
    for host in hosts {
        let (token, fingerprint) = (token.clone(), fingerprint.clone());
        asking.spawn(async move { host.enrol(&token, &fingerprint).await });
    }
    let answers = asking.join_all().await;
    let refused: Vec<&String> = answers
        .iter()
        .filter_map(|its| its.as_ref().err())
        .collect();
    assert_eq!(refused.len(), MANY - 1, "{answers:?}");
    assert!(
        refused.iter().all(|its| its.contains("the token was used")),
        "{refused:?}"
    );
    assert_eq!(plane.said(&["host", "list"]).matches("many-").count(), 1);
}

/// A database that is gone is not taken for an empty one, and a root without its hosts is not made anew.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_is_not_made_anew_in_silence() {
    let plane = Plane::start().await;
    let _host = Host::enrolled(&plane, "host-1").await;
    let lost = |name: &str| -> PathBuf {
        let beside = plane.place("beside");
        std::fs::rename(plane.place(name), &beside).expect("it is moved");
        beside
    };
    let error = |arguments: &[&str]| {
        let output = plane.ctl(arguments);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let beside = lost("plane.db");
    let said = error(&["token", "list"]);
    assert!(said.contains("open the database of the plane"), "{said}");
    assert!(!plane.place("plane.db").exists());
    std::fs::rename(beside, plane.place("plane.db")).expect("it is moved back");
    let beside = lost("authority/root.crt");
    let said = error(&["init"]);
    assert!(
        said.contains("the database belongs to another one"),
        "{said}"
    );
    let said = error(&["serve"]);
    assert!(said.contains("read the authority"), "{said}");
    std::fs::rename(beside, plane.place("authority/root.crt")).expect("it is moved back");
    // Nor is a database made for an authority that has hosts.
    let beside = lost("plane.db");
    let said = error(&["init"]);
    assert!(said.contains("bring back the database"), "{said}");
    std::fs::rename(beside, plane.place("plane.db")).expect("it is moved back");
    let again = plane.said(&["init"]);
    assert!(again.contains(&plane.fingerprint()), "{again}");
}

/// The database, the authority and the secret of the message queue are made by one of several commands, and the others use them.
#[tokio::test(flavor = "multi_thread")]
async fn commands_that_begin_a_plane_at_the_same_time_begin_one() {
    let directory = tempfile::tempdir().expect("a directory");
    for round in 0..6 {
        let state = directory.path().join(format!("state-{round}"));
        let configuration = directory.path().join("plane.yaml");
        let text = format!(
            "host: plane.test\nstate: {}\ningress: {{user: null, connections: 2000}}\n",
            state.display()
        );
        std::fs::write(&configuration, text).expect("it is written");
        let started: Vec<Child> = (0..4)
            .map(|_| {
                Command::new(env!("CARGO_BIN_EXE_planectl"))
                    .arg("--config")
                    .arg(&configuration)
                    .arg("init")
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .expect("it starts")
            })
            .collect();
        let mut said = Vec::new();
        for one in started {
            let output = one.wait_with_output().expect("it ends");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{error}");
            said.push(output.stdout);
        }
        said.dedup();
        assert_eq!(said.len(), 1, "they have the same root");
        // One of root would keep the user of `planectl serve` from it.
        let left = std::fs::read_dir(&state).expect("it is there").flatten();
        let mut locks = left.filter(|its| its.file_name().to_string_lossy().contains("lock"));
        assert!(locks.next().is_none(), "a file of the lock is left");
    }
}
