//! What a user may write, and what they meant.

use std::error::Error;
use std::str::FromStr as _;

use parallax_protocol::message::Mode;
use slurm_spank::{SpankHandle, SpankOption};

/// The option that names the image.
const IMAGE: &str = "parallax-image";
/// The option that says what the tasks get.
const MODE: &str = "parallax-mode";
/// The value of `--parallax-image` that stands for no image, to take back one that is inherited.
const NO_IMAGE: &str = "none";
/// The variables through which a process hands its options on to every srun it starts: Slurm reads them in srun, sbatch and
/// salloc before the command line (`spank_process_env_options`), whatever `--export` says.
const INHERITED_IMAGE: &str = "SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_image";
const INHERITED_MODE: &str = "SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_mode";
/// Slurm's own variables for the options of a step. It means to take them out of the tasks' environment and passes over every
/// second one (24.11, `spank_clear_remote_options_env`), and an srun in the step would then take them for its own.
pub const LEFT_BY_SLURM: [&str; 2] =
    ["_SLURM_SPANK_OPTION_parallax_parallax_image", "_SLURM_SPANK_OPTION_parallax_parallax_mode"];

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

/// Tells Slurm about the options.
pub fn register(spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
    let image = SpankOption::new(IMAGE)
        .takes_value("IMAGE")
        .usage("run the tasks in the container image IMAGE (\"none\": in no image, though one is inherited)");
    let mode = SpankOption::new(MODE).takes_value("run|podman").usage(
        "run: tasks run inside the image (default); podman: tasks run on the node, where podman finds the image",
    );
    spank.register_option(image)?;
    Ok(spank.register_option(mode)?)
}

/// What the user wants; `None` for a step without an image.
///
/// # Errors
/// One sentence for the user.
pub fn wanted(spank: &SpankHandle) -> Result<Option<Wanted>, String> {
    let value = |name| spank.get_option_value(name).map_err(|_| format!("the value of --{name} is not UTF-8"));
    let (image, mode) = (value(IMAGE)?, value(MODE)?);
    parse(image.as_deref(), mode.as_deref())
}

/// Whether the user wrote an image, whatever it is.
pub fn names_image(spank: &SpankHandle) -> bool {
    spank.is_option_set(IMAGE)
}

fn parse(image: Option<&str>, mode: Option<&str>) -> Result<Option<Wanted>, String> {
    let mode = mode.map(|text| Mode::from_str(text).map_err(|error| format!("--{MODE}: {error}"))).transpose()?;
    match (image, mode) {
        (None, Some(_)) => Err(format!("--{MODE} needs an image; name one with --{IMAGE}=IMAGE")),
        (None | Some(NO_IMAGE), _) => Ok(None),
        (Some(image), mode) => Ok(Some(Wanted { image: image.to_owned(), mode })),
    }
}
