//! Many steps at once.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use integration_tests::clean::NODES;
use integration_tests::cluster::{Cluster, Done};
use integration_tests::load;

use super::faults;

faults! { Alone:
    many_steps_at_once = "64 steps of mixed images, users and modes at once on two nodes, for a while",
}

/// For how many seconds steps are started, in small and large runs.
const SECONDS: [u64; 2] = [20, 120];
/// How many steps there are at any time: as one ends, the next one starts.
const STEPS: usize = 64;

/// Its exit code tells that the container ran: once in some thousands of steps under this load, Podman ended with 0 and what the
/// container had written was lost on its way to srun.
const PODMAN: &[&str] = &[
    "--parallax-image=layers40",
    "--parallax-mode=podman",
    "podman",
    "run",
    "--rm",
    "layers40",
    "sh",
    "-c",
    "exit 42",
];

/// What is started, for whom, and the exit code. Who ends with 0 writes lines with "fine" only.
const MIX: [(&str, &[&str], i32); 4] = [
    ("u1", &["--parallax-image=python", "python3", "-c", "print('fine')"], 0),
    ("u2", &["-n2", "--label", "--parallax-image=debian", "echo", "fine"], 0),
    ("u1", PODMAN, 42),
    ("u2", &["--parallax-image=static", "--parallax-mode=podman", "echo", "fine"], 0),
];

fn many_steps_at_once(cluster: &Cluster) -> anyhow::Result<String> {
    let [small, large] = SECONDS;
    let seconds = load::size(small, large)?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let (count, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let start_one_after_the_other = |place: usize| -> anyhow::Result<()> {
        // Each place begins with another one of the mix, half of them on either node; then all come to all.
        for number in place.. {
            run(cluster, number).inspect_err(|_| failed.store(true, Ordering::SeqCst))?;
            count.fetch_add(1, Ordering::SeqCst);
            if Instant::now() >= end || failed.load(Ordering::SeqCst) {
                break;
            }
        }
        Ok(())
    };
    let start = &start_one_after_the_other;
    thread::scope(|scope| {
        let places: Vec<_> = (0..STEPS).map(|place| scope.spawn(move || start(place))).collect();
        let ended = places.into_iter().map(|place| place.join().map_err(|_| anyhow!("a place panicked"))?);
        // All have ended before the first failure is told.
        ended.collect::<Vec<_>>().into_iter().collect::<anyhow::Result<()>>()
    })?;
    let count = count.into_inner();
    // The table of faults tells it, too; this is for those who look on.
    println!("{count} steps in {seconds} s");
    Ok(format!("nothing: {count} steps start, run and end well in {seconds} s"))
}

fn run(cluster: &Cluster, number: usize) -> anyhow::Result<()> {
    let (user, arguments, code) = MIX[number % MIX.len()];
    let mut line = vec!["timeout", "--kill-after=10", "300", "srun", "-w", NODES[(number / 2) % NODES.len()]];
    line.extend(arguments);
    let srun = cluster.command("ctl", user, &line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let done = Done::from(srun.wait_with_output()?);
    let fine = done.stdout.lines().all(|line| line.trim_start_matches(['0', '1', ':', ' ']) == "fine");
    let written = done.stdout.is_empty() == (code != 0);
    ensure!(done.code == code && fine && written, "{done:?}");
    Ok(())
}
