//! A registry on the node, whose requests are counted.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context as _, ensure};

use super::session::{NODE, Session};

/// Where it listens.
pub(crate) const REGISTRY: &str = "127.0.0.1:5000";

/// What runs on the node until its input ends. Then all requests are in the log.
const SCRIPT: &str = r#"
    cd "$1"
    printf 'version: 0.1\nstorage: { filesystem: { rootdirectory: %s/registry } }\nhttp: { addr: %s }\n' "$1" "$2" >registry.yml
    rm -f registry.pipe; mkfifo registry.pipe
    docker-registry serve registry.yml >registry.pipe 2>&1 &
    registry=$!
    trap 'kill $registry 2>/dev/null || true' EXIT
    exec 3<registry.pipe
    sed -u '/listening on/q' <&3 >/dev/null
    cat <&3 >registry.log &
    echo ready
    cat >/dev/null
    kill $registry
    wait
"#;

/// The registry, with its images in the session's directory. It ends with this value.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Child,
    log: PathBuf,
}

impl Registry {
    /// Starts it, with the images that an earlier one had.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(session: &Session) -> anyhow::Result<Self> {
        let command = ["bash", "-uc", SCRIPT, "registry", &session.directory(), REGISTRY];
        let mut command = session.cluster().command(NODE, "root", &command);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("no output")?).read_line(&mut line)?;
        let registry = Self { process, log: session.directory_here().join("registry.log") };
        ensure!(line == "ready\n", "the registry did not start");
        Ok(registry)
    }

    /// Ends it and returns how often parts of images were requested: layers and configurations.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub(crate) fn blobs_requested(mut self) -> anyhow::Result<usize> {
        self.end();
        let log = fs::read_to_string(&self.log)?;
        Ok(log.lines().filter(|line| line.contains("\"GET /v2/") && line.contains("/blobs/sha256:")).count())
    }

    fn end(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.end();
    }
}
