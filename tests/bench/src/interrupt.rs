//! What Ctrl-C does: the command that runs is ended, so that the benchmark fails and everything it made is dropped.

use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail};
use parallax_sys::process::Process;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The signal that came, or 0.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// The command that runs.
static RUNNING: Mutex<Option<Process>> = Mutex::new(None);

/// Starts the thread that waits for signals.
///
/// # Errors
/// If signals can't be caught.
pub(crate) fn watch() -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals can't be caught")?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let running = running();
            SIGNAL.store(signal, Ordering::SeqCst);
            if let Some(process) = &*running {
                let _ = process.kill();
            }
        }
    });
    Ok(())
}

/// The signal that came, if one did.
pub(crate) fn signal() -> Option<u8> {
    u8::try_from(SIGNAL.load(Ordering::SeqCst)).ok().filter(|signal| *signal != 0)
}

/// Runs a command with its output caught, until it ends or a signal comes.
///
/// # Errors
/// It can't be started, or a signal came.
pub(crate) fn output(mut command: Command) -> anyhow::Result<Output> {
    let child = start(&mut command)?;
    let output = child.wait_with_output();
    *running() = None;
    check()?;
    Ok(output?)
}

/// Fails if a signal came.
///
/// # Errors
/// See above.
pub(crate) fn check() -> anyhow::Result<()> {
    match signal() {
        Some(signal) => bail!("interrupted by signal {signal}"),
        None => Ok(()),
    }
}

/// Starts a command and notes it, with no moment between at which a signal could miss it.
fn start(command: &mut Command) -> anyhow::Result<Child> {
    let mut running = running();
    check()?;
    let child = command.spawn().with_context(|| format!("{:?} can't be started", command.get_program()))?;
    *running = Process::open(i32::try_from(child.id())?).ok();
    Ok(child)
}

fn running() -> MutexGuard<'static, Option<Process>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}
