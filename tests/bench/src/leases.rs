//! Leases taken and given back on a node, side by side with the system calls they come to, made by hand.
//!
//! The benchmark's own binary does this there, as `bench on-node leases ROUNDS`, as the slurmstepd of many steps.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use parallax_agent::identity::{Identity, NamespaceKind};
use parallax_agent::layers::{Abilities, LayerTable, MountedLayer};
use parallax_agent::step::{Form, StepStore};
use parallax_config::{Config, DEFAULT_PATH};
use parallax_format::ImageRef;
use parallax_protocol::client::Client;
use parallax_protocol::message::{LeaseRequest, Mode, Request, Response, StepId};
use parallax_store::read::TrustedStore;
use parallax_sys::credentials::Credentials;
use parallax_sys::mount::{DetachedMount, pin_namespace, take_down};
use parallax_sys::user_namespace::UserNamespace;
use rustix::fs::{CWD, Mode as FileMode, OFlags, mkdirat, openat, symlinkat};
use serde::{Deserialize, Serialize};

/// The images, and how many layers each has.
const IMAGES: [(&str, usize); 2] = [("debian", 1), ("layers20", 20)];
/// How many leases are held meanwhile.
const HELD: [usize; 4] = [1, 20, 100, 500];
/// For whom.
const USER: u32 = 1001;
/// The first job's number: none that Slurm gives.
const FIRST_JOB: u32 = 3_000_000_000;
/// Where the mounts made by hand are.
const BY_HAND: &str = "/run/leases-by-hand";
/// How long the agent may take.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What was measured with so many layers and leases held; milliseconds, one for each round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sampled {
    /// The image's layers.
    pub layers: usize,
    /// The leases that were held.
    pub held: usize,
    /// Asking for a lease, and giving it back, until the agent says that it is done.
    pub agent: Vec<f64>,
    /// The system calls it takes at the least.
    pub by_hand: Vec<f64>,
}

/// Takes the samples and prints them.
///
/// # Errors
/// The agent refused, or a system call failed.
pub(crate) fn run(rounds: usize) -> anyhow::Result<()> {
    let config = Config::load(Path::new(DEFAULT_PATH))?;
    let socket = config.agent.socket();
    let store = config.stores.first().context("no store")?;
    let mut sampled = Vec::new();
    for (image, layers) in IMAGES {
        let hand = ByHand::prepare(store, image)?;
        ensure!(hand.layers.len() == layers, "{image} has {} layers", hand.layers.len());
        let mut steps = Steps { socket: &socket, image, next: FIRST_JOB };
        let mut holding = Vec::new();
        for held in HELD {
            while holding.len() < held {
                holding.push(steps.acquire()?);
            }
            // The first of each is a warm-up.
            let mut samples = Sampled { layers, held, agent: Vec::new(), by_hand: Vec::new() };
            for _ in 0..=rounds {
                samples.agent.push(milliseconds(|| steps.acquire().and_then(Lease::release))?);
                samples.by_hand.push(milliseconds(|| hand.once())?);
            }
            samples.agent.remove(0);
            samples.by_hand.remove(0);
            sampled.push(samples);
        }
        for lease in holding {
            lease.release()?;
        }
    }
    println!("{}", serde_json::to_string(&sampled)?);
    Ok(())
}

fn milliseconds(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}

/// Steps that ask for an image, one after the other.
struct Steps<'a> {
    socket: &'a Path,
    image: &'a str,
    next: u32,
}

struct Lease {
    client: Client,
    step: StepId,
}

impl Steps<'_> {
    fn acquire(&mut self) -> anyhow::Result<Lease> {
        let step = StepId { job: self.next, step: 0, restart: 0 };
        self.next += 1;
        let deadline = Instant::now() + TEST_TIMEOUT;
        let client = Client::connect(self.socket)?;
        let image = self.image.to_owned();
        let request = LeaseRequest {
            step,
            uid: USER,
            gid: USER,
            // As slurmstepd: without them the agent would ask the user database.
            groups: Some(vec![USER]),
            image,
            image_id: None,
            mode: Mode::Run,
            memory: None,
            as_root: false,
            container: None,
            rule: None,
        };
        client.send(&Request::Lease(request), deadline)?;
        match client.receive(deadline)? {
            Response::Granted(_) => Ok(Lease { client, step }),
            other => bail!("the agent answered {other:?}"),
        }
    }
}

impl Lease {
    fn release(self) -> anyhow::Result<()> {
        let deadline = Instant::now() + TEST_TIMEOUT;
        self.client.send(&Request::Release { step: self.step }, deadline)?;
        match self.client.receive(deadline)? {
            Response::Released { problems } if problems.is_empty() => Ok(()),
            other => bail!("the agent answered {other:?}"),
        }
    }
}

/// The image's layers, mounted once as the agent has them.
struct ByHand {
    identity: Identity,
    store: StepStore,
    layers: Vec<Arc<MountedLayer>>,
    place: PathBuf,
}

impl ByHand {
    fn prepare(store: &Path, image: &str) -> anyhow::Result<Self> {
        let place = PathBuf::from(BY_HAND);
        let mounts = place.join("layers");
        fs::create_dir_all(&mounts)?;
        let store = TrustedStore::open(store)?;
        let record = store.resolve(&ImageRef::parse(image)?)?.with_context(|| format!("no image {image}"))?;
        let table = LayerTable::new(mounts);
        let layers = record
            .layers
            .iter()
            .map(|layer| table.get(&store, layer, &Credentials::root(), &Abilities::default()))
            .collect::<Result<_, _>>()?;
        let name = Command::new("id").args(["--name", "--user", &USER.to_string()]).output()?.stdout;
        let name = String::from_utf8(name)?;
        let identity = Identity::of_named(name.trim(), USER, USER).map_err(anyhow::Error::msg)?;
        let store = StepStore::of_layers(&record, Form::Mounts(&[NamespaceKind::KeepId]));
        Ok(Self { identity, store, layers, place })
    }

    /// A tmpfs with the step store's files and the layers in it, id-mapped, and the user's namespace kept there; and all of it
    /// taken down again.
    fn once(&self) -> anyhow::Result<()> {
        let step = self.place.join("step");
        fs::create_dir(&step)?;
        let (users, groups) = (&self.identity.users, &self.identity.groups);
        let namespace = |kind| UserNamespace::new(USER, USER, &users.map(kind), &groups.map(kind));
        let keep_id = namespace(NamespaceKind::KeepId)?;
        DetachedMount::tmpfs(&[("size", "50%"), ("mode", "0700")])?.attach_at(&step)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &step, flags, FileMode::empty())?;
        for directory in &self.store.directories {
            mkdirat(&root, directory.as_str(), FileMode::from_raw_mode(0o755))?;
        }
        for (name, bytes) in &self.store.files {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(&root, name.as_str(), flags, FileMode::from_raw_mode(0o644))?;
            rustix::io::write(&file, bytes)?;
        }
        for (name, target) in &self.store.links {
            symlinkat(target.as_str(), &root, name.as_str())?;
        }
        for mount in &self.store.mounts {
            let layer = self.layers.get(mount.layer).context("no such layer")?.another_mount()?;
            layer.map_ids(keep_id.as_fd())?;
            layer.attach(&openat(&root, mount.directory.as_str(), flags, FileMode::empty())?, &mount.name)?;
        }
        let kept = step.join("container-namespace");
        fs::write(&kept, "")?;
        pin_namespace(keep_id.as_fd(), &kept)?;
        Ok(take_down(&step)?)
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        self.layers.clear();
        // What an error left.
        let _ = take_down(&self.place.join("step"));
        let _ = fs::remove_dir_all(&self.place);
    }
}
