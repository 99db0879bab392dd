//! After apply and clean, a worker and one of three masters are the same as before they joined.

use lab_suites::{After, Slate, record};

use super::subject::{Kind, Subject};
use crate::clean_slate::clean;

/// nodeletd's own files, which belong to its package and not to the role.
const OF_NODELETD: &str = "rm -rf /run/pf9 /run/pf9-nodeletd.lock /var/opt/pf9/kube_status";

#[test]
#[ignore = "cargo xtask soak runs it"]
fn clean_slate_of_a_worker() {
    let subject = Subject::bare(Kind::Worker, "slate-worker");
    leaves_nothing(&subject, After::CleanOfWorker, "worker");
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn clean_slate_of_one_of_three_masters() {
    let subject = Subject::bare(Kind::OneOfThree, "slate-master");
    leaves_nothing(&subject, After::Clean, "one of three masters");
}

/// A clean, a second one, another apply without another join file, and a purge.
fn leaves_nothing(subject: &Subject, cleaned: After, what: &str) {
    let before = Slate::of(subject);
    subject.prepare();
    let _ = subject.apply(&[]).exits(0);
    subject.settle();
    let _ = subject.check(&[]).exits(0);
    clean(subject, &[]);
    subject.sh(OF_NODELETD);
    let compared = before.assert_same(subject, cleaned, "clean");
    let second = clean(subject, &[]);
    assert!(second.contains("nothing of the role is left"), "{second}");
    record(&format!("{what}: join, clean"), &compared);

    let _ = subject.apply(&[]).exits(0);
    let _ = subject.check(&[]).exits(0);
    if !subject.is_worker() {
        subject.remove_from_cluster();
    }
    clean(subject, &["--purge"]);
    let compared = before.assert_same(subject, After::Purge, "purge after a second apply");
    record(
        &format!("{what}: then apply converges, check, clean --purge"),
        &compared,
    );
}
