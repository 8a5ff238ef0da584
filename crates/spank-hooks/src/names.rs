//! Names of other tools' options, which a site may turn on.

use core::ffi::CStr;

use crate::{GivenOption, OptionText};

/// What the argument of the plugin in plugstack.conf begins with that turns names on; words of [`NameSet::word`] follow, with commas.
pub const NAMES_ARGUMENT: &str = "names=";

/// Names of another tool's options.
#[derive(Debug, Clone, Copy)]
pub struct NameSet {
    /// The word that turns them on.
    pub word: &'static CStr,
    /// The options.
    pub options: &'static [OptionText],
    /// Slurm's own variables for those of a step's options that give it an image (`spank_set_remote_options_env`).
    pub images_of_step: &'static [&'static CStr],
}

/// All sets.
pub const NAME_SETS: &[NameSet] = &[NameSet {
    word: c"edf",
    options: EDF,
    images_of_step: &[c"_SLURM_SPANK_OPTION_parallax_edf", c"_SLURM_SPANK_OPTION_parallax_environment"],
}];

/// The names of the Container Engine and of skybox for an environment definition file.
const EDF: &[OptionText] = &[
    OptionText {
        option: GivenOption::EdfName,
        name: c"edf",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_edf",
        value: Some(c"NAME|FILE"),
        usage: c"the same as --parallax-edf",
    },
    OptionText {
        option: GivenOption::EdfEnvironment,
        name: c"environment",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_environment",
        value: Some(c"NAME|FILE"),
        usage: c"the same as --parallax-edf",
    },
];
