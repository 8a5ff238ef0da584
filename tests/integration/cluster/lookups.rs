//! Look-ups of users: modules of `nsswitch.conf` that do much, and that hang.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::clean::wait_for_no_lease;
use integration_tests::cluster::{Cluster, Done, repository};

use super::daemon::python;
use super::with_file;

tests! { cluster:
    a_module_has_sockets_threads_and_timers,
    a_user_who_is_gone_keeps_no_process,
    a_database_that_hangs_holds_nothing,
    an_agent_does_not_go_on_without_its_helper,
}

const NSSWITCH: &str = "/etc/nsswitch.conf";
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libnss_wild.so.2";
/// Denied calls and what the test's module is asked, before each script.
const BEGIN: &str = r#"
import subprocess
DENIED = "parallax_denied_system_calls_total"
before = metric(DENIED)
"#;

/// The module of a test, in a node's file system. It goes with this value.
struct Module(PathBuf);

impl Module {
    fn install(cluster: &Cluster) -> anyhow::Result<Self> {
        let source = repository().join("tests/integration/cluster/lookups/nss_wild.c");
        let module = Self(cluster.path_on("n1", LIBRARY)?);
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O", "-pthread", "-Wall", "-Werror", "-o"]).args([&module.0, &source]);
        Done::from(compiler.output()?).success()?;
        Ok(module)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs a script while n1 asks the module after its files, and has subordinate ids for the module's user.
fn with_module(cluster: &Cluster, script: &str) -> anyhow::Result<String> {
    let module = Module::install(cluster)?;
    let text = fs::read_to_string(cluster.path_on("n1", NSSWITCH)?)?;
    let passwd =
        |line: &str| if line.starts_with("passwd:") { "passwd: files wild".to_owned() } else { line.to_owned() };
    let text: String = text.lines().map(|line| passwd(line) + "\n").collect();
    let ids = "u1:100000:65536\nu2:200000:65536\nwild4002:400000:65536\n";
    let mut said = String::new();
    let tested = with_file(cluster, "n1", NSSWITCH, Some(&text), || {
        with_file(cluster, "n1", "/etc/subuid", Some(ids), || {
            with_file(cluster, "n1", "/etc/subgid", Some(ids), || {
                said = python(cluster, "root", &format!("{BEGIN}{script}"))?;
                Ok(())
            })
        })
    });
    let _ = fs::remove_file(cluster.path_on("n1", "/run/nss-hangs")?);
    drop(module);
    tested?;
    wait_for_no_lease(cluster, "n1")?;
    Ok(said)
}

fn a_module_has_sockets_threads_and_timers(cluster: &Cluster) -> anyhow::Result<()> {
    let script = r#"
client, response = lease(51, uid=4002)
print(list(response)[0], json.load(open(response["granted"]["directory"] + "/step.json"))["user"])
client.sendall(frame({"release": {"step": step(51)}}))
print(receive(client), metric(DENIED) - before)
print("no user with the id 4009" in lease(52, uid=4009)[1]["refused"]["reason"])
"#;
    let said = with_module(cluster, script)?;
    ensure!(said == "granted wild4002\n{'released': {'problems': []}} 0.0\nTrue\n", "{said}");
    Ok(())
}

/// A lease, and a process of its user in the step.
const WITH_PROCESS: &str = r#"
client, response = lease(53, uid=4002)
directory = response["granted"]["directory"]
process = subprocess.Popen(["sleep", "1000"], user=4002, group=4002, env={"STEP": directory + "/"})
"#;
/// Ends the lease, and says what is left.
const ITS_END: &str = r#"
client.sendall(frame({"release": {"step": step(53)}}))
print(receive(client), process.wait(), os.path.exists(directory), os.listdir("/run/parallax/leases"))
"#;
/// Asks until the agent no longer remembers the user.
const REFUSED: &str = r#"
for number in range(100, 100000):
    asker, answer = lease(number, uid=4002)
    if "refused" in answer:
        print("no user with the id 4002" in answer["refused"]["reason"])
        break
    asker.sendall(frame({"release": {"step": step(number)}}))
    receive(asker)
    asker.close()
"#;
const NOTHING_LEFT: &str = "{'released': {'problems': []}} -9 False []";

fn a_user_who_is_gone_keeps_no_process(cluster: &Cluster) -> anyhow::Result<()> {
    let gone = format!("os.rename({LIBRARY:?}, {LIBRARY:?} + '.away')\n");
    let back = format!("os.rename({LIBRARY:?} + '.away', {LIBRARY:?})\n");
    let said = with_module(cluster, &format!("{WITH_PROCESS}{gone}{REFUSED}{ITS_END}{back}"))?;
    ensure!(said == format!("True\n{NOTHING_LEFT}\n"), "{said}");
    Ok(())
}

fn a_database_that_hangs_holds_nothing(cluster: &Cluster) -> anyhow::Result<()> {
    let script = format!(
        r#"
{WITH_PROCESS}
open("/run/nss-hangs", "w").close()
# Many who ask.
asking = [connect() for _ in range(100)]
for number, other in enumerate(asking):
    other.sendall(frame(request(100 + number, uid=4003)))
{ITS_END}
# Users whom the files know have no part in it.
known, response = lease(55)
print(list(response)[0])
reasons = {{receive(other)["refused"]["reason"] for other in asking}}
print(len(reasons), reasons.pop())
os.unlink("/run/nss-hangs")
again, response = lease(56, uid=4002)
print(list(response)[0], metric(DENIED) - before)
"#
    );
    let said = with_module(cluster, &script)?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines[..2] == [NOTHING_LEFT, "granted"], "{said}");
    ensure!(lines[2].contains("user database did not answer within 10 s; tell the administrator"), "{said}");
    ensure!(lines[3] == "granted 0.0", "{said}");
    Ok(())
}

fn an_agent_does_not_go_on_without_its_helper(cluster: &Cluster) -> anyhow::Result<()> {
    let agent = super::own_agent::OwnAgent::start(cluster, &["/shared/store"], &[])?;
    cluster.shell("n1", "pkill -KILL -f '^parallax-helper.*own-agent'")?;
    let log = agent.wait_for_failure()?;
    ensure!(log.contains("the helper process has ended"), "{log}");
    // One that is started has its own, and takes it along.
    let agent = super::own_agent::OwnAgent::start(cluster, &["/shared/store"], &[])?;
    agent.signal("KILL")?;
    agent.wait_for_failure().context("the agent was killed")?;
    let left = cluster.shell("n1", "pgrep -f '^parallax-helper.*own-agent' || echo none")?;
    ensure!(left == "none\n", "the helper goes on without its agent: {left}");
    Ok(())
}
