//! What rows measure with: the cluster, the image, the way onto a node, and a Podman that has the image locally.

use std::cell::OnceCell;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use tempfile::TempDir;

use super::interrupt;
use super::local_podman::{LocalPodman, Source};
use super::memory::Peak;
use super::overlays::OverlaysPlan;
use super::sampler::{Candidate, Plan, Samples};
use integration_tests::clean;
use integration_tests::cluster::{Cluster, Done, repository};
use integration_tests::images;

/// The node on which everything is measured, from beginning to end: the login node has nothing to add but its distance.
pub(crate) const NODE: &str = "n1";

/// The user for whom everything runs.
pub(crate) const USER: &str = "u1";

/// The image that is started: one layer, as small as a real image gets.
pub(crate) const IMAGE: &str = "localhost/debian";

/// How long one order on the node may take, in seconds.
const TEST_TIMEOUT: &str = "1800";

/// What another mount program is called on the node.
const PEER: &str = "peer-mount-program";

/// By this the benchmark knows its own jobs in the queue.
const JOB_NAME: &str = "--job-name=parallax-bench";

/// The beginning of a command line that runs the rest on the node in an allocation of eight tasks.
const SALLOC: [&str; 6] = ["salloc", "--quiet", "--nodelist", NODE, "--ntasks=8", JOB_NAME];

/// One run of the benchmark. What it started is taken down with it.
#[derive(Debug)]
pub(crate) struct Session {
    local: OnceCell<LocalPodman>,
    // Before the cluster, because it is in the cluster's shared directory.
    directory: TempDir,
    cluster: Cluster,
    quick: bool,
    peer: bool,
}

impl Session {
    /// Brings the cluster up, with the image in its store. `peer` is a mount program to compare with.
    ///
    /// # Errors
    /// What failed.
    pub(crate) fn start(quick: bool, peer: Option<&Path>) -> anyhow::Result<Self> {
        let mut build = Command::new(repository().join("tests/images/build"));
        build.arg("debian").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Done::from(interrupt::output(build)?).success().context("tests/images/build debian")?;
        let cluster = Cluster::up()?;
        interrupt::check()?;
        let directory = tempfile::Builder::new()
            .prefix("bench-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(cluster.shared())?;
        let own = std::env::current_exe().context("the benchmark can't find itself")?;
        fs::copy(own, directory.path().join("bench"))?;
        if let Some(peer) = peer {
            let copy = directory.path().join(PEER);
            fs::copy(peer, &copy).with_context(|| format!("{}", peer.display()))?;
            fs::set_permissions(copy, Permissions::from_mode(0o755))?;
        }
        let session = Self { local: OnceCell::new(), directory, cluster, quick, peer: peer.is_some() };
        session.run("root", &["parallax", "migrate", "oci:/images/debian", "--name", IMAGE])?;
        Ok(session)
    }

    /// The cluster.
    #[must_use]
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Brings a test image into the store under its own name.
    ///
    /// # Errors
    /// It can't be built or migrated.
    pub(crate) fn migrate(&self, name: &str) -> anyhow::Result<()> {
        images::build(&[name])?;
        images::migrate(&self.cluster, name).map(drop)
    }

    /// The Podman on the node that has the image locally; made when it is asked for first.
    ///
    /// # Errors
    /// It can't be made, or does not use the kernel's overlay.
    pub(crate) fn local(&self) -> anyhow::Result<&LocalPodman> {
        if self.local.get().is_none() {
            let _ = self.local.set(LocalPodman::new(&self.cluster, &self.program(), Source::Pulled)?);
        }
        self.local.get().context("there is no local Podman")
    }

    /// Has something done with a Podman on the node that runs the image from the store by way of a mount program.
    ///
    /// # Errors
    /// It can't be made, or `work` failed.
    pub(crate) fn with_mount_program<T>(
        &self,
        program: &str,
        work: impl FnOnce(&LocalPodman) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let podman = LocalPodman::new(&self.cluster, &self.program(), Source::MountProgram(program))?;
        let done = work(&podman);
        podman.remove(&self.cluster, &self.program());
        done
    }

    /// The mount program to compare with, as the node sees it.
    #[must_use]
    pub(crate) fn peer(&self) -> Option<String> {
        self.peer.then(|| Path::new(&self.program()).with_file_name(PEER).display().to_string())
    }

    /// Compares overlays on the node, in the user namespace of a Podman.
    ///
    /// # Errors
    /// One can't be mounted.
    pub(crate) fn sample_overlays(&self, podman: &LocalPodman, mut plan: OverlaysPlan) -> anyhow::Result<Samples> {
        (plan.warm_ups, plan.rounds) = if self.quick { (1, plan.rounds.min(3)) } else { (4, plan.rounds) };
        let plan = serde_json::to_string(&plan)?;
        let variables = podman.environment().map(|(name, value)| format!("{name}={value}"));
        let program = self.program();
        let mut command = vec!["env"];
        command.extend(variables.iter().map(String::as_str));
        command.extend(["podman", "unshare", &program, "on-node", "overlays", &plan]);
        let done = self.run(USER, &command)?;
        serde_json::from_str(&done.stdout).with_context(|| format!("the node answered {:?}", done.stdout))
    }

    /// Samples inside one step that has the image in podman mode.
    ///
    /// # Errors
    /// A command failed.
    pub(crate) fn sample_in_step(&self, commands: Vec<Candidate>, rounds: usize) -> anyhow::Result<Samples> {
        self.sample(USER, &srun("--parallax-mode=podman"), commands, rounds)
    }

    /// Samples inside one allocation of eight tasks, so that an `srun` in it only has to start a step.
    ///
    /// # Errors
    /// A command failed.
    pub(crate) fn sample_in_allocation(&self, commands: Vec<Candidate>, rounds: usize) -> anyhow::Result<Samples> {
        self.sample(USER, &SALLOC, commands, rounds)
    }

    /// Samples in a batch job while the agent keeps the layers of jobs mounted: it knows when a batch job ends, and here no other job's end
    /// (the cluster has no extern steps).
    ///
    /// # Errors
    /// A command failed.
    pub(crate) fn sample_with_layers_kept(&self, commands: Vec<Candidate>, rounds: usize) -> anyhow::Result<Samples> {
        let file = self.cluster.path_on(NODE, "/etc/parallax/parallax.toml")?;
        let config = fs::read_to_string(&file)?;
        let apply = |text: &str| -> anyhow::Result<()> {
            fs::write(&file, text)?;
            self.cluster.service(NODE, "stop", "agent")?;
            self.cluster.service(NODE, "start", "agent")
        };
        let samples = apply(&format!("{config}\n[agent]\nkeep_for_job = true\n"))
            .and_then(|()| self.sample_in_batch_job(commands, rounds));
        apply(&config)?;
        samples
    }

    fn sample_in_batch_job(&self, commands: Vec<Candidate>, rounds: usize) -> anyhow::Result<Samples> {
        let plan = serde_json::to_string(&self.plan(commands, rounds))?;
        let home = self.cluster.home(USER);
        let [script, output] = ["bench.sh", "bench.out"].map(|name| home.join(name));
        fs::write(
            &script,
            format!("#!/bin/sh\nexec {} on-node sample '{}'\n", self.program(), plan.replace('\'', "'\\''")),
        )?;
        let submit = ["sbatch", "--wait", "--quiet", "--nodelist", NODE, "--ntasks=8", JOB_NAME, "--output=bench.out"];
        let there = format!("--chdir=/home/{USER}");
        let done = self.run(USER, &[&submit[..], &[&there, &format!("/home/{USER}/bench.sh")]].concat());
        let said = fs::read_to_string(&output).unwrap_or_default();
        for file in [script, output] {
            let _ = fs::remove_file(file);
        }
        done.inspect_err(|_| self.abandon()).with_context(|| said.clone())?;
        serde_json::from_str(&said).with_context(|| format!("the node answered {said:?}"))
    }

    /// The same as [`Session::sample_in_allocation`] as root, who can change the node between the samples.
    ///
    /// # Errors
    /// A command failed.
    pub(crate) fn sample_in_allocation_of_root(
        &self,
        commands: Vec<Candidate>,
        rounds: usize,
    ) -> anyhow::Result<Samples> {
        self.sample("root", &SALLOC, commands, rounds)
    }

    /// Samples on the node as root, outside of any job, for what takes seconds: `warm_ups` rounds come before those that count.
    ///
    /// # Errors
    /// A command failed.
    pub(crate) fn sample_as_root(
        &self,
        commands: Vec<Candidate>,
        warm_ups: usize,
        rounds: usize,
    ) -> anyhow::Result<Samples> {
        let (warm_ups, rounds) = if self.quick { (0, 1) } else { (warm_ups, rounds) };
        let plan = serde_json::to_string(&Plan { commands, warm_ups, rounds })?;
        let done = self.run("root", &[&self.program(), "on-node", "sample", &plan])?;
        serde_json::from_str(&done.stdout).with_context(|| format!("the node answered {:?}", done.stdout))
    }

    /// Whether few samples are wanted.
    #[must_use]
    pub(crate) fn is_quick(&self) -> bool {
        self.quick
    }

    /// A directory on the shared file system for what rows make, as a node sees it.
    #[must_use]
    pub(crate) fn directory(&self) -> String {
        let name = self.directory.path().file_name().unwrap_or_default();
        Path::new("/shared").join(name).display().to_string()
    }

    /// The same directory as this machine sees it.
    #[must_use]
    pub(crate) fn directory_here(&self) -> &Path {
        self.directory.path()
    }

    fn plan(&self, commands: Vec<Candidate>, rounds: usize) -> Plan {
        let (warm_ups, rounds) = if self.quick { (1, rounds.min(3)) } else { (4, rounds) };
        Plan { commands, warm_ups, rounds }
    }

    fn sample(&self, user: &str, prefix: &[&str], commands: Vec<Candidate>, rounds: usize) -> anyhow::Result<Samples> {
        let plan = serde_json::to_string(&self.plan(commands, rounds))?;
        let program = self.program();
        let mut command = prefix.to_vec();
        command.extend([program.as_str(), "on-node", "sample", &plan]);
        let done = self.run(user, &command).inspect_err(|_| self.abandon())?;
        serde_json::from_str(&done.stdout).with_context(|| format!("the node answered {:?}", done.stdout))
    }

    /// What memory a command and all that it starts take on the node, as root.
    ///
    /// # Errors
    /// It failed.
    pub(crate) fn peak_memory(&self, command: &str) -> anyhow::Result<Peak> {
        let mut line = vec![self.program(), "on-node".to_owned(), "memory".to_owned()];
        line.extend(command.split_whitespace().map(ToOwned::to_owned));
        let done = self.run("root", &line.iter().map(String::as_str).collect::<Vec<_>>())?;
        serde_json::from_str(&done.stdout).with_context(|| format!("the node answered {:?}", done.stdout))
    }

    /// Has the benchmark do something on the node as root, with so many rounds, and returns what it found.
    ///
    /// # Errors
    /// It failed.
    pub(crate) fn on_node_as_root<T: serde::de::DeserializeOwned>(
        &self,
        order: &str,
        rounds: usize,
    ) -> anyhow::Result<T> {
        let rounds = if self.quick { rounds.min(3) } else { rounds };
        let done = self.run("root", &[&self.program(), "on-node", order, &rounds.to_string()])?;
        serde_json::from_str(&done.stdout).with_context(|| format!("the node answered {:?}", done.stdout))
    }

    /// Runs a command on the node to a successful end.
    ///
    /// # Errors
    /// It failed.
    pub(crate) fn run(&self, user: &str, command: &[&str]) -> anyhow::Result<Done> {
        let mut bounded = vec!["timeout", "--kill-after=10", TEST_TIMEOUT];
        bounded.extend(command);
        let mut command = self.cluster.command(NODE, user, &bounded);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Done::from(interrupt::output(command)?).success().with_context(|| format!("{bounded:?} on {NODE}"))
    }

    /// Ends jobs that failed or were interrupted half-way.
    fn abandon(&self) {
        let name = JOB_NAME.replace("--job-name", "--name");
        let cancelled = self.cluster.run("ctl", "root", &["scancel", &name]);
        if let Err(error) = cancelled.and_then(|_| clean::wait_for_steps(&self.cluster, NODE)) {
            eprintln!("bench: the benchmark's jobs can't be ended: {error:#}");
        }
    }

    /// The benchmark's own program, as a node sees it.
    #[must_use]
    pub(crate) fn program(&self) -> String {
        let name = self.directory.path().file_name().unwrap_or_default();
        Path::new("/shared").join(name).join("bench").display().to_string()
    }

    /// Where the node's agent writes what it does.
    #[must_use]
    pub(crate) fn agent_log(&self) -> PathBuf {
        self.cluster.state().join(format!("log/{NODE}-agent.log"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(local) = self.local.get() {
            local.remove(&self.cluster, &self.program());
        }
    }
}

/// The beginning of a command line that runs the rest as one task on the node, with the image.
#[must_use]
pub(crate) fn srun(mode: &'static str) -> [&'static str; 7] {
    ["srun", "--nodelist", NODE, "--ntasks=1", JOB_NAME, "--parallax-image=localhost/debian", mode]
}
