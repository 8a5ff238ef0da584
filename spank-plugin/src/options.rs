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
/// The variable through which a process hands `--parallax-image` on to every srun it starts: Slurm reads it in srun, sbatch and
/// salloc before the command line (`spank_process_env_options`), whatever `--export` says.
pub const INHERITED_IMAGE: &str = "SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_image";

/// An image and what the tasks are to get of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The image as it was written.
    pub image: String,
    /// What the tasks get.
    pub mode: Mode,
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
        (Some(image), mode) => Ok(Some(Wanted { image: image.to_owned(), mode: mode.unwrap_or_default() })),
    }
}
