//! The trials of a machine's abilities, with servers that end or hang in the middle. This program makes them, as the agent does.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use integration_tests::cluster::TEST_TIMEOUT;
use parallax_probe::{Ability, Trial};

tests! { machine:
    layers_in_chunks_are_tried_and_nothing_is_left,
    a_server_that_is_killed_makes_the_trial_fail,
    a_server_that_hangs_ends_the_trial_in_its_time,
}

/// The variable of debug builds that has the server fail; the trial's processes have it.
const FAULT: &str = "PARALLAX_TEST_PROBE_SERVER";
/// Size of the trials' image in sectors.
const IMAGE_SECTORS: &str = "8";

/// The outcome of the trials: the results, the other lines, and the time.
struct Tried {
    trials: Vec<Trial>,
    other: Vec<String>,
    took: Duration,
}

impl Tried {
    fn of(&self, ability: Ability) -> Option<&Trial> {
        self.trials.iter().find(|trial| trial.ability == ability)
    }
}

/// Makes the trials; the server of layers in chunks does what `fault` says. Nothing may be left of them.
fn tried(fault: &str) -> anyhow::Result<Tried> {
    let before = loop_devices()?;
    let begin = Instant::now();
    let output = Command::new("/proc/self/exe")
        .args(["--parallax-probe-supervise", "/nonexistent/mount-program", "--parallax-probe-lazy"])
        .env(FAULT, fault)
        .output()?;
    let took = begin.elapsed();
    let (mut trials, mut other) = (Vec::new(), Vec::new());
    for line in String::from_utf8(output.stdout)?.lines() {
        match serde_json::from_str(line) {
            Ok(trial) => trials.push(trial),
            Err(_) => other.push(line.to_owned()),
        }
    }
    ensure!(processes(fault)?.is_empty(), "a process is left: {:?}", processes(fault)?);
    // The kernel frees a device some time after its last user, and tells nobody.
    let deadline = Instant::now() + TEST_TIMEOUT;
    while loop_devices()?.difference(&before).next().is_some() {
        ensure!(Instant::now() < deadline, "a loop device is left: {:?}, before {before:?}", loop_devices()?);
        thread::sleep(Duration::from_millis(10));
    }
    Ok(Tried { trials, other, took })
}

/// The processes of trials with this fault.
fn processes(fault: &str) -> anyhow::Result<Vec<PathBuf>> {
    let variable = format!("{FAULT}={fault}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        if path.file_name().is_some_and(|name| name.as_bytes().iter().all(u8::is_ascii_digit))
            && environment.split(|byte| *byte == 0).any(|word| word == variable.as_bytes())
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// The loop devices that have the size of the trials' image.
fn loop_devices() -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/sys/block")? {
        let path = entry?.path();
        let is_used = path.join("loop/backing_file").exists();
        if is_used && fs::read_to_string(path.join("size")).is_ok_and(|size| size.trim() == IMAGE_SECTORS) {
            found.insert(path);
        }
    }
    Ok(found)
}

fn layers_in_chunks_are_tried_and_nothing_is_left() -> anyhow::Result<()> {
    let tried = tried("nothing")?;
    for ability in [Ability::Squashfs, Ability::LazyLayers, Ability::LazySwap] {
        let trial = tried.of(ability);
        ensure!(trial.is_some_and(|trial| trial.failure.is_none()), "{ability:?}: {trial:?} {:?}", tried.other);
    }
    Ok(())
}

fn a_server_that_is_killed_makes_the_trial_fail() -> anyhow::Result<()> {
    let tried = tried("kill")?;
    let failure = tried.of(Ability::LazyLayers).and_then(|trial| trial.failure.as_deref());
    ensure!(failure.is_some_and(|failure| failure.contains("the kernel does not mount it")), "{failure:?}");
    ensure!(tried.of(Ability::LazySwap).is_none() && tried.other.is_empty(), "{:?}", tried.other);
    // The others are made as ever.
    ensure!(tried.of(Ability::Overlay).is_some_and(|trial| trial.failure.is_none()), "{:?}", tried.trials);
    Ok(())
}

fn a_server_that_hangs_ends_the_trial_in_its_time() -> anyhow::Result<()> {
    let tried = tried("stop")?;
    ensure!(tried.took >= Duration::from_secs(5) && tried.took < Duration::from_secs(12), "{:?}", tried.took);
    ensure!(tried.of(Ability::LazyLayers).is_none(), "{:?}", tried.trials);
    ensure!(tried.other == ["the trial of layers in chunks did not end within 5 s"], "{:?}", tried.other);
    ensure!(tried.of(Ability::Overlay).is_some_and(|trial| trial.failure.is_none()), "{:?}", tried.trials);
    Ok(())
}
