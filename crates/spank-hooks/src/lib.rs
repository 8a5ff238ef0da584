//! What the SPANK plugin that Slurm loads for every job and the part that it loads itself, for those with an image, know of one
//! another. They are two files, installed together; whatever changes here changes the name of [`SYMBOL`], so that files of
//! different releases do not take each other for their own.

#![no_std]

use core::ffi::{CStr, c_char, c_int, c_void};

/// The file name of the part for steps with an image. It lies beside the plugin.
pub const FILE: &CStr = c"spank_parallax_step.so";

/// The variable in that file that is its [`StepHooks`].
pub const SYMBOL: &CStr = c"parallax_step_hooks_1";

/// The option that names the image, as Slurm knows it.
pub const IMAGE: &CStr = c"parallax-image";
/// The option that says what the tasks get, as Slurm knows it.
pub const MODE: &CStr = c"parallax-mode";
/// Slurm's own variable for the image of a step (`spank_set_remote_options_env`), which is there even if Slurm did not take the
/// options.
pub const IMAGE_OF_STEP: &CStr = c"_SLURM_SPANK_OPTION_parallax_parallax_image";
/// The same for what the tasks get.
pub const MODE_OF_STEP: &CStr = c"_SLURM_SPANK_OPTION_parallax_parallax_mode";

/// The variable that names the step's directory to the tasks of a step that got variables for Podman.
///
/// Processes hand it on to jobs and steps that they start. There it is the sign that the others below are inherited, too.
pub const STEP_DIRECTORY: &CStr = c"PARALLAX_STEP_DIRECTORY";
/// Variables that a step got for Podman and that name no file of the step, with the values it got: no bus of a session, over which Podman
/// would move processes out of the job, and no timers of systemd's, which would start processes outside of it.
pub const PODMAN_SETTINGS: [(&CStr, &CStr); 2] =
    [(c"DBUS_SESSION_BUS_ADDRESS", c"disabled:"), (c"DISABLE_HC_SYSTEMD", c"true")];

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

/// What the part for steps with an image does. Each may be called in any order, and none panics.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct StepHooks {
    /// An option was given: a [`GivenOption`], and its value, which may be changed or freed afterwards.
    pub option: extern "C" fn(option: c_int, value: *const c_char),
    /// Slurm did not take the options, and the step has an image all the same.
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
