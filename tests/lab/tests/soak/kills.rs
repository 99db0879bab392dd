//! `kill -9` of an apply at points spread over a bring-up: the next run completes it, or reverts it.
//!
//! The points are steps: a first apply reports how many steps it changes, and the kill comes when the k-th is about to be
//! converged. A point with an even number is followed by an apply, which has to converge; one with an odd number by a clean, after
//! which the host has to be as before.

use std::time::Duration;

use lab_suites::{After, Image, Master, Node, Slate, record};

/// Time limit of one apply that is killed.
const LIMIT: Duration = Duration::from_secs(330);
/// How many kills are spread over a bring-up.
const POINTS: usize = 10;
/// The last steps, a directory and a timer, are over before a kill can reach them.
const TOO_SHORT: usize = 2;

/// Kills an apply when it has announced so many steps, as a power cut would. Gives the step at which it was killed.
pub(crate) fn kill_apply_at(master: &Node, steps: usize) -> String {
    // The shell waits for `read` and not for the pipe that feeds it, so the kill comes at once. Only nodelet is killed: the
    // programs that it has started go on.
    let script = format!(
        "rm -f /var/tmp/kill.jsonl; touch /var/tmp/kill.jsonl
         nodelet apply --json > /var/tmp/kill.jsonl 2> /var/tmp/kill.err & apply=$!
         read -r -t 300 step < <(tail --pid=$apply -n +1 -f /var/tmp/kill.jsonl |
             grep --line-buffered '\"event\":\"step_changing\"' | sed -u -n {steps}p)
         kill -KILL $apply
         wait $apply && exit 9
         echo \"$step\" | grep -o '\"step\":\"[^\"]*\"'"
    );
    let output = master
        .host()
        .exec_within(&["bash", "-c", &script], None, LIMIT)
        .expect("the host runs commands");
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "step {steps} was not reached, or the apply was over before ({}): {text} {error}",
        output.status
    );
    text
}

/// How many steps an apply changes on the bare host; a clean follows, so that the host is as before.
fn steps_of_a_bring_up(master: &Master) -> usize {
    let first = master.apply(&[]).exits(0);
    let steps = first.events("step_changing").len();
    let _ = master.nodelet(&["clean", "--purge"]).exits(0);
    steps
}

/// The points, from the first step to the last one that takes long enough.
pub(crate) fn points(steps: usize) -> Vec<usize> {
    (0..POINTS)
        .map(|point| 1 + point * (steps - TOO_SHORT - 1) / (POINTS - 1))
        .collect()
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn ten_kills_of_a_bring_up() {
    let master = Master::create("kills", Image::Bare, false);
    let before = Slate::of(&master);
    let steps = steps_of_a_bring_up(&master);
    let mut compared = before.assert_same(&master, After::Purge, "before the first kill");
    for (number, point) in points(steps).into_iter().enumerate() {
        let at = kill_apply_at(&master, point);
        println!("kill {number}, at step {point} of {steps}: {at}");
        if number % 2 == 0 {
            let _ = master.apply(&[]).exits(0);
            let _ = master.check(&[]).exits(0);
            master.apply(&[]).exits(0).changes_nothing();
        }
        // The role may be gone as well: the ledger is enough.
        let _ = master
            .nodelet(&["clean", "--purge", "--role", "/none"])
            .exits(0);
        compared = before.assert_same(
            &master,
            After::Purge,
            &format!("kill {number}, at step {point} of {steps}: {at}"),
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
