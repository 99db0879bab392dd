//! What the words of several topics have in common.

use crate::script::vocabulary::{Modifier, modifier};

/// Makes a constant of each `CONSTANT = Kind name(parameter: Type, ..) { .. }`. The modifiers of the word follow its texts, as in
/// `modifiers!`.
macro_rules! words {
    ($($constant:ident = $kind:ident $name:ident($($params:tt)*) {
        doc: $doc:literal;
        example: $example:literal;
        rollback: $rollback:literal;
        $($modifiers:tt)*
    })*) => {
        $(pub(super) const $constant: $crate::script::vocabulary::Word =
            $crate::script::vocabulary::Word {
                name: stringify!($name),
                role: $crate::script::vocabulary::WordKind::$kind,
                params: $crate::script::vocabulary::params!($($params)*),
                doc: $doc,
                example: $example,
                rollback: $rollback,
                modifiers: $crate::script::vocabulary::modifiers!($($modifiers)*),
            };)*
    };
}
pub(super) use words;

pub(super) const MODE: Modifier = modifier!(
    mode(mode: Mode) =>
        "Permission bits. Default 0644, of a directory 0755, of an environment file 0640. A file that holds a secret has 0600 by default, and at most 0750: other users never read it."
);
pub(super) const OWNER: Modifier = modifier!(
    owner(user: Text) =>
        "User that owns it: a name in the host's `/etc/passwd` when the step runs, or a number. Default root."
);
pub(super) const GROUP: Modifier = modifier!(
    group(group: Text) =>
        "Group that owns it: a name in the host's `/etc/group` when the step runs, or a number. Default root."
);
pub(super) const VARS: Modifier = modifier!(
    vars(vars: Map) =>
        "The template's variables. Each must be used, and every variable that the template uses must be given."
);
pub(super) const KUBECONFIG: Modifier = modifier!(
    kubeconfig(path: Path) =>
        "Kubeconfig to use. Default: the admin's, for this host's own API server."
);
