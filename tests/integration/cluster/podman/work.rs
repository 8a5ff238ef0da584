//! Work of the kinds that people do in containers, in `podman` mode on an image of the store: a web application, a build, and an application
//! of many small files.

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};

use super::MODE;

tests! { cluster:
    a_web_application_serves_and_its_container_becomes_an_image,
    a_build_makes_what_is_out_of_date_by_many_processes,
    an_application_of_many_small_files_installs_and_starts,
}

/// Runs a script in `podman` mode, in a directory of the user's that goes with it. `in_image` runs a command in a new container.
fn work(cluster: &Cluster, script: &str) -> anyhow::Result<Done> {
    let script = format!(
        "work=$(mktemp -d ~/XXXXXX); trap 'rm -rf $work' EXIT; cd $work; chmod 755 .
        in_image=\"podman run --user=0 --network=none --entrypoint= --volume=$work:/own --workdir=/own\"
        {script}"
    );
    let options = ["--quiet", "-w", "n1", "--parallax-image=python", MODE, "bash", "-euc", &script];
    cluster.srun("u1", &options)?.success()
}

const WEB: &str = r#"
    cat >app.py <<'END'
import http.server, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"you asked for {self.path}\n".encode())
def stop(*_):
    print("stopped")
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler)
print("ready")
server.serve_forever()
END
    $in_image --detach --name app python python3 -u app.py >/dev/null
    sed /ready/q < <(podman logs --follow app)
    podman exec app python3 -c 'import urllib.request as r; print(r.urlopen("http://127.0.0.1:8000/page").read().decode(), end="")'
    podman logs app 2>&1 | grep -c 'GET /page'
    podman exec app sh -c 'echo from the container >/note'
    podman cp app:/note note; cat note
    echo from the node >own; podman cp own app:/opt/own; podman exec app cat /opt/own
    podman top app comm | tail -n1
    podman stop --time 60 app >/dev/null; podman logs app 2>/dev/null | tail -n1; podman inspect --format '{{.State.ExitCode}}' app
    podman commit --quiet app kept >/dev/null; podman rm app >/dev/null
    podman save --quiet --output kept.tar kept; podman rmi kept >/dev/null; podman load --quiet --input kept.tar >/dev/null
    podman run --rm --entrypoint= kept cat /note /opt/own
"#;

fn a_web_application_serves_and_its_container_becomes_an_image(cluster: &Cluster) -> anyhow::Result<()> {
    let done = work(cluster, WEB)?;
    let expected = "ready\nyou asked for /page\n1\nfrom the container\nfrom the node\npython3\nstopped\n3\n\
                    from the container\nfrom the node\n";
    ensure!(done.stdout == expected, "{done:?}");
    Ok(())
}

const BUILD: &str = r#"
    mkdir src
    for i in $(seq 200); do seq $i >src/$i.in; done
    cat >build.py <<'END'
import concurrent.futures, os, subprocess, sys
def older(name):
    made = f"src/{name}.out"
    return not os.path.exists(made) or os.stat(made).st_mtime_ns < os.stat(f"src/{name}.in").st_mtime_ns
def make(name):
    subprocess.run(["sh", "-c", 'wc -l <"$0.in" >"$0.new" && mv "$0.new" "$0.out"', f"src/{name}"], check=True)
names = [entry.name[:-3] for entry in os.scandir("src") if entry.name.endswith(".in")]
todo = [name for name in names if older(name)]
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(make, todo))
print("made", len(todo), "sum", sum(int(open(f"src/{name}.out").read()) for name in names))
END
    printf '%s\n' 'FROM python' 'USER 0' 'WORKDIR /build' 'COPY . .' 'RUN python3 build.py' 'RUN touch src/7.in && python3 build.py' \
        'RUN rm -r /opt/* src/*.in' 'CMD ["cat", "src/9.out"]' >Containerfile
    podman build --tag built . 2>&1 | grep '^made'
    podman run --rm --entrypoint= built sh -c 'cat src/9.out; ls src | wc -l; ls /opt'
    # In the directory of the user, with the image as it is.
    $in_image --rm python python3 build.py; $in_image --rm python python3 build.py; touch src/1.in src/2.in; $in_image --rm python python3 build.py
    stat --format '%U' src/1.out
"#;

fn a_build_makes_what_is_out_of_date_by_many_processes(cluster: &Cluster) -> anyhow::Result<()> {
    let done = work(cluster, BUILD)?;
    let expected =
        "made 200 sum 20100\nmade 1 sum 20100\n9\n200\nmade 200 sum 20100\nmade 0 sum 20100\nmade 2 sum 20100\nu1\n";
    ensure!(done.stdout == expected, "{done:?}");
    Ok(())
}

const MODULES: &str = r#"
    cat >install.py <<'END'
import json, os, shutil
os.makedirs("/app/modules/.bin")
for number in range(1000):
    name = f"scope{number % 50}/module{number}"
    stage = f"/app/.stage/{name}"
    os.makedirs(stage)
    with open(f"{stage}/package.json", "w") as file:
        json.dump({"name": name, "version": "1.0.0"}, file)
    with open(f"{stage}/index.py", "w") as file:
        file.write(f"value = {number}\n")
    os.makedirs(f"/app/modules/{os.path.dirname(name)}", exist_ok=True)
    os.rename(stage, f"/app/modules/{name}")
    os.symlink(f"../{name}/index.py", f"/app/modules/.bin/{number}")
shutil.rmtree("/app/.stage")
# A directory of the image.
shutil.move("/usr/lib/python3", "/app/modules/moved")
with open("/app/package.json", "w") as file:
    json.dump({"scripts": {"start": "exec python3 -u /app/main.py"}}, file)
END
    cat >main.py <<'END'
import glob, json, runpy
total = sum(runpy.run_path(path)["value"] for path in glob.glob("/app/modules/.bin/*"))
names = {json.load(open(path))["name"] for path in glob.glob("/app/modules/scope*/*/package.json")}
print(total, len(names))
raise SystemExit(7)
END
    cat >start.py <<'END'
import json, subprocess
raise SystemExit(subprocess.run(["sh", "-c", json.load(open("/app/package.json"))["scripts"]["start"]]).returncode)
END
    $in_image --name app python sh -c 'python3 install.py && cp main.py /app && python3 start.py' || echo $?
    podman commit --quiet app installed >/dev/null
    podman run --rm --user=0 --volume=$work:/own --entrypoint= installed python3 /own/start.py || echo $?
    podman run --rm --user=0 --entrypoint= installed sh -c 'ls -d /usr/lib/python3 2>/dev/null; ls -d /app/modules/moved'
    podman diff app | grep -c '^A /app/modules/scope'
"#;

fn an_application_of_many_small_files_installs_and_starts(cluster: &Cluster) -> anyhow::Result<()> {
    let done = work(cluster, MODULES)?;
    let expected = "499500 1000\n7\n499500 1000\n7\n/app/modules/moved\n3050\n";
    ensure!(done.stdout == expected, "{done:?}");
    Ok(())
}
