# shellcheck shell=bash
# Paths and messages. Sourced by ../cluster, which sets `here`.
# shellcheck disable=SC2034,SC2154

repository=$(realpath -- "$here/../..")
# Only `up` makes what is below here; each checkout has its own and so its own clusters.
cluster_cache=$repository/target/cluster
# A checkout can have several clusters, which share what was built and nothing else.
cluster_name=${PARALLAX_CLUSTER:-}
[[ $cluster_name =~ ^[a-z0-9]*$ ]] ||
    { printf 'cluster: invalid PARALLAX_CLUSTER "%s": only a-z and 0-9\n' "$cluster_name" >&2 && exit 2; }
state=$cluster_cache/state${cluster_name:+-$cluster_name}
logs=$state/log

fail() {
    printf 'cluster: %s\n' "$*" >&2
    exit 1
}

usage_error() {
    printf 'cluster: %s; see: cluster --help\n' "$*" >&2
    exit 2
}

require_root() {
    [[ $EUID -eq 0 ]] || fail "must be run as root to make and enter namespaces"
}

# Prints the pid, in the machine's own numbering, of a node's PID 1; fails if the node is not up.
# A pid alone could be another process's by now, so the start time recorded with it must match.
node_pid() {
    local name=$1 pid recorded started
    [[ -r $state/nodes/$name/pid ]] || return 1
    read -r pid recorded <"$state/nodes/$name/pid"
    started=$(start_time "/proc/$pid") && [[ $started == "$recorded" ]] || return 1
    printf '%s\n' "$pid"
}

# Prints when a process started, in clock ticks since boot: start_time DIRECTORY-IN-PROC.
start_time() {
    local line
    { read -r line <"$1/stat"; } 2>/dev/null || return 1
    # The second field is the name in parentheses and may itself have spaces and parentheses.
    # shellcheck disable=SC2086  # one word per field
    set -- ${line##*) }
    printf '%s\n' "${20}"
}
