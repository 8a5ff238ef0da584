//! One task, from its start to the user's command.

use core::ffi::CStr;

use parallax_join_file::rules::Variables;
use parallax_join_file::{FILE, JoinFile, LOCK, MAX_SIZE, words};
use parallax_spank_hooks::REQUEST;

use crate::arguments::Arguments;
use crate::kernel::{self, Descriptor, Errno, Strings, Vector};

/// The exit code for a container that could not be joined, as the launcher has it.
pub(crate) const NO_CONTAINER: u8 = 125;
/// The exit code of shells for commands that cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// The longest path that the kernel takes, `PATH_MAX`.
const PATH_MAX: usize = 4096;
/// The numbers that capabilities can have: bits of [`JoinFile::bounds`].
const CAPABILITIES: u32 = u64::BITS;

/// Who goes on in place of the user's command.
enum Instead {
    /// The launcher, which does everything.
    Launcher,
    /// The launcher, with the lock of the step.
    Locked(Descriptor),
    /// The launcher, in the container: the command could not be executed there.
    Inside(Inside),
    /// Nobody.
    Nobody(&'static str),
}

/// What the launcher needs in the container.
struct Inside {
    launcher: Descriptor,
    /// The step's directory.
    directory: Descriptor,
    /// Where the task began on the node.
    started_in: &'static CStr,
}

/// Runs the task.
pub(crate) fn run(arguments: Strings, variables: Strings) -> ! {
    let Some(arguments) = Arguments::read(arguments) else {
        kernel::tell(
            "parallax: parallax-join is started by Slurm's plugin for Parallax and not meant to be called by hand\n",
        );
        kernel::end(NO_CONTAINER);
    };
    let code = match join(&arguments, variables) {
        Instead::Launcher => launch(&arguments, arguments.of_run(), variables),
        Instead::Locked(lock) => {
            let words = lock.keep().ok().and_then(|lock| arguments.of_locked(lock));
            launch(&arguments, words, variables)
        }
        Instead::Inside(inside) => explain(&arguments, inside, variables),
        Instead::Nobody(message) => {
            kernel::tell(message);
            NO_CONTAINER
        }
    };
    kernel::end(code)
}

/// Becomes the launcher. Returns an exit code if the launcher cannot be executed.
fn launch(arguments: &Arguments, words: Option<Vector<'_>>, variables: Strings) -> u8 {
    if let (Some(words), Some(variables)) = (words, variables.vector()) {
        kernel::execute(arguments.launcher, &words, &variables);
    }
    kernel::tell("parallax: cannot execute the launcher parallax-launch of this node; tell the administrator\n");
    NO_CONTAINER
}

/// Becomes the launcher in the container, where it tries what failed once more, and says why it fails.
fn explain(arguments: &Arguments, inside: Inside, variables: Strings) -> u8 {
    let words = inside.directory.keep().ok().and_then(|directory| arguments.of_inside(directory, inside.started_in));
    if let (Some(words), Some(variables)) = (words, variables.vector()) {
        kernel::execute_open(&inside.launcher, &words, &variables);
    }
    // The launcher needs shared objects that the image lacks: where it could not be linked statically.
    kernel::tell(
        "parallax: cannot execute the command in the image, nor the launcher to say why; tell the administrator\n",
    );
    NOT_EXECUTABLE
}

/// Joins the container and becomes the command. Returns if that is for others.
fn join(arguments: &Arguments, variables: Strings) -> Instead {
    let (Ok(directory), Some(memory)) = (Descriptor::of_place(arguments.directory), kernel::memory(MAX_SIZE, 0)) else {
        return Instead::Launcher;
    };
    let file = match await_file(&directory) {
        Ok(file) => file,
        Err(instead) => return instead,
    };
    let file = file.read(memory).ok().filter(|bytes| bytes.len() < MAX_SIZE).and_then(JoinFile::read);
    let prepared = file.and_then(|file| Prepared::new(arguments, variables, file));
    let (Some(prepared), Ok(launcher)) = (prepared, Descriptor::of_place(arguments.launcher)) else {
        return Instead::Launcher;
    };
    // Both namespaces or none are entered.
    if prepared.process.enter().is_err() {
        return Instead::Launcher;
    }
    let started_in = prepared.file.directory;
    match prepared.become_command(arguments) {
        Ok(never) => match never {},
        Err(Some(message)) => Instead::Nobody(message),
        Err(None) => Instead::Inside(Inside { launcher, directory, started_in }),
    }
}

/// Opens the step's file, for which all tasks but the first wait. Without a file, returns who goes on: the first task makes the container.
fn await_file(directory: &Descriptor) -> Result<Descriptor, Instead> {
    let open = || Descriptor::of_file(Some(directory), FILE);
    match open() {
        Ok(file) => return Ok(file),
        Err(Errno::ENOENT) => {}
        Err(_) => return Err(Instead::Launcher),
    }
    let lock = Descriptor::of_own_file(directory, LOCK).map_err(|_| Instead::Launcher)?;
    match lock.lock() {
        Ok(()) => open().map_err(|_| Instead::Locked(lock)),
        Err(Errno::EAGAIN) => {
            lock.wait().map_err(|_| Instead::Launcher)?;
            open().map_err(|_| Instead::Launcher)
        }
        Err(_) => Err(Instead::Launcher),
    }
}

/// Everything that is needed in the container, where nothing of the node can be opened.
struct Prepared<'a> {
    file: JoinFile<'a>,
    process: Descriptor,
    command: Vector<'a>,
    variables: Vector<'a>,
    /// The value of `PATH`.
    path: &'a [u8],
    /// Memory for a path.
    paths: &'static mut [u8],
}

impl<'a> Prepared<'a> {
    /// `None` if the file was made for tasks that differ from this one, or the container is gone.
    fn new(arguments: &Arguments, of_task: Strings, file: JoinFile<'a>) -> Option<Self> {
        let program = arguments.program.to_bytes();
        // The launcher knows what to do with a program of the node, and with a directory in place of one.
        if program.is_empty()
            || program.ends_with(b"/")
            || (program.contains(&b'/') && file.program != arguments.program)
        {
            return None;
        }
        let paths = kernel::memory(PATH_MAX, 0)?;
        if kernel::directory(paths)? != file.directory {
            return None;
        }
        let room = of_task.count() + file.rules().count();
        let mut variables = Variables::new(kernel::memory(room, c"")?);
        of_task.iter().try_for_each(|entry| variables.push(entry))?;
        let value = |name: &[u8]| variables.get(name);
        let is_meant = value(REQUEST.to_bytes()) == file.request.map(CStr::to_bytes)
            && value(b"HOME") == file.home.map(CStr::to_bytes);
        if !is_meant {
            return None;
        }
        file.rules().try_for_each(|rule| variables.apply(rule))?;
        // The process is opened before its start time is compared, so a later one with its number is not taken for it.
        let process = Descriptor::of_process(file.process).ok()?;
        let stat = Descriptor::of_file(None, file.stat).ok()?.read(paths).ok()?;
        if words::start_time(stat)? != file.start_time.to_bytes() {
            return None;
        }
        let path = variables.get(b"PATH").unwrap_or_default();
        let entries = variables.entries();
        let variables = Vector::new(entries.iter().copied(), entries.len())?;
        Some(Self { file, process, command: arguments.command()?, variables, path, paths })
    }

    /// Becomes the command, in the container. Returns a message if the task must end, and none if the launcher is to say why.
    fn become_command(self, arguments: &Arguments) -> Result<core::convert::Infallible, Option<&'static str>> {
        limit_capabilities(self.file.bounds).map_err(
            |_| "parallax: cannot enter the container: its capabilities cannot be limited; tell the administrator\n",
        )?;
        let mut directories = self.file.directories;
        if !directories.any(|directory| kernel::change_directory(directory).is_ok()) {
            return Err(None);
        }
        let (program, paths) = (arguments.program.to_bytes(), self.paths);
        let mut command = self.command;
        if program.contains(&b'/') {
            let is_relative = program.starts_with(b".");
            // As without an image, the program gets its full path as its name.
            let path = if is_relative { absolute(paths, program) } else { Some(arguments.program) };
            let path = path.ok_or(None)?;
            kernel::execute(path, command.with_first(path), &self.variables);
            return Err(None);
        }
        for directory in words::directories(self.path) {
            let Some(path) = words::in_directory(paths, directory, program) else { continue };
            // As execvp(3): other directories count if there is no such file here, or none for this user.
            match kernel::execute(path, command.with_first(path), &self.variables) {
                Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES => {}
                _ => break,
            }
        }
        Err(None)
    }
}

/// The path of a program that is named relative to the directory of this process.
fn absolute<'m>(memory: &'m mut [u8], program: &[u8]) -> Option<&'m CStr> {
    let (first, second) = memory.split_at_mut_checked(PATH_MAX / 2)?;
    let directory = kernel::directory(first)?;
    words::in_directory(second, directory.to_bytes(), program)
}

/// Drops all capabilities but these for good, of those that the kernel knows, whose numbers have no gaps (capabilities(7)).
fn limit_capabilities(bounds: u64) -> Result<(), Errno> {
    for number in (0..CAPABILITIES).filter(|number| bounds >> number & 1 == 0) {
        match kernel::drop_capability(number) {
            Err(Errno::EINVAL) => break,
            result => result?,
        }
    }
    Ok(())
}
