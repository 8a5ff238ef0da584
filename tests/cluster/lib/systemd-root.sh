# shellcheck shell=bash
# What a node's root file system needs to be booted by systemd. Sourced by node-init.sh, in the root to be.

# The devices and the kernel are the machine's. Nothing of the node may change them: neither its systemd, which would
# raise limits of the kernel (until the node has booted, see systemd.sh), nor what fills /dev or needs hardware.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind /dev/null dev/console
mount --bind /dev/null dev/kmsg
for unit in \
    systemd-tmpfiles-setup-dev-early.service systemd-tmpfiles-setup-dev.service kmod-static-nodes.service \
    systemd-modules-load.service systemd-random-seed.service systemd-initctl.socket systemd-journald-dev-log.socket \
    dev-hugepages.mount dev-mqueue.mount proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount getty.target timers.target \
    dbus.service dbus.socket systemd-logind.service; do
    ln -sf /dev/null "etc/systemd/system/$unit"
done
# The bus and logind are for the tests that need sessions of users: they unmask them.
# What packages enabled by themselves is not what the node is for.
rm -rf etc/systemd/system/*.wants
ln -sf /usr/lib/systemd/system/multi-user.target etc/systemd/system/default.target
# The root file system is no newer than what was made from it (systemd-update-done.service).
touch etc/.updated var/.updated
