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
    /// Part of the file name of the plugin that has these options itself.
    pub other_plugin: &'static CStr,
    /// The variable with the user's default image, and the one from which Slurm takes it, as in [`crate::DEFAULTS`].
    pub default: Option<(&'static CStr, &'static CStr)>,
}

/// All sets.
pub const NAME_SETS: &[NameSet] = &[
    NameSet {
        word: c"edf",
        options: EDF,
        images_of_step: &[c"_SLURM_SPANK_OPTION_parallax_edf", c"_SLURM_SPANK_OPTION_parallax_environment"],
        other_plugin: c"skybox",
        default: None,
    },
    NameSet {
        word: PYXIS_WORD,
        options: PYXIS,
        images_of_step: &[c"_SLURM_SPANK_OPTION_parallax_container_image"],
        other_plugin: c"pyxis",
        default: Some((c"PYXIS_CONTAINER_IMAGE", c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_image")),
    },
];

/// The word for [`PYXIS`].
pub const PYXIS_WORD: &CStr = c"pyxis";

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

/// The names of pyxis.
pub const PYXIS: &[OptionText] = &[
    OptionText {
        option: GivenOption::ContainerImage,
        name: c"container-image",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_image",
        value: Some(c"[USER@][REGISTRY#]IMAGE[:TAG]"),
        usage: c"the same as --parallax-image",
    },
    OptionText {
        option: GivenOption::ContainerMounts,
        name: c"container-mounts",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_mounts",
        value: Some(c"SRC[:DST[:FLAGS]],..."),
        usage: c"the same as --parallax-mount; umount:DST leaves out a mount of the site",
    },
    OptionText {
        option: GivenOption::ContainerWorkdir,
        name: c"container-workdir",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_workdir",
        value: Some(c"DIR"),
        usage: c"the same as --parallax-workdir",
    },
    OptionText {
        option: GivenOption::ContainerEnv,
        name: c"container-env",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_env",
        value: Some(c"NAME,..."),
        usage: c"variables that keep the value of the job",
    },
    OptionText {
        option: GivenOption::ContainerWritable,
        name: c"container-writable",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_writable",
        value: None,
        usage: c"the same as --parallax-writable",
    },
    OptionText {
        option: GivenOption::ContainerReadonly,
        name: c"container-readonly",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_readonly",
        value: None,
        usage: c"the same as --parallax-readonly",
    },
    OptionText {
        option: GivenOption::ContainerMountHome,
        name: c"container-mount-home",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_mount_home",
        value: None,
        usage: c"the same as --parallax-mount-home",
    },
    OptionText {
        option: GivenOption::NoContainerMountHome,
        name: c"no-container-mount-home",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_no_container_mount_home",
        value: None,
        usage: c"the same as --parallax-no-mount-home",
    },
    OptionText {
        option: GivenOption::ContainerEntrypoint,
        name: c"container-entrypoint",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_entrypoint",
        value: None,
        usage: c"the same as --parallax-entrypoint",
    },
    OptionText {
        option: GivenOption::NoContainerEntrypoint,
        name: c"no-container-entrypoint",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_no_container_entrypoint",
        value: None,
        usage: c"do not run the entry point of the image (default)",
    },
    OptionText {
        option: GivenOption::ContainerEntrypointLog,
        name: c"container-entrypoint-log",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_entrypoint_log",
        value: None,
        usage: c"has no effect: what the entry point prints is printed",
    },
    OptionText {
        option: GivenOption::NoContainerRemapRoot,
        name: c"no-container-remap-root",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_no_container_remap_root",
        value: None,
        usage: c"tasks keep the id of the user (default)",
    },
    OptionText {
        option: GivenOption::ContainerRemapRoot,
        name: c"container-remap-root",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_remap_root",
        value: None,
        usage: c"not possible",
    },
    OptionText {
        option: GivenOption::ContainerName,
        name: c"container-name",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_name",
        value: Some(c"NAME"),
        usage: c"not possible",
    },
    OptionText {
        option: GivenOption::ContainerSave,
        name: c"container-save",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_save",
        value: Some(c"PATH"),
        usage: c"not possible",
    },
    OptionText {
        option: GivenOption::ContainerUnshare,
        name: c"container-unshare",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_container_unshare",
        value: Some(c"NAMESPACE,..."),
        usage: c"not possible",
    },
];
