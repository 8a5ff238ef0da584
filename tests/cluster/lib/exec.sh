# shellcheck shell=bash
# Running commands on a node. Sourced by ../cluster.

cluster_exec() {
    local node=${1:-} user=root directory=''
    [[ -n $node && $node != -* ]] || usage_error "exec: no node given"
    shift
    while [[ $# -gt 0 ]]; do
        case $1 in
            --user | --cwd)
                [[ -n ${2:-} ]] || usage_error "exec: $1 needs a value"
                if [[ $1 == --user ]]; then user=$2; else directory=$2; fi
                shift 2
                ;;
            --) shift && break ;;
            *) usage_error "exec: unknown argument \"$1\"; the command comes after \"--\"" ;;
        esac
    done
    [[ $# -gt 0 ]] || usage_error "exec: no command given"
    require_root
    enter_node "$node" "$user" "$directory" "$@"
}

# Replaces this process by a command that runs in all the namespaces of a node:
# enter_node NODE USER DIRECTORY COMMAND…; an empty DIRECTORY means the user's home.
enter_node() {
    local node=$1 user=$2 directory=$3 pid entry uid='' gid='' home='' path=/usr/local/bin:/usr/bin:/bin
    shift 3
    pid=$(node_pid "$node") || fail "node \"$node\" is not up; start the cluster with: cluster up"

    while IFS=: read -r -a entry; do
        if [[ ${entry[0]} == "$user" ]]; then
            uid=${entry[2]} gid=${entry[3]} home=${entry[5]}
            break
        fi
    done <"/proc/$pid/root/etc/passwd"
    [[ -n $uid ]] || fail "node \"$node\" has no user \"$user\"; it has root, u1, u2 and u3"
    [[ $uid != 0 ]] || path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    directory=${directory:-$home}

    # nsenter stays outside as the parent. If a test kills it, the command must not live on, so the
    # command asks to be told when its parent ends (--pdeathsig). The environment is a fresh one, as
    # after a login, and `env` enters the directory with the user's rights.
    exec nsenter --target "$pid" --mount --uts --ipc --net --pid -- \
        /usr/bin/setpriv --reuid "$uid" --regid "$gid" --init-groups --pdeathsig TERM -- \
        /usr/bin/env -i --chdir="$directory" "HOME=$home" "USER=$user" "LOGNAME=$user" SHELL=/bin/bash "PATH=$path" \
        "TERM=${TERM:-dumb}" LANG=C.UTF-8 "PWD=$directory" "$@"
}
