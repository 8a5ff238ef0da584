# shellcheck shell=bash
# Compute nodes that systemd boots, as real ones are: munge, Slurm and the agent are units. Sourced by lifecycle.sh.
# shellcheck disable=SC2154  # Paths are set by common.sh, `suite` by `power`.

boot_systemd_node() {
    local node=$1 root
    make_cgroup "$node"
    rm -f "$state/nodes/$node/boot"
    mkfifo "$state/nodes/$node/boot"
    start_node "$node" systemd
    connect_node "$node"
    install_on "$node" "$(<"$state/with-plugin")"
    configure_slurm "$node"
    root=/proc/$(node_pid "$node")/root
    make --silent --directory="$repository" install-programs DESTDIR="$root" PLUGIN_TARGET="target/plugin-$suite"
    # -b: as in boot_node.
    echo 'SLURMD_OPTIONS=-b' >"$root/etc/default/slurmd"
    # As README.md says it for compute nodes.
    on_node "$node" systemctl --quiet enable parallax-agent.socket parallax-agent munge slurmd
    python3 "$here/lib/await-boot.py" "$root/run/booted" "$state/nodes/$node/boot"
    # Something may still look into it.
    on_node "$node" umount --lazy /proc/sys
    on_node "$node" systemctl is-system-running --quiet || {
        on_node "$node" systemctl --no-pager --failed
        on_node "$node" journalctl --no-pager --lines=60
        fail "not all units of $node could be started"
    }
    wait_for_return "$node"
}

# Makes the control group below which a node's systemd has its own, and notes where it is.
make_cgroup() {
    local node=$1 mounted
    mounted=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET) ||
        fail "this machine has no control groups of version 2 mounted, which systemd needs"
    mktemp --directory "$mounted/cluster-$node.XXXXXX" >"$state/nodes/$node/cgroup"
    # Managers of users have their own groups below.
    chmod 0755 "$(<"$state/nodes/$node/cgroup")"
}

# Removes the control group of a node that has ended, if it had one, with all below it.
remove_cgroup() {
    local node=$1 record
    record=$state/nodes/$node/cgroup
    [[ -e $record ]] || return 0
    find "$(<"$record")" -depth -type d -exec rmdir {} +
    rm "$record"
}
