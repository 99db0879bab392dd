//! The parameters of a role: mistakes in their declarations, and the values that settings `ROLE_<NAME>` give them.

use std::collections::BTreeMap;

use super::RoleManifest;
use super::fields::ROLE_FIELDS;
use super::manifest::parameter_place;
use super::parameter::{Parameter, is_empty, is_parameter_name};
use crate::env::{Found, KubeEnv, ROLE_PREFIX, Refusal, Source};
use crate::model::{Diagnostic, SecretRef, Span, Value, closest};

/// The parameters with their defaults. What is wrong with a declaration is added to `findings`; `text` is the text of `role.yaml`.
pub(super) fn declared(
    manifest: &RoleManifest,
    text: &str,
    findings: &mut Vec<Diagnostic>,
) -> BTreeMap<String, Value> {
    let mut values = BTreeMap::new();
    for (name, parameter) in &manifest.parameters {
        let at = || parameter_place(text, name);
        if !is_parameter_name(name) {
            let message = format!("`{name}` is not the name of a parameter");
            findings.push(Diagnostic::new("P0619", at(), message).help(
                "use at most 64 lower-case letters, digits and `_`, and begin with a letter: the setting of the parameter has the same name in upper case",
            ));
        } else if ROLE_FIELDS.iter().any(|field| field.name == name) {
            let message =
                format!("`role.{name}` exists already, so no parameter can have this name");
            findings.push(Diagnostic::new("P0619", at(), message).help(format!(
                "give it another name, for example `{name}_of_role`"
            )));
        }
        if let Some(problem) = parameter.contradiction() {
            let message = format!("parameter `{name}`: {problem}");
            findings.push(
                Diagnostic::new("P0618", at(), message)
                    .help("remove or change one of the keys; docs/role.md explains each"),
            );
            continue;
        }
        match parameter.default_value() {
            Ok(value) => {
                values.insert(name.clone(), value);
            }
            Err(problem) => {
                let kind = format!("{:?}", parameter.kind).to_lowercase();
                let message = format!("parameter `{name}`: {problem}");
                findings.push(
                    Diagnostic::new("P0604", at(), message)
                        .help(format!("write a `default` of the type `{kind}` that fits")),
                );
            }
        }
    }
    values
}

/// The parameters with the values that settings give them, otherwise with their defaults.
///
/// # Errors
/// Every setting of a parameter that is unknown or does not fit, and every required parameter without a value.
pub(super) fn resolve(
    manifest: &RoleManifest,
    defaults: &BTreeMap<String, Value>,
    settings: &KubeEnv,
) -> Result<BTreeMap<String, Value>, Vec<Diagnostic>> {
    let mut values = defaults.clone();
    let mut findings = Vec::new();
    for (key, text, source) in settings.role_settings() {
        let name = parameter_of(key);
        let Some(parameter) = manifest.parameters.get(&name) else {
            findings.push(unknown(manifest, key, &name, source));
            continue;
        };
        match parameter.parse(text.expose()) {
            Ok(_) if parameter.secret && !text.is_empty() => {
                values.insert(name, Value::Secret(SecretRef(format!("kube/{key}"))));
            }
            Ok(value) => {
                values.insert(name, value);
            }
            Err(refusal) => {
                let found = if parameter.secret {
                    Found::hidden()
                } else {
                    Found::text(text.expose())
                };
                findings.push(refused(key, &name, parameter, refusal, &found, source));
                // So it is not reported as empty, too.
                values.remove(&name);
            }
        }
    }
    for (name, parameter) in &manifest.parameters {
        if parameter.required && values.get(name).is_some_and(is_empty) {
            let key = setting_of(name);
            let span = settings
                .source_of(&key)
                .map_or_else(|| Span::file("role.yaml"), span_of);
            let message = format!("parameter `{name}` is required, and has no value");
            let help = format!("set {key} in the settings; {}", parameter.doc);
            findings.push(Diagnostic::new("P0622", span, message).help(help));
        }
    }
    if findings.is_empty() {
        Ok(values)
    } else {
        Err(findings)
    }
}

/// Whether a setting is that of a secret parameter, or of none.
pub(super) fn is_secret(manifest: &RoleManifest, key: &str) -> bool {
    manifest
        .parameters
        .get(&parameter_of(key))
        .is_none_or(|parameter| parameter.secret)
}

/// The parameter that a setting is for.
fn parameter_of(key: &str) -> String {
    key.strip_prefix(ROLE_PREFIX)
        .unwrap_or(key)
        .to_ascii_lowercase()
}

/// The setting of a parameter.
fn setting_of(name: &str) -> String {
    format!("{ROLE_PREFIX}{}", name.to_ascii_uppercase())
}

fn span_of(source: &Source) -> Span {
    let Some(place) = source.place() else {
        return Span::file("settings");
    };
    let number = |number: Option<u32>| {
        number.map_or(0, |number| usize::try_from(number).unwrap_or(usize::MAX))
    };
    Span::new(
        place.path.display().to_string(),
        number(place.line),
        number(place.column),
    )
}

fn unknown(manifest: &RoleManifest, key: &str, name: &str, source: &Source) -> Diagnostic {
    let message = format!("{key}: role {} has no parameter `{name}`", manifest.name);
    let names = || manifest.parameters.keys().map(String::as_str);
    let help = match closest(name, names()) {
        Some(meant) => format!("did you mean `{}`?", setting_of(meant)),
        None if manifest.parameters.is_empty() => {
            "the role has no parameters; take the setting out".to_owned()
        }
        None => {
            let all: Vec<String> = names()
                .map(|one| format!("`{}`", setting_of(one)))
                .collect();
            format!(
                "take the setting out; those of this role are {}",
                all.join(", ")
            )
        }
    };
    Diagnostic::new("P0620", span_of(source), message).help(help)
}

fn refused(
    key: &str,
    name: &str,
    parameter: &Parameter,
    refusal: Refusal,
    found: &Found,
    source: &Source,
) -> Diagnostic {
    let message = format!("{key}: expected {}, found {found}", refusal.expected);
    let about = || format!("it sets the parameter `{name}`: {}", parameter.doc);
    Diagnostic::new("P0621", span_of(source), message).help(refusal.help.unwrap_or_else(about))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
version: 1
name: r
release: '1'
about: A role.
nodes: {}
parameters:
  servers: { type: texts, required: true, doc: Time servers. }
  pace: { type: text, default: slow, choices: [fast, slow], doc: How fast. }
  count: { type: integer, default: 1, least: 1, most: 9, doc: How many. }
  token: { type: text, default: '', secret: true, doc: A token. }
payload: []
"#;

    /// The values with these settings, or the findings.
    fn resolved(given: &str) -> Result<BTreeMap<String, Value>, Vec<String>> {
        let manifest: RoleManifest = serde_yaml::from_str(MANIFEST).expect("a manifest");
        let mut findings = Vec::new();
        let defaults = declared(&manifest, MANIFEST, &mut findings);
        assert!(findings.is_empty(), "{findings:?}");
        let settings = format!("MASTER_IP: 192.0.2.1\n{given}");
        let settings = KubeEnv::resolve(vec![("s.yaml".to_owned(), settings.into_bytes())]);
        let settings = settings.expect("good settings");
        resolve(&manifest, &defaults, &settings)
            .map_err(|findings| findings.iter().map(Diagnostic::short).collect())
    }

    #[test]
    fn settings_set_parameters_and_defaults_fill_the_rest() {
        let values = resolved("ROLE_SERVERS: a,b\nROLE_COUNT: 9\n").expect("they fit");
        assert_eq!(values["servers"], Value::from(vec!["a", "b"]));
        assert_eq!(values["count"], Value::Integer(9));
        assert_eq!(values["pace"], Value::from("slow"));
        assert_eq!(values["token"], Value::from(""));
    }

    #[test]
    fn a_secret_is_a_reference() {
        let values = resolved("ROLE_SERVERS: a\nROLE_TOKEN: hunter2\n").expect("they fit");
        let token = SecretRef("kube/ROLE_TOKEN".to_owned());
        assert_eq!(values["token"], Value::Secret(token));
    }

    #[test]
    fn each_mistake_is_reported_with_its_position() {
        let told = resolved("ROLE_SERVRES: a\nROLE_PACE: fats\nROLE_COUNT: 10\n");
        assert_eq!(
            told.expect_err("they do not fit"),
            [
                "s.yaml:4:1: P0621 ROLE_COUNT: expected a whole number (1-9), found `10` (it sets the parameter `count`: How many.)",
                "s.yaml:3:1: P0621 ROLE_PACE: expected one of `fast`, `slow`, found `fats` (did you mean `fast`?)",
                "s.yaml:2:1: P0620 ROLE_SERVRES: role r has no parameter `servres` (did you mean `ROLE_SERVERS`?)",
                "role.yaml: P0622 parameter `servers` is required, and has no value (set ROLE_SERVERS in the settings; Time servers.)",
            ]
        );
        let told = resolved("ROLE_SERVERS: ', '\nROLE_GRAVITY: 9.81\n");
        assert_eq!(
            told.expect_err("they do not fit"),
            [
                "s.yaml:3:1: P0620 ROLE_GRAVITY: role r has no parameter `gravity` (take the setting out; those of this role are `ROLE_COUNT`, `ROLE_PACE`, `ROLE_SERVERS`, `ROLE_TOKEN`)",
                "s.yaml:2:1: P0622 parameter `servers` is required, and has no value (set ROLE_SERVERS in the settings; Time servers.)",
            ]
        );
    }
}
