//! Every phase fails once for a real cause. The message helps an operator, the phase is rolled back, earlier phases are not
//! affected, and the host converges after the cause is removed.

pub(crate) mod causes;

use std::time::Duration;

use lab_suites::{Image, Master, Run, changes, listing};

use causes::{CAUSES, Cause};

/// Time limit until earlier phases are healthy again after the cause is removed.
const STANDS_AGAIN: Duration = Duration::from_secs(180);

/// Lets the phase fail; gives what is wrong with the message, and with the host afterwards.
fn fails(master: &Master, cause: &Cause) -> Vec<String> {
    if !cause.hurry.is_empty() {
        master.edit_phase(cause.phase, cause.hurry);
    }
    master.configure(cause.settings);
    master.sh(cause.breaks);
    if let Some(port) = cause.port {
        master.occupy_port(port);
    }
    let before = listing(master);

    let run = master.nodelet(&["apply", "--only", cause.phase]).exits(1);
    let mut wrong = missing_in_message(&run, cause);
    if !wrong.is_empty() {
        println!("{}: {}\n{}\n", cause.phase, cause.about, run.text());
    }
    let left = changes(&before, &listing(master));
    wrong.extend(
        left.into_iter()
            .map(|line| format!("not taken back: {line}")),
    );
    master.sh(cause.fix);
    master.configure(&[]);
    master.restore_phase(cause.phase);
    if let Some(earlier) = earlier(cause.phase) {
        // Some causes, and their removal, restart a part of an earlier phase, which needs time to answer again.
        let stand = || master.check(&["--to", earlier]);
        let again = lab_suites::poll(STANDS_AGAIN, || stand().exited(0).then_some(()));
        if again.is_none() {
            stand().exits(0);
        }
    }
    wrong
        .into_iter()
        .map(|what| format!("{} ({}): {what}", cause.phase, cause.about))
        .collect()
}

/// What the message lacks of phase, place, causes, next step and rollback.
fn missing_in_message(run: &Run, cause: &Cause) -> Vec<String> {
    let text = run.text();
    let place = format!("✗ {0} failed at phases/{0}.rhai:", cause.phase);
    let Some((_, message)) = text.split_once(&place) else {
        return vec![format!("`{place}` is missing")];
    };
    let mut position = message
        .split([':', ' '])
        .map(|number| number.parse::<u32>().is_ok());
    let placed = position.next() == Some(true) && position.next() == Some(true);
    let mut wrong: Vec<String> = [
        "      could not ",
        "      next: ",
        "was rolled back:",
        "earlier phases stay applied",
    ]
    .iter()
    .chain(cause.says)
    .filter(|wanted| !message.contains(**wanted))
    .map(|wanted| format!("`{wanted}` is missing in the message"))
    .collect();
    wrong.extend((!placed).then(|| "no line and column".to_owned()));
    wrong.extend(
        message
            .lines()
            .filter(|line| line.contains("could not revert"))
            .map(str::to_owned),
    );
    wrong
}

/// The phase that converges before this one.
fn earlier(phase: &str) -> Option<&'static str> {
    let mut before = None;
    for cause in CAUSES {
        if cause.phase == phase {
            return before;
        }
        before = Some(cause.phase);
    }
    None
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn every_phase_fails_well_and_converges_when_mended() {
    let master = Master::create("faults", Image::NoDocker, true);
    master.apply(&["--only", "preflight"]).exits(0);

    let mut wrong = Vec::new();
    for (at, cause) in CAUSES.iter().enumerate() {
        wrong.extend(fails(&master, cause));
        if CAUSES
            .get(at + 1)
            .is_none_or(|next| next.phase != cause.phase)
        {
            let run = master.apply(&["--only", cause.phase]).exits(0);
            assert_eq!(run.event("run_finished")["outcome"], "converged");
        }
    }

    master.apply(&[]).exits(0).changes_nothing();
    master.wait_until_well();
    every_phase_with_steps_has_a_cause(&master);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A phase that is added to the role fails this suite until it has a cause here.
fn every_phase_with_steps_has_a_cause(master: &Master) {
    let phases = master.sh("nodelet phases | grep -v skipped | awk '{print $2}'");
    let without: Vec<&str> = phases
        .lines()
        .filter(|phase| {
            // On an only master, the vote is no work.
            !["preflight", "drain", "package", "etcd-vote"].contains(phase)
                && !CAUSES.iter().any(|cause| cause.phase == *phase)
        })
        .collect();
    assert!(without.is_empty(), "phases without a cause: {without:?}");
}

/// An archive that the payload lacks is reported before anything is touched.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn an_incomplete_payload_is_refused() {
    let master = lab_suites::shared();
    let images = "/opt/pf9/roles/pf9-kube/current/payload/images";
    master.sh(&format!(
        "mount -t tmpfs -o mode=755 none $(readlink -f {images})"
    ));
    let run = master.nodelet(&["apply"]);
    master.sh(&format!("umount $(readlink -f {images})"));
    run.exits(1).says(&[
        "the role's payload is complete",
        "images/etcd.tar is not there",
        "install the role's package again",
    ]);
}
