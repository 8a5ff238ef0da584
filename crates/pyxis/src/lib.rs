//! Options with the names of pyxis (`--container-…`, `PYXIS_CONTAINER_…`), translated to a [`Request`].
//!
//! Launchers of other projects have these names built in. A site turns them on in plugstack.conf (`names=pyxis`); they are translated
//! where they are typed, so nodes know nothing of them. Nothing here does I/O.

mod error;
mod mounts;
mod values;

use std::path::Path;

use parallax_format::{enroot, from_anywhere};
use parallax_request::{Request, Userns, Variable};
use parallax_spank_hooks::GivenOption;

pub use error::PyxisError;
use values::Values;
pub use values::{Origin, Value, is_of_pyxis, of_variables};

/// What options ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Translation {
    /// The image, as this project's options name it.
    pub image: Option<String>,
    /// Everything beside the image.
    pub request: Request,
}

/// Translates options of one command line, or of variables. `directory` is the current directory, to which relative paths belong.
///
/// # Errors
/// A value is invalid, options contradict each other, or this version does not have what they ask for.
pub fn translate(given: &[Value<'_>], directory: &Path) -> Result<Translation, PyxisError> {
    let values = Values::new(given)?;
    refuse_missing(&values)?;
    let mut translation = Translation::default();
    let request = &mut translation.request;
    if let Some(value) = values.of(GivenOption::ContainerImage) {
        translation.image = Some(from_anywhere(&enroot::image_name(value.text), directory));
        request.pytorch = true;
    }
    if let Some(value) = values.of(GivenOption::ContainerMounts) {
        mounts::add(request, value, directory)?;
    }
    if let Some(value) = values.of(GivenOption::ContainerWorkdir) {
        let added = request.add(GivenOption::Workdir, value.text, directory);
        added.map_err(|error| PyxisError::Value(value.name(), error))?;
    }
    if let Some(value) = values.of(GivenOption::ContainerEnv) {
        for name in value.text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name.contains('=') || name.starts_with('-') {
                return Err(PyxisError::VariableName(value.name(), name.to_owned()));
            }
            request.variables.push(Variable::Keep(name.to_owned()));
        }
    }
    request.writable = values.pair(GivenOption::ContainerWritable, GivenOption::ContainerReadonly)?;
    request.home = values.pair(GivenOption::ContainerMountHome, GivenOption::NoContainerMountHome)?;
    request.entrypoint = values.pair(GivenOption::ContainerEntrypoint, GivenOption::NoContainerEntrypoint)?;
    let as_root = values.pair(GivenOption::ContainerRemapRoot, GivenOption::NoContainerRemapRoot)?;
    request.userns = as_root.map(|as_root| if as_root { Userns::Root } else { Userns::KeepId });
    if let Some(value) = values.of(GivenOption::ContainerName) {
        let added = request.add(GivenOption::Name, value.text, directory);
        added.map_err(|error| PyxisError::Value(value.name(), error))?;
    }
    Ok(translation)
}

/// Refuses what this version does not have.
fn refuse_missing(values: &Values<'_>) -> Result<(), PyxisError> {
    if let Some(value) = values.of(GivenOption::ContainerSave) {
        return Err(PyxisError::Save(value.name()));
    }
    if let Some(value) = values.of(GivenOption::ContainerUnshare) {
        return Err(PyxisError::Missing(value.name(), "namespaces of a container's own beside that of mounts"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
