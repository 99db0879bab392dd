//! How nodes of the cluster get their certificates, if this host signs them.

use std::path::PathBuf;
use std::time::Duration;

use engine::plan::Plan;
use engine::resource::Spec;
use engine::resource::pki::kubeconfig_path;
use serde::{Deserialize, Serialize};

/// The kubeconfig with which this host's own phases use its API server.
const LOCAL_ADMIN: &str = "local-admin";
/// A master gives its own kubelet such a certificate; those of other nodes live as long.
const OWN: &str = "kubelet/apiserver";

/// How long the certificates live, and how the API server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Signing {
    pub(crate) kubeconfig: PathBuf,
    pub(crate) life: Duration,
}

impl Signing {
    /// The signing of a plan that makes the cluster's authority; `None` for other plans.
    pub(super) fn of(plan: &Plan) -> Option<Self> {
        let (mut signs, mut reaches, mut life) = (false, false, None);
        for step in plan.phases.iter().flat_map(|phase| &phase.steps) {
            match &step.spec {
                Spec::Authority(authority) => signs |= authority.name == "cluster",
                Spec::Kubeconfig(kubeconfig) => reaches |= kubeconfig.name == LOCAL_ADMIN,
                Spec::Certificate(certificate) if certificate.path == OWN => {
                    life = Some(certificate.life);
                }
                _ => {}
            }
        }
        let life = life.filter(|_| signs && reaches)?;
        Some(Self {
            kubeconfig: kubeconfig_path(LOCAL_ADMIN),
            life,
        })
    }

    /// The command that signs.
    pub(crate) fn words(&self) -> Vec<String> {
        let words = [
            "pki",
            "sign",
            "--kubeconfig",
            &self.kubeconfig.display().to_string(),
            "--life",
            &humantime::format_duration(self.life).to_string(),
        ];
        words.map(str::to_owned).to_vec()
    }

    /// The command that labels the workers which this host has signed for, and deletes the nodes of those that have left.
    pub(crate) fn workers(&self) -> Vec<String> {
        let kubeconfig = self.kubeconfig.display().to_string();
        let words = ["workers", "--kubeconfig", &kubeconfig];
        words.map(str::to_owned).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command, PkiCommand};
    use crate::pass::tests::plan_of_master;

    #[tokio::test]
    async fn a_master_signs_as_long_as_its_own_certificates_live() {
        let signing = Signing::of(&plan_of_master().await).expect("a master signs");
        let argv = [vec!["nodelet".to_owned()], signing.words()].concat();
        let Command::Pki(PkiCommand::Sign(args)) = Cli::parse_from(argv).command else {
            panic!("it is another command");
        };
        assert_eq!(args.kubeconfig, signing.kubeconfig);
        assert_eq!(args.life, signing.life.min(engine::exec::LONGEST_LIFE));
        let argv = [vec!["nodelet".to_owned()], signing.workers()].concat();
        let Command::Workers(args) = Cli::parse_from(argv).command else {
            panic!("it is another command");
        };
        assert_eq!(args.kubeconfig, signing.kubeconfig);
    }

    #[tokio::test]
    async fn a_host_without_the_authority_signs_nothing() {
        let mut plan = plan_of_master().await;
        for phase in &mut plan.phases {
            phase
                .steps
                .retain(|step| !matches!(step.spec, Spec::Authority(_)));
        }
        assert_eq!(Signing::of(&plan), None);
    }
}
