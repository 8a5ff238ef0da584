//! The image that a process inherits through its environment.
//!
//! The inherited image of a job is for the sruns in the job. A job that is submitted from it must request its own image, so this
//! module removes the variables of another job before Slurm reads them.

use core::ffi::{CStr, c_char, c_int};

use parallax_spank_hooks::{
    DEFAULTS, GivenOption, IMAGE_DIGEST, IMAGE_ID, INHERITED_IMAGE, JOB_ID, NAME_SETS, OPTIONS, PIN, REQUEST, Source,
    UNKNOWN, option_of_number,
};

use crate::c;

/// Returns the source of an option's value: Slurm passes the very string that getenv(3) returns
/// (`spank_process_env_options`, Slurm 23.11 to 26.05).
pub(crate) fn source(option: c_int, value: *const c_char) -> Source {
    let Some(text) = option_of_number(option) else { return Source::Typed };
    // SAFETY: the name is a string, and nothing changes the environment meanwhile.
    let inherited = unsafe { c::getenv(text.inherited.as_ptr()) };
    if !inherited.is_null() && inherited.cast_const() == value { Source::Inherited } else { Source::Typed }
}

/// Removes an inherited image that was given for another job than the one this process belongs to. `is_step` is true in
/// srun, which makes a step of its own job; sbatch and salloc make another job.
pub(crate) fn drop_of_other_jobs(is_step: bool) {
    let Some(pin) = variable(PIN) else { return remove(REQUEST) };
    let mut parts = pin.split(|byte| *byte == b' ');
    let (job, image) = (parts.next(), parts.next());
    let is_own = |own: &[u8]| job == Some(own) || job == Some(UNKNOWN.as_bytes());
    if is_step && variable(JOB_ID).is_some_and(is_own) {
        return;
    }
    // An image that was set by something else since, such as a user's own default, stays.
    let is_from_job = variable(INHERITED_IMAGE) == image;
    remove(PIN);
    remove(REQUEST);
    for text in &OPTIONS {
        let is_image_or_mode = matches!(text.option, GivenOption::Image | GivenOption::Mode);
        if is_from_job || !is_image_or_mode {
            remove(text.inherited);
        }
    }
    for set in NAME_SETS {
        for text in set.options {
            remove(text.inherited);
        }
    }
}

/// Removes what the step that this process runs in was told of its image: what is started from it may have another image, or none,
/// and is told on the node.
pub(crate) fn drop_of_other_images() {
    remove(IMAGE_ID);
    remove(IMAGE_DIGEST);
}

/// Puts the user's defaults where Slurm looks for options, if nothing is there.
pub(crate) fn take_defaults() {
    for (default, inherited) in DEFAULTS {
        take_default(default, inherited);
    }
}

/// Puts one default of the user's where Slurm looks for the option, if nothing is there.
pub(crate) fn take_default(default: &CStr, inherited: &CStr) {
    // SAFETY: both are strings, and Slurm's programs have one thread while they read their options. setenv(3) copies the
    // value. Without memory for that there is no default.
    unsafe {
        let value = c::getenv(default.as_ptr());
        if !value.is_null() && *value != 0 {
            let _ = c::setenv(inherited.as_ptr(), value, 0);
        }
    }
}

/// Returns the value of a variable, which must not be used after the variable was removed.
fn variable(name: &'static CStr) -> Option<&'static [u8]> {
    // SAFETY: the name is a string. What getenv(3) gives is a string in the environment, which Slurm's programs change in no
    // other thread while they start; the callers do not use it beyond a change of their own.
    unsafe {
        let value = c::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes())
    }
}

fn remove(name: &CStr) {
    // SAFETY: the name is a string, and Slurm's programs have one thread while they read their options.
    let _ = unsafe { c::unsetenv(name.as_ptr()) };
}
