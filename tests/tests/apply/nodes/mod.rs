//! Hosts that join a cluster: `workers`, and further `masters`. `refused` has hosts of the whole role that may not join or leave.

mod masters;
mod refused;
mod workers;

use engine::host::fake::FakeHost;
use engine::kubernetes::masters::MASTERS;

/// Lets a host know two other masters, which are voters of etcd.
fn beside_two_masters(host: &FakeHost) {
    let masters = r#"{"version":1,"masters":[{"name":"cp-8","address":"172.30.0.18","voter":true},{"name":"cp-9","address":"172.30.0.19","voter":true}]}"#;
    host.with_world_mut(|world| {
        world.file_with_mode(MASTERS, masters, 0o600);
        world.etcd.voter("cp-8", "172.30.0.18", 8);
        world.etcd.voter("cp-9", "172.30.0.19", 9);
    });
}
