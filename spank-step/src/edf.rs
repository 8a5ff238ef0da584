//! Environment definition files (EDF), where the options are typed: read once, here, by the user.

use parallax_config::Run;
use parallax_edf::{Host, Locations, Warning};
use parallax_request::Request;
use parallax_spank_hooks::{GivenOption, Source};
use slurm_spank::spank_log_user;

use crate::of_job::of_job;
use crate::options::{self, Event};
use crate::site::Site;

/// The environment of a component.
#[derive(Debug)]
pub(crate) struct Edf {
    /// Whether it was typed, and not taken from a variable.
    pub is_typed: bool,
    /// The option.
    pub option: GivenOption,
    /// Its image, or the message about the lack of one.
    pub image: Result<String, String>,
    /// What it asks for beside the image.
    pub request: Request,
}

/// Reads the environment that one component asks for, if it does.
///
/// # Errors
/// A message for the user: the environment cannot be used.
pub(crate) fn of_component(events: &[Event], component: u32, site: &Site) -> Result<Option<Edf>, String> {
    let Some(event) = chosen(events, component)? else { return Ok(None) };
    let (option, name) = (event.option, options::text(event.option, &event.value)?);
    let named = |message: &dyn std::fmt::Display| format!("--{}: {message}", option.name());
    let directories = site.config()?.map_or_else(|| Run::default().edf_path, |config| config.run.edf_path.clone());
    let current = std::env::current_dir().map_err(|error| named(&format!("the current directory: {error}")))?;
    let locations = Locations::new(current, &directories, |name| std::env::var(name).ok());
    let rendered = parallax_edf::render(name, &locations, &Host).map_err(|error| named(&error))?;
    let mut warnings: Vec<Warning> = rendered.warnings.clone();
    let request = rendered.request(&mut warnings).map_err(|error| named(&error))?;
    // The other components have the same environment, or are refused.
    for warning in warnings.iter().filter(|_| component == 0) {
        spank_log_user!("parallax: warning: {warning}");
    }
    let image = rendered.image().map_err(|error| named(&error));
    Ok(Some(Edf { is_typed: event.source == Source::Typed, option, image, request }))
}

/// The option that counts: what was typed, or the user's default if the process is not part of a job with an image.
fn chosen(events: &[Event], component: u32) -> Result<Option<&Event>, String> {
    let is_edf =
        |event: &&Event| matches!(event.option, GivenOption::Edf | GivenOption::EdfName | GivenOption::EdfEnvironment);
    let edfs = || events.iter().filter(is_edf);
    let mut typed = edfs().filter(|event| event.component == component && event.source == Source::Typed);
    if let Some(first) = typed.next() {
        return match typed.find(|event| event.value != first.value) {
            Some(other) => Err(format!(
                "--{} and --{} name different environments; write one of them",
                first.option.name(),
                other.option.name()
            )),
            None => Ok(Some(first)),
        };
    }
    // Slurm puts the option of a job into a variable of its own; the job's image and request say what became of it. What the variable
    // holds for a later component may be an earlier one's.
    let inherited = edfs().find(|event| event.component == 0 && event.source == Source::Inherited);
    Ok(inherited.filter(|_| of_job().is_none()))
}
