//! The page for authors of roles: its example is a role that can be planned, and its tables are those of the code.

use behaviour::{
    Program, block_on, checked_in_part, fixtures, golden, repository, snapshot_names, text,
};
use engine::env::KubeEnv;
use engine::facts::Facts;
use engine::host::live::LiveHost;
use engine::plan::Plan;
use engine::planner::{self, CLUSTER_FIELDS, HOST_FIELDS, kube_table};
use engine::report;
use engine::role::{Field, MANIFEST_KEYS, PARAMETER_KEYS, ROLE_FIELDS, RolePackage};

/// The page.
const PAGE: &str = "docs/role.md";
/// The files of the example that the page shows, with their languages.
const FILES: [(&str, &str); 4] = [
    ("role.yaml", "yaml"),
    ("phases/chrony-package.rhai", "rhai"),
    ("phases/chrony.rhai", "rhai"),
    ("phases/templates/chrony/chrony.conf.tmpl", "jinja"),
];

/// The plan of the example with these settings, or the findings as an author reads them.
fn planned(settings: &str) -> Result<Plan, String> {
    let role = fixtures("roles/chrony").display().to_string();
    let role = block_on(RolePackage::load(&LiveHost::new(), &role)).expect("the role");
    let facts = Facts::from_yaml(&text(fixtures("hosts/cp-1.yaml"))).expect("facts");
    let files = vec![("settings.yaml".to_owned(), settings.as_bytes().to_vec())];
    let settings = KubeEnv::resolve(files).expect("the settings are right");
    planner::plan(&role, &settings, &facts).map_err(|error| error.sources.render(&error.findings))
}

#[test]
fn the_example_is_planned_as_reviewed() {
    let plan = planned(&text(fixtures("settings/chrony.yaml"))).expect("it has no mistakes");
    let names: Vec<&str> = plan
        .phases
        .iter()
        .map(|phase| phase.name.as_str())
        .collect();
    assert_eq!(names, ["chrony-package", "chrony"]);
    for phase in &plan.phases {
        golden("plans/chrony", phase.name.as_str(), &report::plan(phase));
    }
    assert_eq!(snapshot_names("plans/chrony").len(), plan.phases.len());
}

#[test]
fn the_example_is_planned_by_the_program() {
    let path = |name: &str| fixtures(name).display().to_string();
    let (config, facts) = (path("settings/chrony.yaml"), path("hosts/cp-1.yaml"));
    let arguments = [
        "plan", "--role", "./chrony", "--config", &config, "--facts", &facts,
    ];
    let answer = Program::nodelet(&arguments)
        .in_directory(fixtures("roles"))
        .answer();
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    assert!(answer.out.contains("chrony.conf"), "{}", answer.out);
}

/// A wrong setting of a parameter is refused with its line in the settings.
#[test]
fn wrong_settings_of_parameters_read_well() {
    let settings = text(fixtures("settings/chrony.yaml"));
    let settings = settings.replace("ROLE_SERVERS", "ROLE_SERVRES");
    let refusal = planned(&format!("{settings}ROLE_LARGEST_STEP: 1h\n"));
    golden(
        "diagnostics/parameters",
        "chrony",
        &refusal.expect_err("the settings do not fit the role"),
    );
}

/// A parameter that has to have a value is refused without one, also if its default was only taken away.
#[test]
fn a_required_parameter_without_a_value_reads_well() {
    let refusal = planned("ROLE: master\nMASTER_IP: 172.30.0.11\nROLE_SERVERS: ', '\n");
    golden(
        "diagnostics/parameters",
        "required",
        &refusal.expect_err("the parameter is required"),
    );
}

#[test]
fn the_page_has_the_example_and_the_tables() {
    for (file, language) in FILES {
        let content = text(fixtures("roles/chrony").join(file));
        let shown = format!("```{language}\n{content}```\n");
        checked_in_part(PAGE, file, &shown);
    }
    let settings = text(fixtures("settings/chrony.yaml"));
    checked_in_part(PAGE, "settings", &format!("```yaml\n{settings}```\n"));
    for (name, fields, before) in [
        ("keys of role.yaml", MANIFEST_KEYS, ""),
        ("keys of a parameter", PARAMETER_KEYS, ""),
        ("host", HOST_FIELDS, "host."),
        ("cluster", CLUSTER_FIELDS, "cluster."),
        ("role", ROLE_FIELDS, "role."),
    ] {
        checked_in_part(PAGE, name, &Field::table(fields, before));
    }
    checked_in_part(PAGE, "kube", &kube_table());
    let page = text(repository().join(PAGE));
    assert!(page.contains("kube.env.template"), "it names all settings");
}
