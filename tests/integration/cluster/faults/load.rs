//! Many steps at once.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use integration_tests::clean::NODES;
use integration_tests::cluster::{Cluster, Done};

use super::faults;

faults! { load:
    many_steps_at_once = "64 steps of mixed images, users and modes at once on two nodes",
}

/// How often all of them are started, unless the variable `PARALLAX_LOAD_ROUNDS` says more. `make soak` does it for longer.
const ROUNDS: &str = "1";
const STEPS: usize = 64;

const PODMAN: &[&str] =
    &["--parallax-image=layers40", "--parallax-mode=podman", "podman", "run", "--rm", "layers40", "echo", "fine"];

fn many_steps_at_once(cluster: &Cluster) -> anyhow::Result<String> {
    let rounds = std::env::var("PARALLAX_LOAD_ROUNDS").unwrap_or_else(|_| ROUNDS.to_owned());
    let rounds: usize = rounds.parse().context("PARALLAX_LOAD_ROUNDS is no number")?;
    for _ in 0..rounds {
        round(cluster)?;
    }
    Ok(format!("nothing: {} steps start, run and end well", rounds * STEPS))
}

fn round(cluster: &Cluster) -> anyhow::Result<()> {
    let steps: [(&str, &[&str]); 4] = [
        ("u1", &["--parallax-image=python", "python3", "-c", "print('fine')"]),
        ("u2", &["-n2", "--label", "--parallax-image=debian", "echo", "fine"]),
        ("u1", PODMAN),
        ("u2", &["--parallax-image=static", "--parallax-mode=podman", "echo", "fine"]),
    ];
    let mut running = Vec::new();
    for number in 0..STEPS {
        let (user, arguments) = steps[number % steps.len()];
        let mut line = vec!["timeout", "--kill-after=10", "300", "srun", "-w", NODES[(number / 2) % NODES.len()]];
        line.extend(arguments);
        running.push(cluster.command("ctl", user, &line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
    }
    for srun in running {
        let done = Done::from(srun.wait_with_output()?);
        let fine = done.stdout.lines().all(|line| line.trim_start_matches(['0', '1', ':', ' ']) == "fine");
        ensure!(done.code == 0 && fine && !done.stdout.is_empty(), "{done:?}");
    }
    Ok(())
}
