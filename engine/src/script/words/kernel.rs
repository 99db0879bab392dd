//! Words for settings of the kernel and for the network.

use super::shared::word;
use crate::script::vocabulary::{Arg, Word, WordKind, modifier, p};

pub(super) const SYSCTL: Word = word(
    "sysctl",
    WordKind::Resource,
    &[p("key", Arg::Text), p("value", Arg::Text)],
    &[],
    "A kernel setting, now and after the next boot.",
    r#"sysctl("net.ipv4.ip_forward", "1");"#,
    "Set back; the file in /etc/sysctl.d is removed.",
);

pub(super) const KERNEL_MODULE: Word = word(
    "kernel_module",
    WordKind::Resource,
    &[p("name", Arg::Text)],
    &[],
    "A kernel module, now and after the next boot. Built-in ones are fine.",
    r#"kernel_module("overlay");"#,
    "Unloaded if it was loaded; the file in /etc/modules-load.d is removed.",
);

pub(super) const LINK: Word = word(
    "link",
    WordKind::Resource,
    &[p("name", Arg::Text)],
    &[modifier(
        "carries_pods",
        &[],
        "Running pods with a network of their own need it: if the link is missing, the step ends these pods, and kubelet starts new ones.",
    )],
    "A network link that another program makes; it takes `.absent()` or `.carries_pods()`.",
    r#"on_stop(|| { link("cni0").absent(); });"#,
    "Nothing.",
);

pub(super) const FIREWALL_CHAINS: Word = word(
    "firewall_chains",
    WordKind::Resource,
    &[p("prefix", Arg::Text)],
    &[
        modifier(
            "interface",
            &[p("name", Arg::Text)],
            "Rules that name this interface are removed too, in every chain.",
        ),
        modifier(
            "keep_existing",
            &[],
            "Chains that existed before the phase stay, and the others are removed. Without this modifier, all of them stay if one existed before.",
        ),
    ],
    "Chains of iptables and ip6tables that another program makes, by the prefix of their names, with the rules that jump to them; only `.absent()` makes sense.",
    r#"on_clean(|| { firewall_chains("KUBE-").absent(); });"#,
    "Nothing.",
);

pub(super) const IPSETS: Word = word(
    "ipsets",
    WordKind::Resource,
    &[p("prefix", Arg::Text)],
    &[],
    "Sets of addresses (ipset) that another program makes, by the prefix of their names; only `.absent()` makes sense.",
    r#"on_clean(|| { ipsets("KUBE-").absent(); });"#,
    "Nothing.",
);

pub(super) const IPVS_SERVICES: Word = word(
    "ipvs_services",
    WordKind::Resource,
    &[p("link", Arg::Text)],
    &[],
    "Virtual services of IPVS, the kernel's load balancer, on the addresses of this link and of the host's other links. Services that existed before the phase stay. Only `.absent()` makes sense, before the step that removes the link: without the link, nothing is removed.",
    r#"on_clean(|| { ipvs_services("kube-ipvs0").absent(); });"#,
    "Nothing.",
);

pub(super) const RESTORE_SYSCTL: Word = word(
    "restore_sysctl",
    WordKind::Resource,
    &[p("key", Arg::Text)],
    &[],
    "A kernel setting that another program changes because of this phase. nodelet records the value before the phase's first change, and a clean restores it; for `on_clean` only.",
    r#"on_clean(|| { restore_sysctl("kernel.panic"); });"#,
    "Nothing.",
);
