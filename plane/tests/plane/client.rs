//! A host of a plane: it is enrolled and reaches services as programs on it do. And a client that says what it wants to.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser as _;
use comms::supervisor::Comms;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::{ClientConfig, NamedGroup, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::running::{LIMIT, PORT, Plane, own_address, proxy};

#[derive(Debug, clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    its: comms::enroll::Arguments,
}

/// A host.
pub(crate) struct Host {
    directory: TempDir,
    name: String,
    /// The address of its listeners.
    address: std::net::IpAddr,
}

pub(crate) const ECHO: u16 = 7000;
pub(crate) const REST: u16 = 9080;

impl Host {
    /// A host that can reach the plane and is not enrolled.
    pub(crate) async fn new(plane: &Plane, name: &str) -> Self {
        let host = Self {
            directory: tempfile::tempdir().expect("a directory"),
            name: name.to_owned(),
            address: own_address(),
        };
        let current = host.place("comms/current");
        let (address, proxy) = (host.address, proxy(plane.address).await);
        let its = |name: &str| current.join(name).display().to_string();
        let text = format!(
            "plane: {{host: plane.test, port: {PORT}}}\nproxy: {{url: 'http://{proxy}'}}\n\
             identity: {{certificate: {}, key: {}, roots: {}}}\nlisteners:\n\
             - {{name: echo, port: {ECHO}, users: all, addresses: [{address}]}}\n\
             - {{name: rest, port: {REST}, users: all, addresses: [{address}]}}\n",
            its("host.crt"),
            its("host.key"),
            its("roots.crt"),
        );
        std::fs::write(host.configuration(), text).expect("it is written");
        host
    }

    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.place("comms.yaml")
    }

    /// Writes a file that only its owner may read.
    pub(crate) fn write_private(&self, name: &str, text: &str) -> PathBuf {
        let path = self.place(name);
        std::fs::write(&path, text).expect("it is written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        path
    }

    /// A host that is enrolled by its name.
    pub(crate) async fn enrolled(plane: &Plane, name: &str) -> Self {
        let host = Self::new(plane, name).await;
        let token = plane.token(&["--host", name]);
        host.enrol(&token, &plane.fingerprint())
            .await
            .expect("it is enrolled");
        host
    }

    /// Enrols it, and returns what it is told.
    pub(crate) async fn enrol(&self, token: &str, fingerprint: &str) -> Result<String, String> {
        let file = self.write_private("token", token);
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
            .expect("users")
            .expect("this one");
        let plane = format!("plane.test:{PORT}");
        let (file, directory) = (
            file.display().to_string(),
            self.place("comms").display().to_string(),
        );
        let arguments = [
            "enroll",
            "--plane",
            &plane,
            "--token-file",
            &file,
            "--root-fingerprint",
            fingerprint,
            "--host-name",
            &self.name,
            "--directory",
            &directory,
            "--user",
            &user.name,
        ];
        let arguments =
            CommandLine::try_parse_from(arguments).map_err(|error| error.to_string())?;
        let enrolled = comms::enroll::run(&arguments.its, &self.configuration()).await;
        enrolled.map_err(|error| format!("{error:#}"))
    }

    /// Starts pf9-comms.
    pub(crate) async fn start(&self) -> Comms {
        Comms::start(&self.configuration())
            .await
            .expect("it starts")
    }

    /// Connects to a service.
    pub(crate) async fn connect(&self, port: u16) -> TcpStream {
        let address = SocketAddr::new(self.address, port);
        TcpStream::connect(address).await.expect("it listens")
    }

    /// Whether a new connection reaches the echo service. pf9-comms may reset one that is refused before the caller has it.
    pub(crate) async fn reaches_echo(&self) -> bool {
        let address = SocketAddr::new(self.address, ECHO);
        match TcpStream::connect(address).await {
            Ok(mut stream) => carries(&mut stream).await,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("pf9-comms does not listen: {error}"),
        }
    }

    /// The text of a file of its identity.
    pub(crate) fn identity(&self, name: &str) -> String {
        std::fs::read_to_string(self.place("comms/current").join(name)).expect("it is there")
    }
}

/// Whether an open connection to the echo service carries a few bytes there and back.
pub(crate) async fn carries(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    let said = async {
        stream.write_all(b"ping").await?;
        let mut back = [0; 4];
        stream.read_exact(&mut back).await?;
        std::io::Result::Ok(back == *b"ping")
    };
    let said = tokio::time::timeout(LIMIT, said)
        .await
        .expect("an answer or an end");
    said.unwrap_or(false)
}

/// What a service answers to these bytes. An error counts as no answer.
pub(crate) async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> String {
    let said = async {
        let mut all = Vec::new();
        let sent = stream.write_all(request.as_bytes()).await;
        if sent.is_ok() && stream.flush().await.is_ok() {
            // What came before an error counts.
            let _ = stream.read_to_end(&mut all).await;
        }
        String::from_utf8_lossy(&all).into_owned()
    };
    tokio::time::timeout(LIMIT, said).await.expect("an end")
}

/// Shows the sessions of one name under all names, which a usual client does not.
#[derive(Debug)]
struct UnderAllNames(ClientSessionMemoryCache);

fn one_name() -> ServerName<'static> {
    ServerName::try_from("one.test").expect("a name")
}

impl ClientSessionStore for UnderAllNames {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(one_name(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&one_name())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(one_name(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&one_name())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&one_name());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(one_name(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&one_name())
    }
}

/// A TLS client of a plane without pf9-comms, with the certificate of a host or with none.
pub(crate) struct Stranger {
    tls: Arc<ClientConfig>,
    address: SocketAddr,
}

impl Stranger {
    pub(crate) fn new(plane: &Plane, host: Option<&Host>) -> Self {
        let mut roots = RootCertStore::empty();
        let root =
            CertificateDer::from_pem_file(plane.place("authority/root.crt")).expect("a root");
        roots.add(root).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(comms::identity::provider()))
            .with_protocol_versions(comms::identity::VERSIONS)
            .expect("versions")
            .with_root_certificates(roots);
        let mut tls = match host {
            None => builder.with_no_client_auth(),
            Some(host) => {
                let chain = CertificateDer::from_pem_slice(host.identity("host.crt").as_bytes())
                    .expect("PEM");
                let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(
                    host.identity("host.key").as_bytes(),
                );
                builder
                    .with_client_auth_cert(vec![chain], key.expect("PEM"))
                    .expect("a pair")
            }
        };
        let sessions = UnderAllNames(ClientSessionMemoryCache::new(64));
        tls.resumption = Resumption::store(Arc::new(sessions));
        Self {
            tls: Arc::new(tls),
            address: plane.address,
        }
    }

    /// Connects under a server name. Sessions are resumed under all names of the same client.
    pub(crate) async fn connect(&self, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        self.handshake(name, stream).await
    }

    /// Offers these protocols to be spoken inside of TLS.
    pub(crate) fn offer(&mut self, protocols: impl Iterator<Item = Vec<u8>>) {
        Arc::make_mut(&mut self.tls).alpn_protocols = protocols.collect();
    }

    /// A handshake under a server name on an open connection.
    pub(crate) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        name: &str,
        stream: S,
    ) -> std::io::Result<TlsStream<S>> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await
    }
}

/// Whether a connection has resumed a session.
pub(crate) fn is_resumed(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
}
