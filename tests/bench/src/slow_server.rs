//! A server of static files over HTTP that takes its time: so long before each answer, and so many bytes a second for all together. And a
//! client that copies whole files from it.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::limit::Limit;

/// Size of what is sent at a time, in bytes.
const PIECE: usize = 16 << 10;

/// The way to the clients, which all share.
struct Line {
    directory: PathBuf,
    latency: Duration,
    limit: Limit,
    /// Requests so far.
    requests: AtomicU64,
    /// Bytes of the answers so far.
    bytes: AtomicU64,
}

/// Serves the files below a directory until the standard input ends. Prints the port, and for each line of the input the number of requests and
/// of bytes so far.
///
/// # Errors
/// There is no port, or a number is malformed.
pub(crate) fn serve(directory: &str, milliseconds: &str, bytes_a_second: &str) -> anyhow::Result<()> {
    let line = Arc::new(Line {
        directory: directory.into(),
        latency: Duration::from_millis(milliseconds.parse().context("malformed latency")?),
        limit: Limit::new(bytes_a_second.parse().context("malformed rate")?),
        requests: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    });
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let all = Arc::clone(&line);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let line = Arc::clone(&all);
            // A client that goes away ends its own connection only.
            thread::spawn(move || answer(&connection, &line));
        }
    });
    for request in io::stdin().lines() {
        request?;
        println!("{} {}", line.requests.load(Ordering::Relaxed), line.bytes.load(Ordering::Relaxed));
    }
    Ok(())
}

/// Answers the requests of a connection.
fn answer(connection: &TcpStream, line: &Line) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut requests = BufReader::new(connection);
    loop {
        let mut path = None;
        loop {
            let mut text = String::new();
            if requests.read_line(&mut text)? == 0 {
                return Ok(());
            }
            match text.trim_end().strip_prefix("GET /").and_then(|rest| rest.split(' ').next()) {
                Some(found) => path = Some(found.to_owned()),
                None if text.trim_end().is_empty() => break,
                None => {}
            }
        }
        // What makes the source slow is what is measured.
        thread::sleep(line.latency);
        let file = path.and_then(|path| fs::read(line.directory.join(path)).ok());
        let status = if file.is_some() { "200 OK" } else { "404 Not Found" };
        let file = file.unwrap_or_default();
        line.requests.fetch_add(1, Ordering::Relaxed);
        line.bytes.fetch_add(file.len() as u64, Ordering::Relaxed);
        let mut connection = connection;
        connection.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", file.len()).as_bytes())?;
        for piece in file.chunks(PIECE) {
            line.limit.wait(piece.len());
            connection.write_all(piece)?;
        }
    }
}

/// Copies files, one after another over one connection, into the current directory. The first word is the port, the others are paths.
///
/// # Errors
/// A file cannot be fetched or written.
pub(crate) fn fetch(words: &[String]) -> anyhow::Result<()> {
    let Some((port, paths)) = words.split_first() else { bail!("no port") };
    let connection = TcpStream::connect(("127.0.0.1", port.parse()?))?;
    let mut answers = BufReader::new(&connection);
    for path in paths {
        (&connection).write_all(format!("GET /{path} HTTP/1.1\r\nHost: bench\r\n\r\n").as_bytes())?;
        let (mut text, mut length) = (String::new(), 0);
        answers.read_line(&mut text)?;
        ensure!(text.contains(" 200 "), "{path}: {text}");
        loop {
            text.clear();
            answers.read_line(&mut text)?;
            match text.trim_end().strip_prefix("Content-Length: ") {
                Some(number) => length = number.parse()?,
                None if text.trim_end().is_empty() => break,
                None => {}
            }
        }
        let name = Path::new(path).file_name().context("no name")?;
        let copied = io::copy(&mut answers.by_ref().take(length), &mut fs::File::create(name)?)?;
        ensure!(copied == length, "{path}: {copied} of {length} bytes");
    }
    Ok(())
}
