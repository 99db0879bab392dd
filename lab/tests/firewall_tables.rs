//! The snapshot's script reads all tables of the firewall. Fake programs take the place of those of a host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

const SCRIPT: &str = include_str!("../src/snapshot.sh");

/// Like the real program: it prints all tables, or the one that is asked for with `-t`.
const SAVE: &str = r#"#!/bin/sh
for table in filter nat mangle raw security; do
    case "$*" in
        "" | "-t $table") printf '%s\n' "*$table" '-A OUTPUT -j THEIRS' COMMIT ;;
    esac
done
"#;

#[test]
fn the_snapshot_has_each_table_of_the_firewall() {
    let directory = tempfile::tempdir().expect("a directory");
    let families = ["iptables-save", "ip6tables-save"];
    for family in families {
        let path = directory.path().join(family);
        fs::write(&path, SAVE).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }
    let output = Command::new("/bin/bash")
        .args(["-c", SCRIPT, "snapshot", "firewall"])
        .env(
            "PATH",
            format!("{}:/usr/bin:/bin", directory.path().display()),
        )
        .output()
        .expect("bash runs");
    let text = String::from_utf8_lossy(&output.stdout);
    for family in families {
        for table in ["filter", "nat", "mangle", "raw", "security"] {
            let line = format!("{family} *{table} rule OUTPUT -j THEIRS");
            assert!(text.lines().any(|its| its == line), "{line}\n{text}");
        }
    }
}
