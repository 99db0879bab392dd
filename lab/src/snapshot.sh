# Prints everything about this host that a role may change, one thing a line, in sections. Run in the host as root.
export LC_ALL=C
section() { printf '#%s\n' "$1"; }

section files
# Mode, owner, kind and content of everything but what the exceptions name; times and sizes of directories say nothing.
# systemd makes its folder of transient units with the first one.
find /etc /usr /opt /var /root /run/systemd/system /run/systemd/transient /run/systemd/generator \
    \( -path /var/lib/docker -o -path /var/lib/containerd -o -path /var/log/journal -o -path /var/opt/pf9/nodelet/content \
       -o -path /opt/pf9/roles \) -prune -print0 -o -print0 2>/dev/null |
    while IFS= read -r -d '' path; do
        printf '%s\0' "$path"
    done | xargs -0 stat --printf '%F %a %u:%g %n\n' | grep -v ' /run/systemd/transient$' | sort -k4
section contents
find /etc /usr/local /usr/lib/systemd /usr/libexec /opt /var /root /run/systemd/system /run/systemd/transient /run/systemd/generator -xdev \
    \( -path /var/lib/docker -o -path /var/lib/containerd -o -path /var/log -o -path /opt/pf9/roles -o -path /var/opt/pf9/nodelet \) -prune \
    -o -type f -print0 2>/dev/null | xargs -0 sha256sum 2>/dev/null | sort -k2
section links
find /etc /usr /opt /var /root /run/systemd/system /run/systemd/generator -type l -printf '%p -> %l\n' 2>/dev/null | sort

section docker
if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
    docker info --format 'driver={{.Driver}} root={{.DockerRootDir}} cgroup={{.CgroupDriver}} logging={{.LoggingDriver}} live-restore={{.LiveRestoreEnabled}} registries={{json .RegistryConfig.Mirrors}}'
    docker ps -aq --no-trunc | xargs -r docker inspect --format 'container {{.Id}} {{.Name}} {{.Image}} {{.State.Status}} {{json .HostConfig}}' | sort
    docker images -a --no-trunc --format 'image {{.Repository}}:{{.Tag}} {{.ID}}' | sort
    docker volume ls -q | sed 's/^/volume /' | sort
    docker network ls --no-trunc --format 'network {{.Name}} {{.Driver}} {{.ID}}' | sed -E 's/^(network bridge bridge) .*/\1/' | sort
    docker images -qf dangling=true | sed 's/^/dangling /'
else
    echo none
fi

section mounts
# A container that was restarted has another network namespace.
findmnt -rno TARGET,FSTYPE | grep -v '^/proc/sys/fs/binfmt_misc' | sed -E 's|/[0-9a-f]{12} nsfs|/CONTAINER nsfs|; s|overlay2/[0-9a-f]+/|overlay2/LAYER/|' | sort
section network
ip -o link | sed -E 's/^[0-9]+: //; s/ (qlen|link-netnsid) [^ ]*//g; s/@if[0-9]+/@/; s/veth[0-9a-f]+/veth/; s/(link\/ether) [^ ]*/\1/' | sort
ip -o addr | awk '{ if ($2 !~ /^veth/) print $2, $3, $4 }' | sort
ip route show table all | sed -E 's/veth[0-9a-f]+/veth/; s/ (expires|linkdown).*//' | grep -v 'dev veth' | sort
ip -6 route show table all | sed -E 's/ expires [^ ]*//' | grep -v 'dev veth' | sort
ip rule | sort
ip netns | sort
section firewall
for save in iptables-save ip6tables-save; do
    command -v $save >/dev/null && $save 2>/dev/null | grep -v '^#' | sed -E 's/ ?\[[0-9]+:[0-9]+\]//' |
        awk -v family=$save '/^\*/ { table = $0; next } /^COMMIT/ { next } /^:/ && $2 == "ACCEPT" { next } { print family, table, $0 }' | sort
done
section ipsets
command -v ipset >/dev/null && ipset save 2>/dev/null | sort
section ipvs
command -v ipvsadm >/dev/null && ipvsadm -Sn 2>/dev/null
section sysctls
# Without what counts, what random numbers fill, and what belongs to single veth links.
sysctl -a 2>/dev/null | grep -vE '^(fs\.(dentry-state|file-nr|inode-nr|inode-state|quota)|kernel\.(random|ns_last_pid|pty\.nr|tainted)|net\.netfilter\.nf_conntrack_count|net\.ipv[46]\.(conf|neigh)\.veth|debug\.|dev\.cdrom|vm\.stat|net\.ipv4\.tcp_fastopen_key|net\.ipv6\.conf\.[^.]*\.stable_secret|user\.)' | sort
section modules
cut -d' ' -f1 /proc/modules 2>/dev/null | sort
section packages
dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n' | sort
section accounts
getent passwd | sort
getent group | sort
section units
# network-online.target is a milestone that docker and kubelet ask for; it stays reached.
systemctl list-unit-files --no-legend --no-pager --plain | awk '{ print "file", $1, $2 }' | sort
systemctl list-units --all --no-legend --no-pager --plain | awk '$1 != "network-online.target" && $1 !~ /\.(device|scope)$/ && $1 !~ /docker-overlay2|docker-netns|run-docker/ { print "unit", $1, $2, $3, $4 }' | sort
section cgroups
find /sys/fs/cgroup -mindepth 1 -type d | sed -E 's/[0-9a-f]{64}/CONTAINER/' | sort -u
section crontabs
ls -1 /var/spool/cron/crontabs 2>/dev/null
section end
