//! Every word of the language.

use super::vocabulary::{Arg, Modifier, Param, Role, Word, modifier, p, repeatable};

const fn word(
    name: &'static str,
    role: Role,
    params: &'static [Param],
    modifiers: &'static [Modifier],
    doc: &'static str,
    example: &'static str,
    rollback: &'static str,
) -> Word {
    Word {
        name,
        role,
        params,
        doc,
        example,
        rollback,
        modifiers,
    }
}

const MODE: Modifier = modifier(
    "mode",
    &[p("mode", Arg::Mode)],
    "Permission bits. Default 0644, of a directory 0755.",
);
const VARS: Modifier = modifier(
    "vars",
    &[p("vars", Arg::Map)],
    "The template's variables. Each must be used, and every variable that the template uses must be given.",
);
const KUBECONFIG: Modifier = modifier(
    "kubeconfig",
    &[p("path", Arg::Path)],
    "Kubeconfig to use. Default: the admin's, for this host's own API server.",
);

/// The table. A word's index in it is its type in the script engine, so new words go to the end.
pub static WORDS: &[Word] = &[
    word(
        "phase",
        Role::Header,
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
                "Phases that come first if they are there.",
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
                "A repair of this phase begins at that one.",
            ),
        ],
        "Names the phase. It comes first in its file, and the name is the file's stem.",
        r#"phase("example").about("Shows the words.").nodes(["master"]);"#,
        "",
    ),
    word(
        "directory",
        Role::Resource,
        &[p("path", Arg::Path)],
        &[
            MODE,
            modifier(
                "whole",
                &[],
                "Everything in it is ours, even what other programs put there, and is removed with it.",
            ),
        ],
        "A directory, owned by root. Missing parents are created with mode 0755.",
        r#"directory("/var/opt/pf9/example").mode("0700");"#,
        "Removed if it was created and is empty, or `.whole()`; mode and owner set back.",
    ),
    word(
        "file",
        Role::Resource,
        &[p("path", Arg::Path)],
        &[
            MODE,
            modifier("content", &[p("text", Arg::AnyText)], "Its text."),
            modifier(
                "payload",
                &[p("path", Arg::Path)],
                "A file of the role's payload to copy.",
            ),
            modifier(
                "copy_of",
                &[p("path", Arg::Path)],
                "A file of the host to copy; an earlier step may make it.",
            ),
            modifier(
                "once",
                &[],
                "Written only if it does not exist; never changed afterwards.",
            ),
            modifier("hidden", &[], "Its content is never shown."),
        ],
        "A file with fixed content.",
        r#"file("/etc/pf9/example").content("hello\n").mode("0600");"#,
        "Removed, or written back as it was.",
    ),
    word(
        "template",
        Role::Resource,
        &[p("template", Arg::Text), p("path", Arg::Path)],
        &[
            MODE,
            VARS,
            modifier(
                "once",
                &[],
                "Written only if it does not exist; never changed afterwards.",
            ),
            modifier("hidden", &[], "Its content is never shown."),
        ],
        "A file rendered from a template under `phases/templates`. Unknown variables are errors.",
        r#"template("example/greeting.tmpl", "/etc/pf9/greeting").vars(#{ name: host.name });"#,
        "Removed, or written back as it was.",
    ),
    word(
        "symlink",
        Role::Resource,
        &[p("path", Arg::Path), p("target", Arg::Text)],
        &[],
        "A symbolic link.",
        r#"symlink("/opt/pf9/example", "/opt/pf9/roles");"#,
        "Removed, or pointed to where it pointed before.",
    ),
    word(
        "unit",
        Role::Resource,
        &[p("name", Arg::Text), p("template", Arg::Text)],
        &[VARS],
        "A unit file in `/etc/systemd/system`, rendered from a template; systemd loads its files again.",
        r#"unit("example.service", "example/greeting.tmpl").vars(#{ name: host.name });"#,
        "Removed, or written back as it was; systemd loads its files again.",
    ),
    word(
        "env_file",
        Role::Resource,
        &[p("path", Arg::Path)],
        &[
            MODE,
            modifier(
                "values",
                &[p("values", Arg::Map)],
                "Variables by name; secrets stay references in the plan.",
            ),
        ],
        "A file of `export KEY=\"VALUE\"` lines that a shell can source; special characters in values are escaped.",
        r#"env_file("/etc/pf9/example.env").values(#{ A: "b" }).mode("0640");"#,
        "Removed, or written back as it was.",
    ),
    word(
        "certificate_authority",
        Role::Resource,
        &[p("name", Arg::Text)],
        &[
            modifier(
                "common_name",
                &[p("name", Arg::Text)],
                "Common name of its subject. Default its name.",
            ),
            modifier(
                "years",
                &[p("years", Arg::Integer(1))],
                "How long it is valid. Default 10.",
            ),
        ],
        "A certificate authority with its key under `/etc/pf9/kube.d/ca/<name>`. Never replaced while it can be read.",
        r#"certificate_authority("cluster").common_name("example");"#,
        "Removed if it was created, unless it is to be kept.",
    ),
    word(
        "service_account_key",
        Role::Resource,
        &[],
        &[],
        "The key that signs service account tokens. Never replaced while it can be read.",
        "service_account_key();",
        "Removed if it was created, unless it is to be kept.",
    ),
    word(
        "certificate",
        Role::Resource,
        &[p("path", Arg::Text)],
        &[
            modifier("authority", &[p("name", Arg::Text)], "Who signs it."),
            modifier(
                "common_name",
                &[p("name", Arg::Text)],
                "Common name of its subject.",
            ),
            modifier(
                "organizations",
                &[p("names", Arg::Texts)],
                "Organizations of its subject; Kubernetes takes them as groups.",
            ),
            modifier(
                "usage",
                &[p("usage", Arg::Text)],
                "`server`, `client`, or `peer` for both.",
            ),
            modifier(
                "names",
                &[p("names", Arg::Texts)],
                "DNS names it is valid for.",
            ),
            modifier(
                "addresses",
                &[p("addresses", Arg::Addresses)],
                "Addresses it is valid for.",
            ),
            modifier(
                "valid_for",
                &[p("time", Arg::Duration)],
                "How long it is valid, for example `365d`. Default a year.",
            ),
        ],
        "A key and certificate in `/etc/pf9/kube.d/certs/<path>`, issued again when it differs, does not verify, or is past three fifths of its life.",
        r#"certificate("example").authority("cluster").common_name("example").usage("client");"#,
        "Removed, or written back as it was.",
    ),
    word(
        "kubeconfig",
        Role::Resource,
        &[p("name", Arg::Text)],
        &[
            modifier("server", &[p("url", Arg::Text)], "URL of the API server."),
            modifier(
                "certificate",
                &[p("path", Arg::Text)],
                "The client certificate to embed, by its path.",
            ),
            modifier("user", &[p("name", Arg::Text)], "Name of the user entry."),
            modifier(
                "by_path",
                &[],
                "Name the files of certificate and key instead of embedding them. A client that reads the files again uses a renewed certificate without a restart.",
            ),
        ],
        "A kubeconfig in `/etc/pf9/kube.d/kubeconfigs/<name>.yaml` with certificate, key and root embedded; a name may be a path.",
        r#"kubeconfig("example").server("https://localhost:443").certificate("example").user("example");"#,
        "Removed, or written back as it was.",
    ),
    word(
        "image",
        Role::Resource,
        &[p("reference", Arg::Text)],
        &[modifier(
            "archive",
            &[p("path", Arg::Path)],
            "Archive in the role's payload, as `docker save` writes it.",
        )],
        "A container image on the host. Nothing is pulled.",
        r#"image("example:1").archive("/opt/pf9/roles/pf9-kube/current/payload/images/example.tar");"#,
        "Removed if it was loaded.",
    ),
    word(
        "container",
        Role::Resource,
        &[p("name", Arg::Text)],
        &[
            modifier("image", &[p("reference", Arg::Text)], "The image to run."),
            modifier(
                "command",
                &[p("argv", Arg::Texts)],
                "Command and arguments.",
            ),
            modifier(
                "env",
                &[p("values", Arg::Map)],
                "Environment variables by name.",
            ),
            repeatable(
                "env_from",
                &[p("step", Arg::Steps)],
                "A file step of `KEY=value` lines to add to the environment.",
            ),
            repeatable(
                "mount",
                &[p("source", Arg::Path), p("target", Arg::Path)],
                "A directory of the host, writable in it.",
            ),
            repeatable(
                "mount_read_only",
                &[p("source", Arg::Path), p("target", Arg::Path)],
                "A directory of the host, read-only in it.",
            ),
            modifier("host_network", &[], "Shares the host's network."),
            modifier("privileged", &[], "All capabilities and devices."),
            modifier("user", &[p("user", Arg::Text)], "User, `uid[:gid]`."),
            modifier(
                "restart",
                &[p("policy", Arg::Text)],
                "`always` (the default), `unless-stopped` or `no`.",
            ),
            repeatable(
                "restart_on",
                &[p("steps", Arg::Steps)],
                "Steps of this phase whose content it reads at its start: a change makes a new container.",
            ),
            modifier(
                "reads",
                &[p("paths", Arg::Texts)],
                "Files of other phases that it reads at its start: a change makes a new container.",
            ),
        ],
        "A container that runs with exactly this configuration.",
        r#"container("example").image("example:1").host_network().mount_read_only("/etc/pf9", "/etc/pf9");"#,
        "Removed, and the one it replaced is made again.",
    ),
    word(
        "service",
        Role::Resource,
        &[p("unit", Arg::Text)],
        &[
            modifier("started", &[], "It runs."),
            modifier("stopped", &[], "It does not run."),
            modifier("enabled", &[], "It starts at boot."),
            modifier("disabled", &[], "It does not start at boot."),
            modifier(
                "runs",
                &[p("programs", Arg::Texts)],
                "Programs of the role's package that it runs: each is compared with its checksum before a start.",
            ),
            repeatable(
                "restart_on",
                &[p("steps", Arg::Steps)],
                "Steps of this phase whose content it reads at its start: a change restarts it.",
            ),
            modifier(
                "reads",
                &[p("paths", Arg::Texts)],
                "Files of other phases that it reads at its start: a change restarts it.",
            ),
            repeatable(
                "reload_on",
                &[p("steps", Arg::Steps)],
                "Steps whose content it reads again on reload.",
            ),
        ],
        "A unit of systemd. `.service` is added to a name without a suffix.",
        r#"service("example").started().enabled();"#,
        "Stopped if it was started, started if it was stopped; whether it starts at boot is set back.",
    ),
    word(
        "sysctl",
        Role::Resource,
        &[p("key", Arg::Text), p("value", Arg::Text)],
        &[],
        "A kernel setting, now and after the next boot.",
        r#"sysctl("net.ipv4.ip_forward", "1");"#,
        "Set back; the file in /etc/sysctl.d is removed.",
    ),
    word(
        "kernel_module",
        Role::Resource,
        &[p("name", Arg::Text)],
        &[],
        "A kernel module, now and after the next boot. Built-in ones are fine.",
        r#"kernel_module("overlay");"#,
        "Unloaded if it was loaded; the file in /etc/modules-load.d is removed.",
    ),
    word(
        "packages",
        Role::Resource,
        &[p("names", Arg::Texts)],
        &[],
        "Packages of the distribution, installed from the role's payload. A package that is installed already is accepted in any version.",
        r#"packages(["conntrack"]);"#,
        "Those that were installed are purged.",
    ),
    word(
        "link",
        Role::Resource,
        &[p("name", Arg::Text)],
        &[modifier(
            "carries_pods",
            &[],
            "Running pods with a network of their own need it: if the link is missing, the step ends these pods, and kubelet starts new ones.",
        )],
        "A network link that another program makes; it takes `.absent()` or `.carries_pods()`.",
        r#"on_stop(|| { link("cni0").absent(); });"#,
        "Nothing.",
    ),
    word(
        "pods",
        Role::Resource,
        &[],
        &[modifier(
            "grace",
            &[p("duration", Arg::Duration)],
            "How long each container may take to end. Default 10s.",
        )],
        "The containers that kubelet started; only `.absent()` makes sense.",
        "on_stop(|| { pods().absent(); });",
        "Nothing.",
    ),
    word(
        "manifest",
        Role::Resource,
        &[p("template", Arg::Text)],
        &[VARS, KUBECONFIG],
        "Objects in the Kubernetes API, by server-side apply.",
        r#"manifest("example/greeting.tmpl").vars(#{ name: host.name });"#,
        "Objects that were created are deleted.",
    ),
    word(
        "node",
        Role::Resource,
        &[p("name", Arg::Text)],
        &[
            KUBECONFIG,
            repeatable(
                "label",
                &[p("key", Arg::Text), p("value", Arg::AnyText)],
                "A label it has.",
            ),
            repeatable(
                "taint",
                &[
                    p("key", Arg::Text),
                    p("value", Arg::AnyText),
                    p("effect", Arg::Text),
                ],
                "A taint it has.",
            ),
            repeatable(
                "untainted",
                &[p("key", Arg::Text)],
                "Key of a taint it does not have.",
            ),
            modifier(
                "schedulable",
                &[],
                "Lifts a cordon that nodelet's drain has set; an operator's cordon stays.",
            ),
            modifier(
                "pod_subnet_of",
                &[p("network", Arg::Text), p("prefix", Arg::Integer(1))],
                "If the node has no pod subnet, it gets a free one of this network, with this prefix length; nodeletd does the same for other nodes.",
            ),
        ],
        "This host's node object, registered and with its pod subnet (output `pod_cidr`).",
        r#"node(host.name).label("example", "yes");"#,
        "Labels, taints and cordon are set back.",
    ),
    word(
        "drain",
        Role::Resource,
        &[p("node", Arg::Text)],
        &[
            KUBECONFIG,
            modifier(
                "within",
                &[p("duration", Arg::Duration)],
                "How long pods may take to go. Default 30s.",
            ),
        ],
        "Cordons the node and evicts its pods, best effort. Done if no evictable pod is left; pods that stay are named with the reason. For the stop lane.",
        r#"on_stop(|| { drain(host.name).within("20s"); });"#,
        "Nothing; the next bring-up lifts the cordon.",
    ),
    word(
        "command",
        Role::Resource,
        &[p("argv", Arg::Texts)],
        &[
            modifier(
                "creates",
                &[p("path", Arg::Path)],
                "It is done when this path exists.",
            ),
            modifier(
                "unless",
                &[p("argv", Arg::Texts)],
                "It is done when this command ends with 0.",
            ),
        ],
        "The escape hatch: a command, without a shell. Say `.creates` or `.unless`, or it runs every time.",
        r#"command(["touch", "/run/example"]).creates("/run/example");"#,
        "Nothing by itself: add steps in `on_rollback`.",
    ),
    word(
        "check",
        Role::Check,
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
                "Text that the answer or output must contain.",
            ),
            modifier(
                "tcp",
                &[p("address", Arg::Text), p("port", Arg::Integer(1))],
                "A TCP port accepts connections.",
            ),
            modifier("run", &[p("argv", Arg::Texts)], "A command ends with 0."),
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
                &[p("node", Arg::Text)],
                "The node's condition Ready is true.",
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
                    p("port", Arg::Integer(1)),
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
                "The newest proven backup of this cluster's etcd in a directory is younger than this. As long as there is no backup, the age of its timer counts.",
            ),
            modifier(
                "room_for_backup",
                &[p("directory", Arg::Path), p("store", Arg::Path)],
                "There is room in a directory for a backup of etcd's store, and in nodelet's own directory for the copy on which the backup is proven.",
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
    ),
    word(
        "require",
        Role::Requirement,
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
                "These programs are on the PATH.",
            ),
            modifier(
                "memory",
                &[p("size", Arg::Size)],
                "At least this much memory.",
            ),
            modifier(
                "processors",
                &[p("count", Arg::Integer(1))],
                "At least this many processors.",
            ),
            modifier(
                "disk",
                &[p("path", Arg::Path), p("size", Arg::Size)],
                "At least this much free space for a path.",
            ),
            modifier(
                "lasting_directory",
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
                "The kernel has these features.",
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
    ),
    word(
        "firewall_chains",
        Role::Resource,
        &[p("prefix", Arg::Text)],
        &[
            modifier(
                "interface",
                &[p("name", Arg::Text)],
                "Rules that name this interface are removed too, in every chain.",
            ),
            modifier(
                "spares_earlier",
                &[],
                "Chains that existed before the phase stay, and the others are removed. Without this modifier, all of them stay if one existed before.",
            ),
        ],
        "Chains of iptables and ip6tables that another program makes, by the prefix of their names, with the rules that jump to them; only `.absent()` makes sense.",
        r#"on_clean(|| { firewall_chains("KUBE-").absent(); });"#,
        "Nothing.",
    ),
    word(
        "ipsets",
        Role::Resource,
        &[p("prefix", Arg::Text)],
        &[],
        "Sets of addresses (ipset) that another program makes, by the prefix of their names; only `.absent()` makes sense.",
        r#"on_clean(|| { ipsets("KUBE-").absent(); });"#,
        "Nothing.",
    ),
    word(
        "ipvs_services",
        Role::Resource,
        &[p("link", Arg::Text)],
        &[],
        "Virtual services of IPVS, the kernel's load balancer, on the addresses of this link and of the host's other links. Services that existed before the phase stay. Only `.absent()` makes sense, before the step that removes the link: without the link, nothing is removed.",
        r#"on_clean(|| { ipvs_services("kube-ipvs0").absent(); });"#,
        "Nothing.",
    ),
    word(
        "cgroup",
        Role::Resource,
        &[p("name", Arg::Text)],
        &[],
        "A tree of control groups that another program makes, in all hierarchies. It is removed only when it is empty, and no process is killed; only `.absent()` makes sense.",
        r#"on_clean(|| { cgroup("kubepods").absent(); });"#,
        "Nothing.",
    ),
    word(
        "sysctl_as_before",
        Role::Resource,
        &[p("key", Arg::Text)],
        &[],
        "A kernel setting that another program changes because of this phase. nodelet records the value before the phase's first change, and a clean restores it; for `on_clean` only.",
        r#"on_clean(|| { sysctl_as_before("kernel.panic"); });"#,
        "Nothing.",
    ),
    word(
        "group",
        Role::Resource,
        &[p("name", Arg::Text)],
        &[],
        "A group of accounts that a package creates and does not remove; only `.absent()` makes sense.",
        r#"on_clean(|| { group("docker").absent(); });"#,
        "Nothing.",
    ),
    word(
        "timer",
        Role::Resource,
        &[p("name", Arg::Text)],
        &[
            modifier(
                "schedule",
                &[p("expression", Arg::Text)],
                "When it runs: a cron expression of five fields, in the host's time zone; 0 and 7 are Sunday.",
            ),
            modifier(
                "run",
                &[p("what", Arg::Text)],
                "What nodeletd runs then: `etcd-backup`.",
            ),
        ],
        "Something that nodeletd runs on a schedule. However many runs were missed, nodeletd makes up for them with one run.",
        r#"timer("example").schedule("0 3 * * *").run("etcd-backup");"#,
        "Removed, or as it was before.",
    ),
    word(
        "pod_container",
        Role::Resource,
        &[p("pod", Arg::Text), p("container", Arg::Text)],
        &[
            repeatable(
                "restart_on",
                &[p("steps", Arg::Steps)],
                "Steps of this phase whose content it reads at its start: a change ends it, and kubelet starts it anew.",
            ),
            modifier(
                "reads",
                &[p("paths", Arg::Texts)],
                "Files of other phases that it reads at its start: a change ends it, and kubelet starts it anew.",
            ),
        ],
        "A container of a static pod that kubelet runs. If it started before the files that it reads were written, it is ended, and kubelet starts a new one.",
        r#"pod_container("k8s-master", "kube-apiserver").reads(["/etc/pf9/kube.d/certs/apiserver/etcd/ca.crt"]);"#,
        "Nothing.",
    ),
    word(
        "data_id",
        Role::Resource,
        &[p("name", Arg::Text), p("path", Arg::Path)],
        &[],
        "A file with a random id that lies with data and identifies it. nodelet records the id under this name. If the file is missing later, or holds another id, the phase fails before anything starts on the data. Mount the file into the container that uses the data.",
        r#"data_id("example", "/var/opt/pf9/example/data/id").keep();"#,
        "Removed, unless it is to be kept.",
    ),
    word(
        "encryption_keys",
        Role::Resource,
        &[],
        &[],
        "The keys with which the API server encrypts Secrets in etcd, in `/etc/pf9/kube.d/encryption/config.yaml`. Never replaced while they can be read; `nodelet certs rotate encryption` replaces one.",
        "encryption_keys();",
        "Removed if they were created, unless they are to be kept.",
    ),
    word(
        "image_directory",
        Role::Resource,
        &[p("path", Arg::Path)],
        &[modifier(
            "except",
            &[p("references", Arg::Texts)],
            "References of images that come from elsewhere. An archive that has another image with one of these references is reported and not loaded.",
        )],
        "Image archives (`docker save`) that an operator has put into a directory. Each is compared with its line in `checksum/sha256sums.txt` there, and loaded. The directory may be missing.",
        r#"image_directory("/var/opt/pf9/images");"#,
        "Its images are removed, or are as they were before.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = WORDS.iter().map(|word| word.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        for word in WORDS {
            let mut modifiers: Vec<_> = word.all_modifiers().map(|m| m.name).collect();
            modifiers.sort_unstable();
            let all = modifiers.len();
            modifiers.dedup();
            assert_eq!(modifiers.len(), all, "modifiers of {}", word.name);
        }
    }
}
