//! The messages about an author's mistakes. Each folder of the corpora has one mistake; the rendered message is the snapshot.

use std::collections::BTreeSet;
use std::path::Path;

use behaviour::{Case, Scripts, block_on, fixtures, folders, golden, snapshot_names, text};
use engine::host::live::LiveHost;
use engine::model::{Diagnostic, Sources};
use engine::role::{RoleError, RolePackage};
use engine::script::SIZE_LIMIT;

#[test]
fn mistakes_in_scripts_read_well() {
    let case = Case::named("cp-1");
    each("diagnostics", "diagnostics/scripts", |folder| {
        let message = Scripts::read(folder).plan(&case).err();
        message.unwrap_or_else(|| panic!("{} has a mistake, yet there is a plan", folder.display()))
    });
}

/// Each line has the only word of a phase and the code of its finding. The lines with no code look similar and are allowed.
#[test]
fn a_role_leaves_the_kernels_trees_and_nodelet_alone() {
    let case = Case::named("cp-1");
    for (word, code) in [
        (r#"file("/proc/sys/vm/swappiness").content("1")"#, "P0331"),
        (r#"directory("/sys/fs/cgroup/example")"#, "P0331"),
        (r#"symlink("/dev/example", "/dev/null")"#, "P0331"),
        (r#"env_file("/dev/shm/example")"#, "P0331"),
        (r#"data_id("example", "/proc/example")"#, "P0331"),
        (
            r#"on_clean(|| { directory("/sys/fs/example").absent(); })"#,
            "P0331",
        ),
        (
            r#"file("/etc/pf9/nodelet/config.yaml").content("")"#,
            "P0332",
        ),
        (r#"file("/run/pf9-nodelet.lock").content("")"#, "P0332"),
        (r#"file("/var/run/pf9-nodeletd.lock").content("")"#, "P0332"),
        (r#"directory("/var/opt/pf9/nodelet")"#, "P0332"),
        (r#"directory("/etc/pf9").exclusive()"#, "P0332"),
        (
            r#"on_clean(|| { directory("/var/opt/pf9").absent(); })"#,
            "P0332",
        ),
        (r#"service("pf9-nodeletd").stopped()"#, "P0332"),
        (r#"service("pf9-nodeletd.service").started()"#, "P0332"),
        (
            r#"template("example/greeting.tmpl", "/etc/systemd/system/pf9-nodeletd.service.d/a.conf").vars(#{ name: host.name })"#,
            "P0332",
        ),
        (
            r#"container("example").image("example:1").mount("/var/opt/pf9/nodelet", "/state")"#,
            "P0332",
        ),
        (
            r#"container("example").image("example:1").mount("/var/run/pf9-nodelet.lock", "/lock")"#,
            "P0332",
        ),
        (r#"packages(["--purge"])"#, "P0333"),
        (r#"packages(["chrony; rm -rf /"])"#, "P0333"),
        (r#"file("/etc/a\nb").content("")"#, "P0334"),
        (r#"check("x\u001b[31m").file_exists("/etc/hosts")"#, "P0334"),
        (r#"directory("/etc/pf9")"#, ""),
        (r#"directory("/procedures")"#, ""),
        (r#"file("/etc/pf9/nodelet.d/a").content("a\u001b\n")"#, ""),
        (r#"file("/etc/example").copy_of("/proc/version")"#, ""),
        (
            r#"check("it is there").file_exists("/var/opt/pf9/nodelet/ledger.jsonl")"#,
            "",
        ),
        (
            r#"check("nodeletd runs").service_active("pf9-nodeletd")"#,
            "",
        ),
        (
            r#"command(["sh", "-c", "a\nb"]).creates("/proc/version")"#,
            "",
        ),
        (
            r#"container("example").image("example:1").mount("/dev", "/dev").mount_read_only("/var/opt/pf9/nodelet", "/state")"#,
            "",
        ),
        (r#"packages(["libc6:amd64", "g++"])"#, ""),
    ] {
        let script =
            format!("phase(\"example\").about(\"An example.\").nodes([\"master\"]);\n{word};\n");
        let scripts = Scripts::default().phase("example", &script).template(
            "example/greeting.tmpl",
            &text(fixtures("templates/example/greeting.tmpl")),
        );
        match scripts.plan(&case) {
            Ok(_) => assert_eq!(code, "", "{word}"),
            Err(message) => assert_eq!(message.lines().next(), Some(code), "{word}: {message}"),
        }
    }
}

/// A stop and a rollback run their commands each time. A plan has one spelling of a key.
#[test]
fn what_only_looks_like_a_mistake_is_planned() {
    let script = r#"
        phase("example").about("An example.").nodes(["master"]);
        sysctl("net/ipv4/ip_forward", "1");
        sysctl("net.ipv4.conf.eth0/100.rp_filter", "1");
        on_stop(|| { command(["sync"]); });
        on_rollback(|| { command(["sync"]); });
    "#;
    let scripts = Scripts::default().phase("example", script);
    let plan = scripts
        .plan(&Case::named("cp-1"))
        .unwrap_or_else(|message| panic!("{message}"));
    let phase = plan.phase("example").expect("it was planned");
    let steps: Vec<&str> = phase.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(
        steps,
        [
            "example/sysctl:net.ipv4.ip_forward",
            "example/sysctl:net.ipv4.conf.eth0/100.rp_filter",
        ]
    );
    assert_eq!((phase.on_stop.len(), phase.on_rollback.len()), (1, 1));
}

/// A skipped word has no findings, but the plan shows its name.
#[test]
fn a_skipped_word_is_shown_without_control_characters() {
    let script = "phase(\"example\").about(\"An example.\").nodes([\"master\"]);\n\
                  check(\"x\\u001b[31m\").file_exists(\"/etc/hosts\").when(false);\n";
    let scripts = Scripts::default().phase("example", script);
    let plan = scripts.plan(&Case::named("cp-1")).expect("a plan");
    let phase = plan.phase("example").expect("it was planned");
    assert_eq!(phase.skipped_words[0].label, "x\\u{1b}[31m");
}

#[test]
fn mistakes_in_roles_read_well() {
    each("roles/invalid", "diagnostics/roles", |folder| {
        let role = folder.display().to_string();
        match block_on(RolePackage::load(&LiveHost::new(), &role)) {
            Err(RoleError::Invalid { findings, .. }) => Sources::default().render(&findings),
            other => panic!("{role} has a mistake, yet loading it gives {other:?}"),
        }
    });
}

#[test]
fn a_script_beyond_the_limit_is_refused_unread() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let manifest = text(fixtures("roles/invalid/empty-script/role.yaml"));
    std::fs::create_dir_all(folder.path().join("phases/templates"))
        .expect("a directory of our own");
    std::fs::write(folder.path().join("role.yaml"), manifest).expect("a file of our own");
    let script = vec![b' '; usize::try_from(SIZE_LIMIT).expect("it fits") + 1];
    std::fs::write(folder.path().join("phases/example.rhai"), script).expect("a file of our own");
    match block_on(RolePackage::load(
        &LiveHost::new(),
        &folder.path().display().to_string(),
    )) {
        Err(RoleError::Invalid { findings, .. }) => assert_eq!(
            findings.iter().map(Diagnostic::short).collect::<Vec<_>>(),
            ["phases/example.rhai:1: P0605 the file is larger than 262144 bytes"]
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn too_many_templates_are_refused_with_the_first_one_that_is_too_many() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let invalid = fixtures("roles/invalid/unknown-version");
    let manifest = text(invalid.join("role.yaml")).replace("version: 2", "version: 1");
    let templates = folder.path().join("phases/templates");
    std::fs::create_dir_all(&templates).expect("a directory of our own");
    let put = |path: &str, content: &str| {
        std::fs::write(folder.path().join(path), content).expect("a file of our own");
    };
    put("role.yaml", &manifest);
    put(
        "phases/example.rhai",
        &text(invalid.join("phases/example.rhai")),
    );
    for number in 0..=500 {
        put(&format!("phases/templates/{number:03}.tmpl"), "text\n");
    }
    match block_on(RolePackage::load(
        &LiveHost::new(),
        &folder.path().display().to_string(),
    )) {
        Err(RoleError::Invalid { findings, .. }) => assert_eq!(
            findings.iter().map(Diagnostic::short).collect::<Vec<_>>(),
            [
                "phases/templates/500.tmpl:1: P0606 the role has more than 500 templates (delete those that no phase uses, or make one template of several)"
            ]
        ),
        other => panic!("{other:?}"),
    }
}

/// Compares the message about every folder in `corpus` with its snapshot, and the snapshots with the folders.
fn each(corpus: &str, snapshots: &str, message: impl Fn(&Path) -> String) {
    let mut names = BTreeSet::new();
    for folder in folders(fixtures(corpus)) {
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let found_message = message(&folder);
        golden(snapshots, &name, &found_message);
        assert!(
            names_a_place(&found_message),
            "{name}: no file and line in:\n{found_message}"
        );
        names.insert(name);
    }
    assert!(!names.is_empty(), "{corpus} has cases");
    assert_eq!(
        snapshot_names(snapshots),
        names,
        "left: snapshots, right: cases"
    );
}

/// Whether a message says `file.ext:line`.
fn names_a_place(message: &str) -> bool {
    message.split([' ', '[', ']', '\n']).any(|word| {
        let mut parts = word.split(':');
        let file = parts.next().is_some_and(|file| file.contains('.'));
        file && parts
            .next()
            .is_some_and(|line| line.parse::<usize>().is_ok_and(|line| line > 0))
    })
}
