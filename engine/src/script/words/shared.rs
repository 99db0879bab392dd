//! What the words of several topics have in common.

use crate::script::vocabulary::{Arg, Modifier, Param, Word, WordKind, modifier, p};

/// One entry of the table.
pub(super) const fn word(
    name: &'static str,
    role: WordKind,
    params: &'static [Param],
    modifiers: &'static [Modifier],
    doc: &'static str,
    example: &'static str,
    rollback: &'static str,
) -> Word {
    Word {
        name,
        role,
        params,
        doc,
        example,
        rollback,
        modifiers,
    }
}

pub(super) const MODE: Modifier = modifier(
    "mode",
    &[p("mode", Arg::Mode)],
    "Permission bits. Default 0644, of a directory 0755, of an environment file 0640. A file that holds a secret has 0600 by default, and at most 0750: other users never read it.",
);
pub(super) const OWNER: Modifier = modifier(
    "owner",
    &[p("user", Arg::Text)],
    "User that owns it: a name in the host's `/etc/passwd` when the step runs, or a number. Default root.",
);
pub(super) const GROUP: Modifier = modifier(
    "group",
    &[p("group", Arg::Text)],
    "Group that owns it: a name in the host's `/etc/group` when the step runs, or a number. Default root.",
);
pub(super) const VARS: Modifier = modifier(
    "vars",
    &[p("vars", Arg::Map)],
    "The template's variables. Each must be used, and every variable that the template uses must be given.",
);
pub(super) const KUBECONFIG: Modifier = modifier(
    "kubeconfig",
    &[p("path", Arg::Path)],
    "Kubeconfig to use. Default: the admin's, for this host's own API server.",
);
