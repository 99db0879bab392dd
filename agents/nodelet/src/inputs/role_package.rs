//! Loads the role package for this host, and refuses one that cannot be trusted.
//!
//! As root, only a role that belongs to root is loaded, and a role without checksums does not take the place of one with them. Not here:
//! how a package is read (`engine::role`), and how the last good one is kept (`last_good_settings`). Start with [`role`].

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use engine::host::live::LiveHost;
use engine::model::count;
use engine::role::{RoleError, RolePackage};

use crate::cli::RoleArgs;
use crate::inputs::last_good_settings;
use crate::output::problem::{Problem, Refused};

/// Where roles are installed.
const ROLES: &str = "/opt/pf9/roles";

/// The role for this host. The scripts of a role decide what is done as root, so only root may own them.
pub(super) async fn role(args: &RoleArgs, host: &LiveHost) -> Result<RolePackage> {
    let loaded = if nix::unistd::Uid::effective().is_root() {
        let place = RolePackage::directory(&args.role);
        let place = std::path::absolute(&place)
            .with_context(|| format!("find the directory {}", place.display()))?;
        let loaded = RolePackage::load_owned_by_root(host, &place.to_string_lossy()).await;
        if let Ok(role) = &loaded {
            let had_checksums = last_good_settings::had_checksums(&role.manifest.name);
            has_checksums_as_before(&place, role, had_checksums)?;
        }
        loaded
    } else {
        RolePackage::load(host, &args.role).await
    };
    usable(args, host, loaded).await
}

/// The loaded role, or the error in the words of the command line.
pub(super) async fn usable(
    args: &RoleArgs,
    host: &LiveHost,
    loaded: Result<RolePackage, RoleError>,
) -> Result<RolePackage> {
    match loaded {
        Ok(role) => Ok(role),
        Err(RoleError::Invalid { name, findings }) => {
            bail!(Refused {
                what: format!("use role {name}: {}", count(findings.len(), "mistake")),
                problems: vec![engine::model::Sources::default().render(&findings)],
                items: findings.iter().map(Problem::from).collect(),
            })
        }
        Err(RoleError::NotFound { place, .. }) => {
            // Report the name from the command line: the role was loaded by its path.
            let name = args.role.clone();
            let beside = RolePackage::is_beside(host, &name).await;
            let error = RoleError::NotFound {
                name,
                place,
                beside,
            };
            Err(error).context(format!("load role {}", args.role))
        }
        Err(error) => Err(error).context(format!("load role {}", args.role)),
    }
}

/// Refuses an installed role without checksums if the last good one had them: its files could no longer be verified.
fn has_checksums_as_before(place: &Path, role: &RolePackage, had_checksums: bool) -> Result<()> {
    if role.manifest.checksums.is_some() || !had_checksums || !place.starts_with(ROLES) {
        return Ok(());
    }
    bail!(
        "use the role in {0}: {0}/role.yaml names no checksums, but role.yaml of the last good role does; install the role's package again",
        place.display()
    );
}

#[cfg(test)]
mod tests {
    use engine::host::fake::FakeHost;

    use super::*;

    #[tokio::test]
    async fn a_role_without_checksums_does_not_take_the_place_of_one_with_them() {
        let manifest = "version: 1\nname: r\nrelease: '1'\nabout: A role.\nnodes:\n  master: [example]\npayload: [bin/a]\n";
        let place = Path::new("/opt/pf9/roles/r/current");
        let host = FakeHost::new()
            .with_file(place.join("role.yaml"), manifest)
            .with_file(place.join("phases/example.rhai"), "phase(\"example\");\n");
        let role = RolePackage::load(&host, "r").await.expect("a role");
        let told = has_checksums_as_before(place, &role, true).expect_err("its checksums are gone");
        let told = told.to_string();
        let parts = [
            "/opt/pf9/roles/r/current/role.yaml names no checksums",
            "install the role's package again",
        ];
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        // A checkout needs no checksums, and neither does a host whose last good role had none.
        let checkout = Path::new("/root/checkout/roles/r");
        has_checksums_as_before(checkout, &role, true).expect("it is a checkout");
        has_checksums_as_before(place, &role, false).expect("nothing is known of another one");
        let mut with_checksums = role;
        with_checksums.manifest.checksums = Some("00".repeat(32));
        has_checksums_as_before(place, &with_checksums, true).expect("it has them");
    }
}
