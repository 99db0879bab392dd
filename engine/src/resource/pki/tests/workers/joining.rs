//! Joining: what a worker takes from its join file, and what it refuses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::signing::worker_with_identity;
use crate::host::Host;
use crate::host::overlay::OverlayHost;
use crate::kubernetes::join_file::{IDENTITY, JoinContent as _, JoinFile, Token, new_identity};
use crate::resource::pki::tests::*;
use crate::resource::pki::{JoinFileSpec, key_problem};
use crate::resource::{Action, Spec};

pub(super) const NODE: &str = "worker-1";
pub(super) const JOIN: &str = "/etc/pf9/nodelet/join.age";
const BOOTSTRAP: &str = "/etc/pf9/kube.d/kubeconfigs/bootstrap.yaml";
const RECORD: &str = "/var/opt/pf9/nodelet/kept/authority-cluster.json";
const HOUR: Duration = Duration::from_secs(60 * 60);
/// The user of the token in the join file.
pub(crate) const BOOTSTRAP_USER: &str = "system:bootstrap:abcdef";
const SECRET: &str = "0123456789abcdef";

pub(crate) fn spec() -> JoinFileSpec {
    JoinFileSpec {
        path: JOIN.into(),
        node: NODE.to_owned(),
        address: None,
        settings: BTreeMap::new(),
        on_link: false,
    }
}

pub(super) fn file(host: &FakeHost, authorities: &str) -> JoinFile {
    let now = host.with_world(|world| world.now());
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .expect("it is after 1970");
    let token = Token::try_from(format!("abcdef.{SECRET}")).expect("a token");
    let expires = (now + HOUR).as_secs();
    JoinFile::new(NODE, "https://10.0.0.1:443", authorities, token, expires)
}

/// A host with an identity, and its public key.
pub(super) fn host_with_identity() -> (FakeHost, String) {
    let (secret, public) = new_identity();
    let host = FakeHost::new()
        .with_file(IDENTITY, secret)
        .with_kubernetes(|rules| {
            rules.remote_api = true;
            rules.node_name = Some(NODE.to_owned());
        });
    (host, public)
}

pub(super) fn place(host: &FakeHost, file: &JoinFile, public: &str) {
    let sealed = file.seal(public).expect("it can be sealed");
    put(
        host,
        JOIN,
        &String::from_utf8(sealed).expect("armour is text"),
        0o600,
    );
}

/// Puts another join file of this master on the worker. It has the token `ghijkl`.
pub(super) fn another_join_file(master: &FakeHost, worker: &FakeHost) {
    join_file_with(worker, &text(master, CA));
}

/// Puts another join file with these authorities on the worker. It has the token `ghijkl`.
pub(super) fn join_file_with(worker: &FakeHost, authorities: &str) {
    let mut its = file(worker, authorities);
    its.token = Token::try_from(format!("ghijkl.{SECRET}")).expect("a token");
    place_for(worker, &its);
}

fn place_for(worker: &FakeHost, its: &JoinFile) {
    let public = crate::kubernetes::join_file::public_key(&text(worker, IDENTITY));
    place(worker, its, &public.expect("it has an identity"));
}

/// A master and a worker with a join file of it that was not used yet.
pub(crate) async fn worker_to_be() -> (FakeHost, FakeHost, String) {
    let master = with_authority().await;
    let (worker, public) = host_with_identity();
    place(&worker, &file(&worker, &text(&master, CA)), &public);
    (master, worker, public)
}

/// A master, and a worker that has taken what is in its join file.
pub(super) async fn joined_worker() -> (FakeHost, FakeHost) {
    let (master, worker, _) = worker_to_be().await;
    apply(&worker, &spec()).await.expect("it joins");
    (master, worker)
}

#[tokio::test]
async fn a_worker_takes_authority_and_token() {
    let (master, worker, _) = worker_to_be().await;
    let reasons = reissue_reasons(&worker, &spec()).await;
    assert_eq!(reasons[0], format!("node:  → {NODE}"));
    assert!(
        reasons[1].starts_with("trusted authorities:  → CN=kubernetes (SHA-256 "),
        "{reasons:?}"
    );
    let change = apply(&worker, &spec()).await.expect("it joins");
    assert_eq!(change.action, Action::Create);
    assert_eq!(apply(&worker, &spec()).await, None);
    let der = |host: &FakeHost| {
        crate::resource::pki::certificate::facts::Certificate::parse("", text(host, CA).as_bytes())
            .expect("it parses")
            .der
    };
    assert_eq!(der(&worker), der(&master));
    assert!(worker.with_world(|world| world.text(CA_KEY)).is_none());
    let bootstrap = text(&worker, BOOTSTRAP);
    assert!(
        bootstrap.contains("server: https://10.0.0.1:443"),
        "{bootstrap}"
    );
    assert!(
        bootstrap.contains(&format!("token: abcdef.{SECRET}")),
        "{bootstrap}"
    );
    let listing = crate::resource::pki::inventory(&worker)
        .await
        .expect("it can be read");
    assert!(listing.unreadable.is_empty(), "{:?}", listing.unreadable);
}

#[tokio::test]
async fn each_problem_of_a_join_file_has_its_own_message() {
    let (master, _, _) = worker_to_be().await;
    let authorities = text(&master, CA);
    let authorities = authorities.as_str();
    // Another character in the middle.
    let changed = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let middle = lines.len() / 2;
        let other = if lines[middle].starts_with('A') {
            "B"
        } else {
            "A"
        };
        lines[middle].replace_range(..1, other);
        lines.join("\n")
    };
    type Prepare<'a> = Box<dyn Fn(&FakeHost, &str) + 'a>;
    let with = |change: fn(&mut JoinFile)| -> Prepare<'_> {
        Box::new(move |host, public| {
            let mut its = file(host, authorities);
            change(&mut its);
            place(host, &its, public);
        })
    };
    let cases: Vec<(Prepare<'_>, &str, &str)> = vec![
        (
            Box::new(|host, _| host.with_world_mut(|world| world.remove(JOIN))),
            "it is not there",
            "nodelet pki issue worker-1",
        ),
        (
            Box::new(|host, _| host.with_world_mut(|world| world.remove(IDENTITY))),
            "nothing can open the file",
            "nodelet pki key",
        ),
        (
            with(|its| its.node = "worker-2".to_owned()),
            "it is for node `worker-2`",
            "worker-2",
        ),
        (
            with(|its| its.expires = 1),
            "it expired at 1970",
            "nodelet pki issue worker-1",
        ),
        (
            Box::new(|host, _| {
                let (_, other) = new_identity();
                place(host, &file(host, authorities), &other);
            }),
            "another host",
            "nodelet pki key",
        ),
        (
            Box::new(|host, _| {
                let sealed = text(host, JOIN);
                let changed = changed(&sealed);
                put(host, JOIN, &format!("{changed}\n"), 0o600);
            }),
            "damaged or incomplete",
            "copy the file from the master",
        ),
        (
            Box::new(|host, _| put(host, JOIN, "garbage", 0o600)),
            "",
            "copy the file from the master",
        ),
        (
            with(|its| {
                let leaf = rcgen::generate_simple_self_signed(vec!["a".to_owned()]);
                its.authorities = leaf.expect("it is made").cert.pem();
            }),
            "may not sign",
            "nodelet pki issue worker-1",
        ),
    ];
    for (prepare, what, remedy) in cases {
        let (host, public) = host_with_identity();
        place(&host, &file(&host, authorities), &public);
        prepare(&host, &public);
        let before = host.snapshot();
        let error = run(&host, &spec(), false, &mut Receipt::default()).await;
        let error = error.expect_err(what);
        assert!(error.is_permanent(), "{error}");
        assert!(
            error
                .to_string()
                .starts_with("join the cluster as node `worker-1`"),
            "{error}"
        );
        assert!(error.to_string().contains(what), "{what}: {error}");
        let ResourceError::Unmet { next, .. } = &error else {
            panic!("{error}")
        };
        assert!(next.contains(remedy), "{what}: {next}");
        assert!(host.snapshot() == before, "{what}: nothing is changed");
    }
}

/// Its pods would have no way to the others.
#[tokio::test]
async fn a_worker_has_the_network_and_the_settings_of_its_masters() {
    let (master, _, _) = worker_to_be().await;
    let authorities = text(&master, CA);
    let setting = |value: &str| {
        let pair = ("CONTAINERS_CIDR".to_owned(), value.to_owned());
        BTreeMap::from([pair])
    };
    let spec = JoinFileSpec {
        settings: setting("10.20.0.0/16"),
        on_link: true,
        ..spec()
    };
    for (network, address, refused) in [
        ("10.20.0.0/16", [10, 0, 0, 1], ""),
        (
            "10.99.0.0/16",
            [10, 0, 0, 1],
            "the masters have CONTAINERS_CIDR=10.99.0.0/16",
        ),
        (
            "10.20.0.0/16",
            [10, 0, 1, 1],
            "the master at 10.0.1.1 is not on a network of this host",
        ),
        (
            "10.20.0.0/16",
            [10, 0, 0, 255],
            "the master at 10.0.0.255 is not",
        ),
    ] {
        let (host, public) = host_with_identity();
        host.with_world_mut(|world| {
            world.link("eth0", true, &[(IpAddr::from([10, 0, 0, 21]), 24)]);
        });
        let mut its = file(&host, &authorities);
        its.settings = setting(network);
        its.masters = vec![IpAddr::from(address)];
        place(&host, &its, &public);
        let before = host.snapshot();
        let joined = run(&host, &spec, false, &mut Receipt::default()).await;
        if refused.is_empty() {
            joined.expect("it joins");
            continue;
        }
        let error = joined.expect_err(refused);
        assert!(error.to_string().contains(refused), "{error}");
        assert!(host.snapshot() == before, "{refused}: nothing is changed");
    }
}

#[tokio::test]
async fn the_address_of_another_node_is_refused_until_the_worker_has_joined() {
    let own = IpAddr::from([10, 0, 0, 21]);
    let spec = JoinFileSpec {
        address: Some(own),
        ..spec()
    };
    let (master, host, public) = worker_to_be().await;
    let mut its = file(&host, &text(&master, CA));
    its.add_addresses([("worker-2", own)]);
    place(&host, &its, &public);
    let before = host.snapshot();
    let error = run(&host, &spec, false, &mut Receipt::default()).await;
    let error = error.expect_err("another node has the address");
    let shown = error.to_string();
    let reason = "node `worker-2` has the address of this host, 10.0.0.21";
    assert!(shown.contains(reason), "{shown}");
    let ResourceError::Unmet { next, .. } = &error else {
        panic!("{error}")
    };
    assert!(next.contains("`nodelet cluster remove worker-2`"), "{next}");
    assert!(host.snapshot() == before, "nothing is changed");
    let (_, joined) = worker_with_identity().await;
    place_for(&joined, &its);
    assert_eq!(apply(&joined, &spec).await, None, "it needs no file");
}

/// Asks as an apply does before it touches anything.
async fn ask_ahead(host: &dyn Host) -> ResourceResult<()> {
    let outputs = Outputs::default();
    let cx = Context {
        host,
        outputs: &outputs,
        secrets: &NoSecrets,
        absent: false,
        cancel: None,
    };
    spec().token_is_accepted(&cx).await
}

#[tokio::test]
async fn a_token_is_refused_ahead_only_if_the_api_server_lastingly_refuses_it() {
    let (_, host, _) = worker_to_be().await;
    let asked = |host: &FakeHost| {
        let journal = host.journal();
        let asked = journal
            .iter()
            .filter(|call| call.name == "accepts_identity");
        asked.count()
    };
    ask_ahead(&host).await.expect("it is accepted");
    assert_eq!(asked(&host), 1);
    host.with_world_mut(|world| world.refuse_user(BOOTSTRAP_USER, true));
    let before = host.snapshot();
    let begun = host.with_world(|world| world.elapsed());
    let error = ask_ahead(&host).await.expect_err("it was used");
    let waited = host.with_world(|world| world.elapsed()) - begun;
    assert_eq!(asked(&host), 4);
    assert!(waited >= Duration::from_secs(5), "{waited:?}");
    assert!(host.snapshot() == before, "nothing is changed");
    let shown = format!("{error} {error:?}");
    assert!(
        shown.contains("does not accept its token (status 401)"),
        "{shown}"
    );
    assert!(!shown.contains(SECRET), "{shown}");
    let ResourceError::Unmet { next, .. } = &error else {
        panic!("{error}")
    };
    assert!(
        next.contains("nodelet pki issue worker-1 --to KEY"),
        "{next}"
    );
    // A host that is too early waits in the step.
    host.with_world_mut(|world| world.kubernetes.remote_api = false);
    ask_ahead(&host).await.expect("no API server answers");
    // A worker that has joined does not use the token.
    let (_, joined) = worker_with_identity().await;
    joined.with_world_mut(|world| world.refuse_user(BOOTSTRAP_USER, true));
    ask_ahead(&joined).await.expect("it has an identity");
    joined.with_world_mut(|world| world.remove(RECORD));
    ask_ahead(&joined).await.expect("its authority comes back");
    assert_eq!(asked(&joined), 0);
    apply(&joined, &spec()).await.expect("it is restored");
    assert!(joined.with_world(|world| world.text(RECORD)).is_some());
}

/// A dry run has no other pauses, and an API server that starts needs this time, too.
#[tokio::test]
async fn a_dry_run_gives_a_starting_api_server_as_much_time_as_an_apply() {
    let (_, host, _) = worker_to_be().await;
    host.with_world_mut(|world| world.refuse_user(BOOTSTRAP_USER, true));
    let begun = host.with_world(|world| world.elapsed());
    let passed = || host.with_world(|world| world.elapsed()) - begun;
    let overlay = OverlayHost::new(&host);
    ask_ahead(&overlay).await.expect_err("it was used");
    assert!(passed() >= Duration::from_secs(5), "{:?}", passed());
    let asked = ask_ahead(&overlay);
    tokio::pin!(asked);
    let begun = passed();
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut asked => break answer,
            () = tokio::task::yield_now() => {
                if passed() - begun > Duration::from_secs(3) {
                    host.with_world_mut(|world| world.refuse_user(BOOTSTRAP_USER, false));
                }
            }
        }
    };
    answer.expect("the API server has read its tokens");
}

#[tokio::test]
async fn a_clock_outside_of_the_authoritys_validity_is_named() {
    let master = FakeHost::new();
    advance(&master, DAY * 400);
    apply(&master, &cluster()).await.expect("it is made");
    let (worker, public) = host_with_identity();
    place(&worker, &file(&worker, &text(&master, CA)), &public);
    let before = worker.snapshot();
    let error = run(&worker, &spec(), false, &mut Receipt::default()).await;
    let error = error.expect_err("the authority is not valid yet");
    let shown = error.to_string();
    assert!(shown.contains("the clock of this host says"), "{shown}");
    let ResourceError::Unmet { next, .. } = &error else {
        panic!("{error}")
    };
    assert!(next.contains("set the clock"), "{next}");
    assert!(worker.snapshot() == before, "nothing is changed");
    advance(&worker, DAY * 401);
    place(&worker, &file(&worker, &text(&master, CA)), &public);
    apply(&worker, &spec()).await.expect("its clock is right");
}

#[tokio::test]
async fn a_lost_or_replaced_authority_is_restored_and_never_adopted() {
    let (_, worker) = joined_worker().await;
    let right = text(&worker, CA);
    let other = text(&with_authority().await, CA);
    for content in [None, Some(other.as_str()), Some("garbage")] {
        match content {
            None => worker.with_world_mut(|world| world.remove(CA)),
            Some(content) => put(&worker, CA, content, 0o644),
        }
        let problem = key_problem(&worker, &Spec::JoinFile(spec()))
            .await
            .expect("it can be read");
        assert!(
            problem
                .expect("it is reported")
                .contains("restores it from its copy")
        );
        apply(&worker, &spec()).await.expect("it is restored");
        assert_eq!(text(&worker, CA), right);
        assert_eq!(
            key_problem(&worker, &Spec::JoinFile(spec()))
                .await
                .expect("it can be read"),
            None
        );
    }
    // Also if the host has joined, and the file is gone.
    let (_, worker) = worker_with_identity().await;
    worker.with_world_mut(|world| world.remove(JOIN));
    assert_eq!(apply(&worker, &spec()).await, None);
    put(&worker, CA, &other, 0o644);
    let error = failure(&worker, &super::signing::client()).await;
    assert!(error.contains("restores it from its copy"), "{error}");
    apply(&worker, &spec()).await.expect("it is restored");
}

#[tokio::test]
async fn an_authority_without_a_record_is_not_trusted() {
    let (_, worker) = worker_with_identity().await;
    worker.with_world_mut(|world| {
        world.remove(RECORD);
        world.remove(JOIN);
    });
    let error = failure(&worker, &spec()).await;
    assert!(error.contains("it is not there"), "{error}");
    let problem = key_problem(&worker, &Spec::JoinFile(spec()))
        .await
        .expect("it can be read");
    assert!(problem.expect("it is reported").contains("not recorded"));
}

#[tokio::test]
async fn another_join_file_changes_the_authorities_only_with_overlap() {
    let (master, worker, public) = worker_to_be().await;
    apply(&worker, &spec()).await.expect("it joins");
    let old = text(&master, CA);
    let new = text(&with_authority().await, CA);
    place(&worker, &file(&worker, &new), &public);
    let error = failure(&worker, &spec()).await;
    assert!(error.contains("it is for another cluster"), "{error}");
    let next = "/etc/pf9/kube.d/ca/cluster/next.crt";
    place(&worker, &file(&worker, &format!("{new}{old}")), &public);
    apply(&worker, &spec()).await.expect("both are trusted");
    assert!(worker.with_world(|world| world.text(next)).is_some());
    assert_eq!(apply(&worker, &spec()).await, None);
    place(&worker, &file(&worker, &new), &public);
    apply(&worker, &spec())
        .await
        .expect("the new one alone is trusted");
    assert!(worker.with_world(|world| world.text(next)).is_none());
    assert_eq!(apply(&worker, &spec()).await, None);
}

#[tokio::test]
async fn a_host_that_has_joined_needs_no_join_file() {
    let (_, worker) = worker_with_identity().await;
    assert_eq!(apply(&worker, &spec()).await, None);
    let notes = || async {
        let cx = crate::resource::tests::context(&worker);
        let observed = spec().observe(&cx).await.expect("it can be observed");
        assert!(!format!("{observed:?}").contains(SECRET));
        spec().note(&observed)
    };
    assert_eq!(notes().await, None);
    advance(&worker, HOUR * 2);
    assert_eq!(
        notes().await,
        None,
        "it is over, as every join file is after a while"
    );
    put(&worker, JOIN, "garbage", 0o600);
    let note = notes().await.expect("an operator should know");
    assert!(
        note.contains("is ignored, because this host has joined"),
        "{note}"
    );
    assert_eq!(apply(&worker, &spec()).await, None);
    let (other, _, public) = worker_to_be().await;
    let identity = text(&worker, IDENTITY);
    let own = crate::kubernetes::join_file::public_key(&identity).expect("an identity");
    assert_ne!(own, public);
    place(&worker, &file(&worker, &text(&other, CA)), &own);
    let note = notes().await.expect("an operator should know");
    assert!(
        note.contains("it is for another cluster") && note.contains("clean --purge"),
        "{note}"
    );
}

#[tokio::test]
async fn a_master_does_not_join() {
    let (_, worker, _) = worker_to_be().await;
    apply(&worker, &cluster()).await.expect("it is made");
    let error = failure(&worker, &spec()).await;
    assert!(error.contains("it is or was a master"), "{error}");
}

#[tokio::test]
async fn joining_can_be_taken_back_and_shows_no_token() {
    let (_, worker, _) = worker_to_be().await;
    let before = worker.snapshot();
    let mut receipt = Receipt::default();
    let change = run(&worker, &spec(), false, &mut receipt)
        .await
        .expect("it joins");
    let shown = format!("{change:?} {receipt:?} {:?}", spec());
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(receipt.revert(&worker).await.is_empty());
    assert!(worker.snapshot() == before);
    apply(&worker, &spec()).await.expect("it joins");
    run(&worker, &spec(), true, &mut Receipt::default())
        .await
        .expect("it goes");
    for path in [CA, BOOTSTRAP, RECORD] {
        assert!(
            worker.with_world(|world| world.text(path)).is_none(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn after_a_crash_anywhere_the_next_run_joins() {
    use crate::host::fake::FaultPlan;
    let (_, start, _) = worker_to_be().await;
    let counted = start.fork();
    counted.clear_journal();
    apply(&counted, &spec()).await.expect("it joins");
    for n in 1..=counted.mutations() {
        for plan in [
            FaultPlan::none().crash_before(n),
            FaultPlan::none().crash_after(n),
        ] {
            let worker = start.fork().with_faults(plan);
            let crashed = run(&worker, &spec(), false, &mut Receipt::default()).await;
            crashed.expect_err("the program ends");
            worker.end_crash();
            run(&worker, &spec(), false, &mut Receipt::default())
                .await
                .expect("it joins");
            assert_eq!(apply(&worker, &spec()).await, None, "effect {n}");
        }
    }
}
