//! What a change shows of content that may hold a secret.
//!
//! The plan says what is secret in the new content. It does not say what is secret in the old content: a setting that was a secret may be
//! empty by now. But a file with a secret is never readable by all users (P0341). So if other users cannot read a file, a change shows only
//! those parts of its old content that the new content has, too.

use std::collections::BTreeSet;
use std::path::Path;

use crate::host::{EntryKind, Host};
use crate::resource::ResourceResult;

/// The mask of a secret.
pub(in crate::resource) const HIDDEN: &str = "(hidden)";
/// Maximum number of links that are followed, as in the kernel.
const LINKS: usize = 40;

/// Whether other users cannot read a file with these permission bits.
pub(in crate::resource) fn is_private(mode: u32) -> bool {
    mode & 0o004 == 0
}

/// The old text of a private file, with a mask in place of each line that the new text does not have.
pub(in crate::resource) fn masked(before: &str, after: &str) -> String {
    let known: BTreeSet<&str> = after.split('\n').collect();
    let mut text = String::new();
    for line in before.split_inclusive('\n') {
        let content = line.strip_suffix('\n').unwrap_or(line);
        text.push_str(if known.contains(content) {
            content
        } else {
            HIDDEN
        });
        text.push_str(&line[content.len()..]);
    }
    text
}

/// Whether other users cannot read the file at `path`. Links are followed. A file that is not there counts as private. Cancel safe.
pub(in crate::resource) async fn is_private_file(
    host: &dyn Host,
    path: &Path,
) -> ResourceResult<bool> {
    let mut at = path.to_path_buf();
    for _ in 0..LINKS {
        if is_in_private_directory(host, &at).await? {
            return Ok(true);
        }
        let Some(entry) = host.entry(&at).await? else {
            break;
        };
        let EntryKind::Symlink(target) = &entry.kind else {
            return Ok(is_private(entry.attributes.mode));
        };
        at = at.parent().unwrap_or(Path::new("/")).join(target);
    }
    Ok(true)
}

/// Whether a directory above `path` lets no other user in. Cancel safe.
async fn is_in_private_directory(host: &dyn Host, path: &Path) -> ResourceResult<bool> {
    for directory in path.ancestors().skip(1) {
        if let Some(entry) = host.entry(directory).await?
            && entry.kind == EntryKind::Directory
            && entry.attributes.mode & 0o001 == 0
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::host::{Attributes, Files as _};
    use crate::model::Text;
    use crate::resource::tests::{apply_in, context};
    use crate::resource::{Change, FileSource, FileSpec, Owner, Receipt};

    /// Converges `/etc/b` with the default mode; returns the change.
    async fn converge(host: &FakeHost, source: FileSource) -> Option<Change> {
        let file = FileSpec {
            path: "/etc/b".into(),
            source,
            attributes: Attributes::root(0o644),
            owner: Owner::default(),
            create_only: false,
            secret: false,
            unit: false,
        };
        let made = apply_in(&context(host), &file, &mut Receipt::default()).await;
        made.expect("it is made")
    }

    async fn mode(host: &FakeHost, path: &str) -> Option<u32> {
        let entry = host.entry(Path::new(path)).await.expect("it answers");
        entry.map(|entry| entry.attributes.mode)
    }

    #[test]
    fn lines_that_the_new_text_has_are_shown() {
        assert_eq!(masked("a\nsecret\nb\n", "b\na\nc\n"), "a\n(hidden)\nb\n");
        assert_eq!(masked("a\nsecret", "a\n"), "a\n(hidden)");
        assert_eq!(masked("", "a\n"), "");
    }

    #[tokio::test]
    async fn the_old_text_of_a_private_file_is_hidden() {
        let old = "a = 1\npassword = hunter2\n";
        for (mode, shown) in [
            (0o600, "a = 1\n(hidden)\n"),
            (0o640, "a = 1\n(hidden)\n"),
            (0o644, old),
        ] {
            let host = FakeHost::new();
            host.with_world_mut(|world| world.file_with_mode("/etc/b", old, mode));
            let new = Text::Known("a = 1\npassword =\n".to_owned());
            let change = converge(&host, FileSource::Text(new)).await;
            let text = change.expect("it differs").text.expect("it is told");
            assert_eq!(text.before, shown, "{mode:o}");
            assert_eq!(text.after, "a = 1\npassword =\n", "{mode:o}");
        }
    }

    #[tokio::test]
    async fn a_copy_from_a_private_directory_is_private() {
        let host = FakeHost::new();
        host.with_world_mut(|world| {
            world.directory_with_mode("/root/app", 0o700);
            world.file_with_mode("/root/app/token", "hunter2\n", 0o644);
        });
        let source = FileSource::GuardedCopy("/root/app/token".into());
        let change = converge(&host, source).await.expect("it is not there");
        assert_eq!(mode(&host, "/etc/b").await, Some(0o600));
        assert!(change.text.is_none() && change.digest.is_none());
    }

    #[tokio::test]
    async fn a_copy_without_a_mode_is_as_private_as_its_source() {
        for (given, becomes) in [(0o600, 0o600), (0o640, 0o600), (0o644, 0o644)] {
            let host = FakeHost::new();
            host.with_world_mut(|world| world.file_with_mode("/etc/a", "hunter2\n", given));
            let linked = host.symlink(Path::new("/etc/link"), "a").await;
            linked.expect("a link");
            for source in ["/etc/a", "/etc/link"] {
                let copy = || FileSource::GuardedCopy(source.into());
                let change = converge(&host, copy()).await.expect("it is not there");
                assert_eq!(mode(&host, "/etc/b").await, Some(becomes), "{given:o}");
                let is_shown = change.text.is_some() && change.digest.is_some();
                assert_eq!(is_shown, becomes == 0o644, "{given:o}: {change:?}");
                assert_eq!(converge(&host, copy()).await, None, "{given:o}");
                host.with_world_mut(|world| world.remove("/etc/b"));
            }
        }
    }

    #[tokio::test]
    async fn a_copy_with_a_mode_keeps_it_and_shows_nothing_private() {
        let host = FakeHost::new();
        host.with_world_mut(|world| world.file_with_mode("/etc/a", "hunter2\n", 0o600));
        let change = converge(&host, FileSource::Copy("/etc/a".into())).await;
        let change = change.expect("it is not there");
        assert_eq!(mode(&host, "/etc/b").await, Some(0o644));
        assert!(!format!("{change:?}").contains("hunter2"), "{change:?}");
        assert_eq!(change.digest, None, "it could be guessed from");
    }
}
