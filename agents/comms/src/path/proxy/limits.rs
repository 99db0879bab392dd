//! Files with a proxy or its password, URLs of proxies and lists of hosts, of any content and of each size that is read.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use bounds::{content, quickly};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// What no message may have.
const SECRET: &str = "hidden-word";

fn private(content: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    fs::write(&path, content).expect("it is written");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its mode is set");
    (directory, path)
}

/// Checks a result for a file of this length, and that an error has the place and no secret.
fn is_sound<T>(read: &Result<T>, length: usize, path: &Path) {
    assert!(read.is_err() || length as u64 <= LIMIT, "{length} bytes");
    if let Err(error) = read {
        let said = format!("{error:#}");
        assert!(said.contains(&path.display().to_string()), "{said}");
        assert!(!said.contains(SECRET), "{said}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_file_of_earlier_versions_is_read_or_refused(
        content in content(LIMIT as usize, &[
            "{", "}", "[", "\"http_proxy\":", "\"host\":", "\"port\":", "\"pass\":", "\"hidden-word\"",
            "\"", ",", "3128", "null", " ", "\n", "\\u0000",
        ]),
    ) {
        let (_directory, path) = private(&content);
        is_sound(&quickly(|| earlier_file(&path)), content.len(), &path);
    }

    #[test]
    fn any_values_in_a_file_of_earlier_versions_are_used_or_refused(
        host in "\\PC{0,20}|[a-z.]{1,20}|[0-9a-f:]{2,20}",
        port in 0..70_000_u32,
        protocol in "http|https|\\PC{0,10}",
    ) {
        let proxy = serde_json::json!({
            "protocol": protocol, "host": host, "port": port, "user": "me", "pass": SECRET,
        });
        let text = serde_json::json!({ "http_proxy": proxy }).to_string();
        let (_directory, path) = private(text.as_bytes());
        is_sound(&quickly(|| earlier_file(&path)), text.len(), &path);
    }

    #[test]
    fn any_file_with_credentials_is_read_or_refused(
        content in content(LIMIT as usize, &["me", ":", SECRET, "\n", "\r\n", "ä"]),
    ) {
        let (_directory, path) = private(&content);
        is_sound(&quickly(|| credentials_in(&path)), content.len(), &path);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The configuration has both, and is not larger than such a file; the environment may have more.
    #[test]
    fn any_url_and_any_list_of_hosts_without_a_proxy_is_used_or_refused(
        text in content(LIMIT as usize, &[
            "http://", "me:", SECRET, "@", "[", "]", ":", "3128", "proxy.example", "%41", "%", "/", "*.", ".", "10.0.0.0/8", "::1", ",", ",a",
        ]),
    ) {
        let text = String::from_utf8_lossy(&text);
        // Not even an error has what may be a password.
        for url in [text.to_string(), format!("http://{text}"), format!("http://{text}@proxy:1")] {
            if let Err(error) = quickly(|| parsed(&url)) {
                let said = format!("{error:#}");
                prop_assert!(!said.contains(SECRET), "{}", said);
            }
        }
        // A list, and one entry.
        let list = quickly(|| entries(text.split(',')));
        let one = quickly(|| entries(std::iter::once(&*text)));
        for no_proxy in [list, one].into_iter().flatten() {
            let proxies = Proxies { proxy: parsed("proxy:1").ok(), no_proxy, earlier: None };
            let _ = quickly(|| proxies.to("a.plane.example", 443).is_some());
        }
    }
}
