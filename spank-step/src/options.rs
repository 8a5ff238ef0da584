//! What a user may write, and what they meant.

use std::str::FromStr as _;
use std::sync::{Mutex, PoisonError};

use parallax_protocol::message::Mode;
use parallax_spank_hooks::{self as names, GivenOption};

/// The option that names the image.
const IMAGE: &str = names::text(names::IMAGE);
/// The option that says what the tasks get.
const MODE: &str = names::text(names::MODE);
/// The value of `--parallax-image` that stands for no image, to take back one that is inherited.
const NO_IMAGE: &str = "none";
/// The variables through which a process hands its options on to every srun it starts: Slurm reads them in srun, sbatch and
/// salloc before the command line (`spank_process_env_options`), whatever `--export` says.
const INHERITED_IMAGE: &str = "SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_image";
const INHERITED_MODE: &str = "SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_mode";
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

static GIVEN: Mutex<Given> = Mutex::new(Given { image: None, mode: None, unknown: false });

/// What was given, as the bytes that were written; the last of several.
struct Given {
    image: Option<Vec<u8>>,
    mode: Option<Vec<u8>>,
    /// Whether there is an image that is not known, because Slurm did not take the options.
    unknown: bool,
}

fn given() -> std::sync::MutexGuard<'static, Given> {
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the value of an option, a number of [`GivenOption`].
pub fn take(option: i32, value: &[u8]) {
    let value = Some(value.to_owned());
    match option {
        image if image == GivenOption::Image as i32 => given().image = value,
        mode if mode == GivenOption::Mode as i32 => given().mode = value,
        _ => {}
    }
}

/// Keeps in mind that there is an image that is not known, because Slurm did not take the options.
pub fn are_unknown_now() {
    given().unknown = true;
}

/// Whether that is so.
pub fn are_unknown() -> bool {
    given().unknown
}

/// What the user wants; `None` for a step without an image.
///
/// # Errors
/// One sentence for the user.
pub fn wanted() -> Result<Option<Wanted>, String> {
    let text = |name, value: &Option<Vec<u8>>| {
        let text = value.clone().map(String::from_utf8).transpose();
        text.map_err(|_| format!("the value of --{name} is not UTF-8"))
    };
    let given = given();
    let (image, mode) = (text(IMAGE, &given.image)?, text(MODE, &given.mode)?);
    parse(image.as_deref(), mode.as_deref())
}

/// Whether the user wrote an image, whatever it is.
pub fn names_image() -> bool {
    given().image.is_some()
}

fn parse(image: Option<&str>, mode: Option<&str>) -> Result<Option<Wanted>, String> {
    let mode = mode.map(|text| Mode::from_str(text).map_err(|error| format!("--{MODE}: {error}"))).transpose()?;
    match (image, mode) {
        (None, Some(_)) => Err(format!("--{MODE} needs an image; name one with --{IMAGE}=IMAGE")),
        (None | Some(NO_IMAGE), _) => Ok(None),
        (Some(image), mode) => Ok(Some(Wanted { image: image.to_owned(), mode })),
    }
}
