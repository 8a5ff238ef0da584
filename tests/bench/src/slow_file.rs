//! A file of a file system that takes its time: FUSE, where each request is answered after a while, and several at once.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, bail};
use parallax_lazy_file::request::{Kind, Request};
use parallax_sys::mount::DetachedMount;
use rustix::fs::{major, minor};

use super::limit::Limit;

/// Number of requests that are answered at a time.
pub(crate) const THREADS: usize = 32;
/// The same of each copy of several.
const THREADS_OF_COPY: usize = 4;
/// Size of a buffer for requests: `FUSE_MIN_READ_BUFFER` is 8 KiB.
const BUFFER: usize = 16 << 10;
/// Size of `struct fuse_out_header`.
const HEADER: usize = 16;
/// Offset of `max_readahead` in the answer to `FUSE_INIT`, after the header and the versions.
const MAX_READAHEAD: usize = HEADER + 8;

/// Offset of the inode's number in the answer to `FUSE_GETATTR`, after the header and how long it holds.
const INODE: usize = HEADER + 16;

/// The file. Its server ends when it is neither open nor mounted.
#[derive(Debug)]
pub(crate) struct SlowFile {
    mount: Option<DetachedMount>,
    served: Arc<Served>,
    threads: Vec<JoinHandle<()>>,
}

/// Serves copies of files until the input ends, all together with so many bytes a second. The words are the rate, and a file and the path of another
/// one over which its copy is attached, for each copy. Prints a line when all are there.
///
/// # Errors
/// A word is malformed, a file cannot be read, or its copy not be attached.
pub(crate) fn serve_copies(words: &[String]) -> anyhow::Result<()> {
    let (rate, pairs) = words.split_first().context("no rate")?;
    let limit = Arc::new(Limit::new(rate.parse().context("malformed rate")?));
    let mut contents: HashMap<&str, Arc<[u8]>> = HashMap::new();
    let mut served = Vec::new();
    for pair in pairs.chunks(2) {
        let [file, over] = pair else { bail!("no place for {pair:?}") };
        let content = match contents.get(file.as_str()) {
            Some(content) => Arc::clone(content),
            None => fs::read(file).with_context(|| file.clone())?.into(),
        };
        contents.insert(file, Arc::clone(&content));
        let mut copy = SlowFile::serve(content, Duration::ZERO, Some(Arc::clone(&limit)), THREADS_OF_COPY)?;
        copy.attach(Path::new(over)).with_context(|| over.clone())?;
        served.push(copy);
    }
    println!("ready");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    // What still has a copy open gets errors.
    Ok(())
}

#[derive(Debug)]
struct Served {
    /// The inode's number: fuse-overlayfs takes two files with the same one for hard links, whatever their file systems.
    number: u64,
    content: Arc<[u8]>,
    latency: Duration,
    limit: Option<Arc<Limit>>,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl SlowFile {
    /// Serves a content with this latency, and no faster than the limit.
    ///
    /// # Errors
    /// FUSE cannot be mounted.
    pub(crate) fn serve(
        content: Arc<[u8]>,
        latency: Duration,
        limit: Option<Arc<Limit>>,
        threads: usize,
    ) -> anyhow::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (requests, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let served = Arc::new(Served { number, content, latency, limit, requests, bytes });
        let device = Arc::new(File::options().read(true).write(true).open("/dev/fuse")?);
        let mount = DetachedMount::fuse_file(device.as_fd())?;
        let serve = |_| {
            let (device, served) = (Arc::clone(&device), Arc::clone(&served));
            thread::spawn(move || served.answer(&device))
        };
        let threads = (0..threads).map(serve).collect();
        // Some ask for the size that the kernel knows, so it has to know.
        mount.open_root_file()?.metadata()?;
        Ok(Self { mount: Some(mount), served, threads })
    }

    /// Opens the file with a readahead of so many KiB.
    ///
    /// # Errors
    /// It cannot be opened, or the readahead not be set.
    pub(crate) fn open(&self, readahead: u32) -> anyhow::Result<File> {
        let mount = self.mount.as_ref().context("the mount is gone")?;
        let device = mount.open_root_file()?.metadata()?.dev();
        let setting = format!("/sys/class/bdi/{}:{}/read_ahead_kb", major(device), minor(device));
        fs::write(&setting, readahead.to_string()).context(setting)?;
        // A file has the readahead of the moment when it was opened.
        Ok(mount.open_root_file()?)
    }

    /// Attaches it over a file.
    ///
    /// # Errors
    /// Those of `move_mount(2)`.
    pub(crate) fn attach(&mut self, path: &Path) -> anyhow::Result<()> {
        Ok(self.mount.take().context("it is attached already")?.attach_at(path)?)
    }

    /// Waits for the end of its server, when it is not used any more.
    pub(crate) fn end(mut self) {
        drop(self.mount.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    /// The number of reads so far, and their bytes.
    pub(crate) fn counts(&self) -> [u64; 2] {
        [&self.served.requests, &self.served.bytes].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Served {
    /// Answers requests until the file system is gone.
    fn answer(&self, device: &File) {
        let mut buffer = vec![0; BUFFER];
        let mut device = device;
        while let Ok(length) = device.read(&mut buffer) {
            let Some(request) = Request::parse(&buffer[..length]) else { continue };
            let answer = match request.kind {
                Kind::Read { offset, size } => Some(self.read(&request, offset, size)),
                _ => request.answer(self.content.len() as u64),
            };
            let Some(mut answer) = answer else { continue };
            match request.kind {
                Kind::Init { .. } => {
                    answer[MAX_READAHEAD..MAX_READAHEAD + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
                }
                Kind::Attributes => answer[INODE..INODE + 8].copy_from_slice(&self.number.to_ne_bytes()),
                _ => {}
            }
            // The kernel refuses the answer to an interrupted request.
            let _ = device.write(&answer);
        }
    }

    fn read(&self, request: &Request, offset: u64, size: u32) -> Vec<u8> {
        // What makes the source slow is what is measured.
        thread::sleep(self.latency);
        let end = self.content.len();
        let from = usize::try_from(offset).unwrap_or(end).min(end);
        let bytes = &self.content[from..(from + size as usize).min(end)];
        if let Some(limit) = &self.limit {
            limit.wait(bytes.len());
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "a read is at most 128 KiB")]
        let length = (HEADER + bytes.len()) as u32;
        [&length.to_ne_bytes()[..], &0_u32.to_ne_bytes(), &request.unique.to_ne_bytes(), bytes].concat()
    }
}
