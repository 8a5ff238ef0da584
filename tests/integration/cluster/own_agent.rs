//! A second agent on a node, of a test's own: with its own configuration and runtime directory, and a systemd that the test
//! plays itself.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, TEST_TIMEOUT};

/// The node it runs on.
pub(super) const NODE: &str = "n1";
/// Its socket on the node.
pub(super) const SOCKET: &str = "/run/own-agent/agent.sock";
const CONFIG: &str = "/run/own-agent.toml";
const NOTIFY: &str = "/run/own-agent.notify";
/// What names the process and nothing else on the node, the looking shell included.
const PATTERN: &str = "parallax-agent.*[o]wn-agent.toml";

/// The agent. It is ended with this value.
pub(super) struct OwnAgent<'a> {
    cluster: &'a Cluster,
    child: Child,
    notices: UnixDatagram,
}

impl<'a> OwnAgent<'a> {
    /// Starts it and waits until it is ready. `stores` are those of its configuration, `variables` are added to its environment.
    ///
    /// # Errors
    /// It does not become ready.
    pub(super) fn start(cluster: &'a Cluster, stores: &[&str], variables: &[&str]) -> anyhow::Result<Self> {
        configure(cluster, &format!("stores = {stores:?}\n"))?;
        let path = cluster.path_on(NODE, NOTIFY)?;
        let _ = fs::remove_file(&path);
        let notices = UnixDatagram::bind(&path)?;
        notices.set_read_timeout(Some(TEST_TIMEOUT))?;
        let notify = format!("NOTIFY_SOCKET={NOTIFY}");
        let mut command = vec!["env", &notify];
        command.extend(variables);
        command.extend(["/usr/sbin/parallax-agent", "--config", CONFIG, "--log-format", "json"]);
        let child = cluster.command(NODE, "root", &command).stderr(Stdio::piped()).spawn()?;
        let agent = Self { cluster, child, notices };
        let notice = agent.notice()?;
        ensure!(notice == "READY=1", "the agent begins with {notice:?}");
        Ok(agent)
    }

    /// The next that it tells systemd.
    ///
    /// # Errors
    /// Nothing comes.
    pub(super) fn notice(&self) -> anyhow::Result<String> {
        let mut bytes = [0; 4096];
        let length = self.notices.recv(&mut bytes).context("the agent tells systemd nothing")?;
        Ok(String::from_utf8_lossy(&bytes[..length]).trim().to_owned())
    }

    /// The next but for the watchdog's.
    ///
    /// # Errors
    /// Nothing comes.
    pub(super) fn event(&self) -> anyhow::Result<String> {
        loop {
            let notice = self.notice()?;
            if notice != "WATCHDOG=1" {
                return Ok(notice);
            }
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        self.cluster.shell(NODE, &format!("pkill -{signal} -f '{PATTERN}'")).map(drop)
    }

    /// Stops it. Returns what it logged.
    ///
    /// # Errors
    /// It did not end well.
    pub(super) fn stop(self) -> anyhow::Result<String> {
        self.signal("TERM")?;
        self.wait()
    }

    /// Waits for its end. Returns what it logged.
    ///
    /// # Errors
    /// It did not end well.
    pub(super) fn wait(self) -> anyhow::Result<String> {
        let (well, log) = self.end()?;
        ensure!(well, "the agent failed:\n{log}");
        Ok(log)
    }

    /// Waits for its end, which must be a failure. Returns what it logged.
    ///
    /// # Errors
    /// It ended well.
    pub(super) fn wait_for_failure(self) -> anyhow::Result<String> {
        let (well, log) = self.end()?;
        ensure!(!well, "the agent did not fail:\n{log}");
        Ok(log)
    }

    fn end(mut self) -> anyhow::Result<(bool, String)> {
        let mut log = String::new();
        self.child.stderr.take().context("no log")?.read_to_string(&mut log)?;
        Ok((self.child.wait()?.success(), log))
    }
}

/// Writes its configuration.
///
/// # Errors
/// It can't be written.
pub(super) fn configure(cluster: &Cluster, text: &str) -> anyhow::Result<()> {
    configure_with(cluster, text, "")
}

/// Writes its configuration with further keys of the agent, and sections, if any.
///
/// # Errors
/// It can't be written.
pub(super) fn configure_with(cluster: &Cluster, text: &str, keys: &str) -> anyhow::Result<()> {
    write(cluster, &format!("{text}[agent]\nruntime_dir = \"/run/own-agent\"\n{keys}\n"))
}

/// Writes its configuration as it is.
///
/// # Errors
/// It can't be written.
pub(super) fn write(cluster: &Cluster, text: &str) -> anyhow::Result<()> {
    Ok(fs::write(cluster.path_on(NODE, CONFIG)?, text)?)
}

impl Drop for OwnAgent<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.signal("KILL");
            let _ = self.child.wait();
        }
    }
}
