//! An image that no store has, if the site allows pulls: Podman pulls it into the step's own storage.
//!
//! Podman is called for the user, so it uses the user's own logins to registries and the job's proxies. It works in the container's
//! user namespace, so the files that it unpacks have the owners that they are to have in the container, and its layers are used as
//! they are.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Instant;

use parallax_format::layout;
use parallax_format::oci::Execution;
use parallax_protocol::step_file::{StepFile, StepPaths};
use serde::Deserialize;

use crate::making::Layers;
use crate::podman::Podman;

/// The variable that names a file with logins to registries, and where Podman and Docker have them in the home directory
/// (`containers-auth.json(5)`).
const AUTH_FILE: &str = "REGISTRY_AUTH_FILE";
const AUTH_FILES: [&str; 2] = [".config/containers/auth.json", ".docker/config.json"];
/// Variables of the job for proxies of registries.
const PROXIES: [&str; 6] = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// An image that was pulled.
#[derive(Debug)]
pub(crate) struct Pulled {
    /// Its layers in Podman's storage.
    pub layers: Layers,
    /// Its settings.
    pub execution: Execution,
}

/// The answer of `podman image inspect`, as far as it matters.
#[derive(Debug, Deserialize)]
struct Inspected {
    #[serde(rename = "Config")]
    config: Option<Execution>,
    #[serde(rename = "GraphDriver")]
    graph_driver: GraphDriver,
}

#[derive(Debug, Deserialize)]
struct GraphDriver {
    #[serde(rename = "Data")]
    data: Directories,
}

/// The directories of an image's layers: the topmost, and those below it, topmost first, separated by colons.
#[derive(Debug, Deserialize)]
struct Directories {
    #[serde(rename = "UpperDir")]
    upper: String,
    #[serde(rename = "LowerDir", default)]
    lower: String,
}

/// Has Podman pull the step's image into the step's storage, and refuses another one than the job was submitted with. `home` is the
/// user's home directory.
///
/// # Errors
/// A message for the user.
pub(crate) fn pull(
    podman: &Podman,
    step: &StepFile,
    home: Option<&Path>,
    paths: &StepPaths,
    deadline: Instant,
) -> Result<Pulled, String> {
    let name = step.image.as_str();
    let mut variables = variables(|name| std::env::var_os(name), home, Path::exists);
    copy_logins(&mut variables, &paths.launch_directory().join("auth.json"));
    let words = |arguments: &[&str]| arguments.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let pulled = podman.ask(&words(&["pull", "--quiet", name]), &variables, deadline);
    let pulled = pulled.map_err(|error| format!("cannot pull the image \"{name}\": {error}"))?;
    let id = pulled.lines().next_back().unwrap_or_default().trim();
    if let Some(expected) = step.pulled_id.as_deref().filter(|expected| *expected != id) {
        return Err(format!(
            "the registry has another image \"{name}\" (id {id:.12}) than the job was submitted with (id {expected:.12}); submit the job again"
        ));
    }
    let said = podman.ask(&words(&["image", "inspect", "--format={{json .}}", id]), &[], deadline)?;
    let invalid = |error: &dyn std::fmt::Display| format!("invalid output of podman for the image \"{name}\": {error}");
    let Inspected { config, graph_driver } = serde_json::from_str(&said).map_err(|error| invalid(&error))?;
    let directory = paths.graph_root().join(layout::OVERLAY);
    let names =
        graph_driver.data.names(&directory).ok_or_else(|| invalid(&"a layer lies outside of the step's storage"))?;
    Ok(Pulled { layers: Layers { directory, names, mount_program: None }, execution: config.unwrap_or_default() })
}

impl Directories {
    /// The paths of the layers below a directory, topmost first.
    fn names(&self, directory: &Path) -> Option<Vec<String>> {
        let all = [self.upper.as_str()].into_iter().chain(self.lower.split(':')).filter(|path| !path.is_empty());
        all.map(|path| Some(Path::new(path).strip_prefix(directory).ok()?.to_str()?.to_owned())).collect()
    }
}

/// Gives Podman a copy of the user's logins: as root of the container's user namespace it may not be able to read the user's file.
fn copy_logins(variables: &mut [(&'static str, OsString)], copy: &Path) {
    for (_, file) in variables.iter_mut().filter(|(name, _)| *name == AUTH_FILE) {
        let written = fs::read(&*file).and_then(|logins| {
            let mut place = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(copy)?;
            place.write_all(&logins)
        });
        if written.is_ok() {
            *file = copy.into();
        }
    }
}

fn variables(
    get: impl Fn(&str) -> Option<OsString>,
    home: Option<&Path>,
    exists: impl Fn(&Path) -> bool,
) -> Vec<(&'static str, OsString)> {
    let mut variables: Vec<_> = PROXIES.iter().filter_map(|name| Some((*name, get(name)?))).collect();
    let logins = || {
        AUTH_FILES.iter().map(|file| home.map(|home| home.join(file))).find_map(|file| file.filter(|file| exists(file)))
    };
    let auth_file = get(AUTH_FILE).or_else(|| logins().map(Into::into));
    variables.extend(auth_file.map(|file| (AUTH_FILE, file)));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_logins_and_proxies_are_found() {
        let has_docker = |path: &Path| path == Path::new("/home/u/.docker/config.json");
        let proxy = |name: &str| (name == "https_proxy").then(|| "http://proxy:3128".into());
        assert_eq!(
            variables(proxy, Some(Path::new("/home/u")), has_docker),
            [("https_proxy", "http://proxy:3128".into()), (AUTH_FILE, "/home/u/.docker/config.json".into())]
        );
        let named = |name: &str| (name == AUTH_FILE).then(|| "/secret".into());
        assert_eq!(variables(named, None, |_| true), [(AUTH_FILE, "/secret".into())]);
        assert!(variables(|_| None, None, |_| true).is_empty());
    }

    #[test]
    fn layers_are_found_below_the_storage() {
        let said = |upper: &str, lower: &str| Directories { upper: upper.to_owned(), lower: lower.to_owned() };
        let names = |said: Directories| said.names(Path::new("/s/graph/overlay"));
        assert_eq!(names(said("/s/graph/overlay/b/diff", "")), Some(vec!["b/diff".into()]));
        let both = names(said("/s/graph/overlay/b/diff", "/s/graph/overlay/a/diff"));
        assert_eq!(both, Some(vec!["b/diff".into(), "a/diff".into()]));
        assert_eq!(names(said("/etc", "")), None);
    }
}
