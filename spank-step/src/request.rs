//! What the user asks for beside the image, where the options are typed: the command line, over what the job has, over the user's
//! defaults in `PARALLAX_*` variables.
//!
//! An environment that is typed ([`crate::edf`]) takes the place of what the job has; a default one lies below the other defaults.

use std::sync::OnceLock;

use parallax_format::{from_anywhere, image_of_container};
use parallax_protocol::message::Mode;
use parallax_request::{Request, is_of_request, value_of_variable, variable_of};
use parallax_spank_hooks::{GivenOption, Source};
use slurm_spank::spank_log_user;

use crate::edf::Edf;
use crate::of_job::of_job;
use crate::options::{self, Event, NO_IMAGE, Wanted};
use crate::pyxis::Pyxis;
use crate::site::Site;

/// The image and the mode that hold for a component.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values<'a> {
    /// The image.
    pub image: Option<&'a [u8]>,
    /// Whether the image was typed.
    pub image_is_typed: bool,
    /// The mode.
    pub mode: Option<&'a [u8]>,
}

impl<'a> Values<'a> {
    /// Returns the image that holds: what was typed by its name, by pyxis' name, or with an environment; then what the job has, or the
    /// user's default, and then the user's default by pyxis' name or an environment.
    fn image(&self, pyxis: &'a Pyxis, edf: Option<&'a Edf>) -> Result<Option<&'a [u8]>, String> {
        let of_edf = |typed: bool| edf.filter(|edf| edf.is_typed == typed).map(|edf| edf.image.as_ref());
        let own = |typed: bool| self.image.filter(|_| self.image_is_typed == typed);
        if let (Some(own), Some(other)) = (own(true), &pyxis.typed.image) {
            if own != other.as_bytes() {
                let (one, two) = (GivenOption::Image.name(), GivenOption::ContainerImage.name());
                return Err(format!("--{one} and --{two} name different images; write one of them"));
            }
        }
        if let Some(image) = own(true).or(pyxis.typed.image.as_deref().map(str::as_bytes)) {
            return Ok(Some(image));
        }
        if let Some(image) = of_edf(true) {
            return Ok(Some(image.map_err(Clone::clone)?.as_bytes()));
        }
        match own(false).or(pyxis.defaults.image.as_deref().map(str::as_bytes)) {
            Some(image) => Ok(Some(image)),
            None => Ok(of_edf(false).transpose().map_err(Clone::clone)?.map(String::as_bytes)),
        }
    }
}

/// Returns what one component of a job or step wants. `edf` reads its environment.
///
/// # Errors
/// A message for the user: a value is invalid, or the options do not fit together.
pub(crate) fn complete(
    values: Values<'_>,
    events: &[Event],
    component: u32,
    pyxis: Pyxis,
    site: &Site,
    edf: impl FnOnce() -> Result<Option<Edf>, String>,
) -> Result<Option<Wanted>, String> {
    let typed = events.iter().filter(|event| event.component == component && event.source == Source::Typed);
    let typed: Vec<&Event> = typed.filter(|event| is_of_request(event.option)).collect();
    let is_cancelled = values.image == Some(NO_IMAGE.as_bytes());
    let edf = if is_cancelled && values.image_is_typed { None } else { edf()? };
    let own_image = values.image(&pyxis, edf.as_ref())?;
    let of_container =
        if own_image.is_none() && site.makes_step_of_job() { container_named(&typed, &pyxis)? } else { None };
    let image = own_image.or(of_container.as_deref().map(str::as_bytes));
    let Some(mut wanted) = options::of_values(image, values.mode)? else {
        return match typed.first() {
            Some(event) if !is_cancelled => Err(options::needs_image(event.option)),
            _ => {
                tell_that_nothing_happens(&pyxis, component);
                Ok(None)
            }
        };
    };
    // Nodes know nothing of the directory in which it was typed.
    wanted.image = from_anywhere(&wanted.image, &std::env::current_dir().unwrap_or_default());
    let own = typed.iter().map(|event| event.option);
    let of_edf = edf.as_ref().filter(|edf| edf.is_typed).map(|edf| edf.option);
    let of_pyxis = pyxis.options.iter().copied().filter(|option| *option != GivenOption::ContainerImage);
    if let (Some(option), Some(Mode::Podman)) = (own.chain(of_edf).chain(of_pyxis).next(), wanted.mode) {
        return Err(format!(
            "--{} has no effect with --{}=podman: there the tasks run on the node; give podman its own options",
            option.name(),
            GivenOption::Mode.name()
        ));
    }
    let typed = pyxis.typed.request.and(of_command_line(&typed)?);
    let defaults = pyxis.defaults.request.and(defaults().clone()?);
    wanted.request = layered(defaults, edf, typed, site)?;
    Ok(Some(wanted))
}

/// Returns what stands for the image of a container that earlier steps share, if the step names one.
fn container_named(typed: &[&Event], pyxis: &Pyxis) -> Result<Option<String>, String> {
    let own: Vec<&Event> = typed.iter().filter(|event| event.option == GivenOption::Name).copied().collect();
    let request = pyxis.typed.request.clone().and(of_command_line(&own)?);
    Ok(request.container().map(image_of_container))
}

/// Returns the whole request: what the site sets lies below the user's defaults, then comes what the job has, or the environment that was
/// typed in its place, and then what was typed.
///
/// # Errors
/// A message for the user: the site does not permit something, or what the job has cannot be read.
fn layered(defaults: Request, edf: Option<Edf>, typed: Request, site: &Site) -> Result<Request, String> {
    let (own, job) = match edf {
        Some(edf) if edf.is_typed => (defaults.and(edf.request), None),
        Some(edf) => (edf.request.and(defaults), None),
        None => (defaults, of_job()),
    };
    // What the job has was checked when the job was submitted, and has the site's defaults.
    site.check(&own.clone().and(typed.clone()))?;
    let of_job = job.map_or(Ok(Request::default()), Clone::clone)?;
    Ok(site.defaults()?.and(own).and(of_job).and(typed))
}

/// Prints that options with pyxis' names have no effect without an image, as they have none in pyxis.
fn tell_that_nothing_happens(pyxis: &Pyxis, component: u32) {
    if let Some(option) = pyxis.options.iter().find(|_| component == 0) {
        spank_log_user!(
            "parallax: warning: --{} has no effect without an image (--{}=IMAGE)",
            option.name(),
            GivenOption::ContainerImage.name()
        );
    }
}

fn of_command_line(typed: &[&Event]) -> Result<Request, String> {
    let mut request = Request::default();
    let directory = std::env::current_dir().unwrap_or_default();
    for event in typed {
        let value = options::text(event.option, &event.value)?;
        request.add(event.option, value, &directory).map_err(|error| format!("--{}: {error}", event.option.name()))?;
    }
    Ok(request)
}

/// The request of the user's defaults.
fn defaults() -> &'static Result<Request, String> {
    static DEFAULTS: OnceLock<Result<Request, String>> = OnceLock::new();
    DEFAULTS.get_or_init(|| of_variables(|name| std::env::var(name).ok()))
}

fn of_variables(value: impl Fn(&str) -> Option<String>) -> Result<Request, String> {
    let mut request = Request::default();
    let directory = std::env::current_dir().unwrap_or_default();
    for option in parallax_request::options() {
        let name = variable_of(option);
        let Some(value) = value(&name) else { continue };
        let value = value_of_variable(option, &value).map_err(|error| format!("{name}: {error}"))?;
        let Some(value) = value else { continue };
        request.add(option, value, &directory).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(request)
}
