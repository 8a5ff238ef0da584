//! One task, from its start to the user's command.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use parallax_format::oci::Platform;
use parallax_protocol::step_file::{StepFile, StepPaths};
use parallax_request::{Mount, Request};
use parallax_spank_hooks::{IMAGE_ID, text};
use parallax_sys::activation::take_descriptor;

use crate::args::{self, Order};
use crate::container::{self, StartError};
use crate::environment;
use crate::image_store;
use crate::join::{self, Directories};
use crate::join_file;
use crate::late_mounts::LateMounts;
use crate::messages::Messages;
use crate::mounts;
use crate::mpi;
use crate::node_name::node_name;
use crate::node_program::NodeProgram;
use crate::pause;
use crate::plan;
use crate::podman;
use crate::pytorch;
use crate::request::{self, Asked};
use crate::timings;

/// The exit code for a container that could not be started, as in Podman and Docker. Slurm shows it; 126 and 127 are the
/// shell's codes for commands that cannot be run or found.
const NO_CONTAINER: u8 = 125;

/// Runs the launcher with these arguments.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match args::parse(arguments) {
        None => fail("parallax-launch is started by Slurm's plugin for Parallax and not meant to be called by hand"),
        Some(Order::Fail { message }) if message.is_empty() => ExitCode::from(NO_CONTAINER),
        Some(Order::Fail { message }) => fail(&message.to_string_lossy()),
        Some(Order::Tell { message, command }) => {
            eprintln!("parallax: {}", message.to_string_lossy());
            run_on_node(&command, None)
        }
        Some(Order::Node { directory, command }) => run_with_podman(&directory, &command),
        Some(Order::Store { directory }) => {
            let paths = StepPaths::new(&directory);
            match read_step(&paths).and_then(|step| image_store::write(&paths, &step)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(message) => {
                    eprintln!("{message}");
                    ExitCode::FAILURE
                }
            }
        }
        Some(Order::Pause { directory }) => pause::start(&directory).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        Some(Order::Hold) => pause::hold(),
        Some(Order::Podman { directory, command }) => fail(&podman::become_podman(&directory, &command)),
        Some(Order::Run { directory, command }) => run_in_container(&directory, &command, None),
        Some(Order::Locked { directory, lock, command }) => match take_descriptor(lock) {
            Ok(lock) => run_in_container(&directory, &command, Some(File::from(lock))),
            Err(error) => fail(&format!("the lock of the step's tasks is not open: {error}; tell the administrator")),
        },
        Some(Order::Inside { directory, started_in, command }) => match take_descriptor(directory) {
            Ok(directory) => run_inside(&directory, started_in, &command),
            Err(error) => fail(&format!("the step's directory is not open: {error}; tell the administrator")),
        },
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("parallax: {message}");
    ExitCode::from(NO_CONTAINER)
}

/// Executes the command on the node, where Podman finds the step's image.
fn run_with_podman(directory: &Path, command: &[OsString]) -> ExitCode {
    // On an error Podman starts a pause process by itself.
    let _ = pause::ensure(directory);
    match image_store::ensure(directory, read_step) {
        Ok(id) => run_on_node(command, id),
        Err(message) => {
            Messages::of_step(&StepPaths::new(directory).launch_directory(), node_name()).print_of_node(&message);
            ExitCode::from(NO_CONTAINER)
        }
    }
}

/// Executes the command on the node, with the id of an image that the agent does not know.
fn run_on_node(command: &[OsString], id: Option<String>) -> ExitCode {
    let of_image = id.map(|id| (text(IMAGE_ID).into(), id.into()));
    let variables = std::env::vars_os().chain(of_image).collect();
    let failure = join::execute(command, &variables);
    eprintln!("parallax: {}", failure.on_the_node());
    ExitCode::from(failure.exit_code())
}

/// A task that is in the container.
struct Inside {
    step: StepFile,
    request: Request,
    /// The variables of the container's devices.
    devices: Vec<(String, String)>,
    /// Where the task began on the node; `None` if that no longer exists.
    started_in: Option<PathBuf>,
}

impl Inside {
    /// Reads what the task has to know, as it is in the container already.
    fn read(paths: &StepPaths, started_in: PathBuf) -> Result<Self, StartError> {
        let mut step = read_step(paths).map_err(StartError::Here)?;
        let request = request::of_step().map_err(StartError::Here)?;
        let container = container::entered(paths, &step, &request)?;
        if let Some(execution) = container.pulled {
            request::put_execution(&mut step, execution);
        }
        Ok(Self { step, request, devices: container.environment, started_in: Some(started_in) })
    }
}

fn run_in_container(directory: &Path, command: &[OsString], lock: Option<File>) -> ExitCode {
    let paths = StepPaths::new(directory);
    let messages = Messages::of_step(&paths.launch_directory(), node_name());
    match join_container(&paths, command, lock) {
        Ok(inside) => become_command(inside, command, &messages),
        // The task that tried has reported the error.
        Err(StartError::Reported) => ExitCode::from(NO_CONTAINER),
        Err(StartError::Here(message)) => fail_once(&messages, &message),
    }
}

/// Goes on in the container, which `parallax-join` has joined. `directory` is the step's.
fn run_inside(directory: &OwnedFd, started_in: PathBuf, command: &[OsString]) -> ExitCode {
    let paths = StepPaths::new(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())));
    let messages = Messages::of_step(&paths.launch_directory(), node_name());
    match Inside::read(&paths, started_in) {
        Ok(inside) => become_command(inside, command, &messages),
        Err(StartError::Reported) => ExitCode::from(NO_CONTAINER),
        Err(StartError::Here(message)) => fail_once(&messages, &message),
    }
}

fn fail_once(messages: &Messages, message: &str) -> ExitCode {
    messages.print_of_node(message);
    ExitCode::from(NO_CONTAINER)
}

/// Joins the step's container, and makes it if no other task has made it. `lock` is the tasks' lock if this task has it.
fn join_container(paths: &StepPaths, command: &[OsString], lock: Option<File>) -> Result<Inside, StartError> {
    let mut step = read_step(paths).map_err(StartError::Here)?;
    let request = request::of_step().map_err(StartError::Here)?;
    let started = Instant::now();
    let container = container::obtain(paths, &step, Asked { request: &request, command }, lock)?;
    let obtained = Instant::now();
    if let Some(execution) = container.pulled {
        request::put_execution(&mut step, execution);
    }
    let started_in = std::env::current_dir().ok();
    // Mounted at their own paths, the first two if configured.
    let tmp = Some(Path::new(plan::TMP));
    let shown: Vec<&Path> =
        [(started_in.as_deref(), step.mount_workdir), (step.home.as_deref(), step.mount_home), (tmp, !step.own_tmp)]
            .into_iter()
            .filter_map(|(path, is_mounted)| path.filter(|path| is_mounted && !mounts::hides_image(path)))
            .collect();
    let program = command.first().and_then(|program| {
        NodeProgram::find(Path::new(program), &shown, &paths.launch_directory().join("program-lock"))
    });
    let late = late_mounts(paths, &step, container.mounts).map_err(StartError::Here)?;
    let devices = container.environment;
    if let Some(lock) = container.lock {
        let facts = join_file::Facts {
            step: &step,
            request: &request,
            devices: &devices,
            holder: container.holder.filter(|_| program.is_none()),
            directories: &directories(&request, &step, started_in.as_deref()),
            started_in: started_in.as_deref(),
            program: command.first(),
        };
        join_file::write(paths, &facts);
        drop(lock);
    }
    join::enter(&container.door, program, late).map_err(StartError::Here)?;
    timings::print(&request, obtained - started, obtained.elapsed());
    Ok(Inside { step, request, devices, started_in })
}

/// Executes the command in the container, in which this process is.
fn become_command(inside: Inside, command: &[OsString], messages: &Messages) -> ExitCode {
    let Inside { step, request, devices, started_in } = inside;
    if let Err(message) = directories(&request, &step, started_in.as_deref()).enter() {
        return fail_once(messages, &message);
    }
    let of_task = std::env::vars_os().filter(|(name, _)| !timings::is_own(name));
    let rules = environment::rules(&step.environment, &devices, &request.variables);
    let mut variables = environment::apply(&rules, of_task);
    if request.pytorch {
        pytorch::add(&mut variables);
    }
    let failure = join::execute(&request::with_entrypoint(&request, &step, command), &variables);
    let other = step.other_platform.as_ref().filter(|_| failure.is_unknown_format());
    let other = other.map_or_else(String::new, |platform| {
        format!(", which is for {platform} and not for this node, {}", Platform::of_this_machine())
    });
    messages.print(&format!("{failure} (image \"{}\"{other})", step.image));
    ExitCode::from(failure.exit_code())
}

/// Where the task starts; `on_node` is where it would start on the node.
fn directories<'a>(request: &'a Request, step: &'a StepFile, on_node: Option<&'a Path>) -> Directories<'a> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    match &request.working_directory {
        Some(directory) => Directories::Exactly(directory),
        None if plan::starts_as_on_node(request, step, home.as_deref(), on_node) => Directories::OfNode(on_node),
        None => Directories::FirstOf([on_node, step.working_directory.as_deref()]),
    }
}

/// What the step needs in a container that may be an earlier step's: the directories that Slurm makes for each step, and mounts of its own.
fn late_mounts(paths: &StepPaths, step: &StepFile, own: Vec<Mount>) -> Result<Option<LateMounts>, String> {
    if step.container.is_none() {
        return Ok(None);
    }
    LateMounts::find(mpi::directories_of_task(), own, &paths.launch_directory().join("mounts-lock"))
        .map_err(|error| format!("cannot use {}: {error}", paths.launch_directory().display()))
}

fn read_step(paths: &StepPaths) -> Result<StepFile, String> {
    let file = paths.step_file();
    let bytes =
        fs::read(&file).map_err(|error| format!("the step's image no longer exists: {}: {error}", file.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{} is corrupt: {error}", file.display()))
}
