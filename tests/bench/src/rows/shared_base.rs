//! What a store that all nodes share saves, beside a storage of its own on each node: bytes, requests to a registry, and time.

use std::time::Instant;

use anyhow::Context as _;
use integration_tests::cluster::Done;

use super::Row;
use super::mount_program::PROGRAM;
use crate::registry::{REGISTRY, Registry};
use crate::report::{Figure, Measured};
use crate::session::{NODE, Session, USER};
use crate::statistics::Summary;

/// The bytes, and the requests.
pub(super) const SAVED: Row = Row { id: "storage_saved", measure: saved };
/// The time.
pub(super) const FIRST_START: Row = Row { id: "first_start_vs_pull", measure: first_start };

const SAVED_WHAT: &str = "bytes of one store and the writable layers of 16 nodes / bytes of 16 private storages; 10 images on one base of 600 MB";
const PULLS_WHAT: &str =
    "requests for parts of images to the registry: a cluster with one store / each node that pulls";
const FIRST_WHAT: &str =
    "first step with an image of the store on a node / step that pulls it from a local registry and runs it";

const IMAGES: usize = 10;
/// What all of them are on.
const BASE: &str = "numpy";
const NODES: usize = 16;
/// How many of them pull the images: what they get and keep is the same, and takes minutes.
const PULLING: usize = 2;
const ROUNDS: usize = 3;

/// Makes images that differ in one layer each, `app1` to `appN`, in the registry.
const MAKE: &str = r#"
    cd "$1"; registry=$2 count=$3
    cp -a /images/$4 apps
    tag=$(umoci ls --layout apps)
    for i in $(seq $count); do
        head -c 1000000 /dev/urandom >own
        umoci insert --image apps:$tag --tag app$i own /opt/own
        skopeo copy --quiet --dest-tls-verify=false oci:apps:app$i docker://$registry/app$i:1
    done
    rm -r own apps
"#;

/// Podman of the user: `podman_in DIRECTORY`, with a runtime directory and so a pause process of its own.
const PODMAN: &str = r#"
    umask 022
    export XDG_RUNTIME_DIR=$(mktemp -d /tmp/bench-XXXXXX) STORAGE_DRIVER=overlay
    export HOME=$XDG_RUNTIME_DIR
    trap 'kill $(cat $XDG_RUNTIME_DIR/libpod/tmp/pause.pid) 2>/dev/null; rm -rf $XDG_RUNTIME_DIR' EXIT
    podman_in() { local at=$1; shift; podman --root $at/graph --runroot $at/run "$@"; }
"#;

/// Starts a container that writes a file, on each of so many nodes that use the store.
const SHARED: &str = r#"
    d=$1 registry=$2 nodes=$3 store=$4 program=$5
    for node in $(seq $nodes); do
        podman_in $d/$node --storage-opt additionalimagestore=$store --storage-opt mount_program=$program \
            run --network=host $registry/app1:1 sh -c 'echo changed >/etc/changed'
    done
"#;

/// The same on nodes that pull all images.
const PRIVATE: &str = r#"
    d=$1 registry=$2 nodes=$3 count=$4
    for node in $(seq $nodes); do
        for i in $(seq $count); do podman_in $d/$node pull --quiet --tls-verify=false docker://$registry/app$i:1 >/dev/null; done
        podman_in $d/$node run --network=host $registry/app1:1 sh -c 'echo changed >/etc/changed'
    done
"#;

/// Runs `script`, which has [`PODMAN`], as the user, with a directory of this name in the session's as its first argument; returns its size in the end.
fn with_podman(session: &Session, place: &str, script: &str, arguments: &[&str]) -> anyhow::Result<u64> {
    let directory = format!("{}/{place}", session.directory());
    session.run("root", &["install", "-d", "-o", USER, &directory])?;
    let script = format!("{PODMAN}{script}");
    let done = session.run(USER, &[&["bash", "-euc", &script, "podman", &directory][..], arguments].concat());
    let bytes = size(session, &directory);
    session.run("root", &["rm", "-rf", "--one-file-system", &directory])?;
    done?;
    bytes
}

/// What a directory takes on the disk, in bytes. Podman's clean-up after a container may remove files meanwhile, which `du` reports as errors.
fn size(session: &Session, directory: &str) -> anyhow::Result<u64> {
    let line = ["sh", "-c", "du --summarize --block-size=1 \"$0\" 2>/dev/null || test -d \"$0\"", directory];
    let done = session.run("root", &line)?;
    Ok(done.stdout.split_whitespace().next().context("no size")?.parse()?)
}

#[expect(clippy::cast_precision_loss, reason = "nobody has so many bytes")]
fn ratio(one: u64, other: u64) -> Summary {
    Summary::of([one as f64 / other as f64])
}

fn saved(session: &Session) -> anyhow::Result<Measured> {
    let nodes = if session.is_quick() { 2 } else { NODES };
    let (count, nodes_text) = (IMAGES.to_string(), nodes.to_string());
    let (directory, store) = (session.directory(), format!("{}/base-store", session.directory()));
    integration_tests::images::build(&[BASE])?;
    let registry = Registry::start(session)?;
    session.run("root", &["bash", "-euc", MAKE, "make", &directory, REGISTRY, &count, BASE])?;
    drop(registry);

    let registry = Registry::start(session)?;
    let images: Vec<String> = (1..=IMAGES).map(|number| format!("docker://{REGISTRY}/app{number}:1")).collect();
    let mut migrate = vec!["parallax", "--quiet", "--store", &store, "migrate", "--tls-verify=false"];
    migrate.extend(images.iter().map(String::as_str));
    session.run("root", &migrate)?;
    let written = with_podman(session, "shared-nodes", SHARED, &[REGISTRY, &nodes_text, &store, PROGRAM])?;
    let stored = size(session, &store)?;
    let of_store = registry.blobs_requested()?;

    let registry = Registry::start(session)?;
    let node = |_| with_podman(session, "private-node", PRIVATE, &[REGISTRY, "1", &count]);
    let pulled: u64 = (0..PULLING).map(node).sum::<anyhow::Result<_>>()?;
    let private = pulled / PULLING as u64 * nodes as u64;
    let of_nodes = registry.blobs_requested()? / PULLING * nodes;
    session.run("root", &["rm", "-rf", &store, &format!("{directory}/registry")])?;

    let megabytes = |bytes: u64| bytes / 1_000_000;
    let note = format!(
        "storage_saved: {IMAGES} images of 1 MB each on {BASE} ({} MB in one private storage), {nodes} nodes, each a storage of its own on this machine, since it has not so many \
         nodes, of which {PULLING} pull; store {} MB, {} kB written on each node; private storages {} MB. registry_pulls: {of_store} requests for \
         layers and configurations by `parallax migrate` and none by the nodes, {of_nodes} by {nodes} nodes that pull.",
        megabytes(private) / nodes as u64,
        megabytes(stored),
        written / nodes as u64 / 1000,
        megabytes(private),
    );
    let pulls = ratio(of_store as u64 * nodes as u64, of_nodes as u64);
    let figures = vec![
        Figure::new(SAVED.id, SAVED_WHAT, ratio(stored + written, private), "").at_most(0.2),
        Figure::new("registry_pulls", PULLS_WHAT, pulls, "").at_most(1.0),
    ];
    Ok(Measured { figures, notes: vec![note] })
}

const FIRST: &str = "large";
const COMMAND: &str = "import json; print(json.dumps(1))";
/// Drops the files below some directories from the page cache.
const FORGET: &str = r#"find "$@" -type f -size +64k -exec dd if={} iflag=nocache count=0 status=none \;"#;
/// Pulls the image and runs it, all in the directory `$d`.
const PULL: &str = r#"
    podman_in $d pull --quiet --tls-verify=false docker://$registry/large:1 >/dev/null
    podman_in $d run --rm --network=host $registry/large:1 python3 -c "$command"
"#;

fn first_start(session: &Session) -> anyhow::Result<Measured> {
    integration_tests::images::build(&[FIRST])?;
    let registry = Registry::start(session)?;
    let there = format!("docker://{REGISTRY}/{FIRST}:1");
    session.run(
        "root",
        &["skopeo", "copy", "--quiet", "--dest-tls-verify=false", &format!("oci:/images/{FIRST}"), &there],
    )?;
    session.migrate(FIRST)?;
    let measured = compare(session);
    drop(registry);
    session.run("root", &["rm", "-rf", &format!("{}/registry", session.directory())])?;
    let (times, unpacked) = measured?;
    let median = |index: usize| Summary::of(times.iter().map(|round| round[index])).median;
    let compressed = size(session, &format!("/images/{FIRST}"))? / 1_000_000;
    let note = format!(
        "first_start_vs_pull: Debian with Open MPI, compilers, numpy, scipy, pandas and matplotlib, {compressed} MB compressed, {} MB in Podman's storage, \
         {} rounds, caches of the files dropped; from the store {:.2} s, pulled and run {:.2} s.",
        unpacked / 1_000_000,
        times.len(),
        median(0),
        median(1),
    );
    let figure =
        Figure::new(FIRST_START.id, FIRST_WHAT, Summary::of(times.iter().map(|round| round[0] / round[1])), "");
    Ok(Measured { figures: vec![figure.at_most(0.33)], notes: vec![note] })
}

/// Seconds until a first step has run its command, from the store and pulled; and what the pulled image takes in bytes.
fn compare(session: &Session) -> anyhow::Result<(Vec<[f64; 2]>, u64)> {
    let rounds = if session.is_quick() { 1 } else { ROUNDS };
    let cluster = session.cluster();
    let graph = format!("{}/pulled", session.directory());
    let registry_files = format!("{}/registry", session.directory());
    let pull = format!("{PODMAN}d=$1 registry={REGISTRY} command='{COMMAND}'{PULL}");
    let image = format!("--parallax-image={FIRST}");
    let timed = |arguments: &[&str]| -> anyhow::Result<f64> {
        let begun = Instant::now();
        cluster.srun(USER, arguments).and_then(Done::success)?;
        Ok(begun.elapsed().as_secs_f64())
    };
    let (mut times, mut unpacked) = (Vec::new(), 0);
    for _ in 0..rounds {
        // The agent unmounts what it has kept mounted.
        cluster.service(NODE, "stop", "agent")?;
        cluster.service(NODE, "start", "agent")?;
        session.run("root", &["bash", "-euc", FORGET, "forget", "/shared/store/parallax", &registry_files])?;
        let stored = timed(&["--nodelist", NODE, &image, "python3", "-c", COMMAND])?;
        session.run("root", &["install", "-d", "-o", USER, &graph])?;
        let pulled = timed(&["--nodelist", NODE, "bash", "-euc", &pull, "pull", &graph]);
        unpacked = size(session, &graph)?;
        session.run("root", &["rm", "-rf", "--one-file-system", &graph])?;
        times.push([stored, pulled?]);
    }
    Ok((times, unpacked))
}
