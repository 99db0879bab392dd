//! A lab host with the role installed, to be worked on with nodelet; `node` has this host and those that join its cluster, `together`
//! has what holds for all masters of a cluster, `pods` what runs on several nodes.

pub(crate) mod commands;
mod node;
mod pods;
mod together;

use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use lab::package;
use lab::suites::Place;
use lab::{Cache, Config, Host, HostSpec, Image, Lab, Suites, machine_mount};

pub use node::Node;
pub use pods::{Pods, page_from_outside};
pub use together::{
    KUBECTL, all_are_members, all_know_one_another, another_master, at_once, first_of_several,
    holder, is_known, masters_beside, nodes_are_ready, second_apply_changes_nothing, three_masters,
};

const MASTER: &str = "master-1";
/// A bare host beside the masters with a virtual IP.
pub const CLIENT: &str = "client";
/// The kubeconfig of the administrator on a master.
pub const KUBECONFIG: &str = "/etc/pf9/kube.d/kubeconfigs/admin.yaml";
const PACKAGE: &str = "/opt/pf9/roles/pf9-kube/current";
const PHASES: &str = "/opt/pf9/roles/pf9-kube/current/phases";

/// The first master of a cluster and its lab. The lab is removed with this value, unless it is shared.
#[derive(Debug)]
pub struct Master {
    lab: Lab,
    node: Node,
    suites: Suites,
    vip: bool,
    /// Held while this suite uses a shared host.
    shared: Option<Place>,
}

/// How many masters suites share. Each costs a bring-up; the suites that use one wait for their turn.
const SHARED: usize = 3;
/// Longer than all suites that share a master take together.
const TURN: Duration = Duration::from_secs(3000);

/// A master that suites share: Ready, with the default settings. What a suite changes on it, the apply at the start of the next
/// suite restores.
///
/// The first suite makes it; it is taken down at the end of the run. Suites run in parallel in processes of their own, so each
/// waits for its turn.
#[must_use]
pub fn shared() -> Master {
    let suites = Suites::from_environment().expect("the environment of a run");
    let cache = Cache::locate().expect("the cache has a place");
    let place = suites.place(&cache, "shared", SHARED, TURN);
    let place = place.expect("a shared host becomes free");
    let is_there = Lab::exists(&cache, &format!("{}-{}", suites.run, place.name));
    let mut master = Master::open(&place.name, Image::Bare, false, &[]);
    master.shared = Some(place);
    if is_there {
        master.configure(&[]);
    } else {
        master.install(&[]);
    }
    // Restores what an earlier suite changed, or left unfinished when it failed.
    master.apply(&[]).exits(0);
    master
}

/// A master of its own with a virtual IP, Ready, and a bare host beside it, the neighbour [`CLIENT`].
///
/// It is not shared: a master that is unused for the rest of a run costs more than another bring-up.
#[must_use]
pub fn ready_with_vip(lab: &str) -> Master {
    let master = Master::with_neighbours(lab, Image::Bare, true, &[CLIENT]);
    master.apply(&[]).exits(0);
    master
}

/// The directory of the checkout.
fn checkout() -> &'static Path {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    checkout.expect("the checkout")
}

/// Hosts with these names and this image.
fn specs(names: &[&str], image: Image) -> Vec<HostSpec> {
    let spec = |name: &&str| HostSpec {
        name: (*name).to_owned(),
        image,
    };
    names.iter().map(spec).collect()
}

impl Deref for Master {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Master {
    /// A new host in a lab of its own, with the role installed and not applied.
    ///
    /// # Panics
    /// There is no lab: a suite that cannot run has not passed.
    #[must_use]
    pub fn create(lab: &str, image: Image, vip: bool) -> Self {
        Self::with_neighbours(lab, image, vip, &[])
    }

    /// The same with bare hosts beside it, on the same network.
    #[must_use]
    pub fn with_neighbours(lab: &str, image: Image, vip: bool, others: &[&str]) -> Self {
        let others = specs(others, Image::NoDocker);
        let master = Self::open(lab, image, vip, &others);
        master.install(&[]);
        master
    }

    /// A new bare host in a lab of its own with a virtual IP, and virtual machines with these names beside it, which are to be further
    /// masters. The machines boot at the same time. All of them have the role installed and not applied.
    ///
    /// # Panics
    /// A host does not come up.
    #[must_use]
    pub fn with_machines(lab: &str, names: &[&str]) -> (Self, Vec<Node>) {
        let others = specs(names, Image::Machine);
        let master = Self::open(lab, Image::Bare, true, &others);
        master.install(&[]);
        let machine = |name: &&str| Node::another_master_on(master.neighbour(name), &master);
        let machines = names.iter().map(machine).collect();
        (master, machines)
    }

    fn open(lab: &str, image: Image, vip: bool, others: &[HostSpec]) -> Self {
        let suites = Suites::from_environment().expect("the environment of a run");
        let cache = Cache::locate().expect("the cache has a place");
        let name = format!("{}-{lab}", suites.run);
        let lab = if Lab::exists(&cache, &name) {
            Lab::open(&cache, &name)
        } else {
            let specs = [&specs(&[MASTER], image)[..], others].concat();
            let mut mounts = vec![package::payload_mount(&suites.payload)];
            if specs.iter().any(|spec| spec.image == Image::Machine) {
                let machine = suites.machine.as_deref();
                mounts.push(machine_mount(machine.expect("`cargo xtask soak` makes it")));
            }
            Lab::create(&cache, &name, &specs, &mounts)
        }
        .expect("the lab comes up");
        let host = lab.host(MASTER).expect("the master is there");
        let address = vip.then(|| lab.vip());
        let config = Config::master(lab.name(), host.address(), address);
        let node = Node::first(host, config, lab.vip(), suites.toolbox.clone());
        Self {
            lab,
            node,
            suites,
            vip,
            shared: None,
        }
    }

    /// Installs nodelet, the role and its phases from the checkout, and settings: the lab's own, with these.
    pub fn install(&self, settings: &[(&str, &str)]) {
        package::install(self.host(), checkout(), &self.suites.nodelet)
            .expect("the role is installed");
        self.configure(settings);
    }

    /// Writes the lab's own settings, with no virtual IP from now on.
    pub fn without_vip(&mut self) {
        self.vip = false;
        let config = Config::master(self.lab.name(), self.host().address(), None);
        self.node.set_config(config);
        self.configure(&[]);
    }

    /// This master as one of several.
    #[must_use]
    pub fn as_one(&self) -> Node {
        self.node.as_one()
    }

    /// Updates the checksums of the installed role's package after the suite has changed its scripts or templates, so that the changed role
    /// is a valid one.
    pub fn update_checksums(&self) {
        self.sh(&package::checksum_script(PACKAGE));
    }

    /// Puts a phase's script back as the checkout has it, and updates the package's checksums.
    pub fn restore_phase(&self, phase: &str) {
        let name = format!("{phase}.rhai");
        let checkout = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../phases")
            .join(&name);
        self.host()
            .put_file(&checkout, &format!("{PHASES}/{name}"), 0o644)
            .expect("the script is written");
        self.update_checksums();
    }

    /// Edits a phase's script with a sed expression, which must change it, and updates the package's checksums.
    pub fn edit_phase(&self, phase: &str, expression: &str) {
        let script = format!(
            "cd {PHASES}; cp {phase}.rhai /tmp/before; sed -i -E '{expression}' {phase}.rhai; if cmp -s {phase}.rhai /tmp/before; then echo 'the expression changes nothing' >&2; exit 1; fi"
        );
        let update = package::checksum_script(PACKAGE);
        self.sh(&format!("{script}\n{update}"));
    }

    /// Another host of the lab.
    #[must_use]
    pub fn neighbour(&self, name: &str) -> Host {
        self.lab.host(name).expect("the neighbour is there")
    }

    /// The address at which the settings reach the API.
    fn api(&self) -> Ipv4Addr {
        if self.vip {
            self.lab.vip()
        } else {
            self.host().address()
        }
    }

    /// Takes a TCP port of the host until the unit `squatter-PORT` is stopped. (systemd makes one dollar sign of two.)
    pub fn occupy_port(&self, port: u16) {
        let program =
            format!("$$s = IO::Socket::INET->new(LocalPort => {port}, Listen => 9) or die; sleep");
        self.sh(&format!(
            "systemd-run --quiet --unit=squatter-{port} perl -MIO::Socket::INET -e '{program}'"
        ));
        self.wait_for(
            "the port is taken",
            &format!("ss -Hltn sport = :{port} | grep -q ."),
            Duration::from_secs(10),
        );
    }

    /// Runs kubectl on the host, as its administrator.
    #[track_caller]
    pub fn kubectl(&self, words: &str) -> String {
        self.sh(&format!("kubectl --kubeconfig {KUBECONFIG} {words}"))
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if thread::panicking() {
            commands::explain_failure(
                self.host(),
                &[
                    "nodelet check",
                    "docker ps --all --format '{{.Names}} {{.Status}}'",
                    "ss -ltnp",
                    "journalctl --no-pager --lines 15 --output cat -u pf9-kubelet -u docker -u keepalived",
                    "journalctl --no-pager --lines 40 --output cat -u pf9-nodeletd",
                ],
            );
        }
        // The place is held until the host is gone; the next suite makes its own host.
        let mut place = self.shared.take();
        if !thread::panicking()
            && let Some(place) = place.take()
        {
            place.give_back().expect("the cache can be written");
            return;
        }
        if !Suites::keep()
            && let Err(error) = self.lab.destroy()
        {
            eprintln!("the lab {} is not removed: {error:#}", self.lab.name());
        }
    }
}
