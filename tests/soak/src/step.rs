//! A random step and what it should come to.

use fastrand::Rng;

use integration_tests::clean::NODES;
use integration_tests::cluster::{Cluster, Done};

/// How long a step may take, in seconds, hit by a fault or not: more than the longest deadline a step has (60 s for its image,
/// 30 s for its end), and what Slurm takes to kill and to boot.
pub(crate) const TEST_TIMEOUT: &str = "180";

/// What a step runs, by its tasks; each writes a line with "fine".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// In no image.
    Plain,
    /// In the image.
    Run,
    /// A shell of the node's that has Podman run the image.
    Podman,
    /// As before, and it leaves a container behind that would run for a long time.
    Escape,
    /// salloc and an srun that inherits the image.
    Inherited,
    /// An image that there is not.
    Unknown,
}

/// A step that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    kind: Kind,
    user: &'static str,
    image: &'static str,
    tasks: usize,
    nodes: usize,
    node: &'static str,
    /// How long its tasks take, in seconds.
    seconds: String,
}

/// The exit code of a command that ended by SIGINT.
const CTRL_C: i32 = 128 + 2;

impl Step {
    /// A random one.
    pub(crate) fn random(random: &mut Rng) -> Self {
        let kinds =
            [Kind::Plain, Kind::Run, Kind::Run, Kind::Run, Kind::Podman, Kind::Escape, Kind::Inherited, Kind::Unknown];
        let pick = |random: &mut Rng, from: &[&'static str]| from[random.usize(..from.len())];
        let nodes = random.usize(1..=NODES.len());
        Self {
            kind: kinds[random.usize(..kinds.len())],
            user: pick(random, &["u1", "u2"]),
            image: pick(random, &["debian", "python", "layers40"]),
            tasks: nodes * random.usize(1..=3),
            nodes,
            node: pick(random, &NODES),
            seconds: format!("{}.{}", random.u8(0..3), random.u8(0..10)),
        }
    }

    /// Runs it and waits for its end.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) fn run(&self, cluster: &Cluster) -> anyhow::Result<Done> {
        let line = self.line();
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        Ok(Done::from(cluster.command("ctl", self.user, &line).output()?))
    }

    fn line(&self) -> Vec<String> {
        let mut line: Vec<String> = ["timeout", "--kill-after=60", TEST_TIMEOUT].map(str::to_owned).into();
        let image = format!("--parallax-image={}", self.image);
        let mut srun = vec!["srun".to_owned(), format!("-N{}", self.nodes), format!("-n{}", self.tasks)];
        if self.nodes == 1 {
            srun.extend(["-w".to_owned(), self.node.to_owned()]);
        }
        let script = match self.kind {
            Kind::Escape | Kind::Podman => self.podman_script(),
            _ => format!("sleep {}; echo fine", self.seconds),
        };
        let tasks = ["sh".to_owned(), "-c".to_owned(), script];
        match self.kind {
            Kind::Plain => line.extend(srun),
            Kind::Run => line.extend(srun.into_iter().chain([image])),
            Kind::Podman | Kind::Escape => {
                line.extend(srun.into_iter().chain([image, "--parallax-mode=podman".to_owned()]));
            }
            Kind::Inherited => {
                let mut salloc = srun;
                "salloc".clone_into(&mut salloc[0]);
                line.extend(salloc.into_iter().chain(["--quiet".to_owned(), image, "srun".to_owned()]));
            }
            Kind::Unknown => line.extend(srun.into_iter().chain(["--parallax-image=pyhton".to_owned()])),
        }
        line.extend(tasks);
        line
    }

    fn podman_script(&self) -> String {
        let Self { image, seconds, .. } = self;
        let escape = if self.kind == Kind::Escape {
            format!("podman run -d {image} sleep 3000 >/dev/null; ")
        } else {
            String::new()
        };
        // The image python has an entrypoint that lets the command be.
        format!("{escape}podman run --rm --entrypoint '[]' {image} sh -c 'sleep {seconds}; echo fine'")
    }

    /// What is wrong with how the step ended; `calm` says that no fault was near.
    pub(crate) fn judge(&self, done: &Done, calm: bool) -> Option<String> {
        let well = match self.kind {
            Kind::Unknown => done.code != 0 && done.stderr.contains("did you mean"),
            _ => done.code == 0 && done.stdout.matches("fine\n").count() == self.tasks,
        };
        let complaint = match (well, calm) {
            (true, _) => return None,
            _ if done.code == 124 => format!("it took longer than {TEST_TIMEOUT} s"),
            (false, true) => "it did not end as it should, and no fault was near".to_owned(),
            // Ctrl-C before srun has come so far as to catch it: whoever pressed it knows.
            (false, false) if done.code == CTRL_C => return None,
            (false, false) if done.stderr.trim().is_empty() && done.code != 0 => "the user was told nothing".to_owned(),
            (false, false) => return None,
        };
        Some(format!("{complaint}: {self:?}: {done:?}"))
    }
}
