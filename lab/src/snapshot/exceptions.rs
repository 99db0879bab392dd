//! What a comparison of two moments of a host leaves out or allows, and why. docs/clean-slate.md lists all of it.

/// Paths that may differ, and why.
pub const EXCEPTIONS: &[(&str, &str)] = &[
    ("/var/log", "logs"),
    (
        "/var/cache",
        "caches of the package manager, of ldconfig, of man",
    ),
    (
        "/var/backups",
        "copies that the package manager makes of its records each midnight",
    ),
    ("/var/lib/apt", "the package manager's own lists"),
    (
        "/var/lib/dpkg",
        "the package manager's own records; the packages are compared by name",
    ),
    ("/var/lib/systemd/timers", "when timers ran last"),
    ("/var/lib/systemd/random-seed", "random"),
    ("/var/lib/systemd/catalog", "the journal's cache"),
    (
        "/var/lib/docker",
        "its content is compared through docker; where there was none it is a volume of the lab",
    ),
    ("/var/lib/containerd", "containerd's own content"),
    ("/opt/pf9/roles", "the installed role, which the lab mounts"),
    ("/etc/group-", "the account tools' own copy"),
    ("/etc/gshadow-", "the account tools' own copy"),
    ("/etc/passwd-", "the account tools' own copy"),
    ("/etc/shadow-", "the account tools' own copy"),
    ("/etc/ld.so.cache", "ldconfig's cache"),
    ("/etc/pf9/nodelet", "the operator's settings"),
    ("/var/opt/pf9/nodelet", "history"),
    ("/var/tmp", "temporary files of services"),
    ("/root/.bash_history", "the operator's"),
    (
        "/run/pf9-nodelet.lock",
        "remains: nodelet's lock, an empty file that the next boot removes",
    ),
    (
        "/run/docker.sock",
        "remains if the role installed docker: systemd leaves it when it ends docker.socket; the next boot removes it",
    ),
    (
        "/run/adduser",
        "remains if packages made accounts: the lock of adduser; the next boot removes it",
    ),
    (
        "/run/xtables.lock",
        "remains if no program used iptables before: the lock of iptables; the next boot removes it",
    ),
    ("/run/docker", "docker's run time state"),
    ("/run/containerd", "containerd's run time state"),
    ("/run/log", "the journal"),
    ("/run/udev", "udev's run time state"),
    ("/run/user", "sessions of users"),
    ("/run/systemd/journal", "the journal's streams"),
    ("/run/systemd/units", "systemd's notes of invocations"),
    (
        "/run/systemd/propagate",
        "systemd's folders of services that run",
    ),
    ("/run/systemd/sessions", "sessions of users"),
    ("/run/systemd/users", "sessions of users"),
];

/// What the snapshot leaves out, and the parts of the script that do so. An item without such a part is something that the script does
/// not read at all.
pub const LEFT_OUT: &[(&str, &[&str])] = &[
    ("files: times, sizes and extended attributes", &[]),
    (
        "files: the directory `/run/systemd/transient` itself; systemd makes it with the first transient unit",
        &["grep -v ' /run/systemd/transient$'"],
    ),
    (
        "content of files below /usr, except /usr/local, /usr/lib/systemd and /usr/libexec. Nearly all of them belong to packages. \
         `/usr/sbin/policy-rc.d` does not: nodelet writes it while it installs packages, and then takes it back",
        &[],
    ),
    (
        "content of files in /run, except /run/systemd/system, /run/systemd/transient and /run/systemd/generator; targets of links \
         in /run, except /run/systemd/system and /run/systemd/generator",
        &[],
    ),
    (
        "content of files on mounts inside /etc, /var and the other directories",
        &["-xdev"],
    ),
    (
        "docker: the content of its volumes; the ID of its network `bridge`, which is new with each start of docker; settings other than storage driver, root \
         directory, drivers of control groups and of logs, live-restore and mirrors",
        &[r"sed -E 's/^(network bridge bridge) .*/\1/'"],
    ),
    (
        "mounts: their options and sources, what is below `/proc/sys/fs/binfmt_misc`, and the IDs of network namespaces and of \
         docker's layers",
        &[
            "grep -v '^/proc/sys/fs/binfmt_misc'",
            "sed -E 's|/[0-9a-f]{12} nsfs|/CONTAINER nsfs|; s|overlay2/[0-9a-f]+/|overlay2/LAYER/|'",
        ],
    ),
    (
        "network links: their numbers and those of their peers, queue lengths, MAC addresses, and the names of veth links",
        &[
            r"sed -E 's/^[0-9]+: //; s/ (qlen|link-netnsid) [^ ]*//g; s/@if[0-9]+/@/; s/veth[0-9a-f]+/veth/; s/(link\/ether) [^ ]*/\1/'",
        ],
    ),
    (
        "addresses of veth links; of other addresses their scope, flags and lifetime",
        &["awk '{ if ($2 !~ /^veth/) print $2, $3, $4 }'"],
    ),
    (
        "routes of veth links; of other routes when they expire, and of IPv4 routes what follows that or `linkdown`",
        &[
            "sed -E 's/veth[0-9a-f]+/veth/; s/ (expires|linkdown).*//'",
            "sed -E 's/ expires [^ ]*//'",
            "grep -v 'dev veth'",
        ],
    ),
    ("routing rules of IPv6", &[]),
    (
        "firewall: counters, comments of the tools, and chains with the policy ACCEPT, which the kernel makes with a table; the \
         rules in such a chain are compared",
        &[
            "grep -v '^#'",
            r"sed -E 's/ ?\[[0-9]+:[0-9]+\]//'",
            r#"awk -v family=$save '/^\*/ { table = $0; next } /^COMMIT/ { next } /^:/ && $2 == "ACCEPT" { next }"#,
        ],
    ),
    ("nftables: counters", &["--stateless"]),
    (
        "kernel settings: fs.binfmt_misc, fs.dentry-state, fs.file-nr, fs.inode-nr, fs.inode-state, fs.quota, \
         kernel.random, kernel.ns_last_pid, kernel.pty.nr, kernel.tainted, net.netfilter.nf_conntrack_count, net.ipv4 and net.ipv6 \
         conf and neigh of veth links, net.ipv4.tcp_fastopen_key, net.ipv6.conf stable_secret, debug, dev.cdrom, vm.stat, user",
        &[
            r"grep -vE '^(fs\.(binfmt_misc|dentry-state|file-nr|inode-nr|inode-state|quota)|kernel\.(random|ns_last_pid|pty\.nr|tainted)|net\.netfilter\.nf_conntrack_count|net\.ipv[46]\.(conf|neigh)\.veth|debug\.|dev\.cdrom|vm\.stat|net\.ipv4\.tcp_fastopen_key|net\.ipv6\.conf\.[^.]*\.stable_secret|user\.)'",
        ],
    ),
    (
        "kernel modules: everything but their names",
        &["cut -d' ' -f1 /proc/modules"],
    ),
    (
        "unit files: the preset of the distribution",
        &[r#"awk '{ print "file", $1, $2 }'"#],
    ),
    (
        "units: devices, scopes, docker's mounts of layers and network namespaces and those in /run/docker, and \
         `network-online.target`, which stays reached; of all others their description",
        &[
            r#"awk '$1 != "network-online.target" && $1 !~ /\.(device|scope)$/ && $1 !~ /docker-overlay2|docker-netns|run-docker/ { print "unit", $1, $2, $3, $4 }'"#,
        ],
    ),
    (
        "control groups: their settings, and the IDs of containers in their names",
        &["sed -E 's/[0-9a-f]{64}/CONTAINER/'"],
    ),
];

/// What a clean of a worker keeps and a purge does not: its identity, with which it comes up again without another join file.
pub const KEPT_BY_WORKERS: &[&str] = &[
    "/etc/pf9/kube.d/ca",
    "/etc/pf9/kube.d/certs/kube-proxy/apiserver",
    "/etc/pf9/kube.d/certs/kubelet/apiserver",
    "/etc/pf9/kube.d/certs/kubelet/server",
    "/etc/pf9/kube.d/kubeconfigs/bootstrap.yaml",
    "/etc/pf9/kube.d/kubeconfigs/kubelet.yaml",
];

/// Data that a clean of a master keeps and a purge does not.
pub const KEPT: &[&str] = &[
    "/etc/pf9/etcd-backup",
    "/etc/pf9/kube.d/ca",
    "/etc/pf9/kube.d/certs/apiserver/svcacct.key",
    "/etc/pf9/kube.d/certs/apiserver/svcacct.pub",
    "/etc/pf9/kube.d/encryption",
    "/var/log/pf9/kube-audit",
    "/var/opt/pf9/kube/etcd/data",
];
