#!/bin/sh
# systemd and journald as on a host, in namespaces of mounts and of cgroups: `systemd --user` of root can do for a unit
# what pid 1 does (user, capabilities, mounts, filters), and is in the initial pid namespace, as the daemon must be.
#
# Usage: unshare --mount --propagation private manager.sh WORK CGROUP     prints "ready PID", and ends with its standard input
# WORK is a directory on tmpfs. /run is new, and changes of /etc are in WORK.
set -eu
work=$1
cgroup=$2

if [ "${3:-}" != inside ]; then
    # One hierarchy of version 2, whatever this host has there.
    mount -t cgroup2 none /sys/fs/cgroup
    mkdir "/sys/fs/cgroup/$cgroup"
    echo $$ > "/sys/fs/cgroup/$cgroup/cgroup.procs"
    exec unshare --cgroup "$0" "$work" "$cgroup" inside
fi
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p "$work/upper" "$work/below"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$work/upper,workdir=$work/below" /etc
mount -t tmpfs -o mode=755 tmpfs /run

mkdir -p /run/systemd/system /run/systemd/user /run/systemd/journal /run/systemd/journald.conf.d /run/user
# RuntimeDirectory= is below the manager's own one, where journald expects that of a user.
ln -s .. /run/user/0
cat > /run/systemd/journald.conf.d/test.conf << 'CONF'
[Journal]
Storage=volatile
Audit=no
ReadKMsg=no
ForwardToSyslog=no
ForwardToKMsg=no
ForwardToConsole=no
ForwardToWall=no
CONF
/usr/lib/systemd/systemd-journald > "$work/journald.log" 2>&1 &
journald=$!
until [ -S /run/systemd/journal/stdout ]; do sleep 0.05; done

# journald finds the unit of a process by its cgroup.
mkdir -p /sys/fs/cgroup/user.slice/user-0.slice/user@0.service
(
    read -r self _ < /proc/self/stat
    echo "$self" > /sys/fs/cgroup/user.slice/user-0.slice/user@0.service/cgroup.procs
    umask 0 # for its socket of sd_notify, as pid 1 has it
    export SYSTEMD_LOG_TARGET=journal XDG_RUNTIME_DIR=/run HOME=/run
    exec /usr/lib/systemd/systemd --user
) &
manager=$!
until XDG_RUNTIME_DIR=/run systemctl --user is-active --quiet basic.target 2> /dev/null; do sleep 0.05; done
echo "ready $$"

read -r _ || true
XDG_RUNTIME_DIR=/run systemctl --user stop procline.service 2> /dev/null || true
# SIGRTMIN+24: exit at once.
kill -58 "$manager"
wait "$manager" || true
kill "$journald"
wait "$journald" || true
