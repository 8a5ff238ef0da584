//! Layers whose chunks are fetched as they are read: the agent's part and the real worker, without privileges and killed, stopped and
//! replaced, under readers that check every byte.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::cluster::TEST_TIMEOUT;
use nix::sys::signal::Signal;
use parallax_agent::layers::{Form, MountedLayer};
use parallax_chunks::{Index, Trace};
use parallax_format::layout::CHUNK_STORE;

use self::fixture::{EndsEarly, FILES, Fixture, Worker, content};

mod fixture;

tests! { machine:
    a_layer_is_read_while_it_comes_and_is_a_plain_file_in_the_end,
    a_worker_that_is_killed_fails_no_read,
    a_worker_that_hangs_is_replaced_by_the_whole_file,
    a_complete_file_is_exchanged_though_its_worker_answers_no_more,
    a_chunk_that_comes_late_is_waited_for,
    what_an_earlier_start_read_is_fetched_first,
    chunks_come_from_an_http_server_that_may_fail_for_a_while,
    without_any_source_reading_fails_and_the_mount_is_not_used_again,
    a_chunk_store_that_hangs_is_replaced_by_the_whole_file,
    without_a_whole_file_reads_that_hang_fail_in_time,
    a_cache_that_is_full_is_replaced_by_the_whole_file,
    without_a_worker_the_whole_file_is_used,
    a_worker_that_does_not_answer_is_not_asked_again_soon,
}

/// Compares all files of the mounted layer.
fn read_all(layer: &MountedLayer) -> anyhow::Result<()> {
    for number in 0..FILES {
        let path = layer.entry().mount_point.join(number.to_string());
        let found = fs::read(&path).with_context(|| path.display().to_string())?;
        ensure!(found == content(number), "{} has other bytes", path.display());
    }
    Ok(())
}

/// Compares all files in a thread, which tells the result.
fn read_in_background(layer: &Arc<MountedLayer>) -> Receiver<anyhow::Result<()>> {
    let (sender, receiver) = channel();
    let layer = Arc::clone(layer);
    thread::spawn(move || sender.send(read_all(&layer)));
    receiver
}

/// What the kernel tells of the loop device of a mounted layer.
fn of_loop_device(layer: &MountedLayer, name: &str) -> anyhow::Result<String> {
    let device = fs::metadata(layer.entry().mount_point)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    Ok(fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/loop/{name}"))?.trim().to_owned())
}

/// The file below the loop device of a mounted layer.
fn backing_file(layer: &MountedLayer) -> anyhow::Result<String> {
    of_loop_device(layer, "backing_file")
}

/// Waits until a file is below the layer's loop device and read like that of any layer. The kernel tells nobody of it.
fn wait_for_file(layer: &MountedLayer, file: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while Path::new(&backing_file(layer)?) != file || of_loop_device(layer, "dio")? != "0" {
        ensure!(Instant::now() < deadline, "{} is not below the loop device, or read directly", file.display());
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn is_chunked(layer: &MountedLayer) -> bool {
    matches!(layer.form(), Form::Chunks(_))
}

fn a_layer_is_read_while_it_comes_and_is_a_plain_file_in_the_end() -> anyhow::Result<()> {
    let fixture = Fixture::new(600)?;
    fs::remove_file(fixture.whole())?;
    let middle = fixture.ids[fixture.ids.len() / 2];
    let chunk = fixture.hold_back(&middle)?;
    let _worker = fixture.worker()?;
    let layer = fixture.mount()?;
    ensure!(is_chunked(&layer), "{:?}", layer.form());
    // The end of the file has the directory, the beginning has the first files.
    ensure!(fs::read(layer.entry().mount_point.join("0"))? == content(0), "other bytes");
    let missing = !Path::new(&backing_file(&layer)?).starts_with(fixture.path("cache"));
    ensure!(missing, "complete, though a chunk is missing");
    let reader = read_in_background(&layer);
    drop(fixture.give(&middle, &chunk)?);
    reader.recv_timeout(TEST_TIMEOUT)??;
    let name = fixture.layer.squashfs_sha256.context("no digest")?;
    wait_for_file(&layer, &fixture.path("cache").join(format!("{name}.data")))?;
    read_all(&layer)?;
    // The next time all of it is there.
    drop(layer);
    fs::remove_dir_all(fixture.path("store").join(CHUNK_STORE))?;
    let layer = fixture.mount()?;
    ensure!(is_chunked(&layer), "{:?}", layer.form());
    read_all(&layer)
}

fn a_worker_that_is_killed_fails_no_read() -> anyhow::Result<()> {
    let fixture = Fixture::new(600)?;
    fs::remove_file(fixture.whole())?;
    let middle = fixture.ids[fixture.ids.len() / 2];
    let chunk = fixture.hold_back(&middle)?;
    let mut worker = fixture.worker()?;
    let layer = fixture.mount()?;
    let readers: Vec<_> = (0..4).map(|_| read_in_background(&layer)).collect();
    for _ in 0..3 {
        let fifo = fixture.wait_for_fetch(&middle)?;
        worker.0.kill()?;
        worker.0.wait()?;
        drop(fifo);
        worker = fixture.worker()?;
    }
    drop(fixture.give(&middle, &chunk)?);
    for reader in readers {
        reader.recv_timeout(TEST_TIMEOUT)??;
    }
    read_all(&layer)
}

fn a_worker_that_hangs_is_replaced_by_the_whole_file() -> anyhow::Result<()> {
    let fixture = Fixture::new(30)?;
    let middle = fixture.ids[fixture.ids.len() / 2];
    fixture.hold_back(&middle)?;
    let worker = fixture.worker()?;
    let layer = fixture.mount()?;
    ensure!(is_chunked(&layer), "{:?}", layer.form());
    let reader = read_in_background(&layer);
    let fifo = fixture.wait_for_fetch(&middle)?;
    worker.signal(Signal::SIGSTOP)?;
    reader.recv_timeout(TEST_TIMEOUT)??;
    wait_for_file(&layer, &fixture.whole())?;
    read_all(&layer)?;
    // What it does now harms nobody.
    worker.signal(Signal::SIGCONT)?;
    drop(fifo);
    read_all(&layer)
}

/// The kernel exchanges the file after the reads in progress, which that worker has.
fn a_complete_file_is_exchanged_though_its_worker_answers_no_more() -> anyhow::Result<()> {
    let fixture = Fixture::new(600)?;
    // Nothing but the worker has the file.
    let complete = fixture.path("complete");
    fs::rename(fixture.whole(), &complete)?;
    let file = fs::File::open(&complete)?;
    let (end, ended) = channel();
    thread::scope(|scope| {
        let worker = scope.spawn(|| EndsEarly::run(&fixture, file, ended));
        let layer = fixture.mount()?;
        ensure!(is_chunked(&layer), "{:?}", layer.form());
        let reader = read_in_background(&layer);
        reader.recv_timeout(TEST_TIMEOUT)??;
        wait_for_file(&layer, &complete)?;
        drop(end);
        read_all(&layer)?;
        // FUSE is gone, and with it what it served.
        worker.join().map_err(|_| anyhow::anyhow!("the worker panicked"))?
    })
}

fn a_chunk_that_comes_late_is_waited_for() -> anyhow::Result<()> {
    let fixture = Fixture::new(600)?;
    fs::remove_file(fixture.whole())?;
    let middle = fixture.ids[fixture.ids.len() / 2];
    let chunk = fixture.hold_back(&middle)?;
    let _worker = fixture.worker()?;
    let layer = fixture.mount()?;
    let reader = read_in_background(&layer);
    // First nothing comes, which is no chunk, and then another chunk's content.
    drop(fixture.wait_for_fetch(&middle)?);
    let other = fs::read(fixture.chunk_path(&fixture.ids[1]))?;
    drop(fixture.give(&middle, &other)?);
    ensure!(reader.try_recv().is_err(), "read without the chunk");
    fs::write(fixture.chunk_path(&middle).with_extension("next"), &chunk)?;
    fs::rename(fixture.chunk_path(&middle).with_extension("next"), fixture.chunk_path(&middle))?;
    reader.recv_timeout(TEST_TIMEOUT)??;
    Ok(())
}

fn what_an_earlier_start_read_is_fetched_first() -> anyhow::Result<()> {
    let fixture = Fixture::new(600)?;
    fs::remove_file(fixture.whole())?;
    let trace = fixture.path("store").join(fixture.layer.chunk_trace_path());
    fs::write(&trace, "something else")?;
    let middle = fixture.ids.len() / 2;
    // All that complete the layer wait for these.
    let first: Vec<_> = (5..9).map(|number| fixture.ids[number]).collect();
    let chunks = first.iter().map(|id| fixture.hold_back(id)).collect::<anyhow::Result<Vec<_>>>()?;
    let chunk = fixture.hold_back(&fixture.ids[middle])?;
    let _worker = fixture.worker()?;
    // A trace that is none is as good as none.
    let layer = fixture.mount()?;
    ensure!(is_chunked(&layer), "{:?}", layer.form());
    drop(layer);
    let index = fs::read(fixture.path("store").join(fixture.layer.chunk_index_path()))?;
    let index = Index::parse(&index)?;
    let read = index.parts().nth(middle).context("no chunk")?;
    fs::write(&trace, Trace::of_reads(&index, [(read.offset, 1)]).to_bytes())?;
    let layer = fixture.mount()?;
    drop(fixture.give(&fixture.ids[middle], &chunk)?);
    for (id, chunk) in first.iter().zip(&chunks) {
        drop(fixture.give(id, chunk)?);
    }
    read_all(&layer)
}

/// A server of static files on this machine that answers every third request with an error, or cuts the answer short.
const SERVER: &str = r#"
import http.server, sys
count = 0
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        global count
        count += 1
        if count % 6 == 2:
            self.send_error(503)
        elif count % 6 == 5:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"cut short")
        else:
            super().do_GET()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Handler(*args, directory=sys.argv[1]))
print(server.server_port, flush=True)
server.serve_forever()
"#;

fn chunks_come_from_an_http_server_that_may_fail_for_a_while() -> anyhow::Result<()> {
    let served = tempfile::tempdir()?;
    let mut server = Command::new("python3");
    server.args(["-c", SERVER]).arg(served.path()).stdout(Stdio::piped());
    let mut server = Worker(server.spawn()?);
    let mut port = String::new();
    BufReader::new(server.0.stdout.take().context("no output")?).read_line(&mut port)?;
    let fixture = Fixture::with(&format!("sources = [\"http://127.0.0.1:{}/chunks\"]\n", port.trim()))?;
    fs::remove_file(fixture.whole())?;
    fs::rename(fixture.path("store").join(CHUNK_STORE), served.path().join("chunks"))?;
    let _worker = fixture.worker()?;
    let layer = fixture.mount()?;
    ensure!(is_chunked(&layer), "{:?}", layer.form());
    read_all(&layer)
}

fn without_any_source_reading_fails_and_the_mount_is_not_used_again() -> anyhow::Result<()> {
    let fixture = Fixture::new(1)?;
    fs::rename(fixture.whole(), fixture.path("aside"))?;
    let middle = fixture.ids[fixture.ids.len() / 2];
    let chunk = fs::read(fixture.chunk_path(&middle))?;
    fs::remove_file(fixture.chunk_path(&middle))?;
    let _worker = fixture.worker()?;
    let layer = fixture.mount()?;
    let error = read_all(&layer).err().context("read without the chunk")?;
    ensure!(format!("{error:#}").contains("Input/output error"), "{error:#}");
    fs::write(fixture.chunk_path(&middle), chunk)?;
    // The kernel may remember the error. The agent is told of it beside the reader.
    let deadline = Instant::now() + TEST_TIMEOUT;
    let other = loop {
        let other = fixture.mount()?;
        if !Arc::ptr_eq(&layer, &other) {
            break other;
        }
        ensure!(Instant::now() < deadline, "the mount is used again");
        thread::sleep(Duration::from_millis(10));
    };
    read_all(&other)
}

fn a_chunk_store_that_hangs_is_replaced_by_the_whole_file() -> anyhow::Result<()> {
    let fixture = Fixture::new(2)?;
    // Nobody opens the other end, as when a file server does not answer.
    fixture.hold_back(&fixture.ids[fixture.ids.len() / 2])?;
    let _worker = fixture.worker()?;
    let layer = fixture.mount()?;
    ensure!(is_chunked(&layer), "{:?}", layer.form());
    let readers: Vec<_> = (0..4).map(|_| read_in_background(&layer)).collect();
    for reader in readers {
        reader.recv_timeout(TEST_TIMEOUT)??;
    }
    wait_for_file(&layer, &fixture.whole())?;
    read_all(&layer)
}

/// Whether the chunk store hangs, or the worker.
fn without_a_whole_file_reads_that_hang_fail_in_time() -> anyhow::Result<()> {
    for worker_hangs in [false, true] {
        let fixture = Fixture::new(2)?;
        fs::remove_file(fixture.whole())?;
        let middle = fixture.ids[fixture.ids.len() / 2];
        let chunk = fixture.hold_back(&middle)?;
        let worker = fixture.worker()?;
        let layer = fixture.mount()?;
        if worker_hangs {
            worker.signal(Signal::SIGSTOP)?;
        }
        let readers: Vec<_> = (0..4).map(|_| read_in_background(&layer)).collect();
        for reader in readers {
            let error = reader.recv_timeout(TEST_TIMEOUT)?.err().context("read without the chunk")?;
            ensure!(format!("{error:#}").contains("Input/output error"), "{error:#}");
        }
        worker.signal(Signal::SIGCONT)?;
        drop(fixture.give(&middle, &chunk)?);
        let other = fixture.mount()?;
        ensure!(!Arc::ptr_eq(&layer, &other), "the mount is used again");
        read_all(&other)?;
    }
    Ok(())
}

fn a_cache_that_is_full_is_replaced_by_the_whole_file() -> anyhow::Result<()> {
    let fixture = Fixture::with("cache_size = 1\n")?;
    let _worker = fixture.worker()?;
    let layer = fixture.mount()?;
    ensure!(is_chunked(&layer), "{:?}", layer.form());
    read_all(&layer)?;
    wait_for_file(&layer, &fixture.whole())?;
    read_all(&layer)
}

fn without_a_worker_the_whole_file_is_used() -> anyhow::Result<()> {
    let fixture = Fixture::new(30)?;
    fs::remove_file(fixture.path("lazy.sock"))?;
    let layer = fixture.mount()?;
    let Form::FileBecause(reason) = layer.form() else { anyhow::bail!("{:?}", layer.form()) };
    ensure!(reason.contains("no parallax-lazy on ") && reason.contains("lazy.sock"), "{reason}");
    read_all(&layer)?;
    wait_for_file(&layer, &fixture.whole())
}

fn a_worker_that_does_not_answer_is_not_asked_again_soon() -> anyhow::Result<()> {
    // The socket is there, as systemd keeps it, and nobody takes what is sent.
    let fixture = Fixture::new(30)?;
    for expected in ["there was no answer in time", "did not answer in the last"] {
        let layer = fixture.mount()?;
        let Form::FileBecause(reason) = layer.form() else { anyhow::bail!("{:?}", layer.form()) };
        ensure!(reason.contains(expected), "{reason}");
        read_all(&layer)?;
    }
    Ok(())
}
