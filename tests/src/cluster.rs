//! The test cluster, driven through `tests/cluster/cluster` as people do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use parallax_protocol::client::Client;
use parallax_protocol::message::{Request, Response, Status};

use crate::touched::Touched;

/// How long anything on the cluster may take before a test gives up.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// The cluster, up. What was not up before is taken down with this value.
#[derive(Debug)]
pub struct Cluster {
    /// Name among the clusters of this checkout, empty for the one that people use by hand.
    name: &'static str,
    ours: bool,
    layer_inodes: Mutex<BTreeSet<u64>>,
    touched: Touched,
}

/// A command's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The exit code, or 128 and the signal's number.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Done {
    /// The result, if the exit code is 0.
    ///
    /// # Errors
    /// All of the result, otherwise.
    pub fn success(self) -> anyhow::Result<Self> {
        if self.code == 0 {
            Ok(self)
        } else {
            bail!("exit code {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
        }
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or_default());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Cluster {
    /// Brings the cluster up, or up to date if it is up already.
    ///
    /// # Errors
    /// What `cluster up` said.
    pub fn up() -> anyhow::Result<Self> {
        Self::up_named("")
    }

    /// Brings up, or up to date, the cluster of this checkout that has this name (`PARALLAX_CLUSTER`: a-z and 0-9; empty for
    /// the one that people use by hand). Clusters share what was built and nothing else.
    ///
    /// # Errors
    /// What `cluster up` said.
    pub fn up_named(name: &'static str) -> anyhow::Result<Self> {
        let was_up = state_directory(name).join("description").exists();
        let output = script(name).arg("up").stdin(Stdio::null()).output().context("tests/cluster/cluster")?;
        let cluster = Self { name, ours: !was_up, layer_inodes: Mutex::default(), touched: Touched::default() };
        Done::from(output).success().context("the cluster does not come up")?;
        Ok(cluster)
    }

    /// Name among the clusters of this checkout; empty for the one that people use by hand.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Directory with all that belongs to this cluster alone.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        state_directory(self.name)
    }

    fn script(&self) -> Command {
        script(self.name)
    }

    /// A command on a node as a user, to be run or started. Its standard input is empty.
    #[must_use]
    pub fn command(&self, node: &str, user: &str, command: &[&str]) -> Command {
        self.touched.note(node, command);
        let mut on_node = self.script();
        on_node.args(["exec", node, "--user", user, "--"]).args(command).stdin(Stdio::null());
        on_node
    }

    /// Runs a command on a node as a user, in the user's home.
    ///
    /// # Errors
    /// It could not be started, or did not end in [`TEST_TIMEOUT`]; an exit code is no error.
    pub fn run(&self, node: &str, user: &str, command: &[&str]) -> anyhow::Result<Done> {
        let timeout = format!("{}", TEST_TIMEOUT.as_secs());
        let mut bounded = vec!["timeout", "--kill-after=10", &timeout];
        bounded.extend(command);
        let output = self.command(node, user, &bounded).output().context("tests/cluster/cluster exec")?;
        let done = Done::from(output);
        if done.code == 124 {
            bail!(
                "{command:?} on {node} did not end within {timeout} s\nstdout: {}\nstderr: {}",
                done.stdout,
                done.stderr
            );
        }
        Ok(done)
    }

    /// Runs a shell script on a node as root.
    ///
    /// # Errors
    /// It failed.
    pub fn shell(&self, node: &str, text: &str) -> anyhow::Result<String> {
        Ok(self.run(node, "root", &["sh", "-euc", text])?.success().with_context(|| format!("{node}: {text}"))?.stdout)
    }

    /// Runs srun on the login node as a user.
    ///
    /// # Errors
    /// As [`Cluster::run`].
    pub fn srun(&self, user: &str, arguments: &[&str]) -> anyhow::Result<Done> {
        let mut command = vec!["srun"];
        command.extend(arguments);
        self.run("ctl", user, &command)
    }

    /// Starts a node with Podman of another Debian, or installs what was built anew on it.
    ///
    /// # Errors
    /// What the script said.
    pub fn start_guest(&self, suite: &str) -> anyhow::Result<()> {
        let output = self.script().args(["guest", suite]).stdin(Stdio::null()).output()?;
        Done::from(output).success().map(drop)
    }

    /// Starts to make the root file systems of guests, which goes on beside other things; [`Cluster::start_guest`] waits for it.
    ///
    /// # Errors
    /// The script can't be started.
    pub fn build_guests() -> anyhow::Result<Child> {
        Ok(script("").arg("build-guests").stdin(Stdio::null()).stdout(Stdio::null()).spawn()?)
    }

    /// Starts or stops a service of a node.
    ///
    /// # Errors
    /// It failed.
    pub fn service(&self, node: &str, action: &str, service: &str) -> anyhow::Result<()> {
        self.touched.note(node, &[]);
        let output = self.script().args(["service", node, action, service]).output()?;
        Done::from(output).success().map(drop)
    }

    /// The number, in the machine's own counting, of a node's first process.
    ///
    /// # Errors
    /// The node is not up.
    pub fn first_process(&self, node: &str) -> anyhow::Result<i32> {
        let path = self.state().join(format!("nodes/{node}/pid"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        Ok(text.split_whitespace().next().unwrap_or_default().parse()?)
    }

    /// A path of a node as the machine sees it.
    ///
    /// # Errors
    /// The node is not up.
    pub fn path_on(&self, node: &str, path: &str) -> anyhow::Result<PathBuf> {
        self.touched.note(node, &[]);
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.first_process(node)?)))
    }

    /// What a node's agent holds.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn agent_status(&self, node: &str) -> anyhow::Result<Status> {
        let client = Client::connect(&self.path_on(node, "/run/parallax/agent.sock")?)?;
        let deadline = Instant::now() + TEST_TIMEOUT;
        client.send(&Request::Status, deadline)?;
        match client.receive(deadline)? {
            Response::Status(status) => Ok(status),
            other => bail!("the agent answered {other:?}"),
        }
    }

    /// Slurm's state of a node, such as `IDLE` or `IDLE+DRAIN`. From scontrol: what sinfo shows is computed from its own list of nodes and
    /// was seen to say `mixed` for minutes after the last job, while this said that nothing was allocated.
    ///
    /// # Errors
    /// `scontrol` failed.
    pub fn slurm_state(&self, node: &str) -> anyhow::Result<String> {
        let done = self.run("ctl", "root", &["scontrol", "--oneliner", "show", "node", node])?.success()?;
        let state = done.stdout.split_whitespace().find_map(|field| field.strip_prefix("State="));
        Ok(state.with_context(|| format!("scontrol says no state: {}", done.stdout))?.to_owned())
    }

    /// Takes the power from a compute node ("off") or boots it ("on").
    ///
    /// # Errors
    /// It failed.
    pub fn power(&self, node: &str, action: &str) -> anyhow::Result<()> {
        self.touched.note(node, &[]);
        let output = self.script().args(["power", node, action]).stdin(Stdio::null()).output()?;
        Done::from(output).success().with_context(|| format!("power {node} {action}")).map(drop)
    }

    /// Boots a compute node that has no power by systemd.
    ///
    /// # Errors
    /// It does not come up, or a unit fails.
    pub fn boot_by_systemd(&self, node: &str) -> anyhow::Result<()> {
        self.touched.note(node, &[]);
        let output = self.script().args(["power", node, "on", "--systemd"]).stdin(Stdio::null()).output()?;
        Done::from(output).success().with_context(|| format!("power {node} on --systemd")).map(drop)
    }

    /// The control group that has all of a node which systemd booted.
    ///
    /// # Errors
    /// No such node is up.
    pub fn control_group(&self, node: &str) -> anyhow::Result<PathBuf> {
        let path = self.state().join(format!("nodes/{node}/cgroup"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        Ok(PathBuf::from(text.trim_end()))
    }

    /// The compute nodes that may have been touched since they were examined last.
    pub(crate) fn touched(&self) -> &Touched {
        &self.touched
    }

    /// The inodes of all layers that were seen in the cluster's store.
    pub fn layer_inodes(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.layer_inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Home directory of a user on all nodes, as the machine sees it.
    #[must_use]
    pub fn home(&self, user: &str) -> PathBuf {
        self.state().join("home").join(user)
    }

    /// Where the cluster keeps what all nodes share.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.state().join("shared")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.ours {
            if let Err(error) = self.script().arg("down").output() {
                eprintln!("the cluster could not be taken down: {error}");
            }
        }
    }
}

fn state_directory(name: &str) -> PathBuf {
    let directory = if name.is_empty() { "state".to_owned() } else { format!("state-{name}") };
    repository().join("target/cluster").join(directory)
}

fn script(name: &str) -> Command {
    let mut script = Command::new(repository().join("tests/cluster/cluster"));
    script.env("PARALLAX_CLUSTER", name);
    script
}
