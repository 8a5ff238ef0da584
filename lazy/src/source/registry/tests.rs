use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;

use parallax_chunks::{Algorithm, Parameters};
use parallax_format::chunk_artifact::LayerBlobs;
use parallax_format::oci::Descriptor;

use super::super::http::HttpProxy;
use super::super::testing::request;
use super::*;

const MAX: usize = 1000;
/// base64 of `site:secret`.
const PASSWORD: &str = "c2l0ZTpzZWNyZXQ=";

fn id(text: &[u8]) -> ChunkId {
    ChunkId::of(text, Algorithm::Sha256)
}

fn layer(byte: u8) -> Sha256 {
    Sha256::from([byte; 32])
}

fn digest(bytes: &[u8]) -> Digest {
    let sha256: [u8; 32] = sha2::Sha256::digest(bytes).into();
    Digest::from(Sha256::from(sha256))
}

/// What a registry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Basic,
    Bearer,
    WithoutRanges,
    OtherIndex,
}

/// What a registry has: chunks of "one" and "three" in a blob, for the layer 1.
struct Content {
    manifest: Vec<u8>,
    index: Vec<u8>,
    blob: Vec<u8>,
}

fn content() -> Content {
    let parameters = Parameters::new(16 << 10, 64 << 10, 512 << 10).unwrap();
    let index = Index::new(Algorithm::Sha256, parameters, &[(id(b"1"), 3), (id(b"3"), 5)]).to_bytes();
    let blob = b"onethree".to_vec();
    let subject = Descriptor { media_type: None, digest: digest(b"image").to_string(), size: 5 };
    let blobs = LayerBlobs { layer: layer(1), index: (digest(&index), index.len() as u64), chunks: (digest(&blob), 8) };
    Content { manifest: ChunkArtifact::new(subject, &[blobs]).to_bytes(), index, blob }
}

/// Answers a request. Returns status, further headers and body.
fn answer(kind: Kind, path: &str, headers: &BTreeMap<String, String>) -> (&'static str, String, Vec<u8>) {
    let Content { manifest, index, blob } = content();
    let authorization = headers.get("authorization").map(String::as_str);
    let basic = format!("Basic {PASSWORD}");
    if let Some(query) = path.strip_prefix("/token?") {
        assert_eq!(query, "service=registry.site&scope=repository:org/app:pull");
        return if authorization == Some(&basic) {
            ("200 OK", String::new(), b"{\"token\":\"t0ken\"}".to_vec())
        } else {
            ("401 Unauthorized", String::new(), Vec::new())
        };
    }
    let (needed, challenge) = match kind {
        Kind::Basic => (Some(basic), "Basic realm=\"x\"".to_owned()),
        Kind::Bearer => {
            let realm = format!("http://{}/token", headers["host"]);
            (Some("Bearer t0ken".to_owned()), format!("Bearer realm=\"{realm}\",service=\"registry.site\""))
        }
        _ => (None, String::new()),
    };
    if needed.is_some() && authorization != needed.as_deref() {
        return ("401 Unauthorized", format!("WWW-Authenticate: {challenge}\r\n"), b"{}".to_vec());
    }
    let path = path.strip_prefix("/v2/org/app/").unwrap();
    if path == format!("manifests/{}", layer_tag(&layer(1))) {
        assert_eq!(headers["accept"], MANIFEST_TYPE);
        return ("200 OK", String::new(), manifest);
    }
    if path == format!("blobs/{}", digest(&index)) {
        return ("200 OK", String::new(), if kind == Kind::OtherIndex { vec![1; 96] } else { index });
    }
    if path != format!("blobs/{}", digest(&blob)) {
        return ("404 Not Found", String::new(), b"{\"errors\":[]}".to_vec());
    }
    let (start, end) = headers["range"].strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
    if kind == Kind::WithoutRanges {
        return ("200 OK", String::new(), blob);
    }
    ("206 Partial Content", format!("Content-Range: bytes {start}-{end}/8\r\n"), blob[start..=end].to_vec())
}

/// Starts a registry. Returns its host.
fn registry(kind: Kind) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (line, headers) = request(&mut stream);
            let (status, more, body) = answer(kind, line.split(' ').nth(1).unwrap(), &headers);
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n");
            stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        }
    });
    host
}

fn source(kind: Kind, credentials: Option<&Path>) -> RegistrySource {
    let host = registry(kind);
    let options = RegistryOptions { credentials: credentials.map(Path::to_owned), insecure: vec![host.clone()] };
    let http = HttpOptions { pause: Duration::from_millis(1), proxy: HttpProxy::Direct, ..HttpOptions::default() };
    if let Some(path) = credentials {
        write_credentials(path, &host, PASSWORD);
    }
    RegistrySource::new(&format!("docker://{host}/org/app/"), &options, &http).unwrap()
}

fn write_credentials(path: &Path, host: &str, password: &str) {
    fs::write(path, format!("{{\"auths\": {{\"{host}\": {{\"auth\": \"{password}\"}}}}}}")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn chunks_are_parts_of_the_layers_blob() {
    let source = source(Kind::Open, None);
    assert!(source.name().starts_with("docker://127.0.0.1:") && source.name().ends_with("/org/app"));
    assert_eq!(source.file(&layer(1), &id(b"1"), MAX).unwrap(), b"one");
    assert_eq!(source.file(&layer(1), &id(b"3"), MAX).unwrap(), b"three");
    assert_eq!(source.file(&layer(1), &id(b"2"), MAX), Err(SourceError::NotFound));
    assert_eq!(source.file(&layer(2), &id(b"1"), MAX), Err(SourceError::NotFound));
    assert!(matches!(source.file(&layer(1), &id(b"3"), 4), Err(SourceError::Permanent(_))));
}

#[test]
fn passwords_and_tokens_are_sent_where_they_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.json");
    for kind in [Kind::Basic, Kind::Bearer] {
        let source = source(kind, Some(&path));
        assert_eq!(source.file(&layer(1), &id(b"1"), MAX).unwrap(), b"one", "{kind:?}");
        let host = source.name().strip_prefix("docker://").unwrap().strip_suffix("/org/app").unwrap().to_owned();
        let again = |password: &str| {
            write_credentials(&path, &host, password);
            let options = RegistryOptions { credentials: Some(path.clone()), insecure: vec![host.clone()] };
            let http = HttpOptions { proxy: HttpProxy::Direct, ..HttpOptions::default() };
            RegistrySource::new(source.name(), &options, &http).unwrap()
        };
        let wrong = again("d3Jvbmc6eA==");
        let denied = wrong.file(&layer(1), &id(b"1"), MAX);
        assert!(matches!(&denied, Err(SourceError::Denied(_))), "{denied:?}");
        // The right one is used when the file has it.
        write_credentials(&path, &host, PASSWORD);
        thread::sleep(FAILURE_INTERVAL);
        assert_eq!(wrong.file(&layer(1), &id(b"1"), MAX).unwrap(), b"one");
    }
    // A password is sent to no server of tokens without TLS, unless the registry is an insecure one.
    let secure = Authorization::new(Some(path), "registry.site", "org/app", false);
    let client = Client::new(&HttpOptions::default()).unwrap();
    let url = format!("http://{}/v2/org/app/manifests/x", registry(Kind::Bearer));
    let refused = secure.get(&client, &url, 200, MAX, &[]).map(|answer| answer.status);
    assert!(matches!(&refused, Err(SourceError::Permanent(text)) if text.contains("has no TLS")), "{refused:?}");
}

#[test]
fn a_registry_without_ranges_is_named_and_not_asked_for_blobs_again() {
    let source = source(Kind::WithoutRanges, None);
    for _ in 0..2 {
        let error = source.file(&layer(1), &id(b"1"), MAX).unwrap_err();
        assert!(error.to_string().contains("does not support Range requests"), "{error}");
    }
}

#[test]
fn an_index_that_is_not_the_manifests_is_refused() {
    let error = source(Kind::OtherIndex, None).file(&layer(1), &id(b"1"), MAX).unwrap_err();
    assert!(error.to_string().contains("is corrupt"), "{error}");
}

#[test]
fn settings_are_checked() {
    let made = |url: &str| RegistrySource::new(url, &RegistryOptions::default(), &HttpOptions::default());
    assert_eq!(made("docker://h.site:5000/a/b-c").unwrap().base, "https://h.site:5000/v2/a/b-c");
    assert_eq!(made("docker://docker.io/library/x").unwrap().base, "https://registry-1.docker.io/v2/library/x");
    for url in [
        "docker://h",
        "docker:///a",
        "docker://h/",
        "docker://h/A",
        "docker://h/a:1",
        "docker://h/../a",
        "docker://u@h/a",
    ] {
        assert!(matches!(made(url), Err(SettingsError::Repository(_))), "{url}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.json");
    write_credentials(&path, "h", PASSWORD);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let options = RegistryOptions { credentials: Some(path), ..RegistryOptions::default() };
    let error = RegistrySource::new("docker://h/a", &options, &HttpOptions::default()).unwrap_err();
    assert!(error.to_string().contains("everybody has access to it (mode 0644)"), "{error}");
}
