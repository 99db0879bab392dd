//! The authority of the plane: one root that signs the certificates of hosts and of the ingress, and the list of revoked ones.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use rand::RngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData as _, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::database::seconds;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the root is valid.
const ROOT_LIFE: Duration = DAY.saturating_mul(3650);
/// How much earlier than now a certificate begins: the clock of a host may be behind.
const BACKDATE: Duration = DAY;
/// How long a certificate of the ingress is valid.
const SERVER_LIFE: Duration = DAY.saturating_mul(30);
/// It is made anew so long before its end.
const RENEWED_BEFORE: Duration = DAY.saturating_mul(10);
/// How long a list of revoked certificates may be used: after that, OpenSSL takes no certificate. A new one is written every day.
const LIST_LIFE: Duration = DAY.saturating_mul(365);
/// Largest file that is read, in bytes.
const LIMIT: u64 = 64 * 1024;

/// The root with its key.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    ends: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// PEM.
    pub certificate: String,
    /// Its serial number, as [`Serial`] writes it.
    pub serial: String,
    /// Its end.
    pub ends: SystemTime,
}

/// A public key that a host has shown to have the private key of.
#[derive(Debug)]
pub struct RequestedKey {
    key: rcgen::PublicKey,
}

impl RequestedKey {
    /// Reads a certificate request (PEM), and verifies its signature. All but its key is ignored.
    ///
    /// # Errors
    /// It is none, or its key is not of the curve P-256.
    pub fn read(request: &str) -> Result<Self> {
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| anyhow::anyhow!("read the certificate request: {error}"))?;
        if *request.public_key.algorithm() != rcgen::PKCS_ECDSA_P256_SHA256 {
            bail!("read the certificate request: its key is not of the curve P-256");
        }
        Ok(Self {
            key: request.public_key,
        })
    }

    /// SHA-256 of the key, in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hexadecimal(&Sha256::digest(self.key.der_bytes()))
    }
}

/// A new serial number: 127 random bits, in the hexadecimal digits that HAProxy's `ssl_c_serial,hex` has.
struct Serial([u8; 16]);

impl Serial {
    fn new() -> Self {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        // Positive, and without a zero at its beginning, which DER would leave out.
        bytes[0] = bytes[0] & 0x7f | 0x40;
        Self(bytes)
    }

    fn text(&self) -> String {
        hexadecimal(&self.0).to_ascii_uppercase()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Authority {
    fn places(state: &Path) -> (PathBuf, PathBuf) {
        let directory = state.join("authority");
        (directory.join("root.crt"), directory.join("root.key"))
    }

    /// Makes a new root below the directory of the plane's state. A key without a certificate, as a crash leaves it, is used.
    ///
    /// # Errors
    /// There is one already, or it cannot be written.
    pub fn create(state: &Path, name: &str, now: SystemTime) -> Result<Self> {
        let (certificate, key) = Self::places(state);
        let is_there = |path: &Path| {
            let found = path.try_exists();
            found.with_context(|| format!("look for {}", path.display()))
        };
        if is_there(&certificate)? {
            bail!(
                "make the authority: {} is there already",
                certificate.display()
            );
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("{name} root"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + ROOT_LIFE).into();
        params.serial_number = Some(SerialNumber::from_slice(&Serial::new().0));
        let pair = match is_there(&key)? {
            true => KeyPair::from_pem(&crate::secret::read(&key)?)
                .with_context(|| format!("read the key {}", key.display()))?,
            false => {
                let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
                // The key first: a certificate without a key would be taken for a damaged authority.
                daemon::files::replace(&key, pair.serialize_pem().as_bytes(), 0o600)?;
                pair
            }
        };
        let root = params.self_signed(&pair)?;
        daemon::files::replace(&certificate, root.pem().as_bytes(), 0o644)?;
        Self::read(state)
    }

    /// Reads the root and its key.
    ///
    /// # Errors
    /// One is missing or cannot be used, others may read the key, or it belongs to another certificate.
    pub fn read(state: &Path) -> Result<Self> {
        let (certificate, key) = Self::places(state);
        let found = daemon::files::read(&certificate, LIMIT)?.with_context(|| {
            format!(
                "read the authority: there is no {}; `planectl init` makes one",
                certificate.display()
            )
        })?;
        let text = String::from_utf8(found)
            .with_context(|| format!("read the authority {}", certificate.display()))?;
        let pair = KeyPair::from_pem(&crate::secret::read(&key)?)
            .with_context(|| format!("read the key {}", key.display()))?;
        let der = der(&text).with_context(|| format!("read {}", certificate.display()))?;
        let (_, parsed) = X509Certificate::from_der(&der)
            .map_err(|error| anyhow::anyhow!("read {}: {error}", certificate.display()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != pair.der_bytes() {
            bail!(
                "{} is not the key of {}",
                key.display(),
                certificate.display()
            );
        }
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(&text, pair)?,
            ends: SystemTime::UNIX_EPOCH + Duration::from_secs(ends),
            certificate: text,
        })
    }

    /// The root, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// SHA-256 of the root, in hexadecimal: hosts know the plane by it when they are enrolled.
    ///
    /// # Errors
    /// The root is no PEM, which [`Self::read`] excludes.
    pub fn fingerprint(&self) -> Result<String> {
        Ok(hexadecimal(&Sha256::digest(der(&self.certificate)?)))
    }

    /// Signs the certificate of a host. Its common name is the id of the host.
    ///
    /// # Errors
    /// The root has expired, or the name cannot be written.
    pub fn host(
        &self,
        key: &RequestedKey,
        host_id: &str,
        host_name: &str,
        life: Duration,
        now: SystemTime,
    ) -> Result<Issued> {
        let mut params = self.leaf(host_id, now, life)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::DnsName(host_name.try_into()?)];
        let serial = Serial::new();
        params.serial_number = Some(SerialNumber::from_slice(&serial.0));
        let ends = params.not_after;
        let certificate = params.signed_by(&key.key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            serial: serial.text(),
            ends: ends.into(),
        })
    }

    /// A new key and certificate of the ingress for this name and all names one label below it, with the root: PEM, as HAProxy's `crt` takes it.
    ///
    /// # Errors
    /// The root has expired, or the name cannot be written.
    pub fn server(&self, name: &str, now: SystemTime) -> Result<String> {
        let mut params = self.leaf(name, now, SERVER_LIFE)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![
            SanType::DnsName(name.try_into()?),
            SanType::DnsName(format!("*.{name}").try_into()?),
        ];
        params.serial_number = Some(SerialNumber::from_slice(&Serial::new().0));
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&pair, &self.issuer)?.pem();
        // A host that is being enrolled knows no more than the fingerprint of the root.
        Ok([&certificate, &self.certificate, &pair.serialize_pem()]
            .map(String::as_str)
            .concat())
    }

    /// Whether a file that [`Self::server`] has made may stay in use: it is for this name, of this root, and ends in more than ten days.
    #[must_use]
    pub fn can_keep(&self, server: &[u8], name: &str, now: SystemTime) -> bool {
        let Ok(text) = std::str::from_utf8(server) else {
            return false;
        };
        // After the certificate comes the root.
        let Some((_, rest)) = text.split_once("-----END CERTIFICATE-----\n") else {
            return false;
        };
        let Ok(der) = der(text) else { return false };
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else {
            return false;
        };
        let Ok(pair) = KeyPair::from_pem(rest.strip_prefix(&self.certificate).unwrap_or_default())
        else {
            return false;
        };
        let validity = certificate.validity();
        certificate.subject().to_string() == format!("CN={name}")
            && certificate.public_key().subject_public_key.data.as_ref() == pair.der_bytes()
            // The clock may have been wrong.
            && validity.not_before.timestamp() <= seconds(now)
            && validity.not_after.timestamp() > seconds(now + RENEWED_BEFORE)
    }

    fn leaf(&self, name: &str, now: SystemTime, life: Duration) -> Result<CertificateParams> {
        if self.ends <= now {
            bail!("sign a certificate: the root has expired");
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - BACKDATE.min(life)).into();
        params.not_after = (now + life).min(self.ends).into();
        Ok(params)
    }

    /// The list of revoked certificates, PEM.
    ///
    /// # Errors
    /// A serial number is none.
    pub fn revocation_list(&self, revoked: &[Revoked], now: SystemTime) -> Result<String> {
        let mut certificates = Vec::new();
        for its in revoked {
            certificates.push(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&bytes_of(&its.serial)?),
                revocation_time: its.at.into(),
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            });
        }
        let number = u64::try_from(seconds(now)).unwrap_or_default();
        let list = CertificateRevocationListParams {
            this_update: (now - BACKDATE).into(),
            next_update: OffsetDateTime::from(now + LIST_LIFE),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: certificates,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

/// A certificate that was revoked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revoked {
    /// Its serial number, as [`Issued`] has it.
    pub serial: String,
    /// When.
    pub at: SystemTime,
}

fn bytes_of(serial: &str) -> Result<Vec<u8>> {
    let digits = serial.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    bytes
        .collect::<Option<Vec<u8>>>()
        .filter(|bytes| !bytes.is_empty())
        .with_context(|| format!("use the serial number `{serial}`: it is not hexadecimal"))
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// The content of the first certificate of a PEM text.
fn der(text: &str) -> Result<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes())
        .map_err(|error| anyhow::anyhow!("it is no certificate in PEM: {error}"))?;
    Ok(pem.contents)
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bounds::{content, quickly};
    use proptest::prelude::*;
    use wire::enrolment::LARGEST_REQUEST;

    use super::*;

    fn made() -> (tempfile::TempDir, Authority) {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("authority")).expect("it is made");
        let authority = Authority::create(directory.path(), "plane.test", SystemTime::now());
        (directory, authority.expect("it is made"))
    }

    fn request(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
        request_for(algorithm, vec!["other.test".to_owned()])
    }

    /// A request for these names.
    fn request_for(algorithm: &'static rcgen::SignatureAlgorithm, names: Vec<String>) -> String {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = params.serialize_request(&key).expect("a request");
        request.pem().expect("PEM")
    }

    #[test]
    fn of_a_request_only_the_key_is_used() {
        let (_directory, authority) = made();
        let key = RequestedKey::read(&request(&rcgen::PKCS_ECDSA_P256_SHA256)).expect("a key");
        let now = SystemTime::now();
        let issued = authority
            .host(&key, "id-1", "host-1.test", DAY, now)
            .expect("it is signed");
        let der = der(&issued.certificate).expect("PEM");
        let (_, parsed) = X509Certificate::from_der(&der).expect("a certificate");
        assert_eq!(parsed.subject().to_string(), "CN=id-1");
        assert!(!parsed.is_ca());
        let names = parsed
            .subject_alternative_name()
            .expect("one")
            .expect("it is there");
        assert_eq!(
            format!("{:?}", names.value.general_names),
            "[DNSName(\"host-1.test\")]"
        );
        let usage = parsed
            .extended_key_usage()
            .expect("one")
            .expect("it is there")
            .value;
        assert!(
            usage.client_auth && !usage.server_auth,
            "a host is no server of the plane"
        );
        let raw: String = parsed
            .raw_serial()
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        assert_eq!(raw, issued.serial);
    }

    #[test]
    fn keys_of_other_kinds_and_other_texts_are_refused() {
        for text in [
            request(&rcgen::PKCS_ED25519),
            request(&rcgen::PKCS_ECDSA_P384_SHA384),
            String::new(),
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
                .to_owned(),
        ] {
            RequestedKey::read(&text).expect_err("it is refused");
        }
    }

    #[test]
    fn an_authority_is_neither_replaced_nor_used_with_another_key() {
        let (directory, authority) = made();
        let again = Authority::create(directory.path(), "plane.test", SystemTime::now());
        assert!(
            again
                .expect_err("it is there")
                .to_string()
                .contains("is there already")
        );
        assert_eq!(authority.fingerprint().expect("one").len(), 64);
        // A crash may leave the key alone.
        let certificate = directory.path().join("authority/root.crt");
        std::fs::remove_file(&certificate).expect("it is removed");
        Authority::create(directory.path(), "plane.test", SystemTime::now())
            .expect("its key is used");
        let (other, _) = made();
        let key = directory.path().join("authority/root.key");
        std::fs::copy(other.path().join("authority/root.key"), &key).expect("it is copied");
        let error = Authority::read(directory.path()).expect_err("another key");
        assert!(error.to_string().contains("is not the key of"), "{error:#}");
    }

    #[test]
    fn a_certificate_of_the_ingress_is_made_anew_in_time() {
        let (_directory, authority) = made();
        let (_other, other) = made();
        let now = SystemTime::now();
        let server = authority.server("plane.test", now).expect("it is signed");
        let keeps = |by: &Authority, name, at| by.can_keep(server.as_bytes(), name, at);
        assert!(keeps(&authority, "plane.test", now));
        assert!(!keeps(&authority, "other.test", now));
        assert!(!keeps(&other, "plane.test", now));
        assert!(!keeps(&authority, "plane.test", now + DAY * 21));
        assert!(!keeps(&authority, "plane.test", now - DAY * 2));
        assert!(!authority.can_keep(b"", "plane.test", now));
    }

    #[test]
    fn a_certificate_never_outlives_the_root() {
        let (_directory, authority) = made();
        let key = RequestedKey::read(&request(&rcgen::PKCS_ECDSA_P256_SHA256)).expect("a key");
        let now = SystemTime::now();
        let issued = authority
            .host(&key, "id", "host", ROOT_LIFE * 2, now)
            .expect("it is signed");
        assert!(issued.ends <= now + ROOT_LIFE);
        authority
            .host(&key, "id", "host", DAY, now + ROOT_LIFE * 2)
            .expect_err("the root has expired");
    }

    #[test]
    fn a_list_names_what_was_revoked() {
        let (_directory, authority) = made();
        let now = SystemTime::now();
        let revoked = [Revoked {
            serial: Serial([0x41; 16]).text(),
            at: now,
        }];
        let list = authority.revocation_list(&revoked, now).expect("a list");
        let (_, pem) = x509_parser::pem::parse_x509_pem(list.as_bytes()).expect("PEM");
        let (_, parsed) = x509_parser::parse_x509_crl(&pem.contents).expect("a list");
        let serials: Vec<Vec<u8>> = parsed
            .iter_revoked_certificates()
            .map(|its| its.raw_serial().to_vec())
            .collect();
        assert_eq!(serials, [vec![0x41; 16]]);
        let wrong = [Revoked {
            serial: "x".to_owned(),
            at: now,
        }];
        authority
            .revocation_list(&wrong, now)
            .expect_err("no number");
    }

    proptest! {
        /// Some signs of a good request are other ones.
        #[test]
        fn no_request_is_too_strange(
            text in "(?s).{0,300}",
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            RequestedKey::read(&text).expect_err("it is none");
            let mut bytes = request(&rcgen::PKCS_ECDSA_P256_SHA256).into_bytes();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte & 0x7f;
            }
            // It may still be right: not all signs count.
            let _ = RequestedKey::read(&String::from_utf8_lossy(&bytes));
        }
    }

    /// A request with this content.
    fn armored(der: &[u8]) -> String {
        let text = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    }

    /// The content of a request that is about as large as one may be.
    fn largest() -> &'static [u8] {
        static LARGEST: OnceLock<Vec<u8>> = OnceLock::new();
        LARGEST.get_or_init(|| {
            let names = (0..140).map(|number| format!("{number:03}.{}.test", "a".repeat(50)));
            let request = request_for(&rcgen::PKCS_ECDSA_P256_SHA256, names.collect());
            der(&request).expect("PEM")
        })
    }

    #[test]
    fn the_largest_request_is_read_quickly() {
        let text = armored(largest());
        let size = LARGEST_REQUEST * 9 / 10..LARGEST_REQUEST;
        assert!(size.contains(&text.len()), "{} bytes", text.len());
        quickly(|| RequestedKey::read(&text)).expect("it is right");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_text_that_a_host_may_send_is_refused_quickly(
            text in content(LARGEST_REQUEST, &[
                "-----BEGIN CERTIFICATE REQUEST-----\n", "-----END CERTIFICATE REQUEST-----\n",
                "-----BEGIN ", "-----", "MIIB", "AAAA\n", "MIAwgDCA", "=", "\n", "\r\n", "A: b\n", " ",
            ]),
            der in content(LARGEST_REQUEST / 2, &["0", "\0", "\u{1}", "\u{2}", "\u{3}", "1", "U", "\u{7f}"]),
        ) {
            for text in [String::from_utf8_lossy(&text).into_owned(), armored(&der)] {
                quickly(|| RequestedKey::read(&text)).expect_err("it is none");
            }
        }

        #[test]
        fn the_largest_request_is_refused_quickly_if_it_is_damaged(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            length in any::<prop::sample::Index>(),
        ) {
            let mut damaged = largest().to_vec();
            for (at, byte) in changes {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
            // It may still be right: a byte may be what it was.
            let _ = quickly(|| RequestedKey::read(&armored(&damaged)));
            let cut = armored(&largest()[..length.index(largest().len())]);
            quickly(|| RequestedKey::read(&cut)).expect_err("it is cut off");
        }
    }
}
