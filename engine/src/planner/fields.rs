//! The fields of `host`, `cluster` and `kube` that scripts read, as `docs/role.md` lists them. Tests of `context.rs` keep these tables
//! equal to what scripts get.

use std::fmt::Write as _;

use crate::env::{DefaultValue, KEYS, Key, ValueType};
use crate::role::{Field, field_list};

/// The fields of `host`.
pub const HOST_FIELDS: &[Field] = field_list! {
    name: "text" =>
        "The name of this host as a node: its host name in lower case, or its address if `USE_HOSTNAME` is false.";
    hostname: "text" => "The host name as the host has it.";
    address: "text" =>
        "The address of this host on the link of its default route; IPv6 without brackets. There is no plan for a host without one.";
    interface: "text" =>
        "The link of the default route, for example `eth0`; empty if there is none.";
    cpus: "integer" => "Processors; 1 if the number is unknown.";
    cgroup_driver: "text" =>
        "The driver for control groups that fits the host: `systemd` with cgroup v2, otherwise `cgroupfs`.";
};

/// The fields of `cluster`.
pub const CLUSTER_FIELDS: &[Field] = field_list! {
    id: "text" => "The setting `CLUSTER_ID`; `MASTER_IP` if it is empty.";
    api_is_address: "bool" => "Whether `MASTER_IP` is an address; otherwise it is a name.";
    api_url: "text" =>
        "URL of the API server as other hosts reach it: `https://`, `MASTER_IP`, `K8S_API_PORT`.";
    local_api_url: "text" =>
        "URL of the API server for this host's own programs: the one on this host on a master, otherwise as `api_url`.";
    api_service_ip: "text" =>
        "Address of the API server inside the cluster: address 1 of `SERVICES_CIDR`.";
    api_service_names: "list of texts" =>
        "Names of the API server inside the cluster, which no host may have: `kubernetes`, alone and with its namespace, `svc` and `CLUSTER_DNS_DOMAIN`.";
    dns_service_ip: "text" => "Address of the cluster's DNS: address 10 of `SERVICES_CIDR`.";
    shared_settings: "map" =>
        "The settings that all masters of a cluster have in common, by name; those without a value are left out.";
    masters: "list of maps" =>
        "The masters of the cluster by name, each with `name` and `address`. Masters learn them from etcd; a worker reads only itself.";
    other_masters: "list of maps" => "The masters without this host.";
};

/// The fields of `kube` as a table in Markdown: one for each setting, with its default.
#[must_use]
pub fn kube_table() -> String {
    let mut text = "| name | type | default | meaning |\n|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let default = match key.default {
            DefaultValue::Required => "required".to_owned(),
            DefaultValue::Value("") => "empty".to_owned(),
            DefaultValue::Value(value) | DefaultValue::Derived(value) => format!("`{value}`"),
        };
        let _ = writeln!(
            text,
            "| `kube.{}` | {} | {default} | {} |",
            key.name,
            kube_type(key),
            key.doc
        );
    }
    text
}

/// The type that a setting has in a script.
pub(super) fn kube_type(key: &Key) -> &'static str {
    match key.kind.value_type() {
        _ if key.secret => "secret",
        ValueType::Bool => "bool",
        ValueType::Integer => "integer",
        ValueType::Texts => "list of texts",
        ValueType::Text => "text",
    }
}
