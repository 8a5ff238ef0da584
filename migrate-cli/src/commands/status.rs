//! `parallax status`.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use parallax_config::Config;
use parallax_protocol::client::Client;
use parallax_protocol::message::{Mode, Request, Response, Status, StepStatus};
use serde::Serialize;

use super::{print, print_json};
use crate::cli::Global;

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `parallax status` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print a JSON object instead
    #[arg(long)]
    json: bool,
}

/// The JSON form. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The agent's version.
    version: &'a str,
    /// The steps that have an image on this node.
    steps: Vec<Row<'a>>,
    /// The diffIDs of the layers that are mounted, hexadecimal.
    layers: &'a [String],
}

/// A step in the JSON form.
#[derive(Debug, Serialize)]
struct Row<'a> {
    /// The step as Slurm shows it: `12.0`, `12.batch`.
    step: String,
    /// The user's id.
    uid: u32,
    /// The image as the user wrote it.
    image: &'a str,
    /// `run` or `podman`.
    mode: Mode,
    /// The step's directory.
    directory: String,
    /// When the step got its image, seconds since 1970.
    since: u64,
}

impl<'a> From<&'a StepStatus> for Row<'a> {
    fn from(step: &'a StepStatus) -> Self {
        Self {
            step: step.step.to_string(),
            uid: step.uid,
            image: &step.image,
            mode: step.mode,
            directory: step.directory.display().to_string(),
            since: step.since,
        }
    }
}

/// Shows what this node's agent holds, and for whom.
///
/// # Errors
/// If there is no agent, or it may not be asked.
pub fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let config = Config::load(&global.config)?;
    ensure!(rustix::process::geteuid().is_root(), "only root can ask the agent what it holds; run this as root");
    let status = ask(&config).context("the agent of this node cannot be asked")?;
    if options.json {
        let steps = status.steps.iter().map(Row::from).collect();
        return print_json(&Report { version: &status.version, steps, layers: &status.layers });
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    print(&table(&status, now))
}

fn ask(config: &Config) -> anyhow::Result<Status> {
    let deadline = Instant::now() + PATIENCE;
    let client = Client::connect(&config.agent.socket())?;
    client.send(&Request::Status, deadline)?;
    match client.receive(deadline)? {
        Response::Status(status) => Ok(status),
        _ => bail!("it answered something else than was asked"),
    }
}

fn table(status: &Status, now: u64) -> String {
    let mut text = format!("{:<16} {:<8} {:<7} {:>9}  IMAGE\n", "STEP", "UID", "MODE", "FOR");
    for step in &status.steps {
        let _ = writeln!(
            text,
            "{:<16} {:<8} {:<7} {:>9}  {}",
            step.step.to_string(),
            step.uid,
            step.mode.as_str(),
            duration(now.saturating_sub(step.since)),
            step.image
        );
    }
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let _ = writeln!(
        text,
        "{} with an image, {} mounted, agent {}",
        count(status.steps.len(), "step"),
        count(status.layers.len(), "layer"),
        status.version
    );
    text
}

/// Seconds as a person reads them.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use parallax_protocol::message::StepId;

    use super::*;

    #[test]
    fn a_table_for_people() {
        let step = StepStatus {
            step: StepId { job: 12, step: 0, restart: 0 },
            uid: 1001,
            image: "python:3.13".into(),
            mode: Mode::Run,
            directory: "/run/parallax/steps/12.0-0001".into(),
            since: 1000,
        };
        let status = Status { version: "1.2.3".into(), steps: vec![step], layers: vec!["ab".into(), "cd".into()] };
        let text = table(&status, 1133);
        assert!(text.contains("12.0             1001     run         2m13s  python:3.13\n"), "{text}");
        assert!(text.ends_with("1 step with an image, 2 layers mounted, agent 1.2.3\n"), "{text}");
    }

    #[test]
    fn durations() {
        let seconds = [5, 65, 3_700, 90_000];
        assert_eq!(seconds.map(duration), ["5s", "1m05s", "1h01m", "1d01h"]);
    }
}
