//! A lab with a management plane, and hosts with pf9-comms. `paths` is how these reach the plane, `services` what they do there, `refusals` what they cannot do, and
//! `status` what pf9-comms says about it.

pub mod paths;
pub mod refusals;
pub mod services;
pub mod status;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use lab::package::{install_comms, install_plane};
use lab::{Cache, Host, HostSpec, Image, Lab, Suites};

use crate::master::commands;

/// Until something is seen.
const SEEN: Duration = Duration::from_secs(60);
/// The host of the plane.
const SERVER: &str = "plane";

/// A lab with a plane that runs, and these hosts beside it, which have pf9-comms and are not enrolled. The lab is removed with this value.
#[derive(Debug)]
pub struct Planes {
    lab: Lab,
    suites: Suites,
}

impl Planes {
    /// Makes the lab. `others` are hosts without pf9-comms.
    ///
    /// # Panics
    /// A host or a service does not come up.
    #[must_use]
    pub fn create(name: &str, hosts: &[(&str, Image)], others: &[(&str, Image)]) -> Self {
        let suites = Suites::from_environment().expect("the environment of a run");
        let cache = Cache::locate().expect("the cache has a place");
        let server = (SERVER, Image::Plane);
        let specs: Vec<HostSpec> = std::iter::once(&server)
            .chain(hosts)
            .chain(others)
            .map(|(name, image)| HostSpec {
                name: (*name).to_owned(),
                image: *image,
            })
            .collect();
        let name = format!("{}-{name}", suites.run);
        let lab = Lab::create(&cache, &name, &specs, &[]).expect("the lab comes up");
        let planes = Self { lab, suites };
        let (server, checkout) = (planes.server(), checkout());
        install_plane(&server, &checkout, planes.programs()).expect("the plane comes up");
        for (name, _) in hosts {
            let put = install_comms(&planes.host(name), &server, &checkout, planes.programs());
            put.expect("pf9-comms is installed");
        }
        planes
    }

    /// A host of the lab.
    #[must_use]
    pub fn host(&self, name: &str) -> Host {
        self.lab.host(name).expect("it is there")
    }

    /// The host of the plane.
    #[must_use]
    pub fn server(&self) -> Host {
        self.host(SERVER)
    }

    /// The directory with the programs under test.
    #[must_use]
    pub fn programs(&self) -> &Path {
        self.suites.nodelet.parent().expect("a directory")
    }

    /// The workload image, a file for `docker load`.
    #[must_use]
    pub fn toolbox(&self) -> &Path {
        &self.suites.toolbox
    }

    /// Runs `planectl`.
    #[track_caller]
    #[must_use]
    pub fn planectl(&self, arguments: &str) -> String {
        let words = format!("runuser -u pf9-plane -- /opt/pf9/plane/planectl {arguments}");
        sh(&self.server(), &words)
    }

    /// The id of an enrolled host.
    #[must_use]
    pub fn id(&self, name: &str) -> String {
        let hosts = self.planectl("host list");
        let line = hosts.lines().find(|line| line.contains(name));
        let id = line.and_then(|line| line.split_whitespace().next());
        id.expect("it is enrolled").to_owned()
    }

    /// Puts an example of a crate on a host, if it is not there.
    pub fn put_example(&self, host: &Host, name: &str) {
        let place = format!("/usr/local/bin/{name}");
        let is_there = commands::try_sh(host, &format!("test -x {place}"));
        if is_there.status.success() {
            return;
        }
        let program = self.programs().join("examples").join(name);
        let put = host.put_file(&program, &place, 0o755);
        put.expect("it is written");
    }
}

impl Drop for Planes {
    fn drop(&mut self) {
        if thread::panicking() {
            for host in self.lab.hosts() {
                commands::explain_failure(
                    &host,
                    &[
                        "journalctl --no-pager --lines 40 --output cat -u pf9-plane -u haproxy -u pf9-comms -u tinyproxy",
                        "/opt/pf9/comms/pf9-comms status",
                    ],
                );
            }
        }
        if !Suites::keep()
            && let Err(error) = self.lab.destroy()
        {
            eprintln!("the lab {} is not removed: {error:#}", self.lab.name());
        }
    }
}

fn checkout() -> PathBuf {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    place.canonicalize().expect("the checkout")
}

/// Runs a shell script that must succeed on a host, and gives what it printed.
#[track_caller]
pub fn sh(host: &Host, script: &str) -> String {
    commands::sh(host, script)
}

/// Runs a shell script that must fail on a host, and gives what it printed.
#[track_caller]
pub fn fails(host: &Host, script: &str) -> String {
    let output = commands::try_sh(host, &format!("set -e -o pipefail\n{script}"));
    let said =
        [&output.stdout, &output.stderr].map(|its| String::from_utf8_lossy(its).into_owned());
    let said = said.concat();
    assert!(
        !output.status.success(),
        "on `{}` this succeeded:\n{script}\n{said}",
        host.name()
    );
    said
}

/// Waits until a shell script succeeds on a host.
#[track_caller]
pub fn until(host: &Host, what: &str, script: &str) {
    commands::wait_for(host, what, script, SEEN);
}
