//! The power of a virtual machine is cut while nodeletd brings its node up: after each boot nodeletd continues by itself from what
//! is on the disk.
//!
//! The points are steps that the ledger has begun. The emulator is killed there, so what the machine's kernel had not written yet
//! is lost. The cuts follow each other within one bring-up, and no operator repairs anything between them.

use std::time::Duration;

use lab::Image;
use lab_suites::Master;

use crate::kills::points;

/// Time limit until the next point, or the end: minutes, because the machine is emulated.
const ON_THE_WAY: Duration = Duration::from_secs(1500);
/// The script on the machine reports a timeout before this limit ends.
const MARGIN: Duration = Duration::from_secs(60);
/// A healthy node has no step left to begin: a predicted step may have come about by itself.
const WELL: &str = r#"grep -qs '"pf9_kube_node_state": *"ok"' /var/opt/pf9/kube_status && nodelet check --role pf9-kube > /dev/null"#;
/// Counts the steps of the bring-up that have been begun, each once, as the ledger grows, until there are so many or the node is
/// healthy. No process is started for each look, because an emulated machine has no time to spare.
const COUNT: &str = r#"
declare -A begun
exec 3< <(exec tail --lines +1 -F /var/opt/pf9/nodelet/ledger.jsonl 2> /dev/null)
while [ $SECONDS -lt @LIMIT@ ]; do
    if IFS= read -r -t 10 -u 3 line; then
        [[ $line == *'"r":"intent"'* ]] || continue
        step=${line#*\"step\":\"}
        begun[${step%%\"*}]=1
        [ ${#begun[@]} -lt @STEPS@ ] || break
    elif @WELL@; then
        break
    fi
done
kill $!
[ $SECONDS -lt @LIMIT@ ] && echo ${#begun[@]}"#;

#[test]
#[ignore = "cargo xtask soak runs it"]
fn vm_power_is_cut_at_ten_points_of_a_bring_up() {
    let master = Master::create("power", Image::Machine, false);
    // An emulated processor is slow enough without a CPU limit.
    master.configure(&[("KUBE_SERVICE_STATE", "true"), ("CPU_LIMIT", "100")]);
    let predicted = master.nodelet(&["diff", "--json"]).exits(2);
    let steps = predicted.events("step_changing").len();
    // The role itself must be on the disk before the first cut.
    master.sh("sync");
    let mut begun = 0;
    let points = points(steps);
    for (number, point) in points.iter().enumerate() {
        // A boot is slow and nodeletd is quick. nodeletd is started when the count begins, so that no point is missed; at the last
        // boot it starts by itself.
        if number + 1 == points.len() {
            master.sh("systemctl enable pf9-nodeletd; sync");
        }
        master.sh("systemctl start --no-block pf9-nodeletd");
        // If a cut came late, the next one comes with the next step.
        let earlier = begun;
        begun = reach(&master, (begun + 1).max(*point));
        // The count begins again at each boot, with the steps in the ledger. Only the last cut may find a node that is healthy
        // already.
        let last = number + 1 == points.len();
        assert!(
            begun > earlier || last,
            "cut {number} came after the bring-up"
        );
        master.host().kill().expect("the emulator is killed");
        master.host().start().expect("the machine boots");
        assert_complete_files(&master);
        println!("cut {number}: {begun} of {steps} steps had been begun");
    }
    // The daemon's status is written with its next pass.
    master.wait_for("the node is healthy", WELL, ON_THE_WAY);
    master.apply(&[]).exits(0).changes_nothing();
    let history = master.sh("nodelet history --json --last 1000");
    assert!(!history.contains("\"clean\""), "{history}");
    let status = master.sh("cat /var/opt/pf9/kube_status");
    let status: serde_json::Value = serde_json::from_str(&status).expect("it is complete");
    assert_eq!(status["pf9_kube_node_state"], "ok", "{status}");
    let parts =
        master.sh("find /etc /opt /usr /var/opt /var/lib/kubelet -xdev -name '.nodelet-*.part'");
    assert_eq!(parts, "", "no incomplete file is left");
    master.sh("systemctl stop pf9-nodeletd");
    let _ = master.nodelet(&["clean", "--purge"]).exits(0);
    let left = master
        .sh("docker ps --all --quiet; find /etc/pf9/kube.d /opt/cni -type f 2>/dev/null || true");
    assert_eq!(left, "", "nothing is left after a clean");
}

/// The directory of backups.
const BACKUPS: &str = "/etc/pf9/etcd-backup";

/// The power is cut in the middle of backups on a machine that nodeletd holds at its role: older backups stay verified, and every
/// file with a final name is complete.
pub(crate) fn backups_survive_power_cuts(master: &Master) {
    master.wait_for("a first backup", "nodelet etcd backup", ON_THE_WAY);
    let older = master.sh(&format!("ls {BACKUPS}/*.db"));
    let finals = format!("ls {BACKUPS}/*.db | wc -l");
    for at in [
        "compgen -G '/etc/pf9/etcd-backup/.*part' > /dev/null",
        "[ -d /var/opt/pf9/nodelet/etcd-proof ]",
        "finals=(/etc/pf9/etcd-backup/*.db); [ ${#finals[@]} -gt $before ]",
    ] {
        // No process is started for each look, because an emulated machine has no time to spare.
        master.sh(&format!(
            "exec 3<> <(:); before=$({finals}); systemd-run --quiet --collect nodelet etcd backup
             while [ $SECONDS -lt 240 ]; do {at} && exit 0; read -r -t 0.05 -u 3 || true; done; exit 1"
        ));
        master.host().kill().expect("the emulator is killed");
        master.host().start().expect("the machine boots");
        let content = "nodelet check --role pf9-kube";
        master.wait_for("`nodelet check` succeeds", content, ON_THE_WAY);
        for one in older.lines() {
            master.sh(&format!(
                "test -s {one} && test -s {}.json",
                one.trim_end_matches(".db")
            ));
        }
        master.nodelet(&["etcd", "verify"]).exits(0);
        println!(
            "cut in a backup, once `{at}`: {} verified",
            master.sh(&finals)
        );
    }
    master.wait_for("another backup", "nodelet etcd backup", ON_THE_WAY);
    let left = master.sh(&format!(
        "find {BACKUPS} -name '*part'; docker ps --all --quiet --filter name=pf9-etcd-proof
         ls -d /var/opt/pf9/nodelet/etcd-proof 2> /dev/null || true"
    ));
    assert_eq!(left, "", "no incomplete file is left");
}

/// Waits, on the machine itself and so without delay, until so many steps have been begun; gives how many have been begun then.
fn reach(master: &Master, steps: usize) -> usize {
    let script = COUNT
        .replace("@LIMIT@", &ON_THE_WAY.as_secs().to_string())
        .replace("@STEPS@", &steps.to_string())
        .replace("@WELL@", WELL);
    let reached = master
        .host()
        .exec_within(&["bash", "-c", &script], None, ON_THE_WAY + MARGIN);
    let reached = reached.expect("the machine answers");
    let said = String::from_utf8_lossy(&reached.stdout).trim().to_owned();
    let journal = || master.sh("journalctl --no-pager --lines 60 --unit pf9-nodeletd");
    said.parse()
        .unwrap_or_else(|_| panic!("step {steps} is not reached: {}", journal()))
}

/// After a cut, each file is complete or missing.
fn assert_complete_files(master: &Master) {
    let _ = master.nodelet(&["history", "--json"]).exits(0);
    let status = master.sh("cat /var/opt/pf9/kube_status 2>/dev/null || echo '{}'");
    let status: Result<serde_json::Value, _> = serde_json::from_str(&status);
    assert!(status.is_ok(), "kube_status: {status:?}");
    // A certificate belongs to its key, or is missing.
    master.sh(
        "for key in $(find /etc/pf9/kube.d -name '*.key' 2>/dev/null); do
             certificate=${key%.key}.crt
             [ -e $certificate ] || continue
             test \"$(openssl pkey -in $key -pubout)\" = \"$(openssl x509 -in $certificate -noout -pubkey)\"
         done",
    );
}
