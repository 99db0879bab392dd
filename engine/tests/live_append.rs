//! `LiveHost` appends all or nothing, also where there is no room for all.

#![expect(
    clippy::disallowed_methods,
    reason = "a test looks at the machine itself"
)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use engine::host::live::LiveHost;
use engine::host::{Attributes, Files};

/// Set in the process whose files may not grow beyond 8 KiB.
const SMALL: &str = "NODELET_TEST_SMALL_FILES";

#[tokio::test]
async fn an_append_that_does_not_fit_leaves_the_file_as_it_was() {
    if std::env::var_os(SMALL).is_none() {
        // The limit holds for a whole process, so the test runs once more in one of its own.
        let test = std::env::current_exe().expect("a test knows its own path");
        let output = Command::new("bash")
            .args([
                "-c",
                "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact \"$1\"",
            ])
            .arg(test)
            .arg("an_append_that_does_not_fit_leaves_the_file_as_it_was")
            .env(SMALL, "1")
            .output()
            .expect("a shell");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("ledger.jsonl");
    let own = fs::metadata(directory.path()).expect("a directory");
    let attributes = Attributes {
        mode: 0o600,
        uid: own.uid(),
        gid: own.gid(),
    };
    let host = LiveHost::new();
    let first = format!("{}\n", "1".repeat(5000));
    host.append(&path, first.as_bytes(), attributes)
        .await
        .expect("there is room for it");
    let error = host
        .append(&path, &[b'2'; 64 * 1024], attributes)
        .await
        .expect_err("there is no room for it");
    let chain = engine::model::chain(&error).join(": ");
    assert!(chain.contains("File too large"), "{chain}");
    assert_eq!(fs::read_to_string(&path).expect("text"), first);
    host.append(&path, b"3\n", attributes)
        .await
        .expect("there is room for it");
    assert_eq!(
        fs::read_to_string(&path).expect("text"),
        format!("{first}3\n")
    );
}
