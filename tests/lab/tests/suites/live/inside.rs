//! Tests that run inside a lab host: `LiveHost` with its docker, systemd, dpkg, kernel and API server. The module above copies this
//! program there and runs these tests one by one; elsewhere they are ignored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use engine::host::live::LiveHost;
use engine::host::{
    Attributes, Cluster, ClusterAccess, ClusterNode, CommandSpec, ContainerConfig, Containers,
    FIELD_MANAGER, Files, HostError, Kernel, ListedContainer, Mount, Packages, Processes,
    RestartPolicy, Services, Taint,
};
use serde_json::json;

/// A value that the suite outside gives to a test.
fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("the suite that starts this sets {name}"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

#[tokio::test]
#[ignore = "it runs inside a lab host, where the suite `live` starts it"]
async fn a_unit_goes_through_its_life() {
    let host = LiveHost::new();
    let (unit, path) = (
        "nodelet-live.service",
        Path::new("/etc/systemd/system/nodelet-live.service"),
    );
    let state = host.unit(unit).await.expect("unit");
    assert!(
        !state.loaded && !state.enabled && state.active == "inactive",
        "{state:?}"
    );
    host.stop_unit(unit).await.expect("stop an unknown unit");
    host.reset_failed_unit(unit)
        .await
        .expect("reset an unknown unit");
    host.set_unit_enabled(unit, false)
        .await
        .expect("disable an unknown unit");
    let error = host.start_unit(unit).await.expect_err("unknown");
    assert!(error.to_string().contains(unit), "{error}");

    let text = |exec: &str| {
        format!("[Service]\nType=simple\nExecStart={exec}\n[Install]\nWantedBy=multi-user.target\n")
    };
    let write = |content: String| async move {
        LiveHost::new()
            .write(path, content.as_bytes(), Attributes::root(0o644))
            .await
            .expect("write");
    };
    write(text("/bin/sleep 1000")).await;
    host.set_unit_enabled(unit, true).await.expect("enable");
    host.start_unit(unit).await.expect("start");
    let first = host.unit(unit).await.expect("unit");
    assert!(
        first.loaded && first.enabled && first.is_active() && !first.stale,
        "{first:?}"
    );
    assert_eq!(
        (first.sub.as_str(), first.invocation.len()),
        ("running", 32)
    );
    let age = SystemTime::now().duration_since(first.active_since.expect("a time"));
    assert!(age.expect("past") < Duration::from_secs(60));
    let ran = first.active_for.expect("it runs");
    assert!(ran < Duration::from_secs(60), "{ran:?}");
    host.restart_unit(unit).await.expect("restart");
    host.reload_unit(unit).await.expect("reload");
    assert_ne!(
        host.unit(unit).await.expect("unit").invocation,
        first.invocation
    );

    write(text("/bin/sh -c 'echo last words; exit 7'").replace("simple", "oneshot")).await;
    assert!(host.unit(unit).await.expect("unit").stale);
    host.reload_units().await.expect("reload");
    let said = chain(&host.restart_unit(unit).await.expect_err("exit 7"));
    for part in [
        "restart nodelet-live.service",
        "`failed`",
        "exit-code",
        "last words",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    println!("{said}");
    assert_eq!(host.unit(unit).await.expect("unit").active, "failed");
    host.reset_failed_unit(unit).await.expect("reset");
    host.stop_unit(unit).await.expect("stop");
    assert_eq!(host.unit(unit).await.expect("unit").active, "inactive");
    assert!(
        host.unit_log(unit, 50)
            .await
            .expect("log")
            .contains("last words")
    );
    host.set_unit_enabled(unit, false).await.expect("disable");
    assert!(!host.unit(unit).await.expect("unit").enabled);
    host.remove(path).await.expect("remove");
    host.reload_units().await.expect("reload");
}

fn config(image: &str) -> ContainerConfig {
    ContainerConfig {
        name: "nodelet-live".into(),
        image: image.into(),
        command: vec!["/pause".into()],
        env: BTreeMap::from([("KEY".into(), "a=b".into())]),
        mounts: vec![Mount {
            source: "/etc/ssl".into(),
            target: "/mnt/ssl".into(),
            read_only: true,
            propagated: true,
        }],
        host_network: true,
        host_pid: false,
        privileged: false,
        capabilities: vec!["NET_ADMIN".into()],
        user: "0:0".into(),
        restart: RestartPolicy::UnlessStopped,
        labels: BTreeMap::from([("pf9.io/role".into(), "test".into())]),
    }
}

#[tokio::test]
#[ignore = "it runs inside a lab host, where the suite `live` starts it"]
async fn a_container_goes_through_its_life() {
    let (archive, image) = (given("LIVE_ARCHIVE"), given("LIVE_IMAGE"));
    let host = LiveHost::new();
    println!(
        "docker {}",
        host.container_runtime_version().await.expect("version")
    );
    let name = "nodelet-live";
    host.remove_container(name).await.expect("remove none");
    host.stop_container(name, Duration::from_secs(1))
        .await
        .expect("stop none");
    assert_eq!(host.container(name).await.expect("inspect"), None);
    assert_eq!(host.container_config(name).await.expect("inspect"), None);
    host.load_image(Path::new(&archive)).await.expect("load");
    assert!(
        host.image(&image)
            .await
            .expect("image")
            .expect("there")
            .id
            .starts_with("sha256:")
    );
    let junk = Path::new("/tmp/junk.tar");
    host.write(junk, &vec![b'x'; 4096], Attributes::root(0o600))
        .await
        .expect("write");
    println!("{}", chain(&host.load_image(junk).await.expect_err("junk")));

    let mut config = config(&image);
    config.mounts[0].source = "/no/such/directory".into();
    println!(
        "{}",
        chain(
            &host
                .create_container(&config)
                .await
                .expect_err("missing source")
        )
    );
    assert!(host.entry(Path::new("/no")).await.expect("entry").is_none());
    config.mounts[0].source = "/etc/ssl".into();
    let id = host.create_container(&config).await.expect("create");
    let created = host.container(name).await.expect("inspect").expect("there");
    assert_eq!(
        (created.id.as_str(), created.running, created.started_at),
        (id.as_str(), false, None)
    );
    assert_eq!(created.ended, None);
    assert_eq!(created.labels, config.labels);
    assert_eq!(
        host.container_config(name).await.expect("config").as_ref(),
        Some(&config)
    );
    host.start_container(name).await.expect("start");
    host.start_container(name).await.expect("start again");
    let running = host.container(name).await.expect("inspect").expect("there");
    assert!(
        running.running && running.started_at.is_some() && running.image == image,
        "{running:?}"
    );
    let any = BTreeMap::from([("pf9.io/role".to_owned(), String::new())]);
    let other = BTreeMap::from([("pf9.io/role".to_owned(), "other".to_owned())]);
    let listed = ListedContainer {
        id: running.id,
        name: running.name,
        image: running.image,
        running: true,
        paused: false,
        host_network: running.host_network,
        labels: running.labels,
    };
    assert_eq!(host.containers(&any).await.expect("list"), [listed]);
    assert_eq!(host.containers(&other).await.expect("list"), []);
    host.container_log(name, 5).await.expect("log");
    let refused = host.remove_image(&image).await.expect_err("in use");
    println!("{}", chain(&refused));
    assert!(matches!(refused, HostError::InUse { .. }), "{refused:?}");
    host.stop_container(name, Duration::from_secs(1))
        .await
        .expect("stop");
    host.stop_container(name, Duration::from_secs(1))
        .await
        .expect("stop again");
    let stopped = host.container(name).await.expect("inspect").expect("there");
    let ended = stopped.ended.expect("docker knows the run");
    assert!(
        !stopped.running && running.started_at.is_some_and(|at| at < ended.ended_at),
        "{ended:?}"
    );
    host.remove_container(name).await.expect("remove");

    // A container that was made by hand does not carry its configuration.
    let by_hand = ["docker", "run", "-d", "--name", name, &image];
    host.run_ok(&CommandSpec::new(by_hand))
        .await
        .expect("docker run");
    assert_eq!(host.container_config(name).await.expect("config"), None);
    host.remove_container(name).await.expect("remove");
    host.remove_image(&image).await.expect("remove");
    host.remove_image(&image).await.expect("remove none");
    assert_eq!(host.image(&image).await.expect("image"), None);
}

#[tokio::test]
#[ignore = "it runs inside a lab host, where the suite `live` starts it"]
async fn the_runtime_may_go_and_come_back() {
    let host = LiveHost::new();
    host.container_runtime().await.expect("version");
    for unit in ["docker.service", "docker.socket"] {
        host.stop_unit(unit).await.expect("stop");
    }
    println!(
        "{}",
        chain(&host.container_runtime().await.expect_err("stopped"))
    );
    host.start_unit("docker.service").await.expect("start");
    host.container_runtime().await.expect("version");
}

#[tokio::test]
#[ignore = "it runs inside a lab host, where the suite `live` starts it"]
async fn packages_are_installed_without_starting_their_services() {
    let files: Vec<PathBuf> = given("LIVE_DEBS").lines().map(PathBuf::from).collect();
    let unit = given("LIVE_DEBS_UNIT");
    let host = LiveHost::new();
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let before = host.read(policy, 10_000).await.expect("read");
    let mut wanted = BTreeMap::new();
    for file in &files {
        let (name, version) = host.package_file(file).await.expect("fields");
        assert_eq!(host.package_version(&name).await.expect("version"), None);
        wanted.insert(name, version);
    }
    let started = async |unit: &str| host.unit(unit).await.expect("unit").is_active();
    host.install_packages(&files).await.expect("install");
    for (name, version) in &wanted {
        assert_eq!(
            host.package_version(name).await.expect("version").as_ref(),
            Some(version)
        );
    }
    assert!(host.unit(&unit).await.expect("unit").loaded);
    assert!(!started(&unit).await, "{unit} was started");
    assert_eq!(host.read(policy, 10_000).await.expect("read"), before);
    let names: Vec<String> = wanted
        .into_keys()
        .chain(["never-heard-of".to_owned()])
        .collect();
    host.purge_packages(&names).await.expect("purge");
    for name in &names {
        assert_eq!(host.package_version(name).await.expect("version"), None);
    }
    host.purge_packages(&names).await.expect("purge again");
    let error = host
        .install_packages(&["/tmp/missing.deb".into()])
        .await
        .expect_err("missing");
    println!("{}", chain(&error));
}

#[tokio::test]
#[ignore = "it runs inside a lab host, where the suite `live` starts it"]
async fn the_kernel_answers() {
    let host = LiveHost::new();
    assert_eq!(host.sysctl("net.no.such").await.expect("sysctl"), None);
    let key = "net.ipv4.ip_forward";
    let before = host.sysctl(key).await.expect("sysctl").expect("there");
    host.set_sysctl(key, "1").await.expect("set");
    assert_eq!(
        host.sysctl(key).await.expect("sysctl").as_deref(),
        Some("1")
    );
    host.set_sysctl(key, &before).await.expect("set");
    for name in [
        "overlay",
        "br_netfilter",
        "nf_conntrack",
        "ip_vs",
        "nonsense",
    ] {
        println!(
            "{name}: {}",
            host.module_loaded(name).await.expect("module")
        );
    }
    assert!(!host.module_loaded("nonsense").await.expect("module"));
    host.unload_module("nonsense", &[]).await.expect("fine");
    println!(
        "{}",
        chain(&host.load_module("nonsense").await.expect_err("nonsense"))
    );
}

#[tokio::test]
#[ignore = "it runs inside a lab host, where the suite `live` starts it"]
async fn mounts_are_left_alone() {
    let host = LiveHost::new();
    let tree = Path::new("/var/tmp/nodelet live");
    let run = async |words: &[&str]| {
        host.run_ok(&CommandSpec::new(words.iter().copied()))
            .await
            .expect("run")
    };
    let (inner, data) = (
        "/var/tmp/nodelet live/inner",
        Path::new("/var/tmp/nodelet-live-data"),
    );
    run(&["mkdir", "-p", inner]).await;
    host.create_directory(data, Attributes::root(0o700))
        .await
        .expect("create");
    // A bind mount within one file system has the same device number.
    run(&["mount", "--bind", "/var/tmp/nodelet-live-data", inner]).await;
    let error = host.remove_tree(tree).await.expect_err("a mount below");
    println!("{}", chain(&error));
    assert!(chain(&error).contains(inner));
    run(&["umount", inner]).await;
    host.remove_tree(tree).await.expect("remove");
    host.remove_tree(data).await.expect("remove");
}

#[tokio::test]
#[ignore = "it runs inside a lab host, where the suite `live` starts it"]
async fn the_cluster_takes_objects_and_gives_them_back() {
    let kubeconfig = PathBuf::from(given("LIVE_KUBECONFIG"));
    let (host, access) = (LiveHost::new(), ClusterAccess { kubeconfig });
    let name = "live-node";
    // An interrupted run may have left it.
    if let Some(left) = host.node(&access, name).await.expect("get") {
        let deleted = host.delete_same_node(&access, name, &left);
        assert!(deleted.await.expect("delete"));
    }
    assert_eq!(host.node(&access, name).await.expect("get"), None);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"a": "b"}}});
    assert_eq!(
        host.compare_object(&access, &node).await.expect("compare"),
        None
    );
    host.apply_object(&access, &node).await.expect("apply");
    let patch = json!({"spec": {"unschedulable": true, "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let taint = Taint {
        key: "k".into(),
        value: "v".into(),
        effect: "NoSchedule".into(),
    };
    // Controllers write their own taints on a new node, and may overwrite ours at first.
    let mut seen = ClusterNode::default();
    for _ in 0..100 {
        host.patch_node(&access, name, &patch).await.expect("patch");
        seen = host.node(&access, name).await.expect("get").expect("there");
        if seen.taints.contains(&taint) {
            break;
        }
    }
    assert!(seen.taints.contains(&taint), "{seen:?}");
    assert!(seen.unschedulable && seen.ready.is_none(), "{seen:?}");
    assert_eq!(seen.cordoned_by, FIELD_MANAGER);
    assert_eq!(seen.labels.get("a").map(String::as_str), Some("b"));

    let map = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "live"}, "data": {"k": value}});
    for (applied, compared, differs) in [("1", "1", false), ("1", "2", true), ("2", "2", false)] {
        host.apply_object(&access, &map(applied))
            .await
            .expect("apply");
        let said = host
            .compare_object(&access, &map(compared))
            .await
            .expect("compare");
        let said = said.expect("there");
        assert_eq!(said.differs, differs, "{applied} {compared}");
        assert_eq!(said.present["data"]["k"], applied);
    }
    host.delete_object(&access, &map("")).await.expect("delete");
    host.delete_object(&access, &map(""))
        .await
        .expect("delete none");
    let strange = json!({"apiVersion": "no.such/v1", "kind": "Thing", "metadata": {"name": "x"}});
    assert_eq!(
        host.compare_object(&access, &strange)
            .await
            .expect("compare"),
        None
    );
    host.delete_object(&access, &strange)
        .await
        .expect("delete none");

    // A token is sent to the server, and not only parsed.
    let refused = [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "live-refused"}, "stringData": {"token": "no token"}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "live-refused"}, "secrets": [{"name": "live-refused"}]}),
    ];
    for object in &refused {
        host.apply_object(&access, object).await.expect("apply");
    }
    for (account, accepted) in [
        ("default", Some(true)),
        ("live-refused", Some(false)),
        ("live-no-such-account", None),
    ] {
        let said = host.accepts_token_of(&access, "default", account).await;
        assert_eq!(said.expect("the server answers"), accepted, "{account}");
    }
    for object in &refused {
        host.delete_object(&access, object).await.expect("delete");
    }
    println!(
        "{}",
        chain(
            &host
                .apply_object(&access, &strange)
                .await
                .expect_err("no such kind")
        )
    );
    let wrong = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "UPPER"}});
    println!(
        "{}",
        chain(
            &host
                .apply_object(&access, &wrong)
                .await
                .expect_err("bad name")
        )
    );

    let last = host.node(&access, name).await.expect("get");
    let last = last.expect("it is there");
    let deleted = host.delete_same_node(&access, name, &last);
    assert!(deleted.await.expect("delete"));
    let deleted = host.delete_same_node(&access, name, &last);
    assert!(deleted.await.expect("delete none"));
    assert_eq!(host.node(&access, name).await.expect("get"), None);

    let missing = ClusterAccess {
        kubeconfig: "/no/such/admin.conf".into(),
    };
    println!(
        "{}",
        chain(&host.node(&missing, name).await.expect_err("no kubeconfig"))
    );
    let silent = Path::new("/tmp/silent.conf");
    let text = "{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}], \
                contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}]}";
    host.write(silent, text.as_bytes(), Attributes::root(0o600))
        .await
        .expect("write");
    let silent = ClusterAccess {
        kubeconfig: silent.into(),
    };
    println!(
        "{}",
        chain(
            &host
                .node(&silent, name)
                .await
                .expect_err("no server listens")
        )
    );
}
