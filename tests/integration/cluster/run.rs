//! `run` mode: tasks inside the image.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::ensure;
use integration_tests::clean::NODES;
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;

tests! { cluster:
    tasks_run_in_the_image_on_two_nodes,
    a_node_has_one_container_and_no_fuse,
    layers_are_mounted_once_and_read_only,
    exit_codes_and_signals_are_the_tasks_own,
    the_image_sets_its_variables_over_the_jobs,
    the_task_is_where_it_would_have_been,
    a_task_has_no_privileges,
    a_terminal_is_the_tasks_own,
    an_image_without_a_shell,
    forty_layers,
    two_users_and_two_images_at_once,
    a_step_is_closed_to_other_users,
    the_plugin_exports_what_it_uses_and_no_more,
    an_image_is_named_by_its_id_too,
}

/// Lines of a text, each once.
fn set(text: &str) -> BTreeSet<&str> {
    text.lines().map(str::trim).collect()
}

fn tasks_run_in_the_image_on_two_nodes(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "import os, socket; print(socket.gethostname(), os.getuid(), os.getgid(), os.getcwd(), \
                  os.path.exists('/opt/tool/bin/tool'), os.environ['SLURM_NTASKS'])";
    let image = "--parallax-image=python";
    let done = cluster.srun("u1", &["-N2", "-n4", "--ntasks-per-node=2", image, "python3", "-c", script])?.success()?;
    ensure!(done.stdout.lines().count() == 4, "not four tasks: {done:?}");
    let expected = NODES.map(|node| format!("{node} 1001 1001 /home/u1 True 4"));
    ensure!(set(&done.stdout) == expected.iter().map(String::as_str).collect(), "{done:?}");
    ensure!(done.stderr.lines().all(|line| line.starts_with("srun: job")), "something was said: {done:?}");
    Ok(())
}

fn a_node_has_one_container_and_no_fuse(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "echo $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/user) $(readlink /proc/self/ns/pid)";
    let step = HeldStep::start(cluster, "u1", &["-N1", "-w", "n1", "-n4", "--parallax-image=debian"], 4, script)?;
    let distinct: BTreeSet<&String> = step.lines.iter().collect();
    ensure!(distinct.len() == 1, "the tasks are not in one container: {:?}", step.lines);
    let node = cluster.shell("n1", "echo $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/user)")?;
    let inside: Vec<&str> = step.lines[0].split(' ').collect();
    ensure!(node.split_whitespace().all(|name| !inside.contains(&name)), "the tasks are on the node itself");
    let fuse = cluster.shell(
        "n1",
        "grep -lE -e '- fuse([.]|blk| )' /proc/[0-9]*/mountinfo || true; ps -eo comm= | grep -i fuse || true",
    )?;
    ensure!(fuse.trim().is_empty(), "FUSE is at work: {fuse}");
    let image = cluster.shell("n1", "ps -eo uid=,comm= | grep '^ *1001' | sort | uniq -c")?;
    ensure!(!image.contains("catatonit"), "a pause process: {image}");
    step.finish()
}

fn layers_are_mounted_once_and_read_only(cluster: &Cluster) -> anyhow::Result<()> {
    let step = HeldStep::start(cluster, "u1", &["-N1", "-w", "n1", "--parallax-image=python"], 1, "echo started")?;
    let image = "--parallax-image=debian";
    let other = HeldStep::start(cluster, "u2", &["-N1", "-w", "n1", "-n1", image], 1, "echo started")?;
    let status = cluster.agent_status("n1")?;
    let layers: BTreeSet<&String> = status.layers.iter().collect();
    ensure!(status.steps.len() == 2, "{status:?}");
    ensure!(status.layers.len() == 5 && layers.len() == 5, "the base layer is not shared: {:?}", status.layers);
    let mounts = cluster.shell("n1", "grep -- '- squashfs' /proc/1/mountinfo")?;
    let devices: BTreeSet<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    ensure!(devices.len() == 5, "a layer has more than one device:\n{mounts}");
    for mount in mounts.lines() {
        let options = mount.split(' ').nth(5).unwrap_or_default();
        let all = ["ro", "nosuid", "nodev"].iter().all(|option| options.split(',').any(|o| o == *option));
        ensure!(all, "not read-only, nosuid and nodev: {mount}");
        ensure!(mount.contains("/layers/") || options.contains("idmapped"), "not id-mapped: {mount}");
    }
    step.finish()?;
    other.finish()
}

fn exit_codes_and_signals_are_the_tasks_own(cluster: &Cluster) -> anyhow::Result<()> {
    let done = cluster.srun("u1", &["--parallax-image=debian", "sh", "-c", "exit 42"])?;
    ensure!(done.code == 42, "{done:?}");
    let done = cluster.srun("u1", &["--parallax-image=debian", "sh", "-c", "kill -TERM $$"])?;
    ensure!(done.code == 128 + 15 || done.stderr.contains("Terminated"), "{done:?}");
    let script = "trap 'echo caught; exit 7' USR1; echo $SLURM_JOB_ID; while :; do read -r line || break; done";
    let step = HeldStep::start(cluster, "u1", &["-N1", "--parallax-image=debian"], 1, script)?;
    let signal = ["scancel", "--signal=USR1", &format!("{}.0", step.lines[0])];
    cluster.run("ctl", "u1", &signal)?.success()?;
    let done = step.wait()?;
    ensure!(done.code == 7 && done.stdout.contains("caught"), "{done:?}");
    Ok(())
}

fn the_image_sets_its_variables_over_the_jobs(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "export FROM_JOB='of the job'; srun --parallax-image=python sh -c 'echo \"$FROM_JOB|$PATH|$SLURM_PROCID|$HOME\"; tool'";
    let done = cluster.run("ctl", "u1", &["bash", "-c", script])?.success()?;
    let first = done.stdout.lines().next().unwrap_or_default();
    ensure!(first.starts_with("of the job|/opt/tool/bin:") && first.ends_with("|0|/home/u1"), "{done:?}");
    ensure!(done.stdout.lines().count() > 1, "a command that only the image's PATH finds was not run: {done:?}");
    Ok(())
}

fn the_task_is_where_it_would_have_been(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "mkdir -p 'a dir,with:odd \"name' && cd 'a dir,with:odd \"name' && srun --parallax-image=debian sh -c 'pwd; echo new > file' && cat file";
    let done = cluster.run("ctl", "u1", &["bash", "-c", script])?.success()?;
    ensure!(done.stdout == "/home/u1/a dir,with:odd \"name\nnew\n", "{done:?}");
    // A directory that only the node has, and that would hide a part of the image, is not shown: the image's own is used.
    let done =
        cluster.run("ctl", "u1", &["sh", "-c", "cd /usr/share && srun --parallax-image=debian pwd"])?.success()?;
    ensure!(done.stdout == "/usr/share\n", "{done:?}");
    Ok(())
}

fn a_task_has_no_privileges(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "grep -E '^Cap(Prm|Eff|Amb)' /proc/self/status | sort -u -k2; grep CapBnd /proc/self/status; \
                  mount -t tmpfs none /mnt 2>/dev/null && echo mounted; touch /etc/x 2>/dev/null && echo wrote; true";
    let done = cluster.srun("u1", &["--parallax-image=debian", "sh", "-c", script])?.success()?;
    ensure!(done.stdout.lines().count() == 2, "{done:?}");
    ensure!(done.stdout.contains("0000000000000000"), "{done:?}");
    ensure!(!done.stdout.contains("CapBnd:\t000001ff"), "the task's bounding set is not the container's: {done:?}");
    Ok(())
}

fn a_terminal_is_the_tasks_own(cluster: &Cluster) -> anyhow::Result<()> {
    let line = "script --quiet --return --command \"srun --pty --parallax-image=debian sh -c 'test -t 0 && test -t 1 && echo terminal'\" /dev/null";
    let done = cluster.run("ctl", "u1", &["sh", "-c", line])?.success()?;
    ensure!(done.stdout.contains("terminal"), "{done:?}");
    Ok(())
}

fn an_image_without_a_shell(cluster: &Cluster) -> anyhow::Result<()> {
    let done = cluster.srun("u1", &["-n2", "--parallax-image=static", "hello"])?.success()?;
    ensure!(done.stdout.lines().count() == 2, "{done:?}");
    Ok(())
}

fn forty_layers(cluster: &Cluster) -> anyhow::Result<()> {
    let done = cluster.srun("u1", &["--parallax-image=layers40", "sh", "-c", "ls / | wc -l"])?.success()?;
    ensure!(done.stdout.trim().parse::<u32>().is_ok_and(|count| count > 10), "{done:?}");
    let podman = ["--parallax-image=layers40", "--parallax-mode=podman", "podman", "run", "--rm", "layers40", "true"];
    cluster.srun("u1", &podman)?.success().map(drop)
}

fn two_users_and_two_images_at_once(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "echo $(id -u) $(stat -c %u:%g /etc/passwd) $(stat -c %u:%g /etc/shadow)";
    let one = HeldStep::start(cluster, "u1", &["-N2", "-n2", "--parallax-image=python"], 2, script)?;
    let two = HeldStep::start(cluster, "u2", &["-N2", "-n2", "--parallax-image=debian"], 2, script)?;
    ensure!(one.lines.iter().all(|line| line == "1001 0:0 0:42"), "{:?}", one.lines);
    ensure!(two.lines.iter().all(|line| line == "1002 0:0 0:42"), "{:?}", two.lines);
    one.finish()?;
    two.finish()
}

fn a_step_is_closed_to_other_users(cluster: &Cluster) -> anyhow::Result<()> {
    let step = HeldStep::start(cluster, "u1", &["-N1", "-w", "n1", "--parallax-image=debian"], 1, "echo started")?;
    let shown = cluster.shell("n1", "parallax status")?;
    ensure!(shown.contains("  debian\n") && shown.contains("1 step with an image, 1 layer mounted"), "{shown}");
    ensure!(cluster.run("n1", "u2", &["parallax", "status"])?.stderr.contains("only root"), "not said to a user");
    let status = cluster.agent_status("n1")?;
    let directory = status.steps[0].directory.display().to_string();
    let look = |user: &str, path: &str| cluster.run("n1", user, &["ls", path]);
    ensure!(look("u1", &directory)?.code == 0, "the step's user can't see it");
    for path in [directory.as_str(), "/run/parallax/steps", "/run/parallax/layers", "/run/parallax/leases"] {
        ensure!(look("u2", path)?.code != 0, "another user sees {path}");
    }
    let socket = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/parallax/agent.sock')";
    ensure!(cluster.run("n1", "u1", &["python3", "-c", socket])?.code != 0, "a user can talk to the agent");
    step.finish()
}

/// For a plugin that has prolog and epilog hooks Slurm starts two processes for every job on every node, image or not.
fn the_plugin_exports_what_it_uses_and_no_more(cluster: &Cluster) -> anyhow::Result<()> {
    let plugin = cluster.path_on("n1", "/usr/lib/parallax/spank_parallax.so")?;
    let listed =
        Command::new("nm").args(["--dynamic", "--defined-only", "--format=just-symbols"]).arg(plugin).output()?;
    let symbols = Done::from(listed).success()?.stdout;
    let hooks = ["init", "init_post_opt", "user_init", "task_init_privileged", "task_init", "exit"]
        .map(|hook| format!("slurm_spank_{hook}"));
    let expected: BTreeSet<&str> = hooks.iter().map(String::as_str).collect();
    let exported: BTreeSet<&str> = symbols.lines().filter(|symbol| symbol.starts_with("slurm_spank_")).collect();
    ensure!(exported == expected, "{exported:?}");
    Ok(())
}

fn an_image_is_named_by_its_id_too(cluster: &Cluster) -> anyhow::Result<()> {
    let id = cluster.shell("ctl", "readlink /shared/store/parallax/names/localhost%2Fdebian:latest")?;
    let id = id.trim().trim_start_matches("../images/").trim_end_matches(".json");
    for name in [id, "debian:latest", "localhost/debian", "localhost/debian:latest"] {
        cluster.srun("u1", &[&format!("--parallax-image={name}"), "true"])?.success()?;
    }
    Ok(())
}
