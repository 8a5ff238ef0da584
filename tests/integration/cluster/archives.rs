//! Podman gives back the archives of the store's layers: `podman save`, `podman push`, and images built on the store's.

use std::process::Command;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done, repository};

tests! { cluster:
    podman_saves_and_pushes_an_image_of_the_store,
    podman_pushes_what_was_built_on_it,
    without_an_agent_podman_says_what_to_do,
    verify_and_rm_know_the_data,
}

/// A directory of its own, and a registry at 127.0.0.1:5000.
const PRELUDE: &str = r#"
    work=$(mktemp -d) && cd "$work"
    printf '%s\n' 'version: 0.1' "storage: { filesystem: { rootdirectory: $work/registry } }" 'http: { addr: 127.0.0.1:5000 }' >registry.yml
    exec 3< <(exec docker-registry serve registry.yml 2>&1)
    registry=$!
    trap 'kill $registry; cd /; rm -rf "$work"' EXIT
    sed '/listening on/q' <&3 | grep -q 'listening on'
    # Its log would fill the pipe.
    cat <&3 >/dev/null &
    digests() { grep -o 'sha256:[0-9a-f]*'; }
    diff_ids() { skopeo inspect --tls-verify=false --config "$1" | tr -d ' \n' | grep -o '"diff_ids":[^]]*' | digests; }
    of_the_store() { parallax inspect --json "$1" | grep -o '"diff_id": *"[^"]*' | digests; }
    # Everything that is in an image, unpacked by another tool, whose reader checks every digest.
    whole() { skopeo copy --quiet --src-tls-verify=false "$1" oci:$work/copy:1; rm -rf $work/copy; }
"#;

fn in_podman_mode(cluster: &Cluster, image: &str, text: &str) -> anyhow::Result<Done> {
    let image = format!("--parallax-image={image}");
    let script = format!("{PRELUDE}\n{text}");
    cluster.srun("u1", &["-w", "n1", &image, "--parallax-mode=podman", "bash", "-euc", &script])
}

fn podman_saves_and_pushes_an_image_of_the_store(cluster: &Cluster) -> anyhow::Result<()> {
    for image in ["python", "debian", "layers40"] {
        let text = format!(
            r#"
            of_the_store {image} >expected
            podman save --quiet --format oci-archive -o saved.tar {image}
            diff_ids oci-archive:saved.tar | diff expected -
            whole oci-archive:saved.tar
            podman save --quiet -o docker.tar {image}
            diff_ids docker-archive:docker.tar | diff expected -
            whole docker-archive:docker.tar
            podman push --quiet --tls-verify=false {image} 127.0.0.1:5000/pushed:1
            diff_ids docker://127.0.0.1:5000/pushed:1 | diff expected -
            whole docker://127.0.0.1:5000/pushed:1
            echo all the same
            "#
        );
        let done = in_podman_mode(cluster, image, &text)?.success()?;
        ensure!(done.stdout.ends_with("all the same\n"), "{image}: {done:?}");
    }
    Ok(())
}

fn podman_pushes_what_was_built_on_it(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        of_the_store python >expected
        printf 'FROM localhost/python\nUSER 0\nRUN echo built >/built && rm -r /usr/share/doc\nRUN echo again >>/built\n' >Containerfile
        podman build --quiet --layers --network=host --tag localhost/mine:1 . >/dev/null
        podman push --quiet --tls-verify=false localhost/mine:1 127.0.0.1:5000/mine:1
        diff_ids docker://127.0.0.1:5000/mine:1 >pushed
        head -n $(wc -l <expected) pushed | diff expected -
        whole docker://127.0.0.1:5000/mine:1
        podman save --quiet --format oci-archive -o saved.tar localhost/mine:1
        diff_ids oci-archive:saved.tar | diff pushed -
        # Elsewhere: into a store of its own, and into Podman's own storage.
        parallax --store $work/store migrate --tls-verify=false docker://127.0.0.1:5000/mine:1
        parallax --store $work/store verify
        podman --root $work/graph --runroot $work/run --storage-opt additionalimagestore= load --quiet -i saved.tar
        podman --root $work/graph --runroot $work/run run --rm --network=host --entrypoint "" localhost/mine:1 cat /built
        # conmon has Podman clean up in the background, which writes there.
        timeout 60 pidwait -f -- "--root $work/graph" || true
        podman unshare sh -c "umount graph/overlay; rm -rf graph run"
    "#;
    let done = in_podman_mode(cluster, "python", text)?.success()?;
    ensure!(done.stdout.ends_with("built\nagain\n"), "{done:?}");
    Ok(())
}

/// Podman on the store itself finds no files in the layers, so it stops at once with a sentence.
fn without_an_agent_podman_says_what_to_do(cluster: &Cluster) -> anyhow::Result<()> {
    let script = r#"
        export XDG_RUNTIME_DIR=$(mktemp -d); cd $XDG_RUNTIME_DIR
        p() { podman --root $PWD/graph --runroot $PWD/run --storage-opt additionalimagestore=/shared/store \
            --storage-opt mount_program=/usr/libexec/parallax/parallax-mount-program "$@"; }
        trap 'podman unshare rm -rf $XDG_RUNTIME_DIR/graph $XDG_RUNTIME_DIR/run; rm -rf $XDG_RUNTIME_DIR' EXIT
        code=0
        p save --quiet -o saved.tar python || code=$?
        p push --quiet dir:$PWD/pushed python || true
        echo "code $code"
        p run --rm --network=host --entrypoint "" python tool
    "#;
    let done = cluster.run("n1", "u1", &["bash", "-euc", script])?.success()?;
    ensure!(done.stdout.starts_with("code 125"), "{done:?}");
    ensure!(done.stderr.contains("save and push images of this store inside a job step"), "{done:?}");
    ensure!(!done.stderr.contains("Digest did not match"), "{done:?}");
    Ok(())
}

fn verify_and_rm_know_the_data(cluster: &Cluster) -> anyhow::Result<()> {
    let script = r#"
        work=$(mktemp -dp "$1"); trap 'rm -rf $work' EXIT; cd $work; program=$2 images=$3
        parallax() { "$program" --store $work/store "$@"; }
        parallax migrate oci:$images/static --name a; parallax verify --deep
        data=$(echo store/parallax/layers/*.tar-split.gz); test -s $data
        test -e store/overlay-layers/*.tar-split.gz
        echo >>$data
        ! parallax verify >said; grep -q "$(basename $data)" said
        parallax rm a; parallax gc --grace 0
        find store -name '*tar-split*' | grep -v no-files && exit 1
        # A store of an earlier version has none, and is as good as it was.
        parallax migrate oci:$images/static --name a
        rm store/parallax/layers/*.tar-split.gz store/overlay-layers/*.tar-split.gz
        for description in store/parallax/layers/*.json; do
            jq -c 'del(.tar_split, .shape)' $description >new && cp new $description
        done
        parallax verify --deep
        parallax migrate oci:$images/static --name a
        echo fine
    "#;
    // The nodes have no squashfs-tools-ng.
    let program = repository().join("target/release/parallax");
    let mut command = Command::new("bash");
    command.args(["-euc", script, "bash"]).args([cluster.shared(), program, repository().join("target/images")]);
    let done = Done::from(command.output()?).success()?;
    ensure!(done.stdout.ends_with("fine\n"), "{done:?}");
    Ok(())
}
