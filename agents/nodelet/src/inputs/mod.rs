//! What a plan is made from: role package, settings and facts, read from disk and checked.
//!
//! [`read`] gives the [`Inputs`] of a command: the plan, the facts, the secrets, and the identity that the host would have. From them
//! [`Inputs::runner`] makes the runner that carries the plan out. `last_good_settings` keeps copies for the time when the files are
//! invalid. `identity` and `installed_identity` tell whether the host would become another one. `private_state` keeps the state
//! directory closed to other users.
//!
//! How a plan is made is in `engine::planner`; what a command does with it is in `commands`. Start with [`read`].

pub(crate) mod identity;
pub(crate) mod installed_identity;
pub(crate) mod last_good_settings;
pub(crate) mod private_state;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use engine::env::{EnvError, KubeEnv, SettingValue, Source};
use engine::exec::{EventSink, Runner, unmet};
use engine::facts::{self, FactQuery, Facts};
use engine::host::live::LiveHost;
use engine::host::{EntryKind, Files, Host, HostResult, changeable_way_to};
use engine::model::{SecretRef, count};
use engine::plan::Plan;
use engine::planner;
use engine::resource::SecretStore;
use engine::role::{RoleError, RolePackage};

use crate::cli::{RoleArgs, TargetArgs};
use crate::inputs::identity::{Changed, Identity};
use crate::output::problem::{Problem, Refused};

/// Wins over the settings directory where it is present.
const OVERRIDE: &str = "/etc/pf9/kube_override.env";
/// Where roles are installed.
const ROLES: &str = "/opt/pf9/roles";
/// Bound on a settings or facts file.
const LIMIT: u64 = 1024 * 1024;
/// Most files in a settings directory.
const FILES: usize = 64;
/// Timeout of gathering the facts of this host, and of checking the directories that settings name.
const LEARN: Duration = Duration::from_secs(30);

/// Settings whose directory may be missing, but must not be something else. Those of etcd have a precondition for that.
const DIRECTORIES: [&str; 3] = ["API_SERVER_EXTRA_DIR", "DOCKER_ROOT", "USER_IMAGES_DIR"];

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
    /// That the host has another name now than at its set-up. The plan has the name of the set-up then: this is only so with the last good
    /// settings.
    pub(crate) renamed: Option<Changed>,
}

/// The role package that a plan was made from.
pub(crate) enum Role {
    /// The one that is installed.
    Installed(Box<RolePackage>),
    /// The last good one, because the installed one has these problems.
    LastGood(Vec<String>),
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

impl Inputs {
    /// Whether the plan has no phases, so that there is nothing to do.
    pub(crate) fn are_of_no_role(&self) -> bool {
        self.plan.phases.is_empty()
    }

    /// Refuses settings that name a directory where the host has something else, for example a file. An apply would find that only in the
    /// phase that uses the directory.
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
    let settings = settings(args, host).await?;
    let role = role(args, host).await;
    files_are_in_directories_of_root(&settings, host).await?;
    let usual = FactQuery::default().and_disks(settings.paths());
    let (facts, renamed) = facts_for(args, &settings, host, &usual).await?;
    let mut inputs = planned(args, role, settings, facts)?;
    inputs.renamed = renamed;
    // A script can require other programs and disks than the usual ones.
    let unmet = unmet(&inputs.plan, &inputs.facts.met_before);
    let asked = usual.clone().and_requirements(unmet);
    if asked != usual {
        (inputs.facts, _) = facts_for(args, &inputs.secrets.0, host, &asked).await?;
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
pub(crate) async fn for_a_pass(
    args: &RoleArgs,
    settings: KubeEnv,
    host: &LiveHost,
) -> Result<Inputs> {
    let role = role(args, host).await;
    let query = FactQuery::for_a_plan();
    let (facts, renamed) = facts_for(args, &settings, host, &query).await?;
    let mut inputs = planned(args, role, settings, facts)?;
    inputs.renamed = renamed;
    let unmet = unmet(&inputs.plan, &inputs.facts.met_before);
    let asked = FactQuery::for_a_plan().and_requirements(unmet);
    if asked != query {
        (inputs.facts, _) = facts_for(args, &inputs.secrets.0, host, &asked).await?;
    }
    Ok(inputs)
}

/// Plans for this host.
fn planned(
    args: &RoleArgs,
    role: Result<RolePackage>,
    settings: KubeEnv,
    facts: Facts,
) -> Result<Inputs> {
    let identity = Identity::of(&settings, &facts);
    let planned = role.and_then(|role| {
        let plan = plan(&role, &settings, &facts)?;
        Ok((plan, Role::Installed(Box::new(role))))
    });
    let (plan, role) = match planned {
        Ok(planned) => planned,
        Err(error) => {
            // If a fixed setting changed, that is the better reason: report it instead.
            if let Some(recorded) = Identity::recorded()
                && let Some(changed) = recorded.changed_by(&identity)
            {
                return Err(changed.into());
            }
            // With the last good settings, plan with the last good role package if the installed one is broken.
            let Some(last) = args
                .merged_settings
                .then(|| last_good_settings::role(&args.role))
                .flatten()
            else {
                return Err(error);
            };
            let Ok(plan) = plan(&last, &settings, &facts) else {
                return Err(error);
            };
            (plan, Role::LastGood(problems_of(&error)))
        }
    };
    Ok(Inputs {
        plan,
        identity,
        facts,
        secrets: SettingSecrets(settings),
        role,
        renamed: None,
    })
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

/// Gathers the facts of this host. Its address is the recorded one as long as one of its links has that, so a plan by an operator and one
/// by nodeletd are the same.
pub(crate) async fn gather_facts(host: &LiveHost, query: &FactQuery) -> Result<Facts> {
    let gathering = facts::gather_with(host, query);
    let mut facts = tokio::time::timeout(LEARN, gathering)
        .await
        .context("learn about this host within 30s")?
        .context("learn about this host")?;
    let recorded = Identity::recorded();
    if let Some(address_of_link) = recorded.and_then(|recorded| recorded.address_in_use(&facts)) {
        facts.address = Some(address_of_link);
    }
    Ok(facts)
}

/// The facts of this host for a plan with these settings. With the last good settings the host keeps the name of its set-up: while its name
/// is wrong, what is down is started again as it was. Also returns that the host has another name now, if so.
async fn facts_for(
    args: &RoleArgs,
    settings: &KubeEnv,
    host: &LiveHost,
    query: &FactQuery,
) -> Result<(Facts, Option<Changed>)> {
    let facts = gather_facts(host, query).await?;
    let recorded = match args.merged_settings {
        true => Identity::recorded(),
        false => None,
    };
    Ok(match recorded {
        Some(recorded) => recorded.with_its_name(settings, facts),
        None => (facts, None),
    })
}

/// Refuses a directory from the settings if a user other than root could replace it: root creates these directories, sets their owner,
/// and empties them. A status pass skips this check, because every command that nodeletd then runs makes it.
async fn files_are_in_directories_of_root(settings: &KubeEnv, host: &LiveHost) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        return Ok(());
    }
    let looking = directory_problems(settings, host);
    let problems = tokio::time::timeout(LEARN, looking)
        .await
        .context("look at the directories that settings name within 30s")?
        .context("look at the directories that settings name")?;
    refuse_directories(problems)
}

/// Refuses settings with these problems of their directories, if there are any.
fn refuse_directories(problems: Vec<String>) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    bail!(Refused {
        what: format!(
            "use the directories that settings name: {}",
            count(problems.len(), "problem")
        ),
        items: problems.iter().map(|p| Problem::of_text(p)).collect(),
        problems,
    })
}

/// The problems of the paths to directories that settings name, one sentence each. Defaults are not checked: they are the role's own
/// directories.
async fn directory_problems(
    settings: &KubeEnv,
    files: &(dyn Files + Sync),
) -> HostResult<Vec<String>> {
    let paths = settings.paths();
    let mut problems = Vec::new();
    for (name, value) in settings.iter() {
        let (SettingValue::Text(path), Some(source)) = (value, settings.source_of(name)) else {
            continue;
        };
        if matches!(source, Source::Default) || !paths.contains(path) {
            continue;
        }
        if let Some(problem) = changeable_way_to(files, Path::new(path)).await? {
            problems.push(format!(
                "{name}: users other than root can replace {path}: {problem}, or name another directory\n"
            ));
        }
    }
    Ok(problems)
}

/// The directories of settings in whose place the host has something else, one sentence each. A link may lead to a directory.
fn taken_directories(settings: &KubeEnv, facts: &Facts) -> Vec<String> {
    let mut problems = Vec::new();
    for name in DIRECTORIES {
        let Some(SettingValue::Text(path)) = settings.get(name) else {
            continue;
        };
        let disk = facts.disks.iter().find(|disk| disk.path == *path);
        let taken_by = disk.and_then(|disk| disk.taken_by.as_deref());
        let Some(what) = taken_by.filter(|what| *what != "a link") else {
            continue;
        };
        let place = settings.source_of(name).and_then(Source::place);
        let place = place.map_or_else(String::new, |place| format!("{place}: "));
        problems.push(format!(
            "{place}{name}: {path} is not a directory: {what} is there; name another directory, or move away what is there\n"
        ));
    }
    problems
}

/// Refuses an installed role without checksums if the last good one had them: its files could no longer be verified.
fn has_checksums_as_before(place: &Path, role: &RolePackage, had_checksums: bool) -> Result<()> {
    if role.manifest.checksums.is_some() || !had_checksums || !place.starts_with(ROLES) {
        return Ok(());
    }
    bail!(
        "use the role in {0}: {0}/role.yaml names no checksums, but role.yaml of the last good role does; install the role's package again",
        place.display()
    );
}

/// The role for this host. The scripts of a role decide what is done as root, so only root may own them.
async fn role(args: &RoleArgs, host: &LiveHost) -> Result<RolePackage> {
    let loaded = if nix::unistd::Uid::effective().is_root() {
        let place = RolePackage::directory(&args.role);
        let place = std::path::absolute(&place)
            .with_context(|| format!("find the directory {}", place.display()))?;
        let loaded = RolePackage::load_owned_by_root(host, &place.to_string_lossy()).await;
        if let Ok(role) = &loaded {
            let had_checksums = last_good_settings::had_checksums(&role.manifest.name);
            has_checksums_as_before(&place, role, had_checksums)?;
        }
        loaded
    } else {
        RolePackage::load(host, &args.role).await
    };
    usable(args, host, loaded).await
}

/// The loaded role, or the error in the words of the command line.
async fn usable(
    args: &RoleArgs,
    host: &LiveHost,
    loaded: Result<RolePackage, RoleError>,
) -> Result<RolePackage> {
    match loaded {
        Ok(role) => Ok(role),
        Err(RoleError::Invalid { name, findings }) => {
            bail!(Refused {
                what: format!("use role {name}: {}", count(findings.len(), "mistake")),
                problems: vec![engine::model::Sources::default().render(&findings)],
                items: findings.iter().map(Problem::from).collect(),
            })
        }
        Err(RoleError::NotFound { place, .. }) => {
            // Report the name from the command line: the role was loaded by its path.
            let name = args.role.clone();
            let beside = RolePackage::is_beside(host, &name).await;
            let error = RoleError::NotFound {
                name,
                place,
                beside,
            };
            Err(error).context(format!("load role {}", args.role))
        }
        Err(error) => Err(error).context(format!("load role {}", args.role)),
    }
}

/// Reads the settings of this host that `args` names.
pub(crate) async fn settings(args: &RoleArgs, host: &LiveHost) -> Result<KubeEnv> {
    if args.merged_settings {
        return saved_settings(&args.config, host).await;
    }
    settings_in(&args.config, true, host).await
}

/// Reads the last good settings, which this program has merged and saved.
async fn saved_settings(path: &Path, host: &LiveHost) -> Result<KubeEnv> {
    let Some(content) = host.read(path, LIMIT).await? else {
        bail!(
            "read the last good settings: {} is not there",
            path.display()
        );
    };
    KubeEnv::resolve_saved(&path.display().to_string(), content)
        .map_err(|problems| refused_settings(path, &problems).into())
}

/// Reads the settings at this path; `with_override` also reads this host's own overrides of them.
async fn settings_in(path: &Path, with_override: bool, host: &LiveHost) -> Result<KubeEnv> {
    let mut paths = Vec::new();
    match host.entry(path).await?.map(|entry| entry.kind) {
        None => bail!(
            "read settings: {} is not there; write it, or name another with --config",
            path.display()
        ),
        Some(EntryKind::Directory) => {
            for name in host.list(path).await? {
                match settings_file(&name) {
                    Some(true) => paths.push(path.join(name)),
                    Some(false) => bail!(
                        "read settings: the extension of {} must be lower-case `.yaml` or `.yml`; rename it, or move it away",
                        path.join(name).display()
                    ),
                    None => {}
                }
            }
        }
        Some(_) => paths.push(path.to_path_buf()),
    }
    if paths.len() > FILES {
        bail!(
            "read settings: {} holds more than {FILES} files",
            path.display()
        );
    }
    let mut files = Vec::new();
    for path in paths {
        let Some(content) = host.read(&path, LIMIT).await? else {
            let entry = host.entry(&path).await?;
            if let Some(EntryKind::Symlink(target)) = entry.map(|entry| entry.kind) {
                bail!(
                    "read settings: {} is a link to {target}, which is not there; bring that file back or remove the link",
                    path.display()
                );
            }
            bail!("read settings: {} was removed meanwhile", path.display());
        };
        files.push((path.display().to_string(), content));
    }
    let overrides = if with_override {
        host.read(Path::new(OVERRIDE), LIMIT)
            .await?
            .map(|content| (OVERRIDE.to_owned(), content))
    } else {
        None
    };
    KubeEnv::resolve_with_override(files, overrides)
        .map_err(|problems| refused_settings(path, &problems).into())
}

/// The settings at this path, with these problems.
fn refused_settings(path: &Path, problems: &[EnvError]) -> Refused {
    Refused {
        what: format!(
            "use the settings in {}: {}",
            path.display(),
            count(problems.len(), "problem")
        ),
        items: problems.iter().map(Problem::from).collect(),
        problems: problems.iter().map(|p| format!("{p}\n")).collect(),
    }
}

/// Whether a file of a settings directory is read: true for settings, false for a file that was probably meant as settings but has
/// capitals in its extension. Hidden files are ignored, as by a shell's `*.yaml`: editors leave such copies.
fn settings_file(name: &str) -> Option<bool> {
    let (stem, extension) = name.rsplit_once('.')?;
    if stem.starts_with('.') || stem.is_empty() {
        return None;
    }
    match extension {
        "yaml" | "yml" => Some(true),
        _ if extension.eq_ignore_ascii_case("yaml") || extension.eq_ignore_ascii_case("yml") => {
            Some(false)
        }
        _ => None,
    }
}

async fn read_facts(path: &Path, host: &LiveHost) -> Result<Facts> {
    let content = host
        .read(path, LIMIT)
        .await
        .context("read facts")?
        .with_context(|| format!("read facts: {} is not there", path.display()))?;
    let text = String::from_utf8(content)
        .with_context(|| format!("read facts: {} is not text", path.display()))?;
    Facts::from_yaml(&text).with_context(|| format!("read facts from {}", path.display()))
}

/// The settings, and the inputs planned from them, as a status pass reads them.
///
/// # Errors
/// As [`settings`] and [`for_a_pass`].
pub(crate) async fn current(args: &RoleArgs, host: &LiveHost) -> Result<(KubeEnv, Inputs)> {
    let settings = settings(args, host).await?;
    let inputs = for_a_pass(args, settings.clone(), host).await?;
    Ok((settings, inputs))
}

#[cfg(test)]
mod tests {
    use engine::facts::Disk;
    use engine::host::Attributes;
    use engine::host::fake::FakeHost;

    use super::*;

    /// The owner of the parent directory decides what is at the path when root uses it.
    #[tokio::test]
    async fn directories_of_settings_lie_where_only_root_can_exchange_them() {
        let named = |name: &str, path: &str| {
            let pairs = [("ROLE", "master"), ("MASTER_IP", "10.0.0.1"), (name, path)];
            let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
            KubeEnv::from_pairs(pairs).expect("good settings")
        };
        let host = FakeHost::new().with_directory("/srv/u");
        let theirs = Attributes {
            uid: 1000,
            ..Attributes::root(0o755)
        };
        for name in [
            "API_SERVER_EXTRA_DIR",
            "USER_IMAGES_DIR",
            "ETCD_BACKUP_DIR",
            "ETCD_DATA_DIR",
        ] {
            let settings = named(name, "/srv/u/place");
            host.with_world_mut(|world| world.own(Path::new("/srv/u"), Attributes::root(0o755)));
            let fine = directory_problems(&settings, &host).await;
            assert_eq!(fine.expect("the host answers"), [""; 0]);
            host.with_world_mut(|world| world.own(Path::new("/srv/u"), theirs));
            let told = directory_problems(&settings, &host).await;
            let told = told.expect("the host answers").concat();
            let parts = [name, "/srv/u/place", "/srv/u: it belongs to user 1000"];
            assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        }
        // The role's own directories are not chosen by the operator, so they are not checked.
        host.with_world_mut(|world| world.file("/var/opt/pf9/a", ""));
        host.with_world_mut(|world| world.own(Path::new("/var/opt/pf9"), theirs));
        let told = directory_problems(&named("ETCD_BACKUP_DIR", "/mnt/backups"), &host).await;
        assert_eq!(told.expect("the host answers"), [""; 0]);
    }

    #[test]
    fn a_file_at_the_place_of_a_directory_is_reported_with_its_line() {
        let text = b"ROLE: master\nMASTER_IP: 10.0.0.1\nUSER_IMAGES_DIR: /etc/shadow\n";
        let files = vec![("settings.yaml".to_owned(), text.to_vec())];
        let settings = KubeEnv::resolve(files).expect("good settings");
        let told = |taken_by: Option<&str>| {
            let mut facts = Facts::nothing_about("h");
            facts.disks.push(Disk {
                path: "/etc/shadow".to_owned(),
                free: 1,
                total: 1,
                filesystem: None,
                read_only: false,
                mode: None,
                taken_by: taken_by.map(str::to_owned),
            });
            taken_directories(&settings, &facts).concat()
        };
        assert_eq!(
            (told(None).as_str(), told(Some("a link")).as_str()),
            ("", "")
        );
        assert_eq!(
            told(Some("a file")),
            "settings.yaml:3:1: USER_IMAGES_DIR: /etc/shadow is not a directory: a file is there; \
             name another directory, or move away what is there\n"
        );
    }

    #[tokio::test]
    async fn a_role_without_checksums_does_not_take_the_place_of_one_with_them() {
        let manifest = "version: 1\nname: r\nrelease: '1'\nabout: A role.\nnodes:\n  master: [example]\npayload: [bin/a]\n";
        let place = Path::new("/opt/pf9/roles/r/current");
        let host = FakeHost::new()
            .with_file(place.join("role.yaml"), manifest)
            .with_file(place.join("phases/example.rhai"), "phase(\"example\");\n");
        let role = RolePackage::load(&host, "r").await.expect("a role");
        let told = has_checksums_as_before(place, &role, true).expect_err("its checksums are gone");
        let told = told.to_string();
        let parts = [
            "/opt/pf9/roles/r/current/role.yaml names no checksums",
            "install the role's package again",
        ];
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        // A checkout needs no checksums, and neither does a host whose last good role had none.
        let checkout = Path::new("/root/checkout/roles/r");
        has_checksums_as_before(checkout, &role, true).expect("it is a checkout");
        has_checksums_as_before(place, &role, false).expect("nothing is known of another one");
        let mut with_checksums = role;
        with_checksums.manifest.checksums = Some("00".repeat(32));
        has_checksums_as_before(place, &with_checksums, true).expect("it has them");
    }
}
