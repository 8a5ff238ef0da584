//! What a node does with the store while a step runs: the system calls of the agent, of slurmd and of all that they start,
//! as strace(1) tells them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Stdio};

use anyhow::{Context as _, ensure};

use crate::cluster::Cluster;

/// The cluster's store, as its nodes see it.
pub const STORE: &str = "/shared/store";

/// The system calls with a path (strace's class `%file`), and those that lock.
const CALLS: &str = "trace=%file,flock,fcntl";

/// A running strace on a node.
#[derive(Debug)]
pub struct Trace {
    strace: Child,
    said: BufReader<ChildStderr>,
    log: PathBuf,
    store: &'static str,
}

/// What was done with the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreCalls {
    /// System calls that look up a path in it.
    pub paths: u32,
    /// System calls that lock a file of it.
    pub locks: u32,
    /// Those calls, as strace wrote them.
    pub lines: Vec<String>,
}

impl Trace {
    /// Attaches to a node's agent and slurmd, to count what they do with a store, which is named as the node sees it. Returns when
    /// whatever they do is seen.
    ///
    /// # Errors
    /// strace can't be started or can't attach.
    pub fn start(cluster: &Cluster, node: &str, store: &'static str) -> anyhow::Result<Self> {
        let script = format!(
            "exec strace -f -y -e {CALLS} -e signal=none -o /tmp/store-calls -p $(pidof parallax-agent) -p $(pidof slurmd)"
        );
        let mut command = cluster.command(node, "root", &["sh", "-euc", &script]);
        let mut strace = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let said = BufReader::new(strace.stderr.take().context("strace's messages")?);
        let log = cluster.path_on(node, "/tmp/store-calls")?;
        let mut trace = Self { strace, said, log, store };
        // One message for each of the two.
        for _ in 0..2 {
            let mut line = String::new();
            trace.said.read_line(&mut line)?;
            ensure!(line.contains(" attached"), "strace does not attach: {line}");
        }
        Ok(trace)
    }

    /// Lets go and counts.
    ///
    /// # Errors
    /// What strace wrote can't be read.
    pub fn finish(mut self) -> anyhow::Result<StoreCalls> {
        self.let_go()?;
        let log = fs::read_to_string(&self.log)?;
        ensure!(log.contains("execve("), "strace saw no step");
        Ok(count(&log, self.store))
    }

    fn let_go(&mut self) -> anyhow::Result<()> {
        // strace is told to end by the end of its parent, which is what was started here.
        self.strace.kill()?;
        self.strace.wait()?;
        // It holds this until it has let go of everything.
        self.said.read_to_string(&mut String::new())?;
        Ok(())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.let_go();
        let _ = fs::remove_file(&self.log);
    }
}

fn count(log: &str, store: &str) -> StoreCalls {
    let mut calls = StoreCalls::default();
    for line in log.lines() {
        // "PID  name(arguments) = result"; the second half of a call that was interrupted has no name.
        let Some((_, call)) = line.split_once(' ') else { continue };
        let Some((name, arguments)) = call.trim_start().split_once('(') else { continue };
        let arguments = arguments.rsplit_once(" = ").map_or(arguments, |(arguments, _)| arguments);
        if !arguments.contains(store) || name.starts_with("<...") {
            continue;
        }
        match name {
            "flock" => calls.locks += 1,
            "fcntl" if arguments.contains("SETLK") => calls.locks += 1,
            "fcntl" => continue,
            // The file is open already: no path is looked up.
            _ if arguments.contains("AT_EMPTY_PATH") => continue,
            _ => calls.paths += 1,
        }
        calls.lines.push(line.to_owned());
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_look_up_a_path_in_the_store_and_locks_on_it_are_counted() {
        let log = r#"82    openat(AT_FDCWD</>, "/shared/store", O_RDONLY) = 7</shared/store>
82    openat2(7</shared/store>, "parallax/images/f3.json", {flags=O_RDONLY}, 24 <unfinished ...>
82    <... openat2 resumed>)            = 8</shared/store/parallax/images/f3.json>
83    statx(8</shared/store/parallax/layers/7b.squash>, "", AT_STATX_SYNC_AS_STAT|AT_EMPTY_PATH, STATX_ALL, {}) = 0
83    fcntl(8</shared/store/overlay-layers/layers.lock>, F_SETLK, {l_type=F_RDLCK}) = 0
83    fcntl(8</shared/store/overlay-layers/layers.lock>, F_GETFD) = 0
84    openat(AT_FDCWD</home/u1>, "/etc/passwd", O_RDONLY) = 3</etc/passwd>
84    readlink("/proc/self/fd/3", "/shared/store", 4096) = 13
"#;
        let StoreCalls { paths, locks, lines } = count(log, STORE);
        assert_eq!((paths, locks, lines.len()), (3, 1, 4));
    }
}
