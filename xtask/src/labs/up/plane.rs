//! `cargo xtask up --plane`: a management plane with real servers, and a host that is enrolled there. What exists already is installed again.

use std::time::Instant;

use anyhow::Result;
use lab::package::{COMMS, PLANE, enrol, install_comms, install_plane, push_image};
use lab::{Host, HostSpec, Image, Lab, Setup};

use crate::nodelet::{self, Profile};
use crate::repository::checkout;

/// The hosts of such a lab.
const SERVER: &str = "plane";
const HOST: &str = "host-1";
/// The image in the registry.
const PUSHED: &str = "toolbox:1";

/// Brings it up and says what to try.
pub(super) fn run(name: &str, setup: &Setup, began: Instant) -> Result<()> {
    let programs = nodelet::build_of_plane(Profile::Dev)?;
    let lab = match Lab::exists(&setup.cache, name) {
        true => Lab::open(&setup.cache, name)?,
        false => {
            let spec = |name: &str, image| HostSpec {
                name: name.to_owned(),
                image,
            };
            let specs = [spec(SERVER, Image::Plane), spec(HOST, Image::Bare)];
            Lab::create(&setup.cache, name, &specs, &[])?
        }
    };
    let (server, host) = (lab.host(SERVER)?, lab.host(HOST)?);
    for its in [&server, &host] {
        its.ensure_running()?;
    }
    let done = |what: &str| println!("{what} after {:.0} s.", began.elapsed().as_secs_f64());
    done("Hosts run");
    install_plane(&server, checkout(), &programs)?;
    done("HAProxy, RabbitMQ, the registry, Keystone, nginx and planectl run");
    install_comms(&host, &server, checkout(), &programs)?;
    enrol(&host, &server)?;
    push_image(&server, &setup.toolbox, PUSHED)?;
    done("The host is enrolled");
    explain(&lab, &server, &host);
    Ok(())
}

fn explain(lab: &Lab, server: &Host, host: &Host) {
    let shell = |host: &Host| {
        format!(
            "cargo xtask shell --lab {} --host {} --",
            lab.name(),
            host.name()
        )
    };
    println!(
        "
The plane {PLANE} is `{}` ({}); `{}` is enrolled there. To try:

  {on_host} {COMMS} status
  {on_host} curl http://localhost:9080/whoami
  {on_host} docker pull localhost:5001/{PUSHED}
  {on_host} curl http://localhost:8158/v3
  {on_server} runuser -u pf9-plane -- /opt/pf9/plane/planectl host list
  {on_server} runuser -u pf9-plane -- /opt/pf9/plane/planectl host revoke {name}
  cargo xtask down --lab {lab}",
        server.name(),
        server.address(),
        host.name(),
        on_host = shell(host),
        on_server = shell(server),
        name = host.name(),
        lab = lab.name(),
    );
}
