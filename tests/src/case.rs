//! A host and its settings, and the plan that the role makes of them.

use engine::env::KubeEnv;
use engine::facts::Facts;
use engine::host::live::LiveHost;
use engine::model::Diagnostic;
use engine::plan::Plan;
use engine::planner;
use engine::role::RolePackage;

use crate::{block_on, fixtures, repository, text};

/// Every case of the role `pf9-kube`: its name, which is that of its settings, and the host's.
pub const CASES: &[(&str, &str)] = &[
    ("cp-1", "cp-1"),
    ("cp-1-vip", "cp-1"),
    ("cp-1-options", "cp-1"),
    ("cp-2-nodocker", "cp-2-nodocker"),
    ("cp-2-ipvs", "cp-2-nodocker"),
    ("wk-1", "w-1"),
];

/// A host and its settings.
pub struct Case {
    /// The facts of the host.
    pub facts: Facts,
    /// The resolved settings.
    pub settings: KubeEnv,
    role: RolePackage,
}

impl Case {
    /// The case of this name, from `fixtures/hosts` and `fixtures/settings`.
    ///
    /// # Panics
    /// Its fixtures are not there or have mistakes.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let (_, host) = CASES
            .iter()
            .find(|(case, _)| *case == name)
            .expect("the table has the case");
        Self::of(host, &text(fixtures(format!("settings/{name}.yaml"))))
    }

    /// A host from `fixtures/hosts` with these settings.
    ///
    /// # Panics
    /// The fixture is not there, or one of the inputs has mistakes.
    #[must_use]
    pub fn of(host: &str, settings: &str) -> Self {
        let facts = text(fixtures(format!("hosts/{host}.yaml")));
        let files = vec![("settings.yaml".to_owned(), settings.as_bytes().to_vec())];
        let role = repository().join("roles/pf9-kube").display().to_string();
        Self {
            facts: Facts::from_yaml(&facts).expect("the host fixture is facts"),
            settings: KubeEnv::resolve(files).expect("the settings are right"),
            role: block_on(RolePackage::load(&LiveHost::new(), &role))
                .expect("the role has no mistakes"),
        }
    }

    /// The plan that the role makes for this case.
    ///
    /// # Errors
    /// All diagnostics.
    pub fn plan(&self) -> Result<Plan, Vec<Diagnostic>> {
        planner::plan(&self.role, &self.settings, &self.facts).map_err(|error| error.findings)
    }

    /// The plan of a case that has one.
    ///
    /// # Panics
    /// It has none.
    #[must_use]
    pub fn planned(&self) -> Plan {
        self.plan()
            .unwrap_or_else(|findings| panic!("no plan: {findings:#?}"))
    }
}
