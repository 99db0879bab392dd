//! Whether `LiveHost` tells a refused identity from other answers of an API server, on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use engine::host::CertificateRequests as _;
use engine::host::live::LiveHost;
use serde_json::json;

const TOKEN: &str = "abcdef.0123456789abcdef";
/// Longer than any answer takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// An API server that answers each request with this status, and tells whether the token was sent by refusing requests without it.
fn server(code: u16) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _closed = serve(stream, code);
        }
    });
    address
}

/// Answers one request.
fn serve(mut stream: TcpStream, code: u16) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut request = String::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        request.push_str(&line);
    }
    let asks = request.starts_with("GET /apis/certificates.k8s.io/v1/certificatesigningrequests/");
    let code = match asks && request.contains(TOKEN) {
        true => code,
        false => 500,
    };
    let answer = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "metadata": {},
        "code": code, "message": "no", "reason": "",
    });
    let answer = answer.to_string();
    let head = format!(
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(answer.as_bytes()).ok()
}

fn kubeconfig(address: SocketAddr) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        "clusters": [{ "name": "c", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "u", "user": { "token": TOKEN } }],
    })
    .to_string()
}

#[tokio::test]
async fn only_an_unauthorized_answer_refuses_an_identity() {
    let host = LiveHost::new();
    for (code, accepted) in [
        (401, Some(false)),
        (403, Some(true)),
        (404, Some(true)),
        (503, None),
    ] {
        let kubeconfig = kubeconfig(server(code));
        let answer = host.accepts_identity(&kubeconfig, LONG).await;
        assert_eq!(
            answer.as_ref().ok(),
            accepted.as_ref(),
            "{code}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn without_an_api_server_nothing_is_refused_and_no_error_has_the_token() {
    let host = LiveHost::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    // It takes the connection, and does not answer.
    let silent = kubeconfig(listener.local_addr().expect("address"));
    let short = Duration::from_millis(100);
    let damaged = format!("token: {TOKEN}: {TOKEN}");
    for (kubeconfig, timeout) in [(silent, short), (damaged, LONG)] {
        let error = host.accepts_identity(&kubeconfig, timeout).await;
        let error = format!("{:?}", error.expect_err("there is no answer"));
        assert!(!error.contains(TOKEN), "{error}");
    }
}
