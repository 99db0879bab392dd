//! Which role the program takes: that of the host by the setting ROLE, an installed one by its name, another one by its path, with or
//! without checksums.

use behaviour::{Program, fixtures, repository, text};
use serde_json::Value;

use crate::{ROLE, copy};

/// A plan for another host changes nothing here, so root may make one from a role in any directory. The suite `refusal` tests what
/// root refuses.
#[test]
fn a_role_that_another_user_can_change_is_planned_for_another_host() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    copy(&repository().join("phases"), &folder.path().join("phases"));
    let role = folder.path().join("roles/pf9-kube");
    copy(&repository().join("roles/pf9-kube"), &role);
    let script = folder.path().join("phases/etcd.rhai");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&script, open).expect("it is ours");
    let (role, settings, facts) = (
        role.display().to_string(),
        fixtures("settings/cp-1.yaml").display().to_string(),
        fixtures("hosts/cp-1.yaml").display().to_string(),
    );
    let elsewhere = [
        "phases", "--role", &role, "--config", &settings, "--facts", &facts,
    ];
    let answer = Program::nodelet(&elsewhere).answer();
    assert_eq!((answer.code, answer.err.as_str()), (0, ""));
    assert!(answer.out.contains("etcd"), "{}", answer.out);
}

/// An installed package names its checksums.
#[test]
fn the_payload_of_a_role_with_checksums_is_verified() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    copy(&repository().join("phases"), &folder.path().join("phases"));
    let role = folder.path().join("roles/pf9-kube");
    copy(&repository().join("roles/pf9-kube"), &role);
    let (file, digest) = (role.join("role.yaml"), "0f".repeat(32));
    let plan = |checksums: &str| {
        let text = text(repository().join("roles/pf9-kube/role.yaml"));
        let with_checksums =
            text.replace("\npayload:", &format!("\nchecksums: {checksums}\npayload:"));
        std::fs::write(&file, with_checksums).expect("a file of our own");
        let (role, settings, facts) = (
            role.display().to_string(),
            fixtures("settings/cp-1.yaml").display().to_string(),
            fixtures("hosts/cp-1.yaml").display().to_string(),
        );
        let arguments = [
            "plan", "--json", "--role", &role, "--config", &settings, "--facts", &facts,
        ];
        Program::nodelet(&arguments).answer()
    };
    let answer = plan(&digest);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let planned: Value = serde_json::from_str(&answer.out).expect("one JSON value");
    let (mut compared, mut brought) = (0, 0);
    for phase in planned["plan"]["phases"].as_array().expect("phases") {
        for step in phase["steps"].as_array().expect("steps") {
            if matches!(step["spec"]["kind"].as_str(), Some("image" | "packages")) {
                brought += 1;
                let its = &step["spec"]["checksums"];
                assert_eq!(its["sha256"], digest.as_str(), "{step}");
                assert_eq!(its["file"], "/opt/pf9/roles/pf9-kube/current/SHA256SUMS");
                compared += 1;
            }
        }
    }
    assert!(
        brought > 8 && compared == brought,
        "{compared} of {brought}"
    );
    let answer = plan("none");
    assert_eq!(answer.code, 1, "{}", answer.out);
    assert!(
        answer.err.contains("`none` is no SHA-256"),
        "{}",
        answer.err
    );
}

/// The current directory may belong to another user.
#[test]
fn a_role_name_does_not_mean_a_local_directory() {
    let settings = fixtures("settings/cp-1.yaml").display().to_string();
    for facts in [&[][..], &["--facts", "tests/fixtures/hosts/cp-1.yaml"]] {
        let named = [&["phases", "--config", &settings][..], facts].concat();
        let answer = Program::nodelet(&named).answer();
        assert_eq!(answer.code, 1, "{}", answer.out);
        assert!(
            answer
                .err
                .contains("looked in /opt/pf9/roles/pf9-kube/current")
                && answer.err.contains("./roles/pf9-kube"),
            "{}",
            answer.err
        );
    }
}

/// Where a user names such a directory by its name, the message says how to name it.
#[test]
fn a_role_directory_is_named_by_a_path() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(folder.path().join("chrony")).expect("a directory of our own");
    let (settings, facts) = (
        fixtures("settings/cp-1.yaml").display().to_string(),
        fixtures("hosts/cp-1.yaml").display().to_string(),
    );
    for (name, hint) in [("chrony", true), ("chronyd", false)] {
        let arguments = [
            "plan", "--role", name, "--config", &settings, "--facts", &facts,
        ];
        let answer = Program::nodelet(&arguments)
            .in_directory(folder.path())
            .answer();
        assert_eq!(answer.code, 1, "{}", answer.out);
        for part in [
            "a name means an installed role",
            "next: use `--role ./chrony`",
        ] {
            assert_eq!(answer.err.contains(part), hint, "{}", answer.err);
        }
    }
}

#[test]
fn a_role_without_a_name_is_wrong_usage() {
    let answer = Program::nodelet(&["plan", "--role", ""]).answer();
    assert_eq!(answer.code, 64, "{}", answer.err);
}

#[test]
fn a_host_without_a_role_is_reported() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let config = folder.path().join("settings.yaml");
    std::fs::write(&config, "MASTER_IP: 172.30.0.11\n").expect("a file in a directory of our own");
    let (config, host) = (
        config.display().to_string(),
        fixtures("hosts/cp-1.yaml").display().to_string(),
    );
    for verb in ["plan", "diff"] {
        let arguments = [verb, "--role", ROLE, "--config", &config, "--facts", &host];
        let answer = Program::nodelet(&arguments).answer();
        assert_eq!(answer.code, 0, "{verb}: {}", answer.err);
        let told = "nothing to do: ROLE is none";
        assert!(answer.out.contains(told), "{verb}: {}", answer.out);
    }
}
