//! Checks that the scripts and templates of a role are those that were packed. The texts in memory are compared, so a file that
//! changes after it was read makes no difference.
//!
//! Called before a role with checksums is used on this host. The payload is left out: a step that uses a file of the payload compares
//! that file ([`crate::resource::Checksums`]). A role in a checkout has no checksums and is not compared.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{RoleError, RolePackage};
use crate::host::{Files, HostError};
use crate::model::{Diagnostic, Span};
use crate::resource::{READ_LIMIT, digest_of};

/// The file of checksums, beside `role.yaml`.
const SUMS: &str = "SHA256SUMS";
/// What to do about a text that differs.
const NEXT: &str = "install the role's package again";

/// Compares the scripts and templates that were read from the package in `directory` with its checksums.
///
/// # Errors
/// [`RoleError::Invalid`] with each script or template that differs, or with what is wrong with the checksums; or an error of the host.
pub(super) async fn verify(
    files: &(dyn Files + Sync),
    directory: &Path,
    role: &RolePackage,
) -> Result<(), RoleError> {
    let Some(named) = &role.manifest.checksums else {
        return Ok(());
    };
    let invalid = |findings| RoleError::Invalid {
        name: role.manifest.name.clone(),
        findings,
    };
    let sums = match files.read(&directory.join(SUMS), READ_LIMIT).await {
        Ok(Some(sums)) if crate::model::hex(&Sha256::digest(&sums)) == *named => sums,
        Ok(Some(_)) => {
            let problem = "it is damaged: it is not the one that role.yaml names";
            return Err(invalid(vec![finding(SUMS, problem)]));
        }
        Ok(None) => return Err(invalid(vec![finding(SUMS, "it is not there")])),
        Err(HostError::TooLarge { limit, .. }) => {
            let problem = format!("it is damaged: it is larger than {limit} bytes");
            return Err(invalid(vec![finding(SUMS, &problem)]));
        }
        Err(error) => return Err(error.into()),
    };
    let sums = String::from_utf8_lossy(&sums);
    let scripts = role.scripts.iter();
    let scripts = scripts.map(|(name, text)| (format!("phases/{name}.rhai"), text));
    let templates = role.templates.iter();
    let templates = templates.map(|(name, text)| (format!("phases/templates/{name}"), text));
    let mut findings = Vec::new();
    for (name, text) in scripts.chain(templates) {
        let is = crate::model::hex(&Sha256::digest(text));
        match digest_of(&sums, Path::new(&name)) {
            Some(packed) if packed == is => {}
            Some(_) => findings.push(finding(
                &name,
                "it is damaged: its checksum is not the one of the package",
            )),
            None => findings.push(finding(&name, "SHA256SUMS does not name it")),
        }
    }
    match findings.is_empty() {
        true => Ok(()),
        false => Err(invalid(findings)),
    }
}

fn finding(file: &str, problem: &str) -> Diagnostic {
    Diagnostic::new("P0615", Span::file(file), problem).help(NEXT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    const ROLE: &str = "/opt/pf9/roles/r/current";
    const SCRIPT: &str = "phase(\"example\");\n";
    const TEMPLATE: &str = "max-pods: 110\n";

    fn digest(text: &str) -> String {
        crate::model::hex(&Sha256::digest(text))
    }

    fn manifest(checksums: &str) -> String {
        format!(
            "version: 1\nname: r\nrelease: '1'\nabout: A role.\nnodes:\n  master: [example]\n{checksums}payload: [bin/a]\n"
        )
    }

    /// An installed role with these checksums.
    fn with_checksums(sums: &str) -> FakeHost {
        let checksums = format!("checksums: {}\n", digest(sums));
        FakeHost::new()
            .with_file(format!("{ROLE}/role.yaml"), manifest(&checksums))
            .with_file(format!("{ROLE}/SHA256SUMS"), sums)
            .with_file(format!("{ROLE}/phases/example.rhai"), SCRIPT)
            .with_file(format!("{ROLE}/phases/templates/a/b.tmpl"), TEMPLATE)
    }

    fn sums() -> String {
        format!(
            "{}  payload/bin/a\n{}  phases/example.rhai\n{}  phases/templates/a/b.tmpl\n",
            digest("program"),
            digest(SCRIPT),
            digest(TEMPLATE)
        )
    }

    /// What is wrong with the role, one line per finding.
    async fn problems(host: &FakeHost) -> Vec<String> {
        match RolePackage::load_owned_by_root(host, "r").await {
            Ok(_) => Vec::new(),
            Err(RoleError::Invalid { findings, .. }) => {
                findings.iter().map(Diagnostic::short).collect()
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// A changed script can be valid and still make a plan, so only its checksum tells.
    #[tokio::test]
    async fn a_script_or_template_that_is_another_valid_one_is_named() {
        let host = with_checksums(&sums());
        assert_eq!(problems(&host).await, [""; 0]);
        for (file, variant) in [
            ("phases/example.rhai", format!("// Changed.\n{SCRIPT}")),
            ("phases/templates/a/b.tmpl", TEMPLATE.replace("110", "250")),
        ] {
            let host = with_checksums(&sums()).with_file(format!("{ROLE}/{file}"), variant);
            let told = format!(
                "{file}: P0615 it is damaged: its checksum is not the one of the package (install the role's package again)"
            );
            assert_eq!(problems(&host).await, [told]);
            let read = RolePackage::load(&host, "r").await;
            read.expect("a role that is read for another host is not compared");
        }
    }

    #[tokio::test]
    async fn files_without_a_checksum_are_not_part_of_the_package() {
        let host = with_checksums(&format!("{}  payload/bin/a\n", digest("program")));
        let told = problems(&host).await;
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("phases/example.rhai: P0615 SHA256SUMS does not name it"),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn damaged_or_missing_checksums_are_reported() {
        let host = with_checksums(&sums());
        host.with_world_mut(|world| {
            world.file(format!("{ROLE}/SHA256SUMS"), format!("{}\n", sums()))
        });
        let told = problems(&host).await;
        assert!(told[0].contains("role.yaml names"), "{told:?}");
        host.with_world_mut(|world| world.remove(format!("{ROLE}/SHA256SUMS")));
        let told = problems(&host).await;
        assert!(
            told[0].starts_with("SHA256SUMS: P0615 it is not there"),
            "{told:?}"
        );
    }

    /// A role in a checkout has none.
    #[tokio::test]
    async fn a_role_without_checksums_is_accepted_unverified() {
        let host = with_checksums(&sums()).with_file(format!("{ROLE}/role.yaml"), manifest(""));
        let host = host.with_file(format!("{ROLE}/phases/example.rhai"), format!("\n{SCRIPT}"));
        assert_eq!(problems(&host).await, [""; 0]);
    }
}
