//! Layers in chunks under systemd, which keeps what the next agent and the next `parallax-lazy` need if both end at the same time.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::ensure;
use integration_tests::cluster::{Cluster, PATIENCE};

use super::super::lazy::{end_reading, expected, publish, start_reading, take_a_chunk};
use super::super::with_file;
use super::{Journal, NODE, booted_by_systemd, property};

tests! { cluster:
    a_step_reads_on_when_the_agent_and_the_worker_end_at_the_same_time,
}

const CONFIG: &str = "stores = [\"/shared/lazy\"]\n[lazy]\nenabled = true\ntimeout = 600\n";
const LAZY: &str = "parallax-lazy.service";

fn a_step_reads_on_when_the_agent_and_the_worker_end_at_the_same_time(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster, "n1")?;
    let result = publish(cluster, false).and_then(|()| {
        let [chunk, aside] = take_a_chunk(cluster)?;
        booted_by_systemd(cluster, || {
            let tested = with_file(cluster, NODE, "/etc/parallax/parallax.toml", Some(CONFIG), || {
                cluster.shell(NODE, "systemctl restart parallax-agent && systemctl start parallax-lazy.socket")?;
                let journal = Journal::from_now(cluster)?;
                let reading = start_reading(cluster, NODE)?;
                journal.wait_for_line_of(LAZY, "readers wait")?;
                // As if memory were short, and as an upgrade of both. In the latter the old agent may have handed the layer to the new
                // worker before it ended.
                let kept = ["layer adopted by what systemd kept", "layer served by another worker"];
                for (command, lines) in [("kill --signal=KILL", &kept[..]), ("restart", &["layer adopted"])] {
                    let journal = Journal::from_now(cluster)?;
                    cluster.shell(NODE, &format!("systemctl {command} parallax-agent.service {LAZY}"))?;
                    lines.iter().try_for_each(|line| journal.wait_for(line))?;
                }
                fs::rename(&aside, &chunk)?;
                end_reading(reading, &expected)?;
                wait_until_nothing_is_kept(cluster)
            });
            cluster.shell(NODE, &format!("systemctl stop parallax-lazy.socket {LAZY}"))?;
            tested
        })
    });
    cluster.shell("ctl", "rm -rf /shared/lazy")?;
    result
}

/// Waits until systemd has forgotten the descriptors of all layers. The agent does not wait for that.
fn wait_until_nothing_is_kept(cluster: &Cluster) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let kept = property(cluster, "NFileDescriptorStore")?;
        if kept == "0" {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "systemd still keeps {kept} descriptors");
        std::thread::sleep(Duration::from_millis(50));
    }
}
