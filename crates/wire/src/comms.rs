//! The status of pf9-comms.

use serde::{Deserialize, Serialize};

/// The version of [`Status`] that is written.
pub const VERSION: u32 = 1;
/// Largest status in bytes of JSON: 64 listeners with all their errors have less than a quarter of it.
pub const LARGEST: u64 = 1024 * 1024;

/// What pf9-comms carries at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// The management plane, `HOST:PORT`.
    pub plane: String,
    /// The proxy on the way to it, `HOST:PORT`.
    pub proxy: Option<String>,
    /// The subject of the certificate of this host.
    pub subject: String,
    /// The end of that certificate in seconds since 1970.
    pub certificate_ends: u64,
    /// Why the last reload changed nothing; `None` if it succeeded.
    pub reload_problem: Option<String>,
    /// Tasks of the daemon that have not ended: of its tunnels, and a few of its own. 0 from a daemon that does not tell.
    #[serde(default)]
    pub tasks: u64,
    /// The listeners by name, also those that a reload has removed, as long as they have open tunnels.
    pub listeners: Vec<Listener>,
}

/// A listener and what it has carried since the start of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The name of the service.
    pub name: String,
    /// Its local addresses, `ADDRESS:PORT`. Without any, a reload has removed it, and its tunnels go on; then it has neither a server name nor a limit.
    pub addresses: Vec<String>,
    /// The server name that the plane routes by.
    pub sni: String,
    /// Open tunnels.
    pub open: u64,
    /// Most open tunnels.
    pub limit: u64,
    /// Local connections that were accepted.
    pub accepted: u64,
    /// Bytes to the plane.
    pub bytes_up: u64,
    /// Bytes from the plane.
    pub bytes_down: u64,
    /// Full TLS handshakes.
    pub full_handshakes: u64,
    /// Resumed TLS sessions.
    pub resumed_sessions: u64,
    /// Connections to the plane that are ready.
    pub spares: u64,
    /// Tunnels that began with one of these.
    pub spares_used: u64,
    /// Attempts to reach the plane that were made again.
    #[serde(default)]
    pub retries: u64,
    /// Errors by cause.
    pub errors: Vec<ErrorCount>,
}

/// Errors with the same cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCount {
    /// A short name of the cause.
    pub cause: String,
    /// How many there were.
    pub count: u64,
    /// The last one.
    pub last: String,
    /// The next thing to try.
    pub next: String,
    /// When the last one was, in seconds since 1970.
    pub at: u64,
}

/// Why a status cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVersion(
    /// The version that it has.
    pub u32,
);

impl std::fmt::Display for UnknownVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the status has version {}, and this program reads version {VERSION}",
            self.0
        )
    }
}

impl std::error::Error for UnknownVersion {}

impl Status {
    /// The status, if its version is known.
    ///
    /// # Errors
    /// It has another version.
    pub fn known(self) -> Result<Self, UnknownVersion> {
        match self.version {
            VERSION => Ok(self),
            other => Err(UnknownVersion(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status() -> Status {
        let listener = Listener {
            name: "amqp".to_owned(),
            errors: vec![ErrorCount {
                cause: "connect".to_owned(),
                count: 3,
                last: "connect to plane:443".to_owned(),
                next: "check the network".to_owned(),
                at: 1,
            }],
            ..Listener::default()
        };
        Status {
            version: VERSION,
            plane: "plane:443".to_owned(),
            proxy: None,
            subject: "CN=host-1".to_owned(),
            certificate_ends: 2,
            reload_problem: None,
            tasks: 4,
            listeners: vec![listener],
        }
    }

    #[test]
    fn a_status_is_read_as_it_was_written_and_fields_may_be_added() {
        let text = serde_json::to_string(&status()).expect("JSON");
        let more = text.replacen('{', "{\"speed\":1,", 1);
        for text in [text, more] {
            let read: Status = serde_json::from_str(&text).expect("a status");
            assert_eq!(read.known(), Ok(status()));
        }
    }

    #[test]
    fn a_daemon_that_does_not_tell_its_tasks_is_understood() {
        let text = serde_json::to_string(&status()).expect("JSON");
        let earlier = text.replacen("\"tasks\":4,", "", 1);
        assert!(earlier.len() < text.len(), "{text}");
        let read: Status = serde_json::from_str(&earlier).expect("a status");
        assert_eq!(
            read,
            Status {
                tasks: 0,
                ..status()
            }
        );
    }

    #[test]
    fn another_version_is_refused_by_number() {
        let newer = Status {
            version: 2,
            ..status()
        };
        let refused = newer.known().expect_err("it is not known");
        assert!(refused.to_string().contains("version 2"), "{refused}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,300}") {
            let _ = serde_json::from_str::<Status>(&text);
        }
    }
}
