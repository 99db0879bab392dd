//! What to do about an error, in the imperative. It comes from the error itself, from the error's kind, or from known
//! words in its causes and in the logs near it. Errors of the operating system are in `model`.
//!
//! Every sentence here names a command to type or a thing to change: an operator may read it at night.

use std::io::ErrorKind;

use crate::host::HostError;
use crate::model::{SystemError, chain};
use crate::resource::ResourceError;

/// What to do, without the full stop.
pub(in crate::exec) fn remedy(error: &ResourceError, found: &[String]) -> String {
    if let ResourceError::Unmet { next, .. } | ResourceError::Awaited { next, .. } = error {
        return next.clone();
    }
    if let ResourceError::OutOfTime { source, .. } = error {
        return remedy(source, found);
    }
    // Known words in such a message would lead to the removal of a key that cannot be made again.
    if matches!(error, ResourceError::Pki { .. }) && error.is_permanent() {
        return "do what the message says about this key or authority, and remove no other file: it may be the only copy".to_owned();
    }
    let all = [chain(error).join(": "), found.join(": ")]
        .concat()
        .to_lowercase();
    // First, because such an error explains the others.
    if let Some(known) = SystemError::of(&all) {
        return known.next_step(None).into_owned();
    }
    if let Some(known) = by_words(&all) {
        return known.to_owned();
    }
    if let Some(own) = command_named_by(error) {
        return own;
    }
    match error {
        ResourceError::Host(error) => by_kind(error, &all),
        ResourceError::Ledger(_) => {
            "see the file that the message names; `nodelet history` tells what is known of this host".to_owned()
        }
        ResourceError::Render(_) => {
            "correct the template or the settings that it uses (`nodelet plan` shows the same without touching the host)".to_owned()
        }
        _ if !found.is_empty() => "see the states and log lines above".to_owned(),
        ResourceError::Pki { .. } => {
            "correct the key or certificate that the message names, or move it away: nodelet makes it again, except an authority".to_owned()
        }
        ResourceError::Missing { .. }
        | ResourceError::Unmet { .. }
        | ResourceError::Awaited { .. }
        | ResourceError::OutOfTime { .. }
        | ResourceError::NotConverged { .. } => "run `nodelet check` for the state of all phases, and repair what the message names".to_owned(),
    }
}

/// Makes rows of `[[sign, ..], ..] => remedy;`: the remedy fits if all signs of a group are in the text.
macro_rules! known {
    ($([$([$($sign:literal),+]),+] => $remedy:literal;)*) => {
        &[$((&[$(&[$($sign),+]),+], $remedy)),*]
    };
}

/// Causes that have the same remedy in all places, beside [`SystemError`]. The first match wins, so causes that explain others come first.
const KNOWN: &[(&[&[&str]], &str)] = known! {
    [["is stopped (sigstop"]] => "continue the process that the message names (`kill -CONT PID`)";
    [["is masked"]] => "unmask the unit that the message names (`systemctl unmask UNIT`)";
    [["certificate", "expired"], ["certificate", "not valid yet"]] =>
        "compare the host's clock with the certificate's dates (`date -u`, `openssl x509 -noout -dates -in FILE`)";
    [["not valid for name"], ["certificate is valid for"]] =>
        "compare the names in the certificate with the name in the URL (`openssl x509 -noout -ext subjectAltName -in FILE`); `nodelet apply --only certs` makes what is missing";
    [["certificate"], ["unknownissuer"], ["unknown ca"]] =>
        "see whether certificate and root belong together (`openssl verify -CAfile ROOT FILE`); removing the certificate makes a new one";
    [["unknown flag"], ["flag provided but not defined"], ["invalid argument", " for \"--"]] =>
        "the program refuses one of its flags: correct the setting that adds it (those that end in _FLAGS, RUNTIME_CONFIG)";
    [["bind source path does not exist"]] =>
        "make the directory that the message names, or correct the script or setting that names it";
    [["no such image"]] =>
        "bring the image back (`nodelet apply`), or name one that is there (`docker images`)";
    [["name or service not known"], ["temporary failure in name resolution"]] =>
        "see whether this host can resolve the name (`getent hosts NAME`, /etc/resolv.conf), or give an address";
    [["(status 401)"], ["answers 401"]] =>
        "the server does not accept the client's certificate: check whether the kubeconfig's certificate and the server's client root belong together (`openssl verify`), or move the certificate away and run `nodelet apply --only certs`";
    [["(status 403)"], ["answers 403"]] =>
        "the server accepts the client, but forbids the request: see the roles of that user (`kubectl auth can-i --list`)";
    [["no route to host"], ["network is unreachable"]] =>
        "see the host's routes and links (`ip route`, `ip link`)";
    [["dpkg was interrupted"]] => "finish what dpkg was doing (`dpkg --configure -a`)";
    [["dpkg's lock"]] =>
        "wait for the other package manager to end, or stop it (`fuser -v /var/lib/dpkg/lock-frontend`)";
    [["dependency problems"]] =>
        "see what is missing for the packages on this host (`apt-get --fix-broken --dry-run install`)";
    [["/etc/passwd has no user"], ["/etc/group has no group"]] =>
        "install the package that makes the account in an earlier step, or correct the name in `.owner` or `.group` (`getent passwd`, `getent group`; an account of LDAP or SSSD needs its number)";
    [["in the role's payload"], ["the role's payload has no"]] =>
        "install the role's package again, or name what its payload has";
};

fn by_words(all: &str) -> Option<&'static str> {
    let fits = |signs: &[&str]| signs.iter().all(|sign| all.contains(sign));
    KNOWN
        .iter()
        .find(|(any, _)| any.iter().any(|signs| fits(signs)))
        .map(|(_, remedy)| *remedy)
}

/// The command that the error itself says to look at, as in "see `journalctl -u pf9-kubelet`".
fn command_named_by(error: &ResourceError) -> Option<String> {
    let text = chain(error).join(": ");
    let (_, after) = text.split_once("see `")?;
    let (command, _) = after.split_once('`')?;
    Some(format!("see what `{command}` says, and correct that"))
}

fn by_kind(error: &HostError, all: &str) -> String {
    match error {
        HostError::Damaged { path, .. } => format!(
            "install the role's package again: its file {} was cut or changed on the way (`sha256sum` tells it from a good one)",
            path.display()
        ),
        HostError::Clock { .. } => {
            "set the clock (`timedatectl` shows it, and whether it is kept), then try again".to_owned()
        }
        HostError::Deadline { .. } => {
            "see what the host is busy with (`uptime`, `journalctl --priority err --since -10min`); then try again".to_owned()
        }
        HostError::Spawn { program, source } if source.kind() == ErrorKind::NotFound => {
            format!("install `{program}`: it is not on this host")
        }
        HostError::Spawn { program, .. } => {
            format!("see why `{program}` cannot be run (`command -v {program}`, `file`)")
        }
        HostError::Exit { command, .. } => {
            format!("run `{command}` by hand and correct what it says")
        }
        HostError::TooLarge { path, .. } => {
            format!("see which file is at {} (`ls -l`), and put a smaller file there", path.display())
        }
        HostError::InUse { .. } => "find out what uses it, and stop or remove that".to_owned(),
        HostError::Service { .. } | HostError::Refused { .. } => by_service(all).to_owned(),
        HostError::File { .. }
        | HostError::WriteRefused { .. }
        | HostError::TooMuch { .. }
        | HostError::InProgress { .. }
        | HostError::Missing { .. }
        | HostError::Injected { .. } => "see the host's log (`journalctl --priority err --since -10min`)".to_owned(),
    }
}

/// Where to look for what a service says.
fn by_service(all: &str) -> &'static str {
    let about = |words: &[&str]| words.iter().any(|word| all.contains(word));
    if about(&["docker", "container", "image"]) {
        "see whether docker runs and what it says (`systemctl status docker`, `journalctl -u docker -n 50`)"
    } else if about(&["systemd", ".service", ".socket", "unit "]) {
        "see what systemd says of the unit (`systemctl status UNIT`, `journalctl -u UNIT -n 50`)"
    } else if about(&["node ", "cluster", "kubeconfig", "apply ", "https://"]) {
        "see whether the API server runs and what it says (`docker ps -a --filter name=kube-apiserver`, `docker logs`, `journalctl -u pf9-kubelet -n 50`)"
    } else {
        "see the log of the service that refused (`journalctl --priority err --since -10min`)"
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::host::EntryKind;
    use crate::resource::pki::PkiError;

    fn host(error: HostError) -> ResourceError {
        ResourceError::Host(error)
    }

    fn exit(command: &str, stderr: &str) -> HostError {
        HostError::Exit {
            command: command.to_owned(),
            status: 2,
            stderr: stderr.to_owned(),
        }
    }

    #[test]
    fn each_error_has_the_step_that_fits() {
        let payload = Path::new("/opt/pf9/roles/pf9-kube/current/payload");
        let kubelet =
            "find node cp-1: kubelet has not registered it; see `journalctl -u pf9-kubelet`";
        let cases = [
            (
                host(HostError::Damaged {
                    path: payload.join("debs/a.deb"),
                    source: Box::new(exit("dpkg-deb", "is not a Debian format archive")),
                }),
                "install the role's package again: its file",
            ),
            (
                ResourceError::in_the_way(
                    Path::new("/usr/local/bin/kubectl"),
                    "a link",
                    &EntryKind::Directory,
                ),
                "move it away (`mv /usr/local/bin/kubectl /usr/local/bin/kubectl.away`)",
            ),
            (
                host(exit("ip link delete dev x", "Cannot find device")),
                "run `ip link delete dev x` by hand",
            ),
            (
                ResourceError::NotConverged {
                    what: kubelet.to_owned(),
                },
                "see what `journalctl -u pf9-kubelet` says",
            ),
            (
                host(HostError::refused(
                    "get node cp-1",
                    "Unauthorized (status 401)",
                )),
                "the server does not accept the client's certificate",
            ),
            (
                host(HostError::refused(
                    "end container etcd",
                    "its containerd-shim (process 17) is stopped (SIGSTOP or a debugger)",
                )),
                "`kill -CONT PID`",
            ),
            (
                host(HostError::service("inspect image a:1", "connection reset")),
                "systemctl status docker",
            ),
            (
                ResourceError::NotConverged {
                    what: "start the container: it says `Error: unknown flag: --nonsense`"
                        .to_owned(),
                },
                "correct the setting that adds it",
            ),
            (
                host(HostError::service("get node cp-1", "connection refused")),
                "kube-apiserver",
            ),
            (
                ResourceError::Missing {
                    what: "give /etc/a its owner: /etc/passwd has no user `chrony`".to_owned(),
                },
                "correct the name in `.owner`",
            ),
            // The kernel gives the same error if no inode is left.
            (
                host(HostError::File {
                    action: "write",
                    path: "/etc/a".into(),
                    source: std::io::Error::from_raw_os_error(28),
                }),
                "`df -i`",
            ),
            (
                host(HostError::Spawn {
                    program: "conntrack".to_owned(),
                    source: ErrorKind::NotFound.into(),
                }),
                "install `conntrack`",
            ),
        ];
        for (error, wanted) in cases {
            let said = remedy(&error, &[]);
            assert!(said.contains(wanted), "{error}: {said}");
        }
    }

    /// The words `certificate` and `key` in the message must not lead to the removal of a key that cannot be made again.
    #[test]
    fn a_held_key_or_authority_is_never_to_be_removed() {
        let error = PkiError::Precious {
            problem: "/etc/pf9/kube.d/ca/cluster/ca.crt: it is another certificate".to_owned(),
            help: "nothing was changed. Put the right file back".to_owned(),
        };
        let said = remedy(&error.at("read authority `cluster`"), &[]);
        assert!(said.starts_with("do what the message says"), "{said}");
        // A certificate that can be issued again may be removed.
        let error = PkiError::Unreadable {
            place: "/etc/pf9/kube.d/certs/admin/request.crt".to_owned(),
            problem: "it is cut short".to_owned(),
        };
        let said = remedy(&error.at("read a certificate"), &[]);
        assert!(
            said.contains("removing the certificate makes a new one"),
            "{said}"
        );
    }

    #[test]
    fn a_path_in_the_payload_is_no_missing_file() {
        let error = host(exit(
            "dpkg --install -- /opt/pf9/roles/pf9-kube/current/payload/debs/a.deb",
            "pre-installation script failed",
        ));
        let said = remedy(&error, &[]);
        assert!(said.contains("by hand"), "{said}");
    }

    #[test]
    fn log_lines_select_the_remedy() {
        let error = ResourceError::NotConverged {
            what: "pass the check within 60s: connection refused".to_owned(),
        };
        let found =
            vec!["  etcd: listen tcp 127.0.0.1:4001: bind: address already in use".to_owned()];
        assert!(remedy(&error, &found).contains("ss -ltnp"));
    }
}
