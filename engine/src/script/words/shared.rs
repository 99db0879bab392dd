//! What the words of several topics have in common.

use crate::script::vocabulary::{Modifier, modifier};

/// Makes a constant of each `CONSTANT = Variant name(parameter: Type, ..) { .. }`. `Variant` is one of `WordVariant`; that of a resource is
/// `Resource(Topic::Word)`, with a topic of `ResourceWord`. The modifiers of the word follow its texts, as in `modifiers!`.
macro_rules! words {
    ($($constant:ident = $kind:ident $(($topic:ident::$which:ident))? $name:ident($($params:tt)*) {
        doc: $doc:literal;
        example: $example:literal;
        rollback: $rollback:literal;
        $($modifiers:tt)*
    })*) => {
        $(pub(super) const $constant: $crate::script::vocabulary::Word =
            $crate::script::vocabulary::Word {
                name: stringify!($name),
                variant: $crate::script::variants::WordVariant::$kind$((
                    $crate::script::words::shared::topic!($topic $which)
                ))?,
                params: $crate::script::vocabulary::params!($($params)*),
                doc: $doc,
                example: $example,
                rollback: $rollback,
                modifiers: $crate::script::vocabulary::modifiers!($($modifiers)*),
            };)*
    };
}
pub(super) use words;

/// Makes the `ResourceWord` of a topic and a word.
macro_rules! topic {
    (Files $word:ident) => {
        $crate::script::variants::ResourceWord::Files($crate::script::variants::FileWord::$word)
    };
    (Pki $word:ident) => {
        $crate::script::variants::ResourceWord::Pki($crate::script::variants::PkiWord::$word)
    };
    (Containers $word:ident) => {
        $crate::script::variants::ResourceWord::Containers(
            $crate::script::variants::ContainerWord::$word,
        )
    };
    (System $word:ident) => {
        $crate::script::variants::ResourceWord::System($crate::script::variants::SystemWord::$word)
    };
    (Cluster $word:ident) => {
        $crate::script::variants::ResourceWord::Cluster(
            $crate::script::variants::ClusterWord::$word,
        )
    };
}
pub(super) use topic;

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
