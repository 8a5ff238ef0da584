# shellcheck shell=bash
# The services on the nodes: munge, Slurm and the agent. Sourced by lifecycle.sh.
# shellcheck disable=SC2154  # Paths are set by common.sh, `count` and `suite` by `up`.

# Runs a command as root on a node.
on_node() {
    local node=$1
    shift
    (
        # What stays in the background must not hold the lock of `up`.
        [[ -z ${lock:-} ]] || exec {lock}>&-
        enter_node "$node" root / "$@"
    )
}

start_slurm() {
    local node
    for node in $(all_nodes); do
        configure_slurm "$node"
        start_munged "$node"
    done
    # slurmctld and slurmd return when they run in the background and accept connections.
    on_node ctl slurmctld
    for node in $(compute_nodes); do
        start_slurmd "$node"
    done
    wait_for_nodes
}

configure_slurm() {
    local node=$1 etc
    etc=/proc/$(node_pid "$node")/root/etc/slurm
    {
        cat "$here/slurm.conf"
        # More memory than there is, as with CPUs, so that steps may ask for any limit.
        echo "NodeName=n[1-$count] CPUs=8 RealMemory=4194304 State=UNKNOWN"
        echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE OverSubscribe=FORCE:8"
    } >"$etc/slurm.conf"
    echo "CgroupPlugin=disabled" >"$etc/cgroup.conf"
}

start_munged() {
    local node=$1
    on_node "$node" sh -euc '
        install --directory --owner=munge --group=munge --mode=0755 /run/munge
        exec setpriv --reuid munge --regid munge --clear-groups munged'
}

# Slurm tells nobody when its nodes are ready, so this has to ask again and again. It asks scontrol: what sinfo shows may be
# minutes old.
wait_for_nodes() {
    # shellcheck disable=SC2016  # The node's shell expands it.
    on_node ctl sh -euc '
        deadline=$(($(date +%s) + 60))
        until [ "$(scontrol --oneliner show node 2>/dev/null | grep --count " State=IDLE ")" = "$1" ]; do
            if [ "$(date +%s)" -ge "$deadline" ]; then
                echo "not all of Slurm'\''s nodes are idle after 60 s:"
                scontrol --oneliner show node
                exit 1
            fi
            sleep 0.05
        done' wait "$count"
}

# Waits until Slurm takes a node that was down for one that works. It tells nobody, either.
wait_for_return() {
    local node=$1
    # shellcheck disable=SC2016  # The node's shell expands it.
    on_node ctl sh -euc '
        deadline=$(($(date +%s) + 60))
        while :; do
            state=$(scontrol --oneliner show node "$1" 2>/dev/null || true)
            state=${state#* State=}
            state=${state%% *}
            case $state in
                "" | DOWN* | UNKNOWN* | *"*"* | *NOT_RESPONDING*) ;;
                *) exit 0 ;;
            esac
            if [ "$(date +%s)" -ge "$deadline" ]; then
                echo "$1 is still ${state:-unknown to Slurm} after 60 s"
                exit 1
            fi
            sleep 0.05
        done' wait "$node"
}

# start_slurmd NODE [ARGUMENT]…
start_slurmd() {
    local node=$1
    shift
    on_node "$node" slurmd "$@"
    rm -f "$state/nodes/$node/restart-slurmd"
}

stop_slurmd() {
    local node=$1
    end_service "$node" slurmd
}

start_agents() {
    local node
    for node in $(compute_nodes); do
        start_agent "$node"
    done
}

# Returns when the agent accepts connections.
start_agent() {
    local node=$1
    on_node "$node" python3 - <"$here/lib/start-agent.py"
    rm -f "$state/nodes/$node/restart-agent"
}

stop_agent() {
    local node=$1
    end_service "$node" agent
}

# Where a service notes its pid on its node.
pid_file() {
    case $1 in
        agent) echo /run/parallax-agent.pid ;;
        slurmd) echo /run/slurmd.pid ;;
    esac
}

is_running() {
    local node=$1 service=$2 root pid
    root=/proc/$(node_pid "$node")/root
    { read -r pid <"$root$(pid_file "$service")"; } 2>/dev/null && [[ -e $root/proc/$pid ]]
}

# Ends a service of a node and waits for its end.
end_service() {
    local node=$1 service=$2 root pid
    is_running "$node" "$service" || fail "the $service on $node is not running"
    root=/proc/$(node_pid "$node")/root
    read -r pid <"$root$(pid_file "$service")"
    on_node "$node" python3 - TERM "$pid $(start_time "$root/proc/$pid")" <"$here/lib/end-process.py"
    rm -f "$root$(pid_file "$service")"
}

# Restarts what `install_everywhere` found to have changed, and starts what does not run.
restart_changed() {
    local node service
    for node in $(compute_nodes); do
        for service in agent slurmd; do
            if is_running "$node" "$service"; then
                [[ -e $state/nodes/$node/restart-$service ]] || continue
                "stop_$service" "$node"
            fi
            "start_$service" "$node"
        done
    done
    wait_for_nodes
}
