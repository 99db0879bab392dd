//! A further master: what it takes from its join file, what it refuses, and what a master exports; also during a replacement.

mod exporting;
mod joining;
mod successors;

use crate::kubernetes::join_file::{
    IDENTITY, JoinContent as _, MasterJoinFile, SuccessorFile, new_identity,
};
use crate::kubernetes::masters::MasterEntry;
use crate::resource::pki::tests::*;
use crate::resource::pki::{
    EncryptionKeysSpec, JoinMasterSpec, ServiceAccountKeySpec, export_keys,
};

const NODE: &str = "cp-2";
const JOIN: &str = "/etc/pf9/nodelet/join.age";
const API: &str = "https://10.0.0.100:443";
const LIST: &str = "/var/opt/pf9/nodelet/masters.json";
const RECORDS: [&str; 5] = [
    "/var/opt/pf9/nodelet/kept/encryption.yaml",
    "/var/opt/pf9/nodelet/kept/service-account.json",
    "/var/opt/pf9/nodelet/kept/authority-front-proxy.json",
    "/var/opt/pf9/nodelet/kept/authority-etcd.json",
    "/var/opt/pf9/nodelet/kept/authority-cluster.json",
];
/// The files that clients of the keys read.
const FILES: [&str; 8] = [
    CA,
    CA_KEY,
    "/etc/pf9/kube.d/ca/etcd/ca.crt",
    "/etc/pf9/kube.d/ca/etcd/ca.key",
    "/etc/pf9/kube.d/ca/front-proxy/ca.key",
    "/etc/pf9/kube.d/certs/apiserver/svcacct.key",
    "/etc/pf9/kube.d/certs/apiserver/svcacct.pub",
    "/etc/pf9/kube.d/encryption/config.yaml",
];
const HOUR: Duration = Duration::from_secs(60 * 60);

fn spec() -> JoinMasterSpec {
    JoinMasterSpec {
        path: JOIN.into(),
        node: NODE.to_owned(),
        address: "10.0.0.2".parse().expect("an address"),
        api: API.to_owned(),
        settings: [("CONTAINERS_CIDR", "10.20.0.0/16"), ("CLUSTER_ID", "0A1b")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        on_link: false,
    }
}

/// Makes all keys of a master, as the phase `certs` does.
async fn make_keys(host: &FakeHost) -> Vec<Change> {
    let mut changes = Vec::new();
    for name in ["cluster", "etcd", "front-proxy"] {
        let authority = AuthoritySpec {
            name: name.to_owned(),
            common_name: name.to_owned(),
            ..cluster()
        };
        changes.extend(apply(host, &authority).await);
    }
    changes.extend(apply(host, &ServiceAccountKeySpec {}).await);
    changes.extend(
        apply(
            host,
            &EncryptionKeysSpec {
                rotation: None,
                successor: None,
            },
        )
        .await,
    );
    changes
}

async fn first_master() -> FakeHost {
    let host = FakeHost::new();
    make_keys(&host).await;
    host
}

/// The join file that this master makes.
async fn exported(master: &FakeHost) -> MasterJoinFile {
    let now = master.with_world(|world| world.now());
    let now = now.duration_since(std::time::UNIX_EPOCH);
    let expires = now.expect("it is after 1970") + HOUR;
    let mut file = MasterJoinFile::new(NODE, API, expires.as_secs());
    export_keys(master, &mut file)
        .await
        .expect("it has all keys");
    file.masters = vec![MasterEntry {
        name: "cp-1".to_owned(),
        address: "10.0.0.1".parse().expect("an address"),
        etcd_id: Some(7),
        voter: true,
    }];
    file
}

/// A host with an identity, and its public key.
fn host_with_identity() -> (FakeHost, String) {
    let (secret, public) = new_identity();
    (FakeHost::new().with_file(IDENTITY, secret), public)
}

fn place(host: &FakeHost, file: &MasterJoinFile, public: &str) {
    let sealed = file.seal(public).expect("it can be sealed");
    let text = String::from_utf8(sealed).expect("armour is text");
    put(host, JOIN, &text, 0o600);
}

/// A master, and a host with a join file of it that was not used yet.
async fn master_to_be() -> (FakeHost, FakeHost, String) {
    let master = first_master().await;
    let (host, public) = host_with_identity();
    place(&host, &exported(&master).await, &public);
    (master, host, public)
}
