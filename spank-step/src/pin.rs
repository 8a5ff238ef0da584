//! The image that a name meant when its job was submitted, so that all nodes and all steps of the job run the same image even if
//! the name moves to another image meanwhile.
//!
//! The pin travels in a variable ([`parallax_spank_hooks::PIN`]). sbatch, salloc and an srun that makes its own job do not know the
//! job's number; on the node slurmstepd adds the number before a task sees the variable. The pin is valid for that job only.

use parallax_spank_hooks::{self as names, UNKNOWN};

/// The variable.
pub const VARIABLE: &str = names::text(names::PIN);
/// Slurm's variable for the job that a process belongs to.
pub const JOB_ID: &str = names::text(names::JOB_ID);

/// An image that is bound to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The job, if known.
    pub job: Option<String>,
    /// The image as given by the user.
    pub image: String,
    /// The image id that the name meant, if the stores were readable.
    pub id: Option<String>,
}

impl Pin {
    /// Reads a variable's value; `None` if it is malformed.
    pub fn parse(value: &str) -> Option<Self> {
        let known = |part: &str| (part != UNKNOWN).then(|| part.to_owned());
        let mut parts = value.split(' ');
        let pin = Self { job: known(parts.next()?), image: parts.next()?.to_owned(), id: known(parts.next()?) };
        parts.next().is_none().then_some(pin)
    }

    /// The variable's value.
    pub fn value(&self) -> String {
        let or_unknown = |part: &Option<String>| part.clone().unwrap_or_else(|| UNKNOWN.to_owned());
        format!("{} {} {}", or_unknown(&self.job), self.image, or_unknown(&self.id))
    }

    /// Returns the id, if the pin is for this image and this job.
    pub fn id_in(self, job: &str, image: &str) -> Option<String> {
        let is_own = self.job.is_none_or(|own| own == job);
        self.id.filter(|_| is_own && self.image == image)
    }
}
