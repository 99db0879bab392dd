//! Tells when the network of this host changes: an address, a route, or the state of a link.
//!
//! The kernel says so over netlink (`rtnetlink(7)`, multicast groups). It needs no privilege.

use std::io;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::libc::{
    RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE, RTMGRP_LINK,
};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket,
};
use tokio::net::UnixDatagram;
use tokio::sync::watch;

/// What is listened to.
const GROUPS: [i32; 5] = [
    RTMGRP_LINK,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
];
/// The content of a message is not read.
const SCRATCH: usize = 256;

/// A number that changes with each change of the network. Must run within a tokio runtime.
///
/// # Errors
/// The kernel does not tell.
pub fn changes() -> io::Result<watch::Receiver<u64>> {
    let told = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkRoute,
    )?;
    let groups = GROUPS.iter().fold(0, |all, its| all | its);
    bind(
        told.as_raw_fd(),
        &NetlinkAddr::new(0, u32::try_from(groups).unwrap_or_default()),
    )?;
    // To receive is the same for all sockets of datagrams.
    let told = UnixDatagram::from_std(told.into())?;
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        // Ends with its last reader.
        tokio::select! {
            () = sender.closed() => {}
            () = pass_on(&told, &sender) => {}
        }
    });
    Ok(receiver)
}

async fn pass_on(told: &UnixDatagram, sender: &watch::Sender<u64>) {
    let mut scratch = [0; SCRATCH];
    loop {
        match told.recv(&mut scratch).await {
            Ok(_) => {}
            // More has changed than the kernel keeps messages of.
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
            Err(error) => {
                tracing::warn!("could not hear of changes of the network any more: {error}");
                return;
            }
        }
        sender.send_modify(|count| *count += 1);
    }
}
