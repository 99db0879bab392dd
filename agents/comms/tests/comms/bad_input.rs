//! What cannot be used: at the start it is an error, and at a reload what runs goes on.

use std::net::Ipv4Addr;

use comms::supervisor::Comms;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tokio::net::TcpListener;

use crate::plane::{Authority, Plane};
use crate::tunnels::{Host, NO_PROXY};

/// A change to the files of a host that makes them wrong.
enum Wrong {
    /// This text of the configuration is replaced.
    Text(&'static str, String),
    /// A file has another content.
    Content(&'static str, String),
    /// Other users may read a file.
    Readable(&'static str),
    /// A file is missing.
    Missing(&'static str),
}

impl Wrong {
    fn apply(&self, host: &Host) {
        let content = |name: &str| std::fs::read_to_string(host.place(name)).expect("it is a file");
        match self {
            Self::Text(from, to) => {
                let text = content("comms.yaml");
                assert!(text.contains(*from), "{from}: {text}");
                host.write("comms.yaml", &text.replacen(*from, to, 1), 0o644);
            }
            Self::Content(name, text) => host.write(name, text, 0o600),
            Self::Readable(name) => host.write(name, &content(name), 0o644),
            Self::Missing(name) => {
                std::fs::remove_file(host.place(name)).expect("it is removed");
            }
        }
    }
}

/// A root that ended a while ago.
fn expired_root() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let key = KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a root").pem()
}

/// A second listener, in front of the proxy's settings.
fn second(what: &str) -> Wrong {
    let listener = format!("- {{name: second, users: all, addresses: [127.0.0.1], {what}}}");
    Wrong::Text(NO_PROXY, format!("{listener}\n{NO_PROXY}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_refused_at_the_start_and_at_a_reload() {
    let authority = Authority::new();
    let plane = Plane::start(&authority).await;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let taken = taken.expect("a port");
    let port = taken.local_addr().expect("its address").port();
    let (_, other_key) = authority.issue("host-2", &[]);
    let proxy = "proxy: {url: 'socks5://proxy.test:1080'}".to_owned();
    let own_process = format!("(process {})", std::process::id());
    for (wrong, said) in [
        (
            second(&format!("port: {port}, sni: second.plane.test")),
            own_process.as_str(),
        ),
        (
            Wrong::Text("addresses: [", "addresses: [10.0.0.1, ".to_owned()),
            "10.0.0.1 is no loopback address",
        ),
        (
            Wrong::Text("plane: ", "speed: 1\nplane: ".to_owned()),
            "comms.yaml:1:1: unknown field `speed`",
        ),
        (
            Wrong::Missing("host.key"),
            "host.key: there is no such file",
        ),
        (
            Wrong::Readable("host.key"),
            "host.key: its mode is 0644, so other users may use what is in it",
        ),
        (
            Wrong::Content("host.key", other_key),
            "host.key is not the key of the certificate",
        ),
        (
            Wrong::Content("roots.crt", expired_root()),
            "has expired; no other root is there",
        ),
        (
            Wrong::Text(NO_PROXY, proxy),
            "the scheme `socks5` is not known",
        ),
        (
            second("port: 5002, sni: Echo.plane.test"),
            "`listeners[1]` (second): `echo` has the same sni",
        ),
        (
            second("port: 5001, sni: second.plane.test"),
            "`listeners[1]` (second): `echo` has the same port",
        ),
    ] {
        let host = Host::new(&authority, &authority).await;
        let path = host.configure(plane.address, "all", NO_PROXY);
        let files = [
            ("comms.yaml", 0o644),
            ("host.key", 0o600),
            ("roots.crt", 0o644),
        ];
        let right = files.map(|(name, mode)| {
            let content = std::fs::read_to_string(host.place(name));
            (name, content.expect("it is a file"), mode)
        });
        let mend = || {
            for (name, content, mode) in &right {
                host.write(name, content, *mode);
            }
        };
        wrong.apply(&host);
        let error = Comms::start(&path).await.expect_err(said);
        let found = format!("{error:#}");
        assert!(found.contains(said), "{said}: {found}");
        mend();
        let mut comms = Comms::start(&path).await.expect(said);
        let before = comms.summary();
        wrong.apply(&host);
        let error = comms.reload(&path).await.expect_err(said);
        let found = format!("{error:#}");
        assert!(found.contains(said), "{said}: {found}");
        assert_eq!(comms.summary(), before, "{said}");
        let back = host.echoed(b"still there").await.expect(said);
        assert_eq!(back, b"still there", "{said}");
        mend();
        comms.reload(&path).await.expect(said);
        let back = host.echoed(b"there again").await.expect(said);
        assert_eq!(back, b"there again", "{said}");
    }
}
