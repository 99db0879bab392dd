//! Compiles everything that is tested with one cargo command, and finds the programs. One command, because cargo builds a
//! dependency again for another selection of packages.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::repository::cargo;

/// The target of the program that labs run.
const NODELET: &str = "nodelet";

/// A compiled test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// The package it belongs to, and its target there; the same name twice for the unit tests of a library.
    pub(super) package: String,
    pub(super) target: String,
    pub(super) path: PathBuf,
    /// cargo runs tests in the directory of their package.
    pub(super) directory: PathBuf,
}

/// What cargo built.
#[derive(Debug, Default)]
pub(super) struct Built {
    pub(super) tests: Vec<Program>,
    /// The program that labs run; nodeletd lies beside it.
    nodelet: Option<PathBuf>,
}

impl Built {
    /// Builds all test programs of the workspace, and the programs that they test.
    ///
    /// # Errors
    /// One of them does not compile; cargo has said why.
    pub(super) fn all() -> Result<Self> {
        println!("==> build");
        let output = cargo()
            .args(["test", "--workspace", "--no-run", "--quiet"])
            .arg("--message-format=json-render-diagnostics")
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        if !output.status.success() {
            bail!("the tests do not build; repeat it with `cargo test --workspace --no-run`");
        }
        let text = String::from_utf8(output.stdout).context("cargo's messages are no UTF-8")?;
        let mut built = Self::default();
        for line in text.lines() {
            built
                .take(line)
                .with_context(|| format!("cannot understand cargo's message `{line}`"))?;
        }
        Ok(built)
    }

    /// The program under test.
    ///
    /// # Errors
    /// Nothing was built.
    pub(super) fn nodelet(&self) -> Result<PathBuf> {
        self.nodelet.clone().context("cargo built no nodelet")
    }

    /// Records the program that a message announces, if it announces one.
    fn take(&mut self, line: &str) -> Result<()> {
        let message: Value = serde_json::from_str(line).context("it is no JSON")?;
        let Some(path) = message["executable"].as_str().map(PathBuf::from) else {
            return Ok(());
        };
        let text = |value: &Value| {
            value
                .as_str()
                .map(str::to_owned)
                .context("a name is missing")
        };
        let target = text(&message["target"]["name"])?;
        if message["profile"]["test"].as_bool() != Some(true) {
            if target == NODELET {
                self.nodelet = Some(path);
            }
            return Ok(());
        }
        let manifest = PathBuf::from(text(&message["manifest_path"])?);
        self.tests.push(Program {
            package: package(&text(&message["package_id"])?),
            target,
            path,
            directory: manifest.parent().unwrap_or(Path::new("/")).to_owned(),
        });
        Ok(())
    }
}

/// The name in a package id: `path+file:///checkout/tests#behaviour@0.1.0`, or `…/engine#0.1.0` if the directory has the same name.
fn package(id: &str) -> String {
    let (place, name) = id.rsplit_once('#').unwrap_or(("", id));
    let name = name.split_once('@').map_or_else(
        || place.rsplit('/').next().unwrap_or_default(),
        |(name, _)| name,
    );
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_among_the_messages() {
        let message = |target: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///c/tests#behaviour@0.1.0",
                "manifest_path":"/c/tests/Cargo.toml","target":{{"name":"{target}"}},"profile":{{"test":{test}}},
                "executable":"/t/{target}"}}"#
            )
        };
        let mut built = Built::default();
        built.nodelet().expect_err("there is none yet");
        for (target, test) in [("cuts", true), ("nodelet", false), ("xtask", false)] {
            built.take(&message(target, test)).expect("a message");
        }
        let finished = r#"{"reason":"build-finished","success":true}"#;
        built.take(finished).expect("a message");
        built.take("no JSON").expect_err("it is refused");
        let [program] = &built.tests[..] else {
            panic!("one is a test: {built:?}")
        };
        assert_eq!(program.package, "behaviour");
        assert_eq!(program.target, "cuts");
        assert_eq!(program.directory, Path::new("/c/tests"));
        assert_eq!(built.nodelet().expect("built"), Path::new("/t/nodelet"));
    }

    #[test]
    fn names_packages() {
        assert_eq!(package("path+file:///c/engine#0.1.0"), "engine");
        assert_eq!(
            package("path+file:///c/tests/lab#lab-suites@0.1.0"),
            "lab-suites"
        );
    }
}
