//! What nodes read of a source that is served to them: of a store, by the number of nodes, and of a tree, for one program.
//!
//! The source is served by fuse-overlayfs without a writable layer. It answers each request by one write, and the kernel counts the
//! writes and the bytes of a process (`/proc/PID/io`): operations and bytes of the source, whatever reads them.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Done;
use serde_json::Value;

use super::Row;
use super::mount_program::PROGRAM;
use crate::report::{Figure, Measured};
use crate::session::{NODE, Session, USER};
use crate::statistics::Summary;

/// A store.
pub(super) const STORE: Row = Row { id: "node_scaling", measure: store };
/// A tree.
pub(super) const TREE: Row = Row { id: "tree_read", measure: tree };

const BYTES_WHAT: &str = "bytes of the store that a node reads for `import numpy`, 16 nodes at once / 1 node";
const OPERATIONS_WHAT: &str = "operations on the store by a node, 16 nodes at once / 1 node";
const TREE_WHAT: &str = "bytes of an unpacked image that a step with `import numpy` reads / bytes of the image";

const IMAGE: &str = "numpy";
const IMPORT: &str = "import numpy";
const NODES: [usize; 3] = [1, 4, 16];
/// What all nodes together get of the store's layers, in bytes a second.
const RATE: &str = "25000000";

/// Serves directories (`serve SOURCE TARGET`), and prints what each server has done so far (`counted`). Readers may end a little later.
const SERVE: &str = r#"
    servers=()
    serve() {
        mkdir -p "$2"
        fuse-overlayfs -o lowerdir="$1",allow_other "$2"
        servers+=($(pgrep -fx "fuse-overlayfs -o lowerdir=$1,allow_other $2"))
        targets+=("$2")
    }
    counted() {
        for server in ${servers[@]}; do echo $(sed -n 's/^\(wchar\|syscw\): //p' /proc/$server/io); done
    }
    targets=()
    trap 'for target in "${targets[@]}"; do umount --lazy "$target"; rmdir "$target"; done' EXIT
"#;

/// Nodes that run the image from the store, all at once. Each has a mount of its own, and so its own cache.
const READ_STORE: &str = r#"
    work=$1 nodes=$2 program=$3 user=$4 image=$5 command=$6 bench=$7 rate=$8 files=(${@:9})
    # The layers' files of all nodes come by one way, which has a limit.
    copies=()
    for node in $(seq $nodes); do
        mkdir $work/lower-$node
        mount --bind /shared/store $work/lower-$node
        for file in ${files[@]}; do copies+=($file $work/lower-$node/${file#/shared/store/}); done
    done
    coproc $bench on-node copies $rate ${copies[@]}
    to=${COPROC[1]}
    read -r line <&${COPROC[0]}
    [ $line = ready ]
    for node in $(seq $nodes); do
        serve $work/lower-$node $work/store-$node
        install -d -o $user $work/node-$node
    done
    before=$(counted)
    on_node() {
        runuser -u $user -- env --chdir=$1 XDG_RUNTIME_DIR=$1 HOME=$1 STORAGE_DRIVER=overlay bash -euc '
            podman --root $HOME/graph --runroot $HOME/run --storage-opt additionalimagestore=$1 --storage-opt mount_program=$2 \
                run --rm --network=host $3 python3 -c "$4"
            kill $(cat $HOME/libpod/tmp/pause.pid)
        ' on-node $2 $program $image "$command"
    }
    running=()
    for node in $(seq $nodes); do on_node $work/node-$node $work/store-$node & running+=($!); done
    for process in ${running[@]}; do wait $process; done
    paste -d ' ' <(echo "$before") <(counted)
    for target in ${targets[@]}; do umount --lazy $target; done
    targets=()
    for node in $(seq $nodes); do umount --lazy --recursive $work/lower-$node; done
    exec {to}>&-
    wait $COPROC_PID || true
"#;

/// The first two numbers of each line taken from the other two, added up.
fn counted(done: &Done) -> anyhow::Result<[f64; 2]> {
    let mut sums = [0.0; 2];
    for line in done.stdout.lines() {
        let numbers: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().context("no numbers")?;
        let [bytes_before, writes_before, bytes, writes] = numbers[..] else {
            anyhow::bail!("the node answered {:?}", done.stdout)
        };
        sums[0] += bytes - bytes_before;
        sums[1] += writes - writes_before;
    }
    Ok(sums)
}

fn store(session: &Session) -> anyhow::Result<Measured> {
    integration_tests::images::build(&[IMAGE])?;
    session.migrate(IMAGE)?;
    let report = session.run("root", &["parallax", "inspect", "--json", IMAGE])?.stdout;
    let report: Value = serde_json::from_str(&report)?;
    let layers = report["layers"].as_array().context("no layers")?;
    let files: Vec<String> = layers.iter().filter_map(|layer| layer["file"].as_str().map(ToOwned::to_owned)).collect();
    ensure!(!files.is_empty(), "no files of layers");
    let (mut each, mut seconds) = (Vec::new(), Vec::new());
    let counts = if session.is_quick() { &NODES[..2] } else { &NODES };
    for &nodes in counts {
        let work = session.run("root", &["mktemp", "--directory", "/tmp/bench-XXXXXX"])?.stdout;
        let (work, count) = (work.trim(), nodes.to_string());
        session.run("root", &["chmod", "755", work])?;
        let script = format!("{SERVE}{READ_STORE}");
        let program = session.program();
        let command = ["unshare", "--mount", "bash", "-euc", &script, "read", work, &count, PROGRAM, USER, IMAGE];
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let begun = Instant::now();
        let done = session.run("root", &[&command[..], &[IMPORT, &program, RATE], &files].concat());
        seconds.push(begun.elapsed().as_secs_f64());
        session.run("root", &["rm", "-rf", "--one-file-system", work])?;
        #[expect(clippy::cast_precision_loss, reason = "there are few nodes")]
        each.push(counted(&done?)?.map(|sum| sum / nodes as f64));
    }
    let last = each.len() - 1;
    let ratio = |index: usize| Summary::of([each[last][index] / each[0][index]]);
    let shown: Vec<String> = counts
        .iter()
        .zip(each.iter().zip(&seconds))
        .map(|(nodes, ([bytes, writes], seconds))| {
            format!("{nodes}: {:.1} MB and {writes:.0} operations, {seconds:.1} s for all", bytes / 1e6)
        })
        .collect();
    let note = format!(
        "node_scaling: {IMAGE}, each node a Podman with the mount program and a mount of the store of its own on this machine, which has not so many \
         nodes; the store's layers come with 25 MB/s for all together. By the number of nodes, for each: {}.",
        shown.join("; ")
    );
    let figures = vec![
        Figure::new(STORE.id, BYTES_WHAT, ratio(0), "").at_most(1.1),
        Figure::new("node_scaling_operations", OPERATIONS_WHAT, ratio(1), "").at_most(1.1),
    ];
    Ok(Measured { figures, notes: vec![note] })
}

/// Serves the unpacked image until the input ends, and says when it is there and what was read.
const SERVE_TREE: &str = r#"
    serve $1 $2
    before=$(counted)
    echo ready
    cat >/dev/null
    paste -d ' ' <(echo "$before") <(counted)
"#;

fn tree(session: &Session) -> anyhow::Result<Measured> {
    integration_tests::images::build(&[IMAGE])?;
    let directory = format!("{}/unpacked", session.directory());
    let unpack = format!("umoci unpack --image /images/{IMAGE}:$(umoci ls --layout /images/{IMAGE}) {directory}");
    session.run("root", &["bash", "-euc", &unpack])?;
    let root = format!("{directory}/rootfs");
    let measured = read_tree(session, &root);
    let size = session.run(
        "root",
        &["bash", "-euc", "find $0 -xdev -type f -printf '%s\\n' | awk '{ sum += $1 } END { print sum }'", &root],
    );
    session.run("root", &["rm", "-rf", &directory])?;
    let ([bytes, operations], size) = (measured?, size?.stdout.trim().parse::<f64>()?);
    let note = format!(
        "tree_read: {IMAGE} unpacked, {:.0} MB, served by FUSE and run by its path: {:.1} MB and {operations:.0} operations.",
        size / 1e6,
        bytes / 1e6
    );
    let figure = Figure::new(TREE.id, TREE_WHAT, Summary::of([bytes / size]), "").at_most(0.1);
    Ok(Measured { figures: vec![figure], notes: vec![note] })
}

/// Runs a step with the tree as its image; returns the bytes and the operations.
fn read_tree(session: &Session, root: &str) -> anyhow::Result<[f64; 2]> {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::Stdio;

    let target = "/tmp/bench-tree";
    let script = format!("{SERVE}{SERVE_TREE}");
    let mut command = session.cluster().command(NODE, "root", &["bash", "-euc", &script, "serve", root, target]);
    let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(server.stdout.take().context("no output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let image = format!("--parallax-image={target}");
    let done = session.cluster().srun(USER, &["--nodelist", NODE, &image, "python3", "-c", IMPORT]);
    drop(server.stdin.take());
    let mut stdout = String::new();
    output.read_to_string(&mut stdout)?;
    server.wait()?;
    anyhow::ensure!(line == "ready\n", "the tree is not served");
    done?.success()?;
    counted(&Done { code: 0, stdout, stderr: String::new() })
}
