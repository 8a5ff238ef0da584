//! The mount program: Podman of three Debian releases, rootless and rootful, on a store with no agent at work. Every script below
//! ends with what `FRAME` says: nothing is left of it, and nobody has waited for that.

use std::sync::OnceLock;

use anyhow::{Context as _, ensure};
use integration_tests::clean::leftovers;
use integration_tests::cluster::{Cluster, Done};

pub(super) mod calls;
pub(super) mod chunks;
pub(super) mod failures;
pub(super) mod images;
pub(super) mod podman;
pub(super) mod settings;
pub(super) mod sharing;
pub(super) mod stores;

/// The store of the cluster.
const STORE: &str = "/shared/store";
/// The program on every node.
const PROGRAM: &str = "/usr/libexec/parallax/parallax-mount-program";

/// Podman on a node, for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Podman {
    node: &'static str,
    user: &'static str,
    /// How `podman --version` ends.
    version: &'static str,
}

/// Podman 5.4, rootless: where one of them is enough.
const PLAIN: Podman = Podman { node: "n1", user: "u1", version: " 5.4.2" };
/// All of them: Debian 12's, 13's and sid's.
const EVERY: [Podman; 6] = [
    Podman { node: "bookworm", user: "u1", version: " 4.3.1" },
    Podman { node: "bookworm", user: "root", version: " 4.3.1" },
    PLAIN,
    Podman { node: "n1", user: "root", version: " 5.4.2" },
    Podman { node: "sid", user: "u1", version: " 5." },
    Podman { node: "sid", user: "root", version: " 5." },
];
/// Those of them that are rootless.
const ROOTLESS: [Podman; 3] = [EVERY[0], EVERY[2], EVERY[4]];

/// What is around a script: Podman with a graph root and a home of its own on STORE; `run` for a container that goes when it
/// ends, `inside` for what is to run where Podman mounts. Then the containers go, and every process that served a file system
/// must go by itself; then Podman's own goes.
const FRAME: &str = r#"
export XDG_RUNTIME_DIR=/tmp/mount-program
mkdir -m 0700 $XDG_RUNTIME_DIR
export HOME=$XDG_RUNTIME_DIR/home PARALLAX_MP_LOGFILE=$XDG_RUNTIME_DIR/log STORAGE_DRIVER=overlay
mkdir $HOME
if [ $(id -u) = 0 ]; then
    # The nodes' cgroups can only be read, and limits can't be raised.
    printf '[containers]\ncgroups = "disabled"\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n[engine]\ncgroup_manager = "cgroupfs"\n' >$HOME/containers.conf
    export CONTAINERS_CONF=$HOME/containers.conf
fi
podman() {
    command podman --root $XDG_RUNTIME_DIR/graph --runroot $XDG_RUNTIME_DIR/run \
        --storage-opt additionalimagestore=STORE --storage-opt mount_program=PROGRAM "$@"
}
run() { podman run --rm --network=host "$@"; }
if [ $(id -u) = 0 ]; then inside() { "$@"; }; else inside() { command podman unshare "$@"; }; fi
served() { pgrep -cu "$USER" squashfuse || true; }
left() { pgrep -lu "$USER" squashfuse; pgrep -lu "$USER" parallax-lazy; pgrep -lu "$USER" erofsfuse; pgrep -lu "$USER" fuse-overlayfs; }
all_end() { for name in conmon podman kills squashfuse erofsfuse fuse-overlayfs parallax-lazy; do timeout 20 pidwait -u "$USER" $name || true; done; }
end() {
    status=$?
    set +e
    podman rm --all --force --time=0 >/dev/null
    all_end >/dev/null
    if [ -n "$(left)" ]; then left >&2; status=99; fi
    [ $status = 0 ] || cat $XDG_RUNTIME_DIR/log >&2
    # Rootful Podman mounts this directory on itself.
    [ $(id -u) != 0 ] || umount $XDG_RUNTIME_DIR/graph/overlay 2>/dev/null
    inside rm -rf $XDG_RUNTIME_DIR/graph $XDG_RUNTIME_DIR/run || status=98
    mounts=/proc/self/mountinfo
    pause=$XDG_RUNTIME_DIR/libpod/tmp/pause.pid
    [ $(id -u) = 0 ] || mounts=/proc/$(cat $pause)/mountinfo
    if grep -E 'merged|squashfuse|erofsfuse|fuse-overlayfs' $mounts >&2; then status=98; fi
    if [ $(id -u) != 0 ]; then
        pkill -xu "$USER" catatonit
        timeout 20 pidwait -xu "$USER" catatonit >/dev/null
    fi
    rm -rf $XDG_RUNTIME_DIR
    rm -rf /run/user/0/libpod /run/libpod /var/tmp/podman* 2>/dev/null
    if [ -z "${OTHERS:-}" ] && ls -d /tmp/*parallax* >&2 2>/dev/null; then status=97; fi
    exit $status
}
trap end EXIT
"#;

/// Whether the nodes with the other Podmans are up and current, or why not.
static GUESTS: OnceLock<Result<(), String>> = OnceLock::new();

impl Podman {
    /// Runs a script in the frame, on a store.
    fn script_on(self, cluster: &Cluster, store: &str, text: &str) -> anyhow::Result<Done> {
        self.be_up(cluster)?;
        let whole = format!("{}{text}", FRAME.replace("STORE", store).replace("PROGRAM", PROGRAM));
        let done = cluster.run(self.node, self.user, &["bash", "-euc", &whole]).with_context(|| format!("{self:?}"))?;
        ensure!(![97, 98, 99].contains(&done.code), "{self:?}: something was left: {done:?}");
        if self.node != "n1" {
            let left = leftovers(cluster, self.node)?;
            ensure!(left.is_empty(), "{self:?}: left: {left:#?}");
        }
        Ok(done)
    }

    /// The same on the cluster's store.
    fn script(self, cluster: &Cluster, text: &str) -> anyhow::Result<Done> {
        self.script_on(cluster, STORE, text)
    }

    /// Makes sure that there is the node, and the Podman that is meant.
    fn be_up(self, cluster: &Cluster) -> anyhow::Result<()> {
        let start = || -> anyhow::Result<()> {
            for podman in ROOTLESS {
                if podman.node != "n1" {
                    cluster.start_guest(podman.node)?;
                }
                let done = cluster.run(podman.node, "u1", &["podman", "--version"])?.success()?;
                ensure!(done.stdout.contains(podman.version), "{podman:?}: {done:?}");
            }
            Ok(())
        };
        let guests =
            if self.node == "n1" { &Ok(()) } else { GUESTS.get_or_init(|| start().map_err(|e| format!("{e:#}"))) };
        guests.clone().map_err(anyhow::Error::msg)
    }

    fn is_rootful(self) -> bool {
        self.user == "root"
    }
}

/// Runs a script with Debian 13's rootless Podman on a store, in the frame.
pub(super) fn script_without_agent(cluster: &Cluster, store: &str, text: &str) -> anyhow::Result<Done> {
    PLAIN.script_on(cluster, store, text)
}

/// Runs a script with Debian sid's rootless Podman on a store, in the frame.
pub(super) fn script_on_sid(cluster: &Cluster, store: &str, text: &str) -> anyhow::Result<Done> {
    ROOTLESS[2].script_on(cluster, store, text)
}

/// Makes sure that a script said these lines.
fn expect_lines(done: &Done, expected: &[&str]) -> anyhow::Result<()> {
    ensure!(done.stdout.lines().eq(expected.iter().copied()), "not {expected:#?}: {done:#?}");
    Ok(())
}
