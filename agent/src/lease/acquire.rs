//! The grant of a lease.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parallax_format::record::ImageRecord;
use parallax_protocol::accounts::Accounts;
use parallax_protocol::message::{Grant, GrantedImage, LeaseRequest, Mode, StepId, Timings};
use parallax_protocol::node::SourceStatus;
use parallax_protocol::step_file::StepPaths;
use parallax_store::read::TrustedStore;
use parallax_sys::credentials::Credentials;
use parallax_sys::process::Process;

use super::access::{credentials, unusable};
use super::cause::Cause;
use super::find::{Found, add_name};
use super::owners;
use super::refusal::{Refusal, refused};
use super::step_file::{self, names_of};
use super::subject::{Acquired, Made, Subject, micros};
use super::table::{Lease, Leases, Resources};
use crate::backend::Backend;
use crate::helper::{HelperError, Pending};
use crate::identity::Identity;
use crate::journal::{self, Entry, LeaseKey, Owner, StoreImage};
use crate::layers::{Directory, LayerError, LayerSource, MountedLayer, SquashfsFiles, StepLayers, lacks_files};
use crate::processes;
use crate::step::disk::{Disk, Quota};
use crate::step::scratch::{self, Size};
use crate::step::{Form, StepDirectory, StepPlan, StepStore};

/// The image's part of a step's directory; empty if Podman is to pull the image.
#[derive(Debug, Default)]
struct Contents {
    store: StepStore,
    layers: StepLayers,
    source: Option<SourceStatus>,
}

impl Leases {
    /// Provides an image for a step whose slurmstepd is `owner`.
    ///
    /// # Errors
    /// [`Refusal`], one sentence for the user. Nothing is left after a refusal.
    pub fn acquire(&self, request: LeaseRequest, owner: Owner) -> Result<Acquired, Refusal> {
        let started = Instant::now();
        let _beginning = self.begin(request.step)?;
        self.make_room(request.step)?;
        let identity = Identity::sound(self.helper(), request.uid, request.gid).map_err(|reason| refused(&reason))?;
        let user = credentials(&request, &identity, |user, group| self.helper().groups(user, group))?;
        let request = self.with_image_of_container(request)?;
        let found = self.find_image(&request, &user)?;
        let subject = Subject { found: &found, identity: &identity, user: &user, started, resolved: Instant::now() };
        if let Some(name) = request.container.clone() {
            return self.acquire_shared(request, &name, owner, &subject);
        }
        let made = self.make(request, owner, &subject)?;
        let key = made.lease.entry.lease_key();
        Ok(self.acquired(key, made, &subject, None))
    }

    /// Completes the grant of a lease with the directory of `made`.
    pub(super) fn acquired(
        &self,
        key: LeaseKey,
        made: Made,
        subject: &Subject<'_>,
        keeper: Option<(LeaseKey, Process)>,
    ) -> Acquired {
        let Made { lease, notice, timings } = made;
        let directory = self.step_path(lease.entry.directory());
        let environment = environment(&StepPaths::new(&directory));
        let grant = Grant { environment, directory, notice, image: granted_image(subject.found), timings };
        Acquired { key, grant, keeper }
    }

    /// Makes the directory of a step, or of a container that steps share, and the lease that has it.
    pub(super) fn make(&self, request: LeaseRequest, owner: Owner, subject: &Subject<'_>) -> Result<Made, Refusal> {
        let Subject { found, identity, user, resolved, .. } = *subject;
        let config = self.config();
        // Answered while the layers are mounted.
        let accounts = (request.mode == Mode::Run).then(|| self.helper().begin_accounts(user.uid, &groups_of(user)));
        let (namespaces, entered) = (self.namespaces.of(identity), owners::entered(&request));
        let contents = thread::scope(|scope| {
            // Each takes a while. If the namespace cannot be made now, the directory's maker tries again and says why.
            if !namespaces.has(entered) {
                let _ = thread::Builder::new().spawn_scoped(scope, || namespaces.of(entered));
            }
            self.contents(found, &request, identity, user)
        })?;
        let mounted = Instant::now();
        let mut entry = self.entry(request, owner, identity, contents.layers.mounted())?;
        entry.source.clone_from(&contents.source);
        if let Found::Image { store, image, .. } = found {
            entry.image = Some(StoreImage { store: store.path().to_owned(), id: image.id });
            entry.image_names.clone_from(&image.names);
        }
        let disk = config.step.scratch().map(Disk::open).transpose().map_err(|error| refused(&error.to_string()))?;
        let disk = disk.map(|disk| disk.limited(Quota::of(&config.step)));
        entry.scratch = config.step.scratch().map(Path::to_owned);
        let mut step_file = step_file::of_request(&entry.request, found, identity, &config)?;
        // From here on whatever fails removes the entry.
        self.journal.write(&entry).map_err(|error| refused(&format!("cannot write the agent's journal: {error}")))?;
        step_file.accounts = accounts.map_or_else(Accounts::default, |asked| answered(asked, &entry));
        step_file.layers.clone_from(&contents.store.plain_layers);
        step_file.mount_program = contents.store.needs_mount_program().then(|| config.agent.mount_program.clone());
        let plan = StepPlan {
            identity,
            namespaces,
            layers: &contents.layers,
            tree: found.tree(),
            mount_program: &config.agent.mount_program,
            podman: entry.request.mode == Mode::Podman || matches!(found, Found::Missing(_)),
            entered,
            mode: entry.request.mode,
            store: contents.store,
            step_file,
            scratch: scratch(&config.step.scratch_size, &entry),
            disk,
        };
        let directory = StepDirectory::build(&self.step_path(&entry.key), &plan).map_err(|error| {
            self.forget(&entry);
            refused(&format!("cannot prepare the image \"{}\" on this node: {error}", entry.request.image))
        })?;
        let timings = Timings {
            resolve: subject.resolve(),
            layers: micros(resolved, mounted),
            step_store: micros(mounted, Instant::now()),
        };
        log_grant(&entry, timings);
        let notice = plan.step_file.notice;
        let layers = contents.layers.into_mounted();
        let marker = self.mark_in_use(entry.image.as_ref());
        let resources = Resources { directory: Some(directory), disk: entry.disk_directory(), layers, marker };
        let lease = Arc::new(Lease { entry, readable: true, resources: Mutex::new(Some(resources)) });
        self.live().insert(lease.entry.step(), Arc::clone(&lease));
        Ok(Made { lease, notice, timings })
    }

    /// Removes what is left of a lease that was not granted: what the disk has goes first, since it is nobody's without an entry. If it
    /// cannot go now, it does at the agent's next start.
    fn forget(&self, entry: &Entry) {
        if let Some(Err(problem)) = entry.disk_directory().map(|disk| disk.remove()) {
            tracing::error!(step = %entry.step(), "{problem}");
        }
        let _ = self.journal.remove(entry);
    }

    /// Makes the image's part of a step's directory.
    fn contents(
        &self,
        found: &Found,
        request: &LeaseRequest,
        identity: &Identity,
        user: &Credentials,
    ) -> Result<Contents, Refusal> {
        match found {
            Found::Image { store, image, .. } => self.provide(store, image, request, identity, user),
            Found::Directory { path, without_metadata } => {
                self.provide_directory(path, without_metadata.as_deref(), request, user)
            }
            Found::Missing(_) => Ok(Contents::default()),
        }
    }

    /// Makes the image's part of a step's directory for an image of a store. Mounts the layers if the backend is the kernel.
    fn provide(
        &self,
        store: &TrustedStore,
        image: &ImageRecord,
        request: &LeaseRequest,
        identity: &Identity,
        user: &Credentials,
    ) -> Result<Contents, Refusal> {
        let kinds = owners::namespaces(request);
        owners::check(request, image, identity)?;
        let no_backend =
            |reason: String| refused(&format!("cannot mount the image \"{}\" on this node: {reason}", request.image));
        let mut chosen = self.backend_retry.backend(store, image).map_err(no_backend)?;
        if chosen.chunks.is_err() && self.config().lazy.enabled && lacks_files(store, image, user) {
            chosen = self.backend_retry.backend_again(store, image).map_err(no_backend)?;
        }
        if image.tree().is_some() && chosen.backend != Backend::Native {
            // Another configuration came since the image was found. The mount program would show the metadata image's empty files.
            return Err(refused(&format!(
                "cannot mount the metadata image of \"{}\" by FUSE ({}); run the step again",
                request.image, chosen.reason
            )));
        }
        let form = match chosen.backend {
            Backend::Native => Form::Mounts(kinds),
            Backend::Fuse => Form::Files,
        };
        let trusted = chosen.backend == Backend::Native || self.backends().trusts(store);
        let source = SquashfsFiles { table: &self.layers, store, image, chosen, trusted };
        let layers = provided(&source, request, user)?;
        let store = match request.mode {
            Mode::Run => StepStore::of_layers(image, form),
            Mode::Podman => {
                let mut image = image.clone();
                add_name(&mut image.names, &request.image);
                let step_store = StepStore::new(&image, identity, form);
                match store.path().to_str() {
                    Some(root) => step_store.with_tar_split(&image, root),
                    None => step_store,
                }
            }
        };
        let mut status = source.status(&layers);
        if let Some(directory) = image.tree() {
            let what = if image.parts().is_empty() { "metadata of" } else { "metadata of layers in" };
            status.reason = format!("{}; {what} {}", status.reason, directory.display());
        }
        Ok(Contents { store, layers, source: Some(status) })
    }

    /// Makes the image's part of a step's directory for an image that is a directory: nothing but its description.
    fn provide_directory(
        &self,
        path: &Path,
        without_metadata: Option<&str>,
        request: &LeaseRequest,
        user: &Credentials,
    ) -> Result<Contents, Refusal> {
        let mut chosen = self
            .backend_retry
            .directory(path)
            .map_err(|reason| refused(&format!("cannot run {} as an image on this node: {reason}", path.display())))?;
        if let Some(reason) = without_metadata {
            chosen.reason = format!("{}; its metadata image is not used: {reason}", chosen.reason);
        }
        let source = Directory { path, chosen };
        let layers = provided(&source, request, user)?;
        let status = source.status(&layers);
        Ok(Contents { layers, source: Some(status), ..Contents::default() })
    }

    /// Refuses a second lease for a step, unless the owner of the first lease has ended; that lease is then released.
    fn make_room(&self, step: StepId) -> Result<(), Refusal> {
        let Some(lease) = self.live().get(&step).cloned() else { return Ok(()) };
        if lease.entry.owner.open_process().is_some() {
            return Err(refused(&format!("step {step} already has an image on this node")));
        }
        drop(lease);
        self.release_step(step, Cause::Process);
        Ok(())
    }

    pub(super) fn entry(
        &self,
        request: LeaseRequest,
        owner: Owner,
        identity: &Identity,
        layers: &[Arc<MountedLayer>],
    ) -> Result<Entry, Refusal> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let mut nonce = [0; 2];
        rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| refused(&format!("cannot get a random number: {error}")))?;
        let key = format!("{}-{:04x}", request.step, u16::from_le_bytes(nonce));
        Ok(Entry {
            version: journal::VERSION,
            request,
            key,
            control_group: owner.pid_if_alive().and_then(processes::control_group_of_owner),
            owner,
            layers: layers.iter().map(|layer| layer.entry()).collect(),
            since,
            image: None,
            image_names: Vec::new(),
            source: None,
            identity: Some(identity.clone()),
            scratch: None,
            container: None,
        })
    }
}

/// Has a source provide the layers, unless a container that steps share would lose them with its first step.
fn provided(source: &dyn LayerSource, request: &LeaseRequest, user: &Credentials) -> Result<StepLayers, Refusal> {
    if request.container.is_some() && !source.outlives_processes() {
        return Err(Refusal::administrator(
            "a container with a --parallax-name needs layers that the kernel mounts: on this node they are mounted by \
             processes, which end with their step; parallax status says why"
                .to_owned(),
        ));
    }
    source.provide(user).map_err(|error| match error {
        LayerError::Open(error) => unusable(&request.image, &error),
        other => refused(&other.to_string()),
    })
}

/// The groups of a step's tasks, the primary one first.
fn groups_of(user: &Credentials) -> Vec<u32> {
    let others = user.groups.iter().copied().filter(|group| *group != user.gid);
    [user.gid].into_iter().chain(others).collect()
}

/// Waits for the names of a step's user and groups. A step runs without them where the user database fails.
fn answered(asked: Result<Pending<'_, Accounts>, HelperError>, entry: &Entry) -> Accounts {
    asked.and_then(Pending::answer).unwrap_or_else(|error| {
        tracing::warn!(step = %entry.step(), uid = entry.request.uid, %error, "no names of the user and their groups");
        Accounts::default()
    })
}

fn granted_image(found: &Found) -> Option<GrantedImage> {
    match found {
        Found::Image { image, .. } => Some(GrantedImage { id: image.id.to_string(), digest: image.digest.to_string() }),
        Found::Directory { .. } | Found::Missing(_) => None,
    }
}

/// Logs the request and the image that runs.
fn log_grant(entry: &Entry, timings: Timings) {
    let request = &entry.request;
    let id = entry.image.as_ref().map_or("none", |image| image.id.as_str());
    let names = names_of(&entry.image_names);
    let layers =
        entry.source.as_ref().map(|source| format!("{} by {}: {}", source.kind, source.backend, source.reason));
    let layers = layers.unwrap_or_else(|| "pulled".to_owned());
    tracing::info!(
        step = %entry.step(), uid = request.uid, image = request.image, image_id = id, image_names = names, layers, ?timings,
        "granted"
    );
}

/// The size of the step's tmpfs: within the memory that Slurm allocated, and within the limits of the step's control groups. Slurm sets
/// those of the step itself later, but those of the job may be there.
fn scratch(configured: &str, entry: &Entry) -> Size {
    let allocated = entry.request.memory.map(|megabytes| megabytes.saturating_mul(1 << 20));
    let limit = entry.owner.pid_if_alive().and_then(scratch::memory_limit);
    let system = rustix::system::sysinfo();
    let total = u64::from(system.mem_unit).saturating_mul(system.totalram);
    Size::new(configured, allocated.into_iter().chain(limit).min(), total)
}

/// Returns the variables that make Podman use the step's directory.
fn environment(paths: &StepPaths) -> Vec<(String, String)> {
    [
        ("CONTAINERS_STORAGE_CONF", paths.storage_conf()),
        ("CONTAINERS_CONF_OVERRIDE", paths.containers_conf()),
        ("XDG_RUNTIME_DIR", paths.runtime_directory()),
    ]
    .into_iter()
    .map(|(name, path)| (name.to_owned(), path.display().to_string()))
    .collect()
}
