# shellcheck shell=bash
# Starting and ending nodes. Sourced by lifecycle.sh.
# shellcheck disable=SC2154  # Paths are set by common.sh, `count` and `suite` by `up`.

# The network of the nodes; it exists only inside their namespaces.
network=10.90.0

compute_nodes() {
    local number
    for ((number = 1; number <= count; number++)); do echo "n$number"; done
}

all_nodes() {
    echo ctl
    compute_nodes
}

start_nodes() {
    local node
    prepare_shared_directories
    for node in $(all_nodes); do
        start_node "$node"
    done
    connect_ctl
    for node in $(compute_nodes); do
        connect_node "$node"
    done
}

prepare_shared_directories() {
    local uid
    mkdir -p "$state/shared/store" "$state/home" "$repository/target/images"
    for uid in 1001 1002 1003; do
        install --directory --mode=0700 --owner=$uid --group=$uid "$state/home/u$((uid - 1000))"
    done
}

# Starts a node and returns when its root file system is complete and its PID 1 runs: start_node NODE [systemd]
start_node() {
    local node=$1 init=${2:-catatonit} word ready
    mkdir -p "$state/nodes/$node"
    # The node tells that it is ready by a line on its standard output; if it ends before, the line
    # is missing. A session of its own keeps a Ctrl-C meant for `cluster` away from it.
    exec {ready}< <(
        exec {lock}>&- setsid unshare --mount --uts --ipc --net --pid --fork --kill-child -- \
            "$here/lib/node-init.sh" "$node" "$rootfs" "$state" "$repository/target/images" \
            "$network" "$count" "$init" </dev/null 2>"$logs/$node-init.log"
    )
    if ! read -r -t 60 -u "$ready" word || [[ $word != ready ]]; then
        cat "$logs/$node-init.log"
        echo "node $node did not start"
        return 1
    fi
    exec {ready}<&-
    python3 "$here/lib/oldest-namespace.py" "$(node_pid "$node")"
}

# Makes the bridge that joins the nodes. It is in ctl's network namespace, so that the machine itself
# has no interface of the cluster.
connect_ctl() {
    nsenter --net="/proc/$(node_pid ctl)/ns/net" ip -batch - <<LINKS
link set lo up
link add switch type bridge
address add $network.1/24 dev switch
link set switch up
LINKS
}

connect_node() {
    local node=$1 pid ctl
    ctl=$(node_pid ctl)
    pid=$(node_pid "$node")
    ip link add name "$node" netns "$ctl" type veth peer name eth0 netns "$pid"
    nsenter --net="/proc/$pid/ns/net" ip -batch - <<LINKS
link set lo up
address add $network.$((${node#n} + 1))/24 dev eth0
link set eth0 up
LINKS
    nsenter --net="/proc/$ctl/ns/net" ip link set "$node" master switch up
}

# Takes the power from a node: with its PID 1 ends everything in its namespaces, and all that its
# kernel held for it: mounts, loop devices, its end of the network.
cut_power() {
    local node=$1
    python3 "$here/lib/end-process.py" KILL "$(<"$state/nodes/$node/pid")"
    rm "$state/nodes/$node/pid"
    remove_cgroup "$node"
}

# Ends all nodes with everything on them and removes the state, except for the logs.
remove_cluster() {
    local directory records=()
    for directory in "$state"/nodes/*/; do
        [[ ! -r $directory/pid ]] || records+=("$(<"$directory/pid")")
    done
    # With its PID 1 ends everything in a node's namespaces: processes, mounts, interfaces.
    [[ ${#records[@]} -eq 0 ]] || python3 "$here/lib/end-process.py" KILL "${records[@]}"
    detach_loop_devices
    for directory in "$state"/nodes/*/; do
        remove_cgroup "$(basename "$directory")"
    done
    for directory in "$state"/*; do
        [[ $directory == "$logs" ]] || rm -rf --one-file-system "$directory"
    done
}

# A loop device that was not told to go with its last mount outlives the node. Such a device is known
# by its backing file, which is in this cluster's store.
detach_loop_devices() {
    local name device inode ours
    [[ -d $state/shared ]] || return 0
    ours=$(find "$state/shared" -type f -printf '%D:%i\n')
    losetup --list --noheadings --output NAME,BACK-MAJ:MIN,BACK-INO |
        while read -r name device inode; do
            device=$(((${device%:*} << 8) | ${device#*:}))
            ! grep -qxF "$device:$inode" <<<"$ours" || losetup --detach "$name"
        done
}
