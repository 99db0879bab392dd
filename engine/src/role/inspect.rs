//! Mistakes in `role.yaml` that its types allow, except those in parameters.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use super::RoleManifest;
use super::manifest::place;
use crate::model::{Diagnostic, closest};

/// The kinds of node that a role can have phases for.
const NODE_KINDS: [&str; 2] = ["master", "worker"];

/// Finds mistakes that the manifest's types allow.
pub(super) fn inspect(manifest: &RoleManifest, text: &str, findings: &mut Vec<Diagnostic>) {
    if !is_name(&manifest.name) {
        let message = format!("`{}` is not the name of a role", manifest.name);
        findings.push(
            Diagnostic::new("P0616", place(text, "name"), message).help(
                "it is the name of a directory in /opt/pf9/roles: use at most 64 letters, digits, `-`, `_` and `.`, and begin with a letter or digit",
            ),
        );
    }
    for (node, names) in &manifest.nodes {
        if !NODE_KINDS.contains(&node.as_str()) {
            let message = format!("`{node}` is not a node kind");
            let help = match closest(node, NODE_KINDS) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("node kinds are {}", NODE_KINDS.join(" and ")),
            };
            findings.push(Diagnostic::new("P0617", place(text, node), message).help(help));
        }
        if names.is_empty() {
            let message = format!("node kind `{node}` has no phases");
            findings.push(
                Diagnostic::new("P0612", place(text, node), message).help(format!(
                    "list its phases below `{node}:`, or remove `{node}:`"
                )),
            );
        }
        let mut seen = BTreeSet::new();
        for name in names.iter().filter(|name| !seen.insert(*name)) {
            let message = format!("phase `{name}` is listed twice in `{node}`");
            findings.push(
                Diagnostic::new("P0609", place(text, name), message).help("remove one of the two"),
            );
        }
    }
    if let Some(digest) = &manifest.checksums
        && (digest.len() != 64
            || !digest
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    {
        let message = format!("`{digest}` is no SHA-256 in lower-case hexadecimal");
        findings.push(
            Diagnostic::new("P0614", place(text, "checksums"), message)
                .help("write the 64 digits that `sha256sum SHA256SUMS` prints"),
        );
    }
    for path in &manifest.payload {
        if Path::new(path)
            .components()
            .any(|part| !matches!(part, Component::Normal(_)))
        {
            let message = format!("`{path}` is not a path within the payload");
            findings.push(
                Diagnostic::new("P0610", place(text, path), message)
                    .help("write it relative to the payload, without `..`"),
            );
        }
    }
}

/// Whether this can be a role's name, which becomes a part of paths.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let first = name.bytes().next();
    name.len() <= 64
        && name.bytes().all(fits)
        && first.is_some_and(|one| one.is_ascii_alphanumeric())
}
