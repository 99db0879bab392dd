//! `kill -9` of an apply at points spread over a bring-up: the next run finishes it, or takes it back.
//!
//! The points are steps: a first apply tells how many it changes, and the cut comes when the k-th is about to be converged. Points
//! with an even number are followed by an apply, which has to converge; those with an odd one by a clean, which has to give the
//! host back as it was.

use std::time::Duration;

use lab_suites::{After, Image, Master, Slate, record};

/// Bound on one apply that is cut.
const LIMIT: Duration = Duration::from_secs(330);
/// How many cuts are spread over a bring-up.
const POINTS: usize = 10;
/// Steps at its end, a directory and a timer, that are over before a kill can reach them.
const TOO_SHORT: usize = 2;

/// Kills an apply when it has told of so many steps, as a power cut would. Gives the step it was killed at.
pub(crate) fn cut(master: &Master, steps: usize) -> String {
    // The shell waits for `read` and not for what feeds it, so the kill comes at once. It reaches nodelet alone: what nodelet has
    // started is left to itself.
    let script = format!(
        "rm -f /var/tmp/cut.jsonl; touch /var/tmp/cut.jsonl
         nodelet apply --json > /var/tmp/cut.jsonl 2> /var/tmp/cut.err & apply=$!
         read -r -t 300 step < <(tail --pid=$apply -n +1 -f /var/tmp/cut.jsonl |
             grep --line-buffered '\"event\":\"step_changing\"' | sed -u -n {steps}p)
         kill -KILL $apply
         wait $apply && exit 9
         echo \"$step\" | grep -o '\"step\":\"[^\"]*\"'"
    );
    let output = master
        .host()
        .exec_within(&["bash", "-c", &script], None, LIMIT)
        .expect("the host runs commands");
    let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "step {steps} was not reached, or the apply was over before ({}): {told} {error}",
        output.status
    );
    told
}

/// How many steps an apply changes on the bare host; the host is as it was before afterwards.
fn steps_of_a_bring_up(master: &Master) -> usize {
    let first = master.apply(&[]).exits(0);
    let steps = first.events("step_changing").len();
    let _ = master.nodelet(&["clean", "--purge"]).exits(0);
    steps
}

/// Where the cuts are, from the first step to the last that takes long enough.
pub(crate) fn points(steps: usize) -> Vec<usize> {
    (0..POINTS)
        .map(|point| 1 + point * (steps - TOO_SHORT - 1) / (POINTS - 1))
        .collect()
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn ten_cuts_of_a_bring_up() {
    let master = Master::create("cuts", Image::Bare, false);
    let before = Slate::of(&master);
    let steps = steps_of_a_bring_up(&master);
    let mut compared = before.assert_same(&master, After::Purge, "before the first cut");
    for (number, point) in points(steps).into_iter().enumerate() {
        let at = cut(&master, point);
        println!("cut {number}, at step {point} of {steps}: {at}");
        if number % 2 == 0 {
            let _ = master.apply(&[]).exits(0);
            let _ = master.check(&[]).exits(0);
            master.apply(&[]).exits(0).changes_nothing();
        }
        // The role may be gone as well: the ledger suffices.
        let _ = master
            .nodelet(&["clean", "--purge", "--role", "/none"])
            .exits(0);
        compared = before.assert_same(
            &master,
            After::Purge,
            &format!("cut {number}, at step {point} of {steps}: {at}"),
        );
    }
    record(
        &format!(
            "kill -9 of an apply at {POINTS} points from step 1 to step {} of {steps}: in turn an apply converges (check holds, the next changes \
             nothing) or a clean takes it back; clean --purge after each",
            steps - TOO_SHORT
        ),
        &compared,
    );
}

#[test]
fn points_go_from_the_first_step_to_the_last_that_can_be_cut() {
    assert_eq!(points(60), [1, 7, 13, 20, 26, 32, 39, 45, 51, 58]);
}
