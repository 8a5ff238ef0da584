//! Podman on the node without the agent: with the same image in its storage, as `podman pull` makes it, or on the store by way of
//! a mount program.

use std::fs;

use anyhow::{Context as _, ensure};

use super::session::{IMAGE, NODE, USER, srun};
use integration_tests::cluster::{Cluster, Done};

/// Where a Podman has the image from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source<'a> {
    /// It has pulled it.
    Pulled,
    /// It is in the store, and this program mounts it.
    MountProgram(&'a str),
}

/// A storage on the node's tmpfs, with a runtime directory and so a pause process of its own.
#[derive(Debug)]
pub(crate) struct LocalPodman {
    directory: String,
}

impl LocalPodman {
    /// Makes the storage, and pulls the image into it if it is to be there. `program` is the benchmark as the node sees it.
    ///
    /// # Errors
    /// Podman failed, or does not use the kernel's overlay.
    pub(crate) fn new(cluster: &Cluster, program: &str, source: Source<'_>) -> anyhow::Result<Self> {
        let made = cluster.run(NODE, USER, &["mktemp", "--directory", "/tmp/bench-XXXXXX"])?.success()?;
        let local = Self { directory: made.stdout.trim().to_owned() };
        match local.fill(cluster, source) {
            Ok(()) => Ok(local),
            Err(error) => {
                local.remove(cluster, program);
                Err(error.context("the local Podman that the step store is to be measured against"))
            }
        }
    }

    /// The variables that make Podman use it.
    #[must_use]
    pub(crate) fn environment(&self) -> [(String, String); 3] {
        [
            ("CONTAINERS_STORAGE_CONF", "storage.conf"),
            ("CONTAINERS_CONF_OVERRIDE", "containers.conf"),
            ("XDG_RUNTIME_DIR", "run"),
        ]
        .map(|(name, file)| (name.to_owned(), format!("{}/{file}", self.directory)))
    }

    fn fill(&self, cluster: &Cluster, source: Source<'_>) -> anyhow::Result<()> {
        let directory = &self.directory;
        // As in a step, but for the image store.
        let mut storage_conf = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{directory}/graph\"\n\
             rootless_storage_path = \"{directory}/graph\"\nrunroot = \"{directory}/run/containers\"\n"
        );
        if let Source::MountProgram(program) = source {
            storage_conf.push_str(&format!(
                "[storage.options]\nadditionalimagestores = [\"/shared/store\"]\n\
                 [storage.options.overlay]\nmount_program = \"{program}\"\n"
            ));
        }
        fs::write(cluster.path_on(NODE, &format!("{directory}/storage.conf"))?, storage_conf)?;
        // A step's own but for its directory, so that the two differ in nothing else.
        let copy = format!(
            "mkdir {directory}/run && grep -v ^image_copy_tmp_dir \"$CONTAINERS_CONF_OVERRIDE\" >{directory}/containers.conf"
        );
        let mut step = srun("--parallax-mode=podman").to_vec();
        step.extend(["sh", "-euc", &copy]);
        cluster.run(NODE, USER, &step)?.success()?;

        if source == Source::Pulled {
            let image = self.podman(cluster, &["pull", "--quiet", "oci:/images/debian"])?;
            self.podman(cluster, &["tag", &image, IMAGE])?;
            let root = self.podman(cluster, &["run", "--rm", IMAGE, "stat", "--file-system", "--format=%T", "/"])?;
            ensure!(root == "overlayfs", "its containers are on {root}, not on the kernel's overlayfs");
        }
        Ok(())
    }

    fn podman(&self, cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<String> {
        let variables = self.environment().map(|(name, value)| format!("{name}={value}"));
        let mut command = vec!["env"];
        command.extend(variables.iter().map(String::as_str));
        command.push("podman");
        command.extend(arguments);
        let done = cluster.run(NODE, USER, &command)?.success().with_context(|| format!("{command:?}"))?;
        Ok(done.stdout.trim().to_owned())
    }

    /// Ends its pause process and removes it.
    pub(crate) fn remove(&self, cluster: &Cluster, program: &str) {
        let pid_file = format!("{}/run/libpod/tmp/pause.pid", self.directory);
        let ended = cluster.run(NODE, USER, &[program, "on-node", "end", &pid_file]).and_then(Done::success);
        // Its files belong to the user's subordinate ids, so this takes root.
        let removed = cluster.run(NODE, "root", &["rm", "-rf", "--one-file-system", &self.directory]);
        if let Err(error) = ended.and_then(|_| removed?.success()) {
            eprintln!("bench: {NODE}:{} can't be removed: {error:#}", self.directory);
        }
    }
}
