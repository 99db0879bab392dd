//! Authorities, keys, certificates, kubeconfigs.

use std::time::Duration;

use crate::model::{Diagnostic, closest};
use crate::resource::pki::{PkiError, SignedBy, Usage};
use crate::resource::{
    AuthoritySpec, CertificateSpec, EncryptionKeysSpec, JoinFileSpec, JoinMasterSpec,
    KubeconfigSpec, ServiceAccountKeySpec, Spec,
};
use crate::script::lower::options::Options;
use crate::script::recorder::Call;
use crate::script::variants::PkiWord;

/// How long a certificate is valid where the script says nothing.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long a step waits for the signature of a master if the script does not say it.
const SIGNATURE: Duration = Duration::from_secs(120);
/// The time of a step beside this wait: calls have deadlines of their own, and an error says what was waited for.
const BESIDE_SIGNATURE: Duration = Duration::from_secs(20);

/// The default timeout of a step that needs another one than most steps.
pub(super) fn timeout(spec: &Spec) -> Option<Duration> {
    match spec {
        Spec::Certificate(CertificateSpec {
            signed_by: SignedBy::Api { wait },
            ..
        }) => Some(*wait + BESIDE_SIGNATURE),
        _ => None,
    }
}

pub(super) fn lower(
    word: PkiWord,
    call: &Call,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Spec> {
    let mut required = |modifier: &str| {
        let text = options.text(modifier);
        if text.is_none() {
            findings.push(
                Diagnostic::new(
                    "P0315",
                    call.span.clone(),
                    format!("a {} needs `.{modifier}`", call.word.name),
                )
                .help(format!("add .{modifier}(…)")),
            );
        }
        text
    };
    match word {
        PkiWord::ServiceAccountKey => Some(Spec::ServiceAccountKey(ServiceAccountKeySpec {})),
        PkiWord::EncryptionKeys => Some(Spec::EncryptionKeys(EncryptionKeysSpec {
            rotation: None,
            successor: None,
        })),
        PkiWord::CertificateAuthority => {
            let name = options.text_argument(0)?;
            let spec = AuthoritySpec {
                common_name: options.text("common_name").unwrap_or_else(|| name.clone()),
                name,
                years: number(options, "years", 10),
                rotation: None,
                successor: None,
            };
            valid(call, options, spec.validate(), findings)?;
            Some(Spec::Authority(spec))
        }
        PkiWord::JoinFile => {
            let (path, node) = (options.text_argument(0)?.into(), required("node")?);
            let settings = options.map("settings").unwrap_or_default().into_iter();
            let settings = settings.map(|(name, its)| (name, its.to_string()));
            let on_link = options.has("masters_on_link");
            if options.has("master") {
                // The types of the modifier are checked before.
                let [address, api] = options.all_texts("master")?;
                let address = address.parse().ok()?;
                let spec = JoinMasterSpec {
                    path,
                    node,
                    address,
                    api,
                    settings: settings.collect(),
                    on_link,
                };
                valid(call, options, spec.validate(), findings)?;
                return Some(Spec::JoinMaster(spec));
            }
            let address = options.text("address");
            let spec = JoinFileSpec {
                path,
                node,
                // The type of the modifier is checked before.
                address: address.and_then(|its| its.parse().ok()),
                settings: settings.collect(),
                on_link,
            };
            valid(call, options, spec.validate(), findings)?;
            Some(Spec::JoinFile(spec))
        }
        PkiWord::Certificate => {
            let (authority, common_name) = (required("authority")?, required("common_name")?);
            let usage = match required("usage")?.as_str() {
                "server" => Usage::Server,
                "client" => Usage::Client,
                "peer" => Usage::Peer,
                other => {
                    findings.push(
                        Diagnostic::new(
                            "P0316",
                            options.span("usage"),
                            format!("`{other}` is not a usage of a certificate"),
                        )
                        .help(
                            match closest(other, ["server", "client", "peer"]) {
                                Some(meant) => format!("did you mean \"{meant}\"?"),
                                None => "write \"server\", \"client\" or \"peer\"".to_owned(),
                            },
                        ),
                    );
                    return None;
                }
            };
            let spec = CertificateSpec {
                path: options.text_argument(0)?,
                authority,
                common_name,
                organizations: options.texts("organizations").unwrap_or_default(),
                usage,
                dns_names: options.texts("names").unwrap_or_default(),
                addresses: options.addresses("addresses"),
                life: options.duration("valid_for").unwrap_or(YEAR),
                signed_by: signed_by(options),
            };
            valid(call, options, spec.validate(), findings)?;
            Some(Spec::Certificate(spec))
        }
        PkiWord::Kubeconfig => {
            let spec = KubeconfigSpec {
                name: options.text_argument(0)?,
                server: required("server")?,
                certificate: required("certificate")?,
                authority: "cluster".to_owned(),
                user: required("user")?,
                by_path: options.has("by_path"),
            };
            valid(call, options, spec.validate(), findings)?;
            Some(Spec::Kubeconfig(spec))
        }
    }
}

/// Who signs a certificate.
fn signed_by(options: &Options<'_>) -> SignedBy {
    if !options.has("signed_by_api") {
        return SignedBy::Authority;
    }
    let wait = match options.duration("timeout") {
        Some(timeout) => timeout.saturating_sub(BESIDE_SIGNATURE),
        None => SIGNATURE,
    };
    SignedBy::Api { wait }
}

/// The number, or `u32::MAX` where it does not fit: the validation then reports it as out of range.
fn number(options: &Options<'_>, name: &str, default: u32) -> u32 {
    options
        .integer(name)
        .map_or(default, |n| u32::try_from(n).unwrap_or(u32::MAX))
}

/// Records a finding if the resource's own validation fails.
fn valid(
    call: &Call,
    options: &Options<'_>,
    verdict: Result<(), PkiError>,
    findings: &mut Vec<Diagnostic>,
) -> Option<()> {
    let Err(error) = verdict else {
        return Some(());
    };
    let text = crate::model::chain(&error).join(": ");
    let field = match &error {
        PkiError::Invalid { field, .. } => *field,
        PkiError::Unreadable { .. }
        | PkiError::Precious { .. }
        | PkiError::NoKey { .. }
        | PkiError::OutsideValidity { .. }
        | PkiError::Build(_) => "",
    };
    // The field of the resource has another name than its modifier.
    let modifier = if field == "dns_names" { "names" } else { field };
    let help = if options.has(modifier) {
        format!("change `.{modifier}`")
    } else {
        format!("change the argument of `{}`", call.word.name)
    };
    findings.push(Diagnostic::new("P0321", options.span(modifier), text).help(help));
    None
}
