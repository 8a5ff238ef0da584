//! Ways to name an image: those that work, and what is said of those that do not.

use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;

use super::refused;
use crate::cluster::with_file;

tests! { cluster:
    an_id_as_lists_show_it,
    what_other_tools_take_is_told_as_a_name,
    root_is_told_to_be_an_ordinary_user,
}

const CONFIG: &str = "/etc/parallax/parallax.toml";

fn an_id_as_lists_show_it(cluster: &Cluster) -> anyhow::Result<()> {
    let id = cluster.shell("ctl", "readlink /shared/store/parallax/names/localhost%2Fpython:latest")?;
    let id = id.trim().trim_start_matches("../images/").trim_end_matches(".json");
    let step = |text: &str| cluster.srun("u1", &[&format!("--parallax-image={text}"), "test", "-e", "/opt/tool"]);
    let short = &id[..12];
    for text in [short, &id[..20], &format!("sha256:{short}")] {
        let done = step(text)?.success()?;
        ensure!(!done.stderr.contains("parallax: "), "{done:?}");
        // Where only the nodes know the store.
        with_file(cluster, "ctl", CONFIG, None, || step(text)?.success().map(drop))?;
    }
    refused(&step(&id[..11])?, &["is in no store"])?;
    let unknown = step("0123456789ab")?;
    refused(&unknown, &["image \"0123456789ab\" is in no store (/shared/store)", "\"parallax list\""])?;
    ensure!(!unknown.stderr.contains("docker://"), "{unknown:?}");

    // Another image whose id begins so.
    let images = cluster.shared().join("store/parallax/images");
    let other = format!("{short}{}", "0".repeat(52));
    fs::copy(images.join(format!("{id}.json")), images.join(format!("{other}.json")))?;
    let ambiguous = step(short);
    let mut on_node = None;
    let asked = with_file(cluster, "ctl", CONFIG, None, || step(short).map(|done| on_node = Some(done)));
    let more = step(&id[..16]);
    fs::remove_file(images.join(format!("{other}.json")))?;
    refused(&ambiguous?, &["more than one image id", id, &other])?;
    asked?;
    let on_node = on_node.context("no srun")?;
    ensure!(on_node.code != 0 && on_node.stderr.contains(id) && on_node.stderr.contains(&other), "{on_node:?}");
    more?.success().map(drop)
}

fn what_other_tools_take_is_told_as_a_name(cluster: &Cluster) -> anyhow::Result<()> {
    for (text, part) in [
        ("docker://python", "write \"python\""),
        ("docker-daemon:python:3", "write \"python:3\""),
        ("docker-daemon:python", "write \"python\""),
        ("oci:/images/python", "\"parallax list\""),
        ("/images/python.sif", "the path of a directory or of a SquashFS file"),
        ("python.sqsh", "write \"./python.sqsh\""),
        ("Python", "write \"python\""),
        ("python/", "write \"python\""),
        (" python", "write \"python\""),
        ("nvcr.io#nvidia/pytorch:24.01", "write \"nvcr.io/nvidia/pytorch:24.01\""),
        ("python@sha256:0123", "64 hexadecimal digits"),
    ] {
        let done = cluster.srun("u1", &[&format!("--parallax-image={text}"), "true"])?;
        refused(&done, &[part])?;
        ensure!(!done.stderr.contains("parallax migrate docker://"), "{text}: {done:?}");
    }
    Ok(())
}

fn root_is_told_to_be_an_ordinary_user(cluster: &Cluster) -> anyhow::Result<()> {
    let done = cluster.srun("root", &["-n1", "--parallax-image=python", "hello"])?;
    ensure!(done.code != 0, "{done:?}");
    let lines: Vec<&str> = done.stderr.lines().filter(|line| line.contains("parallax: ")).collect();
    ensure!(lines.len() == 1 && lines[0].contains("as an ordinary user"), "{done:?}");
    // All files of this one are root's, so it needs no other ids.
    let done = cluster.srun("root", &["-n1", "--parallax-image=static", "hello"])?.success()?;
    ensure!(done.stdout.contains("hello") && !done.stderr.contains("parallax: "), "{done:?}");
    Ok(())
}
