use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use parallax_chunks::Algorithm;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;

const MAX: usize = 1000;

fn layer() -> Sha256 {
    Sha256::from([1; 32])
}

fn id() -> ChunkId {
    ChunkId::of(b"x", Algorithm::Sha256)
}

/// Settings without long waits, whatever the environment.
fn options() -> HttpOptions {
    let timeout = Duration::from_secs(20);
    HttpOptions { pause: Duration::from_millis(1), timeout, proxy: HttpProxy::Direct, ..HttpOptions::default() }
}

fn response(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A server that gives these answers, one for each connection, and reports the first line of each request.
fn server(answers: Vec<Vec<u8>>) -> (String, Receiver<String>) {
    serve(answers, |stream| Box::new(stream))
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

fn serve(
    answers: Vec<Vec<u8>>,
    wrap: impl Fn(TcpStream) -> Box<dyn Stream> + Send + 'static,
) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, requests) = channel();
    thread::spawn(move || {
        for answer in answers {
            let mut stream = wrap(listener.accept().unwrap().0);
            let mut reader = BufReader::new(&mut stream);
            let mut request = String::new();
            // Fails where the client does not like the certificate.
            let Ok(_) = reader.read_line(&mut request) else { continue };
            let mut line = request.clone();
            while line.len() > 2 {
                line.clear();
                reader.read_line(&mut line).unwrap();
            }
            let _ = send.send(request.trim().to_owned());
            let _ = stream.write_all(&answer).and_then(|()| stream.flush());
        }
    });
    (format!("localhost:{port}"), requests)
}

fn source(url: &str, options: &HttpOptions) -> HttpSource {
    HttpSource::new(url, options).unwrap()
}

#[test]
fn a_chunk_is_fetched_by_its_path() {
    let (host, requests) = server(vec![response("200 OK", b"content")]);
    let source = source(&format!("http://{host}/a/default.castr/"), &options());
    assert_eq!(source.name(), format!("http://{host}/a/default.castr"));
    assert_eq!(source.file(&layer(), &id(), MAX).unwrap(), b"content");
    assert_eq!(requests.recv().unwrap(), format!("GET /a/default.castr/{} HTTP/1.1", id().path()));
}

/// Whether an error is the one that an answer leads to.
type IsExpected = fn(&SourceError) -> bool;

#[test]
fn what_may_pass_is_tried_again_and_the_rest_is_not() {
    let busy = || response("503 Service Unavailable", b"");
    // Also an answer that is cut short.
    let cut = || response("200 OK", b"content")[..40].to_vec();
    let good = || response("200 OK", b"content");
    let (host, requests) = server(vec![busy(), cut(), Vec::new(), good()]);
    assert_eq!(source(&format!("http://{host}"), &options()).file(&layer(), &id(), MAX).unwrap(), b"content");
    assert_eq!(requests.iter().count(), 4);

    let (host, _requests) = server(vec![busy(), busy(), busy(), busy()]);
    let error = source(&format!("http://{host}"), &options()).file(&layer(), &id(), MAX).unwrap_err();
    assert_eq!(error, SourceError::Temporary("HTTP status 503".to_owned()));

    let answers: [(Vec<u8>, IsExpected); 4] = [
        (response("404 Not Found", b""), |error| *error == SourceError::NotFound),
        (response("403 Forbidden", b""), |error| matches!(error, SourceError::Denied(_))),
        (response("206 Partial Content", b"con"), |error| matches!(error, SourceError::Permanent(_))),
        (response("200 OK", &[0; MAX + 1]), |error| matches!(error, SourceError::Permanent(_))),
    ];
    for (answer, is_expected) in answers {
        let (host, requests) = server(vec![answer, good()]);
        let error = source(&format!("http://{host}"), &options()).file(&layer(), &id(), MAX).unwrap_err();
        assert!(is_expected(&error), "{error:?}");
        assert!(requests.recv().is_ok() && requests.try_recv().is_err(), "{error}");
    }
}

#[test]
fn a_server_that_is_not_there_or_silent_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Connections are accepted by the kernel, and nobody answers.
    let silent = HttpOptions { timeout: Duration::from_millis(50), attempts: 2, ..options() };
    let error = source(&format!("http://{address}"), &silent).file(&layer(), &id(), MAX).unwrap_err();
    assert!(matches!(&error, SourceError::Temporary(text) if text.contains("timeout")), "{error:?}");
    drop(listener);
    let error = source(&format!("http://{address}"), &options()).file(&layer(), &id(), MAX).unwrap_err();
    assert!(matches!(error, SourceError::Temporary(_)), "{error:?}");
}

#[test]
fn a_proxy_is_used() {
    // The proxy answers for the server when it is asked to connect.
    let connected = b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec();
    let (proxy, requests) = server(vec![connected]);
    let options = HttpOptions { proxy: HttpProxy::Url(format!("http://{proxy}")), attempts: 1, ..options() };
    source("http://chunks.example:8080/x", &options).file(&layer(), &id(), MAX).unwrap_err();
    assert_eq!(requests.recv().unwrap(), "CONNECT chunks.example:8080 HTTP/1.1");
}

#[test]
fn settings_are_checked() {
    for url in ["", "ftp://a/b", "http://", "http:///x", "http://user@a/x", "https://a/x?y", "https://a/x#y", "/x"] {
        assert!(matches!(HttpSource::new(url, &options()), Err(SettingsError::Url(_))), "{url}");
    }
    let proxy = HttpOptions { proxy: HttpProxy::Url("gopher://x".to_owned()), ..options() };
    assert!(matches!(HttpSource::new("http://a", &proxy), Err(SettingsError::Proxy(_))));
    for file in ["/does/not/exist", "/dev/null"] {
        let ca_file = HttpOptions { ca_file: Some(file.into()), ..options() };
        assert!(matches!(HttpSource::new("https://a", &ca_file), Err(SettingsError::Certificates { .. })), "{file}");
    }
}

/// A file of the certificates that the tests have. They are good for "localhost", and signed by the authority in `ca.pem`.
fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/source/http/certificates").join(name)
}

/// A server with TLS.
fn tls_server(answers: Vec<Vec<u8>>) -> (String, Receiver<String>) {
    let chain = vec![CertificateDer::from_pem_file(certificate("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificate("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Mutex::new(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()));
    serve(answers, move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config.lock().unwrap())).unwrap();
        Box::new(rustls::StreamOwned::new(connection, stream))
    })
}

#[test]
fn only_servers_with_a_certificate_of_a_trusted_authority_are_asked() {
    let fetch = |host_of: fn(&str) -> String, ca_file: Option<&str>| {
        let (host, requests) = tls_server(vec![response("200 OK", b"content")]);
        let ca_file = ca_file.map(certificate);
        let got = source(&format!("https://{}", host_of(&host)), &HttpOptions { ca_file, ..options() }).file(
            &layer(),
            &id(),
            MAX,
        );
        (got, requests)
    };
    let same: fn(&str) -> String = str::to_owned;
    let (got, _requests) = fetch(same, Some("ca.pem"));
    assert_eq!(got.unwrap(), b"content");
    let by_address: fn(&str) -> String = |host| host.replace("localhost", "127.0.0.1");
    for (host_of, ca_file) in [(same, Some("other.pem")), (same, None), (by_address, Some("ca.pem"))] {
        let (got, requests) = fetch(host_of, ca_file);
        // Once is enough, and nothing was asked.
        assert!(matches!(&got, Err(SourceError::Permanent(text)) if text.contains("certificate")), "{got:?}");
        assert!(requests.try_recv().is_err());
    }
}
