//! A running program that makes a layer's file of a tar archive on its standard input.

use std::io::{self, BufWriter, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::error::ConvertError;

/// Maximum length of the program's output in an error message, in bytes.
const KEPT_MESSAGE: u64 = 4096;
/// Capacity of the pipe to the program in bytes; Linux's default limit for pipes allows this.
const PIPE: usize = 1 << 20;

fn keep_start(mut from: impl Read) -> String {
    let mut kept = Vec::new();
    let _ = from.by_ref().take(KEPT_MESSAGE).read_to_end(&mut kept);
    let _ = io::copy(&mut from, &mut io::sink());
    String::from_utf8_lossy(&kept).trim().replace('\n', "; ")
}

/// A child that is killed and reaped when it is dropped.
#[derive(Debug)]
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running program, to which the archive is written. It is killed if the value is dropped before [`Self::finish`].
#[derive(Debug)]
pub(crate) struct Running {
    program: &'static str,
    child: Reaped,
    stdin: Option<BufWriter<ChildStdin>>,
    messages: Option<std::thread::JoinHandle<String>>,
}

impl Running {
    /// Starts the program.
    ///
    /// # Errors
    /// Those of starting it.
    pub(crate) fn start(program: &'static str, mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
            return Err(io::Error::other("it has no pipes"));
        };
        // Optional: saves context switches between the two processes.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdin, PIPE);
        let messages = std::thread::spawn(move || keep_start(stderr));
        Ok(Self {
            program,
            child: Reaped(child),
            stdin: Some(BufWriter::with_capacity(64 << 10, stdin)),
            messages: Some(messages),
        })
    }

    /// Waits for the end of the process.
    pub(crate) fn finish(mut self) -> Result<(), ConvertError> {
        self.wait()
    }

    /// Returns the reason why the program stopped reading, or the error of writing to it.
    fn explain(&mut self, error: io::Error) -> io::Error {
        match self.wait() {
            Err(reason) => io::Error::other(reason),
            Ok(()) => error,
        }
    }

    fn wait(&mut self) -> Result<(), ConvertError> {
        if let Some(Err(error)) = self.stdin.take().map(BufWriter::into_inner) {
            tracing::debug!(%error, program = self.program, "the program closed its input early");
        }
        let status = self.child.0.wait().map_err(ConvertError::Write)?;
        let message = self.messages.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if status.success() { Ok(()) } else { Err(ConvertError::Tool { program: self.program, status, message }) }
    }
}

/// Errors carry a [`ConvertError`] with the reason why the program stopped reading, if known.
impl Write for Running {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stdin.as_mut().map_or(Ok(0), |stdin| stdin.write(bytes));
        written.map_err(|error| self.explain(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.stdin.as_mut().map_or(Ok(()), Write::flush);
        flushed.map_err(|error| self.explain(error))
    }
}
