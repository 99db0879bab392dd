//! The keys that encrypt Secrets in etcd.

use std::path::Path;

use super::*;
use crate::host::Files as _;
use crate::resource::Spec;
use crate::resource::pki::{
    EncryptionKeysSpec, Rotation, Stage, encryption_key_ids, encryption_stage, key_problem,
    may_be_read,
};

const CONFIG: &str = "/etc/pf9/kube.d/encryption/config.yaml";
const COPY: &str = "/etc/pf9/kube.d/ca/encryption/keys.yaml";
const RECORD: &str = "/var/opt/pf9/nodelet/kept/encryption.yaml";
const ALL: [&str; 3] = [RECORD, COPY, CONFIG];

const HOLD: EncryptionKeysSpec = EncryptionKeysSpec {
    rotation: None,
    successor: None,
};

fn step(step: Rotation) -> EncryptionKeysSpec {
    EncryptionKeysSpec {
        rotation: Some(step),
        successor: None,
    }
}

async fn with_keys() -> FakeHost {
    let host = FakeHost::new();
    apply(&host, &HOLD).await;
    host
}

async fn ids(host: &FakeHost) -> Vec<String> {
    encryption_key_ids(host).await.expect("they can be read")
}

#[tokio::test]
async fn a_key_is_made_once_in_the_form_that_the_api_server_reads() {
    let host = with_keys().await;
    assert_eq!(apply(&host, &HOLD).await, None);
    let [id] = ids(&host).await.try_into().expect("one key");
    let written = text(&host, CONFIG);
    assert_eq!(written, text(&host, COPY));
    assert_eq!(written, text(&host, RECORD));
    let secret = written
        .lines()
        .find_map(|line| line.trim().strip_prefix("secret: "))
        .expect("a key");
    assert_eq!(
        written.replace(secret, "…").replace(&id, "ID"),
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources:\n  - secrets\n  \
         providers:\n  - secretbox:\n      keys:\n      - name: ID\n        secret: …\n  - identity: {}\n"
    );
    assert!(id.starts_with("1-") && secret.len() == 44, "{id}");
    assert_ne!(
        ids(&with_keys().await).await,
        [id],
        "each host has its own key"
    );
    for path in [CONFIG, COPY] {
        let entry = host.entry(Path::new(path)).await.expect("it answers");
        let mode = entry.expect("it is there").attributes.mode;
        assert_eq!(mode, 0o600, "{path}");
    }
}

#[tokio::test]
async fn lost_and_damaged_files_are_restored_from_the_remaining_copy() {
    for left in ALL {
        for damage in [None, Some(""), Some("garbage"), Some("cut")] {
            let host = with_keys().await;
            let before = text(&host, left);
            for path in ALL.iter().filter(|path| **path != left) {
                match damage {
                    None => host.with_world_mut(|world| world.remove(path)),
                    Some("cut") => put(&host, path, &before[..before.len() / 2], 0o600),
                    Some(other) => put(&host, path, other, 0o600),
                }
            }
            apply(&host, &HOLD).await.expect("it differs");
            for path in ALL {
                assert_eq!(text(&host, path), before, "{path} from {left} {damage:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_api_server_may_read_the_right_keys_also_if_another_copy_differs() {
    let files = [CONFIG.into()];
    let other = text(&with_keys().await, CONFIG);
    for path in ALL {
        for damage in ["", &other] {
            let host = with_keys().await;
            if path == RECORD && !damage.is_empty() {
                // An operator has to decide which is right.
                continue;
            }
            put(&host, path, damage, 0o600);
            let may = may_be_read(&host, &files).await;
            assert_eq!(may.is_ok(), path != CONFIG, "{path} {damage:?}: {may:?}");
        }
    }
}

#[tokio::test]
async fn an_exchanged_key_is_never_adopted() {
    let other = text(&with_keys().await, CONFIG);
    // If the record agrees with one of the others, the third file is restored.
    for path in [COPY, CONFIG] {
        let host = with_keys().await;
        let before = text(&host, path);
        put(&host, path, &other, 0o600);
        apply(&host, &HOLD).await.expect("it differs");
        assert_eq!(text(&host, path), before);
    }
    // If no two files agree, or the record has another key, an operator has to decide which is right.
    for (lost, exchanged) in [
        (Some(RECORD), &[COPY][..]),
        (Some(COPY), &[CONFIG]),
        (Some(CONFIG), &[RECORD]),
        (None, &[RECORD]),
        (None, &[COPY, CONFIG]),
    ] {
        let host = with_keys().await;
        if let Some(path) = lost {
            host.with_world_mut(|world| world.remove(path));
        }
        for path in exchanged {
            put(&host, path, &other, 0o600);
        }
        let error = failure(&host, &HOLD).await;
        assert!(error.contains("some of them were exchanged"), "{error}");
        for path in exchanged {
            assert_eq!(text(&host, path), other, "nothing was changed");
        }
        // The remedy that the error names: the wrong files go, and the right one restores them.
        assert!(
            error.contains("Move each file with other keys away")
                && error.contains("Do not move all of the files away"),
            "{error}"
        );
        let right = ALL
            .into_iter()
            .find(|path| lost != Some(*path) && !exchanged.contains(path));
        let right = text(&host, right.expect("a file has the right keys"));
        for path in exchanged {
            host.with_world_mut(|world| world.remove(path));
        }
        apply(&host, &HOLD).await.expect("it differs");
        for path in ALL {
            assert_eq!(text(&host, path), right);
        }
    }
    // Another secret under the known name is not adopted either.
    let host = with_keys().await;
    let secret = |text: &str| {
        let line = text.lines().find(|line| line.contains("secret: "));
        line.expect("a key").to_owned()
    };
    let mine = text(&host, CONFIG);
    let forged = mine.replace(&secret(&mine), &secret(&other));
    for path in ALL {
        put(&host, path, &forged, 0o600);
    }
    let error = failure(&host, &HOLD).await;
    assert!(error.contains("does not match its name"), "{error}");
    assert!(!error.contains(secret(&other).trim()), "no key is told");
}

#[tokio::test]
async fn a_key_is_replaced_in_three_steps() {
    let host = with_keys().await;
    let [old] = ids(&host).await.try_into().expect("one key");
    for early in [Rotation::Switch, Rotation::Finish] {
        assert_eq!(apply(&host, &step(early)).await, None, "{early:?}");
    }
    apply(&host, &step(Rotation::Begin))
        .await
        .expect("a change");
    assert_eq!(apply(&host, &step(Rotation::Begin)).await, None, "once");
    let [first, new] = ids(&host).await.try_into().expect("two keys");
    assert_eq!(first, old, "the present key still encrypts");
    assert!(new.starts_with("2-"), "{new}");
    assert_eq!(encryption_stage(&host).await.unwrap(), Stage::Begun);
    apply(&host, &step(Rotation::Switch))
        .await
        .expect("a change");
    assert_eq!(ids(&host).await, [new.clone(), old.clone()]);
    assert_eq!(encryption_stage(&host).await.unwrap(), Stage::Switched);
    apply(&host, &step(Rotation::Finish))
        .await
        .expect("a change");
    assert_eq!(ids(&host).await, [new]);
    assert_eq!(encryption_stage(&host).await.unwrap(), Stage::Settled);
    let retired = text(
        &host,
        &format!("/etc/pf9/kube.d/ca/encryption/retired/{old}"),
    );
    assert_eq!(retired.trim().len(), 44, "older backups need it");
    assert_eq!(apply(&host, &HOLD).await, None);
}

/// Older backups need a retired key. No running component would notice its loss.
#[tokio::test]
async fn a_retired_key_that_is_lost_or_damaged_is_written_again_from_its_copy() {
    const COPIES: &str = "/var/opt/pf9/nodelet/kept/encryption-retired.json";
    let rotated = with_keys().await;
    for _ in 0..2 {
        for one in [Rotation::Begin, Rotation::Switch, Rotation::Finish] {
            apply(&rotated, &step(one)).await.expect("a change");
        }
    }
    let directory = Path::new("/etc/pf9/kube.d/ca/encryption/retired");
    let names = rotated.list(directory).await.expect("it is listed");
    let path = |name: &String| format!("{}/{name}", directory.display());
    let mut files: Vec<String> = names.iter().map(path).collect();
    assert_eq!(files.len(), 2);
    files.push(COPIES.to_owned());
    let texts = |host: &FakeHost| -> Vec<String> { files.iter().map(|f| text(host, f)).collect() };
    let before = texts(&rotated);
    let problem = async |host: &FakeHost| {
        let spec = Spec::EncryptionKeys(HOLD);
        key_problem(host, &spec).await.expect("they can be read")
    };
    assert_eq!(problem(&rotated).await, None);
    for (number, file) in files.iter().enumerate() {
        for damage in [
            None,
            Some(String::new()),
            Some(before[1 - number.min(1)].clone()),
        ] {
            let host = rotated.fork();
            match &damage {
                None => host.with_world_mut(|world| world.remove(file)),
                Some(text) => put(&host, file, text, 0o600),
            }
            let message = problem(&host).await.expect("it is told");
            assert!(message.contains(file.as_str()), "{message}");
            apply(&host, &HOLD).await.expect("a change");
            assert_eq!(texts(&host), before, "{file}: {damage:?}");
            assert_eq!(problem(&host).await, None);
        }
        let host = rotated.fork();
        put(&host, file, &before[number], 0o644);
        apply(&host, &HOLD).await.expect("a change");
        assert_eq!(apply(&host, &HOLD).await, None);
    }
    // If both copies are lost, no key is invented, and a file that is not a key is reported.
    let host = rotated.fork();
    put(&host, &files[0], "no key\n", 0o600);
    put(&host, COPIES, "[]", 0o600);
    apply(&host, &HOLD)
        .await
        .expect("the other key has a copy again");
    let message = problem(&host).await.expect("it is told");
    assert!(
        message.contains(&files[0]) && message.contains("there is no copy"),
        "{message}"
    );
    assert_eq!(text(&host, &files[0]), "no key\n");
    let absent = run(&rotated, &HOLD, true, &mut Receipt::default()).await;
    absent.expect("they are removed");
    for file in &files {
        assert_eq!(rotated.with_world(|world| world.text(file)), None, "{file}");
    }
}

/// The record is written first.
#[tokio::test]
async fn a_step_that_was_cut_between_the_files_is_carried_on() {
    for steps in [
        &[Rotation::Begin][..],
        &[Rotation::Begin, Rotation::Switch],
        &[Rotation::Begin, Rotation::Switch, Rotation::Finish],
    ] {
        let host = with_keys().await;
        let mut before = String::new();
        for one in steps {
            before = text(&host, CONFIG);
            apply(&host, &step(*one)).await.expect("a change");
        }
        let after = text(&host, CONFIG);
        for cut in [&[CONFIG][..], &[COPY, CONFIG]] {
            for path in cut {
                put(&host, path, &before, 0o600);
            }
            apply(&host, &HOLD).await.expect("it differs");
            // A step that was interrupted after the first file has no effect: two equal files outweigh one.
            let expected = if cut.len() == 2 { &before } else { &after };
            for path in ALL {
                assert_eq!(text(&host, path), *expected, "{path} {steps:?}");
            }
        }
    }
}
