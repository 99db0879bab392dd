# Prints everything about this host that a role may change, one item a line, in the sections that are named as arguments. Run in the host as root.
# A line that begins with `!` says why a section cannot be read.
export LC_ALL=C

# Every section says so if its program is not installed.
needs() {
    command -v "$1" >/dev/null && return
    echo "!$1 is not installed"
    return 1
}

# Mode, owner and kind of everything except what the exceptions name. Times, and sizes of directories, say nothing.
# systemd makes its folder of transient units with the first one.
section_files() {
    find /etc /usr /opt /var /root /run /tmp /home /srv /boot \
        \( -path /var/lib/docker -o -path /var/lib/containerd -o -path /var/log/journal -o -path /var/opt/pf9/nodelet/content \
           -o -path /opt/pf9/roles -o -path /run/docker -o -path /run/containerd -o -path /run/udev -o -path /run/user \) -prune -print0 -o -print0 2>/dev/null |
        xargs -0 stat --printf '%F %a %u:%g %n\n' 2>/dev/null | grep -v ' /run/systemd/transient$' | sort
}

# Without packages' own files and without /run, where services keep what changes by itself.
section_contents() {
    find /etc /usr/local /usr/lib/systemd /usr/libexec /opt /var /root /tmp /home /srv /boot /run/systemd/system /run/systemd/transient /run/systemd/generator -xdev \
        \( -path /var/lib/docker -o -path /var/lib/containerd -o -path /var/log -o -path /opt/pf9/roles -o -path /var/opt/pf9/nodelet \) -prune \
        -o -type f -print0 2>/dev/null | xargs -0 sha256sum 2>/dev/null | sort -k2
}

section_links() {
    find /etc /usr /opt /var /root /tmp /home /srv /boot /run/systemd/system /run/systemd/generator -type l -printf '%p -> %l\n' 2>/dev/null | sort
}

section_docker() {
    needs docker || return
    if ! docker info >/dev/null 2>&1; then
        echo '!docker does not answer'
        return
    fi
    docker info --format 'driver={{.Driver}} root={{.DockerRootDir}} cgroup={{.CgroupDriver}} logging={{.LoggingDriver}} live-restore={{.LiveRestoreEnabled}} registries={{json .RegistryConfig.Mirrors}}'
    docker ps -aq --no-trunc | xargs -r docker inspect --format 'container {{.Id}} {{.Name}} {{.Image}} {{.State.Status}} {{json .HostConfig}}' | sort
    docker images -a --no-trunc --format 'image {{.Repository}}:{{.Tag}} {{.ID}}' | sort
    docker volume ls -q | sed 's/^/volume /' | sort
    docker network ls --no-trunc --format 'network {{.Name}} {{.Driver}} {{.ID}}' | sed -E 's/^(network bridge bridge) .*/\1/' | sort
    docker images -qf dangling=true | sed 's/^/dangling /'
}

# A container that was restarted has another network namespace.
section_mounts() {
    findmnt -rno TARGET,FSTYPE | grep -v '^/proc/sys/fs/binfmt_misc' | sed -E 's|/[0-9a-f]{12} nsfs|/CONTAINER nsfs|; s|overlay2/[0-9a-f]+/|overlay2/LAYER/|' | sort
}

section_network() {
    ip -o link | sed -E 's/^[0-9]+: //; s/ (qlen|link-netnsid) [^ ]*//g; s/@if[0-9]+/@/; s/veth[0-9a-f]+/veth/; s/(link\/ether) [^ ]*/\1/' | sort
    ip -o addr | awk '{ if ($2 !~ /^veth/) print $2, $3, $4 }' | sort
    ip route show table all | sed -E 's/veth[0-9a-f]+/veth/; s/ (expires|linkdown).*//' | grep -v 'dev veth' | sort
    ip -6 route show table all | sed -E 's/ expires [^ ]*//' | grep -v 'dev veth' | sort
    ip rule | sort
    ip netns | sort
}

# Chains one after the other; within a chain the rules keep their order, and a rule that is there twice is printed twice.
section_firewall() {
    for save in iptables-save ip6tables-save; do
        needs $save || continue
        $save 2>/dev/null | grep -v '^#' | sed -E 's/ ?\[[0-9]+:[0-9]+\]//' |
            awk -v family=$save '/^\*/ { table = $0; next } /^COMMIT/ { next } /^:/ && $2 == "ACCEPT" { next }
                /^:/ { print family, table, "chain", substr($1, 2), $2; next } { $1 = "rule"; print family, table, $0 }' |
            sort --stable -k1,4
    done
}

# Without counters, which change by themselves.
section_nftables() {
    needs nft || return
    nft --stateless list ruleset
}

section_ipsets() {
    needs ipset || return
    ipset save 2>/dev/null | sort
}

section_ipvs() {
    needs ipvsadm || return
    ipvsadm -Sn 2>/dev/null
}

# Without counters, random values, and settings of single veth links.
section_sysctls() {
    sysctl -a 2>/dev/null | grep -vE '^(fs\.(binfmt_misc|dentry-state|file-nr|inode-nr|inode-state|quota)|kernel\.(random|ns_last_pid|pty\.nr|tainted)|net\.netfilter\.nf_conntrack_count|net\.ipv[46]\.(conf|neigh)\.veth|debug\.|dev\.cdrom|vm\.stat|net\.ipv4\.tcp_fastopen_key|net\.ipv6\.conf\.[^.]*\.stable_secret|user\.)' | sort
}

section_modules() {
    cut -d' ' -f1 /proc/modules 2>/dev/null | sort
}

section_packages() {
    dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n' | sort
}

section_accounts() {
    getent passwd | sort
    getent group | sort
}

# network-online.target is a milestone that docker and kubelet ask for; it stays reached.
section_units() {
    systemctl list-unit-files --no-legend --no-pager --plain | awk '{ print "file", $1, $2 }' | sort
    systemctl list-units --all --no-legend --no-pager --plain | awk '$1 != "network-online.target" && $1 !~ /\.(device|scope)$/ && $1 !~ /docker-overlay2|docker-netns|run-docker/ { print "unit", $1, $2, $3, $4 }' | sort
}

section_cgroups() {
    find /sys/fs/cgroup -mindepth 1 -type d | sed -E 's/[0-9a-f]{64}/CONTAINER/' | sort -u
}

section_crontabs() {
    ls -1 /var/spool/cron/crontabs 2>/dev/null
}

for name in "$@"; do
    printf '#%s\n' "$name"
    "section_$name"
    # The section is unknown, or a signal ended it.
    [ $? -lt 126 ] || exit 1
done
printf '#end\n'
