//! Names of other tools' options that the site turns on in plugstack.conf, and options that this node does not know.

use core::ffi::{CStr, c_char, c_int};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parallax_spank_hooks::{EDF_OF_STEP, IMAGE_OF_STEP, NAME_SETS, NAMES_ARGUMENT, NameSet};

use crate::{c, inherited, other_plugin};

/// The sets that are registered, one bit each, in their order.
static REGISTERED: AtomicU32 = AtomicU32::new(0);

/// Registers the sets of names that the plugin's arguments turn on. False if another plugin has these options: Slurm gives an option to
/// the first plugin that registers it, and tells the second one nothing. On a node Slurm hands an option to the plugin that had it in
/// srun. Should it not, the set counts as not registered there, so that a step with its options is refused.
pub(crate) fn register(spank: c::spank_t, argc: c_int, argv: *const *const c_char, is_node: bool) -> bool {
    let mut bit = 1;
    for set in NAME_SETS {
        if is_turned_on(set, argc, argv) {
            let other = other_plugin::loaded(set.other_plugin.to_bytes());
            if let (Some(file), false) = (other, is_node) {
                let told = c"parallax: the plugin %s has the options of names=%s, too; the administrator must remove one of them from \
                             plugstack.conf";
                // SAFETY: the format takes two strings.
                unsafe { c::slurm_error(told.as_ptr(), file.as_ptr(), set.word.as_ptr()) };
                return false;
            }
            if !register_set(spank, set) {
                return false;
            }
            if other.is_none() {
                REGISTERED.fetch_or(bit, Relaxed);
            }
            if let (Some((default, inherited)), false) = (set.default, is_node) {
                inherited::take_default(default, inherited);
            }
        }
        bit <<= 1;
    }
    true
}

fn register_set(spank: c::spank_t, set: &NameSet) -> bool {
    for option in set.options {
        if !crate::register(spank, option) {
            let told = c"parallax: Slurm did not take the option --%s of names=%s; tell the administrator";
            // SAFETY: the format takes two strings.
            unsafe { c::slurm_error(told.as_ptr(), option.name.as_ptr(), set.word.as_ptr()) };
            return false;
        }
    }
    true
}

/// Whether an argument `names=WORD,…` has the set's word.
fn is_turned_on(set: &NameSet, argc: c_int, argv: *const *const c_char) -> bool {
    for index in 0..usize::try_from(argc).unwrap_or(0) {
        // SAFETY: Slurm passes this many strings.
        let argument = unsafe { CStr::from_ptr(*argv.add(index)) }.to_bytes();
        let mut words = argument.strip_prefix(NAMES_ARGUMENT.as_bytes()).unwrap_or_default();
        while !words.is_empty() {
            let length = words.iter().position(|byte| *byte == b',').unwrap_or(words.len());
            let (word, rest) = words.split_at_checked(length).unwrap_or_default();
            if word == set.word.to_bytes() {
                return true;
            }
            words = rest.get(1..).unwrap_or_default();
        }
    }
    false
}

/// Whether the step has an image by an option that is not registered on this node, according to the variables that Slurm sets:
/// Slurm passes over such an option, and the step would run without its image. Slurm removes the variables after the options are
/// registered (`spank_clear_remote_options_env`).
pub(crate) fn has_unregistered_image(spank: c::spank_t, own_are_missing: bool) -> bool {
    if own_are_missing && (is_set(spank, IMAGE_OF_STEP) || is_set(spank, EDF_OF_STEP)) {
        return true;
    }
    let registered = REGISTERED.load(Relaxed);
    let mut bit = 1;
    for set in NAME_SETS {
        if registered & bit == 0 && set.images_of_step.iter().any(|name| is_set(spank, name)) {
            return true;
        }
        bit <<= 1;
    }
    false
}

fn is_set(spank: c::spank_t, name: &CStr) -> bool {
    let mut buffer: [c_char; 8] = [0; 8];
    // SAFETY: the handle is Slurm's own, and the buffer has as many bytes as is said.
    let result = unsafe { c::spank_getenv(spank, name.as_ptr(), buffer.as_mut_ptr(), buffer.len() as c_int) };
    // A value longer than the buffer is set, too.
    [c::SUCCESS, c::slurm_err_t_ESPANK_NOSPACE].contains(&result)
}
