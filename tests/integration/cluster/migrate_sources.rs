//! Images from registries with passwords and certificates of their own, by short names, and for several platforms.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done, repository};
use integration_tests::images;

tests! { cluster:
    a_registry_with_a_password_and_certificates,
    short_names_as_podman_resolves_them,
    an_index_gives_the_image_of_the_platform,
    another_podmans_storage,
    podmans_storage_knows_the_index,
}

/// A directory of its own that goes with whatever was started, a store in it, and `registry NAME`, which starts the one that
/// NAME.yml describes and returns when it listens.
const PRELUDE: &str = r#"
    work=$(mktemp -d) && cd "$work"
    trap 'kill $(jobs -p) 2>/dev/null || true; cd /; rm -rf "$work"' EXIT
    parallax() { command parallax --store "$work/store" "$@"; }
    fails() { local expected=$1 code=0; shift; "$@" >said 2>&1 || code=$?; cat said; [ $code = 1 ] && grep -q "$expected" said; }
    registry() {
        mkfifo "$1.log"
        docker-registry serve "$1.yml" >"$1.log" 2>&1 &
        exec {log}<"$1.log"
        sed '/listening on/q' <&$log | grep 'listening on'
        cat <&$log >/dev/null &
    }
"#;

fn script(cluster: &Cluster, text: &str) -> anyhow::Result<Done> {
    cluster.run("ctl", "root", &["bash", "-euc", &format!("{PRELUDE}\n{text}")])?.success()
}

fn a_registry_with_a_password_and_certificates(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        trap 'rm -rf /etc/containers/certs.d; kill $(jobs -p) 2>/dev/null || true; cd /; rm -rf "$work"' EXIT
        mkdir certs
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=test authority" -keyout ca.key -out certs/ca.crt 2>/dev/null
        openssl req -newkey rsa:2048 -nodes -subj "/CN=127.0.0.1" -keyout server.key -out server.csr 2>/dev/null
        openssl x509 -req -in server.csr -CA certs/ca.crt -CAkey ca.key -CAcreateserial -days 2 -out server.crt \
            -extfile <(echo subjectAltName=IP:127.0.0.1) 2>/dev/null
        # "secret", by bcrypt
        echo 'admin:$2y$04$1WmjudzpA2zdZ4k8kk7IwuBpTEe1fzooBzP9RqifwsCjPg9w.5uIG' >passwords
        cat >closed.yml <<END
version: 0.1
storage: { filesystem: { rootdirectory: $work/closed } }
http: { addr: "127.0.0.1:5000", tls: { certificate: $work/server.crt, key: $work/server.key } }
auth: { htpasswd: { realm: test, path: $work/passwords } }
END
        registry closed
        image=127.0.0.1:5000/closed/app:1
        skopeo copy --quiet --dest-creds admin:secret --dest-cert-dir certs oci:/images/static docker://$image
        skopeo login --authfile auth.json --cert-dir certs -u admin -p secret 127.0.0.1:5000
        fails 'x509\|certificate' parallax migrate --authfile auth.json docker://$image
        fails 'authentication required\|unauthorized' parallax migrate --cert-dir certs docker://$image
        parallax migrate --cert-dir certs --authfile auth.json docker://$image --name by-directory
        parallax migrate --tls-verify=false --authfile auth.json docker://$image --name unchecked
        mkdir -p /etc/containers/certs.d/127.0.0.1:5000
        cp certs/ca.crt /etc/containers/certs.d/127.0.0.1:5000
        parallax migrate --authfile auth.json docker://$image
        parallax list; parallax verify
    "#;
    let done = script(cluster, text)?;
    for name in ["localhost/by-directory:latest", "localhost/unchecked:latest", "127.0.0.1:5000/closed/app:1"] {
        ensure!(done.stdout.contains(name), "no {name}: {done:?}");
    }
    Ok(())
}

fn short_names_as_podman_resolves_them(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        conf=/etc/containers/registries.conf.d/zz-test.conf
        trap 'rm -f $conf; kill $(jobs -p) 2>/dev/null || true; cd /; rm -rf "$work"' EXIT
        printf 'version: 0.1\nstorage: { filesystem: { rootdirectory: %s/open } }\nhttp: { addr: "127.0.0.1:5000" }\n' "$work" >open.yml
        registry open
        skopeo copy --quiet --dest-tls-verify=false oci:/images/static docker://127.0.0.1:5000/some/thing:2
        podman() { command podman --root "$work/root" --runroot "$work/run" "$@" </dev/null; }
        configure() {
            printf '%s\n[[registry]]\nlocation = "127.0.0.1:5000"\ninsecure = true\n[[registry]]\nlocation = "127.0.0.1:5001"\ninsecure = true\n[aliases]\n"nick" = "127.0.0.1:5000/some/thing"\n' "$1" >$conf
        }
        # Podman and parallax, on the same name, come to the same image or both fail.
        same() {
            podman rmi --all --force >/dev/null
            podman pull --quiet "$1" | tail -1 >by-podman
            rm -rf store; parallax migrate --json "$1" | sed -n 's/.*"id": "\(.*\)",/\1/p' >by-parallax
            cmp by-podman by-parallax
        }
        none() { ! podman pull "$2" >said-podman 2>&1; fails "$1" parallax migrate "$2"; }
        none 'no unqualified-search registries' some/thing:2
        configure 'unqualified-search-registries = ["127.0.0.1:5001", "127.0.0.1:5000"]'
        same some/thing:2; same nick:2
        parallax list; parallax migrate some/thing:2
        none 'image not found in the searched registries' some/other
        configure 'unqualified-search-registries = ["127.0.0.1:5001", "127.0.0.1:5000"]
short-name-mode = "enforcing"'
        none 'may mean 127.0.0.1:5001/some/thing:2 or 127.0.0.1:5000/some/thing:2, and short-name-mode is "enforcing"' \
            some/thing:2
        # Who is at a terminal is asked.
        printf '3\n2\n' | script -qec "parallax --store $work/store migrate --name asked some/thing:2" /dev/null >asked
        [ "$(grep -o 'Which one?' asked | wc -l)" = 2 ]
        parallax inspect asked >/dev/null
        same nick:2
        configure 'unqualified-search-registries = ["127.0.0.1:5000"]
short-name-mode = "enforcing"'
        same some/thing:2
        umount -l root/overlay 2>/dev/null || true
    "#;
    let done = script(cluster, text)?;
    for part in ["127.0.0.1:5000/some/thing:2", "nothing to do", "trying 127.0.0.1:5000/some/thing:2"] {
        ensure!(done.stdout.contains(part) || done.stderr.contains(part), "no {part:?}: {done:?}");
    }
    Ok(())
}

/// Makes `/shared/platforms`, indexes in both formats, and returns where it is.
fn images_of_several_platforms(cluster: &Cluster) -> anyhow::Result<PathBuf> {
    let made = cluster.shared().join("platforms");
    let python = Command::new("python3")
        .arg(repository().join("tests/integration/layouts.py"))
        .arg("platforms")
        .args([images::layout("static"), made.clone()])
        .output()?;
    Done::from(python).success()?;
    Ok(made)
}

fn an_index_gives_the_image_of_the_platform(cluster: &Cluster) -> anyhow::Result<()> {
    let made = images_of_several_platforms(cluster)?;
    let text = r#"
        printf 'version: 0.1\nstorage: { filesystem: { rootdirectory: %s/open } }\nhttp: { addr: "127.0.0.1:5000" }\n' "$work" >open.yml
        registry open
        arch() { parallax inspect --json "$1" | sed -n 's/.*"ARCH=\(.*\)".*/\1/p'; }
        for kind in oci docker; do
            from=oci:/shared/platforms/$kind
            skopeo copy --quiet --all $from oci-archive:$kind.tar
            skopeo copy --quiet --all $from dir:$kind
            skopeo copy --quiet --all --dest-tls-verify=false $from docker://127.0.0.1:5000/$kind:1
            for source in $from oci-archive:$kind.tar dir:$kind docker://127.0.0.1:5000/$kind:1; do
                rm -rf store
                echo "$source"
                # Not the same everywhere: skopeo makes OCI's of Docker's where it must.
                index=$(skopeo inspect --tls-verify=false --raw $source | sha256sum | cut -d' ' -f1)
                parallax migrate --tls-verify=false $source --name here
                parallax migrate --tls-verify=false $source --name there --platform linux/arm64
                parallax migrate --tls-verify=false $source --name there --platform linux/arm64/v8 | grep 'nothing to do' || true
                [ "$(arch here) $(arch there)" = "amd64 arm64" ]
                # The index means the image that was chosen of it last.
                [ "$(arch here@sha256:$index)" = arm64 ]
                fails 'linux/arm64/v8' parallax migrate --tls-verify=false $source --name none --platform linux/s390x
                parallax verify
            done
        done
        fails 'not for linux/s390x' parallax migrate oci:/images/static --platform linux/s390x
    "#;
    let done = script(cluster, text);
    fs::remove_dir_all(made)?;
    done.map(drop)
}

/// Root reads a storage that is neither its own nor mounted, and leaves no mount behind.
fn another_podmans_storage(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        before=$(grep -c . /proc/self/mountinfo)
        unshare --mount skopeo copy --quiet oci:/images/python "containers-storage:[overlay@$work/elsewhere+$work/run]localhost/mine:1"
        parallax migrate --podman-root elsewhere containers-storage:localhost/mine:1
        parallax migrate --podman-root elsewhere containers-storage:localhost/mine:1 --flatten --name flat
        fails 'is not a storage' parallax migrate --podman-root / containers-storage:localhost/mine:1
        parallax verify; parallax list
        [ "$(grep -c . /proc/self/mountinfo)" = "$before" ]
    "#;
    let done = script(cluster, text)?;
    ensure!(done.stdout.contains("localhost/mine:1") && done.stdout.contains("localhost/flat:latest"), "{done:?}");
    let user = "skopeo copy --quiet oci:/images/static containers-storage:localhost/own:1 && \
                parallax --store $HOME/store migrate --podman-root $HOME/.local/share/containers/storage \
                containers-storage:localhost/own:1; code=$?; podman unshare rm -rf .local store; podman system migrate; \
                rm -rf .config .local; exit $code";
    cluster.run("ctl", "u1", &["sh", "-c", user])?.success().context("as the user").map(drop)
}

/// Podman keeps the index that an image was chosen from; what it only claims is not believed.
fn podmans_storage_knows_the_index(cluster: &Cluster) -> anyhow::Result<()> {
    let made = images_of_several_platforms(cluster)?;
    let text = r#"
        trap 'skopeo delete containers-storage:localhost/own:1 || true; cd /; rm -rf "$work"' EXIT
        there="containers-storage:[overlay@$work/elsewhere+$work/run]localhost/mine:1"
        unshare --mount skopeo copy --quiet oci:/shared/platforms/oci "$there"
        index=$(skopeo inspect --raw oci:/shared/platforms/oci | sha256sum | cut -d' ' -f1)
        forged=$(printf %064d 7)
        list=elsewhere/overlay-images/images.json
        sed -i "s/\"big-data-digests\":{/&\"manifest-sha256:$forged\":\"sha256:$forged\",/" $list
        grep -q $forged $list
        parallax migrate --podman-root elsewhere containers-storage:localhost/mine:1
        parallax inspect mine@sha256:$index | head -n 3
        parallax migrate --podman-root elsewhere containers-storage:localhost/mine:1 | grep 'nothing to do' || true
        fails "is in no store\|has no image\|no image" parallax inspect mine@sha256:$forged
        # Root's own, which Podman knows the place of.
        rm -rf store
        skopeo copy --quiet oci:/shared/platforms/oci containers-storage:localhost/own:1
        parallax migrate containers-storage:localhost/own:1
        parallax inspect own@sha256:$index | head -n 3
        parallax verify
    "#;
    let done = script(cluster, text);
    fs::remove_dir_all(made)?;
    done.map(drop)
}
