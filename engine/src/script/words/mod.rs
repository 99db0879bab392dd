//! Every word of the language: its name, parameters, modifiers and documentation, by topic.
//!
//! Each word names its variant (`variants`). Its meaning is in `lower`, what it makes in `engine::resource`.
//! `reference` writes `phases/REFERENCE.md` from this table.
//!
//! Start with `files`.

mod docker;
mod files;
mod kernel;
mod kubernetes;
mod phase;
mod pki;
mod shared;
mod system;

use super::vocabulary::Word;

/// The table. A word's index in it is its type in the script engine, so new words go to the end.
pub static WORDS: &[Word] = &[
    phase::PHASE,
    files::DIRECTORY,
    files::FILE,
    files::TEMPLATE,
    files::SYMLINK,
    files::UNIT,
    files::ENV_FILE,
    pki::CERTIFICATE_AUTHORITY,
    pki::SERVICE_ACCOUNT_KEY,
    pki::CERTIFICATE,
    pki::KUBECONFIG,
    docker::IMAGE,
    docker::CONTAINER,
    system::SERVICE,
    kernel::SYSCTL,
    kernel::KERNEL_MODULE,
    system::PACKAGES,
    kernel::LINK,
    kubernetes::PODS,
    kubernetes::MANIFEST,
    kubernetes::NODE,
    kubernetes::DRAIN,
    system::COMMAND,
    phase::CHECK,
    phase::REQUIRE,
    kernel::FIREWALL_CHAINS,
    kernel::IPSETS,
    kernel::IPVS_SERVICES,
    system::CGROUP,
    kernel::RESTORE_SYSCTL,
    system::GROUP,
    system::TIMER,
    kubernetes::POD_CONTAINER,
    files::DATA_ID,
    pki::ENCRYPTION_KEYS,
    pki::JOIN_FILE,
    docker::IMAGE_DIRECTORY,
    kernel::FIREWALL_CHAIN,
    kubernetes::NODE_ROUTES,
    kubernetes::ETCD_MEMBER,
    kubernetes::ETCD_PROMOTED,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::vocabulary::{Param, TextKind};

    /// A parameter of these words may have control characters that others must not have, so each one is here.
    #[test]
    fn each_parameter_whose_texts_are_not_plain_is_known() {
        let mut found = Vec::new();
        let mut note = |name: &str, params: &[Param]| {
            for param in params.iter().filter(|param| param.text != TextKind::Plain) {
                found.push((format!("{name}({})", param.name), param.text));
            }
        };
        for word in WORDS {
            note(word.name, word.params);
            for modifier in word.all_modifiers() {
                note(&format!("{}.{}", word.name, modifier.name), modifier.params);
            }
        }
        let expected = [
            ("file.content(text)", TextKind::Content),
            ("unit(name)", TextKind::UnitName),
            ("container.command(argv)", TextKind::Command),
            ("service(unit)", TextKind::UnitName),
            ("sysctl(value)", TextKind::KernelValue),
            ("command(argv)", TextKind::Command),
            ("command.unless(argv)", TextKind::Command),
            ("check.expect(text)", TextKind::Output),
            ("check.run(argv)", TextKind::Command),
            ("check.service_active(unit)", TextKind::UnitName),
            ("timer.command(argv)", TextKind::Command),
        ];
        assert_eq!(found, expected.map(|(name, kind)| (name.to_owned(), kind)));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = WORDS.iter().map(|word| word.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        for word in WORDS {
            let mut modifiers: Vec<_> = word.all_modifiers().map(|m| m.name).collect();
            modifiers.sort_unstable();
            let all = modifiers.len();
            modifiers.dedup();
            assert_eq!(modifiers.len(), all, "modifiers of {}", word.name);
        }
    }
}
