//! The report of a failed command: on standard error, as text or, with `--json`, as one JSON object on a line. Standard output carries
//! only results and events.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use engine::model::SystemError;
use engine::resource::ResourceError;
use engine::role::RoleError;
use serde::Serialize;

use super::exit::Exit;
use super::problem::{Problem, Refused};

/// An error, ready to be reported.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorReport {
    /// The error and its causes, outermost first; the first completes "could not …".
    error: Vec<String>,
    /// What is wrong with the input, if that is the cause.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Problem>,
    /// The same for people: texts of one or more lines.
    #[serde(skip)]
    texts: Vec<String>,
    /// The next thing to try.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Cow<'static, str>>,
}

impl ErrorReport {
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let chain = engine::model::chain(error.as_ref());
        let refused = error.downcast_ref::<Refused>();
        let known = || next_step(&chain, nix::unistd::Uid::effective().is_root());
        Self {
            next: own_next_step(error).or_else(known),
            error: chain,
            problems: refused.map_or_else(Vec::new, |refused| refused.items.clone()),
            texts: refused.map_or_else(Vec::new, |refused| refused.problems.clone()),
        }
    }

    pub(crate) fn tell(&self, json: bool) {
        if json {
            say(&serde_json::to_string(self).expect("texts are JSON"));
            return;
        }
        let mut text = self.texts.concat();
        let _ = write!(
            text,
            "nodelet: could not {}",
            self.error.join("\n  because: ")
        );
        if let Some(next) = &self.next {
            let _ = write!(text, "\n  next: {next}");
        }
        say(&text);
    }
}

/// The next step that an error itself names.
fn own_next_step(error: &anyhow::Error) -> Option<Cow<'static, str>> {
    error.chain().find_map(|cause| {
        if let Some(ResourceError::Unmet { next, .. } | ResourceError::Awaited { next, .. }) =
            cause.downcast_ref()
        {
            return Some(next.clone().into());
        }
        match cause.downcast_ref() {
            Some(RoleError::NotFound {
                name, beside: true, ..
            }) => Some(format!("use `--role ./{name}`, or install the role's package").into()),
            _ => None,
        }
    })
}

/// Writes a line to standard error. A write error is ignored: the exit code still shows the failure.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The next thing to try, by the error of the system and the file that it is about.
fn next_step(chain: &[String], root: bool) -> Option<Cow<'static, str>> {
    let says = |text: &str| chain.iter().any(|cause| cause.contains(text));
    let error = SystemError::of(&chain.join("\n"));
    let is = |kind: SystemError| error == Some(kind);
    if is(SystemError::NoRoom) {
        let place = written(chain).unwrap_or(Path::new("/var/opt/pf9"));
        let next = SystemError::NoRoom.next_step(Some(place));
        return Some(Cow::from(format!("{next}, then try again")));
    }
    let next = if says("find role `") {
        "install the role's package, or name its directory with --role PATH; a path contains a slash, as in ./roles/pf9-kube"
    } else if is(SystemError::Forbidden) && !root {
        "only root is allowed to do this; try again with sudo"
    } else if says("open the lock") && is(SystemError::IsDirectory) {
        "a directory is at the path of the lock; make sure that it is not needed, and remove it (`rmdir /run/pf9-nodelet.lock`)"
    } else if says("open the lock") && is(SystemError::LinkLoop) {
        "a link is at the path of the lock; remove it (`rm /run/pf9-nodelet.lock`)"
    } else if says("but it is not saved") || says("but this is not saved") {
        "make it possible to write the file, then repeat the command; do not restart nodeletd before"
    } else if is(SystemError::ReadOnly) && says("/run/") {
        "/run has to be writable; see `findmnt /run`, and `mount -o remount,rw /run` if nothing is wrong with it"
    } else {
        // The user is root here, and this advice would be to become root.
        let error = error.filter(|error| *error != SystemError::Forbidden);
        return error.map(|error| error.next_step(None));
    };
    Some(next.into())
}

/// The directory of the file that could not be written, where an error names one.
fn written(chain: &[String]) -> Option<&Path> {
    let mut files = chain
        .iter()
        .filter_map(|cause| cause.strip_prefix("write "));
    let path = files.find(|path| path.starts_with('/'))?;
    Path::new(path).parent()
}

/// Prints the parser's message: the error for wrong arguments, or the help or version that was asked for.
pub(crate) fn tell_usage(error: &clap::Error) -> Exit {
    let printed = error.print();
    if error.use_stderr() {
        return Exit::Usage;
    }
    match printed {
        // A reader that closes the pipe needs no more.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            say(&format!(
                "could not write the help to standard output: {error}"
            ));
            Exit::Failed
        }
        _ => Exit::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_of_an_error_is_shown() {
        let error = anyhow::Error::from(ResourceError::Unmet {
            what: "begin".to_owned(),
            next: "end the last one".to_owned(),
        });
        let advice = ErrorReport::of(&error.context("replace an authority")).next;
        assert_eq!(advice.as_deref(), Some("end the last one"));
    }

    #[test]
    fn a_role_in_the_current_directory_is_told_by_its_path() {
        let error = |beside| {
            let error = RoleError::NotFound {
                name: "chrony".to_owned(),
                place: "/opt/pf9/roles/chrony/current".into(),
                beside,
            };
            ErrorReport::of(&anyhow::Error::from(error).context("load role chrony"))
        };
        let here = error(true);
        let parts = ["a name means an installed role", "`--role ./chrony`"];
        assert!(parts.iter().all(|part| here.error[1].contains(part)));
        let next = here.next.unwrap_or_default();
        assert!(next.starts_with("use `--role ./chrony`"), "{next}");
        let elsewhere = error(false);
        assert!(!elsewhere.error[1].contains("./chrony"));
        let next = elsewhere.next.unwrap_or_default();
        assert!(next.contains("--role PATH"), "{next}");
    }

    #[test]
    fn system_errors_have_a_next_step() {
        for (chain, root, next) in [
            (
                &[
                    "open the lock /run/pf9-nodelet.lock",
                    "Is a directory (os error 21)",
                ][..],
                true,
                "rmdir",
            ),
            (
                &[
                    "open the lock /run/pf9-nodelet.lock",
                    "Read-only file system (os error 30)",
                ],
                true,
                "findmnt /run",
            ),
            (
                &[
                    "open the lock /run/pf9-nodelet.lock",
                    "Too many levels of symbolic links (os error 40)",
                ],
                true,
                "`rm /run/pf9-nodelet.lock`",
            ),
            // The ledger itself is good.
            (
                &[
                    "write the copy of the ledger",
                    "write /var/opt/pf9/nodelet/ledger.backup.jsonl",
                    "Is a directory (os error 21)",
                ],
                true,
                "a directory is at the path that the message names",
            ),
            (
                &[
                    "write /etc/pf9/kube.d/ca.crt",
                    "Read-only file system (os error 30)",
                ],
                true,
                "often after a disk error",
            ),
            (
                &[
                    "ask nodeletd: the pause is in force, but it is not saved, so a restart of nodeletd ends it: could not write \
                     /var/opt/pf9/nodelet/nodeletd.json: Is a directory (os error 21)",
                ],
                true,
                "do not restart nodeletd before",
            ),
            (
                &[
                    "ask nodeletd: the pause is over, but this is not saved, so a restart of nodeletd brings the pause back: could not write \
                     /var/opt/pf9/nodelet/nodeletd.json: Is a directory (os error 21)",
                ],
                true,
                "do not restart nodeletd before",
            ),
            (
                &["write the ledger", "No space left on device (os error 28)"],
                true,
                "make room on the file system of /var/opt/pf9 (`df -h /var/opt/pf9` shows bytes, `df -i /var/opt/pf9` inodes)",
            ),
            (
                &[
                    "write /mnt/backups/.etcd-1.db.part",
                    "No space left on device (os error 28)",
                ],
                true,
                "make room on the file system of /mnt/backups ",
            ),
            (
                &["find role `x`: looked in /opt/pf9/roles/x/current"],
                true,
                "--role PATH",
            ),
            (
                &["open the lock", "Permission denied (os error 13)"],
                false,
                "sudo",
            ),
        ] {
            let chain: Vec<String> = chain.iter().map(ToString::to_string).collect();
            let advice = next_step(&chain, root).unwrap_or_default();
            assert!(advice.contains(next), "{chain:?}: {advice}");
        }
        assert_eq!(next_step(&["something else".to_owned()], true), None);
        assert_eq!(next_step(&["Permission denied".to_owned()], true), None);
    }
}
