//! The parameters by which a launcher starts a step's container, from the request, the image and the configuration (pure).

use std::path::Path;

use parallax_config::{Config, Tmp};
use parallax_format::oci::{Configuration, Execution};
use parallax_format::record::ImageRecord;
use parallax_format::{ImageRef, id_prefix, is_squashfs_name};
use parallax_protocol::accounts::Accounts;
use parallax_protocol::message::{BATCH_SCRIPT, INTERACTIVE_STEP, LeaseRequest, Mode};
use parallax_protocol::step_file::{IdMaps, Mount, StepFile};

use super::find::Found;
use super::owners;
use super::refusal::{Refusal, refused};
use crate::identity::Identity;

/// Returns the parameters of a step. The layers and the names of the user's groups come from elsewhere.
///
/// # Errors
/// [`Refusal`]: the image's configuration is malformed.
pub(super) fn of_request(
    request: &LeaseRequest,
    found: &Found,
    identity: &Identity,
    config: &Config,
) -> Result<StepFile, Refusal> {
    let name = &request.image;
    let (image_id, notice, execution, other_platform) = match found {
        Found::Image { image, .. } => {
            let notices = [other_image(request, image), owners::notice(request, image, identity)];
            let notice = notices.into_iter().flatten().reduce(|both, next| both + "; " + &next);
            let platform =
                serde_json::from_str::<Configuration>(&image.config).ok().and_then(|read| read.other_platform());
            (Some(image.id.to_string()), notice, execution(name, image)?, platform)
        }
        Found::Directory { path, .. } => (None, not_for_podman(request, path), Execution::default(), None),
        Found::Missing(notice) => (None, Some(notice.clone()), Execution::default(), None),
    };
    let run = &config.run;
    let is_directory = matches!(found, Found::Directory { .. });
    let mount = |mount: &parallax_config::BindMount| Mount {
        source: mount.source.clone(),
        target: mount.target.clone(),
        read_only: mount.read_only,
    };
    Ok(StepFile {
        image: name.clone(),
        image_id,
        pulled_id: if let Found::Missing(_) = found { request.image_id.clone() } else { None },
        notice,
        user: identity.name.clone(),
        home: identity.home.clone(),
        accounts: Accounts::default(),
        working_directory: execution.directory(),
        environment: execution.environment.unwrap_or_default(),
        entrypoint: execution.entrypoint.unwrap_or_default(),
        other_platform: other_platform.map(|platform| platform.to_string()),
        layers: Vec::new(),
        directory: if let Found::Directory { path, .. } = found { Some(path.clone()) } else { None },
        keep_id_maps: if request.mode == Mode::Podman && is_directory { Some(keep_id_maps(identity)) } else { None },
        mount_program: None,
        squashfs_program: Some(config.agent.mount_program.clone()),
        mounts: run.mounts.iter().map(mount).collect(),
        devices: run.devices.clone(),
        cdi_directories: run.cdi_directories.clone(),
        hook_directories: run.hook_directories.clone(),
        mount_home: run.mount_home,
        mount_workdir: run.mount_workdir,
        as_root: request.as_root,
        container: request.container.clone(),
        own_tmp: run.tmp == Tmp::Step,
        podman: run.podman.clone(),
        start_timeout: config.step.start_timeout,
    })
}

/// Returns the notice that the name now refers to another image. The id comes with the step: it is what the name
/// meant at submit time, or any other value that the user has put into the environment.
fn other_image(request: &LeaseRequest, image: &ImageRecord) -> Option<String> {
    request.image_id.as_ref()?;
    let typed = ImageRef::parse(&request.image).ok()?;
    let by_id = id_prefix(&request.image).is_some_and(|prefix| image.id.starts_with(prefix));
    (!by_id && !image.is_meant_by(&typed)).then(|| {
        format!(
            "the step runs the image of submit time, id {:.12} ({}), which \"{}\" does not mean now",
            image.id,
            names_of(&image.names),
            request.image
        )
    })
}

/// Parses the execution parameters of the image's configuration.
fn execution(name: &str, image: &ImageRecord) -> Result<Execution, Refusal> {
    Execution::of_configuration(&image.config)
        .map_err(|error| refused(&format!("malformed configuration of the image \"{name}\": {error}")))
}

fn keep_id_maps(identity: &Identity) -> IdMaps {
    IdMaps { users: identity.users.podman_keep_id_map(), groups: identity.groups.podman_keep_id_map() }
}

/// Returns the notice that a SquashFS file is no image for Podman. Scripts, and shells of salloc, call srun as well.
fn not_for_podman(request: &LeaseRequest, path: &Path) -> Option<String> {
    let is_script = matches!(request.step.step, BATCH_SCRIPT | INTERACTIVE_STEP);
    let is_file = path.to_str().is_some_and(is_squashfs_name);
    (request.mode == Mode::Podman && !is_script && is_file).then(|| {
        let shown = path.display();
        format!("Podman has no image here, because {shown} is a file: tasks in run mode have it as their image")
    })
}

/// The names of an image, for messages.
pub(super) fn names_of(names: &[String]) -> String {
    if names.is_empty() { "without a name".to_owned() } else { names.join(", ") }
}
