//! Faults of a node: power, memory for files, devices, descriptors, namespaces, the clock.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done, repository};
use integration_tests::held::HeldStep;
use integration_tests::processes;

use super::trace::Injection;
use super::{failed_saying, failed_saying_once, faults, restart_agent, said, with_config};

faults! { Cluster:
    power_cut = "power cut of a node, and boot",
    run_is_full = "/run full",
    no_loop_device = "no loop device free",
    no_file_descriptors = "the agent's file descriptors used up",
    no_user_namespaces_for_the_agent = "user namespaces forbidden on the node",
    the_clock_jumps = "the clock jumps by ten years at every look",
}

const SHORT: &str = "stores = [\"/shared/store\"]\n[step]\nstart_timeout = 3\nend_timeout = 3\n";

fn power_cut(cluster: &Cluster) -> anyhow::Result<String> {
    let step = HeldStep::start(cluster, "u1", &["-N2", "-n2", "--parallax-image=python"], 2, "echo started")?;
    cluster.power("n1", "off")?;
    cluster.power("n1", "on")?;
    let done = step.wait()?;
    // The node is as good as new.
    cluster.srun("u1", &["-w", "n1", "--parallax-image=python", "true"])?.success()?;
    failed_saying(&done, &["Node failure on n1"])
}

fn run_is_full(cluster: &Cluster) -> anyhow::Result<String> {
    let step = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, "echo started")?;
    let before = cluster.shell("n1", "df --output=size -k /run | tail -1")?;
    cluster.shell("n1", "mount -o remount,size=$(df --output=used -k /run | tail -1 | tr -d ' ')k /run")?;
    let refused = cluster.srun("u1", &["-w", "n1", "--overlap", "-n2", "--parallax-image=python", "true"]);
    // Ending needs no room.
    let ended = step.finish();
    cluster.shell("n1", &format!("mount -o remount,size={}k /run", before.trim()))?;
    ended?;
    failed_saying_once(&refused?, &["No space left on device", "tell the administrator"])
}

fn no_loop_device(cluster: &Cluster) -> anyhow::Result<String> {
    let injection = Injection::into_agent(cluster, "ioctl", "ENOSPC", Some("/dev/loop-control"))?;
    let refused = cluster.srun("u1", &["-w", "n1", "-n2", "--parallax-image=python", "true"]);
    drop(injection);
    failed_saying_once(&refused?, &["no loop device", "all loop devices are in use", "tell the administrator"])
}

/// How many descriptors a process has open.
fn descriptors(pid: i32) -> anyhow::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

fn no_file_descriptors(cluster: &Cluster) -> anyhow::Result<String> {
    with_config(cluster, SHORT, || {
        let held = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, "echo started")?;
        let agents = processes::named(cluster, "n1", "parallax-agent")?;
        let agent = agents.first().context("no agent")?.pid();
        let limit = |number: usize| {
            let arguments = ["--pid", &agent.to_string(), &format!("--nofile={number}:")];
            Done::from(Command::new("prlimit").args(arguments).output()?).success().map(drop)
        };
        let (open, usual) = (descriptors(agent)?, 1024);
        let mut seen = Vec::new();
        // None at all, and then some that end at one place or another of the lease.
        for more in [0, 2, 5, 8] {
            limit(open + more)?;
            let done = cluster.srun("u1", &["-w", "n1", "--overlap", "-n2", "--parallax-image=python", "true"]);
            limit(usual)?;
            seen.push(failed_saying_once(&done?, &["tell the administrator"])?);
        }
        cluster.srun("u1", &["-w", "n1", "--overlap", "--parallax-image=python", "true"])?.success()?;
        held.finish()?;
        ensure!(seen.iter().any(|line| line.contains("Too many open files")), "nobody says why: {seen:?}");
        Ok(seen.join("; or: "))
    })
}

fn no_user_namespaces_for_the_agent(cluster: &Cluster) -> anyhow::Result<String> {
    // What the kernel says at user.max_user_namespaces=0, which holds for the whole machine.
    let injection = Injection::into_agent(cluster, "unshare", "ENOSPC", None)?;
    let refused = cluster.srun("u1", &["-w", "n1", "-n2", "--parallax-image=python", "true"]);
    drop(injection);
    failed_saying_once(&refused?, &["user namespace", "user.max_user_namespaces (", "tell the administrator"])
}

/// A library that has the programs of Parallax and slurmstepd on n1 see a clock that jumps ten years to and fro; gone with
/// this value.
struct JumpingClock {
    preload: PathBuf,
    library: PathBuf,
}

impl JumpingClock {
    fn install(cluster: &Cluster) -> anyhow::Result<Self> {
        let source = repository().join("tests/cluster/lib/jumping-clock.c");
        let built = repository().join("target/jumping-clock.so");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O", "-o"]).args([&built, &source]).output()?;
        Done::from(compiled).success()?;
        let path = "/usr/lib/jumping-clock.so";
        let clock =
            Self { preload: cluster.path_on("n1", "/etc/ld.so.preload")?, library: cluster.path_on("n1", path)? };
        fs::copy(built, &clock.library)?;
        fs::write(&clock.preload, path)?;
        Ok(clock)
    }
}

impl Drop for JumpingClock {
    fn drop(&mut self) {
        for file in [&self.preload, &self.library] {
            if let Err(error) = fs::remove_file(file) {
                eprintln!("{}: {error}", file.display());
            }
        }
    }
}

fn the_clock_jumps(cluster: &Cluster) -> anyhow::Result<String> {
    let clock = JumpingClock::install(cluster)?;
    let result = with_config(cluster, SHORT, || {
        let step = HeldStep::start(cluster, "u1", &["-w", "n1", "-n2", "--parallax-image=python"], 2, "echo started")?;
        let status = cluster.agent_status("n1")?;
        let since = status.steps.first().context("no step")?.since;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let year = Duration::from_secs(365 * 24 * 3600);
        ensure!(now.abs_diff(Duration::from_secs(since)) > 5 * year, "the agent's clock does not jump: {status:?}");
        // Nothing ends early: not the wait for an answer, nor that for Podman.
        for _ in 0..4 {
            cluster.srun("u1", &["-w", "n1", "--overlap", "--parallax-image=debian", "true"])?.success()?;
        }
        // And nothing waits longer than its deadline.
        cluster.shell("n1", "kill -STOP $(pidof parallax-agent)")?;
        let refused = cluster.srun("u1", &["-w", "n1", "--overlap", "--parallax-image=debian", "true"]);
        cluster.shell("n1", "kill -CONT $(pidof parallax-agent)")?;
        said(&refused?, &["no answer in time"])?;
        step.finish()?;
        Ok("nothing: steps start, wait and end as ever".to_owned())
    });
    drop(clock);
    restart_agent(cluster)?;
    result
}
