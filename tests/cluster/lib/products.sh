# shellcheck shell=bash
# Parallax's binaries on the nodes. Sourced by lifecycle.sh.
# shellcheck disable=SC2154  # Paths are set by common.sh, `count` and `suite` by `up`.

plugin_file() {
    printf '%s\n' "$repository/target/plugin-$1/plugin/libspank_parallax.so"
}

# The part of the plugin that steps with an image load.
step_part_file() {
    printf '%s\n' "$repository/target/plugin-$1/plugin-step/libspank_parallax_step.so"
}

# Builds the workspace, and the plugin against the headers of the nodes' Slurm.
build_products() {
    local suite=$1
    cd "$repository" || return
    make --silent products plugin SLURM_INCLUDE="$cluster_cache/rootfs-$suite/usr/include" PLUGIN_TARGET="target/plugin-$suite"
}

# install_everywhere WITH_PLUGIN: brings the files of Parallax on all nodes up to date and notes in
# the node's directory which services have to be restarted for it.
install_everywhere() {
    local with_plugin=$1 node
    for node in $(all_nodes); do
        install_on "$node" "$with_plugin"
    done
}

install_on() {
    local node=$1 with_plugin=$2 root built=$repository/target/release plugstack changed
    root=/proc/$(node_pid "$node")/root
    install_file "$built/parallax" "$root/usr/bin/parallax"
    install_file "$built/parallax-lazy" "$root/usr/sbin/parallax-lazy"
    install_file "$repository/target/launcher/parallax-launch" "$root/usr/libexec/parallax/parallax-launch"
    # None on processors that it is not made for.
    [[ ! -e $repository/target/join/parallax-join ]] ||
        install_file "$repository/target/join/parallax-join" "$root/usr/libexec/parallax/parallax-join"
    install_file "$built/parallax-mount-program" "$root/usr/libexec/parallax/parallax-mount-program"
    install_file "$(plugin_file "$suite")" "$root/usr/lib/parallax/spank_parallax.so"
    install_file "$(step_part_file "$suite")" "$root/usr/lib/parallax/spank_parallax_step.so"

    changed=no
    install_file "$built/parallax-agent" "$root/usr/sbin/parallax-agent"
    install_file "$here/parallax.toml" "$root/etc/parallax/parallax.toml"
    [[ $changed == no ]] || touch "$state/nodes/$node/restart-agent"

    changed=no
    plugstack=$state/nodes/$node/plugstack.conf
    plugstack_conf "$with_plugin" >"$plugstack"
    install_file "$plugstack" "$root/etc/slurm/plugstack.conf"
    [[ $changed == no ]] || touch "$state/nodes/$node/restart-slurmd"
}

plugstack_conf() {
    local with_plugin=$1
    if [[ $with_plugin == no ]]; then
        echo "# The cluster was started --without-plugin."
    # Slurm runs nothing at all if a required plugin is none.
    elif ! grep -qw slurm_spank_init <<<"$(nm --dynamic --defined-only "$(plugin_file "$suite")")"; then
        echo "# The plugin has no slurm_spank_init, so it is left out."
    else
        echo "required /usr/lib/parallax/spank_parallax.so"
    fi
}

# Puts a file in place by write and rename, so that a running program is not disturbed. Sets
# `changed` to "yes" if the file was not there in this form: install_file SOURCE TARGET.
install_file() {
    local source=$1 target=$2
    if ! cmp --silent "$source" "$target"; then
        mkdir -p "${target%/*}"
        cp "$source" "$target.new"
        mv -T "$target.new" "$target"
        changed=yes
    fi
}
