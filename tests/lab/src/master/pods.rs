//! Pods on several nodes of a cluster, which reach one another by their addresses and by Services.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use lab::command::poll;
use lab::{Host, TOOLBOX_IMAGE};

use super::Node;
use super::together::KUBECTL;

/// Time limit until all parts know what has changed: the API server, nodeletd, kubelet and kube-proxy.
const SEEN: Duration = Duration::from_secs(60);
/// More than a page has, in bytes.
const PAGE: u64 = 64 * 1024;

/// Pods, each on a node of its own and with a Service of its name. Each serves a page and logs who asks for it. They are removed with this.
pub struct Pods<'a> {
    master: &'a Node,
    names: Vec<&'a str>,
}

impl<'a> Pods<'a> {
    /// Runs them: the name of each, and its node. The pods name their nodes, so no scheduler and no taint keeps them from there. The nodes need
    /// the toolbox.
    ///
    /// # Panics
    /// A pod is not Ready within a minute.
    #[must_use]
    pub fn run(master: &'a Node, pods: &[(&'a str, &str)]) -> Self {
        let account = format!("{KUBECTL} get serviceaccount/default");
        master.wait_for("pods can be made", &account, SEEN);
        for (pod, node) in pods {
            let overrides = format!(
                r#"{{"apiVersion": "v1", "spec": {{"nodeName": "{node}", "terminationGracePeriodSeconds": 1, "tolerations": [{{"operator": "Exists"}}]}}}}"#
            );
            master.sh(&format!(
                "{KUBECTL} run {pod} --image={TOOLBOX_IMAGE} --image-pull-policy=Never --restart=Never --port=8080 --overrides='{overrides}' -- \
                 httpd -f -v -p 8080 -h /www
                 {KUBECTL} expose pod/{pod} --type=NodePort --port=80 --target-port=8080"
            ));
        }
        let names: Vec<&str> = pods.iter().map(|(pod, _)| *pod).collect();
        let pods = Self { master, names };
        pods.master.sh(&format!(
            "{KUBECTL} wait --for=condition=Ready pod/{} --timeout=60s",
            pods.names.join(" pod/")
        ));
        pods
    }

    /// In both directions, by the pods' addresses. A server sees the address of the pod that asks, not that of its node.
    ///
    /// # Panics
    /// One does not reach the other.
    #[track_caller]
    pub fn reach_one_another(&self, [a, b]: [&str; 2]) {
        for (from, to) in [(a, b), (b, a)] {
            let server = self.of_pod(to, "status.podIP");
            let client = self.of_pod(from, "status.podIP");
            let seen = format!("{KUBECTL} logs {to} | grep -F '{client}' | grep -c response:200");
            let before = self.master.sh(&format!("{seen} || true"));
            let sees = format!("[ $({seen}) -gt {} ]", before.trim());
            let asks = asks(from, &format!("{server}:8080"));
            self.master
                .wait_for(&format!("{from} reaches {to}"), &asks, SEEN);
            self.master
                .wait_for(&format!("{to} sees {client}"), &sees, SEEN);
        }
    }

    /// Each pod asks the other's Service at its cluster IP. Then this machine asks the port of the Service on each of these hosts. A Service has one
    /// endpoint, so the other nodes have to forward the packets.
    ///
    /// # Panics
    /// A Service does not answer.
    #[track_caller]
    pub fn serve_one_another(&self, [a, b]: [&str; 2], hosts: &[&Host]) {
        for (from, to) in [(a, b), (b, a)] {
            self.reaches_service(from, to);
            for host in hosts {
                self.answers_outside(to, host);
            }
        }
    }

    /// Waits until the Service answers a pod.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn reaches_service(&self, from: &str, service: &str) {
        let address = self.of_service(service, "spec.clusterIP");
        let what = format!("{from} reaches the Service {service}");
        self.master.wait_for(&what, &asks(from, &address), SEEN);
    }

    /// Waits until the Service's port of a node answers outside of the cluster.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn answers_outside(&self, service: &str, host: &Host) {
        let port = self.of_service(service, "spec.ports[0].nodePort");
        let port: u16 = port.parse().expect("a port");
        let mut last = String::new();
        let page = poll(SEEN, || {
            let answer = page_from_outside(host.address(), port);
            answer
                .inspect_err(|error| last = error.to_string())
                .ok()
                .filter(|page| page.contains("hello from the toolbox"))
        });
        assert!(
            page.is_some(),
            "port {port} of {} for {service} does not answer: {last}",
            host.name()
        );
    }

    /// Removes them.
    ///
    /// # Panics
    /// The API server does not.
    pub fn remove(self) {
        self.master.sh(&self.removal());
    }

    fn removal(&self) -> String {
        format!(
            "{KUBECTL} delete pod/{} service/{} --ignore-not-found --force --grace-period=0",
            self.names.join(" pod/"),
            self.names.join(" service/")
        )
    }

    fn of_pod(&self, name: &str, field: &str) -> String {
        self.field("pod", name, field)
    }

    fn of_service(&self, name: &str, field: &str) -> String {
        self.field("service", name, field)
    }

    fn field(&self, kind: &str, name: &str, field: &str) -> String {
        let script = format!("{KUBECTL} get {kind}/{name} --output jsonpath='{{.{field}}}'");
        self.master.sh(&script).trim().to_owned()
    }
}

impl Drop for Pods<'_> {
    fn drop(&mut self) {
        // With `try_sh`, because it must not panic after the suite has failed.
        let _ = self.master.try_sh(&self.removal());
    }
}

/// A script in which a pod asks for the page at an address.
fn asks(pod: &str, address: &str) -> String {
    format!(
        "{KUBECTL} exec {pod} -- timeout 5 wget -q -O - http://{address}/index.html | grep -q 'hello from the toolbox'"
    )
}

/// The answer of an HTTP server on the lab's network to this machine, which is no host of the lab.
///
/// # Errors
/// It does not answer within seconds.
pub fn page_from_outside(address: Ipv4Addr, port: u16) -> std::io::Result<String> {
    let timeout = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&(address, port).into(), timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.take(PAGE).read_to_string(&mut page)?;
    Ok(page)
}
