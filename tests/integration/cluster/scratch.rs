//! The size of a step's writable layer.

use anyhow::ensure;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use integration_tests::memory_group::MemoryGroup;
use integration_tests::processes::machine_pid;

pub(super) mod disk;

tests! { cluster:
    a_full_layer_is_an_error_and_not_the_end_of_the_task,
    without_a_limit_the_size_is_as_configured,
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
