//! How long a certificate is valid that a server shows, for example the kubelet of another node. Pure.

use std::time::{Duration, SystemTime};

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The validity of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its begin.
    pub begins: SystemTime,
    /// Its end.
    pub ends: SystemTime,
}

impl Validity {
    /// The validity of this certificate (DER). `None` if it is no certificate.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            begins: time(validity.not_before.timestamp()),
            ends: time(validity.not_after.timestamp()),
        })
    }

    /// Whether less than a sixth of its life is left, or none. Certificates are renewed at three fifths of their life, so this one was due for
    /// long and was not renewed.
    #[must_use]
    pub fn is_near_its_end(&self, now: SystemTime) -> bool {
        let life = self.ends.duration_since(self.begins).unwrap_or_default();
        let left = self.ends.duration_since(now).unwrap_or_default();
        left.is_zero() || left < life / 6
    }
}

/// A time before 1970 counts as 1970.
fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_validity_of_a_certificate_is_read() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = rcgen::CertificateParams::new(vec!["w-1".to_owned()]).unwrap();
        wanted.not_before = rcgen::date_time_ymd(2026, 1, 1);
        wanted.not_after = rcgen::date_time_ymd(2026, 1, 31);
        let certificate = wanted.self_signed(&key).unwrap();
        let validity = Validity::of(certificate.der()).unwrap();
        let day = Duration::from_secs(86_400);
        assert_eq!(validity.begins, at(1_767_225_600));
        assert_eq!(validity.ends, validity.begins + day * 30);
        assert_eq!(Validity::of(b"no certificate"), None);
    }

    #[test]
    fn the_last_sixth_of_a_life_is_its_end() {
        let validity = Validity {
            begins: at(0),
            ends: at(600),
        };
        for (now, is_near) in [
            (0, false),
            (500, false),
            (501, true),
            (600, true),
            (900, true),
        ] {
            assert_eq!(validity.is_near_its_end(at(now)), is_near, "{now}");
        }
    }
}
