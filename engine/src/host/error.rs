//! Errors of host calls.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustls::{CertificateError, Error as Tls};

/// Result of a host call.
pub type HostResult<T> = Result<T, HostError>;

/// A failed host call. `Display` completes "failed to …" and leaves the cause to the chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    File {
        /// The verb, for example `write`.
        action: &'static str,
        /// The path it was about.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A write would fail. The host can tell this without a write: [`Files::predict_write`](crate::host::Files::predict_write).
    #[error("write {}", path.display())]
    WriteRefused {
        /// The path.
        path: PathBuf,
        /// What the kernel would say.
        #[source]
        source: std::io::Error,
    },
    /// Something is larger than we are willing to read.
    #[error("read {}: it is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The path.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
    /// A program or a server returned more than we are willing to read. We draw no conclusion from a part of it.
    #[error("read the output of {who}: it has more than {limit} bytes")]
    TooMuch {
        /// The source of the output, for example `` `iptables-save` ``.
        who: String,
        /// The bound.
        limit: usize,
    },
    /// An earlier change was given up and has not ended, because the file system hangs. Whether it takes effect is not known.
    #[error(
        "{action} {}: an earlier `{earlier} {}` is still in progress after {}, so the content of that path is not known",
        path.display(), earlier_path.display(), humantime::format_duration(*.after)
    )]
    InProgress {
        /// What was to be done, for example `remove`.
        action: &'static str,
        /// The path it was about.
        path: PathBuf,
        /// The earlier action, for example `write`.
        earlier: &'static str,
        /// The path of the earlier action.
        earlier_path: PathBuf,
        /// How long this call waited for the earlier one.
        after: Duration,
    },
    /// A process could not be started.
    #[error("start `{program}`")]
    Spawn {
        /// The program's name.
        program: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A process ended with a status other than success.
    #[error("run `{command}`: exit status {status}: {stderr}")]
    Exit {
        /// The command line (never contains secrets).
        command: String,
        /// The exit status, negative for a signal.
        status: i32,
        /// The tail of what it wrote to standard error.
        stderr: String,
    },
    /// A call did not end before its deadline.
    #[error("{action}: no answer within {}", humantime::format_duration(*.after))]
    Deadline {
        /// What was waited for.
        action: String,
        /// How long.
        after: Duration,
    },
    /// A service (docker, systemd, the API server …) refused or could not be reached.
    #[error("{action}")]
    Service {
        /// The request, for example `create container etcd`.
        action: String,
        /// Its answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A service refused, or is not the one it should be. A retry gets the same result until an operator changes something.
    #[error("{action}")]
    Refused {
        /// The request, for example `get node master-1`.
        action: String,
        /// Its answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something cannot be removed or unloaded, because it is in use.
    #[error("{action}")]
    InUse {
        /// The request, for example `unload module ip_vs`.
        action: String,
        /// The answer, which names the user if it is known.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A server shows a certificate whose validity begins later than our clock says, so this clock cannot judge it.
    #[error("{action}: the server's certificate is not valid yet by this host's clock")]
    Clock {
        /// The request.
        action: String,
        /// The error of the certificate check.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file that we were given is damaged.
    #[error("read {}: it is damaged", path.display())]
    Damaged {
        /// The path.
        path: PathBuf,
        /// The error that shows the damage.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something that has to exist does not.
    #[error("find {what}")]
    Missing {
        /// The resource.
        what: String,
    },
    /// A fault that a test injected.
    #[error("{call} (injected fault)")]
    Injected {
        /// The call that was made to fail.
        call: String,
    },
}

impl HostError {
    /// A [`HostError::Service`] from anything that can be an error.
    pub fn service(
        action: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Service {
            action: action.into(),
            source: source.into(),
        }
    }

    /// A [`HostError::Refused`] from anything that can be an error.
    pub fn refused(
        action: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Refused {
            action: action.into(),
            source: source.into(),
        }
    }

    /// A [`HostError::InUse`] from anything that can be an error.
    pub fn in_use(
        action: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::InUse {
            action: action.into(),
            source: source.into(),
        }
    }

    /// Whether the next try would fail as this one did.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. }
                | Self::Clock { .. }
                | Self::Damaged { .. }
                | Self::TooLarge { .. }
                | Self::TooMuch { .. }
        )
    }

    /// Whether a server has shown a certificate that none of the given roots has signed, or that is damaged. A certificate for another name, or one
    /// that is not valid now, says nothing about its authority.
    #[must_use]
    pub fn is_of_unknown_authority(&self) -> bool {
        let unknown = |tls: &Tls| match tls {
            Tls::InvalidCertificate(why) => !matches!(
                why,
                CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. }
                    | CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
            ),
            _ => false,
        };
        self.source()
            .is_some_and(|source| has_tls_cause(source, &unknown))
    }

    /// Whether a server has answered a request over TLS, although the call failed: the handshake failed, or the answer was too long. A
    /// connection that is refused or closed is no answer.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        match self {
            Self::TooMuch { .. } => true,
            Self::Service { source, .. }
            | Self::Refused { source, .. }
            | Self::Clock { source, .. } => is_of_handshake(source.as_ref()),
            Self::File { .. }
            | Self::WriteRefused { .. }
            | Self::TooLarge { .. }
            | Self::InProgress { .. }
            | Self::Spawn { .. }
            | Self::Exit { .. }
            | Self::Deadline { .. }
            | Self::InUse { .. }
            | Self::Damaged { .. }
            | Self::Missing { .. }
            | Self::Injected { .. } => false,
        }
    }
}

/// Whether one of the causes is what the other side of a TLS connection has sent.
fn is_of_handshake(error: &(dyn Error + 'static)) -> bool {
    has_tls_cause(error, &|tls| {
        matches!(
            tls,
            Tls::InappropriateMessage { .. }
                | Tls::InappropriateHandshakeMessage { .. }
                | Tls::DecryptError
                | Tls::PeerIncompatible(_)
                | Tls::PeerMisbehaved(_)
                | Tls::AlertReceived(_)
                | Tls::InvalidCertificate(_)
                | Tls::NoCertificatesPresented
                | Tls::PeerSentOversizedRecord
        )
    })
}

/// Whether this error or one of its causes is such an error of TLS.
pub(in crate::host) fn has_tls_cause(
    error: &(dyn Error + 'static),
    is_such: &dyn Fn(&Tls) -> bool,
) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if error.downcast_ref::<Tls>().is_some_and(is_such) {
            return true;
        }
        // An I/O error hides the error that it wraps: its `source` is the source of the wrapped error.
        let inner = error.downcast_ref::<io::Error>();
        let inner = inner.and_then(io::Error::get_ref);
        if inner.is_some_and(|inner| has_tls_cause(inner as &(dyn Error + 'static), is_such)) {
            return true;
        }
        at = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use rustls::AlertDescription;

    use super::*;

    #[test]
    fn only_a_certificate_that_no_root_has_signed_is_of_an_unknown_authority() {
        for (why, is_unknown) in [
            (CertificateError::UnknownIssuer, true),
            (CertificateError::BadSignature, true),
            (CertificateError::NotValidForName, false),
            (CertificateError::Expired, false),
            (CertificateError::NotValidYet, false),
        ] {
            let failure = io::Error::other(Tls::InvalidCertificate(why.clone()));
            let error = HostError::refused("get x", failure);
            assert_eq!(error.is_of_unknown_authority(), is_unknown, "{why:?}");
        }
        let ended = HostError::service("get x", io::Error::from(io::ErrorKind::UnexpectedEof));
        assert!(!ended.is_of_unknown_authority());
    }

    #[test]
    fn every_failed_handshake_is_an_answer_and_no_failed_connection_is() {
        let alert = Tls::AlertReceived(AlertDescription::HandshakeFailure);
        for error in [
            HostError::service("get x", io::Error::other(alert.clone())),
            HostError::refused("get x", io::Error::other(io::Error::other(alert))),
            HostError::TooMuch {
                who: "x".to_owned(),
                limit: 1,
            },
        ] {
            assert!(error.is_answer(), "{error:?}");
        }
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::UnexpectedEof,
        ] {
            let error = HostError::service("get x", io::Error::from(kind));
            assert!(!error.is_answer(), "{error:?}");
        }
        let silent = HostError::Deadline {
            action: "get x".to_owned(),
            after: Duration::from_secs(3),
        };
        assert!(!silent.is_answer());
    }
}
