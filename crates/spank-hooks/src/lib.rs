//! What the SPANK plugin that Slurm loads for every job and the part that it loads itself, for those with an image, know of one
//! another. They are two files, installed together; whatever changes here changes the name of [`SYMBOL`], so that files of
//! different releases do not take each other for their own.

#![no_std]

use core::ffi::{CStr, c_char, c_int, c_void};

/// The file name of the part for steps with an image. It lies beside the plugin.
pub const FILE: &CStr = c"spank_parallax_step.so";

/// The variable in that file that is its [`StepHooks`].
pub const SYMBOL: &CStr = c"parallax_step_hooks_2";

/// The option that names the image, as Slurm knows it.
pub const IMAGE: &CStr = c"parallax-image";
/// The option for the mode, as Slurm knows it.
pub const MODE: &CStr = c"parallax-mode";
/// Slurm's own variable for the image of a step (`spank_set_remote_options_env`), which is set even if Slurm failed to register the
/// options.
pub const IMAGE_OF_STEP: &CStr = c"_SLURM_SPANK_OPTION_parallax_parallax_image";
/// The same for the mode.
pub const MODE_OF_STEP: &CStr = c"_SLURM_SPANK_OPTION_parallax_parallax_mode";

/// The variable that names the step's directory to the tasks of a step that got variables for Podman.
///
/// Processes hand it on to jobs and steps that they start. There it is the sign that the others below are inherited, too.
pub const STEP_DIRECTORY: &CStr = c"PARALLAX_STEP_DIRECTORY";
/// Variables that a step got for Podman and that name no file of the step, with the values it got: no bus of a session, over which Podman
/// would move processes out of the job, and no timers of systemd's, which would start processes outside of it.
pub const PODMAN_SETTINGS: [(&CStr, &CStr); 2] =
    [(c"DBUS_SESSION_BUS_ADDRESS", c"disabled:"), (c"DISABLE_HC_SYSTEMD", c"true")];
/// Variable from which srun, sbatch and salloc take the image before they read their command lines (`spank_process_env_options`).
pub const INHERITED_IMAGE: &CStr = c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_image";
/// The same for what the tasks get.
pub const INHERITED_MODE: &CStr = c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_mode";

/// Variable that binds an inherited image to the job that it was given for: `JOB IMAGE ID`, each without blanks, and
/// [`UNKNOWN`] where the job or the id is not known. `SLURM_` makes Slurm carry it whatever `--export` says, and programs that
/// remove Slurm's variables remove it together with the image.
pub const PIN: &CStr = c"SLURM_PARALLAX_PIN";
/// Job or id in [`PIN`] that is not known: a job that is still to be submitted, an image of a store that cannot be read there.
pub const UNKNOWN: &str = "-";
/// Slurm's variable for the job that a process belongs to.
pub const JOB_ID: &CStr = c"SLURM_JOB_ID";

/// One of these names as a text.
#[must_use]
pub const fn text(name: &'static CStr) -> &'static str {
    match name.to_str() {
        Ok(text) => text,
        // All are ASCII.
        Err(_) => "",
    }
}

/// A hook as Slurm calls it (`slurm/spank.h`, `spank_f`): the handle, and the plugin's arguments in plugstack.conf. Returns 0, or
/// what tells Slurm that it failed.
pub type Hook = extern "C" fn(spank: *mut c_void, argc: c_int, argv: *const *const c_char) -> c_int;

/// An option as it is numbered in [`StepHooks::option`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum GivenOption {
    /// `--parallax-image`.
    Image,
    /// `--parallax-mode`.
    Mode,
}

/// Where the value of an option comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Source {
    /// A command line, or a batch script's directive.
    Typed,
    /// [`INHERITED_IMAGE`] or [`INHERITED_MODE`].
    Inherited,
}

/// An option that was given, as [`StepHooks::option`] takes it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct OptionEvent {
    /// The option, a [`GivenOption`].
    pub option: c_int,
    /// Its value, which may be changed or freed afterwards.
    pub value: *const c_char,
    /// Where the value comes from, a [`Source`].
    pub source: c_int,
    /// The component of a heterogeneous job or step that it belongs to, counted from 0.
    pub component: u32,
}

/// What the part for steps with an image does. Each may be called in any order, and none panics.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct StepHooks {
    /// An option was given.
    pub option: extern "C" fn(event: OptionEvent),
    /// Slurm failed to register the options, and the step has an image.
    pub unregistered: extern "C" fn(),
    /// `slurm_spank_init_post_opt`.
    pub init_post_opt: Hook,
    /// `slurm_spank_user_init`.
    pub user_init: Hook,
    /// `slurm_spank_task_init_privileged`.
    pub task_init_privileged: Hook,
    /// `slurm_spank_task_init`.
    pub task_init: Hook,
    /// `slurm_spank_exit`.
    pub exit: Hook,
}
