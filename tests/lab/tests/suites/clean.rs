//! A clean gives the host back as it was. `cargo xtask soak` has longer ones.

use lab_suites::{After, Image, Master, Slate};

#[test]
fn a_bare_host_is_as_it_was_after_apply_and_clean() {
    let Some(master) = Master::create("clean", Image::Bare, false) else {
        return;
    };
    let before = Slate::of(&master);
    let _ = master.apply(&[]).exits(0);
    let _ = master.nodelet(&["clean"]).exits(0);
    before.assert_same(&master, After::Clean, "clean");
    let _ = master.nodelet(&["clean", "--purge"]).exits(0);
    before.assert_same(&master, After::Purge, "purge");
}
