//! Certificates with a life of half an hour, renewed twice under load.

use std::time::Duration;

use lab_suites::{Image, LeafCertificates, Load, Master};

/// Two renewals of everything: each is due after a little more than eighteen minutes.
const TWICE: Duration = Duration::from_secs(60 * 60);
/// Time limit until the host is healthy after a renewal.
const WELL: Duration = Duration::from_secs(120);

#[test]
#[ignore = "cargo xtask soak runs it"]
fn two_renewals_of_certificates_that_live_half_an_hour() {
    let master = Master::create("half-hours", Image::Bare, false);
    master.configure(&[("CERTIFICATE_LIFE", "30m"), ("KUBE_SERVICE_STATE", "true")]);
    let leaf_certificates = LeafCertificates::plant(&master);
    master.apply(&[]).exits(0);
    let load = Load::start(&leaf_certificates.asker());
    master.sh("systemctl start pf9-nodeletd");
    let mut known = leaf_certificates.serials();
    for round in 1..=2 {
        let renewed = lab_suites::poll(TWICE, || {
            let new = leaf_certificates.serials();
            let left = known.iter().filter(|one| new.contains(one)).count();
            (left == 0).then_some(new)
        });
        let Some(new) = renewed else {
            panic!(
                "renewal {round}: {}",
                master.sh("nodelet certs; nodelet history")
            );
        };
        known = new;
        master.wait_for("the host is healthy", "nodelet status", WELL);
        let seen = load.so_far();
        println!("renewal {round}: {seen}");
        seen.is_steady();
    }
    let seen = load.end();
    println!("{seen}");
    seen.is_steady();
    master.sh("systemctl stop pf9-nodeletd");
}
