//! What is predicted for a worker and for one of three masters is what an apply then does, as for a single master. With
//! `UPDATE_GENERATED=1` the figures go to `docs/fidelity.md`.

use behaviour::Fidelity;
use lab_suites::prediction;

use super::subject::{Kind, Subject};
use crate::fidelity::{KILLED_AFTER, of_running_host};
use crate::figures::Figures;
use crate::kills::kill_apply_at;

#[test]
#[ignore = "cargo xtask soak runs it"]
fn predictions_match_apply_on_a_worker() {
    let mut figures = Figures::default();
    joins(
        Kind::Worker,
        ["fidelity-w-kill", "fidelity-w-bare"],
        &mut figures,
    );
    let worker = Subject::joined(Kind::Worker, "fidelity-w");
    let named = |name: &str| format!("worker: {name}");
    of_running_host(&worker, "proxy", "KUBELET_FLAGS", &mut figures, named);
    figures.publish("On a worker", WORDS);
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn predictions_match_apply_on_one_of_three_masters() {
    let mut figures = Figures::default();
    let labs = ["fidelity-m-kill", "fidelity-m-bare"];
    joins(Kind::OneOfThree, labs, &mut figures);
    let master = Subject::joined(Kind::OneOfThree, "fidelity-m");
    let named = |name: &str| format!("one of three masters: {name}");
    of_running_host(&master, "etcd", "API_SERVER_FLAGS", &mut figures, named);
    figures.publish("On one of three masters", WORDS);
}

const WORDS: &str = "Lab hosts as above, which have joined a cluster. A join has no row: what depends on the masters is known after apply, and for all other steps of a\n\
    bare host and of a half-finished join it is asserted that they are predicted. Written and asserted by `cargo xtask soak --write predictions`.";

/// A host on which the apply that joins was killed, and a bare one.
fn joins(kind: Kind, [killed, bare]: [&str; 2], figures: &mut Figures) {
    let subject = Subject::bare(kind, killed);
    subject.prepare();
    let at = kill_apply_at(&subject, KILLED_AFTER);
    take_join(&format!("half-finished join, {at}"), &subject, figures);
    subject.settle();
    drop(subject);
    let subject = Subject::bare(kind, bare);
    subject.prepare();
    take_join("bare host", &subject, figures);
}

/// Steps that are known after apply are no failure here: a prediction asks nothing of the masters.
fn take_join(name: &str, subject: &Subject, figures: &mut Figures) {
    let fidelity: Fidelity = prediction(subject);
    let (left_open, wrong): (Vec<_>, Vec<_>) =
        fidelity.misses.iter().partition(|miss| miss.is_left_open());
    println!(
        "{name}: {} steps, {} changed, {} left open, {} wrong",
        fidelity.steps,
        fidelity.done,
        left_open.len(),
        wrong.len()
    );
    for miss in wrong {
        figures.reject(&format!("{name}: {miss}"));
    }
}
