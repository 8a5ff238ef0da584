//! Options with pyxis' names, where they are typed.

use parallax_pyxis::{Origin, Translation, Value, is_of_pyxis, of_variables, translate};
use parallax_spank_hooks::{GivenOption, Source};

use crate::of_job::of_job;
use crate::options::{self, Event};
use crate::site::Site;

/// What a component asks for by pyxis' names.
#[derive(Debug, Default)]
pub(crate) struct Pyxis {
    /// What was typed.
    pub typed: Translation,
    /// The options that were typed.
    pub options: Vec<GivenOption>,
    /// The user's defaults; nothing in a job that has an image, whose request has them.
    pub defaults: Translation,
}

/// Reads what one component asks for.
///
/// # Errors
/// A message for the user: a value is invalid, or the options do not fit together.
pub(crate) fn of_component(events: &[Event], component: u32, site: &Site) -> Result<Pyxis, String> {
    let typed = events.iter().filter(|event| event.component == component && event.source == Source::Typed);
    let typed: Vec<&Event> = typed.filter(|event| is_of_pyxis(event.option)).collect();
    let value = |event: &&Event| -> Result<_, String> {
        Ok((event.option, options::text(event.option, &event.value)?.to_owned()))
    };
    let given = typed.iter().map(value).collect::<Result<Vec<_>, String>>()?;
    let defaults = if site.has_pyxis_names() && of_job().is_none() {
        of_variables(|name| std::env::var(name).ok()).map_err(|error| error.to_string())?
    } else {
        Vec::new()
    };
    Ok(Pyxis {
        typed: translated(&given, Origin::Typed)?,
        options: typed.iter().map(|event| event.option).collect(),
        defaults: translated(&defaults, Origin::Variable)?,
    })
}

fn translated(given: &[(GivenOption, String)], origin: Origin) -> Result<Translation, String> {
    let values: Vec<Value<'_>> = given.iter().map(|(option, text)| Value { option: *option, text, origin }).collect();
    let directory = std::env::current_dir().unwrap_or_default();
    translate(&values, &directory).map_err(|error| error.to_string())
}
