//! What readers of an image in chunks see: the speed when all of it is there, and the longest wait when `parallax-lazy` fails.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration_tests::clean::wait_for_steps;
use integration_tests::cluster::TEST_TIMEOUT;
use integration_tests::held::HeldStep;
use integration_tests::lazy_service::LazyService;
use serde_json::Value;

use super::Row;
use super::lazy::{IMAGE, Images, SOURCE, Server, Way, with_images};
use crate::report::{Figure, Measured};
use crate::session::{NODE, Session, USER};
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "lazy_swapped", measure };

const SWAPPED: &str = "time of reading a plain loop device / of the complete layer's device";
const SERVED: &str = "layers that parallax-lazy still serves when all are complete";
const KILLED: &str = "longest wait of 8 readers while parallax-lazy is killed";
const HUNG: &str = "longest wait of 8 readers while parallax-lazy hangs";
const ERRORS: &str = "errors that the readers got in both cases";

const ROUNDS: usize = 25;
const READERS: usize = 8;

/// Reads all files, and prints the longest time that passed between two calls, and the number of errors.
const READER: &str = r#"
import os, stat, time
longest = errors = 0
print("begun", flush=True)
last = time.monotonic()
def step():
    global last, longest
    now = time.monotonic()
    longest, last = max(longest, now - last), now
def read(path):
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        while os.read(file, 1 << 17):
            step()
    finally:
        os.close(file)
for directory, _, names in os.walk("/usr"):
    for name in names:
        path = directory + "/" + name
        try:
            if stat.S_ISREG(os.lstat(path).st_mode):
                read(path)
        except OSError as error:
            errors += 1
        step()
print(longest, errors, flush=True)
"#;

/// Prints the seconds of reading the largest layer's device, and of a plain one over the same file. What is read is in memory: the
/// devices are compared, not the disk.
const READ_DEVICES: &str = r#"
device= size=0
for found in $(awk '$0 ~ " - squashfs " && $5 ~ "/run/parallax/layers/" { print $3 }' /proc/1/mountinfo | sort -u); do
    found=$(basename $(readlink /sys/dev/block/$found))
    [ $(cat /sys/block/$found/size) -le $size ] || { device=$found; size=$(cat /sys/block/$found/size); }
done
plain=$(losetup --read-only --find --show $(cat /sys/block/$device/loop/backing_file))
trap 'losetup --detach $plain' EXIT
seconds() {
    begin=$(date +%s%N)
    dd if=$1 of=/dev/null bs=1M iflag=direct status=none
    echo $(($(date +%s%N) - begin))
}
seconds /dev/$device >/dev/null
seconds $plain >/dev/null
for round in $(seq $ROUNDS); do
    # Neither is always the first.
    if [ $((round % 2)) = 0 ]; then one=$(seconds $plain); other=$(seconds /dev/$device); else other=$(seconds /dev/$device); one=$(seconds $plain); fi
    echo "$one $other"
done
"#;

fn measure(session: &Session) -> anyhow::Result<Measured> {
    with_images(session, &[SOURCE], |images| {
        let server = Server::start(images, 0)?;
        let mut figures = swapped(images, &server)?;
        let (killed, killed_errors) = stall(images, &server, LazyService::kill)?;
        let (hung, hung_errors) = stall(images, &server, |_| {
            images.session.run("root", &["sh", "-euc", "kill -STOP $(pidof parallax-lazy)"]).map(drop)
        })?;
        figures.extend([
            Figure::new("lazy_stall_killed", KILLED, Summary::of([killed]), "s").at_most(3.0),
            Figure::new("lazy_stall_hung", HUNG, Summary::of([hung]), "s").at_most(3.0),
            Figure::new("lazy_stall_errors", ERRORS, Summary::of([killed_errors + hung_errors]), "").at_most(0.0),
        ]);
        Ok(Measured { figures, notes: Vec::new() })
    })
}

/// The state of `parallax-lazy`: the number of layers that it serves.
fn served(images: &Images<'_>) -> anyhow::Result<usize> {
    let done = images.session.run("root", &["parallax", "status", "--lazy", "--json"])?;
    let status: Value = serde_json::from_str(&done.stdout)?;
    Ok(status.get("layers").and_then(Value::as_array).context("no layers")?.len())
}

fn swapped(images: &Images<'_>, server: &Server) -> anyhow::Result<Vec<Figure>> {
    let session = images.session;
    let service = images.use_on_node(Way::Chunks(true), server)?;
    let image = format!("--parallax-image={IMAGE}");
    let step = HeldStep::start(session.cluster(), USER, &["--nodelist", NODE, &image], 1, "echo begun")?;
    // Nothing tells of it.
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    while served(images)? > 0 && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    #[expect(clippy::cast_precision_loss, reason = "an image has not so many layers")]
    let left = served(images)? as f64;
    let text = format!("ROUNDS={ROUNDS}; {READ_DEVICES}");
    let done = session.run("root", &["bash", "-euc", &text])?;
    let ratios: Vec<f64> = done
        .stdout
        .lines()
        .filter_map(|line| {
            let (plain, layer) = line.split_once(' ')?;
            Some(plain.parse::<f64>().ok()? / layer.parse::<f64>().ok()?)
        })
        .collect();
    ensure!(ratios.len() == ROUNDS, "the devices were not read: {done:?}");
    step.finish()?;
    wait_for_steps(session.cluster(), NODE)?;
    drop(service);
    Ok(vec![
        Figure::new(ROW.id, SWAPPED, Summary::of(ratios), "").at_least(0.95),
        Figure::new("lazy_swapped_served", SERVED, Summary::of([left]), "").at_most(0.0),
    ])
}

/// The longest wait of readers in seconds, and the number of errors, if `fail` happens while they read.
fn stall(
    images: &Images<'_>,
    server: &Server,
    fail: impl FnOnce(&mut LazyService) -> anyhow::Result<()>,
) -> anyhow::Result<(f64, f64)> {
    let session = images.session;
    let mut service = images.use_on_node(Way::Chunks(false), server)?.context("no service")?;
    let (image, tasks) = (format!("--parallax-image={IMAGE}"), format!("--ntasks={READERS}"));
    let script = format!("python3 -c '{READER}'");
    let arguments = ["--nodelist", NODE, "--overcommit", &tasks, &image];
    let mut step = HeldStep::start(session.cluster(), USER, &arguments, READERS, &script)?;
    let incomplete = served(images)?;
    ensure!(incomplete > 0, "all layers are complete before anything fails");
    fail(&mut service)?;
    let (mut longest, mut errors) = (0.0_f64, 0.0);
    for _ in 0..READERS {
        let line = step.read_line()?;
        let (wait, failed) = line.split_once(' ').with_context(|| format!("a reader said {line:?}"))?;
        longest = longest.max(wait.parse()?);
        errors += failed.parse::<f64>()?;
    }
    step.finish()?;
    wait_for_steps(session.cluster(), NODE)?;
    Ok((longest, errors))
}
