//! The arguments: `parallax-join LAUNCHER DIRECTORY FILE -- COMMAND…`. Only the plugin calls this program.

use core::ffi::CStr;

use parallax_join_file::words;

use crate::kernel::{self, Strings, Vector};

/// Words before the command.
const BEFORE_COMMAND: usize = 5;

/// The arguments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arguments {
    all: Strings,
    /// The launcher.
    pub launcher: &'static CStr,
    /// The step's directory.
    pub directory: &'static CStr,
    /// The name of a file that was broadcast.
    file: &'static CStr,
    /// The first word of the command.
    pub program: &'static CStr,
}

impl Arguments {
    /// Reads the arguments; `None` if they are not the plugin's.
    pub(crate) fn read(all: Strings) -> Option<Self> {
        let word = |at| all.get(at);
        let is_complete = word(BEFORE_COMMAND - 1)? == c"--";
        let arguments = Self { all, launcher: word(1)?, directory: word(2)?, file: word(3)?, program: word(5)? };
        is_complete.then_some(arguments)
    }

    /// The command and its arguments, for `execve(2)`. `None` without memory.
    pub(crate) fn command(&self) -> Option<Vector<'static>> {
        self.after(&[])
    }

    /// The launcher's arguments for a task that does not join here.
    pub(crate) fn of_run(&self) -> Option<Vector<'static>> {
        self.after(&[self.launcher, c"run", self.directory, self.file, c"--"])
    }

    /// The same for a task that has the lock of its step, as the descriptor `lock`.
    pub(crate) fn of_locked(&self, lock: u32) -> Option<Vector<'static>> {
        let lock = decimal(lock)?;
        self.after(&[self.launcher, c"locked", self.directory, self.file, lock, c"--"])
    }

    /// The same for a task that is in the container and could not execute its command. `directory` is the step's directory, as a descriptor,
    /// and `started_in` the directory of the node where the task began.
    pub(crate) fn of_inside<'a>(&self, directory: u32, started_in: &'a CStr) -> Option<Vector<'a>> {
        let directory = decimal(directory)?;
        self.after(&[self.launcher, c"inside", directory, started_in, c"--"])
    }

    fn after<'a>(&self, words: &[&'a CStr]) -> Option<Vector<'a>> {
        let command = (BEFORE_COMMAND..).map_while(|at| self.all.get(at));
        Vector::new(words.iter().copied().chain(command), words.len() + self.all.count())
    }
}

fn decimal(number: u32) -> Option<&'static CStr> {
    words::decimal(kernel::memory(11, 0)?, number)
}
