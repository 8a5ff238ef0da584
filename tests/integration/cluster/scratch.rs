//! The size of a step's writable layer.

use anyhow::ensure;
use integration_tests::clean::wait_for_no_lease;
use integration_tests::cluster::Cluster;

use super::daemon::python;
use crate::OnCluster;

pub const TESTS: &[(&str, OnCluster)] = &[
    ("cluster::scratch::a_full_layer_is_an_error_and_not_the_end_of_the_task", a_full_layer_is_an_error),
    ("cluster::scratch::without_a_limit_the_size_is_as_configured", without_a_limit_the_size_is_as_configured),
];

const MEGABYTE: u64 = 1 << 20;

/// The lease is asked for as the plugin does where Slurm limits memory; the nodes' Slurm has no control groups to do so.
fn a_full_layer_is_an_error(cluster: &Cluster) -> anyhow::Result<()> {
    let script = r#"
import subprocess
message = request(77)
message["lease"]["memory"] = 200
client = connect()
client.sendall(frame(message))
directory = receive(client)["granted"]["directory"]
about = os.statvfs(directory)
print(about.f_blocks * about.f_frsize, about.f_files)
# As the user, who owns what is in it.
fill = 'message=$(cat /dev/zero 2>&1 >"$1/graph/full"); echo "$message" | tail -n1; echo goes on'
as_user = ["setpriv", "--reuid=1001", "--regid=1001", "--clear-groups", "sh", "-c", fill, "sh", directory]
print(subprocess.run(as_user, capture_output=True, text=True).stdout, end="")
"#;
    let said = python(cluster, "root", script)?;
    let lines: Vec<&str> = said.lines().collect();
    let [size, full, after] = lines[..] else { anyhow::bail!("{said}") };
    ensure!(size == format!("{} {}", 136 * MEGABYTE, 136 * MEGABYTE / 4096), "{said}");
    ensure!(full.ends_with("No space left on device") && after == "goes on", "{said}");
    wait_for_no_lease(cluster, "n1")
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
