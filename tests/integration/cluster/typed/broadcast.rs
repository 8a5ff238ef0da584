//! Programs that Slurm brings to the nodes itself: the same command finds them with and without an image.

use std::fs;

use anyhow::ensure;
use integration_tests::cluster::Cluster;

use super::{batch_output, put};

tests! { cluster:
    a_program_that_is_broadcast_runs,
    a_program_that_sbcast_brought_runs,
    several_programs_in_one_step,
    a_program_of_the_image_comes_first,
}

const IMAGE: &str = "--parallax-image=debian";
/// Says where it is and what it was given; a second line if it is in an image.
const SCRIPT: &[u8] = b"#!/bin/sh\necho $0 $*\n[ -e /usr/sbin/slurmd ] || echo in the image\n";

/// Puts the script, and a compiled program that needs nothing, into u1's home.
fn programs(cluster: &Cluster) -> anyhow::Result<()> {
    put(cluster, "prog.sh", SCRIPT)?;
    let compiled = fs::read(cluster.path_on("n1", "/bin/readlink")?)?;
    put(cluster, "prog", &compiled)
}

/// The lines that a step wrote, without the words in which tasks on the node and in an image differ.
fn lines(cluster: &Cluster, options: &[&str], command: &[&str]) -> anyhow::Result<Vec<String>> {
    let done = cluster.srun("u1", &[options, command].concat())?.success()?;
    let mut lines: Vec<String> = done.stdout.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

fn a_program_that_is_broadcast_runs(cluster: &Cluster) -> anyhow::Result<()> {
    programs(cluster)?;
    let nodes = ["-N2", "-n4", "--ntasks-per-node=2"];
    for target in ["--bcast", "--bcast=/tmp/prog-1", "--bcast=/var/tmp/prog-2"] {
        let options = [&nodes[..], &[target]].concat();
        let with_image = [&options[..], &[IMAGE]].concat();
        let outside = lines(cluster, &options, &["./prog.sh", "an", "argument"])?;
        let inside = lines(cluster, &with_image, &["./prog.sh", "an", "argument"])?;
        // Without a name the file's has the step's number and the node.
        let generic = |line: &String| {
            let name = line.split(' ').next().unwrap_or_default();
            let number = name.split("slurm_bcast_").nth(1).and_then(|rest| rest.split('_').next());
            number.map_or(line.clone(), |number| line.replace(number, "STEP"))
        };
        let in_image = inside.iter().filter(|line| *line == "in the image").count();
        ensure!(in_image == 4, "{target}: not all tasks are in the image: {inside:?}");
        let programs: Vec<String> = inside.iter().filter(|line| *line != "in the image").map(generic).collect();
        ensure!(programs == outside.iter().map(generic).collect::<Vec<_>>(), "{target}: {outside:?} {inside:?}");
        // A compiled program sees itself at the path at which it was put.
        let own = [&["-N1", "-w", "n1"], &[target][..]].concat();
        let with_image = [&own[..], &[IMAGE]].concat();
        let path = |options: &[&str]| lines(cluster, options, &["./prog", "/proc/self/exe"]);
        let (outside, inside) = (path(&own)?, path(&with_image)?);
        ensure!(inside.iter().map(generic).eq(outside.iter().map(generic)), "{target}: {outside:?} {inside:?}");
    }
    remove(cluster)
}

fn a_program_that_sbcast_brought_runs(cluster: &Cluster) -> anyhow::Result<()> {
    programs(cluster)?;
    let script = format!(
        "#!/bin/bash\n#SBATCH -N2 -n2 {IMAGE}\nsbcast prog.sh /tmp/prog-3\nmv prog.sh prog-away.sh\n\
         srun /tmp/prog-3 x\nsrun --parallax-image=none /tmp/prog-3 y\n"
    );
    let written = batch_output(cluster, &script, &[])?;
    let count = |line: &str| written.lines().filter(|written| *written == line).count();
    ensure!(count("/tmp/prog-3 x") == 2 && count("in the image") == 2 && count("/tmp/prog-3 y") == 2, "{written}");
    remove(cluster)
}

fn several_programs_in_one_step(cluster: &Cluster) -> anyhow::Result<()> {
    programs(cluster)?;
    let tasks = "0 ./prog.sh %t\n1 /tmp/prog-4 %o\n2-3 echo %t of the rest\n";
    put(cluster, "tasks.conf", tasks.as_bytes())?;
    let copy = "cp prog.sh /tmp/prog-4";
    cluster.run("n1", "u1", &["sh", "-c", copy])?.success()?;
    let options = ["-N1", "-w", "n1", "-n4", "--multi-prog"];
    let outside = lines(cluster, &options, &["tasks.conf"])?;
    let inside = lines(cluster, &[&options[..], &[IMAGE]].concat(), &["tasks.conf"])?;
    ensure!(outside.len() == 4, "{outside:?}");
    let expected: Vec<&String> = inside.iter().filter(|line| *line != "in the image").collect();
    ensure!(inside.len() == 6 && expected.iter().copied().eq(&outside), "{outside:?} {inside:?}");
    remove(cluster)
}

fn a_program_of_the_image_comes_first(cluster: &Cluster) -> anyhow::Result<()> {
    programs(cluster)?;
    // The image has one at this path, and the node another of the user's own.
    let copy = "mkdir -p /opt/tool/bin && cp /home/u1/prog.sh /opt/tool/bin/tool && chown -R u1 /opt/tool";
    cluster.shell("n1", copy)?;
    let tool = |image: &str| cluster.srun("u1", &["-w", "n1", image, "/opt/tool/bin/tool"]);
    let (of_image, of_node) = (tool("--parallax-image=python"), tool("--parallax-image=none"));
    cluster.shell("n1", "rm -r /opt/tool")?;
    let (of_image, of_node) = (of_image?.success()?.stdout, of_node?.success()?.stdout);
    ensure!(of_node == "/opt/tool/bin/tool\n" && of_image != of_node, "{of_node:?} {of_image:?}");
    // A program of the node's own is not brought into an image that has none.
    let done = cluster.srun("u1", &["-w", "n1", IMAGE, "/usr/sbin/slurmd", "-V"])?;
    ensure!(done.code == 127 && done.stderr.contains("\"/usr/sbin/slurmd\""), "{done:?}");
    remove(cluster)
}

fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    for node in ["n1", "n2"] {
        cluster.shell(node, "rm -f /tmp/prog-* /var/tmp/prog-*")?;
    }
    for entry in fs::read_dir(cluster.home("u1"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("prog") || name.starts_with("slurm_bcast_") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
