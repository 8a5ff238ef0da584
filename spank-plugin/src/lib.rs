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
//! Where `slurm-spank` 0.4.1 stands in the way: a panic inside one of its hooks poisons its state and makes every later
//! hook fail, so [`guarded`] catches panics before they get there; its default `setup` starts a tracing subscriber that
//! reads the environment, so ours does nothing.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use slurm_spank::{Context, Plugin, SLURM_VERSION_NUMBER, SPANK_PLUGIN, SpankHandle, spank_log_error};

mod job;
mod options;
mod step;
mod submit;

/// The plugin's state in one process. slurmstepd's task processes are forks and have copies of it.
#[derive(Debug, Default)]
struct Parallax {
    step: Option<step::Step>,
}

// The crate's macro writes the exported functions.
#[allow(missing_docs, unsafe_code)]
mod exported {
    use super::*;

    SPANK_PLUGIN!(b"parallax", SLURM_VERSION_NUMBER, Parallax);

    // SAFETY: the trait's condition is that hooks that run in forked task processes must not depend on other threads. This
    // plugin starts none, and holds no lock across a hook.
    unsafe impl Plugin for Parallax {
        fn setup(&mut self, _spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
            Ok(())
        }

        fn report_error(&self, _spank: &mut SpankHandle, error: &dyn Error) {
            spank_log_error!("parallax: {error}");
        }

        fn init(&mut self, spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
            match spank.context()? {
                Context::Local | Context::Allocator | Context::Remote => options::register(spank),
                Context::Slurmd | Context::JobScript => Ok(()),
            }
        }

        fn init_post_opt(&mut self, spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
            match spank.context() {
                Ok(Context::Local | Context::Allocator) => drop(guarded(|| submit::check(spank))),
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
