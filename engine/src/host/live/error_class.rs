//! Which connection failures last until an operator changes something, and which go away by waiting.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, Error as Tls};

use crate::host::HostError;
use crate::host::error::has_tls_cause;

/// An error of a call that goes over the network: [`HostError::Refused`] if the next try would fail as this one did.
pub(in crate::host::live) fn classified(
    action: impl Into<String>,
    source: impl Into<Box<dyn Error + Send + Sync>>,
) -> HostError {
    let source = source.into();
    if is_early(source.as_ref()) {
        HostError::Clock {
            action: action.into(),
            source,
        }
    } else if has_permanent_cause(source.as_ref()) {
        HostError::refused(action, source)
    } else {
        HostError::service(action, source)
    }
}

/// Whether one of the causes is a certificate that is not accepted, or an unknown host name.
fn has_permanent_cause(error: &(dyn Error + 'static)) -> bool {
    has_tls_cause(error, &is_tls_permanent) || has_unknown_host(error)
}

fn has_unknown_host(error: &(dyn Error + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let inner = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
            if inner.is_some_and(has_unknown_host) || unknown_host(error) {
                return true;
            }
        }
        at = error.source();
    }
    false
}

/// Whether one of the causes is a certificate that begins later than our clock says. The certificate was made before it was shown to us, so
/// our clock is wrong.
fn is_early(error: &(dyn Error + 'static)) -> bool {
    has_tls_cause(error, &|tls| {
        matches!(
            tls,
            Tls::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
            )
        )
    })
}

fn is_tls_permanent(error: &Tls) -> bool {
    match error {
        Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented => true,
        Tls::AlertReceived(alert) => matches!(
            alert,
            AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRequired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::UnsupportedCertificate
        ),
        _ => false,
    }
}

/// An unknown host name has no error kind of its own, so the resolver's text decides. "Temporary failure in name resolution" is a different
/// text.
fn unknown_host(error: &io::Error) -> bool {
    let text = error.to_string();
    text.contains("Name or service not known")
        || text.contains("No address associated with hostname")
}

/// Whether an HTTP status means that the same request fails again: our identity or the request is wrong.
pub(in crate::host::live) fn is_status_permanent(status: u16) -> bool {
    matches!(status, 400 | 401 | 403 | 405 | 406 | 413 | 415 | 422)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_not_yet_valid_is_a_temporary_error() {
        let early = Tls::InvalidCertificate(CertificateError::NotValidYet);
        let error = classified("get x", io::Error::other(early));
        assert!(matches!(error, HostError::Clock { .. }), "{error:?}");
        let over = Tls::InvalidCertificate(CertificateError::Expired);
        let error = classified("get x", io::Error::other(over));
        assert!(matches!(error, HostError::Refused { .. }), "{error:?}");
    }

    fn is_permanent(error: impl Into<Box<dyn Error + Send + Sync>>) -> bool {
        classified("get x", error).is_permanent()
    }

    #[test]
    fn a_rejected_certificate_is_a_permanent_error() {
        let unknown = Tls::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(is_permanent(unknown.clone()));
        assert!(is_permanent(io::Error::other(unknown)));
        assert!(is_permanent(Tls::AlertReceived(
            AlertDescription::UnknownCA
        )));
        assert!(!is_permanent(Tls::AlertReceived(
            AlertDescription::InternalError
        )));
    }

    #[test]
    fn an_unknown_host_name_is_permanent() {
        let lookup = "failed to lookup address information: ";
        assert!(is_permanent(io::Error::other(format!(
            "{lookup}Name or service not known"
        ))));
        assert!(!is_permanent(io::Error::other(format!(
            "{lookup}Temporary failure in name resolution"
        ))));
    }

    #[test]
    fn a_server_that_is_starting_is_a_temporary_error() {
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::TimedOut,
        ] {
            assert!(!is_permanent(io::Error::from(kind)), "{kind}");
        }
        for status in [404, 409, 429, 500, 503] {
            assert!(!is_status_permanent(status), "{status}");
        }
        assert!(is_status_permanent(401) && is_status_permanent(403));
    }
}
