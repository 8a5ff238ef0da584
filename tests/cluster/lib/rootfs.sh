# shellcheck shell=bash
# The root file system that all nodes have below their own overlay. Sourced by lifecycle.sh.
# shellcheck disable=SC2154  # Paths are set by common.sh.

# Prints what decides how the root file system comes out; a change of it means a new build.
rootfs_key() {
    {
        package_list "$here/packages"
        declare -f build_rootfs bootstrap_debian
    } | sha256sum | cut -d' ' -f1
}

rootfs_is_current() {
    local suite=$1
    [[ -e $cluster_cache/rootfs-$suite/.key && $(<"$cluster_cache/rootfs-$suite/.key") == "$(rootfs_key)" ]]
}

build_rootfs() {
    local suite=$1 users
    # Debian 13's useradd hands out subordinate ids by itself, older ones do not: the whole truth is
    # written afterwards. u3 has none on purpose.
    # shellcheck disable=SC2016  # The hook's shell expands it.
    users='
        for uid in 1001 1002 1003; do
            useradd --uid $uid --no-create-home --shell /bin/bash u$((uid - 1000))
        done
        printf "u1:100000:65536\nu2:165536:65536\n" | tee /etc/subuid >/etc/subgid'
    rm -rf --one-file-system "$cluster_cache/rootfs-$suite".??????
    # Services are started by `cluster`; the munge key that the package makes is the cluster's.
    bootstrap_debian "$suite" "$cluster_cache/rootfs-$suite" \
        --variant=apt --include="$(package_list "$here/packages")" \
        --customize-hook="chroot \"\$1\" sh -euc '$users'" \
        --customize-hook="echo $(rootfs_key) >\"\$1/.key\""
}
