//! Each kept or secret file of a worker and of one of three masters is damaged alone: it is repaired, with exactly its readers restarted.

use lab_suites::{Damage, SecretFiles, WORK_DIRECTORY, Watch, make_work_directory};

use super::subject::{Kind, Subject};
use crate::bitrot::{KEPT_OR_SECRET, restarts_after};

/// Files of a master that take the place of a worker's: it has no other of their kinds.
const OTHERS: [(&str, &str); 2] = [
    ("/etc/pf9/kube.d/kubeconfigs", "admin.yaml"),
    ("/var/opt/pf9/nodelet/kept", "authority-etcd.json"),
];

#[test]
#[ignore = "cargo xtask soak runs it"]
fn bitrot_of_a_worker() {
    each_alone(Kind::Worker, "bitrot-worker", &Damage::ALL);
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn bitrot_of_one_of_three_masters_deleted_and_truncated() {
    let damages = [Damage::Delete, Damage::Truncate];
    each_alone(Kind::OneOfThree, "bitrot-content", &damages);
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn bitrot_of_one_of_three_masters_replaced_and_with_another_owner() {
    let damages = [Damage::Replace, Damage::Attributes];
    each_alone(Kind::OneOfThree, "bitrot-owner", &damages);
}

fn each_alone(kind: Kind, lab: &str, damages: &[Damage]) {
    let subject = Subject::joined(kind, lab);
    make_work_directory(&subject);
    let secrets = SecretFiles::note(&subject);
    if kind == Kind::Worker {
        for (directory, name) in OTHERS {
            let other = subject.first().host().get(&format!("{directory}/{name}"));
            let other = other.expect("the master has it");
            let path = format!("{WORK_DIRECTORY}/{name}");
            let put = subject.host().put(&other, &path, 0o600);
            put.expect("the file is written");
        }
    }
    let files: Vec<String> = KEPT_OR_SECRET
        .iter()
        .flat_map(|&group| secrets.of(group))
        .collect();
    println!("{} files: {files:?}", files.len());
    assert!(files.len() >= 9, "{files:?}");
    let watch = Watch::start(&subject);
    let mut wrong = Vec::new();
    for path in files {
        for &damage in damages {
            let (phases, readers) = restarts_after(damage, &path);
            // A worker's authority comes from the phase `join`.
            let phases: Vec<&str> = match phases {
                [] => Vec::new(),
                some => some.iter().copied().chain(["join"]).collect(),
            };
            let damaged_files = [(damage, path.clone())];
            wrong.extend(secrets.damage_and_repair(&watch, &damaged_files, &phases, readers));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
