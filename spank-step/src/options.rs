//! The options of the plugin and their meaning.

use std::str::FromStr as _;
use std::sync::{Mutex, PoisonError};

use parallax_format::{Pin, is_relative_path};
use parallax_protocol::message::Mode;
use parallax_request::Request;
use parallax_spank_hooks::{self as names, GivenOption, Source};

/// The value of `--parallax-image` that means no image, to cancel an inherited image.
pub(crate) const NO_IMAGE: &str = "none";
/// The variables by which every srun that a process starts inherits the process's options.
const INHERITED_IMAGE: &str = names::text(names::INHERITED_IMAGE);
const INHERITED_MODE: &str = names::text(names::INHERITED_MODE);
/// Returns the names of Slurm's own variables for the options of a step. Slurm tries to remove them from the tasks' environment but
/// skips every second one (24.11, `spank_clear_remote_options_env`), and an srun in the step would then use them as its own.
pub(crate) fn left_by_slurm() -> impl Iterator<Item = String> {
    names::all_options().map(|option| format!("{}{}", names::OF_STEP, option.option.name().replace('-', "_")))
}

/// A requested image and its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The image as given by the user.
    pub image: String,
    /// The mode, if given.
    pub mode: Option<Mode>,
    /// What the user asks for beside the image. It travels in a variable of its own, which is read apart from the options.
    pub request: Request,
}

impl Wanted {
    /// Returns the variables by which every srun inherits this request.
    pub(crate) fn inheritance(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let mode = self.mode.map(|mode| (INHERITED_MODE, mode.as_str()));
        [(INHERITED_IMAGE, self.image.as_str())].into_iter().chain(mode)
    }
}

static GIVEN: Mutex<Given> = Mutex::new(Given { events: Vec::new(), unknown: false });

/// The options that were given.
struct Given {
    events: Vec<Event>,
    /// Whether an image was given but is unknown, because Slurm failed to register the options.
    unknown: bool,
}

/// An option as reported by Slurm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Which option.
    pub option: GivenOption,
    /// Its value, unchanged.
    pub value: Vec<u8>,
    /// Source of the value.
    pub source: Source,
    /// The component of a heterogeneous job or step that the option was given for.
    pub component: u32,
}

fn given() -> std::sync::MutexGuard<'static, Given> {
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records a given option. `option` and `source` are numbers of [`GivenOption`] and [`Source`].
pub(crate) fn take(option: i32, value: &[u8], source: i32, component: u32) {
    let Some(option) = GivenOption::of_number(option) else { return };
    let source = if source == Source::Inherited as i32 { Source::Inherited } else { Source::Typed };
    given().events.push(Event { option, value: value.to_owned(), source, component });
}

/// Returns all given options, in the order in which Slurm reported them.
pub(crate) fn events() -> Vec<Event> {
    given().events.clone()
}

/// Records that an image was given but is unknown, because Slurm failed to register the options.
pub(crate) fn are_unknown_now() {
    given().unknown = true;
}

/// Whether an image was given but is unknown.
pub(crate) fn are_unknown() -> bool {
    given().unknown
}

/// Returns the request of the user, on a node; `None` for a step without an image. The last of several values counts, as with Slurm's
/// options. What gives an image indirectly, by a relative path or by the name of a container, was read where it was typed, so the step's pin has
/// the image.
///
/// # Errors
/// A message for the user.
pub(crate) fn wanted(pin: Option<&Pin>) -> Result<Option<Wanted>, String> {
    let events = events();
    let last = |option| events.iter().rfind(|event| event.option == option).map(|event| event.value.as_slice());
    let mode = last(GivenOption::Mode);
    let image = events.iter().rfind(|event| event.option == GivenOption::Image);
    let relative = image.filter(|event| std::str::from_utf8(&event.value).is_ok_and(is_relative_path));
    let named = events.iter().find(|event| image.is_none() && event.option.names_container());
    let indirect = events.iter().find(|event| event.option.gives_image_indirectly());
    let Some(indirect) = indirect.or(relative).or(named) else {
        return of_values(last(GivenOption::Image), mode);
    };
    let pin = pin.ok_or_else(|| {
        format!("the image of --{} did not reach this node; start the step again", indirect.option.name())
    })?;
    of_values(Some(pin.image.as_bytes()), mode)
}

/// Whether an option was given that gives an image indirectly.
pub(crate) fn has_indirect_image(events: &[Event]) -> bool {
    events.iter().any(|event| event.option.gives_image_indirectly())
}

/// Whether nodes could take the options for those of a step with an image, unless they are told that it has none.
pub(crate) fn may_have_image(events: &[Event]) -> bool {
    has_indirect_image(events) || events.iter().any(|event| event.option.names_container())
}

/// Parses values of the two options.
///
/// # Errors
/// A message for the user.
pub(crate) fn of_values<'a>(image: Option<&'a [u8]>, mode: Option<&'a [u8]>) -> Result<Option<Wanted>, String> {
    let text = |name, value: Option<&'a [u8]>| value.map(|bytes| text(name, bytes)).transpose();
    parse(text(GivenOption::Image, image)?, text(GivenOption::Mode, mode)?)
}

/// Returns an option's value as a text.
///
/// # Errors
/// A message for the user: it is none.
pub(crate) fn text(option: GivenOption, value: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(value).map_err(|_| format!("invalid value of --{}: it is not UTF-8", option.name()))
}

/// Whether the user gave an image, valid or not.
pub(crate) fn names_image() -> bool {
    let events = &given().events;
    has_indirect_image(events) || events.iter().any(|event| event.option == GivenOption::Image)
}

fn parse(image: Option<&str>, mode: Option<&str>) -> Result<Option<Wanted>, String> {
    let name = GivenOption::Mode.name();
    let mode = mode.map(|text| Mode::from_str(text).map_err(|error| format!("--{name}: {error}"))).transpose()?;
    match (image, mode) {
        (None, Some(_)) => Err(needs_image(GivenOption::Mode)),
        (None | Some(NO_IMAGE), _) => Ok(None),
        (Some(image), mode) => Ok(Some(Wanted { image: image.to_owned(), mode, request: Request::default() })),
    }
}

/// The message about an option of a step without an image.
pub(crate) fn needs_image(option: GivenOption) -> String {
    format!("--{} needs an image; specify one with --{}=IMAGE", option.name(), GivenOption::Image.name())
}
