//! `parallax-lazy` on a node of the cluster, without systemd.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context as _, ensure};

use crate::cluster::Cluster;

/// What systemd does for the worker: it keeps the socket, and starts another worker when one ends.
const SERVICE: &str = r#"
import os, socket, subprocess, sys
os.mkdir("/run/lazy", 0o755)
os.makedirs(sys.argv[1], 0o700, exist_ok=True)
os.chown(sys.argv[1], 65534, 65534)
program = "/usr/sbin/parallax-lazy"
def listen():
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("/run/lazy/socket")
    listener.listen(16)
    return listener
listener = listen()
script = 'exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
def start():
    with open("/run/lazy/log", "ab") as log:
        return subprocess.Popen(["sh", "-c", script, "worker", *command, program], stdin=listener, stderr=log)
worker = start()
print("started", flush=True)
for line in sys.stdin:
    if line == "leave\n":
        listener.close()
        os.unlink("/run/lazy/socket")
        worker.kill()
        worker.wait()
        print("left", flush=True)
        continue
    elif line == "return\n":
        listener = listen()
        worker = start()
        print("restarted", flush=True)
        continue
    elif line == "upgrade\n":
        # As a package manager does: another file, of which the process that runs knows nothing.
        subprocess.run(["cp", "--preserve", program, program + ".new"], check=True)
        os.rename(program + ".new", program)
        worker.terminate()
    else:
        worker.kill()
    worker.wait()
    worker = start()
    print("restarted", flush=True)
worker.kill()
worker.wait()
subprocess.run(["rm", "-r", "/run/lazy"], check=True)
"#;

/// `parallax-lazy` of a node. It ends with this value, and its cache is removed.
#[derive(Debug)]
pub struct LazyService {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl LazyService {
    /// Starts it, with the socket `/run/lazy/socket` and the cache `/run/lazy/cache`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(cluster: &Cluster, node: &str) -> anyhow::Result<Self> {
        Self::start_with_cache(cluster, node, "/run/lazy/cache")
    }

    /// As [`LazyService::start`], with a directory for the cache that stays, if it is not in `/run/lazy`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_with_cache(cluster: &Cluster, node: &str, cache: &str) -> anyhow::Result<Self> {
        let mut command = cluster.command(node, "root", &["python3", "-c", SERVICE, cache]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let mut service = Self { child, output };
        service.expect("started")?;
        Ok(service)
    }

    fn expect(&mut self, expected: &str) -> anyhow::Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line.trim() == expected, "the worker's service said {line:?}");
        Ok(())
    }

    /// Kills the worker and starts another one.
    ///
    /// # Errors
    /// What the service said.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.replace("kill")
    }

    /// Replaces the worker's program by another file, ends the worker as systemd does, and starts another one.
    ///
    /// # Errors
    /// What the service said.
    pub fn upgrade(&mut self) -> anyhow::Result<()> {
        self.replace("upgrade")
    }

    /// Kills the worker and removes the socket, as where systemd does not keep it.
    ///
    /// # Errors
    /// What the service said.
    pub fn leave(&mut self) -> anyhow::Result<()> {
        writeln!(self.child.stdin.as_mut().context("no input")?, "leave")?;
        self.expect("left")
    }

    /// Starts another worker after [`LazyService::leave`], with another socket.
    ///
    /// # Errors
    /// What the service said.
    pub fn come_back(&mut self) -> anyhow::Result<()> {
        self.replace("return")
    }

    fn replace(&mut self, how: &str) -> anyhow::Result<()> {
        writeln!(self.child.stdin.as_mut().context("no input")?, "{how}")?;
        self.expect("restarted")
    }
}

impl Drop for LazyService {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
