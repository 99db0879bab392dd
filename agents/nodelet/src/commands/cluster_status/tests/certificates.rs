//! Certificates that end soon or are not known, and requests for certificates.

use engine::host::NewCertificateRequest;
use engine::kubernetes::NODE_SIGNER;

use super::*;
use crate::commands::cluster_status::observed::Server;

#[tokio::test(start_paused = true)]
async fn certificates_that_end_soon_are_problems() {
    let mut cluster = Cluster::healthy().await;
    let ending = der(ENDING).await;
    cluster
        .host
        .with_world_mut(|world| world.endpoint_shows("172.30.0.21:10250", &ending));
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    let wanted = "the certificate of kubelet on node w-1 ends at 2026-01-03T00:00:00Z";
    assert!(problems.starts_with(wanted), "{problems}");
    cluster.host = cluster.host.with_file(FILE, ENDING);
    let (problems, _) = cluster.problems().await;
    assert!(
        problems.contains(&format!("{FILE} ends in 1day 23h")),
        "{problems}"
    );
}

#[tokio::test(start_paused = true)]
async fn servers_of_other_masters_whose_certificates_end_soon_are_problems() {
    for (port, server) in [(443, "kube-apiserver"), (4001, "etcd")] {
        let cluster = Cluster::healthy().await;
        let ending = der(ENDING).await;
        let endpoint = format!("172.30.0.13:{port}");
        cluster
            .host
            .with_world_mut(|world| world.endpoint_shows(&endpoint, &ending));
        let (problems, code) = cluster.problems().await;
        let says = format!(
            "the certificate of {server} on node cp-3 ends at 2026-01-03T00:00:00Z and is not renewed → `nodelet certs renew` on its host"
        );
        assert!(problems.starts_with(&says) && code == 2, "{problems}");
        let status = cluster.status().await;
        let shown = text::screen(&status);
        let line =
            format!("✗ {server} on other masters: 2; the first ends at 2026-01-03T00:00:00Z");
        assert!(shown.contains(&line), "{shown}");
        let metrics = metrics::text(&status);
        let name = server.replace('-', "_");
        let line = format!("nodelet_cluster_{name}_certificate_end_seconds 1767398400\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

/// That it is down is a problem of etcd.
#[tokio::test(start_paused = true)]
async fn the_certificate_of_a_server_that_does_not_answer_is_unknown() {
    let cluster = Cluster::healthy().await;
    let down = FaultPlan::none().stall("https_get", &format!("{}*", url(3)));
    cluster.host.set_faults(down);
    let status = cluster.status().await;
    assert_eq!(status.exit().code(), 1, "{status:#?}");
    let says = "certificate of etcd on node: cp-3: no answer within 3 s";
    assert_eq!(status.unknown, [says]);
    let shown = text::screen(&status);
    for line in [
        "✓ etcd on other masters: 1; the first ends at",
        "? etcd on node cp-3: unknown",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
}

/// A member of etcd ends a connection without one.
#[tokio::test(start_paused = true)]
async fn members_of_etcd_are_asked_with_a_certificate() {
    for file in [ETCD_CA, ETCD_CERTIFICATE, ETCD_KEY] {
        let cluster = Cluster::healthy().await;
        cluster.host.with_world_mut(|world| world.remove(file));
        let unknown = cluster.status().await.unknown.join("\n");
        let says = "certificate of etcd on node: cp-2: could not ";
        assert!(unknown.starts_with(says), "{unknown}");
        assert!(unknown.contains(file), "{unknown}");
        assert!(unknown.ends_with("(and 1 more nodes)"), "{unknown}");
    }
}

/// A master whose kubelet is stopped may serve the API.
#[tokio::test(start_paused = true)]
async fn a_master_that_is_not_ready_is_asked_too() {
    let cluster = Cluster::healthy().await;
    cluster.node("cp-3", |node| {
        node.labels = BTreeMap::from([(MASTER_LABEL.to_owned(), String::new())]);
        node.addresses = vec!["172.30.0.13".parse().expect("an address")];
        node.ready = Some(false);
    });
    let status = cluster.status().await;
    let of_third = status.node_certificates.iter();
    let of_third = of_third.filter(|one| one.node == "cp-3" && one.ends.known().is_some());
    let servers: Vec<Server> = of_third.map(|one| one.server).collect();
    assert_eq!(servers, [Server::KubeApiserver, Server::Etcd]);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_servers_and_the_time_are_bounded() {
    let cluster = Cluster::healthy().await;
    for number in 0..200 {
        cluster.node(&format!("x-{number}"), |node| {
            if number < 20 {
                node.labels = BTreeMap::from([(MASTER_LABEL.to_owned(), String::new())]);
            }
        });
    }
    // `status` asserts the time.
    let silent = FaultPlan::none().stall("https_get", "*");
    cluster.host.set_faults(silent);
    let status = cluster.status().await;
    let of = |server| {
        let all = status.node_certificates.iter();
        all.filter(|one| one.server == server).count()
    };
    assert_eq!(Server::ALL.map(of), [100, 9, 9]);
    let shown = text::screen(&status);
    let line = "? kubelet on node cp-2 and 99 more: unknown";
    assert!(shown.contains(line), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_master_decides_about_is_a_problem_after_a_minute() {
    let cluster = Cluster::healthy().await;
    let new = NewCertificateRequest {
        name: "csr-1".to_owned(),
        request: Vec::new(),
        signer: NODE_SIGNER.to_owned(),
        usages: Vec::new(),
    };
    cluster.host.with_world_mut(|world| {
        world.certificate_request(&new, "system:node:w-1", &[]);
        world.advance(Duration::from_secs(61));
    });
    let (problems, code) = cluster.problems().await;
    let says = "decided about the request csr-1 of system:node:w-1 for a certificate in 1m 1s → ";
    assert!(problems.contains(says) && code == 2, "{problems}");
}
