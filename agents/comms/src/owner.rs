//! Which local user has made a connection, and which program has a port.
//!
//! The kernel answers the first question over netlink: `sock_diag(7)`, `linux/inet_diag.h`. It needs no privilege.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::{Uid, User};

/// `SOCK_DIAG_BY_FAMILY`, the type of the question and of its answer.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`, the type of an answer without a socket.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// The length of the question: `struct nlmsghdr` and `struct inet_diag_req_v2`.
const LENGTH: usize = 72;
/// States of a connection whose program may still have it: `TCP_ESTABLISHED`, `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2`, `TCP_CLOSE_WAIT`, `TCP_LAST_ACK` and
/// `TCP_CLOSING`. Its program may have ended the direction to us already.
const CONNECTED: [u8; 6] = [1, 4, 5, 8, 9, 11];
/// Longest wait for the kernel, in seconds.
const WAIT: i64 = 1;
/// Most processes of a user that are named: with more, the list would hardly help.
const MOST_NAMED: usize = 3;

/// The id of the user whose socket is connected from `client` to `server` on this host; `None` if there is no such connection any more.
///
/// # Errors
/// The kernel does not answer the question.
pub fn of_connection(client: SocketAddr, server: SocketAddr) -> io::Result<Option<u32>> {
    let asking = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    setsockopt(&asking, ReceiveTimeout, &TimeVal::seconds(WAIT))?;
    send(
        asking.as_raw_fd(),
        &question(client, server),
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 512];
    let length = recv(asking.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    user_in(&answer[..length])
}

/// The question for the socket with `client` as its own address.
fn question(client: SocketAddr, server: SocketAddr) -> [u8; LENGTH] {
    let mut asked = [0; LENGTH];
    let mut put = |at: usize, bytes: &[u8]| asked[at..at + bytes.len()].copy_from_slice(bytes);
    // struct nlmsghdr
    put(0, &u32::try_from(LENGTH).unwrap_or_default().to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &REQUEST.to_ne_bytes());
    // struct inet_diag_req_v2: family and protocol, then all states
    let family = match client {
        SocketAddr::V4(_) => nix::libc::AF_INET,
        SocketAddr::V6(_) => nix::libc::AF_INET6,
    };
    put(16, &[u8::try_from(family).unwrap_or_default()]);
    put(
        17,
        &[u8::try_from(nix::libc::IPPROTO_TCP).unwrap_or_default()],
    );
    put(20, &u32::MAX.to_ne_bytes());
    // struct inet_diag_sockid: ports, addresses, no interface, and any cookie
    put(24, &client.port().to_be_bytes());
    put(26, &server.port().to_be_bytes());
    for (at, address) in [(28, client.ip()), (44, server.ip())] {
        match address {
            IpAddr::V4(address) => put(at, &address.octets()),
            IpAddr::V6(address) => put(at, &address.octets()),
        }
    }
    put(64, &[u8::MAX; 8]);
    asked
}

/// The user in the kernel's answer: `struct nlmsghdr` and `struct inet_diag_msg`.
fn user_in(answer: &[u8]) -> io::Result<Option<u32>> {
    let short = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel's answer is too short",
        )
    };
    let four = |at: usize| -> io::Result<[u8; 4]> {
        let bytes = answer
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(short)
    };
    let [kind, kind_high, _, _] = four(4)?;
    match u16::from_ne_bytes([kind, kind_high]) {
        ERROR => match Errno::from_raw(-i32::from_ne_bytes(four(16)?)) {
            Errno::ENOENT => Ok(None),
            error => Err(error.into()),
        },
        BY_FAMILY => {
            let [_, state, _, _] = four(16)?;
            let (user, inode) = (u32::from_ne_bytes(four(80)?), u32::from_ne_bytes(four(84)?));
            // A listener may answer in place of a connection that is gone, and a closed socket has no user.
            Ok((CONNECTED.contains(&state) && inode != 0).then_some(user))
        }
        other => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the kernel answers with message {other}"),
        )),
    }
}

/// Who listens on a local address: the program with its process id. If the caller may not see which one it is: its user, the processes of that user if they are few, and how root finds it.
/// `None` if nothing is known.
#[must_use]
pub fn of_address(address: SocketAddr) -> Option<String> {
    let (inode, uid) = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| {
            let text = fs::read_to_string(table).ok()?;
            text.lines()
                .skip(1)
                .find_map(|line| listening(line, address))
        })?;
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let has_it = |process: &fs::DirEntry| {
        let open = fs::read_dir(process.path().join("fd"));
        let mut open = open.into_iter().flatten().flatten();
        open.any(|file| {
            fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())
        })
    };
    let found = processes
        .filter(|its| {
            its.file_name()
                .to_string_lossy()
                .starts_with(|c: char| c.is_ascii_digit())
        })
        .find(has_it);
    Some(match found {
        Some(process) => {
            let program = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!(
                "{} (process {})",
                printable(program.trim()),
                process.file_name().to_string_lossy()
            )
        }
        None => unseen(uid, address.port(), Path::new("/proc")),
    })
}

/// A program of this user that listens on a port, if it cannot be seen which one it is. The directory has the processes (proc(5)).
fn unseen(uid: u32, port: u16, directory: &Path) -> String {
    let user = name(uid);
    let program = match processes_of(uid, directory) {
        Some(processes) => format!("one of the processes of {user} ({processes})"),
        None => format!("a program of {user}"),
    };
    format!("{program}, which root sees with `ss -ltnp 'sport = :{port}'`,")
}

/// The processes of a user with their ids, in the directory of processes (proc(5)): only the user itself and root may see which descriptors a process has, but
/// every user may see its name. `None` if there is none, or more than [`MOST_NAMED`].
fn processes_of(uid: u32, directory: &Path) -> Option<String> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    let mut found: Vec<(u32, String)> = entries
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse::<u32>().ok()?;
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let (program, user) = process_in(&status)?;
            (user == uid).then(|| (id, printable(program)))
        })
        .collect();
    if found.is_empty() || found.len() > MOST_NAMED {
        return None;
    }
    found.sort_unstable();
    let named = found.iter().map(|(id, program)| format!("{program} {id}"));
    Some(named.collect::<Vec<_>>().join(", "))
}

/// Name and effective user in the file `status` of a process (proc(5)); `None` for a thread of the kernel, which has no memory.
fn process_in(status: &str) -> Option<(&str, u32)> {
    let field = |name: &'static str| {
        let mut lines = status.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    field("VmSize")?;
    let user = field("Uid")?.split_whitespace().nth(1)?;
    Some((field("Name")?.trim(), user.parse().ok()?))
}

/// A name that a program has given itself, for the log and for terminals.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).collect()
}

/// Inode and user of a line of `/proc/net/tcp` or `/proc/net/tcp6` (proc(5)) if it is a listener that has this address, or all of its kind.
fn listening(line: &str, wanted: SocketAddr) -> Option<(u64, u32)> {
    let mut fields = line.split_whitespace();
    let (address, port) = fields.nth(1)?.rsplit_once(':')?;
    let has_port = u16::from_str_radix(port, 16) == Ok(wanted.port());
    let is_listener = fields.nth(1)? == "0A";
    let (uid, inode) = (fields.nth(3)?, fields.nth(1)?);
    let has_address = || {
        holders(wanted.ip())
            .iter()
            .any(|its| in_table(*its) == address)
    };
    let found = has_port && is_listener && has_address();
    found.then_some((inode.parse().ok()?, uid.parse().ok()?))
}

/// The addresses whose listener has this address, too.
fn holders(address: IpAddr) -> Vec<IpAddr> {
    let all = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    match address {
        // A socket of IPv6 may have an address of IPv4 (RFC 4291, section 2.5.5.2), as those of Java do.
        IpAddr::V4(its) => vec![
            address,
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(its.to_ipv6_mapped()),
            IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()),
            all,
        ],
        // 0.0.0.0 is no address of IPv6.
        IpAddr::V6(_) => vec![address, all],
    }
}

/// An address as these tables have it: words of four bytes in the order of this machine.
fn in_table(address: IpAddr) -> String {
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let words = bytes.as_chunks::<4>().0.iter();
    words
        .map(|word| format!("{:08X}", u32::from_ne_bytes(*word)))
        .collect()
}

/// Checks that the kernel tells the user of a connection.
///
/// # Errors
/// It does not.
pub fn check() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let server = listener.local_addr()?;
    let stream = TcpStream::connect(server)?;
    match of_connection(stream.local_addr()?, server)? {
        Some(uid) if uid == Uid::effective().as_raw() => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel does not know a connection that was just made; load its modules `inet_diag` and `tcp_diag`",
        )),
    }
}

/// The name of a user, or its id. It may ask a directory service, and wait for it.
fn name(uid: u32) -> String {
    let found = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    found.map_or_else(|| format!("user {uid}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use bounds::{content, quickly};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_connection_has_the_user_who_made_it() {
        let own = nix::unistd::geteuid().as_raw();
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let Ok(listener) = TcpListener::bind((address, 0)) else {
                // A host without IPv6.
                assert!(address.is_ipv6());
                continue;
            };
            let server = listener.local_addr().expect("its address");
            let stream = TcpStream::connect(server).expect("it connects");
            let client = stream.local_addr().expect("its address");
            let _accepted = listener.accept().expect("it is accepted");
            assert_eq!(
                of_connection(client, server).expect("the kernel answers"),
                Some(own)
            );
            // It has no more to say, and still waits for an answer.
            stream
                .shutdown(std::net::Shutdown::Write)
                .expect("it ends one direction");
            let found = of_connection(client, server).expect("the kernel answers");
            assert_eq!(found, Some(own));
            let other = SocketAddr::new(address, client.port().wrapping_add(1).max(1));
            assert_eq!(
                of_connection(other, server).expect("the kernel answers"),
                None
            );
        }
    }

    #[test]
    fn an_address_has_the_program_that_listens() {
        // An address of this test alone: other tests use ports of 127.0.0.1.
        for own in ["127.77.1.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(own) else {
                assert!(own.starts_with('['), "{own}");
                continue;
            };
            let address = listener.local_addr().expect("its address");
            let found = of_address(address).expect("it is known");
            let process = format!("(process {})", std::process::id());
            assert!(found.contains(&process), "{found}");
            let other = SocketAddr::new([127, 77, 1, 2].into(), address.port());
            assert_eq!(of_address(other), None);
        }
        check().expect("the kernel tells");
    }

    #[test]
    fn a_listener_has_its_address_and_those_that_it_stands_for() {
        let named = |address: &str| -> SocketAddr { address.parse().expect("an address") };
        // As a machine with the low byte first writes them.
        let all = "0".repeat(32);
        let mapped = |address: &str| format!("0000000000000000FFFF0000{address}");
        let (mapped_one, mapped_all) = (mapped("0100007F"), mapped("00000000"));
        for (table, wanted, has_it) in [
            ("0100007F", "127.0.0.1:5672", true),
            ("0100007F", "127.0.0.2:5672", false),
            ("0100007F", "127.0.0.1:5673", false),
            ("00000000", "127.0.0.1:5672", true),
            // Both may listen at the same time.
            ("00000000", "[::1]:5672", false),
            (&all, "127.0.0.1:5672", true),
            (&all, "[::1]:5672", true),
            (&mapped_one, "127.0.0.1:5672", true),
            (&mapped_all, "127.0.0.1:5672", true),
            (&mapped_one, "[::1]:5672", false),
        ] {
            let line = format!("0: {table}:1628 0:0 0A 0:0 00:0 0 112 0 4711 1");
            let found = listening(&line, named(wanted));
            assert_eq!(found, has_it.then_some((4711, 112)), "{table} {wanted}");
        }
    }

    #[test]
    fn a_listener_of_ipv6_with_an_address_of_ipv4_is_found() {
        // An address of this test alone. A host without IPv6 has no such listener.
        let Ok(listener) = TcpListener::bind("[::ffff:127.77.1.3]:0") else {
            return;
        };
        let port = listener.local_addr().expect("its address").port();
        let found = of_address(SocketAddr::new([127, 77, 1, 3].into(), port));
        let process = format!("(process {})", std::process::id());
        assert!(found.expect("it is known").contains(&process));
    }

    #[test]
    fn processes_of_a_user_are_named_if_their_descriptors_cannot_be_seen() {
        let directory = tempfile::tempdir().expect("a directory");
        let process = |id: &str, status: &str| {
            let place = directory.path().join(id);
            fs::create_dir(&place).expect("it is made");
            fs::write(place.join("status"), status).expect("it is written");
        };
        let program = |name: &str| format!("Name:\t{name}\nUid:\t0\t112\t0\t0\nVmSize:\t 9 kB\n");
        let named = |uid| processes_of(uid, directory.path());
        assert_eq!(named(112), None);
        process("812", &program("beam.smp"));
        process("90", &program("ep\u{1b}md"));
        process("2", "Name:\tkthreadd\nUid:\t112\t112\t112\t112\n");
        process("self", &program("another name of one"));
        process("3", "");
        assert_eq!(named(112).as_deref(), Some("epmd 90, beam.smp 812"));
        assert_eq!(named(0), None);
        let user = name(112);
        let said = || unseen(112, 5672, directory.path());
        let root = "which root sees with `ss -ltnp 'sport = :5672'`,";
        process("1000", &program("erl_child_setup"));
        assert_eq!(
            said(),
            format!(
                "one of the processes of {user} (epmd 90, beam.smp 812, erl_child_setup 1000), {root}"
            )
        );
        // None of so many is more likely than another.
        process("1001", &program("inet_gethost"));
        assert_eq!(said(), format!("a program of {user}, {root}"));
        // This process has such a file, too.
        let own = fs::read_to_string("/proc/self/status").expect("it is there");
        let (_, user) = process_in(&own).expect("it is read");
        assert_eq!(user, nix::unistd::geteuid().as_raw());
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error() {
        let mut answer = [0; 88];
        answer[4] = 20;
        answer[17] = 1;
        answer[80] = 7;
        answer[84] = 1;
        assert_eq!(user_in(&answer).expect("it is whole"), Some(7));
        for length in 0..answer.len() {
            user_in(&answer[..length]).expect_err("it is cut off");
        }
        answer[17] = 10;
        assert_eq!(user_in(&answer).expect("it is whole"), None);
    }

    proptest! {
        #[test]
        fn what_the_kernel_says_is_read_or_refused(
            mut answer in proptest::collection::vec(any::<u8>(), 0..600),
            kind in prop_oneof![Just(BY_FAMILY), Just(ERROR), any::<u16>()],
        ) {
            let _ = quickly(|| user_in(&answer));
            if let Some(place) = answer.get_mut(4..6) {
                place.copy_from_slice(&kind.to_ne_bytes());
            }
            let _ = quickly(|| user_in(&answer));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_table_of_connections_and_the_status_of_a_process_may_be_any_text(
            text in content(64 * 1024, &[
                "0: ", "0100007F:1F90 ", "00000000:0000 ", "0A ", "0 ", "\n", "\t", ":",
                "VmSize:", "Uid:", "Name:", "99999999999999999999 ",
            ]),
        ) {
            let text = String::from_utf8_lossy(&text);
            let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
            quickly(|| {
                for line in text.lines() {
                    let _ = listening(line, wanted);
                }
                let _ = process_in(&text);
            });
        }
    }
}
