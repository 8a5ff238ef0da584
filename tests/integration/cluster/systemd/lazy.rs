//! Layers in chunks under systemd, which keeps what the next agent and the next `parallax-lazy` need if both end at the same time.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::ensure;
use integration_tests::cluster::{Cluster, TEST_TIMEOUT};

use super::super::lazy::{end_reading, expected, publish, start_reading, take_a_chunk};
use super::super::{ssh, with_file};
use super::{Journal, NODE, booted_by_systemd, property};

tests! { cluster:
    a_step_reads_on_when_the_agent_and_the_worker_end_at_the_same_time,
    chunks_come_by_ssh_under_the_units_restrictions,
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

/// An account that has a name without libnss-systemd, and the key as systemd passes it.
const ACCOUNT: &str = "[Service]\nDynamicUser=no\nUser=u2\nLoadCredential=ssh-key:/run/ssh-test/key\n";
const DROP_INS: &str = "/etc/systemd/system/parallax-lazy.service.d";
const BY_SSH: &str = "stores = [\"/shared/lazy\"]\n[lazy]\nenabled = true\nssh_known_hosts = \"/run/ssh-test/known_hosts\"\n\
    sources = [\"ssh://u2@127.0.0.1:2222/shared/ssh/default.castr\"]\nssh_key = \"/run/credentials/parallax-lazy.service/ssh-key\"\n";

/// The unit has everything that ssh needs, and the credential is a file that ssh accepts.
fn chunks_come_by_ssh_under_the_units_restrictions(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster, "n1")?;
    let result = publish(cluster, false).and_then(|()| {
        booted_by_systemd(cluster, || {
            let server = ssh::Server::start(cluster, NODE)?;
            ssh::know(cluster, NODE, "server/host")?;
            cluster.shell(NODE, &format!("mkdir -p {DROP_INS}; printf '{ACCOUNT}' >{DROP_INS}/account.conf"))?;
            let tested = with_file(cluster, NODE, "/etc/parallax/parallax.toml", Some(BY_SSH), || {
                let start =
                    "systemctl daemon-reload; systemctl restart parallax-agent; systemctl start parallax-lazy.socket";
                cluster.shell(NODE, start)?;
                end_reading(start_reading(cluster, NODE)?, &expected)?;
                let status = cluster.shell(NODE, "parallax status --lazy --json")?;
                let status: serde_json::Value = serde_json::from_str(&status)?;
                let chunks = status.pointer("/sources/0/chunks").and_then(serde_json::Value::as_u64);
                ensure!(status["sources"][0]["name"] == ssh::SOURCE, "{status}");
                ensure!(chunks.is_some_and(|chunks| chunks > 500), "{status}");
                Ok(())
            });
            let stop =
                format!("systemctl stop parallax-lazy.socket {LAZY}; rm -rf {DROP_INS}; systemctl daemon-reload");
            cluster.shell(NODE, &stop)?;
            drop(server);
            tested
        })
    });
    cluster.shell("ctl", "rm -rf /shared/lazy /shared/ssh")?;
    result
}

/// Waits until systemd has forgotten the descriptors of all layers. The agent does not wait for that.
fn wait_until_nothing_is_kept(cluster: &Cluster) -> anyhow::Result<()> {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        let kept = property(cluster, "NFileDescriptorStore")?;
        if kept == "0" {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "systemd still keeps {kept} descriptors");
        std::thread::sleep(Duration::from_millis(50));
    }
}
