//! What it takes to start an image whose data arrives as it is read, from a source that is slow, beside copying the whole image first.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use integration_tests::clean::wait_for_steps;
use integration_tests::lazy_service::LazyService;
use serde_json::Value;

use super::Row;
use crate::report::{Figure, Measured};
use crate::session::{NODE, Session, USER};
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "lazy_fetched", measure };

const FETCHED: &str = "chunks that `import numpy` reads / all chunks of the image";
const FETCHED_SHELL: &str = "chunks that a shell reads / all chunks of the image";
const FETCHED_MORE: &str = "chunks that a shell and then `import numpy, json, ssl` read / all chunks";
/// For each latency: a start with a trace, a start without, reading all files, and a web application's first answer; each / copying the
/// image and doing the same.
const STARTS: [(u32, [Line; 4]); 3] = [
    (
        0,
        [
            ("lazy_start_0ms", "step with `import numpy`, chunks with a trace / whole files copied first, 0 ms", None),
            ("lazy_start_untraced_0ms", "the same without a trace", None),
            (
                "lazy_full_read_0ms",
                "step that reads all files, chunks with a trace / whole files copied first",
                Some(1.2),
            ),
            ("lazy_ready_0ms", "step until a web application answers, chunks / whole files copied first", Some(1.2)),
        ],
    ),
    (
        1,
        [
            ("lazy_start_1ms", "as above with 1 ms before each answer", Some(0.35)),
            ("lazy_start_untraced_1ms", "the same without a trace", Some(1.0)),
            ("lazy_full_read_1ms", "step that reads all files, 1 ms", Some(1.2)),
            ("lazy_ready_1ms", "step until a web application answers, 1 ms", Some(1.2)),
        ],
    ),
    (
        10,
        [
            ("lazy_start_10ms", "as above with 10 ms before each answer", Some(0.5)),
            ("lazy_start_untraced_10ms", "the same without a trace", None),
            ("lazy_full_read_10ms", "step that reads all files, 10 ms", Some(1.2)),
            ("lazy_ready_10ms", "step until a web application answers, 10 ms", Some(1.2)),
        ],
    ),
];
/// Id, description and target of a figure.
type Line = (&'static str, &'static str, Option<f64>);

pub(super) const IMAGE: &str = "numpy";
pub(super) const SOURCE: &str = "oci:/images/numpy";
const IMPORT: &str = "python3 -c 'import numpy'";
const READ_ALL: &str = "find / -xdev -type f -exec cat {} + >/dev/null 2>&1 || true";
/// A web application that gets one answer and ends. Nothing of it is in the trace but Python itself.
const ANSWER: &str = "python3 -c 'import http.server as h, os, threading, urllib.request as u
os.chdir(\"/\")
s = h.HTTPServer((\"127.0.0.1\", 0), h.SimpleHTTPRequestHandler)
threading.Thread(target=s.serve_forever, daemon=True).start()
assert u.urlopen(f\"http://127.0.0.1:{s.server_port}/\", timeout=60).status == 200'";
/// What a node gets of the source, in bytes a second: so little that the machine's own speed hardly matters.
pub(super) const RATE: &str = "25000000";
/// The rate, which is the same in each, takes most of the time.
const ROUNDS: usize = 2;
const CONFIG: &str = "/etc/parallax/parallax.toml";

/// The store, with chunks, and what of it has to be copied.
pub(super) struct Images<'a> {
    pub(super) session: &'a Session,
    pub(super) store: String,
    pub(super) files: Vec<String>,
    pub(super) bytes: u64,
}

/// A way of starting.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Copies the files, and reads them then.
    Copy,
    /// Reads chunks; `true` with a trace.
    Chunks(bool),
}

fn measure(session: &Session) -> anyhow::Result<Measured> {
    with_images(session, &[SOURCE], |images| {
        let mut figures = images.fetched()?;
        let note = images.starts(&mut figures)?;
        Ok(Measured { figures, notes: vec![note] })
    })
}

/// Measures with an image in chunks; the words are for `parallax migrate`. What is changed for that on the node is changed back.
pub(super) fn with_images(
    session: &Session,
    words: &[&str],
    body: impl FnOnce(&Images<'_>) -> anyhow::Result<Measured>,
) -> anyhow::Result<Measured> {
    let image = words.last().and_then(|source| source.rsplit('/').next()).context("no image")?;
    integration_tests::images::build(&[image])?;
    let images = Images::new(session, words)?;
    // The image's name is looked up where steps are submitted, too.
    let files = [session.cluster().path_on("ctl", CONFIG)?, session.cluster().path_on(NODE, CONFIG)?];
    let [submitting, config] = [fs::read_to_string(&files[0])?, fs::read_to_string(&files[1])?];
    fs::write(&files[0], format!("stores = [\"{}\"]\n", images.store))?;
    let measured = body(&images);
    fs::write(&files[0], submitting)?;
    fs::write(&files[1], config)?;
    images.restart_agent()?;
    session.run("root", &["rm", "-rf", &images.store])?;
    measured
}

impl<'a> Images<'a> {
    fn new(session: &'a Session, words: &[&str]) -> anyhow::Result<Self> {
        let store = format!("{}/chunks", session.directory());
        session
            .run("root", &[&["parallax", "--quiet", "--store", &store, "migrate", "--chunked"][..], words].concat())?;
        let layers = session.directory_here().join("chunks/parallax/layers");
        let (mut files, mut bytes) = (Vec::new(), 0);
        for entry in fs::read_dir(layers)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".squash") {
                files.push(name);
                bytes += entry.metadata()?.len();
            }
        }
        Ok(Self { session, store, files, bytes })
    }

    /// Which part of the image commands read. Leaves the trace of `import numpy`.
    fn fetched(&self) -> anyhow::Result<Vec<Figure>> {
        let shell = self.trace("true")?;
        let more = self.trace("true; python3 -c 'import numpy, json, ssl'")?;
        let import = self.trace(IMPORT)?;
        Ok(vec![
            Figure::new(ROW.id, FETCHED, Summary::of([import]), "").at_most(0.08),
            Figure::new("lazy_fetched_shell", FETCHED_SHELL, Summary::of([shell]), "").at_most(0.064),
            Figure::new("lazy_fetched_more", FETCHED_MORE, Summary::of([more]), "").at_most(0.146),
        ])
    }

    /// The part of the chunks that a command reads.
    #[expect(clippy::cast_precision_loss, reason = "an image has not so many chunks")]
    fn trace(&self, command: &str) -> anyhow::Result<f64> {
        let text = format!(
            "export XDG_RUNTIME_DIR=$(mktemp -d) HOME=$(mktemp -d); trap 'rm -rf $XDG_RUNTIME_DIR $HOME' EXIT
             parallax --store {} trace --json {IMAGE} -- sh -c \"{command}\"",
            self.store
        );
        // The mount program needs a user namespace of Podman's, so not root.
        self.session.run("root", &["chown", "-R", USER, &self.store])?;
        let done = self.session.run(USER, &["bash", "-euc", &text]);
        self.session.run("root", &["chown", "-R", "root", &self.store])?;
        let report: Value = serde_json::from_str(&done?.stdout)?;
        let sum = |key: &str| -> Option<u64> {
            report.get("layers")?.as_array()?.iter().map(|layer| layer.get(key)?.as_u64()).sum()
        };
        Ok(sum("traced").context("no numbers")? as f64 / sum("chunks").context("no numbers")? as f64)
    }

    fn starts(&self, figures: &mut Vec<Figure>) -> anyhow::Result<String> {
        #[expect(clippy::cast_precision_loss, reason = "an image is not so large")]
        let size = self.bytes as f64 / 1e6;
        let rounds = if self.session.is_quick() { 1 } else { ROUNDS };
        let mut note = format!("lazy: {IMAGE}, {} layers, {size:.1} MB; rounds: {rounds}; 25 MB/s.", self.files.len());
        for (latency, lines) in STARTS {
            let server = Server::start(self, latency)?;
            let ways = [
                (Way::Copy, IMPORT),
                (Way::Chunks(true), IMPORT),
                (Way::Chunks(false), IMPORT),
                (Way::Copy, READ_ALL),
                (Way::Chunks(true), READ_ALL),
                (Way::Copy, ANSWER),
                (Way::Chunks(true), ANSWER),
            ];
            let mut times = vec![Vec::new(); ways.len()];
            for _ in 0..rounds {
                for ((way, command), times) in ways.iter().zip(&mut times) {
                    times.push(self.start(*way, command, &server)?);
                }
            }
            let ratio = |one: usize, other: usize| {
                Summary::of(times[one].iter().zip(&times[other]).map(|(one, other)| one / other))
            };
            for ((id, what, target), summary) in
                lines.into_iter().zip([ratio(1, 0), ratio(2, 0), ratio(4, 3), ratio(6, 5)])
            {
                let figure = Figure::new(id, what, summary, "");
                figures.push(if let Some(target) = target { figure.at_most(target) } else { figure });
            }
            let medians: Vec<String> =
                times.iter().map(|times| format!("{:.2}", Summary::of(times.iter().copied()).median)).collect();
            let [copy, traced, untraced, read, lazy_read, answer, lazy_answer] = &medians[..] else { continue };
            let _ = write!(
                note,
                " {latency} ms: start {copy} s copied, {traced} s with a trace, {untraced} s without; all files {read} s copied, \
                 {lazy_read} s in chunks; web answer {answer} s copied, {lazy_answer} s in chunks."
            );
        }
        Ok(note)
    }

    /// Has the node read the image in some way. Chunks come while the result lives.
    pub(super) fn use_on_node(&self, way: Way, server: &Server) -> anyhow::Result<Option<LazyService>> {
        let lazy = match way {
            Way::Copy => String::new(),
            Way::Chunks(_) => format!(
                "[lazy]\nenabled = true\nsocket = \"/run/lazy/socket\"\ncache = \"/run/lazy/cache\"\nsources = [\"http://127.0.0.1:{}/default.castr\"]\n",
                server.port
            ),
        };
        let config = format!("stores = [\"{}\"]\n{lazy}", self.store);
        fs::write(self.session.cluster().path_on(NODE, CONFIG)?, config)?;
        self.restart_agent()?;
        if way == Way::Copy { Ok(None) } else { LazyService::start(self.session.cluster(), NODE).map(Some) }
    }

    /// Seconds until a step has done a command.
    fn start(&self, way: Way, command: &str, server: &Server) -> anyhow::Result<f64> {
        let session = self.session;
        let traces = |from: &str, to: &str| {
            let text = format!(
                "cd {}/parallax/layers; for file in *.{from}; do mv $file ${{file%.{from}}}.{to}; done",
                self.store
            );
            session.run("root", &["sh", "-euc", &text])
        };
        let service = self.use_on_node(way, server)?;
        if way == Way::Chunks(false) {
            traces("trace", "aside")?;
        }
        let begun = Instant::now();
        if way == Way::Copy {
            server.copy(self)?;
        }
        let image = format!("--parallax-image={IMAGE}");
        let done = session.cluster().srun(USER, &["--nodelist", NODE, &image, "sh", "-c", command]);
        let seconds = begun.elapsed().as_secs_f64();
        if way == Way::Chunks(false) {
            traces("aside", "trace")?;
        }
        done?.success()?;
        wait_for_steps(session.cluster(), NODE)?;
        drop(service);
        Ok(seconds)
    }

    fn restart_agent(&self) -> anyhow::Result<()> {
        self.session.cluster().service(NODE, "stop", "agent")?;
        self.session.cluster().service(NODE, "start", "agent")
    }
}

/// The source on the node. It ends with this value.
pub(super) struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    pub(super) port: String,
}

impl Server {
    pub(super) fn start(images: &Images<'_>, latency: u32) -> anyhow::Result<Self> {
        let program = images.session.program();
        let (layers, latency) = (format!("{}/parallax/layers", images.store), latency.to_string());
        let command = [program.as_str(), "on-node", "serve", &layers, &latency, RATE];
        let mut command = images.session.cluster().command(NODE, "root", &command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (mut port, mut output) = (String::new(), BufReader::new(child.stdout.take().context("no output")?));
        output.read_line(&mut port)?;
        ensure!(!port.trim().is_empty(), "the server did not start");
        Ok(Self { child, output, port: port.trim().to_owned() })
    }

    /// The number of requests so far, and the bytes of their answers.
    pub(super) fn counts(&mut self) -> anyhow::Result<[f64; 2]> {
        writeln!(self.child.stdin.as_mut().context("no input")?)?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let numbers: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        numbers.try_into().map_err(|_| anyhow::anyhow!("the server answered {line:?}"))
    }

    /// Copies the image's files to the node.
    fn copy(&self, images: &Images<'_>) -> anyhow::Result<()> {
        let files = images.files.join(" ");
        let text = format!(
            "mkdir /tmp/copied; trap 'rm -rf /tmp/copied' EXIT; cd /tmp/copied; {} on-node fetch {} {files}",
            images.session.program(),
            self.port
        );
        images.session.run("root", &["sh", "-euc", &text]).map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
