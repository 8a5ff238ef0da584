//! The result of a check, and what to do about a problem.

use serde::Serialize;

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// No problem.
    Ok,
    /// Steps run, but with a limitation, or the check could not be made.
    Warning,
    /// Some steps, or all, will fail.
    Problem,
}

/// One line of the report, and one object of the JSON form. Future versions only add fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// Topic: `kernel`, `store` and so on.
    pub topic: &'static str,
    /// Result.
    pub state: State,
    /// Finding.
    pub finding: String,
    /// Remedy; null if there is no problem.
    pub remedy: Option<String>,
}

impl Check {
    /// Returns a check without a problem.
    pub(super) fn ok(topic: &'static str, finding: impl Into<String>) -> Self {
        Self { topic, state: State::Ok, finding: finding.into(), remedy: None }
    }

    /// Returns a check with a limitation.
    pub(super) fn warning(topic: &'static str, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { topic, state: State::Warning, finding: finding.into(), remedy: Some(remedy.into()) }
    }

    /// Returns a check with a problem: steps will fail.
    pub(super) fn problem(topic: &'static str, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { topic, state: State::Problem, finding: finding.into(), remedy: Some(remedy.into()) }
    }
}
