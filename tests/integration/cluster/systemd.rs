//! The agent under a real systemd: a compute node that systemd boots from the units that `make install` brings.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context as _, ensure};
use integration_tests::clean::{leftovers, wait_for_steps};
use integration_tests::cluster::{Cluster, TEST_TIMEOUT};
use integration_tests::held::HeldStep;
use integration_tests::processes::machine_pid;
use parallax_sys::process::Process;

use super::with_file;

pub(super) mod lazy;
mod restrictions;
pub(super) mod sessions;
pub(super) mod users;

tests! { cluster:
    a_node_boots_and_runs_steps_under_the_units_restrictions,
    steps_outlive_reload_restart_stop_and_watchdog,
}

/// The node that systemd boots.
const NODE: &str = "n2";
const AGENT: &str = "parallax-agent.service";
const ON_NODE: [&str; 3] = ["-w", NODE, "--parallax-image=debian"];

/// Runs `body` while systemd is the node's first process. Whatever comes of it, the node is what it was before, and nothing of that systemd
/// is left.
fn booted_by_systemd(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    cluster.power(NODE, "off")?;
    let tested = cluster.boot_by_systemd(NODE).and_then(|()| body()).and_then(|()| {
        wait_for_steps(cluster, NODE)?;
        let left = leftovers(cluster, NODE)?;
        ensure!(left.is_empty(), "left on the node: {left:#?}");
        Ok(())
    });
    let tested =
        tested.map_err(|error| match cluster.run(NODE, "root", &["journalctl", "--lines=40", "--output=cat"]) {
            Ok(shown) => error.context(format!("the end of the node's journal:\n{}", shown.stdout)),
            Err(_) => error,
        });
    let group = cluster.control_group(NODE);
    let off = cluster.power(NODE, "off");
    let on = cluster.power(NODE, "on");
    tested?;
    off.and(on)?;
    let group = group?;
    ensure!(!group.exists(), "the control group {} is left", group.display());
    Ok(())
}

/// A property of the agent's unit.
fn property(cluster: &Cluster, name: &str) -> anyhow::Result<String> {
    let shown = cluster.run(NODE, "root", &["systemctl", "show", "--value", "--property", name, AGENT])?;
    Ok(shown.success()?.stdout.trim_end().to_owned())
}

/// Runs `systemctl COMMAND` on the agent's unit.
fn systemctl(cluster: &Cluster, command: &[&str]) -> anyhow::Result<()> {
    let mut line = vec!["systemctl", "--quiet"];
    line.extend(command);
    line.push(AGENT);
    cluster.run(NODE, "root", &line)?.success().map(drop)
}

/// The SquashFS mounts that the node's first process sees, and those below the steps' directories.
fn mounts(cluster: &Cluster) -> anyhow::Result<String> {
    let text = cluster.shell(NODE, "grep -E ' - squashfs |/run/parallax/steps/' /proc/1/mountinfo || :")?;
    Ok(text)
}

fn a_node_boots_and_runs_steps_under_the_units_restrictions(cluster: &Cluster) -> anyhow::Result<()> {
    booted_by_systemd(cluster, || {
        the_boot_brought_the_agent_before_slurmd(cluster)?;
        restrictions::what_the_unit_says_holds(cluster)?;
        restrictions::what_it_forbids_fails_and_mounts_get_out(cluster)?;
        mounts_reach_steps_and_everybody(cluster)
    })
}

fn the_boot_brought_the_agent_before_slurmd(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = [
        ("ActiveState", "active"),
        ("Type", "notify"),
        ("UnitFileState", "enabled"),
        ("NRestarts", "0"),
        ("StartLimitIntervalUSec", "0"),
    ];
    for (name, value) in expected {
        let shown = property(cluster, name)?;
        ensure!(shown == value, "{name} of {AGENT} is {shown:?}, not {value:?}");
    }
    let time = |unit: &str, name: &str| -> anyhow::Result<u64> {
        let shown =
            cluster.shell(NODE, &format!("systemctl show --value --property {name}TimestampMonotonic {unit}"))?;
        shown.trim().parse().with_context(|| format!("{name} of {unit}: {shown:?}"))
    };
    let (socket, ready) = (time("parallax-agent.socket", "ActiveEnter")?, time(AGENT, "ActiveEnter")?);
    let slurmd = time("slurmd.service", "ExecMainStart")?;
    ensure!(0 < socket && socket < ready && ready < slurmd, "socket {socket}, agent {ready}, slurmd {slurmd} µs");
    let shown = cluster.run(NODE, "root", &["parallax", "status"])?.success()?;
    ensure!(shown.stdout.contains("layers: native, fuse"), "under systemd the agent finds less: {shown:?}");
    Ok(())
}

/// What the agent mounts under the unit's restrictions is there for a step, for the first process, and for one that gets mounts of others
/// but gives none, as those have that systemd or job_container/tmpfs start.
fn mounts_reach_steps_and_everybody(cluster: &Cluster) -> anyhow::Result<()> {
    let mut slave = Slave::start(cluster)?;
    let before = slave.mounts()?;
    let step = HeldStep::start(cluster, "u1", &ON_NODE, 1, "cat /etc/debian_version")?;
    let held = (slave.mounts()?, mounts(cluster)?.lines().count());
    ensure!(before == 0 && held.0 > 2 && held.0 == held.1, "{before} mounts before the step, with it {held:?}");
    // What ends the agent's control group ends no process of a step.
    let groups = cluster.control_group(NODE)?.join("system.slice").join(AGENT).join("cgroup.procs");
    let members = fs::read_to_string(&groups).with_context(|| format!("{}", groups.display()))?;
    // The agent and its helper.
    ensure!(members.lines().count() == 2, "processes of steps in the agent's control group: {members}");
    step.finish()?;
    wait_for_steps(cluster, NODE)?;
    let after = slave.mounts()?;
    ensure!(after == 0, "{after} mounts after the step");
    slave.end()?;
    // In the other mode, too.
    let podman = ["-w", NODE, "--parallax-image=debian", "--parallax-mode=podman"];
    let run = ["podman", "run", "--rm", "debian", "true"];
    cluster.srun("u1", &[&podman[..], &run[..]].concat())?.success().map(drop)
}

/// A process of the node in a mount namespace of its own, which gets the mounts of the node's.
struct Slave {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Slave {
    fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let script = "while read -r _; do grep -Ec ' - squashfs |/run/parallax/steps/' /proc/self/mountinfo || :; done";
        let command = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script];
        let mut process =
            cluster.command(NODE, "root", &command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = process.stdin.take().context("no input")?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self { process, input, output })
    }

    /// How many of the agent's mounts it sees.
    fn mounts(&mut self) -> anyhow::Result<usize> {
        writeln!(self.input)?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }

    fn end(mut self) -> anyhow::Result<()> {
        drop(self.input);
        ensure!(self.process.wait()?.success(), "the process that looks at mounts failed");
        Ok(())
    }
}

fn steps_outlive_reload_restart_stop_and_watchdog(cluster: &Cluster) -> anyhow::Result<()> {
    booted_by_systemd(cluster, || {
        let script = "echo started; while read -r _; do cat /etc/debian_version; done";
        let mut step = HeldStep::start(cluster, "u1", &ON_NODE, 1, script)?;
        let held = mounts(cluster)?;
        ensure!(held.contains(" - squashfs "), "no layers: {held}");
        let mut is_as_it_was = |what: &str| -> anyhow::Result<()> {
            let now = mounts(cluster)?;
            ensure!(now == held, "{what}: the mounts were\n{held}and are\n{now}");
            step.write_line("go").and_then(|()| step.read_line()).with_context(|| what.to_owned()).map(drop)
        };
        systemctl(cluster, &["restart"])?;
        is_as_it_was("restart")?;
        the_agent_has(cluster, 1)?;
        a_reload_takes_new_keys(cluster)?;
        is_as_it_was("reload")?;
        a_connection_starts_an_agent_that_was_stopped(cluster, &mut is_as_it_was)?;
        an_agent_that_hangs_is_started_anew(cluster)?;
        is_as_it_was("watchdog")?;
        the_agent_has(cluster, 1)?;
        step.finish()
    })
}

/// That the agent answers and holds so many leases.
fn the_agent_has(cluster: &Cluster, leases: usize) -> anyhow::Result<()> {
    let steps = cluster.agent_status(NODE).with_context(|| format!("with {leases} leases"))?.steps;
    ensure!(steps.len() == leases, "{leases} leases were to be held: {steps:?}");
    Ok(())
}

fn a_reload_takes_new_keys(cluster: &Cluster) -> anyhow::Result<()> {
    let reload = |text: &str, answer: &str| {
        with_file(cluster, NODE, "/etc/parallax/parallax.toml", Some(text), || {
            let journal = Journal::from_now(cluster)?;
            systemctl(cluster, &["reload"])?;
            journal.wait_for(answer)
        })
    };
    let warm = "stores = [\"/shared/store\"]\n[agent]\nkeep_warm = 3600\n";
    reload(warm, "configuration reloaded")?;
    // The keys from before still hold.
    reload("stores = 7\n", "configuration rejected, the old one is kept")?;
    cluster.srun("u2", &["-w", NODE, "--parallax-image=static", "hello"])?.success()?;
    wait_for_no_other_step(cluster)?;
    let layers = cluster.agent_status(NODE)?.layers.len();
    ensure!(layers == 2, "{layers} layers are mounted; that of \"static\" was to stay");
    let status = property(cluster, "StatusText")?;
    ensure!(
        status.contains("configuration rejected, the old one is kept: /etc/parallax/parallax.toml, line 1"),
        "{status}"
    );
    // The file is what it was; idle layers go with the agent that kept them.
    systemctl(cluster, &["restart"])?;
    let layers = cluster.agent_status(NODE)?.layers.len();
    ensure!(layers == 1, "{layers} layers are mounted");
    Ok(())
}

/// Waits until only the step that is held has a lease.
fn wait_for_no_other_step(cluster: &Cluster) -> anyhow::Result<()> {
    // The release of a step that has ended returns when nothing of it is left, whoever began with that.
    let steps = cluster.agent_status(NODE)?.steps;
    for status in steps.iter().filter(|status| status.uid == 1002) {
        cluster.run(NODE, "root", &["parallax", "status", "--release", &status.step.to_string()])?;
    }
    Ok(())
}

fn a_connection_starts_an_agent_that_was_stopped(
    cluster: &Cluster,
    is_as_it_was: &mut impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let journal = Journal::from_now(cluster)?;
    systemctl(cluster, &["stop"])?;
    journal.wait_for("steps continue held=1")?;
    let state = property(cluster, "ActiveState")?;
    ensure!(state == "inactive", "the agent is {state} after a stop");
    is_as_it_was("stop")?;
    // slurmstepd is the first to connect.
    let run = ["-w", NODE, "--parallax-image=static", "hello"];
    cluster.srun("u2", &run)?.success()?;
    let state = property(cluster, "ActiveState")?;
    ensure!(state == "active", "the agent is {state} after a step");
    wait_for_no_other_step(cluster)?;
    is_as_it_was("socket activation")?;
    the_agent_has(cluster, 1)
}

fn an_agent_that_hangs_is_started_anew(cluster: &Cluster) -> anyhow::Result<()> {
    // As the unit, but for the time.
    let shorter = "
        mkdir -p /run/systemd/system/parallax-agent.service.d
        printf '[Service]\\nWatchdogSec=2\\n' >/run/systemd/system/parallax-agent.service.d/watchdog.conf
        systemctl daemon-reload";
    cluster.shell(NODE, shorter)?;
    systemctl(cluster, &["restart"])?;
    let pid = property(cluster, "MainPID")?.parse()?;
    let hung = Process::open(machine_pid(cluster, NODE, pid)?)?;
    let journal = Journal::from_now(cluster)?;
    systemctl(cluster, &["kill", "--kill-whom=main", "--signal=STOP"])?;
    ensure!(hung.wait_until_ended(TEST_TIMEOUT)?, "systemd does not end an agent that hangs");
    journal.wait_for("Watchdog timeout")?;
    // Whoever connects waits for the next agent.
    cluster.agent_status(NODE).context("after the watchdog")?;
    let (restarts, state) = (property(cluster, "NRestarts")?, property(cluster, "ActiveState")?);
    ensure!(restarts == "1" && state == "active", "{restarts} restarts, {state}");
    Ok(())
}

/// The node's journal from some moment on.
struct Journal<'a> {
    cluster: &'a Cluster,
    cursor: String,
}

impl<'a> Journal<'a> {
    fn from_now(cluster: &'a Cluster) -> anyhow::Result<Self> {
        let shown = cluster.shell(NODE, "journalctl --sync; journalctl --lines=0 --show-cursor")?;
        let cursor = shown.lines().find_map(|line| line.strip_prefix("-- cursor: "));
        Ok(Self { cluster, cursor: cursor.with_context(|| format!("no cursor in {shown:?}"))?.to_owned() })
    }

    /// Waits until a line of the agent has this text.
    fn wait_for(&self, text: &str) -> anyhow::Result<()> {
        self.wait_for_line_of(AGENT, text)
    }

    /// Waits until a line of a unit has this text.
    fn wait_for_line_of(&self, unit: &str, text: &str) -> anyhow::Result<()> {
        let timeout = TEST_TIMEOUT.as_secs().to_string();
        let after = format!("--after-cursor={}", self.cursor);
        let unit = format!("--unit={unit}");
        let command = ["timeout", &timeout, "journalctl", "--follow", "--lines=all", "--output=cat", &unit, &after];
        let mut follower = self.cluster.command(NODE, "root", &command).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(follower.stdout.take().context("no output")?).lines();
        let mut read = Vec::new();
        for line in lines.map_while(Result::ok) {
            read.push(line);
            if read.last().is_some_and(|line| line.contains(text)) {
                break;
            }
        }
        follower.kill()?;
        follower.wait()?;
        ensure!(
            read.last().is_some_and(|line| line.contains(text)),
            "no {text:?} in the journal:\n{}",
            read.join("\n")
        );
        Ok(())
    }
}
