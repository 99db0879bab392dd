//! What an operator does so that a worker or another master joins the cluster of a master: the public key of its host goes to the
//! master, and a join file for this key comes back.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::topology::host::Host;

/// Where a host expects its join file.
const JOIN_FILE: &str = "/etc/pf9/nodelet/join.age";
/// A master's kubeconfig for its own API server.
const ADMIN: &str = "/etc/pf9/kube.d/kubeconfigs/local-admin.yaml";
const KUBECTL: &str = "/opt/pf9/roles/pf9-kube/current/payload/bin/kubectl";
/// Succeeds on a worker whose kubelet has a certificate of the cluster that has not expired.
const HAS_CERTIFICATE: &str = "test -s /etc/pf9/kube.d/kubeconfigs/kubelet.yaml && \
    openssl x509 -in /etc/pf9/kube.d/certs/kubelet/apiserver/request.crt -noout -checkend 60";
/// A master that has joined has the key of the cluster's authority.
const AUTHORITY: &str = "/etc/pf9/kube.d/ca/cluster/ca.key";

/// How long to wait for another command of nodelet on the master, and for its API server.
const ISSUED: Duration = Duration::from_secs(180);
/// nodelet's exit code while another command works on the host.
const BUSY: i32 = 75;
/// The first and the last line of a file of age.
const ARMOUR: (&str, &str) = (
    "-----BEGIN AGE ENCRYPTED FILE-----",
    "-----END AGE ENCRYPTED FILE-----",
);

/// Lets a worker join as the node `node`: issues a join file on the master for the worker's public key, and puts it on the worker.
/// The worker's next apply uses it.
///
/// # Errors
/// The worker shows no public key, or the master issues no join file.
pub fn join(master: &Host, worker: &Host, node: &str) -> Result<()> {
    bring_join_file(master, &["issue"], worker, node)
}

/// Lets a worker join with a taint that the masters keep on its node.
///
/// # Errors
/// As [`join`].
pub fn join_tainted(master: &Host, worker: &Host, node: &str, taint: &str) -> Result<()> {
    bring_join_file(master, &["issue", "--taint", taint], worker, node)
}

/// Lets a worker join in place of a removed one, whose host is lost: the certificate of that host may still be valid, and the operator accepts that.
///
/// # Errors
/// As [`join`].
pub fn join_in_place(master: &Host, worker: &Host, node: &str) -> Result<()> {
    bring_join_file(master, &["issue", "--replace"], worker, node)
}

/// Lets another master join as the node `node`: exports the keys of the cluster on a master to the public key of the new one, and puts
/// the join file there. The next apply there uses it; afterwards, [`remove_join_file`] removes it.
///
/// # Errors
/// The host shows no public key, or the master exports no join file.
pub fn join_master(master: &Host, joining: &Host, node: &str) -> Result<()> {
    // Others may join after it; `cargo xtask up` takes only odd numbers.
    bring_join_file(master, &["export", "--of", "5"], joining, node)
}

/// Lets another master join in place of a dead one with the same name and address, which was not removed.
///
/// # Errors
/// As [`join_master`].
pub fn join_master_in_place(master: &Host, joining: &Host, node: &str) -> Result<()> {
    bring_join_file(master, &["export", "--replace"], joining, node)
}

/// Removes the join file of a host that has joined.
///
/// # Errors
/// The host cannot be asked.
pub fn remove_join_file(host: &Host) -> Result<()> {
    host.text(&["rm", "-f", JOIN_FILE]).map(drop)
}

/// Whether the host has what masters of a cluster have in common. It needs no join file any more.
///
/// # Errors
/// The host cannot be asked.
pub fn is_joined_master(host: &Host) -> Result<bool> {
    Ok(host.exec(&["test", "-s", AUTHORITY])?.status.success())
}

/// Lets the master make a join file with this command of `nodelet pki`, and puts it on the host.
fn bring_join_file(master: &Host, command: &[&str], host: &Host, node: &str) -> Result<()> {
    let shown = host.text(&["nodelet", "pki", "key"])?;
    let key = public_key(&shown)
        .with_context(|| format!("the host `{}` shows no public key: {shown}", host.name()))?;
    let file = made(master, command, node, key)?;
    host.put(file.as_bytes(), JOIN_FILE, 0o600)
}

/// Whether the node has joined: the worker has a certificate of the cluster, and the masters have admitted the node.
///
/// # Errors
/// A host cannot be asked, or the API server does not answer.
pub fn is_joined(master: &Host, worker: &Host, node: &str) -> Result<bool> {
    let has_certificate = worker.exec(&["sh", "-c", HAS_CERTIFICATE])?;
    if !has_certificate.status.success() {
        return Ok(false);
    }
    let admitted = master.text(&[
        KUBECTL,
        "--kubeconfig",
        ADMIN,
        "--namespace",
        "kube-system",
        "get",
        "configmap",
        &format!("nodelet-node-{node}"),
        "--ignore-not-found",
        "--output",
        "name",
    ]);
    Ok(!admitted
        .with_context(|| format!("cannot find out whether the node `{node}` was admitted"))?
        .is_empty())
}

/// Lets the master forget a node that it has removed, so that a new worker may have its name at once. Only for workers whose host is gone
/// with its certificates.
///
/// # Errors
/// The host cannot be asked, or the API server does not answer.
pub fn forget(master: &Host, node: &str) -> Result<()> {
    let forgotten = master.text(&[
        KUBECTL,
        "--kubeconfig",
        ADMIN,
        "--namespace",
        "kube-system",
        "delete",
        "configmap",
        &format!("nodelet-node-{node}"),
        "--ignore-not-found",
    ]);
    forgotten
        .map(drop)
        .with_context(|| format!("cannot delete the record of the removed node `{node}`"))
}

/// Makes a join file on the master. nodeletd may run a command there at the moment, so this waits for its end.
fn made(master: &Host, command: &[&str], node: &str, key: &str) -> Result<String> {
    let words = [&["nodelet", "pki"], command, &[node, "--to", key]].concat();
    let ended = command::poll(ISSUED, || match master.exec(&words) {
        Ok(output) if output.status.code() == Some(BUSY) => None,
        other => Some(other),
    });
    let output = ended.with_context(|| {
        format!(
            "another command works on the host `{}` since {} s",
            master.name(),
            ISSUED.as_secs()
        )
    })??;
    command::check(&output, || {
        format!(
            "`nodelet pki {}` on the host `{}` makes no join file for `{node}`",
            command.join(" "),
            master.name()
        )
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(file) = armoured(&text) else {
        bail!(
            "the host `{}` printed no join file for `{node}`",
            master.name()
        );
    };
    Ok(file)
}

/// The public key in what a host printed.
fn public_key(shown: &str) -> Option<&str> {
    shown
        .split_whitespace()
        .find(|word| word.starts_with("age1"))
}

/// The file of age in what a host printed, with its first and its last line.
fn armoured(text: &str) -> Option<String> {
    let from = text.find(ARMOUR.0)?;
    let length = text[from..].find(ARMOUR.1)? + ARMOUR.1.len();
    Some(format!("{}\n", &text[from..from + length]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_and_the_file_are_found_among_other_words() {
        assert_eq!(public_key("age1abc\n"), Some("age1abc"));
        assert_eq!(public_key("the public key is age1abc"), Some("age1abc"));
        assert_eq!(public_key("AGE-SECRET-KEY-1"), None);
        let file = format!("{}\nYWdl\n{}\n", ARMOUR.0, ARMOUR.1);
        assert_eq!(armoured(&file), Some(file.clone()));
        assert_eq!(
            armoured(&format!("valid for 1 h\n{file}bye\n")),
            Some(file.clone())
        );
        assert_eq!(armoured(&file[..file.len() - 4]), None, "it is cut off");
    }
}
