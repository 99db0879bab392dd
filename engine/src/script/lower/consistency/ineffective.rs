//! Modifiers of resources that say nothing beside another modifier: the author expects something that no step will do.
//!
//! Not here: modifiers that the observation of a check does not use (`checks`). Start with [`ineffective`].

use crate::model::Diagnostic;
use crate::script::recorder::Call;
use crate::script::variants::{
    ClusterWord, ContainerWord, FileWord, PkiWord, ResourceWord, SystemWord, WordVariant,
};

/// What only a unit that runs uses.
const OF_RUNNING_UNITS: &[&str] = &["runs", "restart_on", "reads", "reload_on"];

/// Findings for modifiers without effect.
pub(in crate::script::lower) fn ineffective(
    call: &Call,
    resource: ResourceWord,
) -> Vec<Diagnostic> {
    let mut options = call.options.iter();
    if let Some(absent) = options.find(|option| option.modifier.name == "absent") {
        if ignores_absent(resource) {
            let message = format!("`.absent()` has no effect on `{}`", call.word.name);
            let help = match resource {
                ResourceWord::System(SystemWord::Service) => {
                    "write .stopped() and .disabled() instead"
                }
                ResourceWord::Files(_)
                | ResourceWord::Pki(_)
                | ResourceWord::Containers(_)
                | ResourceWord::System(_)
                | ResourceWord::Cluster(_) => {
                    "remove it: this word cannot remove anything; if the role no longer has the step, nodelet reverts what the step did"
                }
            };
            return vec![Diagnostic::new("P0364", absent.span.clone(), message).help(help)];
        }
        let help = "remove it: the step only removes the resource";
        return beside(call, "absent", unused_when_absent(resource), help);
    }
    let by_api = |its: &str| {
        call.options
            .iter()
            .any(|option| option.modifier.name == its)
    };
    if matches!(resource, ResourceWord::Pki(PkiWord::Certificate)) && by_api("signed_by_api") {
        let help = "remove it: the masters decide how long the certificate is valid";
        return beside(call, "signed_by_api", &["valid_for"], help);
    }
    let is_stopped = call
        .options
        .iter()
        .any(|option| option.modifier.name == "stopped");
    if is_stopped && matches!(resource, ResourceWord::System(SystemWord::Service)) {
        let help = "remove it: only a unit that runs reads files and needs a program";
        return beside(call, "stopped", OF_RUNNING_UNITS, help);
    }
    Vec::new()
}

/// A finding for each of these modifiers that the word has beside the modifier `reason`.
fn beside(call: &Call, reason: &str, unused: &[&str], help: &str) -> Vec<Diagnostic> {
    let options = call.options.iter();
    options
        .filter(|option| unused.contains(&option.modifier.name))
        .map(|option| {
            let name = option.modifier.name;
            let message = format!("`.{name}` has no effect beside `.{reason}()`");
            Diagnostic::new("P0364", option.span.clone(), message).help(help)
        })
        .collect()
}

/// Whether the word can remove anything, so that `.absent()` makes it a step of a clean.
pub(in crate::script::lower) fn can_remove(call: &Call) -> bool {
    match call.word.variant {
        WordVariant::Resource(resource) => !ignores_absent(resource),
        WordVariant::Header | WordVariant::Check | WordVariant::Requirement => false,
    }
}

/// Whether the resource is the same with and without `.absent()`.
fn ignores_absent(resource: ResourceWord) -> bool {
    match resource {
        ResourceWord::System(
            SystemWord::Service
            | SystemWord::Sysctl
            | SystemWord::KernelModule
            | SystemWord::Packages
            | SystemWord::Command
            | SystemWord::RestoreSysctl
            | SystemWord::FirewallChain,
        )
        | ResourceWord::Cluster(
            ClusterWord::Node
            | ClusterWord::Drain
            | ClusterWord::PodContainer
            | ClusterWord::NodeRoutes
            | ClusterWord::EtcdMember
            | ClusterWord::EtcdPromoted,
        ) => true,
        ResourceWord::System(
            SystemWord::Link
            | SystemWord::FirewallChains
            | SystemWord::Ipsets
            | SystemWord::IpvsServices
            | SystemWord::Cgroup
            | SystemWord::Group
            | SystemWord::Timer,
        )
        | ResourceWord::Cluster(ClusterWord::Manifest | ClusterWord::Pods)
        | ResourceWord::Files(_)
        | ResourceWord::Pki(_)
        | ResourceWord::Containers(_) => false,
    }
}

/// The modifiers that say how a resource is made, without those that the word needs in any case.
fn unused_when_absent(resource: ResourceWord) -> &'static [&'static str] {
    match resource {
        ResourceWord::Files(FileWord::Directory) => &["mode", "owner", "group", "exclusive"],
        ResourceWord::Files(FileWord::File) => &[
            "mode",
            "owner",
            "group",
            "content",
            "payload",
            "copy_of",
            "create_only",
            "sensitive",
        ],
        // A plan shows the text, unless it is sensitive.
        ResourceWord::Files(FileWord::Template) => &["mode", "owner", "group", "create_only"],
        ResourceWord::Files(FileWord::EnvFile) => &["mode", "owner", "group", "values"],
        ResourceWord::Pki(PkiWord::CertificateAuthority) => &["common_name", "years"],
        ResourceWord::Pki(PkiWord::Certificate) => &[
            "organizations",
            "names",
            "addresses",
            "valid_for",
            "signed_by_api",
        ],
        ResourceWord::Pki(PkiWord::Kubeconfig) => &["by_path"],
        ResourceWord::Containers(ContainerWord::Container) => &[
            "command",
            "env",
            "env_from",
            "mount",
            "mount_read_only",
            "host_network",
            "privileged",
            "user",
            "restart",
            "restart_on",
            "reads",
        ],
        ResourceWord::Containers(ContainerWord::ImageDirectory) => &["except"],
        ResourceWord::System(SystemWord::Timer) => &["schedule", "run", "command"],
        ResourceWord::System(SystemWord::Link) => &["carries_pods"],
        ResourceWord::Files(FileWord::Symlink | FileWord::Unit | FileWord::DataId)
        | ResourceWord::Pki(
            PkiWord::ServiceAccountKey | PkiWord::EncryptionKeys | PkiWord::JoinFile,
        )
        | ResourceWord::Containers(ContainerWord::Image)
        | ResourceWord::System(
            SystemWord::Service
            | SystemWord::Sysctl
            | SystemWord::KernelModule
            | SystemWord::Packages
            | SystemWord::Command
            | SystemWord::FirewallChains
            | SystemWord::Ipsets
            | SystemWord::IpvsServices
            | SystemWord::Cgroup
            | SystemWord::RestoreSysctl
            | SystemWord::FirewallChain
            | SystemWord::Group,
        )
        | ResourceWord::Cluster(
            ClusterWord::Manifest
            | ClusterWord::Drain
            | ClusterWord::Node
            | ClusterWord::Pods
            | ClusterWord::PodContainer
            | ClusterWord::NodeRoutes
            | ClusterWord::EtcdMember
            | ClusterWord::EtcdPromoted,
        ) => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::words::WORDS;

    #[test]
    fn the_words_have_these_modifiers() {
        let mut found = 0;
        for word in WORDS {
            let WordVariant::Resource(resource) = word.variant else {
                continue;
            };
            let unused = unused_when_absent(resource);
            for name in unused {
                assert!(word.modifier(name).is_some(), "{}.{name}", word.name);
            }
            assert!(unused.is_empty() || !ignores_absent(resource));
            found += unused.len();
            if matches!(resource, ResourceWord::System(SystemWord::Service)) {
                for name in OF_RUNNING_UNITS {
                    assert!(word.modifier(name).is_some(), "{}.{name}", word.name);
                }
            }
        }
        assert!(found > 0);
    }
}
