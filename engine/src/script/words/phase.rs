//! The words that are no resources: the header of a phase, checks and requirements.

use super::shared::word;
use crate::script::vocabulary::{Arg, Word, WordKind, modifier, p};

pub(super) const PHASE: Word = word(
    "phase",
    WordKind::Header,
    &[p("name", Arg::Text)],
    &[
        modifier(
            "about",
            &[p("text", Arg::Text)],
            "What the phase is for, one line.",
        ),
        modifier(
            "nodes",
            &[p("kinds", Arg::Texts)],
            "Node kinds that have it: master, worker.",
        ),
        modifier(
            "requires",
            &[p("phases", Arg::Texts)],
            "Phases that must have converged first; when one of them is restarted, this one is restarted too. Unlike systemd's Requires=, this orders as well.",
        ),
        modifier(
            "after",
            &[p("phases", Arg::Texts)],
            "Phases that come first if they are there. Some node kind of the role must have them.",
        ),
        modifier(
            "when",
            &[p("condition", Arg::Bool)],
            "The phase does nothing on this host when this is false.",
        ),
        modifier(
            "timeout",
            &[p("duration", Arg::Duration)],
            "Bound on one run of all steps and checks. Default 10m.",
        ),
        modifier(
            "restart_from",
            &[p("phase", Arg::Text)],
            "A repair of this phase begins at that one, which must come before it.",
        ),
    ],
    "Names the phase. It comes first in its file, and the name is the file's stem. Steps follow, then checks; the lanes (`on_stop`, `on_rollback`, `on_clean`) may be anywhere after it.",
    r#"phase("example").about("Shows the words.").nodes(["master"]);"#,
    "",
);

pub(super) const CHECK: Word = word(
    "check",
    WordKind::Check,
    &[p("name", Arg::Text)],
    &[
        modifier(
            "https",
            &[p("url", Arg::Text)],
            "A GET answers 200. Plain http is for loopback health ports.",
        ),
        modifier("ca", &[p("path", Arg::Path)], "Roots to trust for it."),
        modifier(
            "client_certificate",
            &[p("path", Arg::Text)],
            "The client certificate to use, by its path; its root is trusted.",
        ),
        modifier(
            "server_certificate",
            &[p("path", Arg::Text)],
            "The certificate that the server must present, by its path; one that it read before a renewal fails the check.",
        ),
        modifier(
            "expect",
            &[p("text", Arg::Text)],
            "Text that the answer (`.https`) or the standard output (`.run`) must contain.",
        ),
        modifier(
            "tcp",
            &[p("address", Arg::Text), p("port", Arg::Integer(1))],
            "A TCP port accepts connections.",
        ),
        modifier(
            "run",
            &[p("argv", Arg::Texts)],
            "A program ends with exit code 0 within 5 seconds; with `.expect`, its standard output must also contain the text. Program and arguments are items of the list, and no shell reads them; for a shell, write `[\"sh\", \"-c\", \"…\"]`. It runs as root at each check, so it must only read.",
        ),
        modifier(
            "file_exists",
            &[p("path", Arg::Path)],
            "A file is there and not empty.",
        ),
        modifier(
            "first_file",
            &[p("path", Arg::Path), p("endings", Arg::Texts)],
            "A file is the first one by name in its directory that has one of these extensions: the program that reads the directory uses only the first.",
        ),
        modifier(
            "service_active",
            &[p("unit", Arg::Text)],
            "A unit is active.",
        ),
        modifier(
            "container_running",
            &[p("name", Arg::Text)],
            "A container runs.",
        ),
        modifier("container_engine", &[], "The container engine answers."),
        modifier(
            "pod_running",
            &[p("pod", Arg::Text), p("containers", Arg::Texts)],
            "The named containers of a static pod run. If a phase waits 5 minutes without success, nodelet ends those that had already run for 5 minutes when the wait began; kubelet starts new ones.",
        ),
        modifier(
            "node_ready",
            &[p("node", Arg::Text), p("kubelet", Arg::Text)],
            "The node's condition Ready is true. `kubelet` is kubelet's unit: in the first minute after its start, a report from before the start does not count.",
        ),
        modifier(
            "node_without_pressure",
            &[p("node", Arg::Text)],
            "None of the node's conditions MemoryPressure, DiskPressure and PIDPressure is true.",
        ),
        modifier(
            "object_exists",
            &[
                p("version", Arg::Text),
                p("kind", Arg::Text),
                p("namespace", Arg::Text),
                p("name", Arg::Text),
            ],
            "An object is in the cluster. The check asks this host's own API server as the admin.",
        ),
        modifier("link_up", &[p("link", Arg::Text)], "A network link is up."),
        modifier(
            "link_addressed",
            &[p("link", Arg::Text)],
            "A network link is up and has an IPv4 address.",
        ),
        modifier(
            "firewall_rules",
            &[p("table", Arg::Text), p("chain", Arg::Text)],
            "A chain of the IPv4 packet filter has at least one rule. All such checks of a pass share one reading of the rules.",
        ),
        modifier(
            "firewall_jump",
            &[
                p("table", Arg::Text),
                p("chain", Arg::Text),
                p("target", Arg::Text),
            ],
            "A chain of the IPv4 packet filter has a rule that leads to this target (`-j` or `-g`).",
        ),
        modifier(
            "address_held",
            &[p("address", Arg::Address)],
            "An address is on some link of this host.",
        ),
        modifier(
            "virtual_ip",
            &[
                p("address", Arg::Address),
                p("link", Arg::Text),
                p("port", Arg::Between(1, 65_535)),
            ],
            "If this host holds the address, the API answers over it. If not, another master may hold it, or this host's own API server does not answer either. Add `.ca` and `.peers`.",
        ),
        modifier(
            "peers",
            &[p("peers", Arg::Any)],
            "The other masters, which may hold the address: a list, possibly empty.",
        ),
        modifier(
            "certificates_valid",
            &[p("directory", Arg::Path)],
            "Certificates under a directory are valid, with more than a sixth of their life left.",
        ),
        modifier(
            "backup_younger_than",
            &[
                p("directory", Arg::Path),
                p("age", Arg::Duration),
                p("cluster", Arg::AnyText),
            ],
            "The newest verified backup of this cluster's etcd in a directory is younger than this. As long as there is no backup, the age of its timer counts.",
        ),
        modifier(
            "room_for_backup",
            &[p("directory", Arg::Path), p("store", Arg::Path)],
            "There is room in a directory for a backup of etcd's store, and in nodelet's own directory for the copy on which the backup is verified.",
        ),
        modifier(
            "token_accepted",
            &[p("namespace", Arg::Text), p("account", Arg::Text)],
            "The API server accepts the token that the cluster gave to a service account. The check asks this host's own API server as the admin; it is Unknown while the account has no token.",
        ),
        modifier(
            "keys_kept",
            &[],
            "The authorities, keys and data ids of this phase are there, and are those that nodelet has recorded for this host.",
        ),
        modifier(
            "package_intact",
            &[],
            "The files of the role's package match its SHA256SUMS; a package without that file is not compared. A large file is read again only if its inode, size or times have changed.",
        ),
        modifier(
            "as_planned",
            &[],
            "No step of this phase would change anything.",
        ),
    ],
    "A read-only assertion that the phase does its work.",
    r#"check("port answers").tcp("127.0.0.1", 4001).every("1s").timeout("30s");"#,
    "",
);

pub(super) const REQUIRE: Word = word(
    "require",
    WordKind::Requirement,
    &[p("name", Arg::Text)],
    &[
        modifier("no_swap", &[], "No swap is on."),
        modifier(
            "ports_free",
            &[p("ports", Arg::Ports)],
            "Nothing listens on these TCP ports.",
        ),
        modifier(
            "programs",
            &[p("names", Arg::Texts)],
            "These programs are on the PATH. Facts in a file (`--facts`) contain only the programs that `nodelet facts` looks for: of another program it is unknown whether the host has it, unless you add it to the list `programs` of the file.",
        ),
        modifier(
            "memory",
            &[p("size", Arg::Size)],
            "At least this much memory.",
        ),
        modifier(
            "processors",
            &[p("count", Arg::Between(1, 65_536))],
            "At least this many processors.",
        ),
        modifier(
            "disk",
            &[p("path", Arg::Path), p("size", Arg::Size)],
            "At least this much free space for a path, on the file system that holds it. If the path does not exist yet, this is the file system of its nearest parent directory. If facts in a file (`--facts`) do not list the path in `disks`, the requirement is unknown.",
        ),
        modifier(
            "persistent_directory",
            &[p("path", Arg::Path), p("size", Arg::Size)],
            "A directory exists or can be created, on a writable disk that keeps its content over a reboot and has this much free space. If it exists, only root can look into it.",
        ),
        modifier(
            "cgroup_controllers",
            &[p("names", Arg::Texts)],
            "These cgroup controllers are there.",
        ),
        modifier(
            "no_foreign_runtime",
            &[],
            "No other container runtime or Kubernetes runs here.",
        ),
        modifier(
            "no_earlier_cluster",
            &[],
            "This host has no files of another cluster.",
        ),
        modifier(
            "no_virtual_services",
            &[],
            "No other program uses IPVS, the kernel's load balancer.",
        ),
        modifier(
            "host_name_valid",
            &[],
            "The host's name can be a node's name.",
        ),
        modifier(
            "networks_disjoint",
            &[p("networks", Arg::Map)],
            "These networks overlap neither each other nor the host's own.",
        ),
        modifier(
            "kernel_features",
            &[p("names", Arg::Texts)],
            "The kernel has these features: `br_netfilter`, `conntrack`, `ip_vs`, `nat` or `overlay`.",
        ),
        modifier(
            "interface",
            &[p("name", Arg::Text)],
            "A network interface is there and up.",
        ),
        modifier(
            "virtual_ip",
            &[p("address", Arg::Address), p("interface", Arg::Text)],
            "An address can be the masters' virtual IP: it is in a network of the interface, and is not this host's own.",
        ),
        modifier(
            "architecture",
            &[p("names", Arg::Texts)],
            "The processor's architecture is one of these, as `uname -m` prints it.",
        ),
        modifier(
            "supported_system",
            &[p("systems", Arg::Map)],
            "The operating system is one of these: id to versions.",
        ),
        modifier("systemd", &[], "systemd is the init system."),
        modifier("root", &[], "nodelet runs as root."),
        modifier("sane_clock", &[], "The clock is not far off."),
    ],
    "A precondition of a bare host. It is evaluated once, before anything on the host is changed.",
    r#"require("enough memory").memory("1500M");"#,
    "",
);
