//! `parallax status`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use parallax_config::Config;
use parallax_format::ImageRef;
use parallax_protocol::client::Client;
use parallax_protocol::message::{Mode, Request, Response, Status, StepId, StepStatus};
use parallax_protocol::node::{NodeStatus, SourceStatus};
use serde::Serialize;

mod lazy;

use crate::global::Global;
use crate::output::{print, print_json};

/// Timeout of a query to the agent.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a release; the agent limits the time for a step, and a job may have many steps.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(120);

/// Options of `parallax status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// Print the agent's metrics in the Prometheus text format
    #[arg(long, conflicts_with = "json")]
    metrics: bool,
    /// Show the layers that arrive as they are read, the cache, and what came from each chunk store
    #[arg(long, conflicts_with_all = ["metrics", "release"])]
    lazy: bool,
    /// Release the lease of a step (such as 12.0), or with --job of all steps of a job: end processes, remove mounts and files
    #[arg(long, value_name = "STEP", num_args = 0..=1, conflicts_with_all = ["json", "metrics"])]
    release: Option<Option<String>>,
    /// Job whose steps are released
    #[arg(long, value_name = "JOB", requires = "release")]
    job: Option<u32>,
}

impl Options {
    /// Returns the job and, if given, the step to release.
    fn to_release(&self) -> anyhow::Result<Option<(u32, Option<u32>)>> {
        match (&self.release, self.job) {
            (None, _) => Ok(None),
            (Some(Some(step)), None) => {
                StepId::numbers(step).map(|(job, step)| Some((job, Some(step)))).map_err(Into::into)
            }
            (Some(None), Some(job)) => Ok(Some((job, None))),
            (Some(None), None) => bail!("--release needs a step, such as --release 12.0, or --job JOB"),
            (Some(Some(_)), Some(_)) => bail!("--release takes a step or --job JOB, not both"),
        }
    }
}

/// The JSON form. Future versions only add fields.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The agent's version.
    version: &'a str,
    /// The steps that have an image on this node.
    steps: Vec<Row<'a>>,
    /// The diffIDs of the layers that are mounted, hexadecimal.
    layers: &'a [String],
    /// Backends of the node; `native` and `fuse` are the reason why the backend cannot be used, or null.
    node: &'a NodeStatus,
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
    /// The id of the step's image; null for an image that Podman pulls.
    image_id: Option<&'a str>,
    /// The names of that image when the step got it.
    image_names: &'a [String],
    /// The source of its layers: what they are, what makes directories of them, and why; null for an image that Podman pulls.
    source: Option<&'a SourceStatus>,
    /// `run` or `podman`.
    mode: Mode,
    /// The name of the container that the job's steps share; null for a step with one of its own.
    container: Option<&'a str>,
    /// The step's directory.
    directory: String,
    /// Time of the lease, seconds since 1970.
    since: u64,
}

impl<'a> From<&'a StepStatus> for Row<'a> {
    fn from(step: &'a StepStatus) -> Self {
        Self {
            step: step.step.to_string(),
            uid: step.uid,
            image: &step.image,
            image_id: step.image_id.as_deref(),
            image_names: &step.image_names,
            source: step.source.as_ref(),
            mode: step.mode,
            container: step.container.as_deref(),
            directory: step.directory.display().to_string(),
            since: step.since,
        }
    }
}

/// Shows the leases of this node's agent or its metrics, or releases leases.
///
/// # Errors
/// If no agent runs, or the caller is not root.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let config = Config::load(&global.config)?;
    ensure!(rustix::process::geteuid().is_root(), "only root can query the agent; run the command as root");
    if options.lazy {
        return lazy::run(&config.lazy, options.json);
    }
    let agent =
        |request: &Request, timeout| ask(&config, request, timeout).context("cannot query the agent of this node");
    if let Some((job, step)) = options.to_release()? {
        return match agent(&Request::ReleaseJob { job, step }, RELEASE_TIMEOUT)? {
            Response::ReleasedSteps { steps, problems } => released(&steps, &problems),
            other => unexpected(&other),
        };
    }
    if options.metrics {
        return match agent(&Request::Metrics, QUERY_TIMEOUT)? {
            Response::Metrics { text } => print(&text),
            other => unexpected(&other),
        };
    }
    let status = match agent(&Request::Status, QUERY_TIMEOUT)? {
        Response::Status(status) => status,
        other => return unexpected(&other),
    };
    if options.json {
        let steps = status.steps.iter().map(Row::from).collect();
        return print_json(&Report { version: &status.version, steps, layers: &status.layers, node: &status.node });
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    print(&table(&status, now))
}

fn ask(config: &Config, request: &Request, timeout: Duration) -> anyhow::Result<Response> {
    let deadline = Instant::now() + timeout;
    let client = Client::connect(&config.agent.socket())?;
    client.send(request, deadline)?;
    Ok(client.receive(deadline)?)
}

fn unexpected(response: &Response) -> anyhow::Result<()> {
    match response {
        Response::Refused { reason, .. } => bail!("the agent refused the request: {reason}"),
        _ => bail!("unexpected response from the agent"),
    }
}

/// Prints the released steps; an error names everything that could not be released.
fn released(steps: &[StepId], problems: &[String]) -> anyhow::Result<()> {
    let names: Vec<String> = steps.iter().map(ToString::to_string).collect();
    if !names.is_empty() {
        print(&format!("released {}\n", names.join(", ")))?;
    }
    ensure!(problems.is_empty(), "cannot release everything: {}", problems.join("; "));
    Ok(())
}

fn table(status: &Status, now: u64) -> String {
    let mut text = format!("{:<16} {:<8} {:<7} {:<9} {:>9}  IMAGE\n", "STEP", "UID", "MODE", "LAYERS", "FOR");
    for step in &status.steps {
        let _ = writeln!(
            text,
            "{:<16} {:<8} {:<7} {:<9} {:>9}  {}",
            name(step),
            step.uid,
            step.mode.as_str(),
            step.source.as_ref().map_or("-", |source| &source.backend),
            duration(now.saturating_sub(step.since)),
            image(step)
        );
    }
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let _ = writeln!(
        text,
        "{} with an image, {} mounted, agent {}",
        count(status.steps.iter().filter(|step| !step.step.is_container()).count(), "step"),
        count(status.layers.len(), "layer"),
        status.version
    );
    let reasons = status.steps.iter().filter_map(|step| step.source.as_ref());
    for SourceStatus { kind, backend, reason } in reasons.collect::<BTreeSet<_>>() {
        let _ = writeln!(text, "{kind} by {backend}: {reason}");
    }
    let way = |name: &str, obstacle: &Option<String>| match obstacle {
        None => name.to_owned(),
        Some(reason) => format!("not {name} ({reason})"),
    };
    let _ = writeln!(text, "layers: {}, {}", way("native", &status.node.native), way("fuse", &status.node.fuse));
    text
}

/// The step as Slurm shows it; a container that steps share is shown by its job and its name.
fn name(step: &StepStatus) -> String {
    match &step.container {
        Some(name) if step.step.is_container() => format!("{} {name}", step.step.job),
        _ => step.step.to_string(),
    }
}

/// The image of a step: what the user wrote, and what runs where that is not a name of it.
fn image(step: &StepStatus) -> String {
    let written = &step.image;
    let Some(id) = &step.image_id else { return written.clone() };
    match ImageRef::parse(written) {
        Ok(reference @ ImageRef::Name(_)) if !reference.names_one_of(&step.image_names) => {
            let names = step.image_names.iter().map(|name| name.to_owned() + ", ").collect::<String>();
            format!("{written} (runs {names}id {id:.12})")
        }
        _ => written.clone(),
    }
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
    use super::*;

    fn release(step: Option<&str>, job: Option<u32>) -> Option<(u32, Option<u32>)> {
        let release = Some(step.map(ToOwned::to_owned));
        let options = Options { json: false, metrics: false, lazy: false, release, job };
        options.to_release().unwrap_or_default()
    }

    #[test]
    fn what_to_release() {
        assert_eq!(release(Some("12.3"), None), Some((12, Some(3))));
        assert_eq!(release(None, Some(12)), Some((12, None)));
        // Never more than was said.
        assert_eq!(release(None, None), None);
        assert_eq!(release(Some("12.3"), Some(12)), None);
        assert_eq!(release(Some("12"), None), None);
    }

    #[test]
    fn a_table_for_people() {
        let step = StepStatus {
            step: StepId { job: 12, step: 0, restart: 0 },
            uid: 1001,
            image: "python:3.13".into(),
            image_id: Some("ab".repeat(32)),
            image_names: vec!["docker.io/library/python:3.13".into()],
            source: Some(SourceStatus { kind: "squashfs".into(), backend: "native".into(), reason: "it can".into() }),
            mode: Mode::Run,
            container: None,
            directory: "/run/parallax/steps/12.0-0001".into(),
            since: 1000,
        };
        let other = StepStatus { image_names: vec!["localhost/other:1".into()], ..step.clone() };
        let shared = StepId { step: parallax_protocol::message::CONTAINERS.start, ..step.step };
        let shared = StepStatus { step: shared, container: Some("env".into()), source: None, ..step.clone() };
        let node = NodeStatus { fuse: Some("no mount program".into()), ..NodeStatus::default() };
        let status = Status {
            version: "1.2.3".into(),
            steps: vec![step, other, shared],
            layers: vec!["ab".into(), "cd".into()],
            node,
        };
        let text = table(&status, 1133);
        assert!(text.contains("12.0             1001     run     native        2m13s  python:3.13\n"), "{text}");
        assert!(text.contains("  python:3.13 (runs localhost/other:1, id abababababab)\n"), "{text}");
        assert!(text.contains("12 env           1001     run     -             2m13s  python:3.13\n"), "{text}");
        assert!(
            text.contains(
                "\n2 steps with an image, 2 layers mounted, agent 1.2.3\nsquashfs by native: it can\nlayers: "
            ),
            "{text}"
        );
        assert!(text.ends_with("\nlayers: native, not fuse (no mount program)\n"), "{text}");
    }

    #[test]
    fn durations() {
        let seconds = [5, 65, 3_700, 90_000];
        assert_eq!(seconds.map(duration), ["5s", "1m05s", "1h01m", "1d01h"]);
    }
}
