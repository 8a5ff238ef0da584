//! The program that asks, and the process between it and the trials, which bounds them in time and cleans up.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use parallax_sys::limits::{self, Namespace};
use parallax_sys::process::Process;
use rustix::process::{getegid, geteuid};

use crate::findings::{Ability, Findings, Trial, report};
use crate::inside;
use crate::lazy;

/// The first argument of a program that is started for the trials.
const SUPERVISE: &str = "--parallax-probe-supervise";
const TRY_ALL: &str = "--parallax-probe-try-all";
const TRY_AS_USER: &str = "--parallax-probe-try-as-user";
/// The third argument, if layers in chunks are tried.
const LAZY: &str = "--parallax-probe-lazy";
/// The `PATH` of programs that are tried.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Timeout for all trials.
const TRIALS_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum size of the trials' output in bytes; must fit into a pipe.
const MAX_OUTPUT: u64 = 32 * 1024;
/// Additional time that the calling program waits.
const GRACE: Duration = Duration::from_secs(5);

/// Makes the trials; `mount_program` is the one that makes mounts by FUSE. What layers in chunks need is tried only with `lazy`. Takes at most
/// some 20 seconds, and leaves nothing.
///
/// The program that calls this must call [`run_if_asked`] before anything else.
#[must_use]
pub fn probe(mount_program: &Path, lazy: bool) -> Findings {
    match supervised(mount_program, lazy) {
        Ok(findings) => findings,
        Err(error) => Findings { trials: Vec::new(), cut_short: Some(format!("cannot start the trials: {error}")) },
    }
}

fn supervised(mount_program: &Path, lazy: bool) -> std::io::Result<Findings> {
    let child = start(SUPERVISE, mount_program, lazy)?;
    let process = Process::open(i32::try_from(child.id()).unwrap_or_default())?;
    let (output, ended) = finish(child, &process, TRIALS_TIMEOUT + GRACE)?;
    let output = output.unwrap_or_default();
    let mut findings = Findings::default();
    for line in output.lines() {
        match serde_json::from_str::<Trial>(line) {
            Ok(trial) => findings.trials.push(trial),
            Err(_) => findings.cut_short = Some(line.to_owned()),
        }
    }
    if !ended {
        findings.cut_short = Some("the trial did not end".to_owned());
    }
    Ok(findings)
}

/// Does its part and returns how it ended, if this program was started for the trials. To be called first in `main`, while the
/// program has one thread.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let verb = arguments.next()?;
    let part: fn(&Path, bool) -> Result<(), String> = match verb.to_str()? {
        SUPERVISE => supervise_trials,
        TRY_ALL => inside::make_all_trials,
        TRY_AS_USER => |path, _| inside::make_user_trials(path),
        lazy::READ => |path, _| {
            lazy::read(path);
            Ok(())
        },
        lazy::SERVE => |_, _| lazy::serve(),
        _ => return None,
    };
    // The mount program's path, or that of an image.
    let path = arguments.next()?;
    let lazy = arguments.next().is_some_and(|argument| argument == LAZY);
    Some(match part(Path::new(&path), lazy) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("{message}");
            ExitCode::FAILURE
        }
    })
}

/// Starts the trials in namespaces of their own and ends them when their time is over: with the first process of a PID
/// namespace end all others in it.
fn supervise_trials(mount_program: &Path, lazy: bool) -> Result<(), String> {
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let verb = if geteuid().is_root() {
        let named = |error: nix::Error| limits::of_namespaces(error.into(), &[Namespace::Mount, Namespace::Pid]);
        unshare(namespaces).map_err(|error| failed("cannot create namespaces for the trials")(named(error)))?;
        TRY_ALL
    } else {
        let made = make_user_namespace(namespaces);
        report(Ability::UserNamespaces, made.as_ref().map(drop).map_err(ToString::to_string));
        if made.is_err() {
            return Ok(());
        }
        TRY_AS_USER
    };
    let child = start(verb, mount_program, lazy).map_err(failed("cannot start the trials"))?;
    // In the new PID namespace it is number 1; here it has another number, which is the one that is returned.
    let process = Process::open(i32::try_from(child.id()).unwrap_or_default())
        .map_err(failed("cannot open the process of the trials"))?;
    let (output, ended) = finish(child, &process, TRIALS_TIMEOUT).map_err(failed("cannot wait for the trials"))?;
    print!("{}", output.unwrap_or_default());
    if ended { Ok(()) } else { Err(format!("the trial did not end within {} s", TRIALS_TIMEOUT.as_secs())) }
}

/// Enters a new user namespace in which the user's own ids are root's (`user_namespaces(7)`).
fn make_user_namespace(others: CloneFlags) -> std::io::Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let kinds = [Namespace::User, Namespace::Mount, Namespace::Pid];
    unshare(CloneFlags::CLONE_NEWUSER | others).map_err(|error| limits::of_namespaces(error.into(), &kinds))?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn start(verb: &str, mount_program: &Path, lazy: bool) -> std::io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(verb)
        .arg(mount_program)
        .args(lazy.then_some(LAZY))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // Nothing of the caller's environment changes what is tried.
    command.env_clear().env("PATH", PATH);
    #[cfg(debug_assertions)]
    command.envs(std::env::var_os(lazy::FAULT).map(|fault| (lazy::FAULT, fault)));
    command.current_dir("/").spawn()
}

/// Waits for a process, up to a limit at which it is ended. Returns what it wrote, and whether it ended by itself. What it wrote
/// is not known if it may have left children that have the pipe still: they end with the PID namespace they are in.
fn finish(mut child: Child, process: &Process, timeout: Duration) -> std::io::Result<(Option<String>, bool)> {
    let ended = process.wait_until_ended(timeout)?;
    if !ended {
        process.kill()?;
    }
    child.wait()?;
    let is_alone = ended || timeout == TRIALS_TIMEOUT;
    let Some(output) = child.stdout.take().filter(|_| is_alone) else { return Ok((None, ended)) };
    let mut text = String::new();
    output.take(MAX_OUTPUT).read_to_string(&mut text)?;
    Ok((Some(text), ended))
}
