//! After a clean the host is as it was before. `cargo xtask soak` has longer tests.

use lab_suites::{After, Image, Master, Slate};

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_bare_host_is_as_it_was_after_apply_and_clean() {
    let master = Master::create("clean", Image::Bare, false);
    let before = Slate::of(&master);
    let _ = master.apply(&[]).exits(0);
    let _ = master.nodelet(&["clean"]).exits(0);
    before.assert_same(&master, After::Clean, "clean");
    kept_data_belongs_to_its_cluster(&master);
    let _ = master.nodelet(&["clean", "--purge"]).exits(0);
    before.assert_same(&master, After::Purge, "purge");
}

/// etcd's data and the authorities are kept, and belong to their cluster: a host with them cannot join another cluster. An empty
/// etcd does not start beside kept data, either.
fn kept_data_belongs_to_its_cluster(master: &Master) {
    let refusal = "on this host: it was set up with";
    for (key, value) in [
        ("CLUSTER_ID", "11111111-2222-3333-4444-555555555555"),
        ("SERVICES_CIDR", "10.77.0.0/16"),
    ] {
        master.configure(&[(key, value)]);
        let diff = master.nodelet(&["diff"]).exits(1);
        let _ = diff.says(&[&format!("use {key}={value} {refusal}"), "clean --purge"]);
    }
    master.configure(&[("ETCD_DATA_DIR", "/var/opt/pf9/elsewhere")]);
    let diff = master.nodelet(&["diff"]).exits(1);
    let _ = diff.says(&["/var/opt/pf9/elsewhere/member/nodelet-data-id is missing"]);
    master.configure(&[]);
}
