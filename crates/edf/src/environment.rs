//! The result of rendering an environment: one definition without bases and variables.

use std::path::PathBuf;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::error::Warning;
use crate::mount::EdfMount;
use crate::place::Located;

/// An environment that was read, and what is odd about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The file.
    pub path: PathBuf,
    /// Its contents, with its bases and without variables.
    pub environment: Environment,
    /// What is not as the user may think.
    pub warnings: Vec<Warning>,
}

/// An environment without bases and variables. Everything keeps the order of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// The image; `None` if neither the file nor its bases have one.
    pub(crate) image: Option<Located<String>>,
    /// The directory in which tasks start, absolute; `None`: the image's.
    pub(crate) workdir: Option<Located<String>>,
    /// Whether the image's entry point is run; the format's default is false.
    pub(crate) entrypoint: Option<bool>,
    /// Whether the root directory can be written; the format's default is true.
    pub(crate) writable: Option<bool>,
    /// The mounts.
    pub(crate) mounts: Vec<EdfMount>,
    /// The devices.
    pub(crate) devices: Vec<Located<String>>,
    /// The variables; the empty value unsets.
    pub(crate) env: Vec<(Located<String>, String)>,
    /// The annotations.
    pub(crate) annotations: Vec<(Located<String>, String)>,
}

impl Environment {
    /// Returns the environment as an EDF without bases and variables.
    #[must_use]
    pub fn to_toml(&self) -> String {
        // Strings, booleans, and arrays and tables of strings: TOML has all of these.
        toml::to_string(&Document { environment: self, is_edf: true }).unwrap_or_default()
    }
}

/// As an object in the order of the documentation. A key without a value is left out, unless the format has a default.
impl Serialize for Environment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Document { environment: self, is_edf: false }.serialize(serializer)
    }
}

struct Document<'a> {
    environment: &'a Environment,
    /// True if a dollar sign is written as in an EDF.
    is_edf: bool,
}

impl Document<'_> {
    fn text(&self, text: &str) -> String {
        if self.is_edf { text.replace('$', "$$") } else { text.to_owned() }
    }
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let environment = self.environment;
        let mut map = serializer.serialize_map(None)?;
        if let Some(image) = &environment.image {
            map.serialize_entry("image", &self.text(&image.value))?;
        }
        if let Some(workdir) = &environment.workdir {
            map.serialize_entry("workdir", &self.text(&workdir.value))?;
        }
        map.serialize_entry("entrypoint", &environment.entrypoint.unwrap_or(false))?;
        map.serialize_entry("writable", &environment.writable.unwrap_or(true))?;
        let mounts: Vec<String> = environment.mounts.iter().map(|mount| self.text(&mount.to_string())).collect();
        map.serialize_entry("mounts", &mounts)?;
        let devices: Vec<String> = environment.devices.iter().map(|device| self.text(&device.value)).collect();
        map.serialize_entry("devices", &devices)?;
        map.serialize_entry("env", &Entries(self, &environment.env))?;
        map.serialize_entry("annotations", &Entries(self, &environment.annotations))?;
        map.end()
    }
}

/// A table in the order of its entries.
struct Entries<'a>(&'a Document<'a>, &'a [(Located<String>, String)]);

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.1.iter().map(|(name, value)| (&name.value, self.0.text(value))))
    }
}
