//! Chunks from another machine by SSH: the system's ssh and sshd, on a port of their own.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use integration_tests::lazy_service::LazyService;
use parallax_format::layout::CHUNK_STORE;

use super::backend::with_config;
use super::lazy::{end_reading, expected, publish, start_reading, take_a_chunk, wait_for_text};

tests! { cluster:
    a_step_reads_an_image_by_ssh_and_another_host_key_is_refused,
}

const NODE: &str = "n1";
/// The chunk store, as the configuration has it.
pub(super) const SOURCE: &str = "ssh://u2@127.0.0.1:2222/shared/ssh/default.castr";
const CONFIG: &str = "stores = [\"/shared/lazy\"]\n[lazy]\nenabled = true\nsocket = \"/run/lazy/socket\"\ncache = \"/run/lazy/cache\"\n\
    sources = [\"ssh://u2@127.0.0.1:2222/shared/ssh/default.castr\"]\nssh_known_hosts = \"/run/ssh-test/known_hosts\"\n\
    ssh_key = \"/run/ssh-test/key\"\ntimeout = 60\n";

/// Runs sshd as u2, for files alone. Each line of its input is a signal for it and its sessions; "start" starts another one.
const SERVER: &str = r#"
    cd /run/ssh-test/server
    start() {
        exec 3< <(exec /usr/sbin/sshd -D -e -f config 2>&1)
        sshd=$!
        sed '/Server listening/q' <&3 >/dev/null
        cat <&3 >/dev/null &
        echo ready
    }
    trap 'kill -CONT $sshd 2>/dev/null; pkill -KILL -u u2 sshd' EXIT
    start
    while read -r signal; do
        if [ "$signal" = start ]; then start; else pkill "-$signal" -u u2 sshd && echo sent; fi
    done
"#;

/// The keys of the host and of its client, and another host's, on the node.
const KEYS: &str = r#"
    rm -rf /run/ssh-test; mkdir -p /run/ssh-test/server
    cd /run/ssh-test
    for key in server/host other key; do ssh-keygen -q -t ed25519 -N '' -f $key; done
    cp key.pub server/authorized_keys
    cat >server/config <<END
Port 2222
ListenAddress 127.0.0.1
HostKey /run/ssh-test/server/host
AuthorizedKeysFile /run/ssh-test/server/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
Subsystem sftp internal-sftp
ForceCommand internal-sftp
END
    chown -R u2:u2 server
    chown 65534:65534 key; chmod 600 key
    : >known_hosts; chmod 644 known_hosts
"#;

/// The server. It ends with this value.
pub(super) struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Server {
    /// Makes keys, moves the chunks of the store `/shared/lazy` to where the server has them, and starts it.
    pub(super) fn start(cluster: &Cluster, node: &str) -> anyhow::Result<Self> {
        cluster.shell("ctl", "mkdir -p /shared/ssh; mv /shared/lazy/parallax/layers/default.castr /shared/ssh/")?;
        cluster.shell(node, KEYS)?;
        let mut command = cluster.command(node, "u2", &["bash", "-uc", SERVER]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let mut server = Self { child, output };
        server.expect("ready")?;
        Ok(server)
    }

    fn expect(&mut self, expected: &str) -> anyhow::Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line.trim() == expected, "the SSH server said {line:?}");
        Ok(())
    }

    fn send(&mut self, line: &str, answer: &str) -> anyhow::Result<()> {
        writeln!(self.child.stdin.as_mut().context("no input")?, "{line}")?;
        self.expect(answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Has the client know a host key.
pub(super) fn know(cluster: &Cluster, node: &str, key: &str) -> anyhow::Result<()> {
    let text = format!("echo \"[127.0.0.1]:2222 $(cat /run/ssh-test/{key}.pub)\" >/run/ssh-test/known_hosts");
    cluster.shell(node, &text).map(drop)
}

/// Removes what the test made.
fn clean(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.shell(NODE, "rm -rf /run/ssh-test")?;
    cluster.shell("ctl", "rm -rf /shared/lazy /shared/ssh").map(drop)
}

fn a_step_reads_an_image_by_ssh_and_another_host_key_is_refused(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster, "n2")?;
    publish(cluster, false)?;
    // The chunk is in the same place of the server's chunk store.
    let [chunk, aside] = take_a_chunk(cluster)?.map(|path| {
        let path = path.strip_prefix(cluster.shared().join("lazy").join(CHUNK_STORE)).map(Path::to_owned);
        path.map(|path| cluster.shared().join("ssh/default.castr").join(path))
    });
    let chunk = [chunk?, aside?];
    let tested = Server::start(cluster, NODE).and_then(|mut server| {
        with_config(cluster, NODE, CONFIG, || {
            let service = LazyService::start(cluster, NODE)?;
            let refused = |part: &str| {
                let done = cluster.srun("u1", &["-w", NODE, "--parallax-image=python", "true"])?;
                ensure!(done.code != 0 && done.stderr.contains(part), "no {part:?} in {done:?}");
                let doctor = cluster.shell(NODE, "parallax doctor || true")?;
                ensure!(doctor.contains(part), "no {part:?} in {doctor}");
                anyhow::Ok(())
            };
            refused("the host key of 127.0.0.1 is unknown; add it to /run/ssh-test/known_hosts")?;
            drop(service);
            know(cluster, NODE, "other")?;
            let service = LazyService::start(cluster, NODE)?;
            refused("the host key of 127.0.0.1 is not the one in /run/ssh-test/known_hosts")?;
            drop(service);
            know(cluster, NODE, "server/host")?;
            read_while_the_server_ends_and_hangs(cluster, &mut server, &chunk, &expected)?;
            cluster.shell(NODE, "chmod 644 /run/ssh-test/key")?;
            let _service = LazyService::start(cluster, NODE)?;
            refused("cannot use the key in /run/ssh-test/key: everybody has access to it (mode 0644)")
        })
    });
    clean(cluster)?;
    tested
}

/// The steps wait for a server that ends, and for one that hangs, and read on when it is back.
fn read_while_the_server_ends_and_hangs(
    cluster: &Cluster,
    server: &mut Server,
    [chunk, aside]: &[PathBuf; 2],
    expected: &str,
) -> anyhow::Result<()> {
    for (signal, back, answer, reason) in
        [("KILL", "start", "ready", "readers wait"), ("STOP", "CONT", "sent", "the server does not answer for 10 s")]
    {
        let _service = LazyService::start(cluster, NODE)?;
        // The layers are mounted, and one of them cannot be complete.
        let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
        server.send(signal, "sent")?;
        let reading = start_reading(cluster, NODE)?;
        wait_for_text(&cluster.path_on(NODE, "/run/lazy/log")?, 0, reason)?;
        fs::rename(aside, chunk)?;
        server.send(back, answer)?;
        end_reading(reading, expected)?;
        fs::rename(chunk, aside)?;
        let status = cluster.shell(NODE, "parallax status --lazy --json")?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let chunks = status.pointer("/sources/0/chunks").and_then(serde_json::Value::as_u64);
        ensure!(status["sources"][0]["name"] == SOURCE, "{status}");
        ensure!(chunks.is_some_and(|chunks| chunks > 500), "{status}");
        step.finish()?;
    }
    Ok(())
}
