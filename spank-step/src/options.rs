//! The options of the plugin and their meaning.

use std::str::FromStr as _;
use std::sync::{Mutex, PoisonError};

use parallax_protocol::message::Mode;
use parallax_spank_hooks::{self as names, GivenOption, Source};

/// The option that names the image.
const IMAGE: &str = names::text(names::IMAGE);
/// The option for the mode.
const MODE: &str = names::text(names::MODE);
/// The value of `--parallax-image` that means no image, to cancel an inherited image.
const NO_IMAGE: &str = "none";
/// The variables by which every srun that a process starts inherits the process's options.
const INHERITED_IMAGE: &str = names::text(names::INHERITED_IMAGE);
const INHERITED_MODE: &str = names::text(names::INHERITED_MODE);
/// Slurm's own variables for the options of a step. Slurm tries to remove them from the tasks' environment but skips every
/// second one (24.11, `spank_clear_remote_options_env`), and an srun in the step would then use them as its own.
pub const LEFT_BY_SLURM: [&str; 2] = [names::text(names::IMAGE_OF_STEP), names::text(names::MODE_OF_STEP)];

/// A requested image and its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The image as given by the user.
    pub image: String,
    /// The mode, if given.
    pub mode: Option<Mode>,
}

impl Wanted {
    /// Returns the variables by which every srun inherits this request.
    pub fn inheritance(&self) -> impl Iterator<Item = (&'static str, &str)> {
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
pub struct Event {
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
pub fn take(option: i32, value: &[u8], source: i32, component: u32) {
    let option = match option {
        image if image == GivenOption::Image as i32 => GivenOption::Image,
        mode if mode == GivenOption::Mode as i32 => GivenOption::Mode,
        _ => return,
    };
    let source = if source == Source::Inherited as i32 { Source::Inherited } else { Source::Typed };
    given().events.push(Event { option, value: value.to_owned(), source, component });
}

/// Returns all given options, in the order in which Slurm reported them.
pub fn events() -> Vec<Event> {
    given().events.clone()
}

/// Records that an image was given but is unknown, because Slurm failed to register the options.
pub fn are_unknown_now() {
    given().unknown = true;
}

/// Whether an image was given but is unknown.
pub fn are_unknown() -> bool {
    given().unknown
}

/// Returns the request of the user; `None` for a step without an image. The last of several values counts, as with Slurm's options.
///
/// # Errors
/// A message for the user.
pub fn wanted() -> Result<Option<Wanted>, String> {
    let events = events();
    let last = |option| events.iter().rfind(|event| event.option == option).map(|event| event.value.as_slice());
    of_values(last(GivenOption::Image), last(GivenOption::Mode))
}

/// Parses values of the two options.
///
/// # Errors
/// A message for the user.
pub fn of_values(image: Option<&[u8]>, mode: Option<&[u8]>) -> Result<Option<Wanted>, String> {
    let text = |name, value: Option<&[u8]>| {
        let text = value.map(|bytes| String::from_utf8(bytes.to_owned())).transpose();
        text.map_err(|_| format!("invalid value of --{name}: it is not UTF-8"))
    };
    let (image, mode) = (text(IMAGE, image)?, text(MODE, mode)?);
    parse(image.as_deref(), mode.as_deref())
}

/// Whether the user gave an image, valid or not.
pub fn names_image() -> bool {
    given().events.iter().any(|event| event.option == GivenOption::Image)
}

fn parse(image: Option<&str>, mode: Option<&str>) -> Result<Option<Wanted>, String> {
    let mode = mode.map(|text| Mode::from_str(text).map_err(|error| format!("--{MODE}: {error}"))).transpose()?;
    match (image, mode) {
        (None, Some(_)) => Err(format!("--{MODE} needs an image; specify one with --{IMAGE}=IMAGE")),
        (None | Some(NO_IMAGE), _) => Ok(None),
        (Some(image), mode) => Ok(Some(Wanted { image: image.to_owned(), mode })),
    }
}
