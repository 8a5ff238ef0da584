# shellcheck shell=bash
# Guests: nodes with Podman of another Debian and without Slurm. Sourced by lifecycle.sh.
# shellcheck disable=SC2154  # Paths are set by common.sh.

# Those there are; the guest of a suite is the node of that name.
guest_suites=(bookworm sid)

is_guest() {
    [[ " ${guest_suites[*]} " == *" $1 "* ]]
}

guest_rootfs() {
    printf '%s\n' "$cluster_cache/rootfs-guest-$1"
}

# Prints the packages of a guest, separated by commas.
guest_packages() {
    local more=$here/guest-packages-$1
    package_list "$here/guest-packages"
    [[ ! -e $more ]] || printf ',%s' "$(package_list "$more")"
}

# Prints what decides how a guest's root file system comes out; a change of it means a new build.
guest_key() {
    {
        guest_packages "$1"
        declare -f build_guest bootstrap_debian users_hook
    } | sha256sum | cut -d' ' -f1
}

guest_is_current() {
    local key
    key=$(guest_rootfs "$1")/.key
    [[ -e $key && $(<"$key") == "$(guest_key "$1")" ]]
}

# The users of the nodes, for the same reasons (see rootfs.sh).
users_hook() {
    # shellcheck disable=SC2016,SC2028  # The hook's shell expands it.
    echo 'for uid in 1001 1002 1003; do
            useradd --uid $uid --no-create-home --shell /bin/bash u$((uid - 1000))
        done
        printf "u1:100000:65536\nu2:165536:65536\n" | tee /etc/subuid >/etc/subgid'
}

build_guest() {
    local suite=$1 directory
    directory=$(guest_rootfs "$suite")
    rm -rf --one-file-system "$directory".??????
    bootstrap_debian "$suite" "$directory" \
        --variant=apt --include="$(guest_packages "$suite")" \
        --customize-hook="chroot \"\$1\" sh -euc '$(users_hook)'" \
        --customize-hook="rm -rf \"\$1\"/var/lib/apt/lists \"\$1\"/var/cache/apt \"\$1\"/usr/share/doc" \
        --customize-hook="echo $(guest_key "$suite") >\"\$1/.key\""
}

# Builds those of the guests' root file systems that are not current, all at once. Who comes second
# waits for the first.
# shellcheck disable=SC2120  # Arguments are the command line's.
cluster_build_guests() {
    [[ $# -eq 0 ]] || usage_error "build-guests: unknown argument \"$1\""
    local suite build builds=() failed=no
    mkdir -p "$cluster_cache"
    exec {building}>"$cluster_cache/guests-lock"
    flock "$building"
    for suite in "${guest_suites[@]}"; do
        guest_is_current "$suite" && continue
        (build_guest "$suite") >"$cluster_cache/guest-$suite.log" 2>&1 </dev/null &
        builds+=("$! $suite")
    done
    for build in "${builds[@]}"; do
        wait "${build% *}" || {
            tail -n 40 "$cluster_cache/guest-${build#* }.log" | sed 's/^/    /' >&2
            failed=yes
        }
    done
    exec {building}>&-
    [[ $failed == no ]] || fail "not all root file systems of guests could be built"
}

# Starts a guest, or installs what was built anew on one that is up.
cluster_guest() {
    local suite=${1:-} root built=$repository/target/release
    { [[ $# -eq 1 ]] && is_guest "$suite"; } ||
        usage_error "guest: needs one of: ${guest_suites[*]}"
    [[ -e $state/description ]] || fail "the cluster is not up; start it with: cluster up"
    # shellcheck disable=SC2119
    guest_is_current "$suite" || cluster_build_guests
    lock_cluster
    if ! node_pid "$suite" >/dev/null; then
        # shellcheck disable=SC2034  # For start_node.
        count=0 network=10.90.0 rootfs=$(guest_rootfs "$suite")
        start_node "$suite"
    fi
    root=/proc/$(node_pid "$suite")/root
    install_file "$built/parallax-mount-program" "$root/usr/libexec/parallax/parallax-mount-program"
    install_file "$built/parallax-lazy" "$root/usr/sbin/parallax-lazy"
    # For migrations with erofs-utils of that Debian.
    install_file "$built/parallax" "$root/usr/bin/parallax"
}
