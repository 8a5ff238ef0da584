//! The Slurm SPANK plugin.
//!
//! - [`options`]: what a user may write, and what they meant.
//! - [`job`]: facts of the job and of the plugin's own setting, read once.
//! - [`submit`]: srun, sbatch and salloc, as the user: everything is checked where it is typed.
//! - [`step`]: slurmstepd, as root: the lease, from asking for it to giving it back.
//!
//! Rules for every hook here: it never panics into Slurm, never waits without a deadline, starts no thread and no process, and
//! never returns an error on a node, where some errors drain it. What goes wrong on a node is kept and told by the launcher,
//! in the task, in the user's words. A step that has no image pays for one look at an option.
//!
//! Where `slurm-spank` 0.4.1 stands in the way:
//! - Its `SPANK_PLUGIN!` exports every hook there is, used or not. Slurm then starts a process for the prolog and one for the
//!   epilog of every job on every node, image or not (tens of milliseconds a job), and clones one more at every task's end.
//!   [`exported`] exports what is used, by the same parts the macro is made of.
//! - A panic inside one of its hooks poisons its state and makes every later hook fail, so [`guarded`] catches panics
//!   before they get there. Its callback for options would abort on poisoned state, which then there never is.
//! - Whatever it returns by itself would count: a hook whose failure drains a node returns 0 all the same ([`exported`]).

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use slurm_spank::{Context, Plugin, SpankHandle, spank_log_error};

mod job;
mod options;
mod step;
mod submit;

/// The plugin's state in one process. slurmstepd's task processes are forks and have copies of it.
#[derive(Debug, Default)]
struct Parallax {
    step: Option<step::Step>,
    /// Whether Slurm did not take the options.
    unregistered: bool,
}

// SAFETY: the trait's condition is that hooks that run in forked task processes must not depend on other threads. This plugin
// starts none, and holds no lock across a hook.
#[allow(unsafe_code)]
unsafe impl Plugin for Parallax {
    fn init(&mut self, spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
        let context = spank.context();
        let mut register = || guarded(|| options::register(spank)).unwrap_or_else(|| Err("an internal error".into()));
        match context {
            Ok(Context::Local | Context::Allocator) => register(),
            // An error here would drain the node.
            Ok(Context::Remote) => {
                self.unregistered = register().is_err();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn init_post_opt(&mut self, spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
        match spank.context() {
            Ok(Context::Local | Context::Allocator) => drop(guarded(|| submit::check(spank))),
            Ok(Context::Remote) if self.unregistered => {
                self.step = guarded(|| step::Step::without_options(spank)).flatten();
            }
            Ok(Context::Remote) => {
                self.step = guarded(|| step::Step::begin(spank)).unwrap_or_else(|| step::Step::after_panic(spank));
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

/// What Slurm finds in the plugin: three variables that say what it is (`slurm/spank.h`, `SPANK_PLUGIN`), and the hooks.
#[allow(missing_docs, non_upper_case_globals, unsafe_code)]
mod exported {
    use std::ffi::{c_char, c_int, c_uint};

    use slurm_spank::spank_sys::spank_t;
    use slurm_spank::{SLURM_VERSION_NUMBER, init_spank_handle, spank_callback_with_globals, spank_log_error};

    use super::Parallax;

    // SAFETY, here and below: Slurm looks these names up in this file alone (dlsym on its handle), and no other part of the
    // plugin defines them.
    #[unsafe(no_mangle)]
    pub static plugin_name: [u8; 9] = *b"parallax\0";
    #[unsafe(no_mangle)]
    pub static plugin_type: [u8; 6] = *b"spank\0";
    #[unsafe(no_mangle)]
    pub static plugin_version: c_uint = SLURM_VERSION_NUMBER;

    macro_rules! hooks {
        ($($symbol:ident => $hook:ident),+ $(,)?) => {$(
            #[unsafe(no_mangle)]
            pub extern "C" fn $symbol(spank: spank_t, argc: c_int, argv: *const *const c_char) -> c_int {
                let result = spank_callback_with_globals::<Parallax, _>(|plugin, options, _first| {
                    let mut handle = init_spank_handle(spank, argc, argv, options);
                    plugin.$hook(&mut handle).inspect_err(|error| spank_log_error!("parallax: {error}"))
                });
                // In srun the first may fail, in the task the second.
                if matches!(stringify!($hook), "init" | "task_init") { result } else { 0 }
            }
        )+};
    }

    hooks! {
        slurm_spank_init => init,
        slurm_spank_init_post_opt => init_post_opt,
        slurm_spank_user_init => user_init,
        slurm_spank_task_init_privileged => task_init_privileged,
        slurm_spank_task_init => task_init,
        slurm_spank_exit => exit,
    }
}

/// Runs a hook's body; a panic in it is logged and ends there. `None` after a panic.
fn guarded<T>(body: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => Some(value),
        Err(_) => {
            spank_log_error!("parallax: an internal error was caught; please report it");
            None
        }
    }
}
