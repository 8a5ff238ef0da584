//! What a site sets for all requests, and what it keeps to itself (`run.defaults` and `run.locked` in parallax.toml).

use std::path::Path;

use parallax_format::nearest_word;
use parallax_spank_hooks::GivenOption;

use crate::error::RequestError;
use crate::options::options;
use crate::request::Request;
use crate::userns::Userns;
use crate::variable::Variable;

/// What the names of the plugin's own options begin with.
const PREFIX: &str = "parallax-";

/// The option of a request that a site names, without the prefix.
///
/// # Errors
/// There is no such option.
pub fn option_of_site(name: &str) -> Result<GivenOption, RequestError> {
    let names = || options().filter_map(|option| option.name().strip_prefix(PREFIX));
    let found = options().find(|option| option.name().strip_prefix(PREFIX) == Some(name));
    found.ok_or_else(|| {
        let all: Vec<&str> = names().collect();
        let advice = match nearest_word(name, &all) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("there are {}", all.join(", ")),
        };
        RequestError::SiteOption(name.to_owned(), advice)
    })
}

impl Request {
    /// Reads a site's options, each `NAME` or `NAME=VALUE` without the prefix.
    ///
    /// # Errors
    /// An option is unknown, its value is invalid, or two contradict each other.
    pub fn of_site(defaults: &[String]) -> Result<Self, RequestError> {
        let mut request = Self::default();
        for text in defaults {
            let (name, value) = text.split_once('=').unwrap_or((text.as_str(), ""));
            // Without a current directory a relative path is none.
            request.add(option_of_site(name)?, value, Path::new("/"))?;
        }
        Ok(request)
    }

    /// Whether the request has something that the option asks for, however it came there.
    #[must_use]
    pub fn uses(&self, option: GivenOption) -> bool {
        match option {
            GivenOption::Mount => !self.mounts.is_empty() || !self.unmounts.is_empty(),
            // What belongs to the form of an environment is not a wish.
            GivenOption::Env => self.variables.iter().any(|change| !matches!(change, Variable::Image(_))),
            GivenOption::Workdir => self.working_directory.is_some(),
            GivenOption::Writable => self.writable == Some(true),
            GivenOption::Readonly => self.writable == Some(false),
            GivenOption::Entrypoint => self.entrypoint == Some(true),
            GivenOption::MountHome => self.home == Some(true),
            GivenOption::NoMountHome => self.home == Some(false),
            GivenOption::Timings => self.timings == Some(true),
            GivenOption::Device => !self.devices.is_empty(),
            GivenOption::Annotation => !self.annotations.is_empty(),
            GivenOption::Userns => self.userns == Some(Userns::Root),
            GivenOption::Name => self.container().is_some(),
            // Not of a request.
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::example_of;

    fn of(texts: &[&str]) -> Result<Request, RequestError> {
        Request::of_site(&texts.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn options_without_their_prefix() {
        let request = of(&["readonly", "no-mount-home", "mount=/a:/b:ro,tmpfs:/t", "env=A=1,B=2"]).unwrap();
        assert_eq!((request.writable, request.home, request.mounts.len()), (Some(false), Some(false), 2));
        assert_eq!(request.variables.len(), 2);
        assert_eq!(of(&[]).unwrap(), Request::default());
        for (texts, said) in [
            (&["readonli"][..], "the option \"readonli\" is unknown; did you mean \"readonly\"?"),
            (&["image=x"], "the option \"image\" is unknown; there are mount, workdir, env"),
            (&["parallax-readonly"], "is unknown"),
            (&["readonly=yes"], "it takes no value"),
            (&["readonly", "writable"], "contradicts"),
            (&["workdir=x"], "not an absolute path"),
        ] {
            let message = of(texts).unwrap_err().to_string();
            assert!(message.contains(said), "{texts:?}: {message}");
        }
    }

    #[test]
    fn every_option_is_known_by_what_it_asks_for() {
        for option in options() {
            let mut request = Request::default();
            request.add(option, example_of(option), Path::new("/")).unwrap();
            assert!(request.uses(option) && !Request::default().uses(option), "{option:?}");
            assert_eq!(option_of_site(option.name().strip_prefix(PREFIX).unwrap()), Ok(option));
        }
        let of_edf = Request { variables: vec![Variable::Image("LANG".into())], ..Request::default() };
        assert!(!of_edf.uses(GivenOption::Env) && !of_edf.uses(GivenOption::Image));
        let unmount = Request { unmounts: vec!["/sys".into()], ..Request::default() };
        assert!(unmount.uses(GivenOption::Mount));
    }
}
