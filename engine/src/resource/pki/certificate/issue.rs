//! Makes certificates: pure functions of a specification, a signer and a time.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;

use crate::resource::pki::{AuthoritySpec, CertificateSpec, PkiError, PrivateKey, Usage, keys};

/// A day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How much earlier than now the validity of a certificate begins, but at most a tenth of its life: the clock of a peer, or of this host
/// after it was set, may be a day behind, and the cluster has to continue to work then.
const BACKDATE: Duration = DAY.saturating_mul(2);

/// A new certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate in PEM.
    pub certificate: String,
    /// Its private key.
    pub key: PrivateKey,
}

/// The self-signed certificate of a new authority, in PEM.
pub(in crate::resource::pki) fn self_signed(
    spec: &AuthoritySpec,
    key: &KeyPair,
    now: SystemTime,
) -> Result<String, PkiError> {
    spec.validate()?;
    let end = now
        + DAY
            * spec
                .years
                .saturating_mul(365)
                .saturating_add(spec.years / 4);
    let mut params = params(&spec.common_name, &[], now, end)?;
    // No authority below this one: it signs only leaf certificates.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    Ok(params.self_signed(key)?.pem())
}

/// A certificate with a new key, signed by `issuer`, whose own validity ends at `issuer_end`.
pub(in crate::resource::pki) fn signed(
    spec: &CertificateSpec,
    issuer: &Issuer<'_, &KeyPair>,
    issuer_end: SystemTime,
    now: SystemTime,
) -> Result<Issued, PkiError> {
    spec.validate()?;
    let key = keys::generate()?;
    let params = leaf(spec, end(spec, issuer_end, now), now)?;
    let certificate = params.signed_by(&key, issuer)?.pem();
    Ok(Issued {
        certificate,
        key: PrivateKey::from(&key),
    })
}

/// A certificate, in PEM, for the key of this certification request (PKCS #10 in PEM). Nothing else of the request is used.
pub(in crate::resource::pki) fn signed_request(
    spec: &CertificateSpec,
    request: &[u8],
    issuer: &Issuer<'_, &KeyPair>,
    issuer_end: SystemTime,
    now: SystemTime,
) -> Result<String, PkiError> {
    spec.validate()?;
    let no_text = |_| PkiError::Build("the certification request is not text".to_owned());
    let request = std::str::from_utf8(request).map_err(no_text)?;
    // This verifies its signature, too.
    let request = CertificateSigningRequestParams::from_pem(request)?;
    let params = leaf(spec, end(spec, issuer_end, now), now)?;
    Ok(params.signed_by(&request.public_key, issuer)?.pem())
}

/// The fields of a certificate that is no authority.
fn leaf(
    spec: &CertificateSpec,
    end: SystemTime,
    now: SystemTime,
) -> Result<CertificateParams, PkiError> {
    let mut params = params(&spec.common_name, &spec.organizations, now, end)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match spec.usage {
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Peer => {
            vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ]
        }
    };
    params.use_authority_key_identifier_extension = true;
    let (names, addresses) = spec.alternative_names();
    for name in names {
        params
            .subject_alt_names
            .push(SanType::DnsName(name.try_into()?));
    }
    params
        .subject_alt_names
        .extend(addresses.into_iter().map(SanType::IpAddress));
    Ok(params)
}

/// When a certificate that is issued now will end: never after its issuer.
pub(in crate::resource::pki) fn end(
    spec: &CertificateSpec,
    issuer_end: SystemTime,
    now: SystemTime,
) -> SystemTime {
    (now + spec.life).min(issuer_end)
}

fn params(
    common_name: &str,
    organizations: &[String],
    now: SystemTime,
    end: SystemTime,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(common_name, organizations);
    let life = end.duration_since(now).unwrap_or_default();
    params.not_before = whole_seconds(now - BACKDATE.min(life / 10))?;
    params.not_after = whole_seconds(end)?;
    params.serial_number = Some(serial());
    Ok(params)
}

/// The subject of a certificate or of a request.
pub(in crate::resource::pki) fn subject(
    common_name: &str,
    organizations: &[String],
) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for organization in organizations {
        name.push(DnType::OrganizationName, organization.as_str());
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// The alternative names of a certificate or of a request.
pub(in crate::resource::pki) fn alternative_names(
    spec: &CertificateSpec,
) -> Result<Vec<SanType>, PkiError> {
    let (names, addresses) = spec.alternative_names();
    let mut all = Vec::with_capacity(names.len() + addresses.len());
    for name in names {
        all.push(SanType::DnsName(name.try_into()?));
    }
    all.extend(addresses.into_iter().map(SanType::IpAddress));
    Ok(all)
}

/// 16 random octets, made positive and never zero (RFC 5280 section 4.1.2.2 allows 20).
fn serial() -> SerialNumber {
    let mut octets: [u8; 16] = rand::random();
    octets[0] = octets[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&octets)
}

/// Times in certificates have no fractions of a second.
fn whole_seconds(time: SystemTime) -> Result<OffsetDateTime, PkiError> {
    let impossible =
        || PkiError::Build("the host's clock is before 1970 or far beyond 2100".to_owned());
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| impossible())?;
    let seconds = since.as_secs().try_into().map_err(|_| impossible())?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| impossible())
}
