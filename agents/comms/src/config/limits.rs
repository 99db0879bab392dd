//! A configuration of any content, of each size that is read.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use bounds::{content, quickly};

/// Largest file that is read, in bytes (`crates/daemon/src/config.rs`).
const LARGEST: usize = 64 * 1024;
/// Neither the environment nor files of this machine count after it.
const PLANE: &str = "plane: {host: plane.example}\nproxy: {url: none}\n";

/// Reads a file with this content as the daemon does.
fn settings(content: &[u8]) -> Result<Settings> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("comms.yaml");
    std::fs::write(&path, content)?;
    quickly(|| Settings::new(daemon::config::read(&path)?))
}

#[test]
fn the_largest_file_is_used() {
    let mut text =
        format!("{PLANE}listeners:\n- {{name: a, port: 1, users: all, addresses: [127.0.0.1");
    let mut count = 1;
    while text.len() < LARGEST - 100 {
        let _ = write!(text, ", 127.{}.{}.2", count / 250 + 1, count % 250);
        count += 1;
    }
    text.push_str("]}\n#");
    let more = "x".repeat(LARGEST - text.len());
    text.push_str(&more);
    let used = settings(text.as_bytes()).expect("it is right");
    assert_eq!(used.listeners[0].addresses.len(), count);
    text.push('x');
    settings(text.as_bytes()).expect_err("it is too large");
}

proptest! {
    #[test]
    fn any_text_is_used_or_refused(text in "[ -~\n]{0,400}") {
        let _ = settings(text.as_bytes());
        let _ = settings(format!("{PLANE}listeners:\n{text}").as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_file_is_used_or_refused(
        content in content(LARGEST, &[
            "plane: {host: plane.example}\n", "proxy: {url: none}\n", "listeners:\n", "- {name: a, port: 1, users: all}\n",
            "- {name: a, ", "port: 1, ", "users: [root], ", "addresses: [127.0.0.1, ", "no_proxy: [", "connections: 1", "&a ", "*a, ",
            "[a, ", "{a: ", "}", "]", "? ", "\n  ", "\n", "\"", "'", "# ", "|\n", "ä",
        ]),
    ) {
        let after_plane = [PLANE.as_bytes(), &content[..]].concat();
        for text in [content, after_plane] {
            let used = settings(&text);
            prop_assert!(used.is_err() || text.len() <= LARGEST);
        }
    }
}
