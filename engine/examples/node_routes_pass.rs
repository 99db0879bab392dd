//! `node_routes` in this network namespace, measured. `cargo xtask bench --only node-routes` runs it beside a fake API server.
//!
//! `node_routes_pass ours URL` looks and converges as a step of the role does. `node_routes_pass peer URL` does the least that any program has
//! to do: it reads the list as plain JSON and gives the routes to `ip -batch`. Both print lines `NAME MILLISECONDS`, and `memory MEGABYTES`.

#![expect(
    clippy::disallowed_methods,
    reason = "a measurement looks at the machine itself"
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use engine::host::live::{LiveHost, NodeEvent, watch_nodes};
use engine::host::{ClusterAccess, ROUTE_PROTOCOL};
use engine::resource::{Context, NoSecrets, NodeRoutesSpec, Outputs, Receipt, Resource as _};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The node of this host, which gets no route.
const OWN: &str = "node-0000";
/// The pods' network of the fake cluster.
const NETWORK: &str = "10.96.0.0/11";
/// Bound on the wait for an event of the watch, and on one answer.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ours", url] => ours(url).await?,
        ["peer", url] => peer(url)?,
        _ => return Err("usage: node_routes_pass ours|peer URL".into()),
    }
    println!("memory {:.1}", peak_megabytes()?);
    Ok(())
}

async fn ours(url: &str) -> Outcome<()> {
    let directory = tempfile::tempdir()?;
    let kubeconfig = directory.path().join("kubeconfig");
    fs::write(&kubeconfig, kubeconfig_of(url)?)?;
    let host = LiveHost::new();
    let outputs = Outputs::default();
    let cx = Context {
        host: &host,
        outputs: &outputs,
        secrets: &NoSecrets,
        absent: false,
        cancel: None,
    };
    let spec = NodeRoutesSpec {
        node: OWN.to_owned(),
        network: NETWORK.parse()?,
        kubeconfig,
    };
    let began = Instant::now();
    let made = apply(&spec, &cx).await?;
    tell("first", began);
    if made == 0 {
        return Err("no routes were made".into());
    }

    let began = Instant::now();
    let observed = spec.observe(&cx).await?;
    if let Some(change) = spec.diff(&observed, false) {
        return Err(format!("a check finds {} differences", change.differences.len()).into());
    }
    tell("check", began);

    let reported = changed_node(&spec).await?;
    let changed = apply(&spec, &cx).await?;
    tell("change", reported);
    if changed != 1 {
        return Err(format!("{changed} routes have changed, not one").into());
    }
    Ok(())
}

/// Observes, converges and observes again. Returns how many routes differed.
async fn apply(spec: &NodeRoutesSpec, cx: &Context<'_>) -> Outcome<usize> {
    let observed = spec.observe(cx).await?;
    let Some(change) = spec.diff(&observed, false) else {
        return Ok(0);
    };
    spec.converge(&observed, cx, &mut Receipt::default())
        .await?;
    let after = spec.observe(cx).await?;
    if spec.diff(&after, false).is_some() {
        return Err("the routes are not as planned".into());
    }
    match spec.note(&after) {
        Some(note) => Err(note.into()),
        None => Ok(change.differences.len()),
    }
}

/// Watches the nodes until one changes after the list. Returns when this was reported.
async fn changed_node(spec: &NodeRoutesSpec) -> Outcome<Instant> {
    let access = ClusterAccess::with(&spec.kubeconfig);
    let listed = Cell::new(None);
    let changed = Cell::new(None);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let mut sender = Some(sender);
    let began = Instant::now();
    let watch = watch_nodes(&access, None, |event| match event {
        NodeEvent::Listed => listed.set(Some(began.elapsed())),
        NodeEvent::Seen { .. } if listed.get().is_some() => {
            if let Some(sender) = sender.take() {
                changed.set(Some(Instant::now()));
                let _ = sender.send(());
            }
        }
        NodeEvent::Seen { .. } | NodeEvent::Gone { .. } => {}
    });
    tokio::select! {
        ended = watch => ended?,
        reported = tokio::time::timeout(LIMIT, receiver) => reported??,
    }
    let listed = listed.get().ok_or("the watch listed nothing")?;
    println!("watch {:.1}", listed.as_secs_f64() * 1e3);
    changed
        .get()
        .ok_or_else(|| "the watch ended without a change".into())
}

/// With an authority, as a kubeconfig of the role has one.
fn kubeconfig_of(url: &str) -> Outcome<String> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&KeyPair::generate()?)?.pem();
    let authority = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, authority);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority-data": authority}}],
        "users": [{"name": "u", "user": {}}],
    });
    Ok(config.to_string())
}

fn peer(url: &str) -> Outcome<()> {
    let protocol = ROUTE_PROTOCOL.to_string();
    let began = Instant::now();
    let wanted = list(url)?;
    let lines = wanted
        .iter()
        .map(|(subnet, via)| format!("route add {subnet} via {via} proto {protocol}\n"));
    batch(&lines.collect::<String>())?;
    tell("first", began);

    let began = Instant::now();
    if shown(&protocol)? != list(url)? {
        return Err("the routes are not as listed".into());
    }
    tell("check", began);

    let began = Instant::now();
    let mut moved = list(url)?;
    let via = moved.values_mut().next().ok_or("the list is empty")?;
    "172.30.200.1".clone_into(via);
    let present = shown(&protocol)?;
    let differ = moved
        .iter()
        .filter(|(subnet, via)| present.get(*subnet) != Some(*via));
    let lines: Vec<String> = differ
        .map(|(subnet, via)| format!("route replace {subnet} via {via} proto {protocol}\n"))
        .collect();
    batch(&lines.concat())?;
    if lines.len() != 1 || shown(&protocol)? != moved {
        return Err("the route has not changed".into());
    }
    tell("change", began);
    Ok(())
}

/// The address of each other node by its subnet, from the list in pages as nodelet asks for it.
fn list(url: &str) -> Outcome<BTreeMap<String, String>> {
    let mut routes = BTreeMap::new();
    let mut path = "/api/v1/nodes?limit=500".to_owned();
    loop {
        let page: Value = serde_json::from_slice(&get(url, &path)?)?;
        for node in page["items"].as_array().into_iter().flatten() {
            let addresses = node["status"]["addresses"].as_array();
            let mut internal = addresses.into_iter().flatten();
            let internal = internal.find(|address| address["type"] == "InternalIP");
            let via = internal.and_then(|address| address["address"].as_str());
            let subnet = node["spec"]["podCIDR"].as_str();
            if let (Some(subnet), Some(via), false) = (subnet, via, node["metadata"]["name"] == OWN)
            {
                routes.insert(subnet.to_owned(), via.to_owned());
            }
        }
        match page["metadata"]["continue"].as_str() {
            Some(token) => path = format!("/api/v1/nodes?limit=500&continue={token}"),
            None => return Ok(routes),
        }
    }
}

/// The body of an answer.
fn get(url: &str, path: &str) -> Outcome<Vec<u8>> {
    let address = url.strip_prefix("http://").ok_or("no plain URL")?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = b"\r\n\r\n";
    let head = answer.windows(end.len()).position(|part| part == end);
    let head = head.ok_or("the answer has no head")?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err("the server refuses".into());
    }
    Ok(answer.split_off(head + end.len()))
}

/// Our routes in the kernel's table.
fn shown(protocol: &str) -> Outcome<BTreeMap<String, String>> {
    let output = Command::new("ip")
        .args(["-json", "-4", "route", "show", "table", "main", "proto"])
        .arg(protocol)
        .output()?;
    let routes: Value = serde_json::from_slice(&output.stdout)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let routes = routes.as_array().into_iter().flatten();
    Ok(routes
        .map(|route| (text(&route["dst"]), text(&route["gateway"])))
        .collect())
}

fn batch(lines: &str) -> Outcome<()> {
    let mut ip = Command::new("ip")
        .args(["-4", "-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut stdin = ip.stdin.take().ok_or("ip has no standard input")?;
    stdin.write_all(lines.as_bytes())?;
    drop(stdin);
    match ip.wait()? {
        status if status.success() => Ok(()),
        status => Err(format!("ip failed: {status}").into()),
    }
}

fn tell(what: &str, began: Instant) {
    println!("{what} {:.1}", began.elapsed().as_secs_f64() * 1e3);
}

/// The peak of the memory that was resident.
fn peak_megabytes() -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next());
    let kibibytes: f64 = kibibytes.ok_or("the kernel tells no peak")?.parse()?;
    Ok(kibibytes * 1024.0 / 1e6)
}
