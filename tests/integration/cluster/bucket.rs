//! Chunks from a bucket: a server that speaks as much of S3's protocol as chunks need, and checks each signature itself.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;
use integration_tests::lazy_service::LazyService;

use super::backend::with_config;
use super::lazy::{end_reading, expected, publish, start_reading};

tests! { cluster:
    a_step_reads_an_image_from_a_bucket_and_a_wrong_key_is_refused,
}

const NODE: &str = "n1";
const CONFIG: &str = "stores = [\"/shared/lazy\"]\n[lazy]\nenabled = true\nsocket = \"/run/lazy/socket\"\ncache = \"/run/lazy/cache\"\n\
    sources = [\"s3://images/layers\"]\ns3_endpoint = \"http://127.0.0.1:9317\"\ns3_region = \"site\"\n\
    s3_credentials = \"/run/s3-credentials\"\ntimeout = 20\n";

/// Serves the directory of its argument as buckets, for the key "SITEKEY" with the secret "s3cr/et+", over the path style. Python's own
/// HTTP server and HMAC are not on the nodes.
const SERVER: &str = r#"
import calendar, hashlib, socket, sys, threading, time

def hmac(key, text):
    key = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + text.encode()).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()

def refusal(target, sent):
    kind, _, rest = sent.get("authorization", "").partition(" ")
    if kind != "AWS4-HMAC-SHA256":
        return "AccessDenied"
    fields = dict(field.split("=", 1) for field in rest.split(","))
    key, date, region, service, end = fields["Credential"].split("/")
    names = fields["SignedHeaders"].split(";")
    if key != "SITEKEY" or (region, service, end) != ("site", "s3", "aws4_request"):
        return "InvalidAccessKeyId"
    if names != sorted(names) or not {"host", "x-amz-date", "x-amz-content-sha256"} <= set(names):
        return "AccessDenied"
    stamp = sent["x-amz-date"]
    if abs(calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ")) - time.time()) > 900 or stamp[:8] != date:
        return "RequestTimeTooSkewed"
    path, _, query = target.partition("?")
    headers = "".join(f"{name}:{sent[name]}\n" for name in names)
    canonical = "\n".join(["GET", path, query, headers, ";".join(names), sent["x-amz-content-sha256"]])
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    signing = b"AWS4s3cr/et+"
    for part in (date, region, service, end):
        signing = hmac(signing, part)
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, f"{date}/{region}/{service}/{end}", hashed])
    return None if hmac(signing, text).hex() == fields["Signature"] else "SignatureDoesNotMatch"

def answer(connection):
    stream = connection.makefile("rwb")
    while line := stream.readline().decode():
        method, target, _ = line.split()
        sent = {}
        while (line := stream.readline().decode().strip()):
            name, _, value = line.partition(":")
            sent[name.lower()] = value.strip()
        code = refusal(target, sent) if method == "GET" else "MethodNotAllowed"
        status, body = "403 Forbidden", f"<Error><Code>{code}</Code></Error>".encode()
        if code is None:
            try:
                with open(sys.argv[1] + target, "rb") as file:
                    status, body = "200 OK", file.read()
            except FileNotFoundError:
                status, body = "404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>"
        stream.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        stream.flush()

server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", 9317))
server.listen(64)
print("ready", flush=True)
while True:
    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
"#;

/// The server. It ends with this value.
struct Server(Child);

impl Server {
    fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut command = cluster.command(NODE, "u2", &["python3", "-c", SERVER, "/shared/buckets"]);
        let mut server = Self(command.stdout(Stdio::piped()).spawn()?);
        let mut line = String::new();
        BufReader::new(server.0.stdout.take().context("no output")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "the server said {line:?}");
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes the credentials, which only the worker's account can read.
fn write_credentials(cluster: &Cluster, secret: &str) -> anyhow::Result<()> {
    let text = format!(
        "umask 077; printf '[default]\\naws_access_key_id = SITEKEY\\naws_secret_access_key = {secret}\\n' >/run/s3-credentials
        chown 65534:65534 /run/s3-credentials"
    );
    cluster.shell(NODE, &text).map(drop)
}

fn a_step_reads_an_image_from_a_bucket_and_a_wrong_key_is_refused(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster, "n2")?;
    publish(cluster, false)?;
    // The only place with chunks is the bucket.
    let moved =
        "mkdir -p /shared/buckets/images; mv /shared/lazy/parallax/layers/default.castr /shared/buckets/images/layers";
    let tested = cluster.shell("ctl", moved).and_then(|_| {
        let _server = Server::start(cluster)?;
        write_credentials(cluster, "wrong")?;
        with_config(cluster, NODE, CONFIG, || {
            {
                let _service = LazyService::start(cluster, NODE)?;
                let done = cluster.srun("u1", &["-w", NODE, "--parallax-image=python", "true"])?;
                let part = "s3://images/layers: HTTP status 403 (SignatureDoesNotMatch)";
                ensure!(done.code != 0 && done.stderr.contains(part), "{done:?}");
                let doctor = cluster.shell(NODE, "parallax doctor || true")?;
                let part = "came from s3://images/layers: HTTP status 403 (SignatureDoesNotMatch)";
                ensure!(doctor.contains(part), "no {part:?} in {doctor}");
                // The key is replaced while the worker runs.
                write_credentials(cluster, "s3cr/et+")?;
                end_reading(start_reading(cluster, NODE)?, &expected)?;
                let status = cluster.shell(NODE, "parallax status --lazy --json")?;
                let status: serde_json::Value = serde_json::from_str(&status)?;
                let chunks = status.pointer("/sources/0/chunks").and_then(serde_json::Value::as_u64);
                ensure!(status["sources"][0]["name"] == "s3://images/layers", "{status}");
                ensure!(chunks.is_some_and(|chunks| chunks > 500), "{status}");
            }
            cluster.shell(NODE, "chmod 644 /run/s3-credentials")?;
            let _service = LazyService::start(cluster, NODE)?;
            let done = cluster.srun("u1", &["-w", NODE, "--parallax-image=python", "true"])?;
            ensure!(done.code != 0 && done.stderr.contains("everybody has access to it (mode 0644)"), "{done:?}");
            let doctor = cluster.shell(NODE, "parallax doctor || true")?;
            ensure!(doctor.contains("everybody has access to it (mode 0644)"), "{doctor}");
            Ok(())
        })
    });
    cluster.shell(NODE, "rm -f /run/s3-credentials")?;
    cluster.shell("ctl", "rm -rf /shared/lazy /shared/buckets")?;
    tested
}
