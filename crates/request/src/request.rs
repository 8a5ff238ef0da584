//! A request as a whole, and how it travels.

use std::path::PathBuf;

use parallax_format::ContainerRule;
use parallax_format::device::WantedDevice;
use serde::{Deserialize, Serialize};

use crate::annotation;
use crate::device;
use crate::error::RequestError;
use crate::mount::{self, Mount};
use crate::userns::Userns;
use crate::variable::Variable;

/// A request, complete and checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// The mounts, in the order in which they are made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// The changes of variables, in the order in which they are made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<Variable>,
    /// The devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<WantedDevice>,
    /// The annotations of the container, names and values; each name once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<(String, String)>,
    /// The directory in which the tasks start, an absolute path in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<PathBuf>,
    /// Whether the image's files can be changed (in a layer of the step's own). `None`: as the site configures it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writable: Option<bool>,
    /// Whether the image's entry point is run, in each task, with the command as its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<bool>,
    /// Mounts of the site that are left out, by their paths in the container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmounts: Vec<PathBuf>,
    /// Whether tasks in images with PyTorch get the variables by which its processes find each other.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pytorch: bool,
    /// Whether the user's home directory is shown. `None`: as the site configures it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<bool>,
    /// Whether the durations of the start are printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<bool>,
    /// What the user is in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userns: Option<Userns>,
    /// The name of the container that the job's steps share. See [`Request::container`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether that container must be new, or must be there. `None`: neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<ContainerRule>,
}

/// The name that means a container of the step's own, although the job has another one.
const NO_NAME: &str = "none";

impl Request {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the name of the container that the step shares with others of its job, if it does.
    #[must_use]
    pub fn container(&self) -> Option<&str> {
        self.name.as_deref().filter(|name| *name != NO_NAME)
    }

    /// Returns this request with what `other` asks for on top: its mounts and variables come later, its other values win.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for mount in other.mounts {
            mount::push(&mut self.mounts, mount);
        }
        self.variables.extend(other.variables);
        device::push(&mut self.devices, other.devices);
        annotation::push(&mut self.annotations, other.annotations);
        self.unmounts.extend(other.unmounts);
        Self {
            working_directory: other.working_directory.or(self.working_directory),
            writable: other.writable.or(self.writable),
            entrypoint: other.entrypoint.or(self.entrypoint),
            home: other.home.or(self.home),
            timings: other.timings.or(self.timings),
            pytorch: other.pytorch || self.pytorch,
            userns: other.userns.or(self.userns),
            rule: if other.name.is_some() { other.rule } else { self.rule },
            name: other.name.or(self.name),
            ..self
        }
    }

    /// Returns the value of the variable by which a request travels: JSON without line breaks.
    #[must_use]
    pub fn to_variable(&self) -> String {
        // Strings, booleans and lists of them: there is nothing in it that JSON cannot have.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the variable. What this release does not know is an error: a wish must not be passed over.
    ///
    /// # Errors
    /// It is not a request.
    pub fn from_variable(value: &str) -> Result<Self, RequestError> {
        serde_json::from_str(value).map_err(|error| RequestError::Transport(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use parallax_spank_hooks::GivenOption;

    fn request(options: &[(GivenOption, &str)]) -> Request {
        let mut request = Request::default();
        for (option, value) in options {
            request.add(*option, value, Path::new("/data")).unwrap();
        }
        request
    }

    #[test]
    fn a_request_travels_unchanged() {
        let all = request(&[
            (GivenOption::Mount, r"/a\,b:/c\:d:ro,./e,tmpfs:/scratch,?/opt/x"),
            (GivenOption::Env, "A=1,B=,C,-D"),
            (GivenOption::Device, "?/dev/cxi*,a.b/c=d"),
            (GivenOption::Annotation, r"a.b=c\,d,e="),
            (GivenOption::Workdir, "/c"),
            (GivenOption::Readonly, ""),
            (GivenOption::Entrypoint, ""),
            (GivenOption::NoMountHome, ""),
            (GivenOption::Timings, ""),
            (GivenOption::Userns, "root"),
            (GivenOption::Name, "env"),
        ]);
        let mut all = all;
        all.variables.push(Variable::Image("LANG".to_owned()));
        all.unmounts.push("/sys".into());
        all.pytorch = true;
        assert_eq!(Request::from_variable(&all.to_variable()).unwrap(), all);
        assert!(!all.is_empty() && !all.to_variable().contains('\n'));
        assert_eq!(Request::from_variable("{}").unwrap(), Request::default());
        assert_eq!(Request::default().to_variable(), "{}");
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        let newer_mount = r#"{"mounts":[{"source":"tmpfs","target":"/t","quota":1}]}"#;
        for value in ["", "x", "[1]", r#"{"mounts":1}"#, r#"{"gpus":["all"]}"#, newer_mount] {
            assert!(matches!(Request::from_variable(value), Err(RequestError::Transport(_))), "{value}");
        }
    }

    #[test]
    fn a_step_adds_to_its_job() {
        let job = request(&[
            (GivenOption::Mount, "/a"),
            (GivenOption::Env, "A=1"),
            (GivenOption::Workdir, "/a"),
            (GivenOption::Readonly, ""),
        ]);
        let step = request(&[(GivenOption::Mount, "/b,/a"), (GivenOption::Env, "A=2"), (GivenOption::Writable, "")]);
        let both = job.and(step);
        let targets: Vec<_> = both.mounts.iter().map(|mount| mount.target.to_str().unwrap()).collect();
        assert_eq!(targets, ["/a", "/b"]);
        assert_eq!(both.variables, [Variable::parse("A=1").unwrap(), Variable::parse("A=2").unwrap()]);
        assert_eq!((&both.working_directory, both.writable), (&Some("/a".into()), Some(true)));
        let pyxis = Request { unmounts: vec!["/sys".into()], pytorch: true, ..Request::default() };
        let all = pyxis.and(both);
        assert!(all.pytorch && all.unmounts == [Path::new("/sys")], "{all:?}");
    }
}
