//! The job's properties and the plugin's settings, read once.

use std::path::PathBuf;

use parallax_protocol::message::{BATCH_SCRIPT, EXTERN_CONT, INTERACTIVE_STEP, StepId};
use parallax_spank_hooks::{NAME_SETS, PYXIS_WORD, text};
use slurm_spank::{SpankError, SpankHandle};

/// Arguments of the plugin in plugstack.conf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// `config=FILE`: the configuration file.
    pub config: PathBuf,
    /// `launcher=FILE`: the launcher.
    pub launcher: String,
    /// `names=…` with the word for pyxis: its names of options are turned on.
    pub pyxis_names: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            config: PathBuf::from(parallax_config::DEFAULT_PATH),
            launcher: "/usr/libexec/parallax/parallax-launch".to_owned(),
            pyxis_names: false,
        }
    }
}

impl Setting {
    /// Reads the plugin's arguments.
    ///
    /// # Errors
    /// A message that names the unknown argument.
    pub(crate) fn read(spank: &SpankHandle) -> Result<Self, String> {
        let arguments = spank.plugin_argv().map_err(|_| "an argument in plugstack.conf is not UTF-8".to_owned())?;
        Self::parse(&arguments)
    }

    fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut setting = Self::default();
        for argument in arguments {
            match argument.split_once('=') {
                Some(("config", path)) => setting.config = PathBuf::from(path),
                Some(("launcher", path)) => path.clone_into(&mut setting.launcher),
                Some(("names", words)) if words.split(',').all(is_name_set) => {
                    setting.pyxis_names |= words.split(',').any(|word| word == text(PYXIS_WORD));
                }
                _ => return Err(unknown(argument)),
            }
        }
        Ok(setting)
    }
}

fn is_name_set(word: &str) -> bool {
    NAME_SETS.iter().any(|set| text(set.word) == word)
}

fn unknown(argument: &str) -> String {
    let words: Vec<&str> = NAME_SETS.iter().map(|set| text(set.word)).collect();
    format!(
        "unknown argument \"{argument}\" in plugstack.conf (valid: config=FILE, launcher=FILE, names=WORD,... with {}); the \
         administrator must correct it",
        words.join(" and ")
    )
}

/// Maximum number of groups in a request: with ten digits each they take less than 12 KiB of the request's 16 KiB.
const MAX_GROUPS: usize = 1024;

/// Properties of the step that slurmstepd runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Job {
    /// The step.
    pub step: StepId,
    /// The user.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// The memory that the step may use on this node, in megabytes, if it is limited.
    pub memory: Option<u64>,
}

impl Job {
    /// Asks Slurm.
    pub(crate) fn read(spank: &SpankHandle) -> Result<Self, SpankError> {
        let step = StepId {
            job: spank.job_id()?,
            step: spank.job_stepid()?,
            // Absent where a job was never requeued, in some versions of Slurm.
            restart: spank.slurm_restart_count().unwrap_or(0),
        };
        // 0 is no limit. What a version of Slurm does not tell limits nothing here.
        let memory =
            [spank.step_alloc_mem(), spank.job_alloc_mem()].into_iter().flatten().filter(|&limit| limit > 0).min();
        Ok(Self { step, uid: spank.job_uid()?, gid: spank.job_gid()?, memory })
    }

    /// Returns the supplementary groups that Slurm gives the step's tasks. `None` without a list, or if the list is too long for a
    /// request; the agent then queries the user database.
    pub(crate) fn groups(spank: &SpankHandle) -> Option<Vec<u32>> {
        spank.job_supplementary_gids().ok().filter(|groups| (1..=MAX_GROUPS).contains(&groups.len()))
    }

    /// Whether this is the extern step, of processes from outside the job's own steps.
    pub(crate) fn is_extern(&self) -> bool {
        self.step.step == EXTERN_CONT
    }

    /// Whether the step is a script or a shell in which a user calls srun and podman themselves.
    pub(crate) fn is_script(&self) -> bool {
        matches!(self.step.step, BATCH_SCRIPT | INTERACTIVE_STEP)
    }
}
