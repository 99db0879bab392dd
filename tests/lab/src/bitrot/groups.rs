//! The groups of a master's kept and secret files, and other valid files of the same kinds.

use super::{STATE, WORK_DIRECTORY};

/// The groups of the files that hold a secret, or that the host keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Key or certificate of an authority.
    Authority,
    /// The key of service-account tokens and its public half.
    ServiceAccount,
    /// The keys that encrypt Secrets, and their copies.
    Encryption,
    /// The key of a certificate.
    LeafKey,
    /// A certificate.
    Leaf,
    /// A kubeconfig.
    Kubeconfig,
    /// The record of a key, with a copy of it.
    Record,
    /// The record of the id of etcd's data, and the id beside that data.
    DataId,
    /// Credentials at Docker Hub.
    DockerHub,
    /// The settings as variables of a shell, credentials among them.
    Environment,
    /// keepalived's configuration.
    Keepalived,
    /// Not secret and not kept: the suites `repair` and `certificates` are about it.
    Public,
}

/// Directories beside those with secrets. Their files are configuration from the plan.
const CONFIGURATION: [&str; 5] = ["apiserver", "etcd", "kube-proxy", "kubelet", "manifests"];

impl Group {
    /// The group of the file at `path`.
    ///
    /// # Panics
    /// It is in no group.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or_default();
        let in_directory = |directory: &str| path.starts_with(directory);
        let configures = |name: &&str| in_directory(&format!("/etc/pf9/kube.d/{name}/"));
        if CONFIGURATION.iter().any(configures) {
            return Self::Public;
        }
        match name {
            "config.json" if in_directory("/var/lib/kubelet/") => Self::DockerHub,
            "keepalived.conf" => Self::Keepalived,
            "kube.env" => Self::Environment,
            "nodelet-data-id" => Self::DataId,
            "svcacct.key" | "svcacct.pub" => Self::ServiceAccount,
            "config.yaml" if in_directory("/etc/pf9/kube.d/encryption/") => Self::Encryption,
            "keys.yaml" if in_directory("/etc/pf9/kube.d/ca/encryption/") => Self::Encryption,
            // No program reads them.
            _ if in_directory("/etc/pf9/kube.d/ca/encryption/retired/") => Self::Record,
            "ca.key" | "ca.crt" if in_directory("/etc/pf9/kube.d/ca/") => Self::Authority,
            "request.key" => Self::LeafKey,
            "request.crt" => Self::Leaf,
            // Of a worker that joined. Its token has ended when the node is Ready.
            "bootstrap.yaml" if in_directory("/etc/pf9/kube.d/kubeconfigs/") => Self::Public,
            // Copies of an authority's certificate; each is made with the certificate beside it.
            "ca.crt" if in_directory("/etc/pf9/kube.d/certs/") => Self::Public,
            _ if in_directory("/etc/pf9/kube.d/kubeconfigs/") => Self::Kubeconfig,
            "encryption.yaml" if in_directory(&format!("{STATE}/kept/")) => Self::Encryption,
            _ if in_directory(&format!("{STATE}/kept/data-")) => Self::DataId,
            _ if in_directory(&format!("{STATE}/data-")) => Self::DataId,
            _ if in_directory(&format!("{STATE}/kept/")) => Self::Record,
            _ => panic!("{path} is in no group: damage it as well, or say why not"),
        }
    }
}

/// A command that prints another valid file of the kind of a secret or kept one.
#[must_use]
pub fn another(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let key = || "openssl genrsa 2048 2> /dev/null".to_owned();
    let certificate = |subject: &str| {
        format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN={subject} -days 365 2> /dev/null"
        )
    };
    match Group::of(path) {
        Group::Authority if name == "ca.crt" => certificate("kubernetes"),
        // A certificate of another authority, with another identity.
        Group::Leaf => certificate("admin"),
        Group::ServiceAccount if name == "svcacct.pub" => {
            "openssl genrsa 2048 2> /dev/null | openssl pkey -pubout".to_owned()
        }
        Group::Authority | Group::ServiceAccount | Group::LeafKey => key(),
        // The same with another secret.
        Group::Encryption => format!("sed -E 's/secret: ..../secret: AAAA/' {path}"),
        Group::Kubeconfig if name == "kubelet.yaml" => format!("cat {WORK_DIRECTORY}/admin.yaml"),
        Group::Kubeconfig => format!("cat {WORK_DIRECTORY}/kubelet.yaml"),
        // The record of another authority.
        Group::Record if name == "authority-cluster.json" => {
            format!("cat {WORK_DIRECTORY}/authority-etcd.json")
        }
        Group::Record => format!("cat {WORK_DIRECTORY}/authority-cluster.json"),
        Group::DataId if name == "nodelet-data-id" => {
            "echo 00112233445566778899aabbccddeeff".to_owned()
        }
        Group::DataId => {
            "echo '{\"version\":1,\"id\":\"00112233445566778899aabbccddeeff\"}'".to_owned()
        }
        // The credentials of another account.
        Group::DockerHub => format!("sed -E 's/(\"auth\": \").*/\\1b3RoZXI6d29yZA==\"/' {path}"),
        Group::Environment => {
            format!("sed -E 's/^(export DOCKERHUB_ID=).*/\\1\"other\"/' {path}")
        }
        Group::Keepalived => format!("sed -E 's/priority .*/priority 7/' {path}"),
        Group::Public => panic!("{path} is no secret"),
    }
}
