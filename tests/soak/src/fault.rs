//! A random fault: done and undone.

use std::fs;
use std::time::Duration;

use fastrand::Rng;
use parallax_sys::process::Process;

use super::agent::WITNESS;
use integration_tests::clean::NODES;
use integration_tests::cluster::Cluster;
use integration_tests::processes;

/// The node whose agent and power faults befall.
const VICTIM: &str = NODES[0];

/// What can be done to steps and nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The agent is killed and started anew.
    AgentKilled,
    /// The agent is stopped for a while.
    AgentStopped,
    /// The agent and all slurmstepds of a node are killed.
    AgentAndStepdKilled,
    /// All slurmstepds of a node are killed.
    StepdKilled,
    /// slurmd is started anew.
    SlurmdRestarted,
    /// A user's process on a node is killed.
    ProcessKilled,
    /// A job is cancelled.
    JobCancelled,
    /// Ctrl-C, twice.
    Interrupted,
    /// A node loses its power and is booted.
    PowerCut,
    /// The store is away for a moment.
    StoreGone,
}

const ALL: [Fault; 10] = [
    Fault::AgentKilled,
    Fault::AgentStopped,
    Fault::AgentAndStepdKilled,
    Fault::StepdKilled,
    Fault::SlurmdRestarted,
    Fault::ProcessKilled,
    Fault::JobCancelled,
    Fault::Interrupted,
    Fault::PowerCut,
    Fault::StoreGone,
];

impl Fault {
    /// A random one.
    pub(crate) fn random(random: &mut Rng) -> Self {
        ALL[random.usize(..ALL.len())]
    }

    /// Does it to the cluster, and undoes what has to be undone.
    ///
    /// # Errors
    /// It could not be done or undone.
    pub(crate) fn strike(self, cluster: &Cluster, random: &mut Rng) -> anyhow::Result<()> {
        let node = NODES[random.usize(..NODES.len())];
        match self {
            Self::AgentKilled => {
                processes::kill(cluster, VICTIM, "parallax-agent")?;
                cluster.service(VICTIM, "start", "agent")
            }
            Self::AgentStopped => stop_agent(cluster, node, Duration::from_millis(random.u64(10..4000))),
            Self::AgentAndStepdKilled => {
                processes::kill(cluster, VICTIM, "parallax-agent")?;
                kill_slurmstepds(cluster, VICTIM)?;
                cluster.service(VICTIM, "start", "agent")
            }
            Self::StepdKilled => kill_slurmstepds(cluster, node),
            Self::SlurmdRestarted => {
                cluster.service(node, "stop", "slurmd")?;
                cluster.service(node, "start", "slurmd")
            }
            Self::ProcessKilled => kill_process(cluster, node, random),
            Self::JobCancelled => cancel_job(cluster, random),
            Self::Interrupted => {
                let interrupt = "p=$(pgrep -x srun | shuf -n1); kill -INT $p; kill -INT $p";
                cluster.run("ctl", "root", &["sh", "-c", interrupt]).map(drop)
            }
            Self::PowerCut => {
                cluster.power(VICTIM, "off")?;
                cluster.power(VICTIM, "on")
            }
            Self::StoreGone => {
                let (store, away) = (cluster.shared().join("store"), cluster.shared().join("store-away"));
                fs::rename(&store, &away)?;
                // For as long as one step takes to be refused, or to be started from what is mounted.
                let result = cluster.srun("u1", &["-w", WITNESS, "--parallax-image=debian", "true"]);
                fs::rename(&away, &store)?;
                result.map(drop)
            }
        }
    }
}

/// Stops the agent of a node for a while.
fn stop_agent(cluster: &Cluster, node: &str, time: Duration) -> anyhow::Result<()> {
    let script =
        format!("kill -STOP $(pidof parallax-agent); sleep {}; kill -CONT $(pidof parallax-agent)", time.as_secs_f32());
    cluster.shell(node, &script).map(drop)
}

/// Kills what slurmstepds a node has. Slurm does not notice for minutes, so their jobs are cancelled, as an administrator
/// would do.
fn kill_slurmstepds(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    for process in processes::named(cluster, node, "slurmstepd")? {
        process.kill()?;
    }
    let cancel = format!("squeue --noheader --nodelist={node} --format=%A | xargs --no-run-if-empty scancel");
    cluster.run("ctl", "root", &["sh", "-c", &cancel]).map(drop)
}

fn kill_process(cluster: &Cluster, node: &str, random: &mut Rng) -> anyhow::Result<()> {
    let mut users = processes::on(cluster, node)?;
    users.retain(|process| process.uid >= 1000 && !process.zombie);
    if !users.is_empty() {
        // It may have ended since.
        if let Ok(process) = Process::open(users[random.usize(..users.len())].pid) {
            process.kill()?;
        }
    }
    Ok(())
}

fn cancel_job(cluster: &Cluster, random: &mut Rng) -> anyhow::Result<()> {
    let jobs = cluster.run("ctl", "root", &["squeue", "--noheader", "--format=%A"])?.stdout;
    let jobs: Vec<&str> = jobs.split_whitespace().collect();
    if jobs.is_empty() {
        return Ok(());
    }
    // It may have ended since.
    cluster.run("ctl", "root", &["scancel", jobs[random.usize(..jobs.len())]]).map(drop)
}
