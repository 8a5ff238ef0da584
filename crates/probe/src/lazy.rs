//! The trial of layers in chunks: a file served by FUSE, a loop device over it, the kernel's SquashFS, and another file in its place.
//!
//! Whoever reads such a file waits for its server, and nothing ends that wait but an answer or the end of the server: a signal does not. So
//! three processes make the trial. The one that makes all trials only waits, with a deadline ([`try_all`]). The reader ([`read`]) makes the
//! mounts and has no copy of the server's descriptor once it reads. The server ([`serve`]) has the only one: when it ends, however it ends,
//! the reader gets an error. At the deadline both are killed, and the kernel removes the file, the loop device and the mount.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use parallax_lazy_file::{Content, Device};
use parallax_sys::loop_device::{LoopDevice, Reads};
use parallax_sys::mount::DetachedMount;
use parallax_sys::process::Process;
use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::findings::{Ability, report};
use crate::image::{FILE_CONTENT, FILE_NAME, GZIP, image};

/// The first argument of the reader; the next one is a file with the image.
pub(crate) const READ: &str = "--parallax-probe-read";
/// The first argument of the server, whose standard input is the device.
pub(crate) const SERVE: &str = "--parallax-probe-serve";
/// Timeout for the trial.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for the end of the server, after the file is used by nothing any more.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// The second argument of the server, for lists of processes.
const DEVICE: &str = "/dev/fuse";
/// Alignment of memory for reads past the page cache, in bytes.
const ALIGNMENT: usize = 4096;
/// The variable by which a test has the server fail: `kill` or `stop`, at the first read. Debug builds only.
#[cfg(debug_assertions)]
pub(crate) const FAULT: &str = "PARALLAX_TEST_PROBE_SERVER";

/// Has the trial made, and reports its results. `image` is a file with the image, which takes the place of the one that is served.
pub(crate) fn try_all(image: &Path) {
    let mut command = Command::new("/proc/self/exe");
    // A group of its own, so that the deadline reaches the server too.
    command.arg(READ).arg(image).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
    let reader = command.spawn().and_then(|child| Ok((Process::open(id(&child)?)?, child)));
    let (process, mut child) = match reader {
        Ok(started) => started,
        Err(error) => return report(Ability::LazyLayers, Err(format!("cannot start the trial: {error}"))),
    };
    let ended = process.wait_until_ended(TIMEOUT).unwrap_or(false);
    if let Some(group) = id(&child).ok().and_then(Pid::from_raw) {
        // The server too, which is to end by itself.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait();
    let mut output = String::new();
    // The server does not have the pipe.
    let _ = child.stdout.take().map(|pipe| pipe.take(ALIGNMENT as u64).read_to_string(&mut output));
    print!("{output}");
    match status {
        _ if !ended => println!("the trial of layers in chunks did not end within {} s", TIMEOUT.as_secs()),
        Ok(status) if !status.success() => println!("the trial of layers in chunks ended: {status}"),
        _ => {}
    }
}

fn id(child: &Child) -> io::Result<i32> {
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// Makes the trial, as the reader.
pub(crate) fn read(file: &Path) {
    let image = image(GZIP);
    match mount(&image) {
        Ok(served) => {
            report(Ability::LazyLayers, Ok::<_, String>(()));
            report(Ability::LazySwap, served.exchange(file, &image));
        }
        Err(reason) => report(Ability::LazyLayers, Err(reason)),
    }
}

/// The image, mounted by a loop device over a file that is served.
struct Served {
    /// Kept open: the last descriptor ends the mount.
    _mount: DetachedMount,
    device: LoopDevice,
    file: File,
    server: Child,
}

fn mount(image: &[u8]) -> Result<Served, String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let fuse = Device::open().map_err(failed("cannot open /dev/fuse"))?;
    let file = DetachedMount::fuse_file(fuse.as_fd()).map_err(failed("cannot make a file by FUSE"))?;
    let server = start_server(fuse).map_err(failed("cannot start a server"))?;
    let file = file.open_root_file().map_err(failed("cannot open the file by FUSE"))?;
    // The loop driver asks for the size that the kernel knows, so it has to know.
    let size = file.metadata().map_err(failed("cannot stat the file by FUSE"))?.len();
    if size != image.len() as u64 {
        return Err(format!("the file by FUSE has {size} bytes"));
    }
    let device = LoopDevice::attach(file.as_fd(), Reads::Direct).map_err(failed("no loop device over FUSE"))?;
    let mount = DetachedMount::squashfs(device.path()).map_err(failed("the kernel does not mount it"))?;
    read_back(&mount)?;
    Ok(Served { _mount: mount, device, file, server })
}

/// Starts the server; this process keeps no copy of the device.
fn start_server(fuse: Device) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(SERVE).arg(DEVICE).stdin(OwnedFd::from(fuse)).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn()
}

fn read_back(mount: &DetachedMount) -> Result<(), String> {
    let open = || openat(mount, FILE_NAME, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let mut content = Vec::new();
    match open().map_err(io::Error::from).and_then(|file| File::from(file).read_to_end(&mut content)) {
        Ok(_) if content == FILE_CONTENT => Ok(()),
        Ok(_) => Err("a file in it has wrong contents".to_owned()),
        Err(error) => Err(format!("cannot read a file in it: {error}")),
    }
}

impl Served {
    /// Puts a file below the loop device, and reads that past all caches. FUSE must be gone then.
    fn exchange(self, file: &Path, image: &[u8]) -> Result<(), String> {
        let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let Self { _mount, device, file: served, mut server } = self;
        let file = File::open(file).map_err(failed("no image"))?;
        device.change_file(file.as_fd()).map_err(failed("LOOP_CHANGE_FD"))?;
        drop(served);
        let process = id(&server).and_then(Process::open).map_err(failed("cannot wait for the server"))?;
        if !process.wait_until_ended(END_TIMEOUT).map_err(failed("cannot wait for the server"))? {
            return Err(format!("the file by FUSE is still used after {} s", END_TIMEOUT.as_secs()));
        }
        server.wait().map_err(failed("cannot wait for the server"))?;
        let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
        let block = File::options().read(true).custom_flags(direct).open(device.path());
        let block = block.map_err(failed("cannot open the loop device"))?;
        let mut buffer = vec![0; image.len() + ALIGNMENT];
        let begin = buffer.as_ptr().align_offset(ALIGNMENT);
        let buffer = buffer.get_mut(begin..begin + image.len()).unwrap_or_default();
        block.read_exact_at(buffer, 0).map_err(failed("cannot read the loop device"))?;
        if buffer == image { Ok(()) } else { Err("the loop device has wrong contents".to_owned()) }
    }
}

/// The image in memory.
struct Image(Vec<u8>);

impl Content for Image {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        #[cfg(debug_assertions)]
        fail_for_a_test();
        let rest = self.0.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let size = rest.len().min(buffer.len());
        buffer.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Ok(size)
    }
}

/// Serves the image, until it is used by nothing any more. The device is the standard input.
pub(crate) fn serve() -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot serve the file: {error}");
    let device = Device::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    device.serve_without_slot(&Image(image(GZIP))).map_err(failed)
}

#[cfg(debug_assertions)]
fn fail_for_a_test() {
    let signal = match std::env::var(FAULT).as_deref() {
        Ok("kill") => Signal::KILL,
        Ok("stop") => Signal::STOP,
        _ => return,
    };
    let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
}
