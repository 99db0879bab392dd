//! An overlay reads the host below and keeps changes to itself, in each capability of a host.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::host::{
    Attributes, CertificateRequests as _, Clock as _, Cluster as _, ClusterAccess, ClusterNode,
    CommandSpec, Containers as _, EntryKind, Files as _, HostError, HttpsRequest, Kernel as _,
    Network as _, NewCertificateRequest, Packages as _, Processes as _, RequestState,
    Services as _,
};

fn path(text: &str) -> &Path {
    Path::new(text)
}

const MODE: Attributes = Attributes::root(0o644);

/// Runs something on an overlay above a host, and checks that the host below is unchanged.
async fn above<F>(lower: FakeHost, deeds: F)
where
    F: AsyncFnOnce(&OverlayHost<'_>),
{
    let before = lower.snapshot();
    deeds(&OverlayHost::new(&lower)).await;
    assert_eq!(lower.mutating_calls(), []);
    assert_eq!(lower.snapshot(), before);
}

#[tokio::test]
async fn files_are_read_through_and_changed_above() {
    let lower = FakeHost::new()
        .with_file("/etc/a", "old")
        .with_file("/srv/deep/b", "x")
        .with_file("/srv/deep/c", "x");
    above(lower, async |host| {
        assert_eq!(host.read(path("/etc/a"), 9).await.unwrap().unwrap(), b"old");
        host.write(path("/etc/a"), b"new", MODE).await.unwrap();
        assert_eq!(host.read(path("/etc/a"), 9).await.unwrap().unwrap(), b"new");
        host.append(path("/srv/deep/b"), b"y", MODE).await.unwrap();
        assert_eq!(
            host.read(path("/srv/deep/b"), 9).await.unwrap().unwrap(),
            b"xy"
        );
        assert!(host.write(path("/none/a"), b"", MODE).await.is_err());
        assert!(
            host.remove(path("/srv/deep")).await.is_err(),
            "it is not empty"
        );
        host.remove(path("/srv/deep/c")).await.unwrap();
        assert_eq!(host.list(path("/srv/deep")).await.unwrap(), ["b"]);
        host.remove_tree(path("/srv")).await.unwrap();
        assert_eq!(host.entry(path("/srv/deep/b")).await.unwrap(), None);
        host.create_directory(path("/srv"), Attributes::root(0o700))
            .await
            .unwrap();
        assert_eq!(host.list(path("/srv")).await.unwrap(), Vec::<String>::new());
    })
    .await;
}

/// Otherwise a dry run would promise what an apply cannot write.
#[tokio::test]
async fn what_the_host_below_refuses_to_write_is_refused_above() {
    let lower = FakeHost::new()
        .with_file("/etc/full/a", "old")
        .with_file("/etc/safe/a", "old");
    lower.with_world_mut(|world| {
        world.exhaust_inodes("/etc/full");
        world.protect("/etc/safe");
    });
    above(lower, async |host| {
        for directory in ["/etc/full", "/etc/safe"] {
            let at = |name: &str| Path::new(directory).join(name);
            let tries = [
                host.write(&at("a"), b"new", MODE).await,
                host.create_directory(&at("b"), MODE).await,
                host.symlink(&at("c"), "a").await,
                host.try_write(&at("d"), 0).await,
                host.predict_write(&at("e"), 0).await,
            ];
            for (index, one) in tries.iter().enumerate() {
                assert!(one.is_err(), "{directory}: {index}");
            }
            assert_eq!(host.read(&at("a"), 9).await.unwrap().unwrap(), b"old");
            for name in ["b", "c"] {
                assert_eq!(host.entry(&at(name)).await.unwrap(), None, "{directory}");
            }
        }
        // A directory that is there is not made.
        host.create_directory(path("/etc/full"), Attributes::root(0o755))
            .await
            .unwrap();
    })
    .await;
}

/// A dry run gives up only if an apply would fail in the same way.
#[tokio::test]
async fn a_write_that_the_host_below_refuses_differs_from_one_that_fails_above() {
    let lower = FakeHost::new().with_file("/etc/a", "old");
    lower.with_world_mut(|world| {
        world.protect("/etc/a");
        world.exhaust_inodes("/srv");
    });
    above(lower, async |host| {
        for refused in [
            host.write(path("/etc/a"), b"new", MODE).await,
            host.try_write(path("/etc/a"), 1).await,
            host.symlink(path("/etc/a"), "/etc/b").await,
            host.create_directory(path("/srv/a"), MODE).await,
        ] {
            let is_refused = matches!(refused, Err(HostError::WriteRefused { .. }));
            assert!(is_refused, "{refused:?}");
        }
        for name in ["/none/a", "/proc/sys/new"] {
            let failed = host.write(path(name), b"", MODE).await;
            assert!(matches!(failed, Err(HostError::File { .. })), "{failed:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_unknown_file_is_read_only_after_it_is_written() {
    let lower = FakeHost::new().with_file("/etc/a", "old");
    lower.symlink(path("/etc/l"), "/etc/a").await.unwrap();
    lower.clear_journal();
    above(lower, async |host| {
        host.mark_unknown(path("/etc/a"), "no subnet yet")
            .await
            .unwrap();
        host.mark_unknown(path("/etc"), "no subnet yet")
            .await
            .unwrap();
        let error = host.read(path("/etc/l"), 9).await.unwrap_err();
        let told = crate::model::chain(&error).join(": ");
        assert!(told.contains("known after apply: no subnet yet"), "{told}");
        assert!(host.is_unknown(path("/etc/l")).await.unwrap());
        assert!(host.entry(path("/etc/a")).await.unwrap().is_some());
        host.write(path("/etc/a"), b"new", MODE).await.unwrap();
        assert!(!host.is_unknown(path("/etc/l")).await.unwrap());
        assert_eq!(host.read(path("/etc/a"), 9).await.unwrap().unwrap(), b"new");
    })
    .await;
}

#[tokio::test]
async fn links_below_lead_to_what_is_written_above() {
    let lower = FakeHost::new().with_directory("/usr/lib/x");
    lower.symlink(path("/libx"), "/usr/lib/x").await.unwrap();
    lower.clear_journal();
    above(lower, async |host| {
        host.write(path("/libx/a"), b"1", MODE).await.unwrap();
        assert_eq!(
            host.read(path("/usr/lib/x/a"), 9).await.unwrap().unwrap(),
            b"1"
        );
        host.symlink(path("/libx"), "/etc").await.unwrap();
        let entry = host.entry(path("/libx")).await.unwrap().unwrap();
        assert_eq!(entry.kind, EntryKind::Symlink("/etc".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_changed_unit_file_makes_a_running_unit_stale() {
    let lower = FakeHost::new().with_unit("a.service", "[Service]\nExecStart=/usr/bin/true\n");
    lower.with_world_mut(|world| {
        world.file("/usr/bin/true", "");
        world.start_unit("a.service").unwrap();
    });
    above(lower, async |host| {
        let drop_in = path("/etc/systemd/system/a.service.d");
        host.create_directory(drop_in, MODE).await.unwrap();
        host.write(&drop_in.join("x.conf"), b"[Service]\nNice=1\n", MODE)
            .await
            .unwrap();
        let before = host.unit("a.service").await.unwrap();
        assert!(before.is_active() && before.stale);
        host.reload_units().await.unwrap();
        host.restart_unit("a.service").await.unwrap();
        let after = host.unit("a.service").await.unwrap();
        assert!(after.is_active() && !after.stale && after.invocation != before.invocation);
        host.stop_unit("a.service").await.unwrap();
        host.set_unit_enabled("a.service", true).await.unwrap();
        let stopped = host.unit("a.service").await.unwrap();
        assert!(!stopped.is_active() && stopped.enabled);
    })
    .await;
}

#[tokio::test]
async fn a_docker_that_does_not_run_is_not_woken() {
    let lower = FakeHost::new().with_unit("docker.service", "[Service]\n");
    let host = OverlayHost::new(&lower).with_archive("/opt/i.tar".into(), "image:1".to_owned());
    assert!(host.container_runtime().await.is_err());
    assert!(
        lower
            .journal()
            .iter()
            .all(|call| call.name != "container_runtime")
    );
    lower.with_world_mut(|world| world.file("/opt/i.tar", "anything"));
    host.start_unit("docker.service").await.unwrap();
    host.container_runtime().await.unwrap();
    assert_eq!(host.image("image:1").await.unwrap(), None);
    host.load_image(path("/opt/i.tar")).await.unwrap();
    assert!(host.image("image:1").await.unwrap().is_some());
    assert_eq!(lower.mutating_calls(), []);
}

#[tokio::test]
async fn kernel_packages_and_links_change_above_alone() {
    let lower = FakeHost::new().with_package_file("/opt/k.deb", "keepalived", "2.2", &[]);
    lower.with_world_mut(|world| world.link("dummy0", true, &[]));
    above(lower, async |host| {
        let key = "net.bridge.bridge-nf-call-iptables";
        assert_eq!(host.sysctl(key).await.unwrap(), None);
        host.load_module("br_netfilter").await.unwrap();
        assert_eq!(host.sysctl(key).await.unwrap().as_deref(), Some("1"));
        host.set_sysctl("net.ipv4.ip_forward", "1").await.unwrap();
        assert_eq!(
            host.sysctl("net.ipv4.ip_forward").await.unwrap().as_deref(),
            Some("1")
        );
        host.install_packages(&["/opt/k.deb".into()]).await.unwrap();
        assert_eq!(
            host.package_version("keepalived").await.unwrap().as_deref(),
            Some("2.2")
        );
        assert!(host.unit("keepalived.service").await.unwrap().loaded);
        assert!(host.has_program("keepalived").await.unwrap());
        host.remove_link("dummy0").await.unwrap();
        assert_eq!(host.link("dummy0").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn commands_are_not_run_and_nothing_waits() {
    let lower = FakeHost::new().with_endpoint("10.0.0.9:443", 200, "ok");
    let request = HttpsRequest {
        url: "https://10.0.0.9/".to_owned(),
        ca: None,
        client: None,
        timeout: Duration::from_secs(1),
    };
    above(lower, async |host| {
        assert!(host.run(&CommandSpec::new(["true"])).await.is_err());
        let before = host.now();
        host.pause(Duration::from_secs(3600)).await;
        assert_eq!(host.now().duration_since(before).unwrap().as_secs(), 3600);
        assert_eq!(host.https_get(&request).await.unwrap().status, 200);
        host.write(path("/etc/a"), b"", MODE).await.unwrap();
        let after = host.https_get(&request).await.unwrap_err();
        assert!(
            crate::model::chain(&after)
                .join(": ")
                .contains("known after apply")
        );
    })
    .await;
}

#[tokio::test]
async fn images_and_containers_of_a_docker_that_does_not_run_are_not_guessed() {
    let stopped = || FakeHost::new().with_unit("docker.service", "[Service]\n");
    above(stopped(), async |host| {
        host.start_unit("docker.service").await.unwrap();
        let never = host.image("etcd:1").await.unwrap();
        assert_eq!(never, None, "one that has never run has none");
        assert_eq!(host.container("etcd").await.unwrap(), None);
    })
    .await;
    let with_data = stopped().with_file("/var/lib/docker/image/overlay2/repositories.json", "{}");
    above(with_data, async |host| {
        host.start_unit("docker.service").await.unwrap();
        host.container_runtime().await.unwrap();
        // A container that is taken to be absent would be predicted to be created.
        for error in [
            host.image("etcd:1").await.unwrap_err(),
            host.container("etcd").await.unwrap_err(),
            host.containers(&BTreeMap::new()).await.unwrap_err(),
            host.stop_container("etcd", Duration::ZERO)
                .await
                .unwrap_err(),
        ] {
            let told = crate::model::chain(&error).join(": ");
            assert!(told.contains("docker does not run"), "{told}");
            assert!(told.contains("known after apply"), "{told}");
        }
    })
    .await;
}

/// The overlay sees that the unit is masked.
#[tokio::test]
async fn a_masked_unit_does_not_start_here_either() {
    let lower = FakeHost::new().with_unit("docker.service", "[Service]\n");
    let mask = path("/etc/systemd/system/docker.service");
    lower.remove(mask).await.unwrap();
    lower.with_world_mut(|world| world.file("/lib/systemd/system/docker.service", "[Service]\n"));
    lower.symlink(mask, "/dev/null").await.unwrap();
    lower.clear_journal();
    above(lower, async |host| {
        let error = host.start_unit("docker.service").await.unwrap_err();
        assert!(format!("{error:?}").contains("is masked"), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn requests_for_certificates_are_read_through_and_decided_above() {
    let request = |name: &str| NewCertificateRequest {
        name: name.to_owned(),
        request: b"PEM".to_vec(),
        signer: "s".to_owned(),
        usages: Vec::new(),
    };
    let lower = FakeHost::new()
        .with_file("/etc/kubeconfig", "")
        .with_kubernetes(|rules| rules.remote_api = true);
    lower.with_world_mut(|world| {
        world.certificate_request(&request("a"), "system:node:w-1", &[]);
        world.node("w-1", ClusterNode::default());
    });
    above(lower, async |host| {
        let access = ClusterAccess::with(path("/etc/kubeconfig"));
        let first = host.certificate_request(&access, "a").await.unwrap();
        let first = first.expect("it is there");
        let approved = host.approve_certificate_request(&access, &first, "").await;
        approved.unwrap();
        assert!(
            host.create_certificate_request(&access, &request("b"))
                .await
                .unwrap()
        );
        assert!(
            !host
                .create_certificate_request(&access, &request("a"))
                .await
                .unwrap()
        );
        let found = host
            .certificate_requests(&access, "s", Duration::ZERO)
            .await
            .unwrap();
        let states: Vec<_> = found
            .requests
            .iter()
            .map(|its| (its.name.as_str(), &its.state))
            .collect();
        let expected = [
            ("a", &RequestState::Approved),
            ("b", &RequestState::Pending),
        ];
        assert_eq!(states, expected);
        let nodes = host.nodes(&access).await.unwrap();
        assert!(nodes.contains_key("w-1"), "{nodes:?}");
        let node = host.node(&access, "w-1").await.unwrap().unwrap();
        let gone = host.delete_same_node(&access, "w-1", &node);
        assert!(gone.await.unwrap());
        assert!(!host.nodes(&access).await.unwrap().contains_key("w-1"));
    })
    .await;
}

/// A question to another host has to be asked later, not only later on a clock that stands still below.
#[tokio::test]
async fn a_pause_for_other_hosts_is_one_below_too() {
    let lower = FakeHost::new();
    let host = OverlayHost::new(&lower);
    let second = Duration::from_secs(1);
    let (above, below) = (host.elapsed(), lower.elapsed());
    host.pause(second).await;
    assert_eq!(lower.elapsed(), below);
    host.pause_for_others(second).await;
    assert_eq!(lower.elapsed(), below + second);
    assert_eq!(host.elapsed(), above + second * 2);
}
