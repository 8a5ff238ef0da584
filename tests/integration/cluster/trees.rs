//! Images that are directories of the node: root file systems that somebody has unpacked.

use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::clean::NODES;
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;

pub(super) mod defects;
pub(super) mod import;
pub(super) mod layers;
pub(super) mod metadata;
pub(super) mod podman_mode;
pub(super) mod repository;

tests! { cluster:
    a_directory_of_root_runs_and_stays_as_it_is,
    nothing_of_it_is_copied_to_the_node,
    what_root_keeps_to_itself_stays_closed,
    a_directory_of_the_user_runs_and_stays_as_it_is,
    mounts_and_names_of_users_find_room,
    running_steps_keep_a_directory_that_is_exchanged,
    scripts_and_shells_and_shared_containers_have_it,
    what_cannot_be_used_is_named_with_its_node,
    it_may_be_served_by_fuse,
    it_may_lie_on_other_file_systems,
}

/// Where the directories are, on all nodes.
const TREES: &str = "/shared/trees";
/// The image "tiny", unpacked by root.
const TINY: &str = "/shared/trees/tiny";

/// Runs `body` with [`TINY`], and makes sure that nothing in [`TREES`] was changed.
fn with_trees(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let unpack = format!(
        "rm -rf {TREES}; mkdir {TREES}; cd {TREES}
         umoci unpack --image /images/tiny:$(umoci ls --layout /images/tiny) bundle
         mv bundle/rootfs tiny; rm -r bundle"
    );
    cluster.shell("ctl", &unpack)?;
    let before = fingerprint(cluster, TREES)?;
    let result = body().and_then(|()| {
        ensure!(fingerprint(cluster, TREES)? == before, "a directory that is an image was changed");
        Ok(())
    });
    fs::remove_dir_all(cluster.shared().join("trees"))?;
    result
}

/// Everything about the files of a directory but when they were read.
fn fingerprint(cluster: &Cluster, directory: &str) -> anyhow::Result<String> {
    cluster.shell("ctl", &format!("find {directory} -printf '%p %y %u %g %m %s %n %T@ %C@ %l\\n' | sort"))
}

fn run(cluster: &Cluster, user: &str, image: &str, more: &[&str]) -> anyhow::Result<Done> {
    let image = format!("--parallax-image={image}");
    cluster.srun(user, &[&["-w", "n1", image.as_str()], more].concat())
}

fn a_directory_of_root_runs_and_stays_as_it_is(cluster: &Cluster) -> anyhow::Result<()> {
    with_trees(cluster, || {
        let image = format!("--parallax-image={TINY}");
        // u3 has no subordinate ids.
        for user in ["u1", "u3"] {
            let script = "echo $(id -u) $(id -un) $(pwd) $(cat /usr/share/doc/tiny/README); touch $HOME/of-tree /tmp/of-tree; \
                          rm $HOME/of-tree /tmp/of-tree; touch /usr/new 2>/dev/null && echo wrote";
            let step = HeldStep::start(cluster, user, &["-N2", "-n2", &image], 2, script)?;
            let id = cluster.run("n1", user, &["id", "-u"])?.stdout;
            let expected = format!("{} {user} /home/{user} A few programs of Debian.", id.trim());
            ensure!(step.lines.iter().all(|line| *line == expected), "{:?}", step.lines);
            for node in NODES {
                let status = cluster.agent_status(node)?;
                let source = status.steps.first().and_then(|step| step.source.as_ref()).context("no source")?;
                ensure!(source.kind == "directory" && source.backend == "native", "{source:?}");
                ensure!(status.layers.is_empty(), "the agent has mounted something: {status:?}");
            }
            let shown = cluster.run("n1", "root", &["parallax", "status"])?.success()?.stdout;
            ensure!(shown.contains(TINY) && shown.contains("directory by native: the user opens"), "{shown}");
            step.finish()?;
        }
        let quiet = run(cluster, "u1", TINY, &["id"])?.success()?;
        ensure!(quiet.stderr.lines().all(|line| line.starts_with("srun: job")), "something was said: {quiet:?}");
        Ok(())
    })
}

fn nothing_of_it_is_copied_to_the_node(cluster: &Cluster) -> anyhow::Result<()> {
    with_trees(cluster, || {
        let size: u64 = cluster.shell("n1", &format!("du -s --block-size=1 {TINY} | cut -f1"))?.trim().parse()?;
        cluster.shell("n1", "touch /tmp/before")?;
        let image = format!("--parallax-image={TINY}");
        let read = "find / -xdev -type f -exec cat {} + >/dev/null 2>&1; echo mine >/tmp/mine; echo read";
        let step = HeldStep::start(cluster, "u1", &["-w", "n1", &image], 1, read)?;
        // All that was written on the node since, but for what the container itself writes: the step's files and those of Slurm.
        let new = "find / /run /tmp /var/tmp /run/parallax/steps/* -xdev -type f -newer /tmp/before \
                   ! -path '/run/parallax/steps/*/graph/*' -printf '%s %p\\n' | sort -u; rm /tmp/before";
        let written = cluster.shell("n1", new)?;
        step.finish()?;
        let sizes = written.lines().filter_map(|line| line.split(' ').next()?.parse::<u64>().ok());
        let (count, bytes) = sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
        ensure!(count > 0 && written.contains("/step.json"), "the step's own files were not found: {written}");
        ensure!(bytes < 100_000 && size > 10 * bytes, "of an image of {size} bytes {bytes} were written: {written}");
        Ok(())
    })
}

/// A mount with other ids would show the user what belongs to root alone.
fn what_root_keeps_to_itself_stays_closed(cluster: &Cluster) -> anyhow::Result<()> {
    with_trees(cluster, || {
        let script =
            "cat /etc/shadow; rm -f /etc/shadow /usr/share/doc/tiny/README; cat /usr/share/doc/tiny/README; id -u";
        for (userns, id) in [("root", "0"), ("keep-id", "1001")] {
            let done = run(cluster, "u1", TINY, &[&format!("--parallax-userns={userns}"), "sh", "-c", script])?;
            ensure!(done.stdout.lines().eq(["A few programs of Debian.", id]), "{done:?}");
            ensure!(done.stderr.contains("/etc/shadow: Permission denied"), "{done:?}");
            // Only those who may expect more are told.
            let told = done.stderr.contains("accounts that the container does not have");
            ensure!(told == (userns == "root"), "{done:?}");
        }
        // A directory that others may not enter is looked up by nobody for them.
        cluster.shell("ctl", &format!("mkdir -m 0700 {TREES}.closed; cp -a {TINY} {TREES}.closed/tiny"))?;
        let closed = run(cluster, "u1", &format!("{TREES}.closed/tiny"), &["true"]);
        cluster.shell("ctl", &format!("rm -r {TREES}.closed"))?;
        refused(&closed?, "you may not read it; ask its owner for access")
    })
}

fn a_directory_of_the_user_runs_and_stays_as_it_is(cluster: &Cluster) -> anyhow::Result<()> {
    let unpack = "rm -rf bundle; umoci unpack --rootless --image /images/tiny:$(umoci ls --layout /images/tiny) bundle";
    cluster.run("ctl", "u1", &["sh", "-euc", unpack])?.success()?;
    let before = fingerprint(cluster, "/home/u1/bundle/rootfs")?;
    let script = "cat /etc/shadow >/dev/null; echo x > /usr/new; echo y >> /usr/share/doc/tiny/README; rm /etc/debian_version; \
                  ls /usr/new; stat -c %u /etc/shadow /usr/new; ls /etc/debian_version";
    let tested = [("keep-id", "1001"), ("root", "0")].into_iter().try_for_each(|(userns, owner)| {
        let userns = format!("--parallax-userns={userns}");
        let done = run(cluster, "u1", "/home/u1/bundle/rootfs", &[&userns, "sh", "-c", script])?;
        ensure!(done.stdout.lines().eq(["/usr/new", owner, owner]), "{done:?}");
        ensure!(done.stderr.contains("/etc/debian_version") && !done.stderr.contains("parallax:"), "{done:?}");
        Ok(())
    });
    let after = fingerprint(cluster, "/home/u1/bundle/rootfs")?;
    cluster.run("ctl", "u1", &["rm", "-r", "bundle"])?.success()?;
    tested?;
    ensure!(before == after, "the user's directory was changed");
    Ok(())
}

fn mounts_and_names_of_users_find_room(cluster: &Cluster) -> anyhow::Result<()> {
    with_trees(cluster, || {
        let mounts = "--parallax-mount=/etc/hostname:/usr/share/doc/tiny/deep/hostname,/etc/hostname:/lib/linked,tmpfs:/new/place";
        let script = "cat /usr/share/doc/tiny/deep/hostname /usr/lib/linked /etc/hostname; cat /usr/share/doc/tiny/README; \
                      ls -d /new/place; ls /usr/bin | wc -l; stat -c '%a %u' /usr/share /tmp";
        let on_node = cluster.shell("n1", &format!("cat /etc/hostname; ls {TINY}/usr/bin | wc -l"))?;
        let (name, programs) = on_node.trim().split_once('\n').context("no name")?;
        for more in ["--parallax-writable", "--parallax-readonly"] {
            let done = run(cluster, "u1", TINY, &[mounts, more, "sh", "-c", script])?.success()?;
            let lines: Vec<&str> = done.stdout.lines().collect();
            ensure!(lines[..6] == [name, name, name, "A few programs of Debian.", "/new/place", programs], "{done:?}");
            // The directory in which room was made has the permissions that it has in the image.
            ensure!(lines[6] == "755 0" && lines[7].starts_with("1777"), "{done:?}");
        }
        Ok(())
    })
}

/// By a switch of a link, and by an exchange of the directory itself.
fn running_steps_keep_a_directory_that_is_exchanged(cluster: &Cluster) -> anyhow::Result<()> {
    let other = format!("{TREES}.new");
    with_trees(cluster, || {
        let make = format!(
            "rm -rf {other} {other}.link; cp -a {TINY} {other}; echo 'The new one.' > {other}/usr/share/doc/tiny/README
             ln -s {TINY} {other}.link"
        );
        cluster.shell("ctl", &make)?;
        let read = "cat /usr/share/doc/tiny/README";
        let script = "echo started; read go; cat /usr/share/doc/tiny/README";
        let link = format!("{other}.link");
        let tested = (|| {
            let mut step =
                HeldStep::start(cluster, "u1", &["-w", "n1", &format!("--parallax-image={link}")], 1, script)?;
            cluster.shell("ctl", &format!("ln -s {other} {link}.next; mv -T {link}.next {link}"))?;
            let new = run(cluster, "u1", &link, &["sh", "-c", read])?.success()?;
            ensure!(new.stdout == "The new one.\n", "{new:?}");
            step.write_line("go")?;
            ensure!(step.read_line()? == "A few programs of Debian.", "a running step has another image");
            step.finish()?;

            let mut step =
                HeldStep::start(cluster, "u1", &["-w", "n1", &format!("--parallax-image={other}")], 1, script)?;
            cluster.shell("ctl", &format!("mv {other} {other}.old; cp -a {TINY} {other}"))?;
            let new = run(cluster, "u1", &other, &["sh", "-c", read])?.success()?;
            ensure!(new.stdout == "A few programs of Debian.\n", "{new:?}");
            step.write_line("go")?;
            ensure!(step.read_line()? == "The new one.", "a running step has another image");
            step.finish()
        })();
        cluster.shell("ctl", &format!("rm -rf {other} {other}.old {other}.link"))?;
        tested
    })
}

fn scripts_and_shells_and_shared_containers_have_it(cluster: &Cluster) -> anyhow::Result<()> {
    with_trees(cluster, || {
        let image = format!("--parallax-image={TINY}");
        let wrap = "srun sh -c 'cat /usr/share/doc/tiny/README; echo $PARALLAX_IMAGE_ID.'; \
                    for step in touch ls; do srun --parallax-name=c --parallax-userns=root $step /kept 2>/dev/null; done; \
                    podman --version; srun --parallax-image=none ls -d /usr/share/doc/tiny";
        let submit = ["sbatch", "--wait", "-w", "n1", "--output=tree.out", &image, "--wrap", wrap];
        let done = cluster.run("ctl", "u1", &submit)?;
        let output = cluster.run("ctl", "u1", &["sh", "-c", "cat tree.out; rm tree.out"])?.success()?.stdout;
        let lines: Vec<&str> = output.lines().take(3).collect();
        ensure!(lines == ["A few programs of Debian.", ".", "/kept"], "{done:?} {output}");
        ensure!(output.contains("podman version") && output.contains("No such file"), "{output}");
        ensure!(!output.contains("parallax:"), "{output}");

        let shell = ["salloc", "-w", "n1", &image, "srun", "cat", "/usr/share/doc/tiny/README"];
        let done = cluster.run("ctl", "u1", &shell)?.success()?;
        ensure!(done.stdout == "A few programs of Debian.\n", "{done:?}");
        let variable = format!("PARALLAX_IMAGE={TINY}");
        let by_variable = ["env", &variable, "srun", "-w", "n1", "cat", "/usr/share/doc/tiny/README"];
        let done = cluster.run("ctl", "u1", &by_variable)?.success()?;
        ensure!(done.stdout == "A few programs of Debian.\n", "{done:?}");
        Ok(())
    })
}

/// That a step did not start, for a reason that is said once.
fn refused(done: &Done, reason: &str) -> anyhow::Result<()> {
    ensure!(done.code == 125 && done.stdout.is_empty(), "{done:?}");
    ensure!(done.stderr.contains(reason) && done.stderr.matches("parallax: ").count() == 1, "{done:?}");
    Ok(())
}

fn what_cannot_be_used_is_named_with_its_node(cluster: &Cluster) -> anyhow::Result<()> {
    with_trees(cluster, || {
        cluster
            .shell("n1", &format!("mkdir -p /srv/trees; cp -a {TINY} /srv/trees/tiny; mkdir -p /srv/trees/empty"))?;
        cluster.shell("n1", "touch /srv/trees/file; mkdir /srv/trees/layout; touch /srv/trees/layout/oci-layout")?;
        cluster.shell("n1", "cp -a /srv/trees/tiny /srv/trees/two; mount -t tmpfs tmpfs /srv/trees/two/run")?;
        let tested = (|| {
            // On n2 it is not there.
            let done = cluster.srun("u1", &["-N2", "--parallax-image=/srv/trees/tiny", "true"])?;
            ensure!(done.code != 0, "{done:?}");
            ensure!(
                done.stderr.contains("/srv/trees/tiny on the node n2 as an image: there is no such directory"),
                "{done:?}"
            );
            ensure!(!done.stderr.contains("on the node n1"), "{done:?}");
            for (path, reason) in [
                ("/srv/trees/file", "cannot mount the SquashFS file /srv/trees/file"),
                (
                    "/srv/trees/empty",
                    "on the node n1 as an image: it is not a root file system: it has none of bin, usr",
                ),
                ("/srv/trees/layout", "it is an OCI layout; parallax migrate oci:/srv/trees/layout"),
                ("/srv/trees/two", "/srv/trees/two/run is a file system of its own"),
            ] {
                refused(&run(cluster, "u1", path, &["true"])?, reason)?;
            }
            // What can be seen where it is typed is said there.
            let done = run(cluster, "u1", "/dev/null", &["true"])?;
            ensure!(done.code == 1 && done.stderr.contains("/dev/null is neither a directory"), "{done:?}");
            let done = run(cluster, "u1", "/srv/a b", &["true"])?;
            ensure!(done.code == 1 && done.stderr.contains("no blanks"), "{done:?}");
            Ok(())
        })();
        cluster.shell("n1", "umount /srv/trees/two/run; rm -r /srv/trees")?;
        tested
    })
}

/// As another account to everybody, which is CVMFS' way, and as the user to nobody else: not even root can read that.
fn it_may_be_served_by_fuse(cluster: &Cluster) -> anyhow::Result<()> {
    with_trees(cluster, || {
        let file = "/shared/trees.squash";
        cluster.shell("ctl", &format!("mksquashfs {TINY} {file} -quiet -no-progress -noappend"))?;
        let read = ["sh", "-c", "cat /usr/share/doc/tiny/README; stat -c %U /usr/share/doc/tiny/README"];
        let tested = (|| {
            for (server, options) in [("root", "allow_other,uid=12345,gid=12345"), ("u1", "default_permissions")] {
                cluster.run("n1", server, &["mkdir", "/tmp/served"])?.success()?;
                cluster.run("n1", server, &["squashfuse", "-o", options, file, "/tmp/served"])?.success()?;
                let done = run(cluster, "u1", "/tmp/served", &read);
                let other = run(cluster, "u2", "/tmp/served", &["id"]);
                cluster.run("n1", server, &["fusermount3", "-u", "/tmp/served"])?.success()?;
                cluster.run("n1", server, &["rmdir", "/tmp/served"])?.success()?;
                let done = done?.success()?;
                ensure!(done.stdout.starts_with("A few programs of Debian.\n"), "{done:?}");
                if server == "root" {
                    other?.success()?;
                } else {
                    refused(&other?, "you may not read it")?;
                }
            }
            Ok(())
        })();
        fs::remove_file(cluster.shared().join("trees.squash"))?;
        tested
    })
}

/// Beside that of `/shared`, which is the machine's.
fn it_may_lie_on_other_file_systems(cluster: &Cluster) -> anyhow::Result<()> {
    with_trees(cluster, || {
        let make = format!(
            "mkdir /tmp/trees /srv/trees /srv/bound; cp -a {TINY} /tmp/trees; cp -a {TINY} /srv/trees
             mount --bind {TREES} /srv/bound; mount -o remount,bind,ro,nosuid,nodev /srv/bound"
        );
        cluster.shell("n1", &make)?;
        let places = [("/tmp/trees", "tmpfs"), ("/srv/trees", "overlay"), ("/srv/bound", "nosuid")];
        let tested = places.into_iter().try_for_each(|(place, kind)| {
            let mount = cluster.shell("n1", &format!("findmnt -no FSTYPE,OPTIONS -T {place}"))?;
            ensure!(mount.contains(kind), "{place} is no {kind}: {mount}");
            let read = ["sh", "-c", "cat /usr/share/doc/tiny/README; touch /etc/new 2>/dev/null; id -u"];
            let done = run(cluster, "u1", &format!("{place}/tiny"), &read)?.success()?;
            ensure!(done.stdout.lines().eq(["A few programs of Debian.", "1001"]), "{kind}: {done:?}");
            Ok(())
        });
        cluster.shell("n1", "umount /srv/bound; rm -r /tmp/trees /srv/trees /srv/bound")?;
        tested
    })
}
