use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use parallax_chunks::Algorithm;

use super::*;

const MAX: usize = 320 << 10;

/// Where distributions have OpenSSH's server of files.
const SERVERS: [&str; 3] =
    ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server"];

fn server() -> &'static str {
    SERVERS.into_iter().find(|path| Path::new(path).exists()).expect("OpenSSH's sftp-server is not installed")
}

/// A program in place of ssh: what a server would start, without a network between.
fn program(directory: &Path, script: &str) -> OsString {
    let path = directory.join("ssh");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path.into()
}

fn source(directory: &Path, script: &str) -> SshSource {
    let url = format!("ssh://localhost{}/store/", directory.display());
    let program = program(directory, script);
    let timeouts = Timeouts { answer: Duration::from_secs(20), ..TIMEOUTS };
    SshSource { program, timeouts, ..SshSource::new(&url, &SshOptions::default()).unwrap() }
}

fn layer() -> Sha256 {
    Sha256::from([1; 32])
}

fn id(number: usize) -> ChunkId {
    ChunkId::of(&number.to_be_bytes(), Algorithm::Sha256)
}

fn write(directory: &Path, number: usize, content: &[u8]) {
    let path = directory.join("store").join(id(number).path());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn files_of_all_sizes_are_read_at_the_same_time() {
    let directory = tempfile::tempdir().unwrap();
    let sizes = [0, 1, 32 << 10, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, 200_000, MAX];
    let content = |number: usize| -> Vec<u8> {
        let size = sizes[number % sizes.len()];
        (0..size).map(|at| (at / 7 + number) as u8).collect()
    };
    for number in 0..32 {
        write(directory.path(), number, &content(number));
    }
    let source = source(directory.path(), &format!("echo >>{}/started; exec {}", directory.path().display(), server()));
    thread::scope(|scope| {
        for number in 0..32 {
            let source = &source;
            scope.spawn(move || {
                assert_eq!(source.file(&layer(), &id(number), MAX).unwrap(), content(number), "{number}");
            });
        }
    });
    assert_eq!(fs::read_to_string(directory.path().join("started")).unwrap(), "\n", "one connection serves all");
}

#[test]
fn what_is_not_a_chunk_is_refused_and_the_connection_stays() {
    let directory = tempfile::tempdir().unwrap();
    let source = source(directory.path(), &format!("exec {}", server()));
    assert_eq!(source.file(&layer(), &id(1), MAX), Err(SourceError::NotFound));
    write(directory.path(), 1, &[1; 101]);
    let before = source.connection().unwrap();
    assert!(
        matches!(source.file(&layer(), &id(1), 100), Err(SourceError::Permanent(text)) if text.contains("too large"))
    );
    assert_eq!(source.file(&layer(), &id(1), 101).unwrap(), [1; 101]);
    fs::create_dir_all(directory.path().join("store").join(id(2).path())).unwrap();
    assert!(
        matches!(source.file(&layer(), &id(2), MAX), Err(SourceError::Temporary(text)) if text.contains("Failure"))
    );
    assert!(Arc::ptr_eq(&before, &source.connection().unwrap()));
}

#[test]
fn a_connection_that_ends_is_replaced_and_one_that_does_not_begin_is_awaited() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), 1, b"content");
    let path = directory.path().display();
    let script = format!("if mkdir {path}/first 2>/dev/null; then exit 1; fi; exec {}", server());
    let ends = source(directory.path(), &script);
    // Without an answer to the first packet there was no connection.
    assert!(
        matches!(ends.file(&layer(), &id(1), MAX), Err(SourceError::Temporary(text)) if text == "ssh ended without a message")
    );
    // The server is left alone for a while, and then asked again.
    let (until, reason) = ends.state().failure.clone().unwrap();
    assert_eq!(ends.file(&layer(), &id(1), MAX), Err(reason));
    thread::sleep(until.saturating_duration_since(Instant::now()));
    assert_eq!(ends.file(&layer(), &id(1), MAX).unwrap(), b"content");
    // One that serves, and then ends: the next one takes its place at once.
    let pid = format!("echo $$ >{path}/pid; exec {}", server());
    let killed = source(directory.path(), &pid);
    assert_eq!(killed.file(&layer(), &id(1), MAX).unwrap(), b"content");
    let before = fs::read_to_string(directory.path().join("pid")).unwrap();
    assert!(Command::new("kill").args(["-KILL", before.trim()]).status().unwrap().success());
    assert_eq!(killed.file(&layer(), &id(1), MAX).unwrap(), b"content");
    assert_ne!(fs::read_to_string(directory.path().join("pid")).unwrap(), before);
}

#[test]
fn a_server_that_hangs_is_given_up_and_its_process_ends() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let script = format!("echo $$ >{}; exec sleep 600", pid.display());
    let timeouts = Timeouts { answer: Duration::from_millis(300), ..TIMEOUTS };
    let source = SshSource { timeouts, ..source(directory.path(), &script) };
    let reason = source.file(&layer(), &id(1), MAX).unwrap_err();
    assert!(matches!(&reason, SourceError::Temporary(text) if text.contains("does not answer")), "{reason:?}");
    let pid = fs::read_to_string(pid).unwrap();
    // The thread that reads answers waits for the process.
    let gone = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(10));
        !Path::new("/proc").join(pid.trim()).exists()
    });
    assert!(gone, "the process {pid} is still there");
}

#[test]
fn a_connection_that_nobody_uses_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), 1, b"content");
    let script = format!("{}; echo >>{}/ended", server(), directory.path().display());
    let timeouts = Timeouts { idle: Duration::from_millis(50), ..TIMEOUTS };
    let source = SshSource { timeouts, ..source(directory.path(), &script) };
    assert_eq!(source.file(&layer(), &id(1), MAX).unwrap(), b"content");
    let connection = source.state().connection.clone().unwrap();
    let closed = (0..500).any(|_| {
        thread::sleep(Duration::from_millis(10));
        !connection.is_open()
    });
    assert!(closed);
    assert_eq!(source.file(&layer(), &id(1), MAX).unwrap(), b"content");
}

#[test]
fn what_is_no_server_of_files_is_named() {
    let directory = tempfile::tempdir().unwrap();
    for (script, part) in [
        ("echo Welcome to the machine", "what the account's shell prints may be in the way"),
        ("printf '\\0\\0\\0\\5\\2\\0\\0\\0\\6'; cat >/dev/null", "does not speak SFTP, version 3"),
        ("echo 'Host key verification failed.' >&2; exit 255", "the host key of localhost is not accepted"),
    ] {
        let reason = source(directory.path(), script).file(&layer(), &id(1), MAX).unwrap_err().to_string();
        assert!(reason.contains(part), "{reason}");
    }
    let source = SshSource { program: "/does/not/exist".into(), ..source(directory.path(), "") };
    let reason = source.file(&layer(), &id(1), MAX).unwrap_err();
    assert!(
        matches!(&reason, SourceError::Permanent(text) if text.contains("install the OpenSSH client")),
        "{reason:?}"
    );
}

#[test]
fn settings_are_checked() {
    let address = |url: &str| Address::parse(url).map(|a| (a.user, a.host, a.port, a.path));
    let made = |user: Option<&str>, host: &str, port, path: &str| {
        Some((user.map(str::to_owned), host.to_owned(), port, path.to_owned()))
    };
    assert_eq!(address("ssh://u@h.site:2222/a/b.castr/"), made(Some("u"), "h.site", Some(2222), "/a/b.castr"));
    assert_eq!(address("sftp://h/a"), made(None, "h", None, "/a"));
    assert_eq!(address("ssh://[fe80::1]:22/a"), made(None, "fe80::1", Some(22), "/a"));
    for url in [
        "ssh://h",
        "ssh://h/",
        "ssh:///a",
        "ssh://-oProxyCommand=x/a",
        "ssh://-l@h/a",
        "ssh://u@/a",
        "ssh://h:x/a",
        "ssh://h:99999/a",
        "ssh://h/a b",
        "ssh://h/../a",
        "ssh://h/a//b",
        "ssh://[x]/a",
        "ssh://[::1]x/a",
        "ssh://u;v@h/a",
        "http://h/a",
    ] {
        assert_eq!(address(url), None, "{url}");
    }
    for path in ["/a b", "/a%h", "/a\"", "/${HOME}/a"] {
        let options = SshOptions { known_hosts: Some(path.into()), key: None };
        assert!(matches!(SshSource::new("ssh://h/a", &options), Err(SettingsError::SshPath(_))), "{path}");
    }
}

#[test]
fn a_key_that_everybody_may_read_is_not_used_and_host_keys_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    fs::write(&key, "key").unwrap();
    let options = SshOptions { known_hosts: Some("/etc/known".into()), key: Some(key.clone()) };
    for (mode, is_good) in [(0o644, false), (0o600, true)] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        let made = SshSource::new("ssh://u@h:2222/a", &options);
        assert_eq!(made.is_ok(), is_good, "{made:?}");
    }
    let source = SshSource::new("ssh://u@h:2222/a", &options).unwrap();
    let command = source.command();
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_str().unwrap()).collect();
    for option in ["BatchMode=yes", "StrictHostKeyChecking=yes", "UserKnownHostsFile=/etc/known", "IdentitiesOnly=yes"]
    {
        assert!(arguments.windows(2).any(|pair| pair == ["-o", option]), "no {option} in {arguments:?}");
    }
    assert!(arguments.ends_with(&["-l", "u", "-p", "2222", "-s", "--", "h", "sftp"]), "{arguments:?}");
    fs::set_permissions(&key, Permissions::from_mode(0o604)).unwrap();
    assert!(
        matches!(source.file(&layer(), &id(1), 1), Err(SourceError::Permanent(text)) if text.contains("everybody has access"))
    );
}
