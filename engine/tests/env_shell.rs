//! kube.env against real shells: a script gets exactly the values that were written.

#![expect(
    clippy::disallowed_methods,
    reason = "a test looks at the machine itself"
)]

use std::fs;
use std::path::Path;
use std::process::Command;

use engine::env::{KubeEnv, render};
use proptest::prelude::*;

/// What `shell` prints after sourcing kube.env.
fn source(shell: &str, file: &Path, key: &str) -> Vec<u8> {
    let output = Command::new(shell)
        .args([
            "-c",
            &format!(". \"$0\"; printf %s \"${key}\""),
            &file.display().to_string(),
        ])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .output()
        .expect("a shell");
    assert!(
        output.stderr.is_empty(),
        "{shell}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Writes kube.env with these values and asks each shell that is here.
fn check(text: &str, secret: &str) {
    // A password needs a user.
    let user = if secret.is_empty() { "" } else { "account" };
    let env = KubeEnv::from_pairs([
        ("MASTER_IP".to_owned(), "192.0.2.1".to_owned()),
        ("RUNTIME_CONFIG".to_owned(), text.to_owned()),
        ("DOCKERHUB_ID".to_owned(), user.to_owned()),
        ("DOCKERHUB_PASSWORD".to_owned(), secret.to_owned()),
    ])
    .expect("any text is a value");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kube.env");
    fs::write(&file, render(&env, |secret| secret.expose().to_owned()))
        .expect("kube.env is written");
    for shell in ["/bin/sh", "/bin/dash", "/bin/bash"]
        .into_iter()
        .filter(|shell| Path::new(shell).exists())
    {
        for (key, expected) in [
            ("RUNTIME_CONFIG", text),
            ("DOCKERHUB_ID", user),
            ("DOCKERHUB_PASSWORD", secret),
            ("K8S_API_PORT", "443"),
        ] {
            let found = source(shell, &file, key);
            assert!(
                found == expected.as_bytes(),
                "{shell}: {key} is {expected:?}, got {:?}",
                String::from_utf8_lossy(&found)
            );
        }
    }
}

#[test]
fn values_that_are_special_in_shells_survive() {
    let all_ascii: String = (1..=127_u8).map(char::from).collect();
    let controls: String = (1..=0x2ff_u32).filter_map(char::from_u32).collect();
    let long = "x\\\"$`'\n".repeat(9_000);
    for text in [
        "",
        " ",
        "\n",
        "\n\n",
        " lead and trail \t",
        "trailing newline\n",
        "\r\n",
        "\\",
        "\\\\",
        "a\\\nb",
        "\\n",
        "\"",
        "'",
        "`id`",
        "$(id)",
        "${HOME}",
        "$HOME",
        "$",
        "$$",
        "!",
        "!!",
        "a!b",
        "~",
        "*",
        "#",
        "a #b",
        ";id",
        "export A=\"B\"",
        "\u{1}",
        "\u{7f}",
        "\u{81}\u{88}",
        "é ö 漢字 🦀",
        "\u{feff}",
        "\u{2028}",
        "-n",
        "%s%d",
        &all_ascii,
        &controls,
        &long,
    ] {
        check(text, text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_value_survives(
        text in "[^\0]{0,200}",
        shellish in "[\\\\\"'`$!(){}\\[\\]*?~#;&|<>= \t\r\nA-C0-2%-]{0,80}",
    ) {
        check(&text, &shellish);
        check(&shellish, &text);
    }
}
