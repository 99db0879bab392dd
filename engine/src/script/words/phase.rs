//! The words that are no resources: the header of a phase, checks and requirements.

use super::shared::words;

words! {
    PHASE = Header phase(name: Text) {
        doc: "Names the phase. It comes first in its file, and the name is the file's stem. Steps follow, then checks; the lanes (`on_stop`, `on_rollback`, `on_clean`) may be anywhere after it.";
        example: r#"phase("example").about("Shows the words.").nodes(["master"]);"#;
        rollback: "";
        about(text: Text) => "What the phase is for, one line.";
        nodes(kinds: Texts) => "Node kinds that have it: master, worker.";
        requires(phases: AnyTexts) =>
            "Phases that must have converged first; when one of them is restarted, this one is restarted too. Unlike systemd's Requires=, this orders as well.";
        after(phases: AnyTexts) =>
            "Phases that come first if they are there. Some node kind of the role must have them.";
        when(condition: Bool) => "The phase does nothing on this host when this is false.";
        timeout(duration: Duration) => "Bound on one run of all steps and checks. Default 10m.";
        restart_from(phase: Text) =>
            "A repair of this phase begins at that one, which must come before it.";
    }

    CHECK = Check check(name: Text) {
        doc: "A read-only assertion that the phase does its work.";
        example: r#"check("port answers").tcp("127.0.0.1", 4001).every("1s").timeout("30s");"#;
        rollback: "";
        https(url: Text) = Observation::Https =>
            "A GET of the whole URL answers 200. Plain http is only for this host itself, for example `http://127.0.0.1:10248/healthz`.";
        ca(path: Path) = CheckDetail::Ca => "Roots to trust for it.";
        client_certificate(path: Text) = CheckDetail::ClientCertificate =>
            "The client certificate to use, by its path; its root is trusted.";
        server_certificate(path: Text) = CheckDetail::ServerCertificate =>
            "The certificate that the server must present, by its path; one that it read before a renewal fails the check.";
        expect(text: Text as Output) = CheckDetail::Expect =>
            "Text that the answer (`.https`) or the standard output (`.run`) must contain.";
        tcp(address: Text, port: Integer(1)) = Observation::Tcp =>
            "A TCP port accepts connections.";
        run(argv: Texts as Command) = Observation::Run =>
            "A program ends with exit code 0 within 5 seconds; with `.expect`, its standard output must also contain the text. Program and arguments are items of the list, and no shell reads them; for a shell, write `[\"sh\", \"-c\", \"…\"]`. It runs as root at each check, so it must only read.";
        file_exists(path: Path) = Observation::FileExists => "A file is there and not empty.";
        first_file(path: Path, endings: Texts) = Observation::FirstFile =>
            "A file is the first one by name in its directory that has one of these extensions: the program that reads the directory uses only the first.";
        service_active(unit: Text as UnitName) = Observation::ServiceActive => "A unit is active.";
        container_running(name: Text) = Observation::ContainerRunning => "A container runs.";
        container_runtime() = Observation::ContainerRuntime => "The container runtime answers.";
        pod_running(pod: Text, containers: Texts) = Observation::PodRunning =>
            "The named containers of a static pod run. If a phase waits 5 minutes without success, nodelet ends those that had already run for 5 minutes when the wait began; kubelet starts new ones.";
        node_ready(node: Text, kubelet: Text) = Observation::NodeReady =>
            "The node's condition Ready is true. `kubelet` is kubelet's unit: in the first minute after its start, a report from before the start does not count.";
        node_without_pressure(node: Text) = Observation::NodeWithoutPressure =>
            "None of the node's conditions MemoryPressure, DiskPressure and PIDPressure is true.";
        object_exists(version: Text, kind: Text, namespace: Text, name: Text) = Observation::ObjectExists =>
            "An object is in the cluster. The check asks this host's own API server as the admin.";
        link_up(link: Text) = Observation::LinkUp => "A network link is up.";
        link_addressed(link: Text) = Observation::LinkAddressed =>
            "A network link is up and has an IPv4 address.";
        firewall_rules(table: Text, chain: Text) = Observation::FirewallRules =>
            "A chain of the IPv4 packet filter has at least one rule. All such checks of a pass share one reading of the rules.";
        firewall_jump(table: Text, chain: Text, target: Text) = Observation::FirewallJump =>
            "A chain of the IPv4 packet filter has a rule that leads to this target (`-j` or `-g`).";
        address_held(address: Address) = Observation::AddressHeld =>
            "An address is on some link of this host.";
        address_unique(address: Address, link: Text) = Observation::AddressUnique =>
            "No other host on the link answers ARP for an IPv4 address that this host has. It holds, too, if this host does not have the address.";
        virtual_ip(address: Address, link: Text, port: Between(1, 65_535)) = Observation::VirtualIp =>
            "If this host holds the address, the API answers over it. If not, another master may hold it, or this host's own API server does not answer either. Add `.ca` and `.peers`.";
        virtual_ip_answers(address: Address, port: Between(1, 65_535)) = Observation::VirtualIpAnswers =>
            "If another host holds the address, the API answers over it. It holds, too, if this host holds the address, or if its own API server does not answer. Add `.ca`.";
        peers(peers: AnyList) = CheckDetail::Peers =>
            "The other masters, which may hold the address.";
        certificates_valid(directory: Path) = Observation::CertificatesValid =>
            "Certificates under a directory are valid, with more than a sixth of their life left.";
        backup_younger_than(directory: Path, age: Duration, cluster: AnyText) = Observation::BackupYoungerThan =>
            "The newest verified backup of this cluster's etcd in a directory is younger than this. As long as there is no backup, the age of its timer counts.";
        room_for_backup(directory: Path, store: Path) = Observation::RoomForBackup =>
            "There is room in a directory for a backup of etcd's store, and in nodelet's own directory for the copy on which the backup is verified.";
        token_accepted(namespace: Text, account: Text) = Observation::TokenAccepted =>
            "The API server accepts the token that the cluster gave to a service account. The check asks this host's own API server as the admin; it is Unknown while the account has no token.";
        keys_kept() = Observation::KeysKept =>
            "The authorities, keys and data ids of this phase are there, and are those that nodelet has recorded for this host.";
        package_intact() = Observation::PackageIntact =>
            "The files of the role's package match its SHA256SUMS; a package without that file is not compared. A large file is read again only if its inode, size or times have changed.";
        as_planned() = Observation::AsPlanned => "No step of this phase would change anything.";
    }

    REQUIRE = Requirement require(name: Text) {
        doc: "A precondition of a bare host. It is evaluated once, before anything on the host is changed.";
        example: r#"require("enough memory").memory("1500M");"#;
        rollback: "";
        no_swap() = Precondition::NoSwap => "No swap is on.";
        ports_free(ports: Ports) = Precondition::PortsFree => "Nothing listens on these TCP ports.";
        programs(names: Texts) = Precondition::Programs =>
            "These programs are on the PATH. Facts in a file (`--facts`) contain only the programs that `nodelet facts` looks for: of another program it is unknown whether the host has it, unless you add it to the list `programs` of the file.";
        memory(size: Size) = Precondition::Memory => "At least this much memory.";
        processors(count: Between(1, 65_536)) = Precondition::Processors =>
            "At least this many processors.";
        processors_online(list: Text) = Precondition::ProcessorsOnline =>
            "The processors with these numbers are in use: a list such as `0-1,4`.";
        disk(path: Path, size: Size) = Precondition::Disk =>
            "At least this much free space for a path, on the file system that holds it. If the path does not exist yet, this is the file system of its nearest parent directory. If facts in a file (`--facts`) do not list the path in `disks`, the requirement is unknown.";
        persistent_directory(path: Path, size: Size) = Precondition::PersistentDirectory =>
            "A directory exists or can be created, on a writable disk that keeps its content over a reboot and has this much free space. If it exists, only root can look into it.";
        cgroup_controllers(names: Texts) = Precondition::CgroupControllers =>
            "These cgroup controllers are there.";
        no_foreign_runtime() = Precondition::NoForeignRuntime =>
            "No other container runtime or Kubernetes runs here.";
        no_earlier_cluster() = Precondition::NoEarlierCluster =>
            "This host has no files of another cluster.";
        no_virtual_services() = Precondition::NoVirtualServices =>
            "No other program uses IPVS, the kernel's load balancer.";
        host_name_valid() = Precondition::HostNameValid => "The host's name can be a node's name.";
        host_name_not_of_api(names: Texts) = Precondition::HostNameNotOfApi =>
            "The host's name is none of these names, which belong to the API server. They are in lower case. It is required of hosts without the role only.";
        networks_disjoint(networks: Map) = Precondition::NetworksDisjoint =>
            "These networks overlap neither each other nor the host's own.";
        kernel_features(names: Texts) = Precondition::KernelFeatures =>
            "The kernel has these features: `br_netfilter`, `conntrack`, `ip_vs`, `nat` or `overlay`.";
        interface(name: Text) = Precondition::Interface => "A network interface is there and up.";
        node_address(address: Address) = Precondition::NodeAddress =>
            "An address can be a node's: it is IPv4, and a host can have it, as with `.usable_address`.";
        usable_address(address: Address) = Precondition::UsableAddress =>
            "A host can have an address: in no network of this host is it the network address or the broadcast address, or the subnet-router anycast address of IPv6.";
        virtual_ip(address: Address, interface: Text) = Precondition::VirtualIp =>
            "An address can be the masters' virtual IP: it is not this host's own, a host in a network of the interface can have it, and the interface is no bridge of docker.";
        virtual_ip_free(address: Address, port: Between(1, 65_535)) = Precondition::VirtualIpFree =>
            "No host outside of this cluster uses the masters' virtual IP. A host that answers at the port of the API server belongs to the cluster if its certificate is of the cluster's authority on this host. A host that only answers ARP has the address, too, unless it is the default gateway. A host with the hardware address of a known master belongs to the cluster. A master of a cluster that exists is asked only once it has joined, and only about another address than it was brought up with. Facts in a file (`--facts`) do not say who uses it: then the requirement is met.";
        virtual_router_free(id: Between(1, 255), interface: Text) = Precondition::VirtualRouterFree =>
            "Only masters of this cluster send VRRP with this router id on the interface. Heard are messages over IPv4 to this host or to all hosts, for 2.2 seconds, also those that the packet filter drops. A master of a cluster that exists is asked only once it has joined, and only about another id than it was brought up with. Facts in a file (`--facts`) do not say who sends: then the requirement is met.";
        architecture(names: Texts) = Precondition::Architecture =>
            "The processor's architecture is one of these, as `uname -m` prints it.";
        supported_system(systems: Map) = Precondition::SupportedSystem =>
            "The operating system is one of these: id to versions.";
        systemd() = Precondition::Systemd => "systemd is the init system.";
        root() = Precondition::Root => "nodelet runs as root.";
        sane_clock() = Precondition::SaneClock => "The clock is not far off.";
    }
}
