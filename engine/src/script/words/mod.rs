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
    docker::IMAGE_DIRECTORY,
];

#[cfg(test)]
mod tests {
    use super::*;

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
