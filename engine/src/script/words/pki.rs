//! Words for keys, certificates and kubeconfigs.

use super::shared::word;
use crate::script::vocabulary::{Arg, Word, WordKind, modifier, p};

pub(super) const CERTIFICATE_AUTHORITY: Word = word(
    "certificate_authority",
    WordKind::Resource,
    &[p("name", Arg::Text)],
    &[
        modifier(
            "common_name",
            &[p("name", Arg::Text)],
            "Common name of its subject. Default its name.",
        ),
        modifier(
            "years",
            &[p("years", Arg::Integer(1))],
            "How long it is valid. Default 10.",
        ),
    ],
    "A certificate authority with its key under `/etc/pf9/kube.d/ca/<name>`. Never replaced while it can be read.",
    r#"certificate_authority("cluster").common_name("example");"#,
    "Removed if it was created, unless it is to be kept.",
);

pub(super) const SERVICE_ACCOUNT_KEY: Word = word(
    "service_account_key",
    WordKind::Resource,
    &[],
    &[],
    "The key that signs service account tokens. Never replaced while it can be read.",
    "service_account_key();",
    "Removed if it was created, unless it is to be kept.",
);

pub(super) const CERTIFICATE: Word = word(
    "certificate",
    WordKind::Resource,
    &[p("path", Arg::Text)],
    &[
        modifier("authority", &[p("name", Arg::Text)], "Who signs it."),
        modifier(
            "common_name",
            &[p("name", Arg::Text)],
            "Common name of its subject.",
        ),
        modifier(
            "organizations",
            &[p("names", Arg::Texts)],
            "Organizations of its subject; Kubernetes takes them as groups.",
        ),
        modifier(
            "usage",
            &[p("usage", Arg::Text)],
            "`server`, `client`, or `peer` for both.",
        ),
        modifier(
            "names",
            &[p("names", Arg::Texts)],
            "DNS names it is valid for.",
        ),
        modifier(
            "addresses",
            &[p("addresses", Arg::Addresses)],
            "Addresses it is valid for.",
        ),
        modifier(
            "valid_for",
            &[p("time", Arg::Duration)],
            "How long it is valid, for example `365d`. Default a year.",
        ),
    ],
    "A key and certificate in `/etc/pf9/kube.d/certs/<path>`, issued again when it differs, does not verify, or is past three fifths of its life.",
    r#"certificate("example").authority("cluster").common_name("example").usage("client");"#,
    "Removed, or written back as it was.",
);

pub(super) const KUBECONFIG: Word = word(
    "kubeconfig",
    WordKind::Resource,
    &[p("name", Arg::Text)],
    &[
        modifier("server", &[p("url", Arg::Text)], "URL of the API server."),
        modifier(
            "certificate",
            &[p("path", Arg::Text)],
            "The client certificate to embed, by its path.",
        ),
        modifier("user", &[p("name", Arg::Text)], "Name of the user entry."),
        modifier(
            "by_path",
            &[],
            "Name the files of certificate and key instead of embedding them. A client that reads the files again uses a renewed certificate without a restart.",
        ),
    ],
    "A kubeconfig in `/etc/pf9/kube.d/kubeconfigs/<name>.yaml` with certificate, key and root embedded; a name may be a path.",
    r#"kubeconfig("example").server("https://localhost:443").certificate("example").user("example");"#,
    "Removed, or written back as it was.",
);

pub(super) const ENCRYPTION_KEYS: Word = word(
    "encryption_keys",
    WordKind::Resource,
    &[],
    &[],
    "The keys with which the API server encrypts Secrets in etcd, in `/etc/pf9/kube.d/encryption/config.yaml`. Never replaced while they can be read; `nodelet certs rotate encryption` replaces one.",
    "encryption_keys();",
    "Removed if they were created, unless they are to be kept.",
);
