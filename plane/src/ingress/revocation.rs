//! A revoked certificate loses what it has: the connections that are open, and the sessions that could be resumed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::files::{Files, TICKET_KEYS, ticket_key};
use super::master::{Master, Worker};
use crate::authority::Revoked;

/// Time for connections to end that were told to.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest list that is sent with a command, in bytes: HAProxy reads one into a buffer of 16 KiB.
const LONGEST_LIST: usize = 12_000;
/// After this time, the keys of session tickets have been replaced in any case: that is done each day.
const RECENT: Duration = Duration::from_secs(25 * 60 * 60);
/// Between two looks at them.
const PAUSE: Duration = Duration::from_millis(200);

/// What the running HAProxy has still to be told after a failure.
#[derive(Debug, Default)]
pub struct Owed {
    /// The list that the root has signed.
    list: bool,
    /// New keys of session tickets.
    ticket_keys: bool,
}

impl Owed {
    /// What a process before this one may have left: it may have ended after HAProxy knew the serial numbers, which is how a new one is told from others.
    #[must_use]
    pub fn at_start(revoked: &[Revoked], now: SystemTime) -> Self {
        // The time of the file says nothing: HAProxy is told after it is written. A time in the future is that of a clock which was set back.
        let is_recent = |its: &Revoked| now.duration_since(its.at).map_or(true, |ago| ago < RECENT);
        Self {
            list: true,
            ticket_keys: revoked.iter().any(is_recent),
        }
    }
}

/// Makes the running HAProxy refuse these certificates, and ends their connections. One failure keeps nothing else from being done.
///
/// # Errors
/// HAProxy does not answer or refuses, or connections stay open. Can be done again.
pub async fn apply(
    master: &Master,
    files: &Files,
    list: &str,
    revoked: &[Revoked],
    owed: &mut Owed,
) -> Result<()> {
    let mut errors = Vec::new();
    // Also a worker from before a reload: it completes handshakes that have begun.
    for worker in master.workers().await? {
        match refuse(master, worker, files, revoked).await {
            Ok(any_new) => {
                owed.list |= any_new;
                owed.ticket_keys |= any_new;
            }
            Err(error) => errors.push(error.context("make HAProxy refuse revoked certificates")),
        }
    }
    // A longer list does not fit into a command. A worker reads it when it starts; until then, the serial numbers are enough.
    if owed.list && list.len() < LONGEST_LIST {
        match send_list(master, files, list).await {
            Ok(()) => owed.list = false,
            Err(error) => {
                errors.push(error.context("give HAProxy the list of revoked certificates"))
            }
        }
    }
    if owed.ticket_keys {
        match rotate_ticket_keys(master, files).await {
            Ok(()) => owed.ticket_keys = false,
            Err(error) => errors.push(error.context("replace the keys of session tickets")),
        }
    }
    if let Err(error) = end_all(master, revoked).await {
        errors.push(error.context("end connections of revoked certificates"));
    }
    together(&errors)
}

/// All that has failed as one error.
///
/// # Errors
/// There is at least one.
pub(super) fn together(errors: &[anyhow::Error]) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = errors.iter().map(|error| format!("{error:#}")).collect();
    bail!("{}", all.join("; and could not "))
}

/// Ends the connections of these certificates, and waits until they have ended. HAProxy cannot end one of which the host has ended its own direction: then the worker that
/// has it is ended, because a host could otherwise go on with it for as long as the service sends.
async fn end_all(master: &Master, revoked: &[Revoked]) -> Result<()> {
    let serials: BTreeSet<&str> = revoked.iter().map(|its| its.serial.as_str()).collect();
    let mut left = Vec::new();
    let ended = async {
        loop {
            let mut with_some = Vec::new();
            for worker in master.workers().await? {
                let count = end(master, worker, &serials).await?;
                if count > 0 {
                    with_some.push((worker, count));
                }
            }
            left = with_some;
            if left.is_empty() {
                return anyhow::Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    if let Ok(ended) = tokio::time::timeout(LIMIT, ended).await {
        return ended;
    }
    if left.is_empty() {
        bail!("HAProxy does not name them within {} s", LIMIT.as_secs());
    }
    for (worker, _) in left {
        // The last look may have been cut short, and many connections take a while.
        let count = end(master, worker, &serials).await?;
        if count == 0 {
            continue;
        }
        let ended = master.end(worker).await;
        ended.with_context(|| {
            format!(
                "{count} are open after {} s; `systemctl restart haproxy` ends all connections",
                LIMIT.as_secs()
            )
        })?;
        tracing::warn!(
            "HAProxy could not end {count} connections of revoked certificates, so its worker {} was ended; other hosts had connections there, too, and connect again",
            worker.pid
        );
    }
    Ok(())
}

/// Tells a worker the serial numbers. Returns whether there was one that it did not refuse yet.
async fn refuse(
    master: &Master,
    worker: Worker,
    files: &Files,
    revoked: &[Revoked],
) -> Result<bool> {
    let serials = files.revoked_serials.display().to_string();
    let known = master.ask(worker, &format!("show acl {serials}")).await?;
    let known: BTreeSet<&str> = known
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    let new = revoked
        .iter()
        .filter(|its| !known.contains(its.serial.as_str()));
    let mut any_new = false;
    // At once, also for sessions that are resumed.
    for its in new {
        let add = format!("add acl {serials} {}", its.serial);
        master.tell(worker, &add, &[]).await?;
        any_new = true;
    }
    Ok(any_new)
}

async fn send_list(master: &Master, files: &Files, list: &str) -> Result<()> {
    let place = files.revoked.display();
    // An empty line ends it.
    let set = format!("set ssl crl-file {place} <<\n{}\n", list.trim_end());
    let begun = ["transaction created", "transaction updated"];
    let commit = format!("commit ssl crl-file {place}");
    for worker in present(master).await? {
        master.tell(worker, &set, &begun).await?;
        master.tell(worker, &commit, &["Success"]).await?;
    }
    Ok(())
}

async fn present(master: &Master) -> Result<Vec<Worker>> {
    let mut workers = master.workers().await?;
    workers.retain(|its| its.is_present);
    Ok(workers)
}

/// Replaces the keys of session tickets: a ticket from before cannot be used afterwards. The files have the new keys first.
///
/// # Errors
/// They cannot be written, or HAProxy does not take them.
pub async fn rotate_ticket_keys(master: &Master, files: &Files) -> Result<()> {
    let keys: Vec<String> = (0..TICKET_KEYS).map(|_| ticket_key()).collect();
    files.write_ticket_keys(&keys)?;
    let place = files.ticket_keys.display();
    for worker in present(master).await? {
        for key in &keys {
            let set = format!("set ssl tls-key {place} {key}");
            master
                .tell(worker, &set, &["TLS ticket key updated"])
                .await?;
        }
    }
    Ok(())
}

/// Ends the connections of these certificates, and returns how many there were. One that has lost its service does not count: what the service has sent before may still be on
/// its way to the host, which may have gone.
async fn end(master: &Master, worker: Worker, serials: &BTreeSet<&str>) -> Result<usize> {
    let table = master.ask(worker, "show table tls").await?;
    let (revoked, others): (Vec<_>, Vec<_>) =
        tracked(&table).partition(|(serial, _)| serials.contains(serial));
    let others: BTreeSet<&str> = others.into_iter().map(|(_, peer)| peer).collect();
    // Behind one address, hosts may have the same port at two addresses of the plane: such a connection is not ended, and counts as left.
    let (hidden, peers): (BTreeSet<&str>, BTreeSet<&str>) = revoked
        .into_iter()
        .map(|(_, peer)| peer)
        .partition(|peer| others.contains(peer));
    if peers.is_empty() {
        return Ok(hidden.len());
    }
    let sessions = master.ask(worker, "show sess").await?;
    let sessions = sessions_by_peer(&sessions);
    let found = peers.iter().filter_map(|its| sessions.get(its)).flatten();
    let found: Vec<(&str, bool)> = found.copied().collect();
    let mut ended = hidden.len();
    for (session, has_service) in found {
        let answer = master
            .ask(worker, &format!("shutdown session {session}"))
            .await?;
        // It may have ended by itself.
        if !answer.trim().is_empty() && !answer.contains("No such session") {
            bail!("HAProxy answers to `shutdown session`: {}", answer.trim());
        }
        ended += usize::from(has_service);
    }
    Ok(ended)
}

/// The open connections in the table: the serial number of the certificate, and the address with its port.
fn tracked(table: &str) -> impl Iterator<Item = (&str, &str)> {
    table.lines().filter_map(|line| {
        let word = |name| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(name))
        };
        // An entry outlives its connection.
        let is_open = word("use=").is_some_and(|count: &str| count != "0");
        word("key=").filter(|_| is_open)?.split_once('@')
    })
}

/// Sessions by the address of their client, and whether they may reach their service: it is connected, or was not yet. The same address may have several: at two addresses of the
/// plane, or one of a connection that has just ended.
fn sessions_by_peer(sessions: &str) -> BTreeMap<&str, Vec<(&str, bool)>> {
    let found = sessions.lines().filter_map(|line| {
        let (session, rest) = line.split_once(':')?;
        if !session.starts_with("0x") {
            return None;
        }
        let word = |name| {
            rest.split_whitespace()
                .find_map(|word| word.strip_prefix(name))
        };
        // The state of the side of the service, flags, and its socket.
        let has_lost_it = |side: &str| !side.starts_with("0,") && side.contains(",fd=-");
        let has_service = !word("scb=[").is_some_and(has_lost_it);
        Some((word("src=")?, (session, has_service)))
    });
    let mut by_peer = BTreeMap::<_, Vec<_>>::new();
    for (peer, session) in found {
        by_peer.entry(peer).or_default().push(session);
    }
    by_peer
}

#[cfg(test)]
mod tests {
    use bounds::{content, quickly};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_process_replaces_keys_after_a_recent_revocation() {
        let hour = Duration::from_secs(60 * 60);
        let now = SystemTime::now();
        let owed = Owed::at_start(&[], now);
        assert!(owed.list && !owed.ticket_keys);
        for (at, wanted) in [
            (now - hour * 26, false),
            (now - hour * 24, true),
            (now, true),
            (now + hour, true),
        ] {
            let revoked = |at| Revoked {
                serial: "41AB".to_owned(),
                at,
            };
            let owed = Owed::at_start(&[revoked(now - hour * 100), revoked(at)], now);
            assert!(owed.list);
            assert_eq!(owed.ticket_keys, wanted, "{at:?}");
        }
    }

    #[test]
    fn connections_are_found_by_their_certificate() {
        let table = "# table: tls, type: string, size:400, used:2\n\
            0x55: key=41AB@127.0.0.1:4000 use=1 exp=3600000 shard=0\n\
            0x56: key=42AB@::1:4001 use=1 exp=1000 shard=0\n\
            0x57: key=43AB@::1:4002 use=0 exp=1000 shard=0\n";
        let found: Vec<_> = tracked(table).collect();
        assert_eq!(found, [("41AB", "127.0.0.1:4000"), ("42AB", "::1:4001")]);
        let sessions = "0x7f1: proto=tcpv4 src=127.0.0.1:4000 fe=tls be=amqp srv=amqp ts=00 age=1s scf=[8,0h,fd=20] scb=[8,200h,fd=21] exp=1s\n\
            0x7f2: proto=unix_stream src=unix:1 fe=GLOBAL be=<NONE>\n\
            0x7f3: proto=tcpv6 src=::1:4001 fe=tls be=amqp scf=[8,0h,fd=20] scb=[10,200h,fd=-1] exp=1s\n\
            0x7f4: proto=tcpv6 src=::1:4002 fe=tls be=tls scf=[8,0h,fd=22] scb=[0,0h,fd=-1] exp=1s\n\
            0x7f5: proto=tcpv4 src=127.0.0.1:4000 fe=tls be=rest scf=[8,0h,fd=23] scb=[10,200h,fd=-1] exp=1s\n";
        let found = sessions_by_peer(sessions);
        assert_eq!(found["127.0.0.1:4000"], [("0x7f1", true), ("0x7f5", false)]);
        assert_eq!(found["unix:1"], [("0x7f2", true)]);
        assert_eq!(found["::1:4001"], [("0x7f3", false)]);
        assert_eq!(found["::1:4002"], [("0x7f4", true)]);
        assert!(sessions_by_peer("").is_empty());
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(answer in "(?s).{0,400}", line in "(0x|key=|use=|src=|[0-9a-f:@ ]){0,40}") {
            for text in [&answer, &line] {
                tracked(text).count();
                sessions_by_peer(text);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// As long as one about a thousand sessions.
        #[test]
        fn a_long_answer_is_read_quickly(
            answer in content(256 * 1024, &[
                "0x7f1:", "0x", " key=41AB@127.0.0.1:4000", " key=", " use=1", " src=::1:4001",
                " scb=[8,200h,fd=-1]", " scb=[", "@", ":", " ", "\n", "\t",
            ]),
        ) {
            let answer = String::from_utf8_lossy(&answer);
            quickly(|| tracked(&answer).count());
            quickly(|| sessions_by_peer(&answer).len());
        }
    }
}
