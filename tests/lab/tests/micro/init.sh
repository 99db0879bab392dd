#!/bin/sh
# The first process of the micro machine. It mounts what systemd would, starts nodeletd where systemd would, and measures what
# status passes cost. It prints its results as `micro: NAME=VALUE`; main.rs judges them.
export PATH=/bin

say() { echo "micro: $*"; }

# Time since the boot, in microseconds.
now() {
    read -r uptime _ < /proc/uptime
    echo "${uptime%.*}${uptime#*.}0000"
}

# CPU time of a group and what is below it, in microseconds.
usage() {
    read -r _ microseconds < "$1/cpu.stat"
    echo "$microseconds"
}

# How many periods of a group ended with processes that had used up its limit.
throttled() {
    while read -r name value; do
        [ "$name" != nr_throttled ] || echo "$value"
    done < "$1/cpu.stat"
}

leave() {
    say "end=$1"
    poweroff -f
    # The machine is off before this loop ends.
    while :; do sleep 1; done
}

# until_true SECONDS WHAT COMMAND…: waits for it.
until_true() {
    until_deadline=$(($(now) + $1 * 1000000)) until_what=$2
    shift 2
    until "$@"; do
        if [ "$(now)" -gt "$until_deadline" ]; then
            say "log=$(tail -n 5 /run/nodeletd.log)"
            leave "no success in time: $until_what"
        fi
        usleep 20000
    done
}

holds() { [ "$(cat "$1" 2> /dev/null)" = "$2" ]; }
has_gone() { ! kill -0 "$1" 2> /dev/null; }

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname micro
ip link set lo up
# nodelet needs the address under which other hosts reach this host.
ip address add 192.0.2.1/24 dev lo
ip route add default dev lo src 192.0.2.1

CGROUPS=/sys/fs/cgroup
UNIT=$CGROUPS/system.slice/pf9-nodeletd.service
LEAF=$UNIT/pf9-kube-status
OUTSIDE=$CGROUPS/outside

# No group delegates a controller yet.
mkdir -p $UNIT $OUTSIDE
for group in $CGROUPS $CGROUPS/system.slice $UNIT; do
    say "handed_down=[$(cat $group/cgroup.subtree_control)]"
done

# settings PERCENT
settings() {
    cat > /etc/pf9/nodelet/config.yaml.new <<END
ROLE: master
CLUSTER_ID: 6f1c0c9e-7f0a-4b52-9a51-8d1f5ed0a001
MASTER_IP: 192.0.2.1
KUBE_SERVICE_STATE: "true"
LOOP_INTERVAL: 1s
CPU_LIMIT: "$1"
END
    mv /etc/pf9/nodelet/config.yaml.new /etc/pf9/nodelet/config.yaml
}

# measure PERCENT: the CPU time that a check without an end gets under this limit.
measure() {
    settings "$1"
    until_true 45 "a limit of $1 %" holds $LEAF/cpu.max "$(($1 * 1000)) 100000"
    rm -f /run/burning
    touch /run/burn
    until_true 45 "a check that burns CPU" test -e /run/burning
    from=$(now) used=$(usage $LEAF) before=$(throttled $LEAF)
    # No other process needs the processor, so only the limit restricts the check. The sleeps are no waits: they are the periods that
    # are measured. In one period the group may get more than its share, and less in a later one.
    for seconds in 2 1 1; do
        sleep $seconds
        say "limit=$1 wall=$(($(now) - from)) used=$(($(usage $LEAF) - used))"
    done
    say "throttled=$1 periods=$(($(throttled $LEAF) - before))"
    rm /run/burn
    burner=$(cat /run/burner)
    until_true 45 "the end of a check that never ends" has_gone "$burner"
    say "check_ended_after=$(($(now) - from))"
}

sh -c "echo 0 > $UNIT/cgroup.procs; exec /opt/nodeletd --role /role --config /etc/pf9/nodelet" > /run/nodeletd.log 2>&1 &
daemon=$!

settings 75
until_true 45 "what the phase starts" test -s /run/phase.group
say "phase_group=$(cat /run/phase.group)"
say "daemon_group=$(cat /proc/$daemon/cgroup)"

measure 75
say "check_group=$(cat /run/burning)"
say "memory.max=$(cat $LEAF/memory.max)"

touch /run/hog
until_true 45 "a check that wants too much memory" test -s /run/hogged
say "hog_status=$(cat /run/hogged)"
say "$(grep '^oom_kill ' $LEAF/memory.events | tr ' ' =)"

measure 40
sh -c "echo 0 > $OUTSIDE/cgroup.procs; while :; do :; done" &
outside=$!
from=$(now) used=$(usage $OUTSIDE)
sleep 1
say "outside=100 wall=$(($(now) - from)) used=$(($(usage $OUTSIDE) - used))"
kill $outside

say "log=$(tail -n 5 /run/nodeletd.log)"
say "daemon_lives=$(has_gone $daemon && echo no || echo yes)"
leave well
