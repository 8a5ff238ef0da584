//! What srun's terminal shows of a step that cannot start: each reason once. What is wrong with the request is told by the step's first task,
//! what is wrong with a node by that node, with its name. (What is wrong with options is told before there is a step: [`super::typed`].)

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};

use super::backend::{CONFIG, STORE, with_config};
use super::{odd_images, with_file};

tests! { cluster:
    a_fault_of_the_request_is_told_once,
    a_node_at_fault_is_named_and_the_others_are_silent,
    nodes_that_are_all_at_fault_are_all_named,
    a_fault_of_the_command_is_told_once_on_a_node,
    a_notice_is_told_once,
    output_of_a_job_has_it_once,
}

const IMAGE: &str = "--parallax-image=debian";
/// Two nodes with two tasks each.
const SPREAD: [&str; 3] = ["-N2", "-n4", "--ntasks-per-node=2"];

/// The sentences of Parallax about a step that failed.
fn sentences(done: &Done) -> anyhow::Result<Vec<&str>> {
    ensure!(done.code != 0, "it did not fail: {done:?}");
    let noise = done.stderr.lines().find(|line| line.contains("spank") || line.contains("slurmstepd: error"));
    ensure!(noise.is_none(), "Slurm adds noise: {done:?}");
    Ok(done.stderr.lines().filter_map(|line| line.strip_prefix("parallax: ")).collect())
}

fn step(cluster: &Cluster, options: &[&str]) -> anyhow::Result<Done> {
    cluster.srun("u1", &[&SPREAD[..], options, &["sh", "-c", "echo $SLURMD_NODENAME"]].concat())
}

/// Makes sure that one sentence was told, which begins so and has these parts.
fn one(done: &Done, begin: &str, parts: &[&str]) -> anyhow::Result<()> {
    let told = sentences(done)?;
    ensure!(told.len() == 1 && told[0].starts_with(begin), "not one sentence that begins with {begin:?}: {done:?}");
    ensure!(parts.iter().all(|part| told[0].contains(part)), "not all of {parts:?}: {done:?}");
    Ok(())
}

/// The submit host has no configuration, so all nodes look the image up, and find the same.
fn a_fault_of_the_request_is_told_once(cluster: &Cluster) -> anyhow::Result<()> {
    with_file(cluster, "ctl", CONFIG, None, || {
        let nearest = ["did you mean \"python\"?"];
        let unknown = "image \"pyton\" is in no store (/shared/store)";
        one(&step(cluster, &["--parallax-image=pyton"])?, unknown, &nearest)?;
        let component = |node| ["-n2", "-w", node, "--parallax-image=pyton", "echo", "ran"];
        let components = [&component("n1")[..], &[":"], &component("n2")].concat();
        one(&cluster.srun("u1", &components)?, unknown, &nearest)
    })
}

fn a_node_at_fault_is_named_and_the_others_are_silent(cluster: &Cluster) -> anyhow::Result<()> {
    // The tasks of the other node run.
    let run = || -> anyhow::Result<Done> {
        let done = step(cluster, &[IMAGE])?;
        ensure!(done.stdout == "n1\nn1\n", "{done:?}");
        Ok(done)
    };
    // No agent.
    cluster.service("n2", "stop", "agent")?;
    let absent = run();
    cluster.service("n2", "start", "agent")?;
    one(&absent?, "node n2: ", &["agent is not running", "tell the administrator"])?;
    // A deadline that passes.
    let short = format!("{STORE}[step]\nstart_timeout = 2\nend_timeout = 2\n");
    with_file(cluster, "n2", CONFIG, Some(&short), || {
        cluster.shell("n2", "kill -STOP $(pidof parallax-agent)")?;
        let late = run();
        cluster.shell("n2", "kill -CONT $(pidof parallax-agent)")?;
        one(&late?, "node n2: ", &["no answer in time", "tell the administrator"])
    })?;
    // A store that is not mounted.
    with_config(cluster, "n2", "stores = [\"/shared/gone\"]\n", || {
        one(&run()?, "node n2: ", &["/shared/gone cannot be read", "tell the administrator"])
    })?;
    // No subordinate ids.
    with_file(cluster, "n2", "/etc/subuid", Some("u2:165536:65536\n"), || {
        one(&run()?, "node n2: ", &["u1", "/etc/subuid", "ask the administrator"])
    })?;
    // A full node.
    let before = cluster.shell("n2", "df --output=size -k /run | tail -1")?;
    cluster.shell("n2", "mount -o remount,size=$(df --output=used -k /run | tail -1 | tr -d ' ')k /run")?;
    let full = run();
    cluster.shell("n2", &format!("mount -o remount,size={}k /run", before.trim()))?;
    one(&full?, "node n2: ", &["No space left on device", "tell the administrator"])?;
    // A source of a mount, whose sentence has the node's name.
    cluster.shell("n1", "mkdir -p /opt/of-n1")?;
    let missing = step(cluster, &[IMAGE, "--parallax-mount=/opt/of-n1"]);
    cluster.shell("n1", "rmdir /opt/of-n1")?;
    let parts =
        ["cannot mount /opt/of-n1: No such file or directory", "on the node n2", "\"?/opt/of-n1\" leaves it out"];
    one(&missing?, "cannot start the container: ", &parts)
}

fn nodes_that_are_all_at_fault_are_all_named(cluster: &Cluster) -> anyhow::Result<()> {
    let all = |options: &[&str], of_node: &dyn Fn(&str, &str) -> bool| -> anyhow::Result<()> {
        let done = step(cluster, options)?;
        let told = sentences(&done)?;
        let named = ["n1", "n2"].iter().all(|node| told.iter().filter(|line| of_node(line, node)).count() == 1);
        ensure!(told.len() == 2 && named && done.stdout.is_empty(), "{done:?}");
        Ok(())
    };
    let begins = |line: &str, node: &str| line.starts_with(&format!("node {node}: "));
    let ends = |line: &str, node: &str| line.contains(&format!("the node {node}"));
    for node in ["n1", "n2"] {
        cluster.service(node, "stop", "agent")?;
    }
    let absent = all(&[IMAGE], &begins);
    for node in ["n1", "n2"] {
        cluster.service(node, "start", "agent")?;
    }
    absent?;
    all(&[IMAGE, "--parallax-mount=/opt/missing"], &ends)?;
    all(&[IMAGE, "--parallax-device=example.com/gpu=0"], &ends)?;
    // Each task finds out by itself that it cannot start there; one of each node tells it.
    all(&[IMAGE, "--parallax-workdir=/missing"], &begins)
}

fn a_fault_of_the_command_is_told_once_on_a_node(cluster: &Cluster) -> anyhow::Result<()> {
    let run = |command: &[&str]| cluster.srun("u1", &[&["-w", "n1", "-n4", "--overcommit", IMAGE], command].concat());
    let done = run(&["no-such-command"])?;
    one(&done, "there is no \"no-such-command\" in the image", &["(image \"debian\")"])?;
    ensure!(done.code == 127, "{done:?}");
    let done = run(&["/etc/passwd"])?;
    one(&done, "cannot execute \"/etc/passwd\": Permission denied", &[])?;
    ensure!(done.code == 126, "{done:?}");
    // Each program of a step that has several is told.
    cluster.run("ctl", "u1", &["sh", "-c", "printf '0,2 missing-a\\n1,3 missing-b\\n' >programs"])?.success()?;
    let several = cluster.srun("u1", &["-w", "n1", "-n4", "--overcommit", "--multi-prog", IMAGE, "programs"]);
    cluster.run("ctl", "u1", &["rm", "programs"])?.success()?;
    let several = several?;
    let mut told = sentences(&several)?;
    told.sort_unstable();
    ensure!(told.len() == 2 && told[0].contains("missing-a") && told[1].contains("missing-b"), "{several:?}");
    odd_images::with_case(cluster, "foreign", || {
        let done = cluster.srun("u1", &["-w", "n1", "-n4", "--overcommit", "--parallax-image=odd-foreign", "app"])?;
        one(&done, "cannot execute \"app\": Exec format error", &["for linux/arm64 and not for this node"])
    })
}

fn a_notice_is_told_once(cluster: &Cluster) -> anyhow::Result<()> {
    let tag = |image: &str| cluster.run("ctl", "root", &["parallax", "tag", image, "moved:1"])?.success().map(drop);
    tag("tiny")?;
    let script =
        "echo submitted; read -r _; for mode in run podman; do srun -Q -N2 -n4 --parallax-mode=$mode true; done";
    let mut job =
        cluster.command("ctl", "u1", &["salloc", "-Q", "-N2", "-n4", "--parallax-image=moved:1", "sh", "-c", script]);
    let pipe = std::process::Stdio::piped;
    let mut job = job.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn()?;
    let mut line = [0; "submitted\n".len()];
    if let Some(output) = &mut job.stdout {
        std::io::Read::read_exact(output, &mut line)?;
    }
    tag("debian")?;
    if let Some(input) = &mut job.stdin {
        std::io::Write::write_all(input, b"go\n")?;
    }
    let done = Done::from(job.wait_with_output()?);
    cluster.run("ctl", "root", &["parallax", "rm", "moved:1"])?.success()?;
    let done = done.success()?;
    ensure!(done.stderr.matches("the step runs the image of submit time").count() == 2, "{done:?}");
    Ok(())
}

/// Where no terminal is, the output of the job has what the terminal would.
fn output_of_a_job_has_it_once(cluster: &Cluster) -> anyhow::Result<()> {
    let script = format!("srun -Q {} {IMAGE} --parallax-mount=?/opt:/one,/opt/of-none:/two true", SPREAD.join(" "));
    let submit = ["sbatch", "--wait", "-N2", "-n4", "--output=failures.out", "--wrap", &script];
    let done = cluster.run("ctl", "u1", &submit)?;
    let output = cluster.run("ctl", "u1", &["sh", "-c", "cat failures.out; rm failures.out"])?.success()?.stdout;
    ensure!(done.code != 0, "{done:?}");
    let told: Vec<&str> = output.lines().filter(|line| line.starts_with("parallax: ")).collect();
    let of_node = |node: &str| told.iter().filter(|line| line.contains(&format!("on the node {node};"))).count();
    ensure!(told.len() == 2 && of_node("n1") == 1 && of_node("n2") == 1, "{output}");
    ensure!(told.iter().all(|line| line.contains("cannot mount /opt/of-none: No such file or directory")), "{output}");
    Ok(())
}
