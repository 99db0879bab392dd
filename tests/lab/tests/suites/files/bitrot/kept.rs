//! A kept key that is replaced by another valid one, and a kept key that is lost: both are restored from their copies, and only the
//! API server, which reads the first one at its start, is restarted. The soak of the same name has all kept and secret files.

use lab_suites::{Damage, SCALED, SecretFiles, Watch, make_work_directory, restore_master, shared};

const SIGNS: &str = "/etc/pf9/kube.d/certs/apiserver/svcacct.key";
const AUTHORITY: &str = "/etc/pf9/kube.d/ca/cluster/ca.key";

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_foreign_and_a_lost_key_come_from_their_copies() {
    let master = shared();
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    make_work_directory(&master);
    let secrets = SecretFiles::note(&master);
    let watch = Watch::start(&master);
    let damaged_files = [
        (Damage::Replace, SIGNS.to_owned()),
        (Damage::Delete, AUTHORITY.to_owned()),
    ];
    let wrong = secrets.damage_and_repair(&watch, &damaged_files, &["certs"], &["kube-apiserver"]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    drop(watch);
    restore_master(&master);
}
