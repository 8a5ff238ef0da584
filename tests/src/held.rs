//! A step that waits, so that a test can look at it while it runs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, Stdio};

use anyhow::{Context as _, ensure};

use crate::cluster::{Cluster, Done, TEST_TIMEOUT};

/// A step whose tasks have started and wait for the end of their standard input.
#[derive(Debug)]
pub struct HeldStep {
    srun: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
    /// What the tasks wrote when they started, a line each.
    pub lines: Vec<String>,
}

impl HeldStep {
    /// Starts `srun ARGUMENTS sh -c 'SCRIPT; cat'` and waits until each of its tasks has written a line by SCRIPT.
    ///
    /// # Errors
    /// The step ended before.
    pub fn start(
        cluster: &Cluster,
        user: &str,
        arguments: &[&str],
        tasks: usize,
        script: &str,
    ) -> anyhow::Result<Self> {
        Self::start_with(cluster, user, &[], arguments, tasks, script)
    }

    /// As [`HeldStep::start`], with more variables (`NAME=VALUE`) in srun's environment.
    ///
    /// # Errors
    /// As [`HeldStep::start`].
    pub fn start_with(
        cluster: &Cluster,
        user: &str,
        variables: &[&str],
        arguments: &[&str],
        tasks: usize,
        script: &str,
    ) -> anyhow::Result<Self> {
        // Whatever happens to the step, no test waits for ever.
        let timeout = format!("{}", TEST_TIMEOUT.as_secs());
        let mut line = vec!["env"];
        line.extend(variables);
        line.extend(["timeout", "--kill-after=10", &timeout, "srun", "--input=all", "--unbuffered"]);
        line.extend(arguments);
        let script = format!("{script}; exec cat");
        line.extend(["sh", "-c", &script]);
        let mut srun = cluster
            .command("ctl", user, &line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let input = srun.stdin.take();
        let mut output = BufReader::new(srun.stdout.take().context("no output")?);
        let mut lines = Vec::new();
        for _ in 0..tasks {
            let mut line = String::new();
            if output.read_line(&mut line)? == 0 {
                let mut said = String::new();
                srun.stderr.take().context("no errors")?.read_to_string(&mut said)?;
                anyhow::bail!("the step ended before its tasks had started; they wrote {lines:?}\n{said}");
            }
            lines.push(line.trim().to_owned());
        }
        Ok(Self { srun, input, output, lines })
    }

    /// Writes a line to the tasks' standard input.
    ///
    /// # Errors
    /// They have ended.
    pub fn write_line(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("the input is closed")?;
        Ok(writeln!(input, "{line}")?)
    }

    /// Reads the next line that a task writes.
    ///
    /// # Errors
    /// They have ended.
    pub fn read_line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the step has ended");
        Ok(line.trim().to_owned())
    }

    /// Lets the tasks end.
    ///
    /// # Errors
    /// They failed.
    pub fn finish(self) -> anyhow::Result<()> {
        let done = self.end()?;
        ensure!(done.code == 0, "the step failed: {done:?}");
        Ok(())
    }

    /// Lets the tasks go on with the end of their input, and waits for the step's end.
    ///
    /// # Errors
    /// It can't be waited for.
    pub fn end(mut self) -> anyhow::Result<Done> {
        drop(self.input.take());
        self.wait()
    }

    /// Waits for the step's end, however it comes; its tasks still wait for the end of their input.
    ///
    /// # Errors
    /// It can't be waited for.
    pub fn wait(mut self) -> anyhow::Result<Done> {
        let input = self.input.take();
        let mut stdout = String::new();
        self.output.read_to_string(&mut stdout)?;
        let mut stderr = String::new();
        self.srun.stderr.take().context("no errors")?.read_to_string(&mut stderr)?;
        let status = self.srun.wait()?;
        drop(input);
        Ok(Done { code: status.code().unwrap_or(-1), stdout, stderr })
    }
}

impl Drop for HeldStep {
    /// Lets the tasks of a step that a failed test left end, and waits for that.
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.srun.wait();
    }
}
