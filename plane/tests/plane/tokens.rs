//! What a token is good for.

use plane::enrolment::MOST_CERTIFICATES;

use crate::client::Host;
use crate::revoked::database_of;
use crate::running::{Plane, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_works_once_for_its_host_and_for_its_time() {
    let plane = Plane::start().await;
    let fingerprint = plane.fingerprint();
    let first = Host::new(&plane, "host-1").await;
    let token = plane.token(&["--host", "host-1"]);
    let second = Host::new(&plane, "host-2").await;
    let error = second
        .enrol(&token, &fingerprint)
        .await
        .expect_err("another host");
    assert!(
        error.contains("the token is for another host than host-2"),
        "{error}"
    );
    first
        .enrol(&token, &fingerprint)
        .await
        .expect("it is enrolled");
    let error = first
        .enrol(&token, &fingerprint)
        .await
        .expect_err("it was used");
    assert!(error.contains("the token was used"), "{error}");
    let short = plane.token(&["--host", "host-2", "--expires", "1s"]);
    until("it has expired", async || {
        plane.said(&["token", "list"]).contains("expired")
    })
    .await;
    let error = second
        .enrol(&short, &fingerprint)
        .await
        .expect_err("it has expired");
    assert!(error.contains("the token has expired"), "{error}");
    let error = second
        .enrol("pf9-enrol-x", &fingerprint)
        .await
        .expect_err("there is none");
    assert!(error.contains("the token is not known"), "{error}");
    let deleted = plane.token(&["--host", "host-2"]);
    let list = plane.said(&["token", "list"]);
    let id = list
        .lines()
        .find(|line| line.contains("valid until"))
        .expect("one is valid");
    let id = id.split_whitespace().next().expect("its id");
    assert!(plane.ctl(&["token", "delete", id]).status.success());
    assert!(
        !plane.ctl(&["token", "delete", id]).status.success(),
        "it is not there any more"
    );
    let error = second
        .enrol(&deleted, &fingerprint)
        .await
        .expect_err("it was deleted");
    assert!(error.contains("the token is not known"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_group_takes_no_place_of_an_enrolled_host() {
    let plane = Plane::start().await;
    let fingerprint = plane.fingerprint();
    let host = Host::new(&plane, "host-1").await;
    host.enrol(&plane.token(&["--group", "racks"]), &fingerprint)
        .await
        .expect("it is enrolled");
    let thief = Host::new(&plane, "host-1").await;
    let token = plane.token(&["--group", "racks"]);
    let error = thief
        .enrol(&token, &fingerprint)
        .await
        .expect_err("the name is taken");
    assert!(error.contains("is enrolled already"), "{error}");
    // The token was not used up.
    let other = Host::new(&plane, "host-2").await;
    other
        .enrol(&token, &fingerprint)
        .await
        .expect("another name");
    let hosts = plane.said(&["host", "list"]);
    assert_eq!(hosts.matches("racks").count(), 2, "{hosts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_got_no_answer_asks_again_with_the_same_token() {
    let plane = Plane::start().await;
    let fingerprint = plane.fingerprint();
    let host = Host::new(&plane, "host-1").await;
    let token = plane.token(&["--group", "racks"]);
    host.enrol(&token, &fingerprint)
        .await
        .expect("it is enrolled");
    // As if the answer had been lost: the key is there, and nothing else.
    let key = host.identity("host.key");
    std::fs::remove_dir_all(host.place("comms")).expect("it is removed");
    std::fs::create_dir(host.place("comms")).expect("it is made");
    host.write_private("comms/pending.key", &key);
    host.enrol(&token, &fingerprint)
        .await
        .expect("it is enrolled with the same key");
    assert_eq!(host.identity("host.key"), key);
    let error = Host::new(&plane, "host-1")
        .await
        .enrol(&token, &fingerprint)
        .await;
    assert!(
        error
            .expect_err("another key")
            .contains("the token was used")
    );
    // After a revocation, not even the same key.
    assert!(plane.ctl(&["host", "revoke", "host-1"]).status.success());
    host.write_private("comms/pending.key", &key);
    let error = host
        .enrol(&token, &fingerprint)
        .await
        .expect_err("it was revoked");
    assert!(error.contains("the token was used"), "{error}");
}

/// With a token that it may use again, a host could otherwise get so many that their revocation takes longer than it may.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_gets_no_more_certificates_than_can_be_revoked_quickly() {
    let plane = Plane::start().await;
    let fingerprint = plane.fingerprint();
    let host = Host::enrolled(&plane, "host-1").await;
    let database = database_of(&plane).await;
    let mut all = database.begin().await.expect("a transaction");
    for number in 1..MOST_CERTIFICATES {
        sqlx::query(
            "INSERT INTO certificates (serial, host_id, issued_at, expires_at) \
             SELECT $1, host_id, issued_at, expires_at FROM certificates WHERE serial NOT LIKE 'more-%'",
        )
        .bind(format!("more-{number}"))
        .execute(&mut *all)
        .await
        .expect("it is written");
    }
    all.commit().await.expect("it is written");
    // An operator has made this one.
    let token = plane.token(&["--host", "host-1"]);
    host.enrol(&token, &fingerprint)
        .await
        .expect("it is enrolled again");
    // As if the answer had been lost.
    let key = host.identity("host.key");
    host.write_private("comms/pending.key", &key);
    let error = host
        .enrol(&token, &fingerprint)
        .await
        .expect_err("it has the most");
    assert!(
        error.contains("has 101 certificates, and this token was used"),
        "{error}"
    );
    sqlx::query("DELETE FROM certificates WHERE serial IN ('more-1', 'more-2')")
        .execute(&database)
        .await
        .expect("they are deleted");
    host.write_private("comms/pending.key", &key);
    host.enrol(&token, &fingerprint)
        .await
        .expect("it has fewer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_the_id_of_another_one_as_its_name_is_told_apart_from_it() {
    let plane = Plane::start().await;
    let _victim = Host::enrolled(&plane, "host-1").await;
    let hosts = plane.said(&["host", "list"]);
    let id = hosts.lines().nth(1).expect("a host");
    let id = id.split_whitespace().next().expect("its id");
    let other = Host::new(&plane, id).await;
    let error = other
        .enrol(&plane.token(&["--group", "racks"]), &plane.fingerprint())
        .await
        .expect_err("the name is an id");
    assert!(error.contains("is the id of another host"), "{error}");
    // A database of before may have such hosts, also one that has the id of the second one as its name.
    let database = database_of(&plane).await;
    for (new, name) in [("other", id), ("third", "other")] {
        sqlx::query("INSERT INTO hosts (id, name, enrolled_at) VALUES ($1, $2, 0)")
            .bind(new)
            .bind(name)
            .execute(&database)
            .await
            .expect("it is written");
        sqlx::query(
            "INSERT INTO certificates (serial, host_id, issued_at, expires_at) \
             SELECT $1, $2, issued_at, expires_at FROM certificates WHERE host_id = $3",
        )
        .bind(match new {
            "other" => "7A01",
            _ => "7A02",
        })
        .bind(new)
        .bind(id)
        .execute(&database)
        .await
        .expect("it is written");
    }
    let error = |arguments: &[&str]| {
        let revoking = plane.ctl(arguments);
        assert!(!revoking.status.success());
        String::from_utf8_lossy(&revoking.stderr).into_owned()
    };
    for name in [id, "other"] {
        let said = error(&["host", "revoke", name]);
        assert!(said.contains("the name of one host and the id"), "{said}");
        assert!(said.contains("planectl host revoke --id"), "{said}");
    }
    let said = error(&["host", "revoke", "--id", "host-1"]);
    assert!(said.contains("there is none"), "{said}");
    let valid = || plane.said(&["host", "list"]).matches("valid until").count();
    assert_eq!(valid(), 3);
    for (arguments, left) in [
        (["host", "revoke", "--id", "other"].as_slice(), 2),
        (["host", "revoke", "host-1"].as_slice(), 1),
    ] {
        let said = plane.said(arguments);
        assert!(said.contains("Revoked 1 certificates"), "{said}");
        assert_eq!(valid(), left, "{arguments:?}");
    }
}
