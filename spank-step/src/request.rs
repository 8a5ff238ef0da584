//! What the user asks for beside the image, where the options are typed: the command line, over what the job has, over the user's
//! defaults in `PARALLAX_*` variables.

use std::sync::OnceLock;

use parallax_protocol::message::Mode;
use parallax_request::{Request, is_of_request, value_of_variable, variable_of};
use parallax_spank_hooks::{self as names, GivenOption, Source};

use crate::options::{self, Event, Wanted};

/// The variable by which a request travels.
pub(crate) const VARIABLE: &str = names::text(names::REQUEST);

/// Completes what one component of a job or step wants by its request.
///
/// # Errors
/// A message for the user: a value is invalid, or the options do not fit together.
pub(crate) fn complete(wanted: Option<Wanted>, events: &[Event], component: u32) -> Result<Option<Wanted>, String> {
    let typed = events.iter().filter(|event| event.component == component && event.source == Source::Typed);
    let typed: Vec<&Event> = typed.filter(|event| is_of_request(event.option)).collect();
    let Some(mut wanted) = wanted else {
        let cancelled = events.iter().any(|event| event.option == GivenOption::Image);
        return match typed.first() {
            Some(event) if !cancelled => Err(options::needs_image(event.option)),
            _ => Ok(None),
        };
    };
    if let (Some(event), Some(Mode::Podman)) = (typed.first(), wanted.mode) {
        return Err(format!(
            "--{} has no effect with --{}=podman: there the tasks run on the node; give podman its own options",
            event.option.name(),
            GivenOption::Mode.name()
        ));
    }
    let given = of_command_line(&typed)?;
    wanted.request = earlier().clone()?.and(given);
    Ok(Some(wanted))
}

fn of_command_line(typed: &[&Event]) -> Result<Request, String> {
    let mut request = Request::default();
    let directory = std::env::current_dir().unwrap_or_default();
    for event in typed {
        let value = options::text(event.option, &event.value)?;
        request.add(event.option, value, &directory).map_err(|error| format!("--{}: {error}", event.option.name()))?;
    }
    Ok(request)
}

/// The request of the user's defaults and of the job that this process belongs to, as they were when the program started.
fn earlier() -> &'static Result<Request, String> {
    static EARLIER: OnceLock<Result<Request, String>> = OnceLock::new();
    EARLIER.get_or_init(|| {
        let defaults = of_variables(|name| std::env::var(name).ok())?;
        let Ok(value) = std::env::var(VARIABLE) else { return Ok(defaults) };
        let job = Request::from_variable(&value).map_err(|error| format!("{VARIABLE}: {error}"))?;
        Ok(defaults.and(job))
    })
}

fn of_variables(value: impl Fn(&str) -> Option<String>) -> Result<Request, String> {
    let mut request = Request::default();
    let directory = std::env::current_dir().unwrap_or_default();
    for option in parallax_request::options() {
        let name = variable_of(option);
        let Some(value) = value(&name) else { continue };
        let value = value_of_variable(option, &value).map_err(|error| format!("{name}: {error}"))?;
        let Some(value) = value else { continue };
        request.add(option, value, &directory).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(request)
}
