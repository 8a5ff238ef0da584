//! A file and its bases become one definition, and variables in it are expanded.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parallax_format::from_anywhere;

use crate::environment::{Environment, Rendered};
use crate::error::{EdfError, Warning};
use crate::expand::expand;
use crate::file::{self, Definition};
use crate::find::Locations;
use crate::mount::EdfMount;
use crate::place::{Located, Text};
use crate::sources::Sources;

/// Maximum number of bytes of all files of an environment together, and of its strings after their expansion.
pub const MAX_BYTES: usize = 1 << 20;
/// Maximum number of levels of bases below a file.
pub const MAX_LEVELS: usize = 10;

/// Reads an environment by its name or path, merges its bases and itself from left to right, and expands its variables.
///
/// # Errors
/// A file is missing or invalid, or a variable is not set: [`EdfError`].
pub fn render(reference: &str, locations: &Locations, sources: &dyn Sources) -> Result<Rendered, EdfError> {
    let mut reading = Reading {
        locations,
        sources,
        left: MAX_BYTES,
        chain: Vec::new(),
        warnings: Vec::new(),
        merged: Definition::default(),
    };
    let path = locations.find(reference, &locations.current, sources)?;
    reading.read(path.clone())?;
    let Reading { merged, warnings, .. } = reading;
    let environment = finish(merged, locations, sources)?;
    Ok(Rendered { path, environment, warnings })
}

struct Reading<'a> {
    locations: &'a Locations,
    sources: &'a dyn Sources,
    /// How many bytes may still be read. It also limits how often a file that is a base several times is read.
    left: usize,
    chain: Vec<PathBuf>,
    warnings: Vec<Warning>,
    merged: Definition,
}

impl Reading<'_> {
    /// Reads a file, its bases first.
    fn read(&mut self, path: PathBuf) -> Result<(), EdfError> {
        let is_cycle = self.chain.contains(&path);
        self.chain.push(path.clone());
        if is_cycle {
            return Err(EdfError::Cycle(self.names()));
        }
        if self.chain.len() > MAX_LEVELS + 1 {
            return Err(EdfError::TooDeep(self.names()));
        }
        let limit = self.left as u64 + 1;
        let bytes = self.sources.read(&path, limit).map_err(|cause| EdfError::Read { path: path.clone(), cause })?;
        // An empty file counts, too.
        self.left = self.left.checked_sub(bytes.len().max(1)).ok_or_else(|| {
            EdfError::TooLarge(format!("{} with its bases", self.chain.first().unwrap_or(&path).display()))
        })?;
        let text = String::from_utf8(bytes).map_err(|_| EdfError::Read {
            path: path.clone(),
            cause: io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"),
        })?;
        let own = file::parse(&text, &Arc::from(path.as_path()), &mut self.warnings)?;
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        for base in &own.bases {
            let reference = self.expand(base)?;
            let found = self.locations.find(&reference, &directory, self.sources);
            let found = found.map_err(|error| EdfError::at(base.place.clone(), error.to_string()))?;
            self.read(found)?;
        }
        self.chain.pop();
        merge(&mut self.merged, own);
        Ok(())
    }

    fn expand(&self, text: &Text) -> Result<String, EdfError> {
        expand(text, &|name| self.sources.variable(name), MAX_BYTES)
    }

    fn names(&self) -> String {
        self.chain.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" -> ")
    }
}

/// Adds a file's own keys to those of its bases.
fn merge(merged: &mut Definition, own: Definition) {
    let Definition { bases: _, image, workdir, entrypoint, writable, mounts, devices, env, annotations } = own;
    merged.image = image.or(merged.image.take());
    merged.workdir = workdir.or(merged.workdir.take());
    merged.entrypoint = entrypoint.or(merged.entrypoint);
    merged.writable = writable.or(merged.writable);
    merged.mounts.extend(mounts);
    merged.devices.extend(devices);
    merge_entries(&mut merged.env, env);
    merge_entries(&mut merged.annotations, annotations);
}

/// A later value takes the place of an earlier one.
fn merge_entries(merged: &mut Vec<(Located<String>, Text)>, own: Vec<(Located<String>, Text)>) {
    for (name, text) in own {
        match merged.iter_mut().find(|(known, _)| known.value == name.value) {
            Some((_, value)) => *value = text,
            None => merged.push((name, text)),
        }
    }
}

/// Expands all strings of a merged definition.
fn finish(merged: Definition, locations: &Locations, sources: &dyn Sources) -> Result<Environment, EdfError> {
    let variable = |name: &str| sources.variable(name);
    let mut left = MAX_BYTES;
    let mut expanded = |text: &Text| -> Result<String, EdfError> {
        let result = expand(text, &variable, left)?;
        left -= result.len();
        Ok(result)
    };
    let mut environment =
        Environment { entrypoint: merged.entrypoint, writable: merged.writable, ..Environment::default() };
    if let Some(image) = &merged.image {
        environment.image =
            Some(Located { value: from_anywhere(&expanded(image)?, &locations.current), place: image.place.clone() });
    }
    if let Some(workdir) = &merged.workdir {
        let value = expanded(workdir)?;
        if !value.starts_with('/') {
            let message = format!("\"workdir\" is a directory of the container, and \"{value}\" is not absolute");
            return Err(EdfError::at(workdir.place.clone(), message));
        }
        environment.workdir = Some(Located { value, place: workdir.place.clone() });
    }
    for mount in &merged.mounts {
        let mount = EdfMount::parse(&expanded(mount)?, &mount.place, &locations.current)?;
        if !environment.mounts.iter().any(|known| known.is_same(&mount)) {
            environment.mounts.push(mount);
        }
    }
    for device in &merged.devices {
        let value = expanded(device)?;
        if !environment.devices.iter().any(|known| known.value == value) {
            environment.devices.push(Located { value, place: device.place.clone() });
        }
    }
    for (name, text) in &merged.env {
        environment.env.push((name.clone(), expanded(text)?));
    }
    for (name, text) in &merged.annotations {
        environment.annotations.push((name.clone(), expanded(text)?));
    }
    Ok(environment)
}
