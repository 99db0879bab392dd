//! What to do about an error of the operating system.
//!
//! The error is recognised by its text: programs, servers and logs pass on nothing else. A caller that knows more, for example which file
//! it is about, advises by that first.
//!
//! Not here: errors of docker, of certificates and of other services (`exec::diagnosis`).

use std::borrow::Cow;
use std::path::Path;

/// An error of the operating system that has the same remedy in all places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemError {
    /// The file system has no bytes or no inodes left, or a quota is used up.
    NoRoom,
    /// The file system is mounted read-only.
    ReadOnly,
    /// Only root is allowed to do this, or something protects the path.
    Forbidden,
    /// A directory is in the place of a file.
    IsDirectory,
    /// Something else is in the place of a directory.
    NotDirectory,
    /// Links on the path lead in a circle.
    LinkLoop,
    /// A process, or all of them together, have too many open files.
    OpenFiles,
    /// Memory is short.
    NoMemory,
    /// Another program has the port.
    AddressInUse,
}

/// Each error, the words in its text (in lower case; one of them is enough), and what to do. The first match wins.
const CASES: &[(SystemError, &[&str], &str)] = &[
    (
        SystemError::NoRoom,
        &["no space left on device", "disk quota exceeded"],
        "make room on the file system that the message names (`df -h` shows bytes, `df -i` inodes)",
    ),
    (
        SystemError::ReadOnly,
        &["read-only file system"],
        "the file system that the message names is read-only, often after a disk error (`dmesg | tail`): mount it for writing (`findmnt --target PATH` shows it)",
    ),
    (
        SystemError::Forbidden,
        &["permission denied", "operation not permitted"],
        "run as root, and see what protects the path that the message names (`lsattr`, `findmnt --target PATH`)",
    ),
    (
        SystemError::IsDirectory,
        &["is a directory"],
        "a directory is at the path that the message names (`namei -l PATH`): move it away",
    ),
    (
        SystemError::NotDirectory,
        &["not a directory"],
        "something else is at the path that the message names, or at a directory above it (`namei -l PATH`): move it away",
    ),
    (
        SystemError::LinkLoop,
        &["too many levels of symbolic links"],
        "the links on the path that the message names lead in a circle (`namei -l PATH`): remove one of them",
    ),
    (
        SystemError::OpenFiles,
        &["too many open files"],
        "see which program has so many files open (`lsof | awk '{print $1}' | sort | uniq -c | sort -n`), and raise its limit",
    ),
    (
        SystemError::NoMemory,
        &["cannot allocate memory", "out of memory"],
        "free memory on this host (`free -m`, `ps aux --sort -rss | head`)",
    ),
    (
        SystemError::AddressInUse,
        &["address already in use"],
        "find the program that holds the port (`ss -ltnp`) and stop it, or choose another port",
    ),
];

impl SystemError {
    /// The error in this text, if there is a known one.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let text = text.to_lowercase();
        let mut cases = CASES.iter();
        let found = cases.find(|(_, words, _)| words.iter().any(|word| text.contains(word)));
        found.map(|(error, _, _)| *error)
    }

    /// What to do about it, in the imperative and without the full stop. `place` is a path on the file system in question, if it is known.
    #[must_use]
    pub fn next_step(self, place: Option<&Path>) -> Cow<'static, str> {
        if let (Self::NoRoom, Some(place)) = (self, place) {
            let place = place.display();
            return Cow::Owned(format!(
                "make room on the file system of {place} (`df -h {place}` shows bytes, `df -i {place}` inodes)"
            ));
        }
        let mut cases = CASES.iter();
        let found = cases.find(|(error, _, _)| *error == self);
        Cow::Borrowed(found.map_or("", |(_, _, next)| *next))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    /// The texts are those of this system.
    #[test]
    fn each_error_of_the_system_has_its_next_step() {
        let cases = [
            (28, SystemError::NoRoom, "`df -i`"),
            (122, SystemError::NoRoom, "make room"),
            (30, SystemError::ReadOnly, "for writing (`findmnt "),
            (13, SystemError::Forbidden, "`lsattr`"),
            (1, SystemError::Forbidden, "run as root"),
            (21, SystemError::IsDirectory, "move it away"),
            (20, SystemError::NotDirectory, "a directory above it"),
            (40, SystemError::LinkLoop, "remove one of them"),
            (24, SystemError::OpenFiles, "raise its limit"),
            (23, SystemError::OpenFiles, "raise its limit"),
            (12, SystemError::NoMemory, "free memory"),
            (98, SystemError::AddressInUse, "`ss -ltnp`"),
        ];
        for (number, error, next) in cases {
            let text = Error::from_raw_os_error(number).to_string();
            assert_eq!(SystemError::of(&text), Some(error), "{text}");
            let advice = error.next_step(None);
            assert!(advice.contains(next), "{text}: {advice}");
        }
        for (error, _, _) in CASES {
            let is_tested = cases.iter().any(|(_, tested, _)| tested == error);
            assert!(is_tested, "{error:?}");
        }
    }

    #[test]
    fn an_error_is_recognised_within_other_text() {
        let log = "panic: mkdir /data: NO SPACE LEFT on device; exit status 2";
        assert_eq!(SystemError::of(log), Some(SystemError::NoRoom));
        assert_eq!(SystemError::of("connection refused"), None);
        assert_eq!(SystemError::of(""), None);
    }

    #[test]
    fn a_full_file_system_is_named_if_it_is_known() {
        let place = Path::new("/mnt/backups");
        let advice = SystemError::NoRoom.next_step(Some(place));
        assert_eq!(
            advice,
            "make room on the file system of /mnt/backups (`df -h /mnt/backups` shows bytes, `df -i /mnt/backups` inodes)"
        );
        let general = SystemError::ReadOnly.next_step(None);
        assert_eq!(SystemError::ReadOnly.next_step(Some(place)), general);
    }
}
