//! Two clients that write numbered values all the time: ConfigMaps through the virtual IP, and keys directly to the members of etcd.
//!
//! A writer begins a number only when the one before is acknowledged, so a count says which writes are acknowledged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lab_suites::{Credentials, poll};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::background::{Background, lock};
use super::client::SharedClient;

/// The namespace of the ConfigMaps.
pub(crate) const NAMESPACE: &str = "under-load";
/// Pause from one write to the next.
const EVERY: Duration = Duration::from_millis(100);
/// Time limit of one attempt at the virtual IP: etcd may have to elect a leader first.
const AT_VIP: Duration = Duration::from_secs(5);
/// Time limit of one attempt at a member of etcd: the next member gets the next attempt.
const AT_MEMBER: Duration = Duration::from_secs(2);
/// Time limit until a write is acknowledged while the cluster works.
const GOES_ON: Duration = Duration::from_secs(60);

/// What a writer has done.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// All numbers below this one are acknowledged.
    pub(crate) acknowledged: usize,
    /// Attempts that were refused or not answered in time. Each was made again.
    pub(crate) failed: u64,
    /// Why the last of them failed.
    last_failure: String,
}

/// Both writers.
pub(crate) struct Writers {
    config_maps: Background<Written>,
    /// The client of the ConfigMaps.
    client: SharedClient,
    keys: KeyWriter,
}

/// The writer of keys alone: it needs no API server.
pub(crate) struct KeyWriter {
    writer: Background<Written>,
    members: Members,
    client: SharedClient,
}

/// URLs of the members of etcd that get the keys, in turn. They may change meanwhile, but there is always one.
type Members = Arc<Mutex<Vec<String>>>;

impl KeyWriter {
    /// Starts a client of etcd at these members.
    pub(crate) fn start(client_of_etcd: &Credentials, members: Vec<String>) -> Self {
        let members = Arc::new(Mutex::new(members));
        let client = SharedClient::new((client_of_etcd, 1));
        Self {
            writer: keys(client.clone(), Arc::clone(&members)),
            members,
            client,
        }
    }

    /// From now on these members get the keys.
    fn write_to(&self, members: Vec<String>) {
        assert!(!members.is_empty(), "keys need a member");
        *lock(&self.members) = members;
    }

    /// How many keys are acknowledged so far.
    #[track_caller]
    pub(crate) fn acknowledged(&self) -> usize {
        acknowledged(&self.writer)
    }

    /// Waits until so many keys are acknowledged whose writes began after this call.
    #[track_caller]
    pub(crate) fn acknowledges(&self, more: usize, limit: Duration) {
        acknowledges("key", &self.writer, more, limit);
    }

    /// Ends it: what was written.
    pub(crate) fn end(self) -> Written {
        self.writer.end()
    }
}

#[track_caller]
fn acknowledged(writer: &Background<Written>) -> usize {
    writer.look(|written| written.acknowledged)
}

/// Waits until a writer has so many acknowledgements of writes that began after this call.
#[track_caller]
fn acknowledges(what: &str, writer: &Background<Written>, more: usize, limit: Duration) {
    // The write that is under way now does not count.
    let wanted = acknowledged(writer) + 1 + more;
    let is_reached = poll(limit, || (acknowledged(writer) >= wanted).then_some(()));
    assert!(
        is_reached.is_some(),
        "{what}s: {more} more writes are not acknowledged within {} s: {}",
        limit.as_secs(),
        writer.look(|written| written.last_failure.clone())
    );
}

impl Writers {
    /// Starts them: an administrator at the virtual IP, and a client of etcd at its members.
    pub(crate) fn start(
        administrator: &Credentials,
        vip: &str,
        client_of_etcd: &Credentials,
        members: Vec<String>,
    ) -> Self {
        let client = SharedClient::new((administrator, 1));
        Self {
            config_maps: config_maps(client.clone(), vip),
            keys: KeyWriter::start(client_of_etcd, members),
            client,
        }
    }

    /// Writes with other credentials from the next attempt on.
    pub(crate) fn renew(&self, administrator: &Credentials, client_of_etcd: &Credentials) {
        self.client.renew(administrator);
        self.keys.client.renew(client_of_etcd);
    }

    /// From now on these members get the keys.
    pub(crate) fn write_to(&self, members: Vec<String>) {
        self.keys.write_to(members);
    }

    /// How many ConfigMaps, and how many keys, are acknowledged so far.
    #[track_caller]
    pub(crate) fn acknowledged(&self) -> [usize; 2] {
        [acknowledged(&self.config_maps), self.keys.acknowledged()]
    }

    /// Waits until each has an acknowledgement of a write that began after this call.
    #[track_caller]
    pub(crate) fn go_on(&self) {
        acknowledges("ConfigMap", &self.config_maps, 1, GOES_ON);
        self.keys.acknowledges(1, GOES_ON);
    }

    /// Ends both: what was written as ConfigMaps, and as keys.
    pub(crate) fn end(self) -> [Written; 2] {
        [self.config_maps.end(), self.keys.end()]
    }
}

/// The URL of the ConfigMaps at an API server.
pub(crate) fn config_maps_at(api: &str) -> String {
    format!("https://{api}/api/v1/namespaces/{NAMESPACE}/configmaps")
}

pub(crate) fn name(number: usize) -> String {
    format!("write-{number}")
}

/// The number of a ConfigMap; `None` if a writer has not made it.
pub(crate) fn number_of(name: &str) -> Option<usize> {
    name.strip_prefix("write-")?.parse().ok()
}

pub(crate) fn content(number: usize) -> String {
    format!("content of write {number}")
}

/// A key in base64, as etcd's gateway takes it. Sixteen letters and digits are the base64 of twelve bytes, so nothing has to be encoded;
/// the bytes have the order of the numbers.
pub(crate) fn key(number: usize) -> String {
    format!("failover{number:08}")
}

/// The value of a key, in base64.
pub(crate) fn value(number: usize) -> String {
    format!("valueNoX{number:08}")
}

fn config_maps(client: SharedClient, vip: &str) -> Background<Written> {
    let url = config_maps_at(vip);
    Background::start(Written::default(), move |note, ended| async move {
        let attempt = async |number: usize, tries: usize| -> Result<(), String> {
            let object = config_map(number).to_string();
            let answer = client.now().post(&url, object, AT_VIP).await?;
            match answer.status {
                201 => Ok(()),
                // An earlier attempt has made it, and its answer was lost.
                409 if tries > 1 => Ok(()),
                _ => Err(answer.told()),
            }
        };
        write(&note, ended, attempt).await;
    })
}

fn config_map(number: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name(number) },
        "data": { "content": content(number) },
    })
}

fn keys(client: SharedClient, members: Members) -> Background<Written> {
    Background::start(Written::default(), move |note, ended| async move {
        let attempt = async |number: usize, tries: usize| -> Result<(), String> {
            let member = {
                let members = lock(&members);
                members[(number + tries) % members.len()].clone()
            };
            let pair = json!({ "key": key(number), "value": value(number) }).to_string();
            let url = format!("{member}/v3/kv/put");
            let answer = client.now().post(&url, pair, AT_MEMBER).await;
            match answer.map_err(|why| format!("{member}: {why}"))? {
                answer if answer.status == 200 => Ok(()),
                answer => Err(format!("{member}: {}", answer.told())),
            }
        };
        write(&note, ended, attempt).await;
    })
}

/// Makes attempts, given the number and how many attempts there were for it with this one, until it is ended.
async fn write(
    note: &Mutex<Written>,
    mut ended: watch::Receiver<bool>,
    attempt: impl AsyncFn(usize, usize) -> Result<(), String>,
) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut number, mut tries) = (0, 0);
    loop {
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => return,
            _ = ticks.tick() => {}
        }
        tries += 1;
        let result = attempt(number, tries).await;
        let mut written = lock(note);
        match result {
            Ok(()) => {
                (number, tries) = (number + 1, 0);
                written.acknowledged = number;
            }
            Err(why) => {
                written.failed += 1;
                written.last_failure = format!("number {number}, attempt {tries}: {why}");
            }
        }
    }
}

#[test]
fn keys_are_base64_without_padding_and_in_the_order_of_their_numbers() {
    for number in [0, 9, 10, 12_345_678] {
        for text in [key(number), value(number)] {
            assert_eq!(text.len() % 4, 0, "{text}");
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
        assert!(key(number) < key(number + 1));
        assert_eq!(number_of(&name(number)), Some(number));
    }
    assert_eq!(number_of("kube-root-ca.crt"), None);
}
