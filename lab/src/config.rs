//! The operator's configuration that `up` writes for nodelet: a flat map of kube.env keys.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::cache::hex;

/// Values for one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config(BTreeMap<String, String>);

impl Config {
    /// The first master of a lab, reached at its own address or, with `vip`, at a virtual one. Only there, etcd begins a new cluster.
    pub fn master(lab: &str, address: Ipv4Addr, vip: Option<Ipv4Addr>) -> Self {
        let mut config = Self::joining_master(lab, address, vip);
        config.set("ETCD_INITIAL_CLUSTER_STATE", "new");
        config
    }

    /// A master that joins the masters of the lab. It differs from the first one only in how its etcd begins.
    pub fn joining_master(lab: &str, address: Ipv4Addr, vip: Option<Ipv4Addr>) -> Self {
        let mut config = Self::member("master", lab, vip.unwrap_or(address));
        if vip.is_some() {
            config.set("MASTER_VIP_ENABLED", "true");
            config.set("MASTER_VIP_IFACE", "eth0");
            config.set("MASTER_VIP_VROUTER_ID", "51");
        }
        config
    }

    /// A worker of the lab's cluster, whose API is reached at this address.
    pub fn worker(lab: &str, api: Ipv4Addr) -> Self {
        Self::member("worker", lab, api)
    }

    /// What all hosts of a cluster have, in this role.
    fn member(role: &str, lab: &str, api: Ipv4Addr) -> Self {
        let mut config = Self::default();
        config.set("ROLE", role);
        config.set("CLUSTER_ID", &cluster_id(lab));
        config.set("MASTER_IP", &api.to_string());
        config.set("CONTAINERS_CIDR", "10.20.0.0/16");
        config.set("SERVICES_CIDR", "10.21.0.0/16");
        config
    }

    /// Sets one value; a later one wins.
    pub fn set(&mut self, key: &str, value: &str) {
        self.0.insert(key.to_owned(), value.to_owned());
    }

    /// Splits what the user wrote as `KEY=VALUE`.
    pub fn pair(text: &str) -> Result<(&str, &str)> {
        text.split_once('=')
            .with_context(|| format!("`{text}` is not of the form KEY=VALUE"))
    }

    /// The file's text. A JSON string is a YAML string that no reader takes for a number or a boolean.
    pub fn render(&self) -> String {
        self.0
            .iter()
            .map(|(key, value)| format!("{key}: {}\n", serde_json::Value::from(value.as_str())))
            .collect()
    }
}

/// A UUID (of the free-form version 8) that is always the same for a lab's name.
fn cluster_id(lab: &str) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(lab.as_bytes())[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    [
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_master() {
        let config = Config::master("default", Ipv4Addr::new(172, 30, 1, 11), None);
        assert_eq!(
            config.render(),
            "CLUSTER_ID: \"37a8eec1-ce19-887d-932f-e29051dca629\"\nCONTAINERS_CIDR: \"10.20.0.0/16\"\n\
             ETCD_INITIAL_CLUSTER_STATE: \"new\"\nMASTER_IP: \"172.30.1.11\"\nROLE: \"master\"\nSERVICES_CIDR: \"10.21.0.0/16\"\n"
        );
    }

    #[test]
    fn only_the_first_master_begins_a_cluster() {
        let (first, second) = (Ipv4Addr::new(172, 30, 1, 11), Ipv4Addr::new(172, 30, 1, 12));
        let vip = Some(Ipv4Addr::new(172, 30, 1, 100));
        assert_eq!(
            Config::joining_master("x", second, vip).render(),
            Config::master("x", first, vip)
                .render()
                .replace("ETCD_INITIAL_CLUSTER_STATE: \"new\"\n", "")
        );
        let alone = Config::joining_master("x", second, None).render();
        assert!(alone.contains("MASTER_IP: \"172.30.1.12\""), "{alone}");
    }

    #[test]
    fn a_worker_differs_from_the_first_master_in_its_role_and_begins_no_cluster() {
        let (address, vip) = (
            Ipv4Addr::new(172, 30, 1, 11),
            Ipv4Addr::new(172, 30, 1, 100),
        );
        let master = Config::master("x", address, None).render();
        assert_eq!(
            Config::worker("x", address).render(),
            master
                .replace("\"master\"", "\"worker\"")
                .replace("ETCD_INITIAL_CLUSTER_STATE: \"new\"\n", "")
        );
        // The virtual address is the masters' own affair: a worker only reaches the API there.
        let text = Config::worker("x", vip).render();
        assert!(text.contains("MASTER_IP: \"172.30.1.100\""), "{text}");
        assert!(!text.contains("VIP_"), "{text}");
    }

    #[test]
    fn a_virtual_address_and_the_users_own_values() {
        let mut config = Config::master(
            "x",
            Ipv4Addr::new(172, 30, 1, 11),
            Some(Ipv4Addr::new(172, 30, 1, 100)),
        );
        for text in ["SERVICES_CIDR=10.9.0.0/16", "NOTE=a=\"b\""] {
            let (key, value) = Config::pair(text).expect("a pair");
            config.set(key, value);
        }
        let text = config.render();
        for line in [
            "MASTER_IP: \"172.30.1.100\"",
            "MASTER_VIP_IFACE: \"eth0\"",
            "SERVICES_CIDR: \"10.9.0.0/16\"",
            r#"NOTE: "a=\"b\"""#,
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
        Config::pair("NOTE").expect_err("no value");
    }
}
