//! Authorities, keys, certificates, kubeconfigs.

use super::Options;
use crate::diagnostic::Diagnostic;
use crate::resource::pki::Usage;
use crate::resource::{
    AuthoritySpec, CertificateSpec, KubeconfigSpec, ServiceAccountKeySpec, Spec,
};
use crate::script::recorder::Call;

pub(super) fn lower(
    call: &Call,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Spec> {
    let mut required = |modifier: &str| {
        let text = options.text(modifier);
        if text.is_none() {
            findings.push(
                Diagnostic::new("P0315", call.span.clone(), format!("a {} needs `.{modifier}`", call.word.name))
                    .help(format!("add .{modifier}(…)")),
            );
        }
        text
    };
    match call.word.name {
        "service_account_key" => Some(Spec::ServiceAccountKey(ServiceAccountKeySpec {})),
        "certificate_authority" => {
            let name = options.text_argument(0)?;
            Some(Spec::Authority(AuthoritySpec {
                common_name: options.text("common_name").unwrap_or_else(|| name.clone()),
                name,
                years: options.integer("years").and_then(|n| u32::try_from(n).ok()).unwrap_or(10),
            }))
        }
        "certificate" => {
            let (authority, common_name) = (required("authority")?, required("common_name")?);
            let usage = match required("usage")?.as_str() {
                "server" => Usage::Server,
                "client" => Usage::Client,
                "peer" => Usage::Peer,
                other => {
                    findings.push(
                        Diagnostic::new("P0316", options.span("usage"), format!("`{other}` is no usage"))
                            .help("it is server, client or peer"),
                    );
                    return None;
                }
            };
            Some(Spec::Certificate(CertificateSpec {
                path: options.text_argument(0)?,
                authority,
                common_name,
                organizations: options.texts("organizations").unwrap_or_default(),
                usage,
                dns_names: options.texts("names").unwrap_or_default(),
                addresses: options.addresses("addresses"),
                days: options.integer("days").and_then(|n| u32::try_from(n).ok()).unwrap_or(365),
            }))
        }
        _ => Some(Spec::Kubeconfig(KubeconfigSpec {
            name: options.text_argument(0)?,
            server: required("server")?,
            certificate: required("certificate")?,
            authority: "cluster".to_owned(),
            user: required("user")?,
            namespace: None,
        })),
    }
}
