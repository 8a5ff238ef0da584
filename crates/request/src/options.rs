//! The options of a request, as users write them.

use std::path::{Path, PathBuf};

use parallax_format::{ContainerRule, parse_container};
use parallax_spank_hooks::{GivenOption, OPTIONS};

use crate::annotation;
use crate::device;
use crate::error::RequestError;
use crate::mount::{self, is_plain};
use crate::request::Request;
use crate::variable;

/// The options of a request, in the order in which help texts show them: all but those for the image and the mode, which the
/// image's name and the lease carry, and for files with options (EDF).
pub fn options() -> impl Iterator<Item = GivenOption> {
    OPTIONS.iter().map(|text| text.option).filter(|option| is_of_request(*option))
}

/// Whether a request has the option's value.
#[must_use]
pub fn is_of_request(option: GivenOption) -> bool {
    let is_own = OPTIONS.iter().any(|text| text.option == option);
    is_own && !matches!(option, GivenOption::Image | GivenOption::Mode | GivenOption::Edf)
}

/// Returns the name of the variable that has the option's value where the command line does not: the option's in capitals.
#[must_use]
pub fn variable_of(option: GivenOption) -> String {
    option.name().to_ascii_uppercase().replace('-', "_")
}

/// Returns the value of the option's variable as the option takes it; `None` if the variable does not ask for the option. The
/// variable of an option without a value is true or false.
///
/// # Errors
/// It is neither.
pub fn value_of_variable(option: GivenOption, value: &str) -> Result<Option<&str>, RequestError> {
    if !option.is_flag() {
        return Ok(Some(value).filter(|value| !value.is_empty()));
    }
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "y" | "on" => Ok(Some("")),
        "" | "0" | "false" | "no" | "n" | "off" => Ok(None),
        _ => Err(RequestError::Boolean(value.to_owned())),
    }
}

impl Request {
    /// Adds the value of an option; one that is not of a request changes nothing. Mounts, variables, devices and annotations add up, other
    /// values replace earlier ones. `directory` is the current directory, to which relative sources of mounts belong.
    ///
    /// # Errors
    /// The value is invalid, or contradicts an earlier option of the same command line.
    pub fn add(&mut self, option: GivenOption, value: &str, directory: &Path) -> Result<(), RequestError> {
        if option.is_flag() && !value.is_empty() {
            return Err(RequestError::Value(value.to_owned()));
        }
        match option {
            GivenOption::Mount => {
                for mount in mount::parse_list(value, directory)? {
                    mount::push_new(&mut self.mounts, mount)?;
                }
            }
            GivenOption::Env => self.variables.extend(variable::parse_list(value)?),
            GivenOption::Device => device::push(&mut self.devices, device::parse_list(value)?),
            GivenOption::Annotation => annotation::push(&mut self.annotations, annotation::parse_list(value)?),
            GivenOption::Workdir => {
                let path = PathBuf::from(value);
                if !is_plain(&path) {
                    return Err(RequestError::Path(value.to_owned()));
                }
                self.working_directory = Some(path);
            }
            GivenOption::Writable => flag(&mut self.writable, true, GivenOption::Readonly)?,
            GivenOption::Readonly => flag(&mut self.writable, false, GivenOption::Writable)?,
            GivenOption::Entrypoint => self.entrypoint = Some(true),
            GivenOption::MountHome => flag(&mut self.home, true, GivenOption::NoMountHome)?,
            GivenOption::NoMountHome => flag(&mut self.home, false, GivenOption::MountHome)?,
            GivenOption::Timings => self.timings = Some(true),
            GivenOption::Name => {
                let (name, rule) = parse_container(value).ok_or_else(|| RequestError::Name(value.to_owned()))?;
                self.name = Some(name.to_owned());
                self.rule = Some(rule).filter(|rule| *rule != ContainerRule::Auto);
            }
            GivenOption::Userns => self.userns = Some(value.parse()?),
            // The image, the mode, files with options, and other tools' names.
            _ => {}
        }
        Ok(())
    }
}

fn flag(field: &mut Option<bool>, value: bool, opposite: GivenOption) -> Result<(), RequestError> {
    if *field == Some(!value) {
        return Err(RequestError::Contradiction(opposite.name()));
    }
    *field = Some(value);
    Ok(())
}

/// A value that an option takes.
#[cfg(test)]
pub(crate) fn example_of(option: GivenOption) -> &'static str {
    match option {
        GivenOption::Userns => "root",
        GivenOption::Name => "env",
        flag if flag.is_flag() => "",
        _ => "/a=b",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::userns::Userns;

    fn added(options: &[(GivenOption, &str)]) -> Result<Request, RequestError> {
        let mut request = Request::default();
        for (option, value) in options {
            request.add(*option, value, Path::new("/data"))?;
        }
        Ok(request)
    }

    #[test]
    fn variables_are_named_as_options() {
        let names: Vec<String> = options().map(variable_of).collect();
        assert_eq!((names[0].as_str(), names.len()), ("PARALLAX_MOUNT", OPTIONS.len() - 3));
        assert!(names.contains(&"PARALLAX_NO_MOUNT_HOME".to_owned()));
    }

    #[test]
    fn values_of_variables() {
        assert_eq!(value_of_variable(GivenOption::Readonly, "Yes"), Ok(Some("")));
        assert_eq!(value_of_variable(GivenOption::Readonly, "0"), Ok(None));
        assert_eq!(value_of_variable(GivenOption::Readonly, "maybe"), Err(RequestError::Boolean("maybe".into())));
        assert_eq!(value_of_variable(GivenOption::Mount, "/a"), Ok(Some("/a")));
        assert_eq!(value_of_variable(GivenOption::Mount, ""), Ok(None));
    }

    #[test]
    fn every_option_of_a_request_changes_it() {
        for option in options() {
            assert_ne!(added(&[(option, example_of(option))]).unwrap(), Request::default(), "{option:?}");
        }
        assert!(!is_of_request(GivenOption::Edf) && !is_of_request(GivenOption::EdfName));
    }

    #[test]
    fn opposites_are_refused() {
        let pairs =
            [(GivenOption::Writable, GivenOption::Readonly), (GivenOption::MountHome, GivenOption::NoMountHome)];
        for (one, other) in pairs {
            let contradiction = |option: GivenOption| Err(RequestError::Contradiction(option.name()));
            assert_eq!(added(&[(one, ""), (other, "")]), contradiction(one));
            assert_eq!(added(&[(other, ""), (one, "")]), contradiction(other));
            assert!(added(&[(one, ""), (one, "")]).is_ok());
        }
    }

    #[test]
    fn a_flag_takes_no_value_and_a_directory_is_absolute() {
        assert_eq!(added(&[(GivenOption::Readonly, "yes")]), Err(RequestError::Value("yes".into())));
        assert_eq!(added(&[(GivenOption::Workdir, "work")]), Err(RequestError::Path("work".into())));
        assert_eq!(added(&[(GivenOption::Workdir, "/a/../b")]), Err(RequestError::Path("/a/../b".into())));
    }

    #[test]
    fn names_of_containers() {
        let name =
            |value| added(&[(GivenOption::Name, value)]).map(|request| request.container().map(ToOwned::to_owned));
        assert_eq!(name("my-env.2"), Ok(Some("my-env.2".to_owned())));
        assert_eq!(name("none"), Ok(None));
        assert_eq!(name("env:create"), Ok(Some("env".to_owned())));
        assert_eq!(name("env:new"), Err(RequestError::Name("env:new".into())));
        assert_eq!(name("a/b"), Err(RequestError::Name("a/b".into())));
        let of_job = Request { name: Some("a".into()), ..Request::default() };
        let own = Request { name: Some("none".into()), ..Request::default() };
        assert_eq!(of_job.clone().and(own).container(), None);
        assert_eq!(of_job.and(Request::default()).container(), Some("a"));
    }

    #[test]
    fn the_users_own_id_or_root() {
        let userns = |value| added(&[(GivenOption::Userns, value)]).map(|request| request.userns);
        assert_eq!(userns("root"), Ok(Some(Userns::Root)));
        assert_eq!(userns("keep-id"), Ok(Some(Userns::KeepId)));
        assert_eq!(userns("auto"), Err(RequestError::Userns("auto".into())));
    }

    #[test]
    fn mounts_of_several_options_add_up() {
        let request = added(&[(GivenOption::Mount, "/a"), (GivenOption::Mount, "/b,/a")]).unwrap();
        assert_eq!(request.mounts.len(), 2);
        let other = added(&[(GivenOption::Mount, "/a"), (GivenOption::Mount, "/b:/a")]);
        assert_eq!(other, Err(RequestError::SameTarget("/a".into())));
    }
}
