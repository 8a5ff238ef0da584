//! `parallax record-reads`: a squashfuse that notes what is read of its SquashFS file, for `parallax trace`.
//!
//! The mount program starts it in the place of squashfuse (`PARALLAX_MP_SQUASHFUSE_CMD`). It makes a file by FUSE that has the content of the
//! SquashFS file, starts a process that serves that file and notes each read, and becomes squashfuse on it. Notes are written before a
//! read is answered, so when a command has ended, all of its reads are noted.

use std::env;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, ensure};
use parallax_config::MountProgram;
use parallax_lazy_file::{Content, Device};
use parallax_sys::process::inherit_standard_streams_only;

use crate::global::Global;

/// Environment variable with the directory of the notes.
pub(super) const DIRECTORY: &str = "PARALLAX_TRACE_DIRECTORY";
/// The command's name.
pub(super) const NAME: &str = "record-reads";
/// Number of threads that serve.
const THREADS: usize = 4;

/// Options of `parallax record-reads`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// As squashfuse's; always in effect
    #[arg(short = 'f')]
    foreground: bool,
    /// Serve the file whose device is the standard input
    #[arg(long, value_enum)]
    serve: Option<Stage>,
    /// The SquashFS file
    file: PathBuf,
    /// The FUSE connection of squashfuse
    #[arg(required_unless_present = "serve")]
    connection: Option<OsString>,
}

/// What the serving process has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stage {
    /// It still has descriptors of squashfuse, whose end they would hide.
    Begun,
    /// It has its own descriptors only.
    Alone,
}

/// Runs the command.
///
/// # Errors
/// The file cannot be served, or squashfuse cannot be started.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    match options.serve {
        None => become_squashfuse(global, options),
        Some(Stage::Begun) => {
            inherit_standard_streams_only()?;
            Err(serving(Stage::Alone, &options.file)?.exec().into())
        }
        Some(Stage::Alone) => serve(&options.file),
    }
}

/// Returns the command that serves the file.
fn serving(stage: Stage, file: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    let stage = if stage == Stage::Begun { "begun" } else { "alone" };
    command.args([NAME, "--serve", stage]).arg(file);
    Ok(command)
}

fn become_squashfuse(global: &Global, options: &Options) -> anyhow::Result<()> {
    let size = options.file.metadata()?.len();
    let device = Device::open().context("cannot open /dev/fuse")?;
    let file = device.make_file(size).context("cannot make a file by FUSE")?;
    let mut server = serving(Stage::Begun, &options.file)?;
    server.stdin(device.as_fd().try_clone_to_owned()?).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    server.spawn().context("cannot start a process that serves the file")?;
    let settings = parallax_config::Config::load(&global.config).map(|config| config.mount_program).unwrap_or_default();
    let MountProgram { squashfuse, squashfuse_flags, .. } = settings;
    let names = squashfuse.map_or(vec!["squashfuse_ll".into(), "squashfuse".into()], |name| vec![name]);
    let mut reason = None;
    for name in names {
        let mut squashfuse = Command::new(&name);
        squashfuse.args(&squashfuse_flags).args(["-f", "/proc/self/fd/0"]).args(&options.connection);
        reason = Some((name, squashfuse.stdin(file.try_clone()?).exec()));
    }
    let (name, error) = reason.context("no squashfuse")?;
    Err(error).with_context(|| format!("cannot start {}", name.display()))
}

/// Serves the file whose device is the standard input, until it is used by nothing any more.
fn serve(path: &Path) -> anyhow::Result<()> {
    let directory = env::var_os(DIRECTORY).with_context(|| format!("{DIRECTORY} is not set"))?;
    let file = File::open(path)?;
    let notes = Path::new(&directory).join(notes_name(&file)?);
    let notes = OpenOptions::new().append(true).create(true).open(&notes)?;
    let device = Device::from(io::stdin().as_fd().try_clone_to_owned()?);
    let content = Noted { size: file.metadata()?.len(), file, notes };
    let served = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| device.serve_without_slot(&content))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect::<io::Result<Vec<()>>>()
    })?;
    ensure!(served.len() == THREADS, "a thread panicked");
    Ok(())
}

/// Returns the name of the notes about a file, whatever path leads to it.
pub(super) fn notes_name(file: &File) -> io::Result<String> {
    let metadata = file.metadata()?;
    Ok(format!("{:x}.{:x}", metadata.dev(), metadata.ino()))
}

/// A file whose reads are noted.
struct Noted {
    file: File,
    size: u64,
    notes: File,
}

impl Content for Noted {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let size = buffer.len().min(left);
        (&self.notes).write_all(format!("{offset} {size}\n").as_bytes())?;
        self.file.read_exact_at(buffer.get_mut(..size).unwrap_or_default(), offset)?;
        Ok(size)
    }
}
