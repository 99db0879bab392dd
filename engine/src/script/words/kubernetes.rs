//! Words for objects of the cluster.

use super::shared::{KUBECONFIG, VARS, word};
use crate::script::vocabulary::{Arg, Word, WordKind, modifier, p, repeatable};

pub(super) const PODS: Word = word(
    "pods",
    WordKind::Resource,
    &[],
    &[modifier(
        "grace",
        &[p("duration", Arg::Duration)],
        "How long each container may take to end. Default 10s.",
    )],
    "The containers that kubelet started; only `.absent()` makes sense.",
    "on_stop(|| { pods().absent(); });",
    "Nothing.",
);

pub(super) const MANIFEST: Word = word(
    "manifest",
    WordKind::Resource,
    &[p("template", Arg::Text)],
    &[VARS, KUBECONFIG],
    "Objects in the Kubernetes API, by server-side apply.",
    r#"manifest("example/greeting.tmpl").vars(#{ name: host.name });"#,
    "Objects that were created are deleted.",
);

pub(super) const NODE: Word = word(
    "node",
    WordKind::Resource,
    &[p("name", Arg::Text)],
    &[
        KUBECONFIG,
        repeatable(
            "label",
            &[p("key", Arg::Text), p("value", Arg::AnyText)],
            "A label it has.",
        ),
        repeatable(
            "taint",
            &[
                p("key", Arg::Text),
                p("value", Arg::AnyText),
                p("effect", Arg::Text),
            ],
            "A taint it has.",
        ),
        repeatable(
            "untainted",
            &[p("key", Arg::Text)],
            "Key of a taint it does not have.",
        ),
        modifier(
            "schedulable",
            &[],
            "Lifts a cordon that nodelet's drain has set; an operator's cordon stays.",
        ),
        modifier(
            "pod_subnet_of",
            &[p("network", Arg::Text), p("prefix", Arg::Integer(1))],
            "If the node has no pod subnet, it gets a free one of this network, with this prefix length; nodeletd does the same for other nodes.",
        ),
    ],
    "This host's node object, registered and with its pod subnet (output `pod_cidr`).",
    r#"node(host.name).label("example", "yes");"#,
    "Labels, taints and cordon are set back.",
);

pub(super) const DRAIN: Word = word(
    "drain",
    WordKind::Resource,
    &[p("node", Arg::Text)],
    &[
        KUBECONFIG,
        modifier(
            "within",
            &[p("duration", Arg::Duration)],
            "How long pods may take to go. Default 30s.",
        ),
    ],
    "Cordons the node and evicts its pods, best effort. Done if no evictable pod is left; pods that stay are named with the reason. For the stop lane.",
    r#"on_stop(|| { drain(host.name).within("20s"); });"#,
    "Nothing; the next bring-up lifts the cordon.",
);

pub(super) const POD_CONTAINER: Word = word(
    "pod_container",
    WordKind::Resource,
    &[p("pod", Arg::Text), p("container", Arg::Text)],
    &[
        repeatable(
            "restart_on",
            &[p("steps", Arg::Steps)],
            "Steps of this phase whose content it reads at its start: a change ends it, and kubelet starts a new one.",
        ),
        modifier(
            "reads",
            &[p("paths", Arg::Paths)],
            "Files of other phases that it reads at its start: a change ends it, and kubelet starts a new one.",
        ),
    ],
    "A container of a static pod that kubelet runs. If it started before the files that it reads were written, it is ended, and kubelet starts a new one.",
    r#"pod_container("k8s-master", "kube-apiserver").reads(["/etc/pf9/kube.d/certs/apiserver/etcd/ca.crt"]);"#,
    "Nothing.",
);
