//! Facts about a certificate.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The fields of a certificate that the engine and its callers need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateFacts {
    /// The file that contains it.
    pub path: PathBuf,
    /// Whole subject.
    pub subject: String,
    /// Common name of the subject.
    pub common_name: String,
    /// Organizations of the subject: groups, in Kubernetes.
    pub organizations: Vec<String>,
    /// Whole subject of the authority that signed it.
    pub issuer: String,
    /// Serial number in hex.
    pub serial: String,
    /// DNS names, in lower case.
    pub names: BTreeSet<String>,
    /// IP addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// What it may be used for: `server`, `client`, `server and client`, `authority` …
    pub usage: String,
    /// Begin of its validity.
    #[serde(serialize_with = "rfc3339")]
    pub not_before: SystemTime,
    /// End of its validity.
    #[serde(serialize_with = "rfc3339")]
    pub not_after: SystemTime,
}

impl CertificateFacts {
    /// Whether its validity has begun and has not ended.
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// When it is due for renewal: at three fifths of its life, so that all certificates of a component are renewed before two thirds.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let life = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        self.not_before + life / 5 * 3
    }

    /// A warning for operators if less than a sixth of its life is left: it has been due for most of the time for a renewal, and it was not
    /// renewed.
    #[must_use]
    pub fn near_its_end(&self, now: SystemTime) -> Option<String> {
        let life = self.not_after.duration_since(self.not_before).ok()?;
        let path = self.path.display();
        let Ok(left) = self.not_after.duration_since(now) else {
            return Some(format!("{path} has ended at {}", show(self.not_after)));
        };
        (left < life / 6).then(|| {
            let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
            let next = if self.usage.contains("authority") {
                "`nodelet certs rotate` replaces it, with overlap"
            } else {
                "`nodelet certs renew` shows why"
            };
            format!("{path} ends in {left} and is not renewed; {next}")
        })
    }
}

/// A parsed certificate.
#[derive(Debug, Clone)]
pub(in crate::resource::pki) struct Certificate {
    pub(in crate::resource::pki) facts: CertificateFacts,
    /// Public key bits, as [`crate::resource::pki::keys::public`] gives them.
    pub(in crate::resource::pki) public_key: Vec<u8>,
    pub(in crate::resource::pki) der: Vec<u8>,
}

impl Certificate {
    /// The first certificate in some PEM text. The error says what is wrong with it.
    pub(in crate::resource::pki) fn parse(
        path: impl Into<PathBuf>,
        pem: &[u8],
    ) -> Result<Self, String> {
        let first = Self::parse_all(path, pem).next();
        first.unwrap_or_else(|| Err("it holds no certificate in PEM".to_owned()))
    }

    /// All certificates in some PEM text, with the problems of those that cannot be read.
    pub(in crate::resource::pki) fn parse_all(
        path: impl Into<PathBuf>,
        pem: &[u8],
    ) -> impl Iterator<Item = Result<Self, String>> {
        let path = path.into();
        Pem::iter_from_buffer(pem)
            .filter(|block| {
                block
                    .as_ref()
                    .map_or(true, |block| block.label == "CERTIFICATE")
            })
            .map(move |block| {
                let block = block.map_err(|_| "it is damaged or cut short".to_owned())?;
                Self::from_der(path.clone(), block.contents)
            })
    }

    fn from_der(path: PathBuf, der: Vec<u8>) -> Result<Self, String> {
        let damaged = |_| "its certificate is damaged".to_owned();
        let (_, x509) = X509Certificate::from_der(&der).map_err(damaged)?;
        let (names, addresses) = alternative_names(&x509)?;
        let subject = x509.subject();
        let facts = CertificateFacts {
            path,
            subject: subject.to_string(),
            common_name: texts(subject.iter_common_name())
                .into_iter()
                .next()
                .unwrap_or_default(),
            organizations: texts(subject.iter_organization()),
            issuer: x509.issuer().to_string(),
            serial: crate::model::hex(x509.raw_serial()),
            names,
            addresses,
            usage: usage(&x509)?,
            not_before: time(x509.validity().not_before.timestamp()),
            not_after: time(x509.validity().not_after.timestamp()),
        };
        let public_key = x509.public_key().subject_public_key.data.to_vec();
        Ok(Self {
            facts,
            public_key,
            der,
        })
    }

    /// Whether `authority` signed it: the names are equal (byte for byte, as RFC 5280 section 7.1 allows) and the signature
    /// verifies.
    pub(in crate::resource::pki) fn is_signed_by(&self, authority: &Self) -> bool {
        let (Ok((_, leaf)), Ok((_, signer))) = (
            X509Certificate::from_der(&self.der),
            X509Certificate::from_der(&authority.der),
        ) else {
            return false;
        };
        same_name(leaf.issuer(), signer.subject())
            && leaf.verify_signature(Some(signer.public_key())).is_ok()
    }

    /// Whether it may sign certificates.
    pub(in crate::resource::pki) fn is_authority(&self) -> bool {
        X509Certificate::from_der(&self.der).is_ok_and(|(_, x509)| {
            let may_sign = x509
                .key_usage()
                .ok()
                .flatten()
                .is_none_or(|usage| usage.value.key_cert_sign());
            x509.is_ca() && may_sign
        })
    }
}

fn same_name(one: &X509Name<'_>, other: &X509Name<'_>) -> bool {
    one.as_raw() == other.as_raw()
}

fn texts<'a>(values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Vec<String> {
    values
        .filter_map(|value| value.as_str().ok().map(str::to_owned))
        .collect()
}

type AlternativeNames = (BTreeSet<String>, BTreeSet<IpAddr>);

fn alternative_names(x509: &X509Certificate<'_>) -> Result<AlternativeNames, String> {
    let unclear = |_| "its alternative names are damaged".to_owned();
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    let extension = x509.subject_alternative_name().map_err(unclear)?;
    for name in extension
        .iter()
        .flat_map(|extension| &extension.value.general_names)
    {
        match name {
            GeneralName::DNSName(name) => {
                names.insert(name.to_ascii_lowercase());
            }
            GeneralName::IPAddress(octets) => {
                if let Ok(v4) = <[u8; 4]>::try_from(*octets) {
                    addresses.insert(IpAddr::from(v4));
                } else if let Ok(v6) = <[u8; 16]>::try_from(*octets) {
                    addresses.insert(IpAddr::from(v6));
                }
            }
            _ => {}
        }
    }
    Ok((names, addresses))
}

fn usage(x509: &X509Certificate<'_>) -> Result<String, String> {
    let unclear = |_| "its key usages are damaged".to_owned();
    if x509.is_ca() {
        return Ok("authority".to_owned());
    }
    let Some(extension) = x509.extended_key_usage().map_err(unclear)? else {
        return Ok("any".to_owned());
    };
    let usage = extension.value;
    let other = usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty();
    let named = [
        (usage.any, "any"),
        (usage.server_auth, "server"),
        (usage.client_auth, "client"),
        (other, "other"),
    ];
    let words: Vec<&str> = named
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, word)| *word)
        .collect();
    Ok(words.join(" and "))
}

/// A time before 1970 counts as 1970: no certificate of a cluster is older.
fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0))
}

/// A time as text for operators and logs, in UTC.
pub(in crate::resource::pki) fn show(time: SystemTime) -> String {
    // The formatter does not support times before 1970, and the time of a host without a clock may be before 1970.
    humantime::format_rfc3339_seconds(time.max(SystemTime::UNIX_EPOCH)).to_string()
}

pub(in crate::resource::pki) fn rfc3339<S: Serializer>(
    value: &SystemTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&show(*value))
}
