//! What nodes get of an environment.

use std::path::PathBuf;

use parallax_format::device::DeviceNameError;
use parallax_format::{RequestedImage, enroot};
use parallax_request::{Mount, MountSource, Request, Variable};

use crate::environment::{Environment, Rendered};
use crate::error::{EdfError, Warning};
use crate::mount::{EdfMount, MountFlag};

/// Variables of the job that do not reach the container, unless `[env]` has them: they name locales of the node.
const DROPPED: [&str; 3] = ["LANG", "LANGUAGE", "LC_ALL"];
/// What annotations begin with by which sites set up another tool; they mean nothing here.
const OF_SARUS: &str = "com.sarus.";

impl Rendered {
    /// The image, as options name it.
    ///
    /// # Errors
    /// The environment names no image, or an impossible one.
    pub fn image(&self) -> Result<String, EdfError> {
        let Some(image) = &self.environment.image else { return Err(EdfError::NoImage(self.path.clone())) };
        let name = enroot::image_name(&image.value);
        RequestedImage::parse(&name).map_err(|error| EdfError::at(image.place.clone(), error.to_string()))?;
        Ok(name)
    }

    /// Returns the request that nodes get; what has no effect here is added to the warnings.
    ///
    /// # Errors
    /// The environment needs what this version does not have.
    pub fn request(&self, warnings: &mut Vec<Warning>) -> Result<Request, EdfError> {
        let environment = &self.environment;
        let mut request = Request {
            working_directory: environment.workdir.as_ref().map(|workdir| PathBuf::from(&workdir.value)),
            writable: environment.writable,
            entrypoint: environment.entrypoint,
            variables: variables(environment),
            ..Request::default()
        };
        for mount in &environment.mounts {
            let one = Request { mounts: vec![of_mount(mount, warnings)], ..Request::default() };
            // A later mount takes the place of one with its target.
            request = request.and(one);
        }
        for device in &environment.devices {
            let wanted = device
                .value
                .parse()
                .map_err(|error: DeviceNameError| EdfError::at(device.place.clone(), format!("the device {error}")))?;
            request = request.and(Request { devices: vec![wanted], ..Request::default() });
        }
        let annotations = environment.annotations.iter().filter(|(name, _)| !name.value.starts_with(OF_SARUS));
        request.annotations = annotations.map(|(name, value)| (name.value.clone(), value.clone())).collect();
        Ok(request)
    }
}

fn variables(environment: &Environment) -> Vec<Variable> {
    let is_set = |name: &str| environment.env.iter().any(|(known, _)| known.value == name);
    let dropped = DROPPED.into_iter().filter(|name| !is_set(name)).map(|name| Variable::Image(name.to_owned()));
    let own = environment.env.iter().map(|(name, value)| match value.as_str() {
        "" => Variable::Unset(name.value.clone()),
        value => Variable::Set(name.value.clone(), value.to_owned()),
    });
    dropped.chain(own).collect()
}

fn of_mount(mount: &EdfMount, warnings: &mut Vec<Warning>) -> Mount {
    let mut result = Mount {
        source: MountSource::Path(mount.source.clone()),
        target: mount.target.clone(),
        read_only: false,
        private: false,
        optional: false,
    };
    let mut warn = |message: &str| {
        let message = format!("the mount \"{mount}\": {message}");
        warnings.push(Warning { place: mount.place.clone(), message });
    };
    for flag in &mount.flags {
        match flag {
            MountFlag::ReadOnly => result.read_only = true,
            MountFlag::Writable => result.read_only = false,
            MountFlag::Private => result.private = true,
            MountFlag::Slave => result.private = false,
            MountFlag::Shared => {
                warn("\"shared\" has the effect of \"slave\": nothing mounted in a container reaches the node");
            }
            MountFlag::NoExec => warn("\"noexec\" has no effect in this version"),
            // As all mounts are: with what is mounted below the source, without set-user-id programs and device nodes of the
            // user's making.
            MountFlag::Bind | MountFlag::NoSuid | MountFlag::NoDev => {}
            MountFlag::Squash => result.source = MountSource::Squashfs(mount.source.clone()),
        }
    }
    result
}
