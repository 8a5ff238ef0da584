//! What the SPANK plugin that Slurm loads for every job and the part that it loads itself, for those with an image, know of one
//! another. They are two files, installed together; whatever changes here changes the name of [`SYMBOL`], so that files of
//! different releases do not take each other for their own.

#![no_std]

use core::ffi::{CStr, c_char, c_int, c_void};

mod names;

pub use names::{NAME_SETS, NAMES_ARGUMENT, NameSet, PYXIS, PYXIS_WORD};

/// The file name of the part for steps with an image. It lies beside the plugin.
pub const FILE: &CStr = c"spank_parallax_step.so";

/// The variable in that file that is its [`StepHooks`].
pub const SYMBOL: &CStr = c"parallax_step_hooks_4";

/// An option as Slurm gets it (`struct spank_option`).
#[derive(Debug, Clone, Copy)]
pub struct OptionText {
    /// The option, by the number that Slurm hands back.
    pub option: GivenOption,
    /// Its name, without the dashes.
    pub name: &'static CStr,
    /// Variable from which srun, sbatch and salloc take its value before they read their command lines
    /// (`spank_process_env_options`). Slurm sets it for what is started in a job.
    pub inherited: &'static CStr,
    /// What its value is called in help texts; `None` for an option that takes no value.
    pub value: Option<&'static CStr>,
    /// What it does, one line of `srun --help`.
    pub usage: &'static CStr,
}

/// All options, in the order of [`GivenOption`].
pub const OPTIONS: [OptionText; 16] = [
    OptionText {
        option: GivenOption::Image,
        name: c"parallax-image",
        inherited: INHERITED_IMAGE,
        value: Some(c"IMAGE"),
        usage: c"run the tasks in the container image IMAGE (\"none\" cancels an inherited image)",
    },
    OptionText {
        option: GivenOption::Mode,
        name: c"parallax-mode",
        inherited: INHERITED_MODE,
        value: Some(c"run|podman"),
        usage:
            c"run: tasks run inside the image (default); podman: tasks run on the node and use the image with podman",
    },
    OptionText {
        option: GivenOption::Mount,
        name: c"parallax-mount",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_mount",
        value: Some(c"SRC[:DST[:FLAGS]],..."),
        usage:
            c"show paths of the node in the container; flags: ro, rw, rslave, rprivate, sqsh; ?SRC: only where it exists; \
                 tmpfs:DST: an empty directory in memory",
    },
    OptionText {
        option: GivenOption::Workdir,
        name: c"parallax-workdir",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_workdir",
        value: Some(c"DIR"),
        usage: c"start the tasks in the directory DIR of the container",
    },
    OptionText {
        option: GivenOption::Env,
        name: c"parallax-env",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_env",
        value: Some(c"NAME=VALUE,..."),
        usage: c"set variables in the tasks; NAME keeps the job's value over the image's; -NAME unsets it",
    },
    OptionText {
        option: GivenOption::Device,
        name: c"parallax-device",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_device",
        value: Some(c"DEVICE,..."),
        usage: c"give the tasks devices: CDI names (VENDOR/CLASS=NAME) or /dev paths; ?DEVICE: only where it exists",
    },
    OptionText {
        option: GivenOption::Annotation,
        name: c"parallax-annotation",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_annotation",
        value: Some(c"NAME=VALUE,..."),
        usage: c"annotate the container, for the site's hooks",
    },
    OptionText {
        option: GivenOption::Writable,
        name: c"parallax-writable",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_writable",
        value: None,
        usage: c"tasks can change the image's files, for the time of the step (default)",
    },
    OptionText {
        option: GivenOption::Readonly,
        name: c"parallax-readonly",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_readonly",
        value: None,
        usage: c"tasks cannot change the image's files",
    },
    OptionText {
        option: GivenOption::Entrypoint,
        name: c"parallax-entrypoint",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_entrypoint",
        value: None,
        usage: c"run the image's entry point, with the command as its arguments",
    },
    OptionText {
        option: GivenOption::MountHome,
        name: c"parallax-mount-home",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_mount_home",
        value: None,
        usage: c"show the home directory in the container",
    },
    OptionText {
        option: GivenOption::NoMountHome,
        name: c"parallax-no-mount-home",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_no_mount_home",
        value: None,
        usage: c"do not show the home directory in the container",
    },
    OptionText {
        option: GivenOption::Edf,
        name: c"parallax-edf",
        inherited: INHERITED_EDF,
        value: Some(c"NAME|FILE"),
        usage: c"take the image and its options from an environment definition file (EDF)",
    },
    OptionText {
        option: GivenOption::Timings,
        name: c"parallax-timings",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_timings",
        value: None,
        usage: c"print how long the parts of the container's start took, for each node and each task",
    },
    OptionText {
        option: GivenOption::Userns,
        name: c"parallax-userns",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_userns",
        value: Some(c"keep-id|root"),
        usage: c"keep-id: tasks have the user's own id in the container (default); root: they are root there",
    },
    OptionText {
        option: GivenOption::Name,
        name: c"parallax-name",
        inherited: c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_name",
        value: Some(c"NAME"),
        usage: c"run in the container NAME of the job, with what earlier steps wrote in it; NAME:create: it must be new; NAME:exec: \
              it must be there (\"none\": a container of the step's own)",
    },
];

/// Slurm's own variable for the image of a step (`spank_set_remote_options_env`), which is set even if Slurm failed to register the
/// options.
pub const IMAGE_OF_STEP: &CStr = c"_SLURM_SPANK_OPTION_parallax_parallax_image";
/// The same for `--parallax-edf`, which has an image in its file.
pub const EDF_OF_STEP: &CStr = c"_SLURM_SPANK_OPTION_parallax_parallax_edf";
/// What the names of Slurm's own variables for the options of a step begin with; the option's name follows, with `_` for `-`.
pub const OF_STEP: &str = "_SLURM_SPANK_OPTION_parallax_";

/// The variable that names the step's directory to the tasks of a step that got variables for Podman.
///
/// Processes hand it on to jobs and steps that they start. There it is the sign that the others below are inherited, too.
pub const STEP_DIRECTORY: &CStr = c"PARALLAX_STEP_DIRECTORY";
/// Variables that a step got for Podman and that name no file of the step, with the values it got: no bus of a session, over which Podman
/// would move processes out of the job, and no timers of systemd's, which would start processes outside of it.
pub const PODMAN_SETTINGS: [(&CStr, &CStr); 2] =
    [(c"DBUS_SESSION_BUS_ADDRESS", c"disabled:"), (c"DISABLE_HC_SYSTEMD", c"true")];
/// Variable from which srun, sbatch and salloc take the image before they read their command lines (`spank_process_env_options`).
pub const INHERITED_IMAGE: &CStr = c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_image";
/// The same for the environment definition file.
pub const INHERITED_EDF: &CStr = c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_edf";
/// The same for what the tasks get.
pub const INHERITED_MODE: &CStr = c"SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_mode";

/// Variable that binds an inherited image to the job that it was given for: `JOB IMAGE ID`, each without blanks, and
/// [`UNKNOWN`] where the job or the id is not known. `SLURM_` makes Slurm carry it whatever `--export` says, and programs that
/// remove Slurm's variables remove it together with the image.
pub const PIN: &CStr = c"SLURM_PARALLAX_PIN";
/// Variables from which srun, sbatch and salloc take the image, the mode and the environment definition file where neither a command
/// line nor the job has one.
pub const DEFAULTS: [(&CStr, &CStr); 3] =
    [(c"PARALLAX_IMAGE", INHERITED_IMAGE), (c"PARALLAX_MODE", INHERITED_MODE), (c"PARALLAX_EDF", INHERITED_EDF)];
/// Variable by which the other options of a job and a step travel, a request (`parallax-request`) as JSON. It belongs
/// to the job of [`PIN`] and means nothing without that.
pub const REQUEST: &CStr = c"SLURM_PARALLAX_REQUEST";
/// Variables that tell tasks which image they have: its id, and its manifest's digest. Nothing of Parallax reads them.
pub const IMAGE_ID: &CStr = c"PARALLAX_IMAGE_ID";
/// See [`IMAGE_ID`].
pub const IMAGE_DIGEST: &CStr = c"PARALLAX_IMAGE_DIGEST";
/// Variable by which the node tells the tasks of a step with `--parallax-timings` how long its image took. Tasks do not see it.
pub const TIMINGS_OF_STEP: &CStr = c"PARALLAX_TIMINGS_OF_STEP";
/// Job or id in [`PIN`] that is not known: a job that is still to be submitted, an image of a store that cannot be read there.
pub const UNKNOWN: &str = "-";
/// Slurm's variable for the job that a process belongs to.
pub const JOB_ID: &CStr = c"SLURM_JOB_ID";

/// One of these names as a text.
#[must_use]
pub const fn text(name: &'static CStr) -> &'static str {
    match name.to_str() {
        Ok(text) => text,
        // All are ASCII.
        Err(_) => "",
    }
}

/// A hook as Slurm calls it (`slurm/spank.h`, `spank_f`): the handle, and the plugin's arguments in plugstack.conf. Returns 0, or
/// what tells Slurm that it failed.
pub type Hook = extern "C" fn(spank: *mut c_void, argc: c_int, argv: *const *const c_char) -> c_int;

/// An option as it is numbered in [`StepHooks::option`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum GivenOption {
    /// `--parallax-image`.
    Image,
    /// `--parallax-mode`.
    Mode,
    /// `--parallax-mount`.
    Mount,
    /// `--parallax-workdir`.
    Workdir,
    /// `--parallax-env`.
    Env,
    /// `--parallax-device`.
    Device,
    /// `--parallax-annotation`.
    Annotation,
    /// `--parallax-writable`.
    Writable,
    /// `--parallax-readonly`.
    Readonly,
    /// `--parallax-entrypoint`.
    Entrypoint,
    /// `--parallax-mount-home`.
    MountHome,
    /// `--parallax-no-mount-home`.
    NoMountHome,
    /// `--parallax-edf`.
    Edf,
    /// `--edf`, of [`NAME_SETS`].
    EdfName,
    /// `--environment`, of [`NAME_SETS`].
    EdfEnvironment,
    /// `--parallax-timings`.
    Timings,
    /// `--container-image`, of [`PYXIS`].
    ContainerImage,
    /// `--container-mounts`, of [`PYXIS`].
    ContainerMounts,
    /// `--container-workdir`, of [`PYXIS`].
    ContainerWorkdir,
    /// `--container-env`, of [`PYXIS`].
    ContainerEnv,
    /// `--container-writable`, of [`PYXIS`].
    ContainerWritable,
    /// `--container-readonly`, of [`PYXIS`].
    ContainerReadonly,
    /// `--container-mount-home`, of [`PYXIS`].
    ContainerMountHome,
    /// `--no-container-mount-home`, of [`PYXIS`].
    NoContainerMountHome,
    /// `--container-entrypoint`, of [`PYXIS`].
    ContainerEntrypoint,
    /// `--no-container-entrypoint`, of [`PYXIS`].
    NoContainerEntrypoint,
    /// `--container-entrypoint-log`, of [`PYXIS`].
    ContainerEntrypointLog,
    /// `--no-container-remap-root`, of [`PYXIS`].
    NoContainerRemapRoot,
    /// `--container-remap-root`, of [`PYXIS`].
    ContainerRemapRoot,
    /// `--container-name`, of [`PYXIS`].
    ContainerName,
    /// `--container-save`, of [`PYXIS`].
    ContainerSave,
    /// `--container-unshare`, of [`PYXIS`].
    ContainerUnshare,
    /// `--parallax-userns`.
    Userns,
    /// `--parallax-name`.
    Name,
}

impl GivenOption {
    /// The option of a number that Slurm handed back.
    #[must_use]
    pub fn of_number(number: i32) -> Option<Self> {
        option_of_number(number).map(|text| text.option)
    }

    /// What Slurm gets of the option.
    fn text(self) -> Option<&'static OptionText> {
        all_options().find(|text| text.option == self)
    }

    /// The option's name, without the dashes.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.text().map_or("", |of_option| text(of_option.name))
    }

    /// Whether the option takes no value.
    #[must_use]
    pub fn is_flag(self) -> bool {
        self.text().is_some_and(|text| text.value.is_none())
    }

    /// Whether the option gives a step an image by something else than its name in a store, so that nodes take the name from
    /// [`PIN`].
    #[must_use]
    pub fn gives_image_indirectly(self) -> bool {
        matches!(self, Self::Edf | Self::EdfName | Self::EdfEnvironment | Self::ContainerImage)
    }

    /// Whether the option names a container that steps share, whose image a step without one has.
    #[must_use]
    pub fn names_container(self) -> bool {
        matches!(self, Self::Name | Self::ContainerName)
    }
}

/// The option, of the plugin's own and of all [`NAME_SETS`], that has a number.
#[must_use]
pub fn option_of_number(number: i32) -> Option<&'static OptionText> {
    const OWN: &[OptionText] = &OPTIONS;
    // Loops, since the debug information of iterators in each other is most of the plugin that every job maps.
    for text in OWN {
        if text.option as i32 == number {
            return Some(text);
        }
    }
    for set in NAME_SETS {
        for text in set.options {
            if text.option as i32 == number {
                return Some(text);
            }
        }
    }
    None
}

/// The plugin's own options, and those of all [`NAME_SETS`].
pub fn all_options() -> impl Iterator<Item = &'static OptionText> {
    const OWN: &[OptionText] = &OPTIONS;
    OWN.iter().chain(NAME_SETS.iter().flat_map(|set| set.options))
}

/// Where the value of an option comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Source {
    /// A command line, or a batch script's directive.
    Typed,
    /// The option's [`OptionText::inherited`].
    Inherited,
}

/// An option that was given, as [`StepHooks::option`] takes it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct OptionEvent {
    /// The option, a [`GivenOption`].
    pub option: c_int,
    /// Its value, which may be changed or freed afterwards.
    pub value: *const c_char,
    /// Where the value comes from, a [`Source`].
    pub source: c_int,
    /// The component of a heterogeneous job or step that it belongs to, counted from 0.
    pub component: u32,
}

/// What the part for steps with an image does. Each may be called in any order, and none panics.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct StepHooks {
    /// An option was given.
    pub option: extern "C" fn(event: OptionEvent),
    /// Slurm failed to register the options, and the step has an image.
    pub unregistered: extern "C" fn(),
    /// `slurm_spank_init_post_opt`.
    pub init_post_opt: Hook,
    /// `slurm_spank_user_init`.
    pub user_init: Hook,
    /// `slurm_spank_task_init_privileged`.
    pub task_init_privileged: Hook,
    /// `slurm_spank_task_init`.
    pub task_init: Hook,
    /// `slurm_spank_exit`.
    pub exit: Hook,
}
