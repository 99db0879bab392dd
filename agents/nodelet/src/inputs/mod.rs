//! What a plan is made from: role package, settings and facts, read from disk and checked.
//!
//! [`read`] gives the [`Inputs`] of a command: the plan, the facts, the secrets, and the identity that the host would have. From them
//! [`Inputs::runner`] makes the runner that carries the plan out. `settings_files`, `role_package` and `host_facts` read one kind of input
//! each, and `directories` checks the directories that settings name. `last_good_settings` keeps copies for the time when the files are
//! invalid. `identity` and `installed_identity` tell whether the host would become another one. `private_state` keeps the state
//! directory closed to other users, and `lost_masters` finds the masters without the list of them.
//!
//! How a plan is made is in `engine::planner`; what a command does with it is in `commands`. Start with [`read`].

mod directories;
mod host_facts;
pub(crate) mod identity;
pub(crate) mod installed_identity;
pub(crate) mod last_good_settings;
mod lost_masters;
pub(crate) mod private_state;
mod role_package;
mod settings_files;

use anyhow::Result;
use engine::env::{KubeEnv, SettingValue};
use engine::exec::{EventSink, Recording, Runner, unmet};
use engine::facts::{FactQuery, Facts};
use engine::host::Host;
use engine::host::live::LiveHost;
use engine::model::{SecretRef, count};
use engine::plan::Plan;
use engine::planner;
use engine::resource::SecretStore;
use engine::role::RolePackage;

use crate::cli::{RoleArgs, TargetArgs};
use crate::inputs::directories::{
    files_are_in_directories_of_root, refuse_directories, taken_directories,
};
use crate::inputs::host_facts::{PlannedName, facts_for, read_facts};
use crate::inputs::identity::{Changed, Identity};
use crate::inputs::role_package::{role, usable};
use crate::inputs::settings_files::settings_in;
use crate::output::problem::{Problem, Refused};

pub(crate) use host_facts::gather_facts;
pub(crate) use settings_files::settings;

/// The message when ROLE is none.
pub(crate) const NO_ROLE: &str =
    "ROLE is none, so this host has no role for now; set its role in the settings (`ROLE: master`)";

/// A plan and what it was made from.
pub(crate) struct Inputs {
    pub(crate) plan: Plan,
    pub(crate) facts: Facts,
    pub(crate) secrets: SettingSecrets,
    pub(crate) identity: Identity,
    pub(crate) role: Role,
    /// The change of the host's name since its set-up, if the plan has the recorded name because of it: with the last good settings, and by
    /// [`with_recorded_name`] and [`read_as_set_up`].
    pub(crate) renamed: Option<Changed>,
}

impl Inputs {
    /// The settings that the plan was made with.
    pub(crate) fn settings(&self) -> &KubeEnv {
        &self.secrets.0
    }
}

/// The role package that a plan was made from.
pub(crate) enum Role {
    /// The one that is installed.
    Installed(Box<RolePackage>),
    /// The last good one.
    LastGood {
        /// What is wrong with the installed one. If nothing is, the installed one is another version, which does not come into force while
        /// the host has a wrong name.
        problems: Vec<String>,
        /// The release of that version, if its payload may have other files than that of the last good one.
        pending_release: Option<String>,
    },
}

/// Secrets among the settings.
pub(crate) struct SettingSecrets(pub(crate) KubeEnv);

impl SecretStore for SettingSecrets {
    fn get(&self, secret: &SecretRef) -> Option<String> {
        match self.0.get(secret.0.strip_prefix("kube/")?)? {
            SettingValue::Secret(text) => Some(text.expose().to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
impl Inputs {
    /// A plan that was made from these and a role package that is not installed any more, for tests.
    pub(crate) fn of(plan: Plan, settings: KubeEnv, facts: Facts) -> Self {
        Self {
            plan,
            identity: Identity::of(&settings, &facts),
            facts,
            secrets: SettingSecrets(settings),
            role: Role::LastGood {
                problems: Vec::new(),
                pending_release: None,
            },
            renamed: None,
        }
    }
}

impl Inputs {
    /// Whether the plan has no phases, so that there is nothing to do.
    pub(crate) fn are_of_no_role(&self) -> bool {
        self.plan.phases.is_empty()
    }

    /// Refuses settings that name a directory at a path where the host has something else, such as a file. Otherwise an apply would fail
    /// only in the phase that uses the directory.
    pub(crate) fn refuse_taken_directories(&self) -> Result<()> {
        refuse_directories(taken_directories(&self.secrets.0, &self.facts))
    }

    /// The runner of this plan on a host. It runs all phases until its caller selects some.
    pub(crate) fn runner<'a>(
        &'a self,
        host: &'a dyn Host,
        events: &'a dyn EventSink,
    ) -> Runner<'a> {
        self.runner_of(&self.plan, &self.secrets, host, events)
    }

    /// The runner of another plan for the same host, or with other secrets: for a prediction they can be masked.
    pub(crate) fn runner_of<'a>(
        &'a self,
        plan: &'a Plan,
        secrets: &'a dyn SecretStore,
        host: &'a dyn Host,
        events: &'a dyn EventSink,
    ) -> Runner<'a> {
        Runner::new(plan, host, &self.facts, secrets, events)
    }
}

/// Reads all inputs for this host and plans. Reports all problems of a kind at once.
pub(crate) async fn read(args: &RoleArgs, host: &LiveHost) -> Result<Inputs> {
    read_with(args, PlannedName::by(args), host).await
}

/// The same with the name that the host had at its set-up: what takes the role off has to work on the node that the cluster knows.
pub(crate) async fn read_as_set_up(args: &RoleArgs, host: &LiveHost) -> Result<Inputs> {
    read_with(args, PlannedName::Recorded, host).await
}

async fn read_with(args: &RoleArgs, name: PlannedName, host: &LiveHost) -> Result<Inputs> {
    let settings = settings(args, host).await?;
    files_are_in_directories_of_root(&settings, host).await?;
    let usual = FactQuery::usual().and_disks(settings.paths());
    with_facts(args, name, settings, host, &usual).await
}

/// Plans with settings that are read already. Gathers the facts that `query` names, and those that preconditions need which were not met
/// before: a script can require other programs and disks than the usual ones.
async fn with_facts(
    args: &RoleArgs,
    name: PlannedName,
    settings: KubeEnv,
    host: &LiveHost,
    query: &FactQuery,
) -> Result<Inputs> {
    let role = role(args, host).await;
    let (facts, renamed) = facts_for(name, &settings, host, query).await?;
    let mut inputs = planned(role, || last_good_role(args), settings, facts, renamed)?;
    let asked = {
        let ignored = Recording::default();
        let runner = inputs.runner(host, &ignored);
        let unmet = runner.unmet_requirements().await;
        query.clone().and_requirements(unmet)
    };
    if asked != *query {
        (inputs.facts, _) = facts_for(name, inputs.settings(), host, &asked).await?;
    }
    Ok(inputs)
}

/// The same for the host that a facts file describes, if one is named. `host` is this one, which has the files.
pub(crate) async fn read_for(target: &TargetArgs, host: &LiveHost) -> Result<Inputs> {
    let args = &target.role;
    let Some(facts) = &target.facts else {
        return read(args, host).await;
    };
    let settings = settings_in(&args.config, false, host).await?;
    let facts = read_facts(facts, host).await?;
    // The role is only planned here, so it may belong to any user.
    let role = usable(args, host, RolePackage::load(host, &args.role).await).await?;
    let plan = plan(&role, &settings, &facts)?;
    let unmet = unmet(&plan, &facts.met_before);
    let facts = facts.with_unknown_programs(unmet);
    Ok(Inputs {
        plan,
        identity: Identity::of(&settings, &facts),
        facts,
        secrets: SettingSecrets(settings),
        role: Role::Installed(Box::new(role)),
        renamed: None,
    })
}

/// As [`read`] for a status pass, which runs every minute, with settings that are read already. Gathers only the facts that a plan needs,
/// and those that the preconditions need which were not met before.
async fn for_a_pass(
    args: &RoleArgs,
    name: PlannedName,
    settings: KubeEnv,
    host: &LiveHost,
) -> Result<Inputs> {
    with_facts(args, name, settings, host, &FactQuery::for_a_plan()).await
}

/// The inputs of a status pass with these settings, planned with the installed role and the name that the host had at its set-up. While the
/// host has another name, this shows what else is wrong with the settings.
///
/// # Errors
/// The settings cannot be planned, or gathering the facts of the host timed out.
pub(crate) async fn with_recorded_name(
    args: &RoleArgs,
    settings: KubeEnv,
    host: &LiveHost,
) -> Result<Inputs> {
    for_a_pass(args, PlannedName::Recorded, settings, host).await
}

/// The last good role package, if it may take the place of the installed one: only together with the last good settings.
fn last_good_role(args: &RoleArgs) -> Option<RolePackage> {
    match args.merged_settings {
        true => last_good_settings::role(&args.role),
        false => None,
    }
}

/// Plans for this host with the installed `role`, or with the last good one. `renamed` says that the host has another name now than at its
/// set-up; the facts have the name of the set-up then.
fn planned(
    role: Result<RolePackage>,
    last_good: impl FnOnce() -> Option<RolePackage>,
    settings: KubeEnv,
    facts: Facts,
    renamed: Option<Changed>,
) -> Result<Inputs> {
    let identity = Identity::of(&settings, &facts);
    let planned = if renamed.is_some() {
        planned_as_before(role, last_good(), &settings, &facts)
    } else {
        planned_as_installed(role, &settings, &facts).or_else(|error| {
            // If a fixed setting changed, that is the better reason: report it instead.
            if let Some(recorded) = Identity::recorded()
                && let Some(changed) = recorded.changed_by(&identity)
            {
                return Err(changed.into());
            }
            // With the last good settings, plan with the last good role package if the installed one is broken.
            let Some(last) = last_good() else {
                return Err(error);
            };
            let Ok(plan) = plan(&last, &settings, &facts) else {
                return Err(error);
            };
            let role = Role::LastGood {
                problems: problems_of(&error),
                pending_release: None,
            };
            Ok((plan, role))
        })
    };
    let (plan, role) = planned?;
    Ok(Inputs {
        plan,
        identity,
        facts,
        secrets: SettingSecrets(settings),
        role,
        renamed,
    })
}

fn planned_as_installed(
    role: Result<RolePackage>,
    settings: &KubeEnv,
    facts: &Facts,
) -> Result<(Plan, Role)> {
    let role = role?;
    let plan = plan(&role, settings, facts)?;
    Ok((plan, Role::Installed(Box::new(role))))
}

/// Plans with the last good role, if it is another one than the installed `role` and can be planned. While the host has a wrong name, what
/// fails is restarted as it was: a version of the role that was installed meanwhile must not come into force with that.
fn planned_as_before(
    role: Result<RolePackage>,
    last_good: Option<RolePackage>,
    settings: &KubeEnv,
    facts: &Facts,
) -> Result<(Plan, Role)> {
    let another = last_good.filter(|last| role.as_ref().ok() != Some(last));
    let planned = another.and_then(|last| Some((plan(&last, settings, facts).ok()?, last)));
    let Some((plan, last)) = planned else {
        return planned_as_installed(role, settings, facts);
    };
    // An installed role that can be read has no problems: it may need other settings than the last good ones.
    let (problems, pending_release) = match &role {
        Ok(installed) => (Vec::new(), pending_release(installed, &last)),
        Err(error) => (problems_of(error), None),
    };
    let role = Role::LastGood {
        problems,
        pending_release,
    };
    Ok((plan, role))
}

/// The release of the `installed` role, if its payload may have other files than that of the `last` good one. Both are at the same path, and
/// only the files that the checksums of the last good one name are used.
fn pending_release(installed: &RolePackage, last: &RolePackage) -> Option<String> {
    let named = &last.manifest.checksums;
    let differ = named.is_some() && *named != installed.manifest.checksums;
    differ.then(|| installed.manifest.release.clone())
}

fn plan(role: &RolePackage, settings: &KubeEnv, facts: &Facts) -> Result<Plan> {
    planner::plan(role, settings, facts).map_err(|error| {
        Refused {
            what: format!("plan the role: {}", count(error.findings.len(), "mistake")),
            problems: vec![error.sources.render(&error.findings)],
            items: error.findings.iter().map(Problem::from).collect(),
        }
        .into()
    })
}

/// The text of an error about input: the error with its causes, then each of its problems with its place.
pub(crate) fn problems_of(error: &anyhow::Error) -> Vec<String> {
    let mut problems = vec![engine::model::chain(error.as_ref()).join(": ")];
    if let Some(refused) = error.downcast_ref::<Refused>() {
        problems.extend(refused.problems.iter().map(|p| p.trim_end().to_owned()));
    }
    problems
}

/// The settings, and the inputs planned from them, as a status pass reads them.
///
/// # Errors
/// As [`settings`] and [`for_a_pass`].
pub(crate) async fn current(args: &RoleArgs, host: &LiveHost) -> Result<(KubeEnv, Inputs)> {
    let settings = settings(args, host).await?;
    let inputs = for_a_pass(args, PlannedName::by(args), settings.clone(), host).await?;
    Ok((settings, inputs))
}

#[cfg(test)]
mod tests {
    use engine::host::fake::FakeHost;
    use engine::resource::Spec;

    use super::*;

    /// The settings of a host without a role. Its plan has no phases, and names the role that it was made from.
    fn settings_without_a_role() -> KubeEnv {
        let pairs = [("ROLE", "none"), ("MASTER_IP", "10.0.0.1")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        KubeEnv::from_pairs(pairs).expect("good settings")
    }

    /// A role for masters only.
    async fn role_of_masters() -> RolePackage {
        let manifest = "version: 1\nname: r\nrelease: '1'\nabout: A role.\nnodes:\n  master: [example]\npayload: [bin/a]\n";
        let host = FakeHost::new()
            .with_file("/r/role.yaml", manifest)
            .with_file("/r/phases/example.rhai", "phase(\"example\");\n");
        RolePackage::load(&host, "/r").await.expect("a role")
    }

    /// The change of the name would be the error otherwise, and an operator would learn of the other mistake only after that one is undone.
    #[tokio::test]
    async fn a_wrong_name_does_not_hide_what_else_is_wrong_with_the_settings() {
        let before = settings_without_a_role();
        let at_set_up = Identity::of(&before, &Facts::nothing_about("m-1"));
        let pairs = [("ROLE", "worker"), ("MASTER_IP", "10.0.0.1")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = KubeEnv::from_pairs(pairs).expect("each value is valid");
        let facts = Facts::nothing_about("m-2");
        let (facts, renamed) = at_set_up.with_recorded_name(&settings, facts);
        assert!(renamed.is_some());
        let role = Ok(role_of_masters().await);
        let Err(error) = planned(role, || None, settings, facts, renamed) else {
            panic!("the role has no workers");
        };
        let problems = problems_of(&error).concat();
        assert!(problems.contains("P0607"), "{problems}");
        assert!(!problems.contains("m-2"), "{problems}");
    }

    /// Otherwise a repair would bring a part of a new version into force, which no apply could complete.
    #[tokio::test]
    async fn a_new_role_does_not_come_into_force_while_the_host_has_a_wrong_name() {
        let before = role_of_masters().await;
        let mut new = before.clone();
        new.manifest.release = "2".to_owned();
        let settings = settings_without_a_role();
        let at_set_up = Identity::of(&settings, &Facts::nothing_about("m-1"));
        let plan_on = |host: &str, role: Result<RolePackage>, last_good: Option<&RolePackage>| {
            let facts = Facts::nothing_about(host);
            let (facts, renamed) = at_set_up.with_recorded_name(&settings, facts);
            let settings = settings.clone();
            let inputs = planned(role, || last_good.cloned(), settings, facts, renamed);
            let inputs = inputs.expect("a plan");
            let problems = match inputs.role {
                Role::LastGood { problems, .. } => Some(problems.len()),
                Role::Installed(_) => None,
            };
            assert_eq!(inputs.renamed.is_some(), host == "m-2");
            (inputs.plan.role, problems)
        };
        let by = |role: &str, problems: Option<usize>| (role.to_owned(), problems);
        let old = Some(&before);
        assert_eq!(plan_on("m-1", Ok(new.clone()), old), by("r 2", None));
        assert_eq!(plan_on("m-2", Ok(new.clone()), old), by("r 1", Some(0)));
        assert_eq!(plan_on("m-2", Ok(before.clone()), old), by("r 1", None));
        assert_eq!(plan_on("m-2", Ok(new), None), by("r 2", None));
        let broken = anyhow::anyhow!("use the role: it is broken");
        assert_eq!(plan_on("m-2", Err(broken), old), by("r 1", Some(1)));
    }

    /// The payload of both versions is at the same path.
    #[tokio::test]
    async fn while_the_host_has_a_wrong_name_programs_are_compared_with_the_version_in_force() {
        let manifest = "version: 1\nname: r\nrelease: '1'\nabout: A role.\nnodes:\n  master: [example]\npayload: [bin/a]\n";
        let script = "phase(\"example\")\n    .about(\"Runs a program.\")\n    .nodes([\"master\"])\n    .timeout(\"1m\");\n\nservice(\"a\")\n    .started()\n    .runs([`${role.payload}/bin/a`]);\n";
        let host = FakeHost::new()
            .with_file("/r/role.yaml", manifest)
            .with_file("/r/phases/example.rhai", script);
        let loaded = RolePackage::load(&host, "/r").await.expect("a role");
        let release = |release: &str, checksums: Option<&str>| {
            let mut role = loaded.clone();
            role.manifest.release = release.to_owned();
            role.manifest.checksums = checksums.map(|digit| digit.repeat(64));
            role
        };
        let pairs = [("ROLE", "master"), ("MASTER_IP", "10.0.0.1")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = KubeEnv::from_pairs(pairs).expect("good settings");
        let facts = |host: &str| Facts {
            address: "10.0.0.2".parse().ok(),
            ..Facts::nothing_about(host)
        };
        let at_set_up = Identity::of(&settings, &facts("m-1"));
        let planned_with = |installed: RolePackage, last_good: &RolePackage| {
            let (facts, renamed) = at_set_up.with_recorded_name(&settings, facts("m-2"));
            let last_good = || Some(last_good.clone());
            let inputs = planned(Ok(installed), last_good, settings.clone(), facts, renamed);
            inputs.expect("a plan")
        };
        let before = release("1", Some("1"));
        let inputs = planned_with(release("2", Some("2")), &before);
        let phase = inputs.plan.phase("example").expect("it is planned");
        let Spec::Service(service) = &phase.steps[0].spec else {
            panic!("{:?}", phase.steps[0].spec);
        };
        let checksums = service.checksums.as_ref().expect("it has checksums");
        assert_eq!(checksums.sha256, "1".repeat(64));
        let said = |inputs: Inputs| match inputs.role {
            Role::LastGood {
                problems,
                pending_release,
            } => (problems, pending_release),
            Role::Installed(role) => panic!("{} is planned", role.manifest.release),
        };
        let pending = Some("2".to_owned());
        assert_eq!(said(inputs), (Vec::new(), pending.clone()));
        // The payload is the same, or nothing of it is verified.
        let unpacked = release("1", None);
        for (installed, last_good) in [
            (release("2", Some("1")), &before),
            (release("2", Some("2")), &unpacked),
        ] {
            let said = said(planned_with(installed, last_good));
            assert_eq!(said, (Vec::new(), None));
        }
        // A role that cannot be planned with the last good settings has no mistake.
        let mut for_others = release("2", Some("2"));
        for_others.manifest.nodes.clear();
        let said = said(planned_with(for_others, &before));
        assert_eq!(said, (Vec::new(), pending));
    }
}
