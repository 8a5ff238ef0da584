//! The node agent.

use std::time::{Duration, Instant};

use parallax_config::Agent;
use parallax_probe::Findings;
use parallax_protocol::client::{Client, ClientError};
use parallax_protocol::message::{Request, Response, Status};
use parallax_protocol::node::NodeStatus;

use super::check::Check;
use super::programs;
use crate::units;

const TOPIC: &str = "agent";
/// Timeout of the agent's answer.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Queries the agent, which only root can, and compares its probe results with the current `findings`.
pub(super) fn check(config: &Agent, findings: &Findings, is_root: bool) -> Vec<Check> {
    let socket = config.socket();
    if !is_root {
        return vec![if socket.exists() {
            Check::ok(TOPIC, format!("{} exists; only root can query the agent", socket.display()))
        } else {
            absent(format!("{} not found: no agent runs on this machine", socket.display()))
        }];
    }
    let deadline = Instant::now() + QUERY_TIMEOUT;
    let answer = Client::connect(&socket).and_then(|client| {
        client.send(&Request::Status, deadline)?;
        client.receive(deadline)
    });
    vec![match answer {
        Ok(Response::Status(status)) => {
            let mut checks = vec![running(&status)];
            checks.extend(compared(&status.node, findings));
            return checks;
        }
        Ok(_) => Check::problem(
            TOPIC,
            "it answers something else than it was asked",
            "install agent and command of one version",
        ),
        Err(ClientError::NotRunning { socket }) => absent(format!("not running: no answer at {}", socket.display())),
        Err(error) => {
            let remedy = "look at its log, and restart it: systemctl restart parallax-agent";
            Check::problem(TOPIC, format!("it does not answer: {error}"), remedy)
        }
    }]
}

fn running(status: &Status) -> Check {
    let finding = format!(
        "version {} runs, with {} and {}",
        status.version,
        units::count(status.steps.len(), "step"),
        units::count(status.layers.len(), "mounted layer")
    );
    if status.version == env!("CARGO_PKG_VERSION") {
        return Check::ok(TOPIC, finding);
    }
    let finding = format!("{finding}, and this command has version {}", env!("CARGO_PKG_VERSION"));
    Check::warning(TOPIC, finding, "restart the agent after an update; steps do not notice")
}

/// Compares the agent's probe results with the current ones. Undecided current results are ignored.
fn compared(agent: &NodeStatus, now: &Findings) -> Vec<Check> {
    let mut checks = Vec::new();
    for trial in &now.trials {
        let found = agent.abilities.iter().find(|found| found.name == trial.ability.name());
        let words = trial.ability.words();
        match (found.map(|found| found.failure.as_deref()), trial.failure.as_deref()) {
            (Some(None), None) | (Some(Some(_)) | None, Some(_)) => {}
            (Some(None), Some(reason)) => checks.push(Check::warning(
                TOPIC,
                format!("the agent found {words}, and now there is none: {reason}"),
                "steps that need it fail; look at the kernel's lines above",
            )),
            (missing, None) => {
                let why = missing.flatten().map_or_else(
                    || format!("it could not decide: {}", agent.undecided.as_deref().unwrap_or("it was not tried")),
                    |reason| format!("it found none: {reason}"),
                );
                let finding = format!("the agent does without {words}, which works now; {why}");
                let remedy = "it tries again when a step needs it, or after systemctl restart parallax-agent";
                let has_way = agent.native.is_none() || agent.fuse.is_none();
                let check = if has_way { Check::warning } else { Check::problem };
                checks.push(check(TOPIC, finding, remedy));
            }
        }
    }
    checks
}

/// Compute nodes need an agent, others do not.
fn absent(finding: String) -> Check {
    if programs::find("slurmd").is_some() {
        Check::problem(TOPIC, finding, "systemctl enable --now parallax-agent")
    } else {
        Check::warning(TOPIC, finding, "none is needed where no jobs run; there the mount program does its work")
    }
}

#[cfg(test)]
mod tests {
    use parallax_probe::{Ability, Trial};
    use parallax_protocol::node::AbilityStatus;

    use super::super::check::State;
    use super::*;

    #[test]
    fn what_the_agent_does_not_know_is_reported() {
        let trial = |ability, failure: Option<&str>| Trial { ability, failure: failure.map(ToOwned::to_owned) };
        let now = |failure| Findings { trials: vec![trial(Ability::Squashfs, failure)], cut_short: None };
        let found = |failure: Option<&str>| AbilityStatus {
            name: Ability::Squashfs.name(),
            failure: failure.map(ToOwned::to_owned),
        };
        let states = |agent: &NodeStatus, failure| -> Vec<State> {
            compared(agent, &now(failure)).iter().map(|check| check.state).collect()
        };
        let mut agent = NodeStatus { abilities: vec![found(None)], ..NodeStatus::default() };
        assert_eq!(states(&agent, None), []);
        assert_eq!(states(&agent, Some("Invalid argument")), [State::Warning]);
        agent.abilities = vec![found(Some("Invalid argument"))];
        assert_eq!(states(&agent, Some("Invalid argument")), []);
        assert_eq!(states(&agent, None), [State::Warning]);
        agent.abilities.clear();
        (agent.native, agent.fuse) = (Some("undecided".to_owned()), Some("undecided".to_owned()));
        agent.undecided = Some("the trial did not end within 15 s".to_owned());
        assert_eq!(states(&agent, None), [State::Problem]);
        assert!(compared(&agent, &now(None))[0].finding.contains("did not end within 15 s"));
    }

    #[test]
    fn an_agent_of_another_version_is_reported() {
        let status = |version: &str| Status {
            version: version.to_owned(),
            steps: Vec::new(),
            layers: Vec::new(),
            node: NodeStatus::default(),
        };
        assert_eq!(running(&status(env!("CARGO_PKG_VERSION"))).state, State::Ok);
        assert_eq!(running(&status("0.0.0")).state, State::Warning);
    }
}
