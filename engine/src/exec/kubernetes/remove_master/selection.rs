//! Finds the member of etcd that an operator has named: by its name, by the address of its host, or by its hexadecimal id. A learner that
//! never started has no name.

use std::net::IpAddr;

use crate::host::{EtcdMember, HostError, HostResult};
use crate::kubernetes::join_file::is_node_name;
use crate::kubernetes::masters::{MasterEntry, address_in};

/// The member that `text` names; `None` if there is none. A name comes first, because a name may look like an address or an id.
///
/// # Errors
/// Two members have this name.
pub(super) fn selected<'m>(
    text: &str,
    members: &'m [EtcdMember],
) -> HostResult<Option<&'m EtcdMember>> {
    let mut named = members.iter().filter(|member| member.name == text);
    let Some(first) = named.next() else {
        let mut members = members.iter();
        return Ok(members.find(|its| has_address(text, its) || is_id(text, its.id)));
    };
    match named.next() {
        None => Ok(Some(first)),
        Some(second) => Err(HostError::refused(
            format!("remove {text}"),
            format!(
                "members {:x} and {:x} of etcd have this name: use the id of the wrong one",
                first.id, second.id
            ),
        )),
    }
}

/// The member without a name at one of these addresses of a Node: a master whose disk was emptied has joined again, and has not started etcd
/// since.
pub(super) fn nameless_at<'m>(
    addresses: &[IpAddr],
    members: &'m [EtcdMember],
) -> Option<&'m EtcdMember> {
    let mut nameless = members.iter().filter(|member| member.name.is_empty());
    nameless.find(|member| {
        let mut urls = member.peer_urls.iter();
        urls.any(|url| address_in(url).is_some_and(|address| addresses.contains(&address)))
    })
}

/// The name of the node that belongs to what was named; `None` if there can be none, or if another member has the same name.
pub(super) fn node_name<'a>(
    text: &'a str,
    found: Option<&'a EtcdMember>,
    members: &[EtcdMember],
) -> Option<&'a str> {
    let name = match found {
        Some(member) if !member.name.is_empty() => member.name.as_str(),
        Some(_) | None => text,
    };
    (is_node_name(name) && !is_shared(name, members)).then_some(name)
}

/// Whether two members have this name.
pub(super) fn is_shared(name: &str, members: &[EtcdMember]) -> bool {
    members.iter().filter(|its| its.name == name).count() > 1
}

/// Whether `text` names this master of the list on this host.
pub(super) fn is_entry(text: &str, entry: &MasterEntry) -> bool {
    entry.name == text
        || text.parse() == Ok(entry.address)
        || entry.etcd_id.is_some_and(|id| is_id(text, id))
}

fn has_address(text: &str, member: &EtcdMember) -> bool {
    let address: Option<IpAddr> = text.parse().ok();
    let mut urls = member.peer_urls.iter();
    address.is_some() && urls.any(|url| address_in(url) == address)
}

/// Whether `text` is this id, as `nodelet etcd members` prints it.
fn is_id(text: &str, id: u64) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit()) && u64::from_str_radix(text, 16) == Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, host: &str) -> EtcdMember {
        EtcdMember {
            id,
            name: name.to_owned(),
            peer_urls: vec![format!("https://{host}:2380")],
            client_urls: Vec::new(),
            learner: name.is_empty(),
        }
    }

    fn found(text: &str, members: &[EtcdMember]) -> Option<u64> {
        let found = selected(text, members).expect("no name is there twice");
        found.map(|member| member.id)
    }

    #[test]
    fn a_name_comes_before_an_address_and_an_id() {
        let members = [
            member(0xcafe, "m-1", "172.30.0.11"),
            member(2, "cafe", "172.30.0.12"),
            member(0x91bc_3c39_8fb3_c146, "", "[fd00::13]"),
        ];
        for (text, id) in [
            ("m-1", Some(0xcafe)),
            ("cafe", Some(2)),
            ("172.30.0.11", Some(0xcafe)),
            ("fd00::13", Some(0x91bc_3c39_8fb3_c146)),
            ("91bc3c398fb3c146", Some(0x91bc_3c39_8fb3_c146)),
            ("2", Some(2)),
            ("+2", None),
            ("172.30.0.1", None),
            ("m-3", None),
        ] {
            assert_eq!(found(text, &members), id, "{text}");
        }
    }

    #[test]
    fn only_a_member_without_a_name_belongs_to_the_address_of_a_node() {
        let members = [
            member(11, "m-1", "172.30.0.11"),
            member(12, "", "172.30.0.12"),
            member(13, "", "[fd00::13]"),
        ];
        let found = |addresses: &[&str]| {
            let parse = |text: &&str| text.parse().expect("an address");
            let addresses: Vec<IpAddr> = addresses.iter().map(parse).collect();
            nameless_at(&addresses, &members).map(|member| member.id)
        };
        assert_eq!(found(&["172.30.0.12"]), Some(12));
        assert_eq!(found(&["172.30.0.14", "fd00::13"]), Some(13));
        assert_eq!(found(&["172.30.0.11"]), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn a_name_that_two_members_have_leads_to_neither_of_them() {
        let members = [
            member(10, "m-1", "172.30.0.11"),
            member(11, "m-1", "172.30.0.12"),
        ];
        let refused = selected("m-1", &members).expect_err("both have it");
        let said = crate::model::chain(&refused).join(": ");
        assert!(said.contains("members a and b"), "{said}");
        // The node stays: it may be the other one's.
        assert_eq!(found("b", &members), Some(11));
        assert_eq!(node_name("b", members.last(), &members), None);
        assert_eq!(node_name("a", members.first(), &members[..1]), Some("m-1"));
    }
}
