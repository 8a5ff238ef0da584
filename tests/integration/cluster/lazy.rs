//! Steps whose image arrives as it is read: chunks, fetched by `parallax-lazy` without privileges.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, PATIENCE};
use integration_tests::held::HeldStep;
use serde_json::Value;

use super::backend::with_config;

tests! { cluster:
    a_step_reads_an_image_of_chunks_and_keeps_it_when_the_worker_is_killed,
    a_node_without_a_worker_uses_whole_files_and_says_why,
}

const NODE: &str = "n1";
const CONFIG: &str =
    "stores = [\"/shared/lazy\"]\n[lazy]\nenabled = true\nsocket = \"/run/lazy/socket\"\ncache = \"/run/lazy/cache\"\n";

/// What systemd does for the worker: it keeps the socket, and starts another worker when one ends.
const SERVICE: &str = r#"
import os, socket, subprocess, sys
os.mkdir("/run/lazy", 0o755)
os.mkdir("/run/lazy/cache", 0o700)
os.chown("/run/lazy/cache", 65534, 65534)
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind("/run/lazy/socket")
listener.listen(16)
script = 'exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
def start():
    with open("/run/lazy/log", "ab") as log:
        return subprocess.Popen(["sh", "-c", script, "worker", *command, "/usr/sbin/parallax-lazy"], stdin=listener, stderr=log)
worker = start()
print("started", flush=True)
for line in sys.stdin:
    worker.kill()
    worker.wait()
    worker = start()
    print("restarted", flush=True)
worker.kill()
worker.wait()
subprocess.run(["rm", "-r", "/run/lazy"], check=True)
"#;

/// The worker of a node. It ends with this value.
struct Service {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Service {
    fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut command = cluster.command(NODE, "root", &["python3", "-c", SERVICE]);
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
    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.stdin.as_mut().context("no input")?.write_all(b"kill\n")?;
        self.expect("restarted")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Runs `body` while the node's agent reads the image `python` in chunks. There are no whole files unless `whole`.
fn with_chunks(cluster: &Cluster, whole: bool, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let without = if whole { "" } else { "rm /shared/lazy/parallax/layers/*.squash" };
    let result = cluster
        .shell("ctl", &format!("parallax --store /shared/lazy migrate --chunked oci:/images/python\n{without}"))
        .and_then(|_| with_config(cluster, NODE, CONFIG, body));
    cluster.shell("ctl", "rm -rf /shared/lazy")?;
    result
}

/// Prints one digest of all files of the image.
const READ_ALL: &str =
    "find /usr /opt -xdev -type f -print0 2>/dev/null | sort -z | xargs -0 cat 2>/dev/null | sha256sum";

fn reason(cluster: &Cluster) -> anyhow::Result<String> {
    let done = cluster.run(NODE, "root", &["parallax", "status", "--json"])?.success()?;
    let status: Value = serde_json::from_str(&done.stdout)?;
    let reason = status.pointer("/steps/0/source/reason").and_then(Value::as_str);
    Ok(reason.with_context(|| format!("no reason in {status}"))?.to_owned())
}

/// The files below the loop devices of the node's layers.
fn backing_files(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let text = "for device in $(awk '$0 ~ \" - squashfs \" && $5 ~ \"/run/parallax/layers/\" { print $3 }' /proc/1/mountinfo | sort -u); do
        cat /sys/dev/block/$device/loop/backing_file; done";
    Ok(cluster.shell(NODE, text)?.lines().map(str::to_owned).collect())
}

fn a_step_reads_an_image_of_chunks_and_keeps_it_when_the_worker_is_killed(cluster: &Cluster) -> anyhow::Result<()> {
    let expected =
        cluster.srun("u1", &["-w", "n2", "--parallax-image=python", "sh", "-c", READ_ALL])?.success()?.stdout;
    with_chunks(cluster, false, || {
        let mut service = Service::start(cluster)?;
        let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
        let reason = reason(cluster)?;
        ensure!(reason.ends_with("; 5 of 5 layers by chunks"), "{reason}");
        let mut read =
            cluster.command("ctl", "u1", &["srun", "-w", NODE, "--parallax-image=python", "sh", "-c", READ_ALL]);
        let reading = read.stdout(Stdio::piped()).spawn()?;
        for _ in 0..3 {
            service.kill()?;
        }
        let read = reading.wait_with_output()?;
        ensure!(read.status.success(), "{read:?}");
        ensure!(String::from_utf8_lossy(&read.stdout) == expected, "{read:?}, not {expected:?}");
        // In the end all is a plain file. Nothing tells of it.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let files = backing_files(cluster)?;
            if files.len() == 5 && files.iter().all(|file| file.contains("/cache/")) {
                break;
            }
            ensure!(Instant::now() < deadline, "{files:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        step.finish()
    })
}

fn a_node_without_a_worker_uses_whole_files_and_says_why(cluster: &Cluster) -> anyhow::Result<()> {
    with_chunks(cluster, true, || {
        let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
        let reason = reason(cluster)?;
        ensure!(reason.contains("; whole files instead of chunks: no parallax-lazy on /run/lazy/socket: "), "{reason}");
        step.finish()
    })
}
