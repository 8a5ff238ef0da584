use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use parallax_chunks::Algorithm;
use ring::{digest, hmac};

use super::super::http::HttpProxy;
use super::super::testing::request;
use super::*;

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn layer() -> Sha256 {
    Sha256::from([1; 32])
}

fn id() -> ChunkId {
    ChunkId::of(b"x", Algorithm::Sha256)
}

fn http() -> HttpOptions {
    HttpOptions { pause: Duration::from_millis(1), proxy: HttpProxy::Direct, ..HttpOptions::default() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computes the signature of a request from what has arrived, as a server does. Returns why the request is refused.
fn refusal(line: &str, headers: &BTreeMap<String, String>) -> Option<&'static str> {
    let sha256 = |text: &str| hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    let mac =
        |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let Some(authorization) = headers.get("authorization") else { return Some("AccessDenied") };
    let fields: BTreeMap<&str, &str> =
        authorization.strip_prefix("AWS4-HMAC-SHA256 ")?.split(',').filter_map(|field| field.split_once('=')).collect();
    let (key, scope) = fields["Credential"].split_once('/')?;
    let lines: String = fields["SignedHeaders"].split(';').map(|name| format!("{name}:{}\n", headers[name])).collect();
    let path = line.split(' ').nth(1)?;
    let body = &headers["x-amz-content-sha256"];
    assert_eq!(*body, sha256(""));
    let request = format!("GET\n{path}\n\n{lines}\n{}\n{body}", fields["SignedHeaders"]);
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", headers["x-amz-date"], sha256(&request));
    let signing = scope.split('/').fold(format!("AWS4{SECRET}").into_bytes(), |key, part| mac(&key, part));
    if key != KEY {
        return Some("InvalidAccessKeyId");
    }
    assert_eq!(scope.split('/').skip(1).collect::<Vec<_>>(), ["site", "s3", "aws4_request"]);
    (hex(&mac(&signing, &text)) != fields["Signature"]).then_some("SignatureDoesNotMatch")
}

/// A server that checks signatures and answers so many requests with "content", or what `busy` says. It reports the requests' lines.
fn server(count: usize, busy: usize) -> (String, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (send, requests) = channel();
    thread::spawn(move || {
        for number in 0..count {
            let mut stream = listener.accept().unwrap().0;
            let (line, headers) = request(&mut stream);
            let (status, body) = match refusal(&line, &headers) {
                _ if number < busy => ("503 Slow Down", String::new()),
                Some(code) => ("403 Forbidden", format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>")),
                None => ("200 OK", "content".to_owned()),
            };
            let _ = send.send((line, headers["host"].clone()));
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (format!("http://{address}"), requests)
}

fn write_credentials(path: &Path, key: &str, secret: &str) {
    fs::write(path, format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn source(endpoint: &str, credentials: &Path) -> S3Source {
    let options = S3Options {
        endpoint: Some(endpoint.to_owned()),
        region: Some("site".to_owned()),
        virtual_host: false,
        credentials: Some(credentials.to_owned()),
    };
    S3Source::new("s3://images/layers/default.castr/", &options, &http()).unwrap()
}

#[test]
fn requests_are_signed_and_a_wrong_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credentials");
    // Busy once: each attempt is signed.
    let (endpoint, requests) = server(2, 1);
    write_credentials(&path, KEY, SECRET);
    let right = source(&endpoint, &path);
    assert_eq!(right.file(&layer(), &id(), 100).unwrap(), b"content");
    assert_eq!(right.name(), "s3://images/layers/default.castr");
    let line = format!("GET /images/layers/default.castr/{} HTTP/1.1", id().path());
    let host = endpoint.strip_prefix("http://").unwrap().to_owned();
    assert_eq!(requests.iter().collect::<Vec<_>>(), vec![(line, host); 2]);

    for (key, secret, code) in [(KEY, "wrong", "SignatureDoesNotMatch"), ("OTHER", SECRET, "InvalidAccessKeyId")] {
        let (endpoint, requests) = server(1, 0);
        write_credentials(&path, key, secret);
        let error = source(&endpoint, &path).file(&layer(), &id(), 100).unwrap_err();
        assert_eq!(error, SourceError::Denied(format!("HTTP status 403 ({code})")));
        assert_eq!(requests.iter().count(), 1);
    }
}

#[test]
fn credentials_are_read_again_when_access_is_denied() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credentials");
    let (endpoint, requests) = server(4, 0);
    write_credentials(&path, KEY, "old");
    let source = source(&endpoint, &path);
    assert!(matches!(source.file(&layer(), &id(), 100), Err(SourceError::Denied(_))));
    write_credentials(&path, KEY, SECRET);
    // Denied once, then with what the file has now; the next request begins with that.
    assert_eq!(source.file(&layer(), &id(), 100).unwrap(), b"content");
    assert_eq!(source.file(&layer(), &id(), 100).unwrap(), b"content");
    assert_eq!(requests.iter().count(), 4);
}

#[test]
fn settings_are_checked_and_hosts_are_made_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credentials");
    write_credentials(&path, KEY, SECRET);
    let made = |url: &str, endpoint: &str, virtual_host| {
        let region = Some("eu-west-1".to_owned());
        let options = S3Options {
            endpoint: (!endpoint.is_empty()).then(|| endpoint.to_owned()),
            region,
            virtual_host,
            credentials: Some(path.clone()),
        };
        S3Source::new(url, &options, &http()).map(|source| (source.server, source.host, source.path))
    };
    for (url, endpoint, virtual_host, expected) in [
        ("s3://abc", "https://s3.site:443/", false, ["https://s3.site", "s3.site", "/abc"]),
        ("s3://abc/x/y/", "http://s3.site:9000", false, ["http://s3.site:9000", "s3.site:9000", "/abc/x/y"]),
        ("s3://abc/x", "http://s3.site:9000", true, ["http://abc.s3.site:9000", "abc.s3.site:9000", "/x"]),
    ] {
        let (server, host, path) = made(url, endpoint, virtual_host).unwrap();
        assert_eq!([server.as_str(), host.as_str(), path.as_str()], expected);
    }
    for url in ["", "http://abc", "s3://", "s3://ab", "s3://a c/x", "s3://abc/x?y", "s3://abc/../x", "s3://abc/a b"] {
        assert!(matches!(made(url, "http://s3.site", false), Err(SettingsError::Bucket(_))), "{url}");
    }
    for endpoint in ["s3.site", "ftp://s3.site", "http://", "http://a/b", "http://u@a"] {
        assert!(matches!(made("s3://abc", endpoint, false), Err(SettingsError::Url(_))), "{endpoint}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(made("s3://abc", "http://s3.site", false), Err(SettingsError::Credentials(_))));
}
