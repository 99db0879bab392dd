//! The certificate of this host, its key, and the roots that sign the plane's certificates.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::IdentityFiles;

/// Largest file that is read, in bytes.
const LIMIT: u64 = 256 * 1024;
/// Sessions that are kept for resumption, over all server names.
const SESSIONS: usize = 256;

/// TLS 1.3, or 1.2 if the plane knows no other.
pub const VERSIONS: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The algorithms of TLS. The curve that each plane knows is offered first, so that it costs no second round trip.
#[must_use]
pub fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::SECP256R1, kx_group::X25519, kx_group::SECP384R1];
    provider
}

/// Which files an identity was read from: other files at the same place are another identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin(Vec<Option<(u64, u64, i64, i64)>>);

impl Origin {
    /// Looks at the files: their devices, inodes and times.
    #[must_use]
    pub fn of(files: &IdentityFiles) -> Self {
        let all = [&files.certificate, &files.key, &files.roots];
        let its = |path: &std::path::PathBuf| {
            let its = path.metadata().ok()?;
            Some((its.dev(), its.ino(), its.mtime(), its.mtime_nsec()))
        };
        Self(all.into_iter().map(its).collect())
    }
}

/// What this host shows to the plane, and what the plane has to show.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The configuration of TLS. Sessions are resumed only among connections with the same one.
    pub tls: Arc<ClientConfig>,
    /// The subject of the certificate.
    pub subject: String,
    /// The end of the certificate.
    pub ends: SystemTime,
    /// What is not as it should be and does not hinder: expired roots beside others that are valid.
    pub warnings: Vec<String>,
}

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// A file is missing or cannot be used, the certificate or all roots are not valid at `now`, other users may read the key, or the key belongs to another
    /// certificate.
    pub fn read(files: &IdentityFiles, now: SystemTime) -> Result<Self> {
        let (roots, warnings) = roots(&files.roots, now)?;
        let chain = certificates(&files.certificate)?;
        let own = chain.first().context("the first certificate is missing")?;
        let info = CertificateInfo::of(own).with_context(|| shown(&files.certificate))?;
        if let Some(problem) = info.problem(now) {
            bail!(
                "{}: the certificate of this host {problem}; enrol the host again",
                shown(&files.certificate)
            );
        }
        let key = key(&files.key)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(VERSIONS)
            .context("choose the versions of TLS")?;
        let configured = builder
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key);
        let mut tls = configured.map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => anyhow!(
                "{} is not the key of the certificate {}",
                shown(&files.key),
                shown(&files.certificate)
            ),
            error => anyhow!(error).context(format!("use the key {}", shown(&files.key))),
        })?;
        tls.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self {
            tls: Arc::new(tls),
            subject: info.subject,
            ends: info.ends,
            warnings,
        })
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// What is read of a certificate.
struct CertificateInfo {
    subject: String,
    begins: SystemTime,
    ends: SystemTime,
}

impl CertificateInfo {
    fn of(der: &CertificateDer<'_>) -> Result<Self> {
        let (_, parsed) = X509Certificate::from_der(der)
            .map_err(|error| anyhow!("it has a certificate that cannot be read: {error}"))?;
        let validity = parsed.validity();
        Ok(Self {
            subject: parsed.subject().to_string(),
            begins: time(validity.not_before.timestamp()),
            ends: time(validity.not_after.timestamp()),
        })
    }

    /// Why the certificate is not valid; `None` if it is.
    fn problem(&self, now: SystemTime) -> Option<&'static str> {
        if now < self.begins {
            Some("is not valid yet: is the clock of this host right?")
        } else if now > self.ends {
            Some("has expired")
        } else {
            None
        }
    }
}

/// Why a certificate is not valid at `now`; `None` if it is.
///
/// # Errors
/// It cannot be read.
pub(crate) fn problem(
    certificate: &CertificateDer<'_>,
    now: SystemTime,
) -> Result<Option<&'static str>> {
    Ok(CertificateInfo::of(certificate)?.problem(now))
}

fn time(seconds: i64) -> SystemTime {
    let seconds = u64::try_from(seconds).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn content(path: &Path) -> Result<Vec<u8>> {
    daemon::files::read(path, LIMIT)?
        .with_context(|| format!("read {}: there is no such file", shown(path)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let content = content(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let found = found.with_context(|| format!("read the certificates in {}", shown(path)))?;
    if found.is_empty() {
        bail!("{} has no certificate in PEM", shown(path));
    }
    Ok(found)
}

/// The roots that are valid, and what is to be said about the others.
fn roots(path: &Path, now: SystemTime) -> Result<(RootCertStore, Vec<String>)> {
    let mut store = RootCertStore::empty();
    let mut warnings = Vec::new();
    for root in certificates(path)? {
        let info = CertificateInfo::of(&root).with_context(|| shown(path))?;
        match info.problem(now) {
            Some(problem) => warnings.push(format!(
                "{}: the root `{}` {problem}",
                shown(path),
                info.subject
            )),
            None => store
                .add(root)
                .with_context(|| format!("{}: trust the root `{}`", shown(path), info.subject))?,
        }
    }
    if store.is_empty() {
        bail!("{}; no other root is there", warnings.join("; "));
    }
    Ok((store, warnings))
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let content = daemon::files::read_private(path, LIMIT)?
        .with_context(|| format!("read {}: there is no such file", shown(path)))?;
    PrivateKeyDer::from_pem_slice(&content)
        .with_context(|| format!("read the private key in {}", shown(path)))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use bounds::{content, quickly};
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tempfile::TempDir;

    use super::*;

    /// A directory with the files of an identity. The root is valid from 2020 to 2040, the certificate from 2021 to 2030.
    fn made() -> (TempDir, IdentityFiles) {
        let directory = tempfile::tempdir().expect("a directory");
        let place = |name: &str| directory.path().join(name);
        let files = IdentityFiles {
            certificate: place("host.crt"),
            key: place("host.key"),
            roots: place("roots.crt"),
        };
        let (root, certificate, key) = pem();
        fs::write(&files.roots, root).expect("it is written");
        fs::write(&files.certificate, certificate).expect("it is written");
        write_key(&files.key, &key, 0o600);
        (directory, files)
    }

    fn write_key(path: &Path, key: &str, mode: u32) {
        fs::write(path, key).expect("it is written");
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("its mode is set");
    }

    fn pem() -> (String, String, String) {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.not_before = rcgen::date_time_ymd(2020, 1, 1);
        ca.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let ca_key = KeyPair::generate().expect("a key");
        let root = ca.self_signed(&ca_key).expect("a root").pem();
        let issuer = Issuer::new(ca, ca_key);
        let mut host = CertificateParams::new(vec!["host-1".to_owned()]).expect("a name");
        host.not_before = rcgen::date_time_ymd(2021, 1, 1);
        host.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = host.signed_by(&key, &issuer).expect("a certificate").pem();
        (root, certificate, key.serialize_pem())
    }

    fn year(year: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs((year - 1970) * 31_557_600 + 86_400 * 40)
    }

    fn said(files: &IdentityFiles, at: u64) -> String {
        format!(
            "{:#}",
            Identity::read(files, year(at)).expect_err("it is refused")
        )
    }

    #[test]
    fn an_identity_is_read_with_its_end() {
        let (_directory, files) = made();
        let identity = Identity::read(&files, year(2025)).expect("it is right");
        assert!(identity.warnings.is_empty());
        assert!(identity.ends > year(2029) && identity.ends < year(2030));
    }

    #[test]
    fn what_is_not_valid_is_refused() {
        let (_directory, files) = made();
        assert!(said(&files, 2030).contains("has expired; enrol the host again"));
        assert!(said(&files, 2020).contains("is not valid yet"));
        assert!(said(&files, 2041).contains("the root"));
        // Beside another one, an expired root is named.
        let mut expired = CertificateParams::default();
        expired.not_before = rcgen::date_time_ymd(2000, 1, 1);
        expired.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let expired = expired
            .self_signed(&KeyPair::generate().expect("a key"))
            .expect("a root");
        let both = fs::read_to_string(&files.roots).expect("a file") + &expired.pem();
        fs::write(&files.roots, both).expect("it is written");
        let identity = Identity::read(&files, year(2025)).expect("one is enough");
        assert_eq!(identity.warnings.len(), 1, "{:?}", identity.warnings);
    }

    #[test]
    fn a_key_that_others_may_read_and_another_key_are_refused() {
        let (_directory, files) = made();
        let (_, _, other) = pem();
        write_key(&files.key, &other, 0o600);
        let found = said(&files, 2025);
        assert!(
            found.contains("is not the key of the certificate"),
            "{found}"
        );
        for mode in [0o640, 0o604, 0o660] {
            write_key(&files.key, &other, mode);
            let found = said(&files, 2025);
            assert!(found.contains(&format!("{mode:04o}")), "{found}");
        }
    }

    #[test]
    fn files_without_content_are_named() {
        let (_directory, files) = made();
        for path in [&files.key, &files.certificate, &files.roots] {
            let before = fs::read(path).expect("a file");
            for text in [
                "",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            ] {
                fs::write(path, text).expect("it is written");
                let found = said(&files, 2025);
                assert!(found.contains(&shown(path)), "{found}");
            }
            fs::remove_file(path).expect("it is removed");
            let found = said(&files, 2025);
            assert!(found.contains(&shown(path)), "{found}");
            fs::write(path, before).expect("it is written");
            fs::set_permissions(path, Permissions::from_mode(0o600)).expect("its mode is set");
        }
    }

    /// Parts of files in PEM.
    const PEM: &[&str] = &[
        "-----BEGIN CERTIFICATE-----\n",
        "-----END CERTIFICATE-----\n",
        "-----BEGIN PRIVATE KEY-----\n",
        "-----END PRIVATE KEY-----\n",
        "-----BEGIN ",
        "-----",
        "MIIB",
        "AAAA\n",
        "=",
        "\n",
        "\r\n",
        " ",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_file_of_an_identity_is_refused_with_its_name(
            content in content(LIMIT as usize, PEM),
            which in 0..3_usize,
        ) {
            let (_directory, files) = made();
            let path = [&files.key, &files.certificate, &files.roots][which];
            // The mode of the key stays.
            fs::write(path, &content).expect("it is written");
            let read = quickly(|| Identity::read(&files, year(2025)));
            let said = format!("{:#}", read.expect_err("it is refused"));
            prop_assert!(said.contains(&shown(path)), "{}", said);
        }

        #[test]
        fn a_damaged_certificate_is_read_or_refused(
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            length in any::<prop::sample::Index>(),
        ) {
            static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let whole = WHOLE.get_or_init(|| {
                let (_, certificate, _) = pem();
                let der = CertificateDer::from_pem_slice(certificate.as_bytes());
                der.expect("a certificate").to_vec()
            });
            let mut damaged = whole.clone();
            damaged[at.index(whole.len())] = byte;
            let cut = damaged[..length.index(whole.len())].to_vec();
            for der in [damaged, cut] {
                let der = CertificateDer::from(der);
                let _ = quickly(|| CertificateInfo::of(&der));
                let _ = quickly(|| RootCertStore::empty().add(der));
            }
        }
    }
}
