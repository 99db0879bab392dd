//! The directories of the host that the control plane's containers see: their own files, and no key of another component.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use behaviour::{CASES, Case};
use engine::model::Text;
use engine::plan::Plan;
use engine::resource::pki::{
    authority_paths, certificate_paths, kubeconfig_path, service_account_paths,
};
use engine::resource::{FileSource, Spec};
use serde_json::Value;

/// The containers that may see a secret file, by the first part of its path below `/etc/pf9/kube.d` and its kind of directory.
const OWNERS: &[(&str, &[&str])] = &[
    ("certs/apiserver", &["kube-apiserver"]),
    ("certs/aggregator", &["kube-apiserver"]),
    ("encryption", &["kube-apiserver"]),
    (
        "certs/kube-controller-manager",
        &["kube-controller-manager"],
    ),
    (
        "kubeconfigs/kube-controller-manager",
        &["kube-controller-manager"],
    ),
    ("certs/kube-scheduler", &["kube-scheduler"]),
    ("kubeconfigs/kube-scheduler", &["kube-scheduler"]),
    ("certs/etcd", &["etcd"]),
    ("kubeconfigs/kube-proxy", &["proxy"]),
    // For programs on the host, and for operators.
    ("ca", &[]),
    ("certs/admin", &[]),
    ("certs/etcdctl", &[]),
    ("certs/kubelet", &[]),
    ("certs/kube-proxy", &[]),
    ("kubeconfigs/admin.yaml", &[]),
    ("kubeconfigs/local-admin.yaml", &[]),
    ("kubeconfigs/kubelet.yaml", &[]),
];

/// Every file with a secret that the plan makes.
fn secrets(plan: &Plan) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for step in plan.phases.iter().flat_map(|phase| &phase.steps) {
        match &step.spec {
            Spec::Authority(spec) => {
                files.insert(authority_paths(&spec.name).key);
            }
            Spec::Certificate(spec) => {
                files.insert(certificate_paths(&spec.path).key);
            }
            Spec::ServiceAccountKey(_) => {
                files.insert(service_account_paths().0);
            }
            Spec::EncryptionKeys(_) => files.extend(step.spec.paths()),
            Spec::Kubeconfig(spec) => {
                files.insert(kubeconfig_path(&spec.name));
            }
            Spec::File(spec)
                if matches!(spec.source, FileSource::Copy(_))
                    && spec.attributes.mode & 0o077 == 0 =>
            {
                files.insert(spec.path.clone());
            }
            _ => {}
        }
    }
    files
}

/// The directories of the host that each container sees.
fn mounts(plan: &Plan) -> BTreeMap<String, Vec<PathBuf>> {
    let mut all = BTreeMap::new();
    for step in plan.phases.iter().flat_map(|phase| &phase.steps) {
        match &step.spec {
            Spec::Container(spec) => {
                let sources = spec.mounts.iter().map(|mount| mount.source.clone());
                all.insert(spec.name.clone(), sources.collect());
            }
            Spec::File(spec) if spec.path.ends_with("manifests/k8s-master.yaml") => {
                let FileSource::Text(Text::Known(text)) = &spec.source else {
                    panic!("the manifest is known when it is planned");
                };
                let pod: Value = serde_yaml::from_str(text).expect("a manifest is YAML");
                all.extend(of_pod(&pod));
            }
            _ => {}
        }
    }
    all
}

fn of_pod(pod: &Value) -> BTreeMap<String, Vec<PathBuf>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let volumes: BTreeMap<String, PathBuf> = list(&pod["spec"]["volumes"])
        .iter()
        .map(|volume| {
            assert!(
                matches!(volume["hostPath"]["type"].as_str(), Some("Directory")),
                "an atomic replacement is invisible through a mounted file: {volume}"
            );
            (
                text(&volume["name"]),
                text(&volume["hostPath"]["path"]).into(),
            )
        })
        .collect();
    list(&pod["spec"]["containers"])
        .iter()
        .map(|container| {
            let mounts = list(&container["volumeMounts"]);
            let sources = mounts
                .iter()
                .map(|mount| volumes[mount["name"].as_str().expect("a name")].clone());
            (text(&container["name"]), sources.collect())
        })
        .collect()
}

fn owners(file: &Path) -> &'static [&'static str] {
    let below = file.strip_prefix("/etc/pf9/kube.d").expect("ours");
    let found = OWNERS
        .iter()
        .filter(|(place, _)| below.starts_with(place))
        .max_by_key(|(place, _)| place.len());
    let (_, owners) = found.unwrap_or_else(|| panic!("{}: it has no known owner", file.display()));
    owners
}

#[test]
fn no_container_sees_a_key_of_another_component() {
    for (case, _) in CASES {
        let plan = Case::named(case).planned();
        let (secrets, mounts) = (secrets(&plan), mounts(&plan));
        let (least, containers) = match plan.node.as_str() {
            "worker" => (5, &["proxy"][..]),
            _ => (
                21,
                &[
                    "etcd",
                    "kube-apiserver",
                    "kube-controller-manager",
                    "kube-scheduler",
                    "proxy",
                ][..],
            ),
        };
        assert!(secrets.len() >= least, "{case}: {secrets:?}");
        let names: Vec<&str> = mounts.keys().map(String::as_str).collect();
        assert_eq!(names, containers, "{case}");
        for (container, sources) in &mounts {
            for secret in &secrets {
                let sees = sources.iter().any(|source| secret.starts_with(source));
                let may = owners(secret).contains(&container.as_str());
                assert_eq!(sees, may, "{case}: {container} sees {}", secret.display());
            }
        }
    }
}
