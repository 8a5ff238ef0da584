# shellcheck shell=bash
# `up`, `down`, `service` and `power`. Sourced by ../cluster.
# shellcheck disable=SC2154  # Paths are set by common.sh.

# shellcheck source=tests/lib/debian.sh
source "$here/../lib/debian.sh"
# shellcheck source=tests/cluster/lib/rootfs.sh
source "$here/lib/rootfs.sh"
# shellcheck source=tests/cluster/lib/products.sh
source "$here/lib/products.sh"
# shellcheck source=tests/cluster/lib/nodes.sh
source "$here/lib/nodes.sh"
# shellcheck source=tests/cluster/lib/services.sh
source "$here/lib/services.sh"
# shellcheck source=tests/cluster/lib/guests.sh
source "$here/lib/guests.sh"
# shellcheck source=tests/cluster/lib/systemd.sh
source "$here/lib/systemd.sh"

# Runs one stage of `up`: prints what it does and how long it took. What it writes goes to a log
# file, whose end is shown if it fails: stage WHAT COMMAND…
stage() {
    local what=$1 log status begin=$EPOCHREALTIME
    shift
    log=$logs/up-$1.log
    printf '%-46s ' "$what"
    # The subshell keeps `set -e` in force, which a condition around the command would switch off.
    set +e
    (
        set -e
        # With a trap it ends only after the program that it waits for.
        trap 'exit 143' TERM
        "$@"
    ) >"$log" 2>&1 </dev/null
    status=$?
    set -e
    if [[ $status -ne 0 ]]; then
        printf 'failed\n'
        tail -n 40 "$log" | sed 's/^/    /' >&2
        fail "\"$what\" failed; the whole log is $log"
    fi
    printf '%6.1f s\n' "$(seconds_since "$begin")"
    grep '^warning: ' "$log" || true
}

seconds_since() {
    local microseconds=$((${EPOCHREALTIME/[.,]/} - ${1/[.,]/}))
    printf '%d.%06d' $((microseconds / 1000000)) $((microseconds % 1000000))
}

cluster_up() {
    local suite=trixie count=2 with_plugin=yes begin=$EPOCHREALTIME description
    while [[ $# -gt 0 ]]; do
        case $1 in
            --suite)
                suite=${2:-}
                [[ $suite == trixie || $suite == sid ]] ||
                    usage_error "up: unknown suite \"$suite\": it is trixie or sid"
                shift 2
                ;;
            --nodes)
                count=${2:-}
                [[ $count =~ ^[1-9][0-9]?$ ]] ||
                    usage_error "up: \"$count\" is no number of nodes from 1 to 99"
                shift 2
                ;;
            --without-plugin) with_plugin=no && shift ;;
            *) usage_error "up: unknown argument \"$1\"" ;;
        esac
    done
    lock_cluster
    rootfs=$cluster_cache/rootfs-$suite
    description="suite $suite, $count compute nodes"

    if cluster_is_up; then
        [[ $(<"$state/description") == "$description" ]] ||
            fail "another cluster is up ($(<"$state/description")); take it down first with: cluster down"
        refresh_cluster
    else
        remove_cluster
        rm -rf "$logs"
        mkdir -p "$logs"
        # Whatever goes wrong from here on, interrupts included, leaves nothing behind.
        trap 'remove_cluster' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        start_cluster
        printf '%s\n' "$description" >"$state/description"
        printf '%s\n' "$with_plugin" >"$state/with-plugin"
        trap - EXIT INT TERM
    fi
    printf 'The cluster is up (%s) after %.1f s.\n' "$description" "$(seconds_since "$begin")"
}

start_cluster() {
    rootfs_is_current "$suite" || stage "Build the root file system of $suite" build_rootfs "$suite"
    stage "Build Parallax" build_products "$suite"
    stage "Start ctl and $count compute nodes" start_nodes
    stage "Install Parallax on the nodes" install_everywhere "$with_plugin"
    stage "Start the agents" start_agents
    stage "Start Slurm" start_slurm
}

# Builds the root file system of the nodes alone, for its headers.
cluster_build_rootfs() {
    local suite=${1:-trixie}
    [[ $# -le 1 && ($suite == trixie || $suite == sid) ]] || usage_error "build-rootfs: needs trixie or sid"
    ! rootfs_is_current "$suite" || return 0
    lock_cluster
    # A node that is up has it below its overlay.
    [[ ! -e $state/nodes ]] || fail "a cluster is up; take it down first with: cluster down"
    mkdir -p "$logs"
    stage "Build the root file system of $suite" build_rootfs "$suite"
}

# Brings a running cluster up to date with what was built since.
refresh_cluster() {
    rootfs_is_current "$suite" ||
        fail "the packages of the nodes have changed; take the cluster down first with: cluster down"
    stage "Build Parallax" build_products "$suite"
    stage "Install Parallax on the nodes" install_everywhere "$with_plugin"
    stage "Restart what changed" restart_changed
}

cluster_down() {
    [[ $# -eq 0 ]] || usage_error "down: unknown argument \"$1\""
    lock_cluster
    if [[ ! -e $state/nodes ]]; then
        echo "No cluster is up."
        return
    fi
    remove_cluster
    echo "The cluster is down."
}

cluster_service() {
    [[ $# -eq 3 ]] || usage_error "service: needs a node, start or stop, and agent or slurmd"
    local node=$1 action=$2 service=$3
    [[ $action == start || $action == stop ]] || usage_error "service: unknown action \"$action\""
    [[ $service == agent || $service == slurmd ]] || usage_error "service: unknown service \"$service\""
    node_pid "$node" >/dev/null || fail "node \"$node\" is not up; start the cluster with: cluster up"
    [[ $node != ctl ]] || fail "node \"ctl\" is no compute node and runs neither agent nor slurmd"
    "${action}_$service" "$node"
}

cluster_power() {
    local node=${1:-} action=${2:-} boot=boot_node suite count description
    [[ $# -ne 3 || $action != on || $3 != --systemd ]] || { boot=boot_systemd_node && set -- "$1" "$2"; }
    [[ $# -eq 2 ]] || usage_error "power: needs a node, and off or on; on may have --systemd"
    [[ -e $state/description ]] || fail "no cluster is up; start it with: cluster up"
    [[ $node != ctl && -d $state/nodes/$node ]] || fail "there is no compute node \"$node\""
    lock_cluster
    # As `up` wrote it: "suite trixie, 2 compute nodes".
    read -r _ suite count description <"$state/description"
    suite=${suite%,}
    rootfs=$cluster_cache/rootfs-$suite
    case $action in
        off)
            node_pid "$node" >/dev/null || fail "$node has no power"
            cut_power "$node"
            # Slurm finds out by itself when the node has not answered for SlurmdTimeout, five minutes.
            on_node ctl scontrol update NodeName="$node" State=DOWN Reason="no power"
            ;;
        on)
            ! node_pid "$node" >/dev/null || fail "$node is up"
            "$boot" "$node"
            ;;
        *) usage_error "power: unknown action \"$action\"" ;;
    esac
}

# What a node does by itself when it gets power.
boot_node() {
    local node=$1
    start_node "$node"
    connect_node "$node"
    install_on "$node" "$(<"$state/with-plugin")"
    start_agent "$node"
    configure_slurm "$node"
    start_munged "$node"
    # -b: the kernel has been up for longer, so slurmd has to be told that the node was booted.
    start_slurmd "$node" -b
    wait_for_return "$node"
}

# One `up`, `down` or `power` at a time. Nothing that outlives this process may hold the descriptor, so it is
# closed wherever a node or a service is started.
lock_cluster() {
    mkdir -p "$cluster_cache"
    exec {lock}>"$cluster_cache/lock${cluster_name:+-$cluster_name}"
    flock --nonblock "$lock" || fail "another cluster up or down is running for $state; wait for it"
}

cluster_is_up() {
    local node
    [[ -e $state/description ]] || return 1
    for node in "$state"/nodes/*; do
        is_guest "${node##*/}" || node_pid "${node##*/}" >/dev/null || return 1
    done
}
