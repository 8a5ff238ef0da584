//! The size of a step's writable layer.

use anyhow::ensure;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use integration_tests::memory_group::MemoryGroup;
use integration_tests::processes::machine_pid;

use super::backend::{STORE, with_config};

pub(super) mod disk;

tests! { cluster:
    a_full_layer_is_an_error_and_not_the_end_of_the_task,
    without_a_limit_the_size_is_as_configured,
    a_full_tmp_of_the_step_is_an_error,
    a_task_that_fills_the_nodes_tmp_ends_as_without_an_image,
}

const MEGABYTE: u64 = 1 << 20;

/// What is written is charged to the group of the writer, as it is where Slurm limits memory by control groups.
fn a_full_layer_is_an_error_and_not_the_end_of_the_task(cluster: &Cluster) -> anyhow::Result<()> {
    let arguments = ["-w", "n1", "--mem=200", "--parallax-image=debian"];
    let script = "echo $$ $(stat --file-system --format='%S %b %c' /); read -r _; \
                  message=$(cat /dev/zero 2>&1 >/var/tmp/full); echo \"$message\" | tail -n1; echo goes on";
    let mut step = HeldStep::start(cluster, "u1", &arguments, 1, script)?;
    let facts: Vec<u64> = step.lines[0].split(' ').filter_map(|word| word.parse().ok()).collect();
    let [pid, block, blocks, files] = facts[..] else { anyhow::bail!("{:?}", step.lines) };
    let limit = MemoryGroup::new(cluster, 200 * MEGABYTE)?;
    limit.add(machine_pid(cluster, "n1", i32::try_from(pid)?)?)?;
    step.write_line("go")?;
    let said = (step.read_line()?, step.read_line()?);
    step.finish()?;
    ensure!(
        block * blocks == 136 * MEGABYTE && files == 136 * MEGABYTE / 4096,
        "{block} * {blocks} bytes, {files} files"
    );
    ensure!(said.0.ends_with("No space left on device") && said.1 == "goes on", "{said:?}");
    Ok(())
}

fn without_a_limit_the_size_is_as_configured(cluster: &Cluster) -> anyhow::Result<()> {
    // The node's memory is the machine's.
    let show = ["sh", "-c", "stat --file-system --format='%S %b' /; grep MemTotal /proc/meminfo"];
    let done = cluster.srun("u1", &[&["-w", "n1", "--parallax-image=debian"], &show[..]].concat())?.success()?;
    let words: Vec<u64> = done.stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [block, blocks, total] = words[..] else { anyhow::bail!("{done:?}") };
    ensure!((block * blocks / 1024).abs_diff(total / 2) < 8, "{done:?}");
    Ok(())
}

/// Starts a step whose task fills a file in `/tmp`, in a memory group of 200 MB; returns what it wrote before its end and how it ended.
fn fill_tmp(cluster: &Cluster, options: &[&str]) -> anyhow::Result<(Vec<String>, i32, String)> {
    let script = "echo $$; read -r _; message=$(head -c 400M /dev/zero 2>&1 >/tmp/full); echo \"$message\" | tail -n1; echo goes on";
    let mut step = HeldStep::start(cluster, "u1", &[&["-w", "n1", "--mem=200"], options].concat(), 1, script)?;
    let limit = MemoryGroup::new(cluster, 200 * MEGABYTE)?;
    limit.add(machine_pid(cluster, "n1", step.lines[0].parse()?)?)?;
    step.write_line("go")?;
    let mut lines = Vec::new();
    while let Ok(line) = step.read_line() {
        lines.push(line);
        if lines.len() == 2 {
            break;
        }
    }
    let done = step.end()?;
    // What is in the node's memory counts until it is gone.
    cluster.shell("n1", "rm -f /tmp/full")?;
    Ok((lines, done.code, done.stderr))
}

fn a_full_tmp_of_the_step_is_an_error(cluster: &Cluster) -> anyhow::Result<()> {
    with_config(cluster, "n1", &format!("{STORE}[run]\ntmp = \"step\"\n"), || {
        let (lines, code, errors) = fill_tmp(cluster, &["--parallax-image=debian"])?;
        ensure!(code == 0 && lines.len() == 2, "{lines:?} {errors}");
        ensure!(lines[0].ends_with("No space left on device") && lines[1] == "goes on", "{lines:?}");
        Ok(())
    })
}

/// The node's `/tmp` is in the node's memory, which the kernel charges to the job.
fn a_task_that_fills_the_nodes_tmp_ends_as_without_an_image(cluster: &Cluster) -> anyhow::Result<()> {
    let (without, with) = (fill_tmp(cluster, &[])?, fill_tmp(cluster, &["--parallax-image=debian"])?);
    ensure!(without.0 == with.0 && without.1 == with.1, "without an image {without:?}, with one {with:?}");
    Ok(())
}
