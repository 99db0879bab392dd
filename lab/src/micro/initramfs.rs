//! An initial file system for a kernel, as the bytes of an archive: cpio in its form `newc`, which the kernel's
//! `driver-api/early-userspace/buffer-format.rst` describes.

use std::collections::BTreeSet;
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTERS: u32 = 0o020_000;

/// An archive under construction.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a directory and those above it, each once.
    pub(crate) fn directory(&mut self, path: &str) {
        let above: Vec<&Path> = Path::new(path).ancestors().collect();
        for directory in above.into_iter().rev() {
            let name = directory.to_string_lossy().into_owned();
            if !matches!(name.as_str(), "" | "/") && self.directories.insert(name.clone()) {
                self.entry(&name, DIRECTORY | 0o755, (0, 0), &[]);
            }
        }
    }

    /// Adds a file, and the directories above it.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.above(path);
        self.entry(path, FILE | mode, (0, 0), content);
    }

    /// Adds a symbolic link, and the directories above it.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.above(path);
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device, and the directories above it.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.above(path);
        self.entry(path, CHARACTERS | 0o600, (major, minor), &[]);
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn above(&mut self, path: &str) {
        if let Some(parent) = Path::new(path).parent() {
            self.directory(&parent.to_string_lossy());
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let name = path.trim_start_matches('/');
        self.entries += 1;
        let length = |bytes: usize| u32::try_from(bytes).expect("no file of ours has 4 GB");
        let fields = [
            self.entries,
            mode,
            // Owner and group.
            0,
            0,
            // The number of links.
            1,
            // The time of modification: always the same, so that the same files make the same bytes.
            0,
            length(content.len()),
            // The device it lies on.
            0,
            0,
            device.0,
            device.1,
            length(name.len() + 1),
            // A checksum, which this form does not use.
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        let whole = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(whole, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
        archive.file("/a/b", 0o755, b"hello");
        archive.directory("/a");
        let bytes = archive.finish();
        let header = |entry: u32, mode: u32, size: usize, name: usize| {
            let zero = "00000000";
            format!(
                "070701{entry:08x}{mode:08x}{zero}{zero}00000001{zero}{size:08x}{zero}{zero}{zero}{zero}{name:08x}{zero}"
            )
        };
        let wanted = [
            header(1, 0o040_755, 0, 2) + "a\0",
            header(2, 0o100_755, 5, 4) + "a/b\0" + "\0\0hello\0\0\0",
            header(3, 0, 0, 11) + "TRAILER!!!\0\0\0\0",
        ];
        assert_eq!(String::from_utf8(bytes).expect("text"), wanted.concat());
    }
}
