//! An image that no store has, if the site allows pulls: Podman pulls it into the step's own storage.
//!
//! Podman is called for the user, so it uses the user's own logins to registries and the job's proxies.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::podman::Podman;

/// The variable that names a file with logins to registries, and where Podman and Docker have them in the home directory
/// (`containers-auth.json(5)`).
const AUTH_FILE: &str = "REGISTRY_AUTH_FILE";
const AUTH_FILES: [&str; 2] = [".config/containers/auth.json", ".docker/config.json"];
/// Variables of the job for proxies of registries.
const PROXIES: [&str; 6] = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// Settings of an image's configuration for the execution of programs (OCI image specification, `config`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Execution {
    /// Variables, `NAME=VALUE` each.
    #[serde(rename = "Env", default)]
    pub environment: Option<Vec<String>>,
    /// The working directory.
    #[serde(rename = "WorkingDir", default)]
    pub working_directory: Option<PathBuf>,
}

/// Has Podman pull the image of this name; returns its id and its settings.
///
/// # Errors
/// A message for the user.
pub fn pull(
    podman: &Podman,
    name: &str,
    home: Option<&Path>,
    deadline: Instant,
) -> Result<(String, Execution), String> {
    let variables = variables(|name| std::env::var_os(name), home, Path::exists);
    let words = |arguments: &[&str]| arguments.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let pulled = podman.ask(&words(&["pull", "--quiet", name]), &variables, deadline);
    let pulled = pulled.map_err(|error| format!("cannot pull the image \"{name}\": {error}"))?;
    let id = pulled.lines().next_back().unwrap_or_default().trim();
    let said = podman.ask(&words(&["image", "inspect", "--format={{json .Config}}", id]), &[], deadline)?;
    let execution = serde_json::from_str(&said)
        .map_err(|error| format!("invalid output of podman for the image \"{name}\": {error}"))?;
    Ok((id.to_owned(), execution))
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
    fn an_image_may_say_nothing() {
        assert_eq!(serde_json::from_str::<Execution>("{}").unwrap(), Execution::default());
        let full: Execution = serde_json::from_str("{\"Env\":[\"A=b\"],\"WorkingDir\":\"/w\",\"Cmd\":null}").unwrap();
        assert_eq!(full, Execution { environment: Some(vec!["A=b".into()]), working_directory: Some("/w".into()) });
    }
}
