//! The compute nodes that a test may have touched, which are those to be looked at after it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clean::NODES;

/// Programs of Slurm by which a command on any node reaches the compute nodes.
const REACHING: [&str; 4] = ["srun", "sbatch", "salloc", "scontrol"];

/// The compute nodes that were touched.
#[derive(Debug, Default)]
pub struct Touched(Mutex<BTreeSet<&'static str>>);

impl Touched {
    /// Notes a command on a node.
    pub fn note(&self, node: &str, command: &[&str]) {
        let reaching = command.iter().any(|word| REACHING.iter().any(|program| word.contains(program)));
        self.nodes().extend(NODES.iter().filter(|known| reaching || **known == node));
    }

    /// Returns the nodes that were touched since this was called last.
    #[must_use]
    pub fn take(&self) -> BTreeSet<&'static str> {
        std::mem::take(&mut *self.nodes())
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurms_programs_reach_all_nodes_and_others_their_own() {
        let touched = Touched::default();
        touched.note("ctl", &["parallax", "list"]);
        assert_eq!(touched.take(), BTreeSet::new());
        touched.note("n1", &["true"]);
        assert_eq!(touched.take(), BTreeSet::from(["n1"]));
        touched.note("ctl", &["sh", "-c", "for i in 1 2; do srun true; done"]);
        assert_eq!(touched.take(), BTreeSet::from(NODES));
    }
}
