#!/bin/bash
# The first process of a node: makes the node's root file system, changes into it and becomes an init
# that reaps, or systemd. Started by nodes.sh in new mount, PID, UTS, IPC and network namespaces:
#   node-init.sh NODE ROOTFS STATE IMAGES NETWORK COUNT catatonit|systemd
set -euo pipefail

node=$1 rootfs=$2 state=$3 images=$4 network=$5 count=$6 init=$7

# /proc is still the machine's, and so are the pid and the start time read there.
read -r line </proc/self/stat
read -r -a fields <<<"${line##*) }"
echo "${line%% *} ${fields[19]}" >"$state/nodes/$node/pid"

mount --make-rprivate /
hostname "$node"

# A tmpfs takes all that the node writes. Relative names, because a path could have characters that
# mean something in mount options.
work=$state/nodes/$node/work
mkdir -p "$work"
mount -t tmpfs -o mode=0755 tmpfs "$work"
cd "$work"
mkdir lower upper overlay root containers
mount --bind "$rootfs" lower
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=overlay overlay root
cd root

mount -t proc proc proc
mount -t sysfs sysfs sys
# The machine's cgroups may be of both versions at once, which neither crun nor Slurm wants.
if [[ $init == systemd ]]; then
    # What is below the group that was made for this node is the node's, and goes with it.
    echo 0 >"$(<"$state/nodes/$node/cgroup")/cgroup.procs"
    unshare --cgroup mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    # These are the machine's: read-only, because what a node made there would outlive it.
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -o remount,bind,ro sys/fs/cgroup
fi
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp
install --directory --mode=1777 run/lock

# Devices are the machine's, loop devices that come later included. What differs is put on top:
# /dev/fuse for everyone, and shared memory (where Podman has its locks) for each node alone.
mount --rbind /dev dev
mknod --mode=0666 ../fuse c 10 229
mount --bind ../fuse dev/fuse
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm

# What nodes share. /var/lib/containers is a node's own, but the kernel takes no overlay as the upper
# layer of another one, so root's Podman needs it on the tmpfs.
mkdir -p shared images var/log/cluster var/lib/containers
mount --bind "$state/shared" shared
mount --bind "$state/home" home
mount --bind "$state/log" var/log/cluster
mount --bind -o ro "$images" images
mount --bind ../containers var/lib/containers

# A supplementary group of u1's. Here and not later: Slurm keeps the groups of users that it has looked up.
echo "licensed:x:2001:u1" >>etc/group

echo "$node" >etc/hostname
{
    echo "127.0.0.1 localhost"
    echo "$network.1 ctl"
    for ((number = 1; number <= count; number++)); do
        echo "$network.$((number + 1)) n$number"
    done
} >etc/hosts

if [[ $init == systemd ]]; then
    # shellcheck source=tests/cluster/lib/systemd-root.sh
    source "${BASH_SOURCE[0]%/*}/systemd-root.sh"
    exec 3<>"$state/nodes/$node/boot"
fi

# From here on the programs are the node's own. The old root may still be busy with this very shell,
# so it is detached and goes with it.
mkdir .machine
pivot_root . .machine
# shellcheck disable=SC2016  # The node's shell expands it.
exec chroot . /bin/sh -euc '
    cd /
    umount --lazy /.machine
    rmdir /.machine
    mount --make-rshared /
    echo ready
    [ "$1" = systemd ] || exec catatonit -P >/dev/null 2>&1
    # Until its units are in place.
    read -r _ <&3
    exec 3<&-
    exec unshare --cgroup env --ignore-environment container=cluster NOTIFY_SOCKET=/run/booted \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin \
        /usr/lib/systemd/systemd --log-target=journal --show-status=no >/dev/null 2>&1
' init "$init"
