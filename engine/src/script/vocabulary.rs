//! The table of words: it feeds the engine, the reference page, the linter and the did-you-mean help.

use super::variants::{ModifierVariant, WordVariant};

/// What a word begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordKind {
    /// The phase itself.
    Header,
    /// A resource: one step.
    Resource,
    /// A check.
    Check,
    /// A precondition.
    Requirement,
}

/// Type of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// Text, not empty.
    Text,
    /// Text, possibly empty.
    AnyText,
    /// An absolute path.
    Path,
    /// Permission bits as text, for example `"0644"`.
    Mode,
    /// Text such as `"5m"` or `"500ms"`.
    Duration,
    /// Text such as `"512M"` or `"10G"`, in powers of 1024.
    Size,
    /// An IP address.
    Address,
    /// A whole number of at least this.
    Integer(i64),
    /// A whole number from this to that.
    Between(i64, i64),
    /// True or false.
    Bool,
    /// A list of texts, not empty.
    Texts,
    /// A list of texts, possibly empty.
    AnyTexts,
    /// A list of absolute paths, not empty.
    Paths,
    /// A list of IP addresses, not empty.
    Addresses,
    /// A list of ports, not empty.
    Ports,
    /// A map of anything, not empty.
    Map,
    /// A step, or a list of steps.
    Steps,
    /// A list of anything, possibly empty.
    AnyList,
    /// A closure without parameters.
    Closure,
}

impl Arg {
    /// The type, as messages name it.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::AnyText => "text, possibly empty",
            Self::Path => "an absolute path without `.`, `..`, `//` and a `/` at its end",
            Self::Mode => "permission bits as text such as \"0644\"",
            Self::Duration => "a duration as text such as \"30s\" or \"5m\"",
            Self::Size => "a size as text such as \"512M\" or \"10G\"",
            Self::Address => "an IP address",
            Self::Integer(_) | Self::Between(..) => "a whole number",
            Self::Bool => "true or false",
            Self::Texts => "a list of texts",
            Self::AnyTexts => "a list of texts, possibly empty",
            Self::Paths => "a list of absolute paths without `.`, `..`, `//` and a `/` at the end",
            Self::Addresses => "a list of IP addresses",
            Self::Ports => "a list of ports",
            Self::Map => "a map such as #{ name: value }",
            Self::Steps => "a step or a list of steps",
            Self::AnyList => "a list, possibly empty",
            Self::Closure => "a closure such as || { … }",
        }
    }

    /// The type in a few words, for the reference page, which explains them.
    #[must_use]
    pub fn short(self) -> String {
        match self {
            Self::Integer(least) => return format!("whole number of at least {least}"),
            Self::Between(least, most) => return format!("whole number from {least} to {most}"),
            Self::Text => "text",
            Self::AnyText => "text, may be empty",
            Self::Path => "path",
            Self::Mode => "mode",
            Self::Duration => "duration",
            Self::Size => "size",
            Self::Address => "address",
            Self::Bool => "true or false",
            Self::Texts => "list of texts",
            Self::AnyTexts => "list of texts, may be empty",
            Self::Paths => "list of paths",
            Self::Addresses => "list of addresses",
            Self::Ports => "list of ports",
            Self::Map => "map",
            Self::Steps => "step or list of steps",
            Self::AnyList => "list, may be empty",
            Self::Closure => "closure",
        }
        .to_owned()
    }
}

/// What the texts of an argument are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    /// Names, paths and other texts in one line: reports show them as they are.
    Plain,
    /// A program and its arguments. An argument may be a script for a shell.
    Command,
    /// What a program prints.
    Output,
    /// The value of a kernel setting.
    KernelValue,
    /// The content of a file.
    Content,
    /// The name of a unit.
    UnitName,
}

impl TextKind {
    /// The control characters that the texts may have. `None` if they are not judged here.
    pub(super) fn control_characters(self) -> Option<&'static [char]> {
        match self {
            Self::Plain => Some(&[]),
            // They may have several lines.
            Self::Command | Self::Output => Some(&['\n', '\t']),
            // The kernel separates some numbers by tabs.
            Self::KernelValue => Some(&['\t']),
            // Names of units have a rule of their own.
            Self::Content | Self::UnitName => None,
        }
    }
}

/// A parameter of a word or modifier.
#[derive(Debug, Clone, Copy)]
pub struct Param {
    /// Its name, for readers.
    pub name: &'static str,
    /// Its type.
    pub arg: Arg,
    /// What its texts are.
    pub text: TextKind,
}

/// A word: it begins the phase, a step, a check or a requirement.
#[derive(Debug)]
pub struct Word {
    /// As it is written.
    pub name: &'static str,
    /// What it begins, and what `lower` makes of it.
    pub(super) variant: WordVariant,
    /// Its parameters.
    pub params: &'static [Param],
    /// One line, then details.
    pub doc: &'static str,
    /// A script that uses it; compiled and evaluated by a test.
    pub example: &'static str,
    /// What undoing it does.
    pub rollback: &'static str,
    /// What can follow it.
    pub modifiers: &'static [Modifier],
}

/// A modifier: it sets an option of the word before it.
#[derive(Debug)]
pub struct Modifier {
    /// As it is written.
    pub name: &'static str,
    /// Its parameters.
    pub params: &'static [Param],
    /// One line.
    pub doc: &'static str,
    /// Whether it may be repeated.
    pub repeatable: bool,
    /// What `lower` makes of it.
    pub(super) variant: ModifierVariant,
}

/// Makes a list of parameters of `name: Type, ..`; a type is a variant of [`Arg`]. `name: Type as Kind` sets its [`TextKind`]; without it,
/// the texts are plain.
macro_rules! params {
    (@text) => {
        $crate::script::vocabulary::TextKind::Plain
    };
    (@text $text:ident) => {
        $crate::script::vocabulary::TextKind::$text
    };
    ($($name:ident: $arg:ident $(($($bound:literal),+))? $(as $text:ident)?),*) => {
        &[$($crate::script::vocabulary::Param {
            name: stringify!($name),
            arg: $crate::script::vocabulary::Arg::$arg $(($($bound),+))?,
            text: $crate::script::vocabulary::params!(@text $($text)?),
        }),*]
    };
}
pub(super) use params;

/// Makes a [`Modifier`] of `name(parameter: Type, ..) => "doc"`; `#repeatable` stands before one that may be repeated. A name alone is a
/// constant that several words share. `= Kind::Variant` before `=>` sets its `ModifierVariant`; without it, the modifier is an option.
macro_rules! modifier {
    (@repeatable repeatable) => {
        true
    };
    (@repeatable) => {
        false
    };
    (@variant) => {
        $crate::script::variants::ModifierVariant::Option
    };
    (@variant $kind:ident $which:ident) => {
        $crate::script::variants::ModifierVariant::$kind($crate::script::variants::$kind::$which)
    };
    ($shared:ident) => {
        $shared
    };
    ($(#$mark:ident)? $name:ident($($params:tt)*) $(= $kind:ident::$which:ident)? => $doc:literal) => {
        $crate::script::vocabulary::Modifier {
            name: stringify!($name),
            params: $crate::script::vocabulary::params!($($params)*),
            doc: $doc,
            repeatable: $crate::script::vocabulary::modifier!(@repeatable $($mark)?),
            variant: $crate::script::vocabulary::modifier!(@variant $($kind $which)?),
        }
    };
}
pub(super) use modifier;

/// Makes a list of modifiers, each followed by `;`.
macro_rules! modifiers {
    ($($(#$mark:ident)? $name:ident $(($($params:tt)*) $(= $kind:ident::$which:ident)? => $doc:literal)?;)*) => {
        &[$($crate::script::vocabulary::modifier!(
            $(#$mark)? $name $(($($params)*) $(= $kind::$which)? => $doc)?
        )),*]
    };
}
pub(super) use modifiers;

/// Modifiers of every resource.
pub static STEP_POLICY: &[Modifier] = modifiers! {
    timeout(duration: Duration) => "Bound on one try. Default 2m.";
    retry(tries: Between(1, 100_000), every: Duration) =>
        "Number of tries, and the pause before the second one. Later pauses are longer, with jitter.";
    keep() => "A rollback and a clean leave what the step makes.";
    absent() => "The resource must not exist.";
    when(condition: Bool) => "The step is left out when this is false.";
};

/// Modifiers of every check.
pub static CHECK_POLICY: &[Modifier] = modifiers! {
    every(pause: Duration) =>
        "Pause between two tries while the phase starts, at most the timeout. Default 500ms.";
    timeout(duration: Duration) => "How long a starting phase waits for it. Default 60s.";
    failures(count: Between(1, 1_000)) =>
        "Failures in a row that make the phase unhealthy. Default 1.";
    advisory() =>
        "If it fails, nodelet only reports it: the phase counts as working, and nothing is restarted.";
    needs_api(node: Text) =>
        "It needs an API server on another host. If it fails while that server does not answer this host, or refuses it, it is Unknown, and nothing is restarted. The server is asked for this node, as kubelet.";
    needs_quorum() =>
        "It needs the quorum of etcd. If it fails while etcd has none because other masters' members do not answer, and this host's member runs, it is Unknown, and nothing is restarted. It changes nothing on the only master of a cluster.";
    when(condition: Bool) => "The check is left out when this is false.";
};

/// Modifiers of every requirement.
pub static REQUIREMENT_POLICY: &[Modifier] = modifiers! {
    when(condition: Bool) => "The requirement is left out when this is false.";
};

impl Word {
    /// What it begins.
    #[must_use]
    pub fn kind(&self) -> WordKind {
        match self.variant {
            WordVariant::Header => WordKind::Header,
            WordVariant::Resource(_) => WordKind::Resource,
            WordVariant::Check => WordKind::Check,
            WordVariant::Requirement => WordKind::Requirement,
        }
    }

    /// Its own modifiers, then those that all words of its kind have.
    pub fn all_modifiers(&self) -> impl Iterator<Item = &'static Modifier> {
        let policy: &'static [Modifier] = match self.kind() {
            WordKind::Header => &[],
            WordKind::Resource => STEP_POLICY,
            WordKind::Check => CHECK_POLICY,
            WordKind::Requirement => REQUIREMENT_POLICY,
        };
        self.modifiers.iter().chain(policy)
    }

    /// Its modifier of this name.
    #[must_use]
    pub fn modifier(&self, name: &str) -> Option<&'static Modifier> {
        self.all_modifiers().find(|modifier| modifier.name == name)
    }
}

/// Words that take no modifier and begin nothing of their own: `secret`, `output`, and the lanes.
pub static FUNCTIONS: &[(&str, &[Param], &str)] = &[
    (
        "secret",
        params!(name: Text),
        "A secret by name; its value appears only while a step converges.",
    ),
    (
        "output",
        params!(step: Steps, field: Text),
        "What a step finds or makes. It is known only when the plan runs.",
    ),
    (
        "on_stop",
        params!(steps: Closure),
        "Steps that a stop runs, to end what the inverses of the phase's own steps do not end.",
    ),
    (
        "on_rollback",
        params!(steps: Closure),
        "Steps that a rollback runs, after it has reverted the phase's receipts.",
    ),
    (
        "on_clean",
        params!(steps: Closure),
        "Steps that a clean runs, to remove what the phase's programs leave behind; each has `.absent()`, except `restore_sysctl`. What existed before the phase's first change is not the role's and stays.",
    ),
];
