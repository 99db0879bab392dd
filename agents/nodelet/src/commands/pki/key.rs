//! `nodelet pki key`: the public key of this host, to which a master encrypts a join file.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use daemon::files;
use engine::kubernetes::join_file::{IDENTITY, UNFINISHED_IDENTITY, new_identity, public_key};

use crate::cli::PkiKeyArgs;
use crate::output::exit::Exit;
use crate::output::say;

/// Bound on the file of an identity, which has two lines.
const LONGEST: u64 = 4096;

pub(crate) fn key(args: &PkiKeyArgs) -> Result<Exit> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("read the key of this host: only root can");
    }
    let public = known_or_new(Path::new(IDENTITY))?;
    if args.json {
        say(&format!("{}\n", serde_json::json!({ "key": public })));
    } else {
        say(&format!("{public}\n"));
    }
    Ok(Exit::Ok)
}

/// The public key of the identity at `path`. Makes the identity if there is none. An identity is never replaced: a join file that was made
/// for it would become useless.
fn known_or_new(path: &Path) -> Result<String> {
    if let Some(public) = known(path)? {
        return Ok(public);
    }
    let directory = path.parent().context("find the directory of the key")?;
    // The mode is for the directory itself: other programs have files in those above it.
    if let Some(above) = directory.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(above)
            .with_context(|| format!("create {}", above.display()))?;
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("create {}", directory.display()))?;
    let (secret, public) = new_identity();
    let content = format!("# public key: {public}\n{secret}\n");
    // The complete file gets its name at once, and only if no other process was faster.
    let own = format!("{UNFINISHED_IDENTITY}{}", std::process::id());
    let temporary = path.with_extension(own);
    write_new(&temporary, content.as_bytes())
        .with_context(|| format!("write {}", temporary.display()))?;
    let linked = std::fs::hard_link(&temporary, path);
    let removed = std::fs::remove_file(&temporary);
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return known(path)?.context("read the key of this host: it was removed");
        }
        Err(error) => {
            return Err(error).with_context(|| format!("create {}", path.display()));
        }
    }
    removed.with_context(|| format!("remove {}", temporary.display()))?;
    let opened = std::fs::File::open(directory);
    let synced = opened.and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("bring {} to the disk", path.display()))?;
    Ok(public)
}

/// Writes a file that only its owner can read, and brings it to the disk. The key gets no further name on the way: `nodelet clean --purge`
/// finds this one.
fn write_new(path: &Path, content: &[u8]) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn known(path: &Path) -> Result<Option<String>> {
    let Some(content) = files::read(path, LONGEST)? else {
        return Ok(None);
    };
    let text = String::from_utf8(content).unwrap_or_default();
    let public = public_key(&text).with_context(|| format!("read {}", path.display()))?;
    Ok(Some(public))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("opt/state/age.key");
        let first = known_or_new(&path).expect("it is made");
        assert!(first.starts_with("age1"), "{first}");
        assert_eq!(known_or_new(&path).expect("it is known"), first);
        let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        let state = directory.path().join("opt/state");
        assert_eq!(mode(&state), 0o700);
        let above = mode(&directory.path().join("opt"));
        assert_ne!(above & 0o055, 0, "others may use it");
        let names = std::fs::read_dir(&state).expect("it is there");
        assert_eq!(names.count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_of_a_killed_program_with_the_same_process_id_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("age.key");
        let own = format!("{UNFINISHED_IDENTITY}{}", std::process::id());
        std::fs::write(path.with_extension(own), "AGE-SECRET-KEY-1old\n").expect("it is written");
        let public = known_or_new(&path).expect("it is made");
        assert_eq!(known_or_new(&path).expect("it is known"), public);
        let names = std::fs::read_dir(directory.path()).expect("it is there");
        assert_eq!(names.count(), 1, "nothing else is left");
    }

    #[test]
    fn a_damaged_key_is_refused_and_not_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("age.key");
        std::fs::write(&path, "AGE-SECRET-KEY-1damaged\n").expect("it is written");
        let error = known_or_new(&path).expect_err("it is damaged");
        let shown = format!("{error:#}");
        assert!(
            shown.contains("age.key") && !shown.contains("1damaged"),
            "{shown}"
        );
        let kept = std::fs::read_to_string(&path).expect("it is there");
        assert_eq!(kept, "AGE-SECRET-KEY-1damaged\n");
    }
}
