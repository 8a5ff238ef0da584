//! Directories as images in podman mode: Podman finds them, and copies nothing.

use anyhow::ensure;
use integration_tests::cluster::Cluster;

use super::repository::{NAME, REPOSITORY, configure, with_names};
use super::{TINY, refused, run, with_trees};

tests! { cluster:
    podman_runs_a_directory_of_root,
    podman_runs_and_builds_from_a_directory_of_the_user,
    podman_finds_an_image_of_a_repository_by_its_name,
    a_directory_that_podman_cannot_have_is_named,
}

const MODE: &str = "--parallax-mode=podman";

fn podman_runs_a_directory_of_root(cluster: &Cluster) -> anyhow::Result<()> {
    with_trees(cluster, || {
        // The image has no /etc/hosts, and root of the container could not make one in a directory of the node's root.
        let script = "podman images --format '{{.Repository}}:{{.Tag}} {{.ReadOnly}}'
            for map in '' --userns=keep-id; do
                podman run --rm $map localhost/tiny sh -c 'id -u; cat /usr/share/doc/tiny/README; stat -c %u /etc; test -s /etc/hosts && echo hosts; touch /etc/new 2>/dev/null && echo new'
            done
            podman run --rm $PARALLAX_IMAGE_ID sh -c 'echo by its id'
            podman run -d --name kept localhost/tiny cat /usr/share/doc/tiny/README >/dev/null; podman wait kept; podman logs kept
            podman unshare du -sk $(podman info --format '{{.Store.GraphRoot}}') | cut -f1";
        let done = run(cluster, "u1", TINY, &[MODE, "bash", "-c", script])?.success()?;
        let readme = "A few programs of Debian.";
        let lines: Vec<&str> = done.stdout.lines().collect();
        let expected = [
            "localhost/tiny:latest true",
            "0",
            readme,
            "0",
            "hosts",
            "new",
            "1001",
            readme,
            "0",
            "hosts",
            "by its id",
            "0",
            readme,
        ];
        ensure!(lines.get(..expected.len()) == Some(expected.as_slice()), "{done:?}");
        let kept: u64 = lines.last().copied().unwrap_or_default().parse()?;
        ensure!(kept < 1024, "Podman copied {kept} KiB of the image");
        ensure!(!done.stderr.contains("parallax:"), "{done:?}");
        Ok(())
    })
}

fn podman_runs_and_builds_from_a_directory_of_the_user(cluster: &Cluster) -> anyhow::Result<()> {
    let unpack = "rm -rf bundle; umoci unpack --rootless --image /images/tiny:$(umoci ls --layout /images/tiny) bundle";
    cluster.run("ctl", "u1", &["sh", "-euc", unpack])?.success()?;
    let path = "/home/u1/bundle/rootfs";
    let script = format!(
        "podman run --rm --rootfs {path}:O cat /usr/share/doc/tiny/README
         printf 'FROM localhost/rootfs\\nRUN echo built > /usr/built\\n' | podman build -q -t own -f - /var/empty >/dev/null
         podman run --rm own cat /usr/built
         podman run --name changed localhost/rootfs sh -c 'rm /usr/share/doc/tiny/README; echo y > /usr/new'
         podman commit -q changed committed >/dev/null; podman run --rm committed sh -c 'ls /usr/share/doc/tiny; cat /usr/new'"
    );
    let make = "mkdir -p /var/empty";
    cluster.shell("n1", make)?;
    let done = run(cluster, "u1", path, &[MODE, "bash", "-c", &script]);
    cluster.shell("n1", "rmdir /var/empty")?;
    cluster.run("ctl", "u1", &["rm", "-r", "bundle"])?.success()?;
    let done = done?.success()?;
    ensure!(done.stdout.lines().eq(["A few programs of Debian.", "built", "y"]), "{done:?}");
    Ok(())
}

fn podman_finds_an_image_of_a_repository_by_its_name(cluster: &Cluster) -> anyhow::Result<()> {
    let path = format!("{REPOSITORY}/{NAME}");
    with_names(cluster, || {
        let id = configure(cluster, r#"{"config":{"Env":["GREETING=hello"],"WorkingDir":"/usr/share"}}"#)?;
        let script = format!("echo $PARALLAX_IMAGE_ID; podman run --rm {NAME} sh -c 'echo $GREETING; pwd'");
        for image in [NAME, path.as_str()] {
            let done = run(cluster, "u1", image, &[MODE, "bash", "-c", &script])?.success()?;
            ensure!(done.stdout.lines().eq([id.as_str(), "hello", "/usr/share"]), "{image}: {done:?}");
        }
        Ok(())
    })
}

fn a_directory_that_podman_cannot_have_is_named(cluster: &Cluster) -> anyhow::Result<()> {
    let done = run(cluster, "u1", "/home", &["-n2", MODE, "true"])?;
    refused(&done, "Podman cannot have the image: cannot use /home on the node n1 as an image")
}
