//! Metadata images: the owners and modes of images that lie unpacked, also where the file system shows all files as one account.

use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;
use serde_json::Value;

use super::import::{IMPORTED, parallax};
use super::repository::{NAME, REPOSITORY, ids, with_repository};
use super::{fingerprint, run};
use crate::cluster::backend::{CONFIG, with_config};
use crate::cluster::with_file;

tests! { cluster:
    an_image_in_a_directory_has_its_owners_and_can_be_changed,
    podman_has_it_with_its_owners,
    it_is_used_in_named_repositories_only,
    a_repository_that_shows_one_account_gets_it,
    commands_know_it,
}

/// Runs `body` with a store with the repository's image and its metadata image, which ctl and n1 are configured to use.
fn with_metadata(cluster: &Cluster, trees: &str, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let [id, _] = ids();
    let text = format!("stores = [\"{IMPORTED}\"]\n[trees]\npaths = [{trees}]\n");
    with_repository(cluster, || {
        // What a directory as it is cannot show: owners, set-user-id programs, files of root alone, several names of a file.
        let odd = format!(
            "cd {REPOSITORY}/.flat/ab/{id}; echo secret > etc/secret; chmod 0600 etc/secret
             echo theirs > var/theirs; chown 33:33 var/theirs; ln var/theirs var/same; cp usr/bin/cat usr/bin/set; chmod 4755 usr/bin/set
             setfattr -n user.note -v kept var/theirs; mkdir -m 0700 var/closed; truncate -s 3M var/large; echo end >> var/large"
        );
        cluster.shell("ctl", &odd)?;
        let imported = || {
            let done =
                parallax(cluster, "root", &["import", "--metadata=always", "--unpacked", REPOSITORY])?.success()?;
            ensure!(done.stderr.contains(&format!("{NAME}: imported")), "{done:?}");
            with_file(cluster, "ctl", CONFIG, Some(&text), || with_config(cluster, "n1", &text, body))
        };
        let result = imported();
        fs::remove_dir_all(cluster.shared().join("imported"))?;
        result
    })
}

/// The repository as parallax.toml has it.
fn named() -> String {
    format!("\"{REPOSITORY}\"")
}

/// A program that looks at all that a directory as it is would not show, and changes it.
const LOOK: &str = "stat -c '%n %u:%g %a %h %s' /etc/secret /var/theirs /var/same /usr/bin/set /var/closed /var/large
    cat /etc/secret /var/same; /usr/bin/set /usr/share/doc/tiny/README; wc -l /var/large
    echo more >> /etc/secret && cat /etc/secret; echo more >> /var/same && cat /var/same
    rm /usr/share/doc/tiny/README && mkdir /usr/made && rm -r /var/closed && ls /var";
/// What it says.
const SEEN: [&str; 18] = [
    "/etc/secret 0:0 600 1 7",
    "/var/theirs 33:33 644 2 7",
    "/var/same 33:33 644 2 7",
    "/usr/bin/set 0:0 4755 1",
    "/var/closed 0:0 700 2",
    "/var/large 0:0 644 1 3145732",
    "secret",
    "theirs",
    "A few programs of Debian.",
    "1 /var/large",
    "secret",
    "more",
    "theirs",
    "more",
    "large",
    "same",
    "theirs",
    "tmp",
];

/// Whether the lines are the expected ones, of which some are only the beginnings.
fn check_seen(done: &Done) -> anyhow::Result<()> {
    let lines: Vec<&str> = done.stdout.lines().collect();
    let same = lines.len() == SEEN.len() && lines.iter().zip(SEEN).all(|(line, seen)| line.starts_with(seen));
    ensure!(same, "{lines:#?}\n{}", done.stderr);
    Ok(())
}

fn an_image_in_a_directory_has_its_owners_and_can_be_changed(cluster: &Cluster) -> anyhow::Result<()> {
    let [id, _] = ids();
    with_metadata(cluster, &named(), || {
        // The store gets markers of nodes that use its images.
        let files = format!("{IMPORTED}/parallax/layers");
        let before = (fingerprint(cluster, REPOSITORY)?, fingerprint(cluster, &files)?);
        let as_root = "--parallax-userns=root";
        check_seen(&run(cluster, "u1", NAME, &[as_root, "sh", "-c", LOOK])?.success()?)?;
        // As the user what is root's in the image stays root's.
        let own =
            "id -u; cat /etc/secret || echo closed; stat -c %u /etc/secret; cat /var/theirs; echo $PARALLAX_IMAGE_ID";
        let done = run(cluster, "u1", &id, &["sh", "-c", own])?.success()?;
        ensure!(done.stdout.lines().eq(["1001", "closed", "0", "theirs", id.as_str()]), "{done:?}");

        let image = format!("--parallax-image={NAME}");
        let later = "cat /etc/secret; read -r line; cat /usr/share/doc/tiny/README";
        let mut step = HeldStep::start(cluster, "u1", &["-w", "n1", &image, as_root], 1, later)?;
        let status = cluster.agent_status("n1")?;
        let source = status.steps.first().and_then(|step| step.source.as_ref()).context("no source")?;
        let tree = format!("metadata of {REPOSITORY}/.flat/ab/{id}");
        ensure!(source.backend == "native" && source.reason.contains(&tree), "{source:?}");
        ensure!((fingerprint(cluster, REPOSITORY)?, fingerprint(cluster, &files)?) == before, "files were changed");
        // The image's name leads elsewhere now: this step keeps what it has.
        cluster.shell("ctl", &format!("cd {REPOSITORY}; mv {NAME} away; mv .flat/ab/{id} .flat/ab/away"))?;
        let kept = step.write_line("go").and_then(|()| step.read_line());
        cluster.shell("ctl", &format!("cd {REPOSITORY}; mv away {NAME}; mv .flat/ab/away .flat/ab/{id}"))?;
        ensure!(kept? == "A few programs of Debian.", "the step lost its image");
        step.finish()
    })
}

fn podman_has_it_with_its_owners(cluster: &Cluster) -> anyhow::Result<()> {
    with_metadata(cluster, &named(), || {
        let script = format!(
            "podman run --rm {NAME} sh -c \"$LOOK\"; podman run --rm --userns=keep-id {NAME} sh -c 'id -u; stat -c %u /var/theirs'
             printf 'FROM {NAME}\\nRUN echo built >> /etc/secret\\n' | podman build -q -t built - >/dev/null
             podman run --rm built cat /etc/secret; podman save -q -o $HOME/saved {NAME} 2>&1 | grep -o 'put it into a store.*migrate'"
        );
        let look = format!("LOOK={LOOK}");
        let done =
            run(cluster, "u1", NAME, &["--parallax-mode=podman", "env", &look, "bash", "-c", &script])?.success()?;
        let at = done.stdout.match_indices('\n').nth(SEEN.len() - 1).map_or(0, |(at, _)| at + 1);
        let (seen, rest) = done.stdout.split_at(at);
        check_seen(&Done { stdout: seen.to_owned(), ..done.clone() })?;
        ensure!(
            rest.lines().eq(["1001", "33", "secret", "built", "put it into a store with parallax migrate"]),
            "{done:?}"
        );
        Ok(())
    })
}

fn it_is_used_in_named_repositories_only(cluster: &Cluster) -> anyhow::Result<()> {
    let reason = |expected: &str| -> anyhow::Result<()> {
        let image = format!("--parallax-image={NAME}");
        let show = "cat /usr/share/doc/tiny/README; stat -c %U /etc/secret; cat /etc/secret 2>/dev/null || echo closed";
        let step = HeldStep::start(cluster, "u1", &["-w", "n1", &image], 3, show)?;
        ensure!(step.lines == ["A few programs of Debian.", "nobody", "closed"], "{:?}", step.lines);
        let status = cluster.agent_status("n1")?;
        let source = status.steps.first().and_then(|step| step.source.as_ref()).context("no source")?;
        ensure!(source.kind == "directory" && source.reason.contains(expected), "{source:?}");
        step.finish()
    };
    with_metadata(cluster, "", || {
        reason("its metadata image is not used: trees.paths in parallax.toml has no repository")?;
        let text =
            format!("stores = [\"{IMPORTED}\"]\n[trees]\npaths = [\"{REPOSITORY}\"]\n[agent]\nmounts = \"fuse\"\n");
        with_config(cluster, "n1", &text, || reason("the configuration has mounts = \"fuse\""))
    })
}

/// As CVMFS serves it: by another account, to all.
fn a_repository_that_shows_one_account_gets_it(cluster: &Cluster) -> anyhow::Result<()> {
    let [id, _] = ids();
    with_repository(cluster, || {
        let odd = format!(
            "cd {REPOSITORY}; echo theirs > .flat/ab/{id}/var/theirs; mksquashfs . /shared/served.squash -quiet -no-progress"
        );
        cluster.shell("ctl", &odd)?;
        let served = |place: &str, options: &str, user: &str, body: &dyn Fn() -> anyhow::Result<()>| {
            cluster.run("n1", user, &["mkdir", place])?.success()?;
            cluster.run("n1", user, &["squashfuse", "-o", options, "/shared/served.squash", place])?.success()?;
            let result = body();
            cluster.run("n1", user, &["fusermount3", "-u", place])?.success()?;
            cluster.run("n1", user, &["rmdir", place])?.success()?;
            result
        };
        let import = |place: &str| {
            cluster.run("n1", "root", &["parallax", "--store", IMPORTED, "import", "--json", "--unpacked", place])
        };
        let tested = served("/tmp/served", "allow_other,uid=12345,gid=12345", "root", &|| {
            let imported: Value = serde_json::from_str(&import("/tmp/served")?.success()?.stdout)?;
            ensure!(imported[0]["metadata"] == true, "{imported}");
            let text = format!("stores = [\"{IMPORTED}\"]\n[trees]\npaths = [\"/tmp/served\"]\n");
            with_file(cluster, "ctl", CONFIG, Some(&text), || {
                with_config(cluster, "n1", &text, || {
                    let script = "stat -c %u:%g /etc/shadow /var/theirs; cat /etc/shadow >/dev/null && echo read
                                  echo more >> /var/theirs && cat /var/theirs; rm -r /usr/share/doc && echo removed";
                    let done = run(cluster, "u1", NAME, &["--parallax-userns=root", "sh", "-c", script])?.success()?;
                    ensure!(done.stdout.lines().eq(["0:0", "0:0", "read", "theirs", "more", "removed"]), "{done:?}");
                    Ok(())
                })
            })
        });
        fs::remove_file(cluster.shared().join("served.squash"))?;
        fs::remove_dir_all(cluster.shared().join("imported"))?;
        tested
    })
}

fn commands_know_it(cluster: &Cluster) -> anyhow::Result<()> {
    let [id, _] = ids();
    let directory = format!("{REPOSITORY}/.flat/ab/{id}");
    with_metadata(cluster, &named(), || {
        let before = (fingerprint(cluster, REPOSITORY)?, fingerprint(cluster, IMPORTED)?);
        let again = parallax(cluster, "root", &["import", "--metadata=always", "--unpacked", REPOSITORY])?.success()?;
        ensure!(again.stderr.contains("in the store already, nothing to do"), "{again:?}");
        let entries: u64 = cluster.shell("ctl", &format!("find {directory} | wc -l"))?.trim().parse()?;
        let listed = parallax(cluster, "u1", &["list", "--json"])?.success()?.stdout;
        let listed: Value = serde_json::from_str(&listed)?;
        ensure!(listed[0]["unpacked"] == directory.as_str(), "{listed}");
        let stored = listed[0]["stored"].as_u64().context("no size")?;
        ensure!(stored > 0 && stored < 4096 + 40 * entries, "{entries} entries take {stored} bytes");
        let shown = parallax(cluster, "u1", &["inspect", NAME])?.success()?.stdout;
        ensure!(shown.contains(&format!("Unpacked in {directory}")), "{shown}");
        parallax(cluster, "u1", &["verify"])?.success()?;
        parallax(cluster, "root", &["gc"])?.success()?;
        for command in ["chunk", "trace"] {
            let arguments: &[&str] = if command == "chunk" { &[command, NAME] } else { &[command, NAME, "--", "true"] };
            let done = parallax(cluster, "root", arguments)?;
            ensure!(done.code == 1 && done.stderr.contains(&format!("lies unpacked in {directory}")), "{done:?}");
        }
        ensure!((fingerprint(cluster, REPOSITORY)?, fingerprint(cluster, IMPORTED)?) == before, "files were changed");
        // A metadata image that was changed is found.
        let file = listed_file(cluster)?;
        cluster.shell(
            "ctl",
            &format!("cp -p {file} {file}.kept; printf x | dd of={file} bs=1 seek=200 conv=notrunc status=none"),
        )?;
        let changed = parallax(cluster, "u1", &["verify"])?;
        cluster.shell("ctl", &format!("mv {file}.kept {file}"))?;
        ensure!(changed.code == 1 && changed.stdout.contains("has changed"), "{changed:?}");

        parallax(cluster, "root", &["rm", NAME])?.success()?;
        parallax(cluster, "root", &["gc", "--grace=0s"])?.success()?;
        let left =
            cluster.shell("ctl", &format!("find {IMPORTED} -name '*.squash*' -o -name '*abab*' -o -name diff"))?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

/// The metadata image of the store's only image.
fn listed_file(cluster: &Cluster) -> anyhow::Result<String> {
    let shown = parallax(cluster, "u1", &["inspect", "--json", NAME])?.success()?.stdout;
    let shown: Value = serde_json::from_str(&shown)?;
    shown["layers"][0]["file"].as_str().map(ToOwned::to_owned).context("no file")
}
