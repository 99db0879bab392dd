//! The content of a certification request (PKCS #10), as far as a node may set it. Everything else is a reason to deny it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rcgen::CertificateSigningRequestParams;
use sha2::{Digest as _, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256, OID_X509_COMMON_NAME,
    OID_X509_ORGANIZATION_NAME,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use crate::kubernetes::shown;

/// The only text that may be around a request.
const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----";
const END: &str = "-----END CERTIFICATE REQUEST-----";

/// What a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// The SHA-256 of its public key (`SubjectPublicKeyInfo`), hexadecimal.
    pub(super) key: String,
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
    /// DNS names in lower case.
    pub(super) names: BTreeSet<String>,
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Extended usages in the request, as Kubernetes names them. Nothing has to be there: the object of Kubernetes names them as well.
    pub(super) purposes: BTreeSet<&'static str>,
}

impl Content {
    /// Reads a request, and verifies that its maker has the private key. The library that signs has to read it, too: what passes here can be
    /// signed.
    pub(super) fn parse(pem: &[u8]) -> Result<Self, String> {
        let not_one = "it is not one certification request in PEM";
        let text = std::str::from_utf8(pem).map_err(|_| not_one)?;
        if !(text.starts_with(BEGIN) && text.trim_end().ends_with(END)) {
            return Err(not_one.to_owned());
        }
        let mut blocks = Pem::iter_from_buffer(pem);
        let block = match (blocks.next(), blocks.next()) {
            (Some(Ok(block)), None) if block.label == "CERTIFICATE REQUEST" => block,
            _ => return Err(not_one.to_owned()),
        };
        let damaged = "its certification request is damaged";
        let (rest, request) =
            X509CertificationRequest::from_der(&block.contents).map_err(|_| damaged)?;
        if !rest.is_empty() {
            return Err(damaged.to_owned());
        }
        has_usual_key(&request)?;
        request
            .verify_signature()
            .map_err(|_| "its signature does not match its key")?;
        let its = &request.certification_request_info;
        let mut content = Self {
            key: crate::model::hex(&Sha256::digest(its.subject_pki.raw)),
            ..Self::default()
        };
        content.read_subject(&its.subject)?;
        for extension in request.requested_extensions().into_iter().flatten() {
            content.read_extension(extension)?;
        }
        CertificateSigningRequestParams::from_pem(text)
            .map_err(|error| format!("it cannot be signed: {}", shown(&error.to_string())))?;
        Ok(content)
    }

    fn read_subject(&mut self, subject: &X509Name<'_>) -> Result<(), String> {
        if subject.iter_rdn().any(|rdn| rdn.iter().count() != 1) {
            return Err("its subject has a part with more than one attribute".to_owned());
        }
        let mut common_names = Vec::new();
        for attribute in subject.iter_attributes() {
            let text = attribute.as_str().map_err(|_| "its subject is not text")?;
            if *attribute.attr_type() == OID_X509_COMMON_NAME {
                common_names.push(text.to_owned());
            } else if *attribute.attr_type() == OID_X509_ORGANIZATION_NAME {
                self.organizations.push(text.to_owned());
            } else {
                return Err("its subject has more than a common name and organizations".to_owned());
            }
        }
        let [common_name] = <[String; 1]>::try_from(common_names)
            .map_err(|_| "its subject needs exactly one common name")?;
        self.common_name = common_name;
        Ok(())
    }

    fn read_extension(&mut self, extension: &ParsedExtension<'_>) -> Result<(), String> {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => names
                .general_names
                .iter()
                .try_for_each(|name| self.read_name(name)),
            ParsedExtension::KeyUsage(usage) => only_signs(usage),
            ParsedExtension::ExtendedKeyUsage(usage) => self.read_purposes(usage),
            ParsedExtension::BasicConstraints(constraints) if !constraints.ca => Ok(()),
            ParsedExtension::BasicConstraints(_) => Err("it asks for an authority".to_owned()),
            // An enum of another crate, with dozens of extensions.
            _ => Err("it asks for an extension that no node has".to_owned()),
        }
    }

    fn read_name(&mut self, name: &GeneralName<'_>) -> Result<(), String> {
        let other = || Err("an alternative name is neither a DNS name nor an address".to_owned());
        match name {
            GeneralName::DNSName(name) => {
                self.names.insert(name.to_ascii_lowercase());
            }
            GeneralName::IPAddress(octets) => {
                let address = match (<[u8; 4]>::try_from(*octets), <[u8; 16]>::try_from(*octets)) {
                    (Ok(v4), _) => IpAddr::from(v4),
                    (_, Ok(v6)) => IpAddr::from(v6),
                    (Err(_), Err(_)) => return other(),
                };
                self.addresses.insert(address);
            }
            _ => return other(),
        }
        Ok(())
    }

    fn read_purposes(&mut self, usage: &ExtendedKeyUsage<'_>) -> Result<(), String> {
        let others = usage.any
            || usage.code_signing
            || usage.email_protection
            || usage.time_stamping
            || usage.ocsp_signing
            || !usage.other.is_empty();
        if others {
            return Err("it asks for more than to be a client or a server".to_owned());
        }
        self.purposes
            .extend(usage.client_auth.then_some("client auth"));
        self.purposes
            .extend(usage.server_auth.then_some("server auth"));
        Ok(())
    }
}

fn only_signs(usage: &KeyUsage) -> Result<(), String> {
    let others = usage.non_repudiation()
        || usage.data_encipherment()
        || usage.key_agreement()
        || usage.key_cert_sign()
        || usage.crl_sign()
        || usage.encipher_only()
        || usage.decipher_only();
    match others {
        true => Err("it asks for more than to sign and to encipher keys".to_owned()),
        false => Ok(()),
    }
}

/// nodelet makes only such keys, and every TLS stack of the cluster accepts them.
fn has_usual_key(request: &X509CertificationRequest<'_>) -> Result<(), String> {
    let key = &request.certification_request_info.subject_pki.algorithm;
    let parameters = key.parameters.as_ref().map(|its| its.as_oid());
    let on_p256 = matches!(parameters, Some(Ok(curve)) if curve == OID_EC_P256);
    let signed = &request.signature_algorithm.algorithm;
    if key.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && on_p256
        && *signed == OID_SIG_ECDSA_WITH_SHA256
    {
        Ok(())
    } else {
        Err("its key is not an ECDSA key on P-256, signed with SHA-256".to_owned())
    }
}
