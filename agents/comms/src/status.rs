//! The status of the daemon: written to each connection of a local socket, and shown by `pf9-comms status`.

use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use wire::comms::{LARGEST, Listener, Status};

/// Users of the daemon's group may read the status.
const MODE: u32 = 0o660;
/// Time for one reader.
const READER: Duration = Duration::from_secs(5);
/// Pause after a connection that could not be accepted: file descriptors may be used up.
const PAUSE: Duration = Duration::from_millis(200);

/// Listens on the socket. One that an earlier daemon has left is replaced.
///
/// # Errors
/// It cannot be made.
pub fn bind(path: &Path) -> Result<UnixListener> {
    let made = || -> std::io::Result<UnixListener> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
        Ok(socket)
    };
    made().with_context(|| format!("listen on {}", path.display()))
}

/// The next connection to the socket; `None` after a pause if it could not be accepted. Without a socket there is none for ever. Cancel safe.
pub async fn reader(socket: Option<&UnixListener>) -> Option<UnixStream> {
    let Some(socket) = socket else {
        return std::future::pending().await;
    };
    match socket.accept().await {
        Ok((stream, _)) => Some(stream),
        Err(_) => {
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

/// Writes a status to a connection, and ends it. Cancel safe: the reader gets a part that it refuses.
pub async fn write(mut stream: UnixStream, status: Status) {
    let text = serde_json::to_vec(&status).unwrap_or_default();
    let written = async {
        stream.write_all(&text).await?;
        stream.shutdown().await
    };
    // A reader that has gone is no matter.
    let _ = tokio::time::timeout(READER, written).await;
}

/// Reads the status of the running daemon.
///
/// # Errors
/// It does not run, does not answer in time, or has another version.
pub fn read(path: &Path) -> Result<Status> {
    let place = || {
        format!(
            "ask pf9-comms at {}; `systemctl status pf9-comms` says whether it runs",
            path.display()
        )
    };
    let stream = BlockingStream::connect(path).with_context(place)?;
    stream.set_read_timeout(Some(READER)).with_context(place)?;
    let mut text = Vec::new();
    stream
        .take(LARGEST)
        .read_to_end(&mut text)
        .with_context(place)?;
    let status: Status = serde_json::from_slice(&text).with_context(place)?;
    status.known().with_context(place)
}

/// The status for people.
#[must_use]
pub fn text(status: &Status, now: u64) -> String {
    let mut text = format!("plane        {}\n", status.plane);
    if let Some(proxy) = &status.proxy {
        let _ = writeln!(text, "proxy        {proxy}");
    }
    let ends = match status.certificate_ends.checked_sub(now) {
        Some(left) => format!("expires in {} d", left / 86_400),
        None => "has expired: enrol the host again".to_owned(),
    };
    let _ = writeln!(text, "certificate  {}, {ends}", status.subject);
    if let Some(problem) = &status.reload_problem {
        let _ = writeln!(
            text,
            "reload       failed, so the configuration before stays in use: {problem}"
        );
    }
    for listener in &status.listeners {
        let (place, limit) = match listener.addresses.is_empty() {
            true => (
                " is not in the configuration any more".to_owned(),
                String::new(),
            ),
            false => (
                format!(
                    " on {} as {}",
                    listener.addresses.join(" and "),
                    listener.sni
                ),
                format!(" of {}", listener.limit),
            ),
        };
        let _ = writeln!(
            text,
            "\n{}{place}\n  open {}{limit}, accepted {}; bytes up {}, down {}; handshakes {}, resumed {}; spare connections {}, used {}; retries {}",
            listener.name,
            listener.open,
            listener.accepted,
            listener.bytes_up,
            listener.bytes_down,
            listener.full_handshakes,
            listener.resumed_sessions,
            listener.spares,
            listener.spares_used,
            listener.retries
        );
        for error in &listener.errors {
            let ago = now.saturating_sub(error.at);
            let _ = writeln!(
                text,
                "  {} × {}, the last one {ago} s ago: {}\n    next: {}",
                error.count, error.cause, error.last, error.next
            );
        }
    }
    text
}

/// The status for Prometheus (text format 0.0.4).
#[must_use]
pub fn metrics(status: &Status) -> String {
    let mut text = String::new();
    let mut family =
        |name: &str, kind: &str, help: &str, samples: &mut dyn Iterator<Item = (String, u64)>| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
    let of = |value: fn(&Listener) -> u64| {
        let its = status.listeners.iter();
        its.map(move |its| (format!("{{listener=\"{}\"}}", its.name), value(its)))
    };
    let expires = status.certificate_ends;
    family(
        "pf9_comms_certificate_expiry_seconds",
        "gauge",
        "End of the certificate of the host, since 1970.",
        &mut std::iter::once((String::new(), expires)),
    );
    family(
        "pf9_comms_tasks",
        "gauge",
        "Tasks that have not ended: of tunnels, and a few of the daemon.",
        &mut std::iter::once((String::new(), status.tasks)),
    );
    family(
        "pf9_comms_open_tunnels",
        "gauge",
        "Open tunnels.",
        &mut of(|its| its.open),
    );
    family(
        "pf9_comms_accepted_connections_total",
        "counter",
        "Accepted local connections.",
        &mut of(|its| its.accepted),
    );
    family(
        "pf9_comms_sent_bytes_total",
        "counter",
        "Bytes to the plane.",
        &mut of(|its| its.bytes_up),
    );
    family(
        "pf9_comms_received_bytes_total",
        "counter",
        "Bytes from the plane.",
        &mut of(|its| its.bytes_down),
    );
    family(
        "pf9_comms_full_handshakes_total",
        "counter",
        "Full TLS handshakes.",
        &mut of(|its| its.full_handshakes),
    );
    family(
        "pf9_comms_resumed_sessions_total",
        "counter",
        "Resumed TLS sessions.",
        &mut of(|its| its.resumed_sessions),
    );
    family(
        "pf9_comms_spares_used_total",
        "counter",
        "Tunnels that began with a spare connection.",
        &mut of(|its| its.spares_used),
    );
    family(
        "pf9_comms_retries_total",
        "counter",
        "Attempts to reach the plane that were made again.",
        &mut of(|its| its.retries),
    );
    let errors = status.listeners.iter().flat_map(|its| {
        its.errors.iter().map(|error| {
            (
                format!("{{listener=\"{}\",cause=\"{}\"}}", its.name, error.cause),
                error.count,
            )
        })
    });
    family(
        "pf9_comms_errors_total",
        "counter",
        "Errors by cause.",
        &mut errors.into_iter(),
    );
    text
}

#[cfg(test)]
mod tests {
    use wire::comms::{ErrorCount, VERSION};

    use super::*;

    fn status() -> Status {
        Status {
            version: VERSION,
            plane: "plane.example:443".to_owned(),
            proxy: Some("proxy:3128".to_owned()),
            subject: "CN=host-1".to_owned(),
            certificate_ends: 10 * 86_400,
            reload_problem: None,
            tasks: 9,
            listeners: vec![Listener {
                name: "amqp".to_owned(),
                addresses: vec!["127.0.0.1:5672".to_owned(), "[::1]:5672".to_owned()],
                sni: "amqp.plane.example".to_owned(),
                open: 2,
                limit: 1000,
                accepted: 7,
                bytes_up: 10,
                bytes_down: 20,
                full_handshakes: 3,
                resumed_sessions: 4,
                spares: 2,
                spares_used: 5,
                retries: 1,
                errors: vec![ErrorCount {
                    cause: "connect".to_owned(),
                    count: 5,
                    last: "connect to plane.example:443: refused".to_owned(),
                    next: "check the network".to_owned(),
                    at: 86_390,
                }],
            }],
        }
    }

    #[test]
    fn the_text_has_everything_with_the_next_thing_to_try() {
        let expected = "\
plane        plane.example:443
proxy        proxy:3128
certificate  CN=host-1, expires in 9 d

amqp on 127.0.0.1:5672 and [::1]:5672 as amqp.plane.example
  open 2 of 1000, accepted 7; bytes up 10, down 20; handshakes 3, resumed 4; spare connections 2, used 5; retries 1
  5 × connect, the last one 10 s ago: connect to plane.example:443: refused
    next: check the network
";
        assert_eq!(text(&status(), 86_400), expected);
        let mut removed = status();
        removed.listeners[0].addresses.clear();
        let removed = text(&removed, 86_400);
        assert!(
            removed.contains("\namqp is not in the configuration any more\n  open 2, accepted 7;"),
            "{removed}"
        );
        let expired = text(&status(), 11 * 86_400);
        assert!(expired.contains("has expired"), "{expired}");
    }

    #[test]
    fn metrics_have_a_sample_for_each_listener_and_cause() {
        let text = metrics(&status());
        for line in [
            "pf9_comms_certificate_expiry_seconds 864000",
            "pf9_comms_tasks 9",
            "pf9_comms_open_tunnels{listener=\"amqp\"} 2",
            "pf9_comms_errors_total{listener=\"amqp\",cause=\"connect\"} 5",
            "# TYPE pf9_comms_sent_bytes_total counter",
        ] {
            assert!(text.lines().any(|its| its == line), "{line}: {text}");
        }
    }
}
