//! An enrolment that is killed at each of its system calls that change files: what is on the disk then, and the enrolment after it.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use daemon::files::ABANDONED;

use super::install::tests::{answer, place_in};
use super::install::{CURRENT, MESSAGE_QUEUE};
use super::{Arguments, complete, plane, present};
use crate::config::IdentityFiles;
use crate::identity::Identity;
use crate::path::proxy::Proxies;

/// The password of the proxy.
const PASSWORD: &str = "hidden-word";
/// What files with secrets have: this password, the one of the message queue ([`answer`]), and a key.
const SECRETS: [&str; 3] = [PASSWORD, "\"secret\"", "PRIVATE KEY"];

/// Enrols a host whose files are in this directory, as [`super::run`] does it before and after the answer of the plane.
fn enrol(directory: &Path) {
    let (configuration, its_place) = (directory.join("comms.yaml"), directory.join("comms"));
    let plane = plane("plane.test").expect("it is right");
    let settings = present(&configuration, &plane, &its_place).expect("it can be used");
    let variables = |names: &[&str]| {
        let url = format!("http://me:{PASSWORD}@proxy.test:3128");
        (names[0] == "HTTPS_PROXY").then_some(url)
    };
    let earlier = directory.join("earlier.json");
    let proxies = Proxies::from(&settings.unwrap_or_default(), &earlier, variables);
    let proxies = proxies.expect("they are right");
    let place = place_in(&its_place);
    let key = place.pending_key().expect("a key");
    let (response, root_fingerprint) = answer(&key);
    let arguments = Arguments {
        plane,
        token_file: PathBuf::new(),
        root_fingerprint,
        host_name: None,
        directory: its_place,
        user: String::new(),
    };
    let (_, swept) = complete(place, &key, &response, &arguments, &configuration, &proxies)
        .expect("it is complete");
    swept.expect("nothing is left");
}

/// The certificate in use, if there is one. All that belongs to it is whole.
fn certificate_in_use(directory: &Path) -> Option<String> {
    let current = directory.join("comms").join(CURRENT);
    current.symlink_metadata().ok()?;
    let files = IdentityFiles::below(&current);
    Identity::read(&files, SystemTime::now()).expect("the key is the one of the certificate");
    for secret in [&files.key, &current.join(MESSAGE_QUEUE)] {
        let mode = secret.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{}", secret.display());
    }
    Some(fs::read_to_string(&files.certificate).expect("it is there"))
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("text");
    let mut names: Vec<String> = entries.map(|its| name(its.expect("an entry"))).collect();
    names.sort();
    names
}

/// Each file with a secret below a directory is one that only its owner may use.
fn check_secrets(directory: &Path) {
    for name in names_in(directory) {
        let path = directory.join(name);
        let metadata = path.symlink_metadata().expect("it is there");
        if metadata.is_dir() {
            check_secrets(&path);
        } else if metadata.is_file() {
            let content = fs::read_to_string(&path).expect("text");
            let has_secret = SECRETS.iter().any(|its| content.contains(*its));
            let mode = metadata.permissions().mode() & 0o7777;
            let is_private = mode & 0o077 == 0;
            assert!(is_private || !has_secret, "{}: {mode:04o}", path.display());
        }
    }
}

/// Makes temporary files beside the configuration old: another program may be writing new ones.
fn let_time_pass(directory: &Path) {
    let before = SystemTime::now() - ABANDONED * 2;
    for name in names_in(directory) {
        if name.starts_with(".new-") {
            let file = File::options().write(true).open(directory.join(name));
            let changed = file.and_then(|its| its.set_modified(before));
            changed.expect("its time is set");
        }
    }
}

/// An enrolment has come to its end, and nothing but its files is there.
fn check_end(directory: &Path) {
    certificate_in_use(directory).expect("there is one");
    check_secrets(directory);
    let place = directory.join("comms");
    let used = fs::read_link(place.join(CURRENT)).expect("a link");
    let used = used.to_str().expect("text");
    let wanted = [".lock", CURRENT, used, "proxy.credentials"];
    assert_eq!(names_in(&place), wanted);
    assert_eq!(names_in(directory), ["comms", "comms.yaml"]);
}

/// Kills the enrolment of the test with this full name at each call. `prepare` makes what is there before.
fn kill_at_each_call(test: &str, prepare: impl Fn(&Path)) {
    let before = RefCell::new(None);
    let (mut with_old, mut with_new) = (0, 0);
    let prepare = |directory: &Path| {
        prepare(directory);
        *before.borrow_mut() = certificate_in_use(directory);
    };
    let check = |directory: &Path, call: &str| {
        // The last one is the one that fails.
        println!("killed before {call}");
        let found = certificate_in_use(directory);
        check_secrets(directory);
        if found == *before.borrow() {
            with_old += 1;
        } else {
            assert!(found.is_some(), "the identity of before is gone");
            with_new += 1;
        }
        let_time_pass(directory);
        enrol(directory);
        check_end(directory);
        assert_ne!(certificate_in_use(directory), found, "it was replaced");
    };
    let Some(count) = traced::kills(test, prepare, check) else {
        enrol(&traced::directory());
        return;
    };
    assert!(with_old > 0 && with_new > 0, "{with_old} {with_new}");
    assert_eq!(with_old + with_new, count);
}

#[test]
fn a_first_enrolment_that_is_killed_leaves_no_identity_or_a_whole_one() {
    let test =
        "enroll::crashes::a_first_enrolment_that_is_killed_leaves_no_identity_or_a_whole_one";
    kill_at_each_call(test, |_| {});
}

#[test]
fn a_repeated_enrolment_that_is_killed_leaves_the_identity_of_before_or_the_new_one() {
    let test = "enroll::crashes::a_repeated_enrolment_that_is_killed_leaves_the_identity_of_before_or_the_new_one";
    kill_at_each_call(test, |directory| {
        enrol(directory);
        check_end(directory);
    });
}
