//! Virtual services of the running kernel: read from /proc, removed through generic netlink (family `IPVS`,
//! `include/uapi/linux/ip_vs.h`), for which no program needs to be installed.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use neli::consts::genl::{Cmd, NlAttrType};
use neli::consts::nl::NlmF;
use neli::consts::socket::NlFamily;
use neli::genl::{
    AttrTypeBuilder, Genlmsghdr, GenlmsghdrBuilder, Nlattr, NlattrBuilder, NoUserHeader,
};
use neli::neli_enum;
use neli::nl::{NlPayload, Nlmsghdr};
use neli::router::synchronous::NlRouter;
use neli::types::{Buffer, GenlBuffer};
use neli::utils::Groups;

use crate::host::live::LiveHost;
use crate::host::live::blocking::{blocking, within};
use crate::host::live::files;
use crate::host::{HostError, HostResult, VirtualService};

/// More than ten thousand services with their servers.
const MAX: u64 = 16 * 1024 * 1024;
/// The kernel answers at once.
const DEADLINE: Duration = Duration::from_secs(10);
const VERSION: u8 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Commands of the family.
#[neli_enum(serialized_type = "u8")]
enum Command {
    RemoveService = 3,
}
impl Cmd for Command {}

/// Attributes of a command.
#[neli_enum(serialized_type = "u16")]
enum CommandAttribute {
    Service = 1,
}
impl NlAttrType for CommandAttribute {}

/// Attributes of a service.
#[neli_enum(serialized_type = "u16")]
enum ServiceAttribute {
    Family = 1,
    Protocol = 2,
    Address = 3,
    Port = 4,
}
impl NlAttrType for ServiceAttribute {}

impl LiveHost {
    /// All virtual services; none where the kernel has no IPVS.
    pub(in crate::host::live) async fn listed_services(&self) -> HostResult<Vec<VirtualService>> {
        let listed = blocking(|| files::read(Path::new("/proc/net/ip_vs"), MAX)).await?;
        let listed = listed.unwrap_or_default();
        VirtualService::listed(&String::from_utf8_lossy(&listed)).map_err(|line| {
            HostError::service(
                "list the kernel's virtual services",
                format!("/proc/net/ip_vs has a line that cannot be read: `{line}`"),
            )
        })
    }

    /// Removes one; fine if it is gone.
    pub(in crate::host::live) async fn remove_service(
        &self,
        service: &VirtualService,
    ) -> HostResult<()> {
        let action = || format!("remove the virtual service {service}");
        let wanted = service.clone();
        let removal = blocking(move || {
            remove(&wanted).map_err(|error| {
                HostError::service(format!("remove the virtual service {wanted}"), error)
            })
        });
        match within(DEADLINE, action, removal).await {
            Err(_) if !self.listed_services().await?.contains(service) => Ok(()),
            result => result,
        }
    }
}

/// Any error of a request to the kernel: the library has a type for each kind of request.
type NetlinkError = Box<dyn std::error::Error + Send + Sync>;

fn remove(service: &VirtualService) -> Result<(), NetlinkError> {
    let (router, _) = NlRouter::connect(NlFamily::Generic, None, Groups::empty())?;
    let family = router
        .resolve_genl_family("IPVS")
        .map_err(|error| error.to_string())?;
    let nested = nested(service)?;
    let attributes = GenlBuffer::from_iter([nested]);
    let message = GenlmsghdrBuilder::<Command, CommandAttribute, NoUserHeader>::default()
        .cmd(Command::RemoveService)
        .version(VERSION)
        .attrs(attributes)
        .build()?;
    let answers = router
        .send::<_, _, u16, Genlmsghdr<Command, CommandAttribute>>(
            family,
            NlmF::ACK,
            NlPayload::Payload(message),
        )
        .map_err(|error| error.to_string())?;
    for answer in answers {
        // A refusal of the kernel's is an error here.
        let _: Nlmsghdr<u16, Genlmsghdr<Command, CommandAttribute>> =
            answer.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The attributes that identify the service. The kernel wants an IPv4 address padded to the length of an IPv6 address.
fn nested(service: &VirtualService) -> Result<Nlattr<CommandAttribute, Buffer>, NetlinkError> {
    let mut nested = attribute(CommandAttribute::Service, Vec::<u8>::new())?;
    let mut say = |kind, value: &[u8]| -> Result<(), NetlinkError> {
        nested = nested.clone().nest(&attribute(kind, value.to_vec())?)?;
        Ok(())
    };
    let (family, address) = match service.at.ip() {
        IpAddr::V4(four) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&four.octets());
            (AF_INET, bytes)
        }
        IpAddr::V6(six) => (AF_INET6, six.octets()),
    };
    let transport = u16::from(service.transport.number());
    say(ServiceAttribute::Family, &family.to_ne_bytes())?;
    say(ServiceAttribute::Protocol, &transport.to_ne_bytes())?;
    say(ServiceAttribute::Address, &address)?;
    say(ServiceAttribute::Port, &service.at.port().to_be_bytes())?;
    Ok(nested)
}

fn attribute<K: NlAttrType>(kind: K, value: Vec<u8>) -> Result<Nlattr<K, Buffer>, NetlinkError> {
    let kind = AttrTypeBuilder::default().nla_type(kind).build()?;
    Ok(NlattrBuilder::default()
        .nla_type(kind)
        .nla_payload(Buffer::from(value))
        .build()?)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use neli::ToBytes;

    use super::*;
    use crate::host::Transport;

    /// As `ipvsadm` writes it: each attribute with its length and type, padded to four bytes.
    #[test]
    fn a_service_is_named_as_the_kernel_reads_it() {
        let bytes = |service: &VirtualService| {
            let mut bytes = Cursor::new(Vec::new());
            nested(service).unwrap().to_bytes(&mut bytes).unwrap();
            bytes.into_inner()
        };
        let service = |at: &str| VirtualService {
            transport: Transport::Tcp,
            at: at.parse().unwrap(),
        };
        let mut wanted = vec![48, 0, 1, 0x80];
        wanted.extend([6, 0, 1, 0, 2, 0, 0, 0]);
        wanted.extend([6, 0, 2, 0, 6, 0, 0, 0]);
        wanted.extend([20, 0, 3, 0, 10, 21, 0, 1]);
        wanted.extend([0; 12]);
        wanted.extend([6, 0, 4, 0, 0x01, 0xbb, 0, 0]);
        assert_eq!(bytes(&service("10.21.0.1:443")), wanted);
        let six = bytes(&service("[fd00::a]:443"));
        assert_eq!(six[8], 10, "AF_INET6");
        assert_eq!(
            six[24..40],
            [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]
        );
    }
}
