//! The node agent.

use std::time::{Duration, Instant};

use parallax_config::Agent;
use parallax_protocol::client::{Client, ClientError};
use parallax_protocol::message::{Request, Response, Status};

use super::{Check, programs};
use crate::units;

const TOPIC: &str = "agent";
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the agent; only root can.
pub fn check(config: &Agent, is_root: bool) -> Vec<Check> {
    let socket = config.socket();
    if !is_root {
        return vec![if socket.exists() {
            Check::ok(TOPIC, format!("{} is there; only root can ask the agent more", socket.display()))
        } else {
            absent(format!("{} is not there: no agent runs here", socket.display()))
        }];
    }
    let deadline = Instant::now() + PATIENCE;
    let answer = Client::connect(&socket).and_then(|client| {
        client.send(&Request::Status, deadline)?;
        client.receive(deadline)
    });
    vec![match answer {
        Ok(Response::Status(status)) => running(&status),
        Ok(_) => Check::problem(
            TOPIC,
            "it answers something else than it was asked",
            "install agent and command of one version",
        ),
        Err(ClientError::NotRunning { socket }) => absent(format!("none runs: nobody answers at {}", socket.display())),
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
    use super::super::State;
    use super::*;

    #[test]
    fn an_agent_of_another_version_is_told() {
        let status = |version: &str| Status {
            version: version.to_owned(),
            steps: Vec::new(),
            layers: Vec::new(),
            node: parallax_protocol::node::NodeStatus::default(),
        };
        assert_eq!(running(&status(env!("CARGO_PKG_VERSION"))).state, State::Ok);
        assert_eq!(running(&status("0.0.0")).state, State::Warning);
    }
}
