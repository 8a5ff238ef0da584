//! Faults of the kernel, by `strace(1)`: it attaches to a process and has system calls fail as the kernel would have them fail.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStderr, Stdio};

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;
use integration_tests::processes;

/// A strace at work, until this value goes.
pub(super) struct Injection<'a> {
    cluster: &'a Cluster,
    strace: Child,
    /// It ends if nobody hears it out.
    _messages: BufReader<ChildStderr>,
}

impl<'a> Injection<'a> {
    /// Has the agent of n1 and its children see `errno` from every call of `call`, or from those on `path` only.
    pub(super) fn into_agent(
        cluster: &'a Cluster,
        call: &str,
        errno: &str,
        path: Option<&str>,
    ) -> anyhow::Result<Self> {
        let agent = cluster.shell("n1", "pidof parallax-agent")?;
        let inject = format!("inject={call}:error={errno}");
        let mut command = vec!["strace", "-f", "-p", agent.trim(), "-o", "/dev/null", "-e", &inject];
        command.extend(path.iter().flat_map(|path| ["-P", path]));
        let mut strace =
            cluster.command("n1", "root", &command).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        // It says that it has attached.
        let mut line = String::new();
        let mut messages = BufReader::new(strace.stderr.take().context("no errors")?);
        messages.read_line(&mut line)?;
        let injection = Self { cluster, strace, _messages: messages };
        ensure!(line.contains("attached"), "strace: {line}");
        Ok(injection)
    }
}

impl Drop for Injection<'_> {
    /// The kernel lets go of what a tracer that has ended held.
    fn drop(&mut self) {
        if let Err(error) = processes::kill(self.cluster, "n1", "strace") {
            eprintln!("strace: {error:#}");
        }
        let _ = self.strace.wait();
    }
}
