#!/bin/sh
# systemd as process 1, as on a host, in namespaces of mounts, processes, names and cgroups. Unlike `systemd --user` (manager.sh) it can do
# everything that a unit asks for, such as DynamicUser=. It is not in the initial pid namespace, so the daemon itself cannot run here.
# The network is that of the caller.
#
# Usage: unshare --mount --propagation private boot.sh WORK CGROUP     ends when it is killed
# WORK is a directory on tmpfs with `units`, the only units that this systemd knows. /run, /var/lib, /opt and /tmp are new, and changes of
# /etc are in WORK.
set -eu
work=$1
cgroup=$2

if [ "${3:-}" != inside ]; then
    # One hierarchy of version 2, whatever this host has there.
    mount -t cgroup2 none /sys/fs/cgroup
    mkdir "/sys/fs/cgroup/$cgroup"
    echo $$ > "/sys/fs/cgroup/$cgroup/cgroup.procs"
    exec unshare --cgroup --pid --fork --kill-child --ipc --uts "$0" "$work" "$cgroup" inside
fi
mount -t cgroup2 none /sys/fs/cgroup
mount -t proc proc /proc
# What a systemd would change for the whole host.
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mkdir -p "$work/upper" "$work/below"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$work/upper,workdir=$work/below" /etc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/dev /run/units /run/systemd/journal
mount -t tmpfs -o mode=755 tmpfs /run/dev
for name in null zero full random urandom tty; do cp -a /dev/$name /run/dev/; done
for name in shm pts; do
    mkdir /run/dev/$name
    mount --rbind /dev/$name /run/dev/$name
done
ln -s pts/ptmx /run/dev/ptmx
mount --move /run/dev /dev
cp "$work"/units/* /run/units/
# The checkout may be in one of the directories that are replaced now.
mkdir -p "$work/checkout"
mount --bind "$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)" "$work/checkout"
for name in var/lib opt; do mount -t tmpfs -o mode=755 tmpfs /$name; done
# The directory of the work is below /dev/shm, which stays.
for name in tmp var/tmp; do mount -t tmpfs -o mode=1777 tmpfs /$name; done
tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
/usr/lib/systemd/systemd-journald > "$work/journald.log" 2>&1 &
until [ -S /run/systemd/journal/stdout ]; do sleep 0.05; done
# Within this namespace: systemd mounts the credentials of a unit from another one.
mount --make-rshared /
exec env -i container=procline-test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/units \
    /usr/lib/systemd/systemd --system --unit=test.target --log-target=journal --show-status=no
