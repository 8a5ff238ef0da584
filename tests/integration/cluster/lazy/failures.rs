//! What fails below steps that read an image in chunks: they get right bytes or an error, and their node stays idle.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, TEST_TIMEOUT};
use integration_tests::held::HeldStep;
use integration_tests::lazy_service::LazyService;
use integration_tests::processes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parallax_format::layout::CHUNK_STORE;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{NODE, backing_files, middle_chunk, take_a_chunk, wait_for_text, with_keys};

tests! { cluster:
    a_worker_that_hangs_is_replaced_by_whole_files,
    without_whole_files_a_worker_that_hangs_fails_reads_in_time,
    a_corrupt_chunk_is_replaced_by_the_whole_file,
    without_a_whole_file_a_corrupt_chunk_fails_reads,
    a_chunk_store_is_slow_and_goes_away_and_comes_back,
}

/// Prints the checksum of each file of the image, or the error. It needs nothing of the chunk that the tests hold back.
const READ_EACH: &str = r#"
import binascii, os
for top in ("/usr", "/opt"):
    for directory, _, names in os.walk(top):
        for path in (os.path.join(directory, name) for name in names):
            try:
                if not os.path.islink(path):
                    with open(path, "rb") as file:
                        print(f"{binascii.crc32(file.read()):08x}  {path}")
            except PermissionError:
                pass
            except OSError as error:
                print(f"{error.strerror}: {path}")
"#;
/// Tasks of a step that read at once.
const READERS: usize = 4;
/// What the store has beside chunks.
pub(super) const WHOLE: bool = true;
pub(super) const CHUNKS_ONLY: bool = false;

/// Checksums of files by their paths, and the paths that could not be read.
type Read = (BTreeMap<String, String>, Vec<String>);

/// Starts a step whose tasks read all of the image at once.
pub(super) fn start_readers(cluster: &Cluster, node: &str) -> anyhow::Result<Child> {
    let tasks = READERS.to_string();
    let step = ["srun", "-w", node, "-n", &tasks, "--overcommit", "--label", "--parallax-image=python"];
    let mut command = cluster.command("ctl", "u1", &[&step[..], &["python3", "-ISc", READ_EACH]].concat());
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// Waits for the step of [`start_readers`]. Returns what each task read.
fn end_readers(readers: Child) -> anyhow::Result<Vec<Read>> {
    let done = readers.wait_with_output()?;
    let mut tasks = vec![Read::default(); READERS];
    for line in String::from_utf8(done.stdout)?.lines() {
        let (task, text) = line.split_once(": ").with_context(|| line.to_owned())?;
        let (checksums, failed) = tasks.get_mut(task.trim().parse::<usize>()?).with_context(|| line.to_owned())?;
        match text.split_once("  ") {
            Some((checksum, path)) => drop(checksums.insert(path.to_owned(), checksum.to_owned())),
            None => failed.push(text.strip_prefix("Input/output error: ").with_context(|| text.to_owned())?.to_owned()),
        }
    }
    Ok(tasks)
}

/// The checksums of all files, read on a node that does not know of chunks.
pub(super) fn expected(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, String>> {
    let mut tasks = end_readers(start_readers(cluster, "n2")?)?;
    let (checksums, failed) = tasks.swap_remove(0);
    ensure!(checksums.len() > 500 && failed.is_empty(), "{} files, {failed:?}", checksums.len());
    Ok(checksums)
}

/// That every task read every file.
pub(super) fn all_is_read(readers: Child, expected: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for (task, (checksums, failed)) in end_readers(readers)?.iter().enumerate() {
        ensure!(failed.is_empty(), "task {task} could not read {failed:?}");
        is_right(task, checksums, expected)?;
        ensure!(checksums.len() == expected.len(), "task {task} read {} of {} files", checksums.len(), expected.len());
    }
    Ok(())
}

/// That every task of a step reads every file while the kernel comes to read a layer from its whole file in the store.
pub(super) fn all_is_read_from_a_whole_file(
    cluster: &Cluster,
    expected: &BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
    all_is_read(start_readers(cluster, NODE)?, expected)?;
    let files = backing_files(cluster)?;
    ensure!(files.iter().any(|file| file.ends_with(".squash")), "{files:?}");
    step.finish()
}

/// That Slurm gives the node to jobs.
fn is_not_drained(cluster: &Cluster) -> anyhow::Result<()> {
    let state = cluster.slurm_state(NODE)?;
    ensure!(!state.contains("drain"), "{state}");
    Ok(())
}

/// That every task got an error for some file, and right bytes of all others.
fn some_reads_fail(readers: Child, expected: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for (task, (checksums, failed)) in end_readers(readers)?.iter().enumerate() {
        ensure!(!failed.is_empty(), "task {task} read all, {} files", checksums.len());
        ensure!(checksums.len() + failed.len() == expected.len(), "{} and {failed:?}", checksums.len());
        is_right(task, checksums, expected)?;
    }
    Ok(())
}

/// That no task read all, and each right bytes only: some may not even have begun.
fn no_bytes_are_wrong(readers: Child, expected: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for (task, (checksums, _)) in end_readers(readers)?.iter().enumerate() {
        ensure!(checksums.len() < expected.len(), "task {task} read all");
        is_right(task, checksums, expected)?;
    }
    Ok(())
}

fn is_right(
    task: usize,
    checksums: &BTreeMap<String, String>,
    expected: &BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let wrong = checksums.iter().find(|(path, checksum)| expected.get(*path) != Some(checksum));
    ensure!(wrong.is_none(), "task {task} read other bytes: {wrong:?}");
    Ok(())
}

fn chunk_path(cluster: &Cluster) -> anyhow::Result<PathBuf> {
    Ok(cluster.shared().join("lazy").join(CHUNK_STORE).join(middle_chunk(cluster)?.path()))
}

/// Waits until the worker fetches a chunk that is a FIFO. It waits until the returned file is closed.
fn wait_for_fetch(chunk: &Path) -> anyhow::Result<File> {
    let (sender, receiver) = channel();
    let chunk = chunk.to_owned();
    thread::spawn(move || sender.send(File::options().write(true).open(chunk)));
    Ok(receiver.recv_timeout(TEST_TIMEOUT).context("nobody fetches the chunk")??)
}

fn signal_worker(cluster: &Cluster, signal: Signal) -> anyhow::Result<()> {
    let workers = processes::named(cluster, NODE, "parallax-lazy")?;
    ensure!(workers.len() == 1, "{workers:?}");
    Ok(kill(Pid::from_raw(workers[0].pid()), signal)?)
}

/// Runs `body` while readers wait for a chunk and the worker is stopped. Afterwards it goes on, and the chunk is there.
fn with_a_stopped_worker(cluster: &Cluster, body: impl FnOnce(Child) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let [chunk, aside] = take_a_chunk(cluster)?;
    mknodat(CWD, &chunk, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
    let readers = start_readers(cluster, NODE)?;
    let fetched = wait_for_fetch(&chunk)?;
    signal_worker(cluster, Signal::SIGSTOP)?;
    let result = body(readers);
    signal_worker(cluster, Signal::SIGCONT)?;
    fs::rename(aside, chunk)?;
    drop(fetched);
    result
}

fn a_worker_that_hangs_is_replaced_by_whole_files(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster)?;
    with_keys(cluster, WHOLE, "timeout = 600\n", || {
        let _service = LazyService::start(cluster, NODE)?;
        with_a_stopped_worker(cluster, |readers| {
            all_is_read(readers, &expected)?;
            // Nor does a new step wait for it.
            all_is_read_from_a_whole_file(cluster, &expected)
        })?;
        // What it does now harms nobody.
        all_is_read(start_readers(cluster, NODE)?, &expected)?;
        is_not_drained(cluster)
    })
}

fn without_whole_files_a_worker_that_hangs_fails_reads_in_time(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster)?;
    with_keys(cluster, CHUNKS_ONLY, "timeout = 3\n", || {
        let _service = LazyService::start(cluster, NODE)?;
        with_a_stopped_worker(cluster, |readers| no_bytes_are_wrong(readers, &expected))?;
        all_is_read(start_readers(cluster, NODE)?, &expected)?;
        is_not_drained(cluster)
    })
}

/// Changes a bit of a chunk. Returns its path and what it was.
fn corrupt_a_chunk(cluster: &Cluster) -> anyhow::Result<(PathBuf, Vec<u8>)> {
    let path = chunk_path(cluster)?;
    let chunk = fs::read(&path)?;
    let mut corrupt = chunk.clone();
    *corrupt.get_mut(chunk.len() / 2).context("an empty chunk")? ^= 1;
    fs::write(&path, corrupt)?;
    Ok((path, chunk))
}

fn a_corrupt_chunk_is_replaced_by_the_whole_file(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster)?;
    with_keys(cluster, WHOLE, "timeout = 600\n", || {
        corrupt_a_chunk(cluster)?;
        let _service = LazyService::start(cluster, NODE)?;
        all_is_read_from_a_whole_file(cluster, &expected)
    })
}

fn without_a_whole_file_a_corrupt_chunk_fails_reads(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster)?;
    with_keys(cluster, CHUNKS_ONLY, "timeout = 2\n", || {
        let (path, chunk) = corrupt_a_chunk(cluster)?;
        let _service = LazyService::start(cluster, NODE)?;
        some_reads_fail(start_readers(cluster, NODE)?, &expected)?;
        wait_for_text(&cluster.path_on(NODE, "/run/lazy/log")?, 0, "the chunk is corrupt")?;
        fs::write(path, chunk)?;
        // The kernel remembers errors of a mount; new steps get another one.
        all_is_read(start_readers(cluster, NODE)?, &expected)?;
        is_not_drained(cluster)
    })
}

/// Serves the directory of its argument by HTTP: one answer at a time, each after 20 ms, and a line for each hundred.
const SLOW_SERVER: &str = r#"
import os, socket, sys, threading, time
line = threading.Lock()
answers = 0

def answer(connection):
    global answers
    stream = connection.makefile("rwb")
    while request := stream.readline().decode():
        while stream.readline().strip():
            pass
        status, body = "404 Not Found", b""
        with line:
            time.sleep(0.02)
            answers += 1
            if answers % 100 == 0:
                print(answers, flush=True)
        try:
            with open(sys.argv[1] + request.split()[1], "rb") as file:
                status, body = "200 OK", file.read()
        except FileNotFoundError:
            pass
        stream.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        stream.flush()

server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", 9318))
server.listen(64)
print("ready", flush=True)
while True:
    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
"#;
/// What that is for hundred answers, in seconds.
const HUNDRED_ANSWERS: u32 = 2;

/// The server, killed with this value.
struct SlowServer {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl SlowServer {
    fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut command = cluster.command(NODE, "u2", &["python3", "-c", SLOW_SERVER, "/shared/served"]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let mut server = Self { child, output };
        server.expect("ready")?;
        Ok(server)
    }

    /// Waits until it says so.
    fn expect(&mut self, expected: &str) -> anyhow::Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line.trim() == expected, "the server said {line:?}, not {expected:?}");
        Ok(())
    }
}

impl Drop for SlowServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All of it takes longer than a reader waits for a chunk that cannot be had.
fn a_chunk_store_is_slow_and_goes_away_and_comes_back(cluster: &Cluster) -> anyhow::Result<()> {
    let timeout = 4 * HUNDRED_ANSWERS;
    let expected = expected(cluster)?;
    let keys = format!("sources = [\"http://127.0.0.1:9318/default.castr\"]\ntimeout = {timeout}\n");
    let result = with_keys(cluster, CHUNKS_ONLY, &keys, || {
        cluster.shell("ctl", "mkdir /shared/served; mv /shared/lazy/parallax/layers/default.castr /shared/served")?;
        let mut server = SlowServer::start(cluster)?;
        let _service = LazyService::start(cluster, NODE)?;
        let readers = start_readers(cluster, NODE)?;
        server.expect("100")?;
        drop(server);
        wait_for_text(&cluster.path_on(NODE, "/run/lazy/log")?, 0, "readers wait")?;
        let mut server = SlowServer::start(cluster)?;
        for hundreds in 1..=timeout / HUNDRED_ANSWERS {
            server.expect(&format!("{hundreds}00"))?;
        }
        all_is_read(readers, &expected)?;
        is_not_drained(cluster)
    });
    cluster.shell("ctl", "rm -rf /shared/served")?;
    result
}
