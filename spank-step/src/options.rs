//! What a user may write, and what they meant.

use std::str::FromStr as _;
use std::sync::{Mutex, PoisonError};

use parallax_protocol::message::Mode;
use parallax_spank_hooks::{self as names, GivenOption, Source};

/// The option that names the image.
const IMAGE: &str = names::text(names::IMAGE);
/// The option that says what the tasks get.
const MODE: &str = names::text(names::MODE);
/// The value of `--parallax-image` that stands for no image, to take back one that is inherited.
const NO_IMAGE: &str = "none";
/// The variables through which a process hands its options on to every srun it starts.
const INHERITED_IMAGE: &str = names::text(names::INHERITED_IMAGE);
const INHERITED_MODE: &str = names::text(names::INHERITED_MODE);
/// Slurm's own variables for the options of a step. It means to take them out of the tasks' environment and passes over every
/// second one (24.11, `spank_clear_remote_options_env`), and an srun in the step would then take them for its own.
pub const LEFT_BY_SLURM: [&str; 2] = [names::text(names::IMAGE_OF_STEP), names::text(names::MODE_OF_STEP)];

/// An image and what the tasks are to get of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The image as it was written.
    pub image: String,
    /// What the tasks are to get, if the user said so.
    pub mode: Option<Mode>,
}

impl Wanted {
    /// The variables that hand this on to every srun.
    pub fn inheritance(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let mode = self.mode.map(|mode| (INHERITED_MODE, mode.as_str()));
        [(INHERITED_IMAGE, self.image.as_str())].into_iter().chain(mode)
    }
}

static GIVEN: Mutex<Given> = Mutex::new(Given { events: Vec::new(), unknown: false });

/// What was given.
struct Given {
    events: Vec<Event>,
    /// Whether there is an image that is not known, because Slurm did not take the options.
    unknown: bool,
}

/// An option as Slurm met it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which option.
    pub option: GivenOption,
    /// Its value, as the bytes that were written.
    pub value: Vec<u8>,
    /// Where the value comes from.
    pub source: Source,
    /// The component of a heterogeneous job or step that it was given for.
    pub component: u32,
}

fn given() -> std::sync::MutexGuard<'static, Given> {
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps an option that was given. `option` and `source` are numbers of [`GivenOption`] and [`Source`].
pub fn take(option: i32, value: &[u8], source: i32, component: u32) {
    let option = match option {
        image if image == GivenOption::Image as i32 => GivenOption::Image,
        mode if mode == GivenOption::Mode as i32 => GivenOption::Mode,
        _ => return,
    };
    let source = if source == Source::Inherited as i32 { Source::Inherited } else { Source::Typed };
    given().events.push(Event { option, value: value.to_owned(), source, component });
}

/// All options that were given, in the order in which Slurm met them.
pub fn events() -> Vec<Event> {
    given().events.clone()
}

/// Keeps in mind that there is an image that is not known, because Slurm did not take the options.
pub fn are_unknown_now() {
    given().unknown = true;
}

/// Whether that is so.
pub fn are_unknown() -> bool {
    given().unknown
}

/// What the user wants; `None` for a step without an image. The last one of several values counts, as with Slurm's own options.
///
/// # Errors
/// One sentence for the user.
pub fn wanted() -> Result<Option<Wanted>, String> {
    let events = events();
    let last = |option| events.iter().rfind(|event| event.option == option).map(|event| event.value.as_slice());
    of_values(last(GivenOption::Image), last(GivenOption::Mode))
}

/// What these values of the two options mean.
///
/// # Errors
/// One sentence for the user.
pub fn of_values(image: Option<&[u8]>, mode: Option<&[u8]>) -> Result<Option<Wanted>, String> {
    let text = |name, value: Option<&[u8]>| {
        let text = value.map(|bytes| String::from_utf8(bytes.to_owned())).transpose();
        text.map_err(|_| format!("the value of --{name} is not UTF-8"))
    };
    let (image, mode) = (text(IMAGE, image)?, text(MODE, mode)?);
    parse(image.as_deref(), mode.as_deref())
}

/// Whether the user wrote an image, whatever it is.
pub fn names_image() -> bool {
    given().events.iter().any(|event| event.option == GivenOption::Image)
}

fn parse(image: Option<&str>, mode: Option<&str>) -> Result<Option<Wanted>, String> {
    let mode = mode.map(|text| Mode::from_str(text).map_err(|error| format!("--{MODE}: {error}"))).transpose()?;
    match (image, mode) {
        (None, Some(_)) => Err(format!("--{MODE} needs an image; name one with --{IMAGE}=IMAGE")),
        (None | Some(NO_IMAGE), _) => Ok(None),
        (Some(image), mode) => Ok(Some(Wanted { image: image.to_owned(), mode })),
    }
}
