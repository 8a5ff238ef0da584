//! Messages where nobody is at a terminal, and where nobody reads them.

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};

tests! { cluster:
    pipes_and_plain_terminals_get_plain_text,
    nobody_reads_them,
}

const PRELUDE: &str = r#"
    work=$(mktemp -d) && cd "$work"
    trap 'cd /; rm -rf "$work"' EXIT
    # An image of which there is something to be warned of: it is for another machine.
    mkdir archive; skopeo copy --quiet oci:/images/static docker-archive:one.tar:app:1; tar -C archive -xf one.tar
    config=$(ls archive | grep -E '^[0-9a-f]{64}\.json$')
    sed -i 's/"architecture": *"[a-z0-9_]*"/"architecture":"s390x"/' "archive/$config"
    new=$(sha256sum "archive/$config" | cut -d' ' -f1).json
    mv "archive/$config" "archive/$new"; sed -i "s/$config/$new/" archive/manifest.json
    tar -C archive -cf odd.tar $(ls archive)
"#;

fn script(cluster: &Cluster, text: &str) -> anyhow::Result<Done> {
    cluster.run("ctl", "root", &["bash", "-euc", &format!("{PRELUDE}\n{text}")])?.success()
}

fn pipes_and_plain_terminals_get_plain_text(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        migrate='parallax --store store migrate docker-archive:odd.tar'
        fresh() { rm -rf store; echo "@@ $1"; }
        fresh pipe;     $migrate 2>&1 | cat
        fresh verbose;  $migrate -vv 2>&1 | cat
        fresh failure;  parallax --store store list 2>&1 | cat
        fresh old;      mkdir store; parallax --migrate --image none:1 --podmanRoot / --roStoragePath store 2>&1 | cat
        fresh doctor;   parallax doctor 2>&1 | cat
        fresh no-color; NO_COLOR=1 TERM=xterm script -qec "$migrate" /dev/null </dev/null
        fresh dumb;     TERM=dumb script -qec "$migrate" /dev/null </dev/null
        fresh terminal; TERM=xterm script -qec "$migrate" /dev/null </dev/null
    "#;
    let done = script(cluster, text)?;
    let said = |case: &str| {
        let part = done.stdout.split("@@ ").find_map(|part| part.strip_prefix(case)?.strip_prefix('\n'));
        part.unwrap_or_default().to_owned()
    };
    for case in ["pipe", "verbose", "failure", "old", "doctor", "dumb"] {
        let said = said(case);
        ensure!(!said.is_empty() && !said.contains('\x1b'), "{case}: {said:?}");
        ensure!(!said.contains("parallax_migrate_cli") && !said.contains(" WARN "), "{case}: {said:?}");
    }
    let warning = "parallax: warning: docker.io/library/app:1: the image is for linux/s390x";
    for case in ["pipe", "verbose", "dumb", "no-color"] {
        ensure!(said(case).contains(warning), "{case}: {:?}", said(case));
    }
    // Bars move the cursor; colours are something else.
    ensure!(!said("no-color").contains("\x1b[3"), "{:?}", said("no-color"));
    ensure!(
        said("terminal").contains("parallax: \x1b[33mwarning:\x1b[0m docker.io/library/app:1"),
        "{:?}",
        said("terminal")
    );
    Ok(())
}

fn nobody_reads_them(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        # Runs a command whose standard output and error are a pipe that nobody reads any more.
        closed() {
            local code=0
            exec 5> >(:); wait $!
            "$@" >&5 2>&5 || code=$?
            exec 5>&-
            echo "$*: $code"
        }
        export PARALLAX_STORE=$work/store
        mkdir old
        closed parallax migrate docker-archive:odd.tar
        closed parallax migrate oci:/nonexistent
        closed parallax list
        closed parallax inspect app:1 --json
        closed parallax tag app:1 other:1
        closed parallax verify
        closed parallax rm other:1 app:1
        closed parallax gc --grace 0
        closed parallax man
        closed parallax nonsense
        closed parallax --version
        closed parallax --migrate
        closed parallax --migrate --image none:1 --podmanRoot / --roStoragePath old
        closed /usr/libexec/parallax/parallax-mount-program --help
        closed /usr/libexec/parallax/parallax-mount-program
        closed /usr/libexec/parallax/parallax-mount-program -o volatile /tmp
        ls store/parallax/images | wc -l
    "#;
    let done = script(cluster, text)?;
    let mut codes = Vec::new();
    for line in done.stdout.lines() {
        codes.push(line.rsplit_once(": ").map_or(line, |(_, code)| code));
    }
    let expected = "0 1 0 0 0 0 0 0 0 2 0 2 1 0 2 1 0";
    ensure!(codes.join(" ") == expected, "not {expected}: {done:?}");
    Ok(())
}
