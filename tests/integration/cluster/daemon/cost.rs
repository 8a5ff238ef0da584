//! What the agent costs when nothing happens, and when much does.

use anyhow::ensure;
use integration_tests::clean::wait_for_no_lease;
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;
use integration_tests::load;

use super::CLIENT;

tests! {
    cluster: an_idle_agent_does_not_wake_up;
    alone: many_leases_leave_the_agent_as_it_was;
}

/// How often the agent's threads have given up the processor, a line each.
fn switches(cluster: &Cluster) -> anyhow::Result<String> {
    cluster.shell("n1", "grep -H _ctxt_switches /proc/$(pidof parallax-agent)/task/*/status")
}

fn an_idle_agent_does_not_wake_up(cluster: &Cluster) -> anyhow::Result<()> {
    // What a step before this left to be done is done.
    cluster.service("n1", "stop", "agent")?;
    cluster.service("n1", "start", "agent")?;
    cluster.agent_status("n1")?;
    // With a lease that is held, too.
    let step = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, "echo started")?;
    let settled = || -> anyhow::Result<String> {
        // The thread that did the last work may still be on its way out; the next look shows whether it was.
        let mut before = switches(cluster)?;
        for _ in 0..100 {
            let after = switches(cluster)?;
            if after == before {
                return Ok(after);
            }
            before = after;
        }
        anyhow::bail!("the agent does not come to rest:\n{before}")
    };
    let before = settled()?;
    for _ in 0..3 {
        cluster.srun("u1", &["-w", "n1", "--overlap", "--ntasks=4", "sleep", "1"])?.success()?;
    }
    let after = switches(cluster)?;
    ensure!(before == after, "it woke up while steps ran that are none of its business:\n{before}{after}");
    step.finish()
}

/// How many leases are taken and given back, a few at a time, in small and large runs.
const LEASES: [u32; 2] = [2000, 10_000];

/// How many come before those that count: by then as many were at work at once as ever will be.
const WARM_UP: u32 = 1000;

fn many_leases_leave_the_agent_as_it_was(cluster: &Cluster) -> anyhow::Result<()> {
    let [small, large] = LEASES;
    let number = load::size(small, large)?;
    let script = format!(
        "{}go({WARM_UP}, 1000)\nbefore = look()\ngo({number}, 100000)\nprint(json.dumps([before, look()]))\n",
        include_str!("leases.py")
    );
    let said = python_for_long(cluster, &script)?;
    let [before, after]: [(f64, f64); 2] = serde_json::from_str(&said)?;
    println!(
        "the agent had {} bytes and {} open files before {number} leases, {} and {} after",
        before.0, before.1, after.0, after.1
    );
    // A worker that has just told the end of a lease may still be there.
    ensure!((before.1 - after.1).abs() < 1.5, "open files were {} and are {}", before.1, after.1);
    // How many were at the same point at once makes some difference, whatever the number; a leak of 52 bytes for each of 10,000 would
    // make as much.
    ensure!(after.0 - before.0 < 512.0 * 1024.0, "{number} leases took {} bytes", after.0 - before.0);
    wait_for_no_lease(cluster, "n1")
}

/// Runs Python on n1 as root, for what may take longer than anything else.
fn python_for_long(cluster: &Cluster, script: &str) -> anyhow::Result<String> {
    let text = format!("{CLIENT}{script}");
    let output = cluster.command("n1", "root", &["timeout", "1200", "python3", "-c", &text]).output()?;
    Ok(Done::from(output).success()?.stdout)
}
