//! Settings from files to environment: a corpus of fixtures with the messages and texts they give.

#![expect(
    clippy::disallowed_methods,
    reason = "a test looks at the machine itself"
)]

use std::fs;
use std::path::{Path, PathBuf};

use engine::env::{EnvError, KubeEnv, SecretText, Source, render, template};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The cases of `fixtures/env/<kind>`: each is a folder with the files of `/etc/pf9/nodelet`.
fn cases(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/env")
        .join(kind);
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    cases.sort();
    cases
}

/// Resolves a case under the paths that its files have on a host.
fn resolve(case: &Path) -> Result<KubeEnv, Vec<EnvError>> {
    let mut files = Vec::new();
    let mut override_file = None;
    for entry in fs::read_dir(case).expect("a case") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let content = fs::read(&path).expect("a fixture");
        if name == "kube_override.env" {
            override_file = Some((format!("/etc/pf9/{name}"), content));
        } else {
            files.push((format!("/etc/pf9/nodelet/{name}"), content));
        }
    }
    KubeEnv::resolve_with_override(files, override_file)
}

/// Compares with `snapshots/diagnostics/env/<kind>@<case>.snap`.
fn check(kind: &str, case: &Path, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(repository().join("snapshots/diagnostics/env"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_suffix(case.file_name().expect("a name").to_string_lossy());
    settings.bind(|| insta::assert_snapshot!(kind, text));
}

#[test]
fn invalid_files_are_refused_with_their_place() {
    for case in cases("invalid") {
        let problems = resolve(&case).expect_err(&case.display().to_string());
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        check("invalid", &case, &lines.join("\n"));
        assert!(!lines.join("\n").contains("hunter2"), "{}", case.display());
        assert!(
            !format!("{problems:?}").contains("hunter2"),
            "{}",
            case.display()
        );
    }
}

#[test]
fn valid_files_become_an_environment() {
    for case in cases("valid") {
        let env =
            resolve(&case).unwrap_or_else(|problems| panic!("{}: {problems:#?}", case.display()));
        let mut text = render(&env, SecretText::reference);
        text.push_str(&format!(
            "\n# API {}, DNS {}\n",
            env.api_service_ip(),
            env.dns_service_ip()
        ));
        for (name, _) in env.iter() {
            match env.source_of(name) {
                Some(Source::Default) | None => {}
                Some(source) => text.push_str(&format!("# {name}: {source}\n")),
            }
        }
        check("valid", &case, &text);
    }
}

#[test]
fn the_committed_template_is_the_generated_one() {
    let path = repository().join("kube.env.template");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&path, template()).expect("the template is written");
    }
    let committed = fs::read_to_string(&path).expect("kube.env.template is committed");
    assert!(
        committed == template(),
        "run the tests with UPDATE_GENERATED=1 and commit kube.env.template"
    );
}

#[test]
fn a_byte_order_mark_is_no_document() {
    let settings = "ROLE: master\nMASTER_IP: 10.0.0.1\nNO_SUCH: key\n";
    let resolve = |text: String| {
        let problems =
            KubeEnv::resolve_with_override(vec![("a.yaml".to_owned(), text.into_bytes())], None)
                .map(drop)
                .expect_err("NO_SUCH is no key");
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        resolve(format!("\u{feff}{settings}")),
        resolve(settings.to_owned())
    );
}
