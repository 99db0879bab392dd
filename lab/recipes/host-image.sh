# Builds the root file system of a lab host as `host.tar`: a plain Debian host, before any role came to it.
#
# In: SUITE, SOURCES (apt source lines), INCLUDE (packages, comma separated), WRAPPER (runc wrapper, or empty).
set -eu

# A diversion, not a copy over the packaged file: in the image without docker the real runc comes later, from a role's payload,
# and must find its place without pushing the wrapper away.
divert='true'
if [ -n "$WRAPPER" ]; then
    divert='chroot "$1" dpkg-divert --local --rename --divert /usr/sbin/runc.real --add /usr/sbin/runc
        install -m 755 "$WRAPPER" "$1/usr/sbin/runc"'
fi

# The container engine mounts its own files over three names under /etc and puts the redirection of its name server into the nat
# table. A host has plain files and no rules; it also has a shared root, which mounts of pods rely on.
cat > lab-init <<'INIT'
#!/bin/sh
for name in hosts hostname resolv.conf; do
    content=$(grep -v '^nameserver 127.0.0.11' "/etc/$name")
    umount "/etc/$name" && [ ! -s "/etc/$name" ] && printf '%s\n' "$content" > "/etc/$name"
done
mount --make-rshared /
for tool in iptables-nft iptables-legacy; do
    if [ "$tool" = iptables-nft ] || [ -s /proc/net/ip_tables_names ]; then
        $tool -t nat -F && $tool -t nat -X
    fi
done
exec /sbin/init
INIT
chmod 755 lab-init

export WRAPPER PARTIAL="$PWD"
mmdebstrap --mode=root --variant=minbase --include="$INCLUDE" --skip=check/empty \
    --customize-hook="$divert" \
    --customize-hook='cp "$PARTIAL/lab-init" "$1/sbin/lab-init"' \
    --customize-hook='rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*' \
    --customize-hook='for name in hosts hostname machine-id; do : > "$1/etc/$name"; done' \
    --customize-hook='chroot "$1" systemctl mask getty.target console-getty.service getty@tty1.service serial-getty@ttyS0.service' \
    --customize-hook='cp "$1/var/lib/dpkg/status" "$PARTIAL/dpkg-status"' \
    "$SUITE" host.tar - < "$SOURCES"
