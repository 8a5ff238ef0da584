# shellcheck shell=bash
# What the scripts that build Debian root file systems have in common. Sourced, never run.

# Prints the packages a list file names, comma-separated as mmdebstrap wants them.
package_list() {
    local file=$1
    sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$file" | tr -d '[:blank:]' | paste -sd,
}

# Prints the URI of the main Debian archive. It is read from this machine's own apt sources, so that
# a site's mirror is used and no host name needs to be written down anywhere.
debian_mirror() {
    local codename uri
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    # Security updates and third parties use other release names or other components.
    uri=$(apt-get indextargets --format "\$(RELEASE) \$(REPO_URI)" \
        'Created-By: Packages' 'Component: main' |
        awk -v codename="$codename" '$1 == codename && !found++ { print $2 }')
    if [[ -z $uri ]]; then
        echo "no Debian archive for \"$codename\" main in this machine's apt sources;" \
            "add one below /etc/apt/sources.list.d" >&2
        return 1
    fi
    printf '%s\n' "$uri"
}

# Prints the sources.list line of a suite.
debian_source() {
    local suite=$1 mirror options=
    mirror=$(debian_mirror)
    # sid's Release file is often expired on a mirror that is a snapshot, and an older Debian may not
    # have the keys of a newer one. What is built here runs only in throw-away test nodes.
    if [[ $suite == sid || ! -e /usr/share/keyrings/debian-archive-$suite-automatic.gpg ]]; then
        options='[trusted=yes] '
    fi
    printf 'deb %s%s %s main\n' "$options" "$mirror" "$suite"
}

# Makes a Debian root file system: bootstrap_debian SUITE DIRECTORY [MMDEBSTRAP OPTION…].
# DIRECTORY appears only when it is complete: an interrupted build is never taken for a good one.
# Everything runs in namespaces of its own, so that ending this ends all of it, mounts included.
bootstrap_debian() {
    local suite=$1 directory=$2 source unfinished
    shift 2
    source=$(debian_source "$suite")
    unfinished=$(mktemp -d "$directory.XXXXXX")
    (
        trap 'rm -rf --one-file-system "$unfinished"' EXIT
        # mmdebstrap wants an empty directory that others may pass through.
        chmod 755 "$unfinished"
        unshare --mount --pid --fork --kill-child --mount-proc -- \
            mmdebstrap --mode=root --format=directory \
            --aptopt='Acquire::Check-Valid-Until "false"' "$@" \
            "$suite" "$unfinished" "$source"
        rm -rf --one-file-system "$directory"
        mv -T "$unfinished" "$directory"
    )
}
