//! The agent as a daemon: what systemd is told, reload and stop, metrics. What it costs is looked at by [`cost`].

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use integration_tests::clean::{NODES, wait_for_no_lease};
use integration_tests::cluster::{Cluster, TEST_TIMEOUT, repository};
use integration_tests::held::HeldStep;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::own_agent::{self, OwnAgent};

pub(super) mod cost;

tests! { cluster:
    systemd_is_told_of_start_reload_and_stop,
    a_socket_that_systemd_opened_is_taken,
    a_stop_lets_requests_under_way_end,
    a_store_that_hangs_keeps_no_lease_from_ending,
    an_administrator_releases_a_step_and_an_epilog_a_job,
    a_release_is_of_one_lease_and_not_of_the_next,
    metrics_are_counted_and_written_to_a_file,
    the_agent_has_given_up_what_it_does_not_need,
}

/// What a test's Python begins with.
const CLIENT: &str = include_str!("agent.py");

/// Runs Python on n1 as a user, with the functions of `agent.py`.
pub(super) fn python(cluster: &Cluster, user: &str, script: &str) -> anyhow::Result<String> {
    let text = format!("{CLIENT}{script}");
    Ok(cluster.run("n1", user, &["python3", "-c", &text])?.success()?.stdout)
}

fn systemd_is_told_of_start_reload_and_stop(cluster: &Cluster) -> anyhow::Result<()> {
    let agent = OwnAgent::start(cluster, &["/shared/store"], &["WATCHDOG_USEC=200000"])?;
    for _ in 0..3 {
        let notice = agent.notice()?;
        ensure!(notice == "WATCHDOG=1", "{notice:?} instead of the watchdog");
    }
    own_agent::configure(cluster, "stores = 7\n")?;
    let reloaded = |part: &str| -> anyhow::Result<()> {
        agent.signal("HUP")?;
        let (begin, end) = (agent.event()?, agent.event()?);
        ensure!(begin.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{begin:?}");
        ensure!(end.starts_with("READY=1\nSTATUS=") && end.contains(part), "{end:?}");
        Ok(())
    };
    reloaded("configuration rejected, the old one is kept: /run/own-agent.toml, line 1")?;
    let lease = format!("c, r = lease(7, {:?}); print(r)", own_agent::SOCKET);
    let granted = python(cluster, "root", &lease)?;
    ensure!(granted.contains("granted"), "the old configuration does not hold: {granted}");
    own_agent::configure(cluster, "stores = [\"/nonexistent\"]\n")?;
    reloaded("configuration reloaded")?;
    let refused = python(cluster, "root", &lease)?;
    ensure!(refused.contains("/nonexistent"), "the new configuration does not hold: {refused}");
    agent.signal("TERM")?;
    let notice = agent.event()?;
    ensure!(notice == "STOPPING=1", "{notice:?}");
    let log = agent.wait()?;
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        ensure!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    let granted = log.lines().find(|line| line.contains("\"granted\"")).context("nothing granted in the log")?;
    let granted: serde_json::Value = serde_json::from_str(granted)?;
    ensure!(granted["step"] == "7.0" && granted["span"]["job"] == 7 && granted["uid"] == 1001, "{granted}");
    Ok(())
}

fn a_socket_that_systemd_opened_is_taken(cluster: &Cluster) -> anyhow::Result<()> {
    own_agent::configure(cluster, "stores = [\"/shared/store\"]\n")?;
    let script = r#"
import subprocess, signal
os.makedirs("/run/own-agent", exist_ok=True)
path = "/run/own-agent/agent.sock"
if os.path.exists(path):
    os.unlink(path)
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listener.bind(path)
os.chmod(path, 0o600)
listener.listen(8)
# Asked before there is an agent.
client = connect(path)
client.sendall(frame("status"))
agent = os.fork()
if agent == 0:
    os.dup2(listener.fileno(), 3)
    os.set_inheritable(3, True)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    os.execv("/usr/sbin/parallax-agent", ["parallax-agent", "--config", "/run/own-agent.toml"])
print(receive(client))
os.kill(agent, signal.SIGTERM)
print(os.waitpid(agent, 0)[1])
# What connects while no agent runs waits for the next one.
connect(path)
"#;
    let said = python(cluster, "root", script)?;
    ensure!(said.starts_with("{'status': {'version'") && said.ends_with("\n0\n"), "{said}");
    Ok(())
}

/// A copy of the store behind a file system that stands still when `SIGSTOP` is sent to it.
pub(super) struct SlowStore<'a>(&'a Cluster);

pub(super) const SLOW_STORE: &str = "/run/slow-store";

impl<'a> SlowStore<'a> {
    /// Mounts it.
    pub(super) fn mount(cluster: &'a Cluster) -> anyhow::Result<Self> {
        let script = format!(
            "mkdir -p {SLOW_STORE}; fuse-overlayfs -o lowerdir=/shared/store,allow_other {SLOW_STORE} </dev/null >/dev/null 2>&1"
        );
        cluster.shell("n1", &script)?;
        Ok(Self(cluster))
    }

    /// Sends a signal to what serves it.
    pub(super) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        self.0.shell("n1", &format!("pkill -{signal} -f '^[f]use-overlayfs.*{SLOW_STORE}'")).map(drop)
    }
}

impl Drop for SlowStore<'_> {
    fn drop(&mut self) {
        let _ = self.signal("CONT");
        let _ = self.0.shell("n1", &format!("umount -l {SLOW_STORE}; rmdir {SLOW_STORE}"));
    }
}

fn a_stop_lets_requests_under_way_end(cluster: &Cluster) -> anyhow::Result<()> {
    let store = SlowStore::mount(cluster)?;
    let agent = OwnAgent::start(cluster, &[SLOW_STORE], &[])?;
    store.signal("STOP")?;
    let script = format!(
        r#"
client = connect({socket:?})
client.sendall(frame(request(8)))
ask("status", {socket:?})
print("asked", flush=True)
print(list(receive(client))[0])
# The agent's end leaves the lease alone, whose process lives.
client.recv(1)
print(os.listdir("/run/own-agent/steps")[0].split("-")[0], len(os.listdir("/run/own-agent/leases")))
"#,
        socket = own_agent::SOCKET
    );
    let text = format!("{CLIENT}{script}");
    let mut client = cluster.command("n1", "root", &["python3", "-c", &text]).stdout(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(client.stdout.take().context("no output")?);
    let mut asked = String::new();
    said.read_line(&mut asked)?;
    // The agent is told to stop while it waits for the store.
    agent.signal("TERM")?;
    let notice = agent.event()?;
    store.signal("CONT")?;
    let mut rest = String::new();
    said.read_to_string(&mut rest)?;
    client.wait()?;
    let said = rest;
    ensure!(asked == "asked\n" && notice == "STOPPING=1", "{asked}{notice}");
    agent.wait()?;
    ensure!(said == "granted\n8.0 1\n", "{said}");
    // The next one clears away what that process, which has ended, held.
    let log = OwnAgent::start(cluster, &[SLOW_STORE], &[])?.stop()?;
    ensure!(log.contains("\"released\"") && log.contains("\"cause\":\"restart\""), "{log}");
    ensure!(fs::read_dir(cluster.path_on("n1", "/run/own-agent/steps")?)?.count() == 0, "the step's directory is left");
    Ok(())
}

fn a_store_that_hangs_keeps_no_lease_from_ending(cluster: &Cluster) -> anyhow::Result<()> {
    let store = SlowStore::mount(cluster)?;
    let agent = OwnAgent::start(cluster, &[SLOW_STORE], &[])?;
    // A process of the user's reads from the image and can't be ended, because the store does not answer. The release is answered
    // all the same, while it still does not, and leaves nothing but that process and what it has open.
    let script = format!(
        r#"
import subprocess
client, response = lease(9, {socket:?}, image="python")
directory = response["granted"]["directory"]
layers = [entry.path for entry in os.scandir(directory + "/store/overlay/l")]
files = [os.path.join(where, name) for layer in layers for where, _, names in os.walk(layer) for name in names]
files = [name for name in files if os.path.isfile(name) and not os.path.islink(name)]
subprocess.run(["pkill", "-STOP", "-f", "^[f]use-overlayfs.*slow-store"], check=True)
readers = [
    subprocess.Popen(["cat", *files], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=1001, group=1001,
                     env={{"STEP": directory + "/"}})
]
# It has begun to wait for the disk, of which the kernel tells nobody.
def state():
    with open(f"/proc/{{readers[0].pid}}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]
while state() != "D":
    pass
client.sendall(frame({{"release": {{"step": step(9)}}}}))
print(json.dumps(receive(client)["released"]["problems"]))
print(os.listdir("/run/own-agent/steps"), os.listdir("/run/own-agent/leases"), ask("status", {socket:?})["status"]["steps"])
print(os.path.exists(directory), state())
subprocess.run(["pkill", "-CONT", "-f", "^[f]use-overlayfs.*slow-store"], check=True)
print(readers[0].wait())
"#,
        socket = own_agent::SOCKET
    );
    let said = python(cluster, "root", &script)?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines[0].contains("timed out waiting for the end of the process"), "{said}");
    ensure!(lines[1..] == ["[] [] []", "False D", "-9"], "{said}");
    drop(agent);
    drop(store);
    Ok(())
}

fn an_administrator_releases_a_step_and_an_epilog_a_job(cluster: &Cluster) -> anyhow::Result<()> {
    let start = || HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, "echo $SLURM_JOB_ID");
    let step = start()?;
    let name = format!("{}.0", step.lines[0]);
    let release = |user: &str, name: &str| cluster.run("n1", user, &["parallax", "status", "--release", name]);
    let done = release("u1", &name)?;
    ensure!(done.code != 0 && done.stderr.contains("only root"), "{done:?}");
    let done = release("root", "12")?;
    ensure!(done.code != 0 && done.stderr.contains("is not a valid step"), "{done:?}");
    let done = release("root", &name)?.success()?;
    ensure!(done.stdout == format!("released {name}\n"), "{done:?}");
    ensure!(cluster.agent_status("n1")?.steps.is_empty(), "the agent still has the step");
    // Once more is no problem, and its slurmstepd's own release is none.
    ensure!(release("root", &name)?.success()?.stdout.is_empty(), "released twice");
    ensure!(step.wait()?.code != 0, "the step went on without its image");

    let step = start()?;
    let epilog = fs::read_to_string(repository().join("etc/epilog.sh"))?;
    let job = format!("SLURM_JOB_ID={}", step.lines[0]);
    let done = cluster.run("n1", "root", &["env", &job, "sh", "-c", &epilog])?.success()?;
    ensure!(done.stdout == format!("released {}.0\n", step.lines[0]), "{done:?}");
    ensure!(step.wait()?.code != 0, "the step went on without its image");
    // An epilog must not fail, agent or not.
    cluster.service("n1", "stop", "agent")?;
    let done = cluster.run("n1", "root", &["env", &job, "sh", "-c", &epilog]);
    cluster.service("n1", "start", "agent")?;
    done?.success().map(drop)
}

fn a_release_is_of_one_lease_and_not_of_the_next(cluster: &Cluster) -> anyhow::Result<()> {
    let script = r#"
first, granted = lease(10)
print(list(granted)[0])
# A step has one lease at a time.
print("already" in lease(10)[1]["refused"]["reason"])
print(ask({"release-job": {"job": 10, "step": None}})["released-steps"])
second, again = lease(10)
print(list(again)[0], granted["granted"]["directory"] != again["granted"]["directory"])
# The end of the first connection is not the end of the second lease.
first.sendall(frame({"release": {"step": step(10)}}))
print(receive(first))
print(len(ask("status")["status"]["steps"]))
# A job that was requeued has other leases.
other = connect()
restarted = request(10)
restarted["lease"]["step"] = step(10, restart=1)
other.sendall(frame(restarted))
print(list(receive(other))[0], len(ask("status")["status"]["steps"]))
"#;
    let said = python(cluster, "root", script)?;
    let expected = [
        "granted",
        "True",
        "{'steps': [{'job': 10, 'step': 0, 'restart': 0}], 'problems': []}",
        "granted True",
        "{'released': {'problems': []}}",
        "1",
        "granted 2",
    ];
    ensure!(said.lines().eq(expected), "{said}");
    wait_for_no_lease(cluster, "n1")
}

fn metrics_are_counted_and_written_to_a_file(cluster: &Cluster) -> anyhow::Result<()> {
    let file = "/run/parallax-metrics.prom";
    let config = format!("stores = [\"/shared/store\"]\n[agent]\nmetrics_file = \"{file}\"\n");
    let metrics = |name: &str| -> anyhow::Result<f64> {
        let text = cluster.run("n1", "root", &["parallax", "status", "--metrics"])?.success()?.stdout;
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{name} in {text}"))?;
        Ok(line.trim().parse()?)
    };
    super::with_file(cluster, "n1", "/etc/parallax/parallax.toml", Some(&config), || {
        cluster.shell("n1", "kill -HUP $(pidof parallax-agent)")?;
        let names = ["parallax_leases_granted_total{mode=\"run\"}", "parallax_leases_released_total{cause=\"asked\"}"];
        let before = [metrics(names[0])?, metrics(names[1])?];
        cluster.srun("u1", &["-w", "n1", "--parallax-image=debian", "true"])?.success()?;
        let after = [metrics(names[0])?, metrics(names[1])?];
        ensure!(after == before.map(|count| count + 1.0), "{before:?} became {after:?}");
        // Every reason is visible before the first refusal.
        for reason in ["user", "administrator", "busy"] {
            metrics(&format!("parallax_leases_refused_total{{reason=\"{reason}\"}}"))?;
        }
        // The node exporter finds the same, a moment later.
        wait_for_line(&cluster.path_on("n1", file)?, &format!("{} {}", names[0], after[0]))?;
        Ok(())
    })?;
    cluster.shell("n1", &format!("kill -HUP $(pidof parallax-agent); rm -f {file}"))?;
    let done = cluster.run("n1", "u1", &["parallax", "status", "--metrics"])?;
    ensure!(done.code != 0 && done.stderr.contains("only root"), "{done:?}");
    Ok(())
}

/// Waits, by inotify, until a file that is written by rename has a line.
pub(super) fn wait_for_line(file: &Path, line: &str) -> anyhow::Result<()> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, file.parent().context("no directory")?, inotify::WatchFlags::MOVED_TO)?;
    let deadline = Timespec::try_from(TEST_TIMEOUT)?;
    while !fs::read_to_string(file).unwrap_or_default().lines().any(|found| found == line) {
        let written = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&deadline))? > 0;
        ensure!(written, "{} does not get the line {line:?}", file.display());
        rustix::io::read(&watch, &mut [0_u8; 4096])?;
    }
    Ok(())
}

fn the_agent_has_given_up_what_it_does_not_need(cluster: &Cluster) -> anyhow::Result<()> {
    for node in NODES {
        let status = cluster.shell(node, "cat /proc/$(pidof parallax-agent)/status")?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let kept = format!("{:016x}", parallax_agent::restrict::CAPABILITIES.bits());
        for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
            ensure!(field(set) == kept, "{set} is {}, not {kept}", field(set));
        }
        ensure!(field("NoNewPrivs:") == "1" && field("Seccomp:") == "2", "{status}");
    }
    // All that the cluster's tests had it do, it could do.
    for node in NODES {
        let log = cluster.shell(node, &format!("grep 'were denied' /var/log/cluster/{node}-agent.log || true"))?;
        ensure!(log.is_empty(), "{log}");
    }
    Ok(())
}
