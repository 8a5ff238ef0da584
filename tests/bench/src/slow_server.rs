//! A server of static files over HTTP that takes its time: so long before each answer, and so many bytes a second for all together. And a
//! client that copies whole files from it.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// Size of what is sent at a time, in bytes.
const PIECE: usize = 16 << 10;

/// The way to the clients, which all share.
struct Line {
    directory: PathBuf,
    latency: Duration,
    /// Bytes a second.
    rate: f64,
    /// When the line is free again.
    free: Mutex<Instant>,
}

/// Serves the files below a directory until the standard input ends. Prints the port.
///
/// # Errors
/// There is no port, or a number is malformed.
pub(crate) fn serve(directory: &str, milliseconds: &str, bytes_a_second: &str) -> anyhow::Result<()> {
    let line = Arc::new(Line {
        directory: directory.into(),
        latency: Duration::from_millis(milliseconds.parse().context("malformed latency")?),
        rate: bytes_a_second.parse().context("malformed rate")?,
        free: Mutex::new(Instant::now()),
    });
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let line = Arc::clone(&line);
            // A client that goes away ends its own connection only.
            thread::spawn(move || answer(&connection, &line));
        }
    });
    io::copy(&mut io::stdin(), &mut io::sink())?;
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
        let mut connection = connection;
        connection.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", file.len()).as_bytes())?;
        for piece in file.chunks(PIECE) {
            line.wait(piece.len());
            connection.write_all(piece)?;
        }
    }
}

impl Line {
    /// Waits until so many bytes have gone through.
    #[expect(clippy::cast_precision_loss, reason = "a piece is small")]
    fn wait(&self, bytes: usize) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = (*free).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.rate);
        let until = *free;
        drop(free);
        thread::sleep(until.saturating_duration_since(Instant::now()));
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
