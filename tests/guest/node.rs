//! A node: the agent, as it is installed, and steps that ask it for an image over its socket, as slurmstepd does, and run by the launcher.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use integration_tests::cluster::{Done, repository};
use parallax_protocol::client::Client;
use parallax_protocol::message::{Grant, LeaseRequest, Mode, Request, Response, StepId};
use rustix::process::{Pid, Signal, kill_process};

/// The users of steps; the second one is in no group but its own.
pub(crate) const USER: u32 = 1001;
pub(crate) const OTHER: u32 = 1002;
/// Timeout for answers of the agent, in an emulated machine.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The socket of an agent with the default configuration.
const SOCKET: &str = "/run/parallax/agent.sock";

/// A node with a running agent, which ends with this value.
pub(crate) struct Node {
    agent: Child,
    directory: tempfile::TempDir,
}

/// The lease of a step, which is released with this value.
pub(crate) struct Lease {
    client: Client,
    step: StepId,
    uid: u32,
    grant: Grant,
}

/// Adds the users of steps to the machine, with subordinate ids. What is there is kept.
fn add_users() -> anyhow::Result<()> {
    let users = fs::read_to_string("/etc/passwd")?;
    for (uid, first) in [(USER, 100_000), (OTHER, 200_000)] {
        let name = format!("u{uid}");
        if users.contains(&format!("{name}:")) {
            continue;
        }
        let append = |file: &str, line: String| fs::write(file, fs::read_to_string(file).unwrap_or_default() + &line);
        append("/etc/passwd", format!("{name}:x:{uid}:{uid}::/home/{name}:/bin/sh\n"))?;
        append("/etc/group", format!("{name}:x:{uid}:\n"))?;
        for file in ["/etc/subuid", "/etc/subgid"] {
            append(file, format!("{name}:{first}:65536\n"))?;
        }
        fs::create_dir_all(format!("/home/{name}"))?;
    }
    Ok(())
}

impl Node {
    /// Starts an agent with a configuration.
    pub(crate) fn start(config: &str) -> anyhow::Result<Self> {
        add_users()?;
        let directory = tempfile::tempdir()?;
        let (file, ready) = (directory.path().join("parallax.toml"), directory.path().join("ready"));
        fs::write(&file, config)?;
        let notified = UnixDatagram::bind(&ready)?;
        notified.set_read_timeout(Some(TIMEOUT))?;
        let mut command = Command::new(repository().join("target/debug/parallax-agent"));
        let agent = command.arg("--config").arg(&file).args(["--log", "error"]).env("NOTIFY_SOCKET", &ready).spawn()?;
        let node = Self { agent, directory };
        let mut text = [0; 256];
        let length = notified.recv(&mut text).context("the agent does not become ready")?;
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        ensure!(text.contains("READY=1"), "{text}");
        Ok(node)
    }

    /// Runs `parallax` with the agent's configuration.
    pub(crate) fn parallax(&self, arguments: &[&str]) -> anyhow::Result<Done> {
        let mut command = Command::new(repository().join("target/debug/parallax"));
        let config = self.directory.path().join("parallax.toml");
        Ok(Done::from(command.arg("--config").arg(config).args(arguments).output()?))
    }

    /// Requests an image for a step of a user; returns the lease, or why it was refused.
    pub(crate) fn request(
        &self,
        job: u32,
        uid: u32,
        image: &str,
        as_root: bool,
    ) -> anyhow::Result<Result<Lease, String>> {
        let client = Client::connect(Path::new(SOCKET))?;
        let step = StepId { job, step: 0, restart: 0 };
        let request = LeaseRequest {
            step,
            uid,
            gid: uid,
            groups: Some(vec![uid]),
            image: image.to_owned(),
            image_id: None,
            mode: Mode::Run,
            memory: None,
            as_root,
            container: None,
            rule: None,
        };
        let deadline = Instant::now() + TIMEOUT;
        client.send(&Request::Lease(request), deadline)?;
        match client.receive(deadline)? {
            Response::Granted(grant) => Ok(Ok(Lease { client, step, uid, grant })),
            Response::Refused { reason, .. } => Ok(Err(reason)),
            other => bail!("the agent answered {other:?}"),
        }
    }

    /// Runs a shell script in a step of a user; returns what it printed, and what the layers are.
    pub(crate) fn run(&self, job: u32, uid: u32, image: &str, script: &str) -> anyhow::Result<(Done, String)> {
        let lease = self.request(job, uid, image, false)?.map_err(anyhow::Error::msg)?;
        let done = lease.run(script)?;
        Ok((done, self.source(job)?))
    }

    /// What the layers of a job's step are, and why.
    pub(crate) fn source(&self, job: u32) -> anyhow::Result<String> {
        let shown = self.parallax(&["status", "--json"])?.success()?.stdout;
        let status: serde_json::Value = serde_json::from_str(&shown)?;
        let steps = status["steps"].as_array().context("no steps")?;
        let step =
            steps.iter().find(|step| step["step"] == format!("{job}.0")).with_context(|| format!("{job}: {shown}"))?;
        let text = |key: &str| step["source"][key].as_str().unwrap_or_default().to_owned();
        Ok(format!("{} by {}: {}", text("kind"), text("backend"), text("reason")))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.agent.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.agent.wait();
    }
}

impl Lease {
    /// Runs a shell script in the step's container, as the first task does.
    pub(crate) fn run(&self, script: &str) -> anyhow::Result<Done> {
        Ok(Done::from(self.command(script).output()?))
    }

    /// A shell script in the step's container, to be run or started.
    pub(crate) fn command(&self, script: &str) -> Command {
        let ids = [format!("--reuid={}", self.uid), format!("--regid={}", self.uid)];
        let mut command = Command::new("setpriv");
        command.args(ids).args(["--clear-groups", "--inh-caps=-all"]);
        command.arg(repository().join("target/debug/parallax-launch")).arg("run").arg(&self.grant.directory);
        command.args(["slurm_bcast", "--", "/bin/busybox", "sh", "-c", script]).current_dir("/");
        command.env_clear().env("PATH", "/bin").env("HOME", format!("/home/u{}", self.uid));
        command
    }

    /// Releases the lease; returns the problems that this had. The step's directory is gone.
    pub(crate) fn release(self) -> anyhow::Result<Vec<String>> {
        let deadline = Instant::now() + TIMEOUT;
        self.client.send(&Request::Release { step: self.step }, deadline)?;
        let answer = self.client.receive(deadline)?;
        let Response::Released { problems } = answer else { bail!("the agent answered {answer:?}") };
        ensure!(!self.grant.directory.exists(), "{} is left", self.grant.directory.display());
        Ok(problems)
    }
}
