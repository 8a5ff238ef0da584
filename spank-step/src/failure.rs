//! The failure of a step's start, as its user reads it: once, by one task of those that fail.
//!
//! Nodes cannot ask each other. What is wrong with one node, or may be, is told by that node, with its name. What is wrong with the request, so
//! that all nodes say the same, is told by the step's first task alone.

/// Why a step cannot have its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// One sentence for the user.
    message: String,
    /// True if the reason is in the request alone.
    everywhere: bool,
}

/// A task that fails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task<'a> {
    /// The name of its node, if Slurm says it.
    pub node: Option<&'a str>,
    /// Its number on the node.
    pub on_node: i32,
    /// Its number in the step, if Slurm says it.
    pub in_step: Option<i32>,
}

impl Failure {
    /// A failure of this node.
    pub(crate) fn of_node(message: impl Into<String>) -> Self {
        Self { message: message.into(), everywhere: false }
    }

    /// A failure of the request, which is the same on all nodes.
    pub(crate) fn of_request(message: impl Into<String>) -> Self {
        Self { message: message.into(), everywhere: true }
    }

    /// Returns what a task prints; empty if another task prints it.
    pub(crate) fn told_by(&self, task: Task<'_>) -> String {
        let message = &self.message;
        match (self.everywhere, task.in_step, task.node) {
            (true, Some(0), _) => message.clone(),
            (true, Some(_), _) => String::new(),
            _ if task.on_node != 0 => String::new(),
            (_, _, Some(node)) => format!("node {node}: {message}"),
            (_, _, None) => message.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once() {
        let task = |on_node, in_step| Task { node: Some("n2"), on_node, in_step };
        let request = Failure::of_request("no such image");
        assert_eq!(request.told_by(task(0, Some(0))), "no such image");
        assert!(request.told_by(task(0, Some(1))).is_empty());
        let node = Failure::of_node("no agent");
        assert_eq!(node.told_by(task(0, Some(1))), "node n2: no agent");
        assert!(node.told_by(task(1, Some(0))).is_empty());
    }

    #[test]
    fn it_is_told_where_slurm_does_not_say_which_task_this_is() {
        let task = |on_node| Task { node: None, on_node, in_step: None };
        for failure in [Failure::of_request("a"), Failure::of_node("a")] {
            assert_eq!(failure.told_by(task(0)), "a");
            assert!(failure.told_by(task(1)).is_empty());
        }
    }
}
