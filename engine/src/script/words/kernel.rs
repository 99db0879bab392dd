//! Words for settings of the kernel and for the network.

use super::shared::words;

words! {
    SYSCTL = Resource(System::Sysctl) sysctl(key: Text, value: Text as KernelValue) {
        doc: "A kernel setting, now and after the next boot. Its key is written as in sysctl.d(5), without wildcards: a dot separates, and a slash stands for a dot within a name (`net.ipv4.conf.eth0/100.rp_filter`).";
        example: r#"sysctl("net.ipv4.ip_forward", "1");"#;
        rollback: "Set back; the file in /etc/sysctl.d is removed.";
    }

    KERNEL_MODULE = Resource(System::KernelModule) kernel_module(name: Text) {
        doc: "A kernel module, now and after the next boot. Built-in ones are fine.";
        example: r#"kernel_module("overlay");"#;
        rollback: "Unloaded if it was loaded; the file in /etc/modules-load.d is removed.";
    }

    LINK = Resource(System::Link) link(name: Text) {
        doc: "A network link that another program makes; it takes `.absent()` or `.carries_pods()`.";
        example: r#"on_stop(|| { link("cni0").absent(); });"#;
        rollback: "Nothing.";
        carries_pods() =>
            "Running pods with a network of their own need it: if the link is missing, the step ends these pods, and kubelet starts new ones.";
    }

    FIREWALL_CHAINS = Resource(System::FirewallChains) firewall_chains(prefix: Text) {
        doc: "Chains of iptables and ip6tables that another program makes, by the prefix of their names, with the rules that jump to them; only `.absent()` makes sense.";
        example: r#"on_clean(|| { firewall_chains("KUBE-").absent(); });"#;
        rollback: "Nothing.";
        interface(name: Text) => "Rules that name this interface are removed too, in every chain.";
        keep_existing() =>
            "Chains that existed before the phase stay, and the others are removed. Without this modifier, all of them stay if one existed before.";
    }

    IPSETS = Resource(System::Ipsets) ipsets(prefix: Text) {
        doc: "Sets of addresses (ipset) that another program makes, by the prefix of their names; only `.absent()` makes sense.";
        example: r#"on_clean(|| { ipsets("KUBE-").absent(); });"#;
        rollback: "Nothing.";
    }

    IPVS_SERVICES = Resource(System::IpvsServices) ipvs_services(link: Text) {
        doc: "Virtual services of IPVS, the kernel's load balancer, on the addresses of this link and of the host's other links. Services that existed before the phase stay. Only `.absent()` makes sense, before the step that removes the link: without the link, nothing is removed.";
        example: r#"on_clean(|| { ipvs_services("kube-ipvs0").absent(); });"#;
        rollback: "Nothing.";
    }

    FIREWALL_CHAIN = Resource(System::FirewallChain) firewall_chain(name: Text, table: Text, jump_from: Text) {
        doc: "A chain of the packet filter that is the role's own, with exactly these rules, and a jump to it at the end of one of the kernel's chains. Its name begins with `PF9-`. The networks of the rules decide between iptables and ip6tables: all are IPv4, or all are IPv6.";
        example: r#"firewall_chain("PF9-EXAMPLE", "filter", "FORWARD").rule(#{ source: "10.20.0.0/16", action: "accept" });"#;
        rollback: "The chain and the jump to it are removed; a chain of that name from before is restored.";
        #repeatable rule(fields: Map) =>
            "A rule: its `action` (`accept`, `drop`, `masquerade` or `return`), and conditions that must all hold. `source`, `destination` and `not_destination` are networks; `in_interface` and `out_interface` are names of links; `protocol` is `tcp`, `udp` or `vrrp`.";
        first() =>
            "The jump comes before all rules of the kernel's chain that decide about packets, and is moved there again: before rules such as `-j ACCEPT` and `-j DROP`, but not before jumps to other chains, which docker and kube-proxy put first. Without this modifier, the rules of others decide first.";
    }

    RESTORE_SYSCTL = Resource(System::RestoreSysctl) restore_sysctl(key: Text) {
        doc: "A kernel setting that another program changes because of this phase. nodelet records the value before the phase's first change, and a clean restores it; for `on_clean` only.";
        example: r#"on_clean(|| { restore_sysctl("kernel.panic"); });"#;
        rollback: "Nothing.";
    }
}
