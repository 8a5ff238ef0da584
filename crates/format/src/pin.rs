//! The image that a name meant when its job was submitted, so that all nodes and all steps of the job run the same image even if
//! the name moves to another image meanwhile.
//!
//! The pin travels in a variable ([`parallax_spank_hooks::PIN`]). sbatch, salloc and an srun that makes its own job do not know the
//! job's number; on the node slurmstepd adds the number before a task sees the variable. The pin is valid for that job only.

use std::fmt;
use std::str::FromStr;

use parallax_spank_hooks::UNKNOWN;

use crate::digest::ImageId;

/// An image that is bound to a job; as text `JOB IMAGE ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The job's number, if known.
    pub job: Option<u32>,
    /// The image as given by the user, which has no blank.
    pub image: String,
    /// The id of the image that the name meant, if the stores were readable.
    pub id: Option<ImageId>,
}

/// A malformed pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid pin: not a job, an image and an image id")]
pub struct InvalidPin;

impl Pin {
    /// Returns the id, if the pin is for this image and this job.
    #[must_use]
    pub fn id_in(&self, job: u32, image: &str) -> Option<ImageId> {
        let is_own = self.job.is_none_or(|own| own == job);
        self.id.filter(|_| is_own && self.image == image)
    }
}

impl FromStr for Pin {
    type Err = InvalidPin;

    fn from_str(text: &str) -> Result<Self, InvalidPin> {
        fn known<T: FromStr>(part: &str) -> Result<Option<T>, InvalidPin> {
            if part == UNKNOWN { Ok(None) } else { part.parse().map(Some).map_err(|_| InvalidPin) }
        }
        let mut parts = text.split(' ');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(job), Some(image), Some(id), None) => {
                Ok(Self { job: known(job)?, image: image.to_owned(), id: known(id)? })
            }
            _ => Err(InvalidPin),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.job {
            Some(job) => write!(f, "{job} {} ", self.image)?,
            None => write!(f, "{UNKNOWN} {} ", self.image)?,
        }
        f.write_str(self.id.as_ref().map_or(UNKNOWN, |id| id.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_comes_back_as_it_was_written() {
        let id = "ab".repeat(32);
        for text in
            [format!("7 debian {id}"), format!("- quay.io/a/b:1 {id}"), "7 debian -".into(), "- debian -".into()]
        {
            assert_eq!(text.parse::<Pin>().unwrap().to_string(), text);
        }
        for text in
            ["", "7", "7 debian", "x debian -", "-1 debian -", "7 debian ../../etc", "7 debian - -", "%s %s %s%n"]
        {
            assert_eq!(text.parse::<Pin>(), Err(InvalidPin), "{text}");
        }
    }

    #[test]
    fn a_pin_is_for_one_job_and_one_name() {
        let id = "ab".repeat(32);
        let pin: Pin = format!("7 debian {id}").parse().unwrap();
        assert_eq!(pin.id_in(7, "debian"), ImageId::parse(&id));
        assert_eq!((pin.id_in(8, "debian"), pin.id_in(7, "alpine")), (None, None));
        let pin: Pin = format!("- debian {id}").parse().unwrap();
        assert_eq!(pin.id_in(8, "debian"), ImageId::parse(&id));
    }
}
