//! The options of a request, as users write them.

use std::path::{Path, PathBuf};

use parallax_spank_hooks::GivenOption;

use crate::error::RequestError;
use crate::mount::{self, is_plain};
use crate::request::Request;
use crate::variable;

/// An option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOption {
    /// `--parallax-mount=MOUNT,…`.
    Mount,
    /// `--parallax-workdir=DIRECTORY`.
    Workdir,
    /// `--parallax-env=VARIABLE,…`.
    Env,
    /// `--parallax-writable`.
    Writable,
    /// `--parallax-readonly`.
    Readonly,
    /// `--parallax-entrypoint`.
    Entrypoint,
    /// `--parallax-mount-home`.
    MountHome,
    /// `--parallax-no-mount-home`.
    NoMountHome,
}

/// All options, in the order in which help texts show them.
pub const OPTIONS: [RequestOption; 8] = [
    RequestOption::Mount,
    RequestOption::Workdir,
    RequestOption::Env,
    RequestOption::Writable,
    RequestOption::Readonly,
    RequestOption::Entrypoint,
    RequestOption::MountHome,
    RequestOption::NoMountHome,
];

impl RequestOption {
    /// The option among those that the plugin registers.
    #[must_use]
    pub fn of(option: GivenOption) -> Option<Self> {
        OPTIONS.into_iter().find(|own| own.registered() == option)
    }

    fn registered(self) -> GivenOption {
        match self {
            Self::Mount => GivenOption::Mount,
            Self::Workdir => GivenOption::Workdir,
            Self::Env => GivenOption::Env,
            Self::Writable => GivenOption::Writable,
            Self::Readonly => GivenOption::Readonly,
            Self::Entrypoint => GivenOption::Entrypoint,
            Self::MountHome => GivenOption::MountHome,
            Self::NoMountHome => GivenOption::NoMountHome,
        }
    }

    /// The option's name, without the dashes.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.registered().name()
    }

    /// The variable that has the option's value where the command line does not: its name in capitals.
    #[must_use]
    pub fn variable(self) -> String {
        self.name().to_ascii_uppercase().replace('-', "_")
    }

    /// Whether the option takes no value.
    #[must_use]
    pub fn is_flag(self) -> bool {
        !matches!(self, Self::Mount | Self::Workdir | Self::Env)
    }

    /// Returns the value of the option's variable as the option takes it; `None` if the variable does not ask for the option. A
    /// flag's variable is true or false.
    ///
    /// # Errors
    /// A flag's variable is neither.
    pub fn value_of_variable(self, value: &str) -> Result<Option<&str>, RequestError> {
        if !self.is_flag() {
            return Ok(Some(value).filter(|value| !value.is_empty()));
        }
        match value.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "y" | "on" => Ok(Some("")),
            "" | "0" | "false" | "no" | "n" | "off" => Ok(None),
            _ => Err(RequestError::Boolean(value.to_owned())),
        }
    }
}

impl Request {
    /// Adds the value of an option. Mounts and variables add up, other values replace earlier ones. `directory` is the current
    /// directory, to which relative sources of mounts belong.
    ///
    /// # Errors
    /// The value is invalid, or contradicts an earlier option of the same command line.
    pub fn add(&mut self, option: RequestOption, value: &str, directory: &Path) -> Result<(), RequestError> {
        if option.is_flag() && !value.is_empty() {
            return Err(RequestError::Value(value.to_owned()));
        }
        match option {
            RequestOption::Mount => {
                for mount in mount::parse_list(value, directory)? {
                    mount::push_new(&mut self.mounts, mount)?;
                }
            }
            RequestOption::Env => self.variables.extend(variable::parse_list(value)?),
            RequestOption::Workdir => {
                let path = PathBuf::from(value);
                if !is_plain(&path) {
                    return Err(RequestError::Path(value.to_owned()));
                }
                self.working_directory = Some(path);
            }
            RequestOption::Writable => flag(&mut self.writable, true, RequestOption::Readonly)?,
            RequestOption::Readonly => flag(&mut self.writable, false, RequestOption::Writable)?,
            RequestOption::Entrypoint => self.entrypoint = Some(true),
            RequestOption::MountHome => flag(&mut self.home, true, RequestOption::NoMountHome)?,
            RequestOption::NoMountHome => flag(&mut self.home, false, RequestOption::MountHome)?,
        }
        Ok(())
    }
}

fn flag(field: &mut Option<bool>, value: bool, opposite: RequestOption) -> Result<(), RequestError> {
    if *field == Some(!value) {
        return Err(RequestError::Contradiction(opposite.name()));
    }
    *field = Some(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(options: &[(RequestOption, &str)]) -> Result<Request, RequestError> {
        let mut request = Request::default();
        for (option, value) in options {
            request.add(*option, value, Path::new("/data"))?;
        }
        Ok(request)
    }

    #[test]
    fn variables_are_named_as_options() {
        assert_eq!(RequestOption::Mount.variable(), "PARALLAX_MOUNT");
        assert_eq!(RequestOption::NoMountHome.variable(), "PARALLAX_NO_MOUNT_HOME");
    }

    #[test]
    fn flags_are_the_registered_options_without_a_value() {
        for option in OPTIONS {
            let text = parallax_spank_hooks::OPTIONS.iter().find(|text| text.option == option.registered()).unwrap();
            assert_eq!(text.value.is_none(), option.is_flag(), "{option:?}");
            assert_eq!(RequestOption::of(text.option), Some(option));
        }
        assert_eq!(RequestOption::of(GivenOption::Image), None);
        assert_eq!(parallax_spank_hooks::OPTIONS.len(), OPTIONS.len() + 2);
    }

    #[test]
    fn values_of_variables() {
        assert_eq!(RequestOption::Readonly.value_of_variable("Yes"), Ok(Some("")));
        assert_eq!(RequestOption::Readonly.value_of_variable("0"), Ok(None));
        assert_eq!(RequestOption::Readonly.value_of_variable("maybe"), Err(RequestError::Boolean("maybe".into())));
        assert_eq!(RequestOption::Mount.value_of_variable("/a"), Ok(Some("/a")));
        assert_eq!(RequestOption::Mount.value_of_variable(""), Ok(None));
    }

    #[test]
    fn opposites_are_refused() {
        let pairs = [
            (RequestOption::Writable, RequestOption::Readonly),
            (RequestOption::MountHome, RequestOption::NoMountHome),
        ];
        for (one, other) in pairs {
            let contradiction = |option: RequestOption| Err(RequestError::Contradiction(option.name()));
            assert_eq!(added(&[(one, ""), (other, "")]), contradiction(one));
            assert_eq!(added(&[(other, ""), (one, "")]), contradiction(other));
            assert!(added(&[(one, ""), (one, "")]).is_ok());
        }
    }

    #[test]
    fn a_flag_takes_no_value_and_a_directory_is_absolute() {
        assert_eq!(added(&[(RequestOption::Readonly, "yes")]), Err(RequestError::Value("yes".into())));
        assert_eq!(added(&[(RequestOption::Workdir, "work")]), Err(RequestError::Path("work".into())));
        assert_eq!(added(&[(RequestOption::Workdir, "/a/../b")]), Err(RequestError::Path("/a/../b".into())));
    }

    #[test]
    fn mounts_of_several_options_add_up() {
        let request = added(&[(RequestOption::Mount, "/a"), (RequestOption::Mount, "/b,/a")]).unwrap();
        assert_eq!(request.mounts.len(), 2);
        let other = added(&[(RequestOption::Mount, "/a"), (RequestOption::Mount, "/b:/a")]);
        assert_eq!(other, Err(RequestError::SameTarget("/a".into())));
    }
}
