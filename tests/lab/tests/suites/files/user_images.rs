//! Images that an operator has put on the host: loaded if their checksum is right, loaded again if they change, reported if it is
//! wrong.

use lab_suites::{Master, TOOLBOX_IMAGE, shared};

const DIRECTORY: &str = "/var/opt/pf9/images";

/// Writes the checksums of what is in the directory.
const SUMS: &str =
    "cd /var/opt/pf9/images; mkdir -p checksum; sha256sum *.tar > checksum/sha256sums.txt";

fn id(master: &Master) -> String {
    master.sh(&format!(
        "docker image inspect --format '{{{{.Id}}}}' {TOOLBOX_IMAGE} 2> /dev/null || true"
    ))
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn images_of_an_operator_are_verified_and_loaded() {
    let master = shared();
    master.load_toolbox();
    let first = id(&master);
    // Two builds with one reference; neither is loaded.
    master.sh(&format!(
        "mkdir -p {DIRECTORY} /tmp/builds
         docker save {TOOLBOX_IMAGE} > /tmp/builds/1.tar
         docker create --name build {TOOLBOX_IMAGE} none > /dev/null
         docker commit --change 'LABEL build=2' build {TOOLBOX_IMAGE} > /dev/null
         docker rm build > /dev/null
         docker save {TOOLBOX_IMAGE} > /tmp/builds/2.tar
         docker image rm {TOOLBOX_IMAGE} > /dev/null
         docker image rm {first} > /dev/null 2>&1 || true
         cp /tmp/builds/1.tar {DIRECTORY}/toolbox.tar
         {SUMS}"
    ));
    assert_eq!(id(&master), "");
    master.apply(&[]).exits(0);
    assert_eq!(id(&master), first);
    master.apply(&[]).exits(0).changes_nothing();

    // Another build with the same reference is noticed, and the first one can be restored.
    master.sh(&format!(
        "cp /tmp/builds/2.tar {DIRECTORY}/toolbox.tar; {SUMS}"
    ));
    let failed_run = master.check(&["--only", "user-images"]).exits(2);
    failed_run.says(&["archive toolbox.tar"]);
    master.apply(&[]).exits(0);
    let second = id(&master);
    assert!(!second.is_empty() && second != first);
    let kept = master.sh("docker image ls --no-trunc --quiet pf9-replaced");
    assert_eq!(kept, first);

    // A damaged archive is reported, and nothing else is touched.
    master.sh(&format!(
        "docker image rm {TOOLBOX_IMAGE} > /dev/null; echo damaged >> {DIRECTORY}/toolbox.tar"
    ));
    let before = master.sh("docker ps --quiet");
    let failed_run = master.apply(&[]).exits(1);
    failed_run.says(&["toolbox.tar: its checksum is not the one in checksum/sha256sums.txt"]);
    assert_eq!(id(&master), "");
    assert_eq!(master.sh("docker ps --quiet"), before);

    master.sh(&format!("rm -r {DIRECTORY} /tmp/builds"));
    master.apply(&[]).exits(0);
    master.check(&[]).exits(0);
}
