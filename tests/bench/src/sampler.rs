//! Takes samples on a node: runs commands by turns and measures each from its start to its end.
//!
//! The benchmark's own binary does this there, as `bench on-node sample PLAN`, because a way through the cluster for each
//! sample would cost more than what is measured.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use parallax_sys::process::Process;
use serde::{Deserialize, Serialize};

use super::{
    bare_container, layer_mount, lazy_workers, leases, memory, metadata_mounts, overlays, slow_file, slow_server,
};

/// What to run, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The commands that are compared.
    pub commands: Vec<Candidate>,
    /// How many rounds come before those that count.
    pub warm_ups: usize,
    /// How many rounds count; each runs every command once.
    pub rounds: usize,
}

/// One of the commands that are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Candidate {
    /// The command line.
    pub command: Vec<String>,
    /// What is added to the environment.
    pub environment: Vec<(String, String)>,
    /// A command line that comes before it and is not measured.
    pub before: Vec<String>,
}

impl Candidate {
    /// A command line, split at its spaces.
    #[must_use]
    pub(crate) fn new(line: &str) -> Self {
        Self { command: words(line), environment: Vec::new(), before: Vec::new() }
    }

    /// The same with variables added.
    #[must_use]
    pub(crate) fn with(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// The same after another command line, split at its spaces, which is not measured.
    #[must_use]
    pub(crate) fn after(self, line: &str) -> Self {
        Self { before: words(line), ..self }
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(ToOwned::to_owned).collect()
}

/// What came of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Samples {
    /// The Slurm job in which it ran.
    pub job: Option<String>,
    /// For each round that counts a sample of each command, in the plan's order.
    pub rounds: Vec<Vec<Sample>>,
}

/// One run of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// How long it took.
    pub elapsed: Duration,
    /// How long it and what it started and waited for kept processors busy, which others on the machine hardly change;
    /// where it is a command.
    pub processor: Option<Duration>,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Samples {
    /// How long each of the `N` commands took in each round, in milliseconds.
    ///
    /// # Errors
    /// There are not `N` commands.
    pub(crate) fn milliseconds<const N: usize>(&self) -> anyhow::Result<Vec<[f64; N]>> {
        let of_round = |round: &Vec<Sample>| {
            let times: Vec<f64> = round.iter().map(|sample| sample.elapsed.as_secs_f64() * 1000.0).collect();
            times.try_into().map_err(|times: Vec<f64>| anyhow!("{} samples in a round instead of {N}", times.len()))
        };
        self.rounds.iter().map(of_round).collect()
    }
}

/// Does on a node what the benchmark wants there.
///
/// # Errors
/// What went wrong, with the end of what the command said.
pub(crate) fn run(order: &[String]) -> anyhow::Result<()> {
    match order {
        [verb, plan] if verb == "sample" => {
            let plan = serde_json::from_str(plan).context("the plan is malformed")?;
            println!("{}", serde_json::to_string(&sample(&plan)?)?);
            Ok(())
        }
        [verb, rounds] if verb == "leases" => leases::run(rounds.parse().context("not a number of rounds")?),
        [verb, rounds] if verb == "bare-container" => {
            bare_container::run(rounds.parse().context("not a number of rounds")?)
        }
        [verb, case] if verb == "layer-reads" => {
            let case = serde_json::from_str(case).context("the case is malformed")?;
            println!("{}", serde_json::to_string(&layer_mount::run(&case)?)?);
            Ok(())
        }
        [verb, case] if verb == "lazy-nodes" => {
            let case = serde_json::from_str(case).context("the case is malformed")?;
            println!("{}", serde_json::to_string(&lazy_workers::run(&case)?)?);
            Ok(())
        }
        [verb, file, target] if verb == "mount-erofs" => layer_mount::mount_erofs(Path::new(file), Path::new(target)),
        [verb, image, tree, rounds] if verb == "metadata" => {
            metadata_mounts::run(Path::new(image), Path::new(tree), rounds.parse().context("not a number of rounds")?)
        }
        [verb, plan] if verb == "overlays" => {
            let plan = serde_json::from_str(plan).context("the plan is malformed")?;
            println!("{}", serde_json::to_string(&overlays::sample(&plan)?)?);
            Ok(())
        }
        [verb, command @ ..] if verb == "memory" => {
            println!("{}", serde_json::to_string(&memory::of(command)?)?);
            Ok(())
        }
        [verb, directory, latency, rate] if verb == "serve" => slow_server::serve(directory, latency, rate),
        [verb, words @ ..] if verb == "copies" => slow_file::serve_copies(words),
        [verb, urls @ ..] if verb == "fetch" => slow_server::fetch(urls),
        [verb, pid_file] if verb == "end" => end(Path::new(pid_file)),
        _ => bail!("there is no such order: {order:?}"),
    }
}

fn sample(plan: &Plan) -> anyhow::Result<Samples> {
    let mut rounds = Vec::new();
    for round in 0..plan.warm_ups + plan.rounds {
        let mut samples = vec![None; plan.commands.len()];
        for index in turns(round, plan.commands.len()) {
            samples[index] = Some(once(&plan.commands[index])?);
        }
        if round >= plan.warm_ups {
            rounds.push(samples.into_iter().flatten().collect());
        }
    }
    Ok(Samples { job: std::env::var("SLURM_JOB_ID").ok(), rounds })
}

/// The order of the commands in a round. Every round starts with another one, and when all have been first they go
/// backwards, so that none always has the same one's aftermath to bear.
pub(crate) fn turns(round: usize, count: usize) -> impl Iterator<Item = usize> {
    let backwards = round / count.max(1) % 2 == 1;
    (0..count).map(move |turn| {
        let place = (turn + round) % count;
        if backwards { count - 1 - place } else { place }
    })
}

fn once(candidate: &Candidate) -> anyhow::Result<Sample> {
    if let [program, arguments @ ..] = candidate.before.as_slice() {
        let status = Command::new(program).args(arguments).stdin(Stdio::null()).status()?;
        ensure!(status.success(), "{} failed ({status})", candidate.before.join(" "));
    }
    let [program, arguments @ ..] = candidate.command.as_slice() else { bail!("a command is empty") };
    // A file, because what a command leaves running would keep a pipe open.
    let said = tempfile::tempfile().context("the temporary directory")?;
    let mut command = Command::new(program);
    command.args(arguments).envs(candidate.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.try_clone()?);
    let processor = processor_time()?;
    let begin = Instant::now();
    let status = command.status().with_context(|| format!("{program} can't be started"))?;
    let elapsed = begin.elapsed();
    let processor = Some(processor_time()?.saturating_sub(processor));
    let stderr = read(&said)?;
    ensure!(status.success(), "{} failed ({status}): {}", candidate.command.join(" "), stderr.trim());
    Ok(Sample { elapsed, processor, stderr })
}

/// What all children that have ended took of processors.
fn processor_time() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = [usage.user_time(), usage.system_time()].map(|time| time.num_microseconds());
    Ok(Duration::from_micros(u64::try_from(micros.iter().sum::<i64>())?))
}

fn read(file: &File) -> anyhow::Result<String> {
    let length = usize::try_from(file.metadata()?.len())?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Ends the process whose number is in a file, if there is one, and waits for its end.
fn end(pid_file: &Path) -> anyhow::Result<()> {
    let Ok(text) = fs::read_to_string(pid_file) else { return Ok(()) };
    let pid = text.trim().parse().with_context(|| format!("{} holds no process number", pid_file.display()))?;
    let Ok(process) = Process::open(pid) else { return Ok(()) };
    process.kill()?;
    ensure!(process.wait_until_ended(Duration::from_secs(10))?, "process {pid} does not end");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(lines: &[&str]) -> Plan {
        Plan { commands: lines.iter().map(|line| Candidate::new(line)).collect(), warm_ups: 1, rounds: 2 }
    }

    #[test]
    fn every_command_has_its_turn_in_every_round() {
        assert_eq!(turns(0, 3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(turns(1, 3).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(turns(4, 3).collect::<Vec<_>>(), [1, 0, 2]);
        assert_eq!(turns(7, 3).collect::<Vec<_>>(), [1, 2, 0]);
    }

    #[test]
    fn samples_come_in_the_plans_order_whatever_the_turns() {
        let mut plan = plan(&["true", "printenv GREETING", "ls /nonexistent /"]);
        plan.commands[1] = plan.commands[1].clone().with([("GREETING".into(), "hello".into())]);
        plan.commands[2] =
            Candidate { command: ["sh", "-c", "echo last >&2"].map(Into::into).into(), ..plan.commands[2].clone() };
        let samples = sample(&plan).unwrap();
        assert_eq!(samples.rounds.len(), 2);
        for round in samples.rounds {
            let said: Vec<_> = round.iter().map(|sample| sample.stderr.as_str()).collect();
            assert_eq!(said, ["", "", "last\n"]);
        }
    }

    #[test]
    fn what_keeps_a_processor_busy_is_told_from_what_waits() {
        let mut plan = plan(&["sleep 1", ""]);
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        plan.commands[1].command = ["sh", "-c", busy].map(Into::into).into();
        for round in sample(&plan).unwrap().rounds {
            let [idle, busy] = [&round[0], &round[1]].map(|sample| sample.processor);
            assert!(idle < busy && idle < Some(round[0].elapsed), "{round:?}");
        }
    }

    #[test]
    fn a_command_that_fails_ends_the_sampling_with_what_it_said() {
        let message = sample(&plan(&["true", "ls /nonexistent"])).unwrap_err().to_string();
        assert!(message.contains("ls /nonexistent failed") && message.contains("No such file"), "{message}");
    }
}
