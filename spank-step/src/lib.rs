//! The part of the Slurm SPANK plugin that steps with an image load.
//!
//! - [`options`]: the options and their meaning.
//! - [`job`]: the job's properties and the plugin's settings, read once.
//! - [`site`]: the site's configuration, where options are typed.
//! - [`components`]: components of heterogeneous jobs and steps.
//! - [`request`]: what the user asks for beside the image; [`edf`]: the same in a file;
//!   [`pyxis`]: the same by pyxis' names.
//! - [`submit`]: srun, sbatch and salloc, as the user: options are checked where they are typed.
//! - [`step`]: slurmstepd, as root: the lease, from its request to its release; [`failure`]: what the user is told if there is none.
//!
//! Rules for every hook here: it never panics into Slurm, never waits without a deadline, starts no thread and no process, and
//! never returns an error on a node, where some errors drain it. An error on a node is kept, and the launcher prints it
//! in the task, as a message for the user.
//!
//! Workarounds for `slurm-spank` 0.4.1:
//! - Its `SPANK_PLUGIN!` exports all hooks, used or not. Slurm then starts a process for the prolog and one for the
//!   epilog of every job on every node, with or without an image (tens of milliseconds a job), and clones one more at every task's
//!   end. [`exported`] is made of the same parts as the macro. The file that Slurm itself loads is separate (`spank-plugin`) and
//!   passes on the hooks that are used, so that jobs without an image need not load this part.
//! - So `slurm-spank` cannot register options, and its callback for them is not used: [`options`] keeps their values.
//! - A panic inside one of its hooks poisons its state and makes every later hook fail, so [`guarded`] catches panics
//!   earlier.
//! - Its own return values would reach Slurm: a hook whose failure drains a node returns 0 in any case ([`exported`]).

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use slurm_spank::{Context, Plugin, SpankHandle, spank_log_error};

mod components;
mod edf;
mod failure;
mod job;
mod of_job;
mod options;
mod pyxis;
mod request;
mod site;
mod step;
mod submit;

/// The plugin's state in one process. slurmstepd's task processes are forks and have copies of it.
#[derive(Debug, Default)]
struct Parallax {
    components: components::Components,
    step: Option<step::Step>,
}

// SAFETY: the trait's condition is that hooks that run in forked task processes must not depend on other threads. This plugin
// starts none, and holds no lock across a hook.
#[allow(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl Plugin for Parallax {
    fn init_post_opt(&mut self, spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
        match spank.context() {
            Ok(Context::Local) => drop(guarded(|| submit::check(spank, &mut self.components, true))),
            Ok(Context::Allocator) => drop(guarded(|| submit::check(spank, &mut self.components, false))),
            Ok(Context::Remote) if options::are_unknown() => self.step = Some(step::Step::without_options()),
            Ok(Context::Remote) => {
                self.step = guarded(|| step::Step::begin(spank)).unwrap_or_else(step::Step::after_panic);
            }
            _ => {}
        }
        Ok(())
    }

    fn user_init(&mut self, spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
        if let Some(step) = &mut self.step {
            guarded(|| step.await_lease(spank));
        }
        Ok(())
    }

    fn task_init_privileged(&mut self, _spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
        if let Some(step) = &mut self.step {
            guarded(|| step.show_in_task());
        }
        Ok(())
    }

    fn task_init(&mut self, spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
        match &mut self.step {
            // Here an error fails the task and nothing else, and the task must not run outside its image.
            Some(step) => guarded(|| step.prepare_task(spank)).unwrap_or_else(|| Err("an internal error".into())),
            None => Ok(()),
        }
    }

    fn exit(&mut self, spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
        if let (Ok(Context::Remote), Some(step)) = (spank.context(), self.step.take()) {
            guarded(|| step.end());
        }
        Ok(())
    }
}

/// Symbols that the plugin loaded by Slurm looks up.
#[allow(unsafe_code, reason = "exported to and called by the plugin that Slurm loads")]
mod exported {
    use std::ffi::{CStr, c_char, c_int, c_void};

    use parallax_spank_hooks::{OptionEvent, StepHooks};
    use slurm_spank::{init_spank_handle, spank_callback_with_globals, spank_log_error};

    use super::{Parallax, guarded, options};

    /// The hooks. Its name is `parallax_spank_hooks::SYMBOL`.
    // SAFETY: the plugin looks this name up in this file alone (dlsym on its handle).
    #[unsafe(no_mangle)]
    #[allow(non_upper_case_globals, reason = "the plugin's name for it")]
    pub(crate) static parallax_step_hooks_4: StepHooks =
        StepHooks { option, unregistered, init_post_opt, user_init, task_init_privileged, task_init, exit };

    extern "C" fn option(event: OptionEvent) {
        guarded(|| {
            // SAFETY: Slurm gives options that take a value a string; the plugin hands it on.
            let value = if event.value.is_null() { c"" } else { unsafe { CStr::from_ptr(event.value) } };
            options::take(event.option, value.to_bytes(), event.source, event.component);
        });
    }

    extern "C" fn unregistered() {
        guarded(options::are_unknown_now);
    }

    macro_rules! hooks {
        ($($hook:ident),+ $(,)?) => {$(
            extern "C" fn $hook(spank: *mut c_void, argc: c_int, argv: *const *const c_char) -> c_int {
                let result = spank_callback_with_globals::<Parallax, _>(|plugin, options, _first| {
                    let mut handle = init_spank_handle(spank.cast(), argc, argv, options);
                    plugin.$hook(&mut handle).inspect_err(|error| spank_log_error!("parallax: {error}"))
                });
                // The only hook that may fail.
                if stringify!($hook) == "task_init" { result } else { 0 }
            }
        )+};
    }

    hooks!(init_post_opt, user_init, task_init_privileged, task_init, exit);
}

/// Runs a hook's body; a panic in it is logged and ends there. `None` after a panic.
fn guarded<T>(body: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => Some(value),
        Err(_) => {
            spank_log_error!("parallax: internal error; please report it");
            None
        }
    }
}
