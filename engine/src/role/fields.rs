//! What `docs/role.md` says about the keys of `role.yaml` and the fields of `role`. Tests keep these tables equal to the types.

use std::fmt::Write as _;

/// A key of a file, or a field that scripts read.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: &'static str,
    /// What it means; one sentence or more.
    pub doc: &'static str,
}

impl Field {
    /// A table of fields in Markdown; `before` stands before each name, for example `host.`.
    #[must_use]
    pub fn table(fields: &[Self], before: &str) -> String {
        let mut text = "| name | type | meaning |\n|---|---|---|\n".to_owned();
        for field in fields {
            let _ = writeln!(
                text,
                "| `{before}{}` | {} | {} |",
                field.name, field.kind, field.doc
            );
        }
        text
    }
}

/// Makes a list of a [`Field`] of each `name: "type" => "meaning";`.
macro_rules! field_list {
    ($($name:ident: $kind:literal => $doc:literal;)*) => {
        &[$($crate::role::Field {
            name: stringify!($name),
            kind: $kind,
            doc: $doc,
        }),*]
    };
}
pub(crate) use field_list;

/// The keys of `role.yaml`.
pub const MANIFEST_KEYS: &[Field] = field_list! {
    version: "integer" => "Version of this format: 1.";
    name: "text" =>
        "The role's name: at most 64 letters, digits, `-`, `_` and `.`, a letter or digit first. An installed role is in `/opt/pf9/roles/NAME`.";
    release: "text" => "The role's own version.";
    about: "text" => "What the role makes of a host, one line.";
    nodes: "map of lists" =>
        "The phases for each node kind (`master`, `worker`). Phases that neither `.requires` nor `.after` orders keep the order of this list. The `.nodes` of a phase has each node kind that lists the phase.";
    parameters: "map" =>
        "Optional. The role's parameters by name: lower-case letters, digits and `_`, a letter first.";
    checksums: "text" =>
        "Optional. SHA-256 of the file `SHA256SUMS`, which has the checksum of each file in `phases/` and `payload/`. Only with it are scripts, programs, images and packages verified before they are used. For installed packages; left out in a checkout.";
    payload: "list of texts" =>
        "Files and directories that must be in `payload/`, relative to it. Write it last, as `[]` if there is no payload: if the file is cut short, the missing key shows it.";
};

/// The keys of one parameter in `role.yaml`.
pub const PARAMETER_KEYS: &[Field] = field_list! {
    type: "text" => "Required. `text`, `integer`, `bool`, or `texts` for a list of texts.";
    default: "of its type" =>
        "The value where no setting gives one. Required, except for a parameter with `required: true`.";
    least: "integer" => "Optional. The least value of an `integer`.";
    most: "integer" => "Optional. The greatest value of an `integer`.";
    choices: "list of texts" =>
        "Optional. The texts that a `text`, or each item of `texts`, may be. Without it, any text is accepted.";
    required: "bool" =>
        "Optional, false by default. If true, a `text` or `texts` must not be empty, so a setting must give it if there is no `default`.";
    secret: "bool" =>
        "Optional, false by default. If true, the value of a `text` is a secret: a script gets a reference to it, and no plan, log or report shows it.";
    doc: "text" => "Required. What the parameter decides. Messages show it.";
};

/// The fields of `role` that every role has. The role's parameters are there, too.
pub const ROLE_FIELDS: &[Field] = field_list! {
    name: "text" => "The role's name, from `role.yaml`.";
    release: "text" => "The role's version, from `role.yaml`.";
    node: "text" => "The node kind of this host: `master` or `worker`.";
    payload: "text" =>
        "The directory of the role's payload on the host, for example `/opt/pf9/roles/chrony/current/payload`.";
    kube_env: "map" => "All settings by name, as texts, for `env_file`; a secret is a reference.";
};

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::role::{Parameter, ParameterKind, RoleManifest};

    /// The keys of a value as it is serialized.
    fn keys(value: &impl serde::Serialize) -> BTreeSet<String> {
        let value = serde_json::to_value(value).expect("it is JSON");
        let map = value.as_object().expect("it is a map");
        map.keys().cloned().collect()
    }

    fn names(fields: &[Field]) -> BTreeSet<String> {
        let names = fields.iter().map(|field| field.name.to_owned());
        names.collect()
    }

    #[test]
    fn the_tables_have_each_key() {
        let parameter = Parameter {
            kind: ParameterKind::Text,
            default: "a".into(),
            least: Some(1),
            most: Some(2),
            choices: vec!["a".to_owned()],
            required: true,
            secret: true,
            doc: "A parameter.".to_owned(),
        };
        assert_eq!(keys(&parameter), names(PARAMETER_KEYS));
        let manifest = RoleManifest {
            version: 1,
            name: "r".to_owned(),
            release: "1".to_owned(),
            about: "A role.".to_owned(),
            nodes: BTreeMap::new(),
            parameters: BTreeMap::from([("a".to_owned(), parameter)]),
            checksums: Some(String::new()),
            payload: Vec::new(),
        };
        assert_eq!(keys(&manifest), names(MANIFEST_KEYS));
    }
}
