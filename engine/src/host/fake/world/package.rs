//! A package of a fake host.

use std::path::PathBuf;

/// A package that is installed, with what it brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct InstalledPackage {
    pub(crate) version: String,
    pub(in crate::host::fake) units: Vec<String>,
    pub(in crate::host::fake) paths: Vec<PathBuf>,
}

/// A package file, read.
pub(crate) struct PackageFile {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) items: Vec<(String, String)>,
}
