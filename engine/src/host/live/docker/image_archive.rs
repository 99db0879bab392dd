//! What an archive of container images holds, read from its table of contents.
//!
//! `docker save` writes a plain tar with a `manifest.json`. Only headers are read on the way there: an archive is
//! hundreds of megabytes large, its table of contents a few hundred bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use super::containers::plain;
use crate::host::live::blocking::file_error;
use crate::host::{ArchivedImage, HostError, HostResult};

/// A tar consists of blocks of this size.
const BLOCK: usize = 512;
/// An archive with more entries than this is not looked through.
const ENTRIES: usize = 10_000;
/// A table of contents larger than this is refused.
const MANIFEST: u64 = 1024 * 1024;

/// One image in the table of contents.
#[derive(Deserialize)]
struct Image {
    #[serde(rename = "RepoTags")]
    references: Option<Vec<String>>,
    /// Where the image's configuration is in the archive: `HEX.json`, in newer archives `blobs/sha256/HEX`.
    #[serde(rename = "Config", default)]
    config: String,
}

impl Image {
    /// docker's id of an image is the digest of its configuration.
    fn id(&self) -> String {
        let name = self.config.rsplit('/').next().unwrap_or_default();
        let hex = name.strip_suffix(".json").unwrap_or(name);
        let is_digest = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_digest {
            format!("sha256:{}", hex.to_ascii_lowercase())
        } else {
            String::new()
        }
    }
}

/// The images in an archive, one for each reference; `None` if the archive has no table of contents, or is compressed. A reference that
/// cannot be used in a request to docker is an error. Blocks.
pub(in crate::host::live) fn images(archive: &Path) -> HostResult<Option<Vec<ArchivedImage>>> {
    let mut file = File::open(archive).map_err(file_error("open", archive))?;
    let Some(manifest) = manifest(&mut file).map_err(file_error("read", archive))? else {
        return Ok(None);
    };
    let images: Vec<Image> = serde_json::from_slice(&manifest).map_err(|error| {
        HostError::service(
            format!("read manifest.json in {}", archive.display()),
            error,
        )
    })?;
    let images: Vec<ArchivedImage> = images
        .into_iter()
        .flat_map(|image| {
            let id = image.id();
            let references = image.references.unwrap_or_default().into_iter();
            references.map(move |reference| ArchivedImage {
                reference,
                id: id.clone(),
            })
        })
        .collect();
    for image in &images {
        plain(&image.reference, ":@/")?;
    }
    Ok(Some(images))
}

/// The content of `manifest.json`, if these bytes are a tar that has one.
fn manifest(tar: &mut (impl Read + Seek)) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; BLOCK];
    for _ in 0..ENTRIES {
        match tar.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let Some(size) = size(&header) else {
            return Ok(None);
        };
        if matches!(name(&header), b"manifest.json" | b"./manifest.json") {
            if size > MANIFEST {
                return Ok(None);
            }
            let mut content = Vec::new();
            tar.take(size).read_to_end(&mut content)?;
            return Ok(Some(content));
        }
        let blocks = size.div_ceil(BLOCK as u64);
        let Some(skip) = blocks
            .checked_mul(BLOCK as u64)
            .and_then(|bytes| i64::try_from(bytes).ok())
        else {
            return Ok(None);
        };
        tar.seek(SeekFrom::Current(skip))?;
    }
    Ok(None)
}

fn name(header: &[u8; BLOCK]) -> &[u8] {
    let field = &header[..100];
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

/// The size of an entry's content; `None` if this is no header of an entry.
fn size(header: &[u8; BLOCK]) -> Option<u64> {
    // The checksum counts its own field as blanks.
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            u64::from(if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            })
        })
        .sum();
    if octal(&header[148..156])? != sum {
        return None;
    }
    let field = &header[124..136];
    if field[0] & 0x80 != 0 {
        // More than eight gigabytes: GNU writes a binary number.
        let number = field[4..].try_into().ok().map(u64::from_be_bytes)?;
        return Some(number);
    }
    octal(field)
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A tar with these files, the way GNU tar writes it.
    fn tar(files: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in files {
            let mut header = [0u8; BLOCK];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
            header[156] = b'0';
            header[148..156].copy_from_slice(b"        ");
            let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(content.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.extend_from_slice(&[0; 2 * BLOCK]);
        bytes
    }

    fn found(bytes: Vec<u8>) -> Option<String> {
        manifest(&mut Cursor::new(bytes))
            .expect("bytes in memory can be read")
            .map(|content| String::from_utf8(content).expect("the manifest is text"))
    }

    #[test]
    fn the_manifest_is_found_behind_layers() {
        let layer = "x".repeat(3 * BLOCK + 7);
        let archive = tar(&[("layer.tar", &layer), ("manifest.json", "[]"), ("z", "")]);
        assert_eq!(found(archive).as_deref(), Some("[]"));
    }

    #[test]
    fn files_that_are_not_image_archives_are_ignored() {
        assert_eq!(found(tar(&[("layer.tar", "x")])), None);
        assert_eq!(found(b"rubbish".to_vec()), None);
        assert_eq!(found(b"\x1f\x8b".repeat(600)), None, "compressed");
        let mut cut = tar(&[("layer.tar", "x"), ("manifest.json", "[]")]);
        cut.truncate(BLOCK + 10);
        assert_eq!(found(cut), None);
    }

    #[test]
    fn references_and_ids_come_from_every_image() {
        let directory = tempfile::tempdir().expect("a directory");
        let archive = directory.path().join("images.tar");
        let (one, two) = ("0a".repeat(32), "1b".repeat(32));
        let manifest = format!(
            r#"[{{"Config":"{one}.json","RepoTags":["a:1","a:2"]}},{{"Config":"b","RepoTags":null}},
                {{"Config":"blobs/sha256/{two}","RepoTags":["c:1"]}},{{"Config":"d.json","RepoTags":["d:1"]}}]"#
        );
        std::fs::write(&archive, tar(&[("manifest.json", &manifest)])).expect("a file");
        let found = images(&archive).expect("it can be read").expect("a table");
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|image| (image.reference.as_str(), image.id.as_str()))
            .collect();
        let (one, two) = (format!("sha256:{one}"), format!("sha256:{two}"));
        let (one, two) = (one.as_str(), two.as_str());
        assert_eq!(
            found,
            [("a:1", one), ("a:2", one), ("c:1", two), ("d:1", "")]
        );

        std::fs::write(&archive, tar(&[("manifest.json", "{")])).expect("a file");
        let error = images(&archive).expect_err("it is broken");
        assert!(error.to_string().contains("manifest.json in"), "{error}");

        let strange = tar(&[("manifest.json", r#"[{"RepoTags":["a:1","../b?c=1"]}]"#)]);
        std::fs::write(&archive, strange).expect("a file");
        let error = images(&archive).expect_err("no reference is like that");
        assert!(error.to_string().contains("../b?c=1"), "{error}");
    }
}
