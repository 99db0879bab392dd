//! `kube.env.template`: the table for operators. Generated from [`KEYS`], committed, and compared in a test.

use super::key::DefaultValue;
use super::keys::KEYS;

const HEADER: &str = "\
# kube.env.template: every variable of /etc/pf9/kube.env. Generated from engine/src/env/keys.rs; change it there.
#
# Set them as `KEY: value` in /etc/pf9/nodelet/*.yaml (files in sorted order, later wins) or as
# `export KEY=\"value\"` in /etc/pf9/kube_override.env, which wins over those. An empty default means: not chosen.
# A secret is shown as secret:kube/KEY everywhere but in kube.env itself.
# A parameter of the role is set here, too: `ROLE_` and its name in upper case, as in `export ROLE_LEAST_MEMORY=\"2G\"` (docs/role.md).
";

/// The whole text of `kube.env.template`, the same for every run.
pub fn template() -> String {
    let mut text = HEADER.to_owned();
    let mut group = "";
    for key in KEYS {
        if key.group != group {
            group = key.group;
            text.push_str(&format!("\n# === {group} ===\n"));
        }
        let (word, default) = match key.default {
            DefaultValue::Required => ("required", ""),
            DefaultValue::Value("") => ("optional", ""),
            DefaultValue::Value(value) => ("default below", value),
            DefaultValue::Derived(pattern) => ("derived as below", pattern),
        };
        let mark = match (key.secret, key.shared) {
            (true, _) => "; secret",
            (false, true) => "; the same on all masters",
            (false, false) => "",
        };
        text.push_str(&format!("\n# {}\n# {}; {word}{mark}\n", key.doc, key.kind));
        // A required line has no comment sign, so that it cannot be overlooked.
        let sign = if key.default == DefaultValue::Required {
            ""
        } else {
            "# "
        };
        text.push_str(&format!("{sign}export {}=\"{default}\"\n", key.name));
    }
    text
}
