//! The components of a heterogeneous job or step (`srun A : B`, `#SBATCH hetjob`, `srun --het-group=0,1`).
//!
//! Slurm reads the options of one component after the other, and calls the plugin at the end of each. But Slurm keeps one set of
//! plugin options for all of them: at launch every component gets the last value that was read, whichever component the value was
//! given for. So components with different requests are refused.
//!
//! srun and salloc read a component's inherited variables and then its command line; sbatch reads the batch script's directives
//! before both. The next component inherits the values of the previous one.

use parallax_spank_hooks::{GivenOption, Source};

use crate::edf;
use crate::options::{Event, Wanted};
use crate::pyxis;
use crate::request::{self, Values};
use crate::site::Site;

/// The requests of the components that Slurm has read so far.
#[derive(Debug, Default)]
pub(crate) struct Components {
    read: Option<Read>,
}

/// The first component's request, and the number of components read.
#[derive(Debug)]
struct Read {
    first: Option<Wanted>,
    count: u32,
}

impl Components {
    /// Takes the options of the next component, when Slurm is at its end.
    ///
    /// # Errors
    /// A message for the user: a value is invalid, or the component's request differs from the first one's.
    pub(crate) fn next(&mut self, events: &[Event], site: &Site, makes_step: bool) -> Result<Option<Wanted>, String> {
        let Some(read) = &mut self.read else {
            // Earlier components, if any, had no option: the plugin did not load this part for them.
            let component = events.last().map_or(0, |event| event.component);
            let wanted = wanted(events, component, site)?;
            let first = if component == 0 { wanted.clone() } else { None };
            if first != wanted {
                return Err(refusal(first.as_ref(), component, wanted.as_ref(), makes_step));
            }
            self.read = Some(Read { first, count: component + 1 });
            return Ok(wanted);
        };
        let component = read.count;
        let wanted = wanted(events, component, site)?;
        if !are_same(read.first.as_ref(), wanted.as_ref()) {
            return Err(refusal(read.first.as_ref(), component, wanted.as_ref(), makes_step));
        }
        read.count += 1;
        Ok(wanted)
    }
}

fn are_same(one: Option<&Wanted>, other: Option<&Wanted>) -> bool {
    let key = |wanted: Option<&Wanted>| {
        wanted.map(|wanted| (wanted.image.clone(), wanted.mode.unwrap_or_default(), wanted.request.clone()))
    };
    key(one) == key(other)
}

fn wanted(events: &[Event], component: u32, site: &Site) -> Result<Option<Wanted>, String> {
    let value = |option| value(events, option, component);
    let is_typed_image = |event: &Event| {
        event.option == GivenOption::Image && event.component == component && event.source == Source::Typed
    };
    let values = Values {
        image: value(GivenOption::Image),
        image_is_typed: events.iter().any(is_typed_image),
        mode: value(GivenOption::Mode),
    };
    let pyxis = pyxis::of_component(events, component, site)?;
    request::complete(values, events, component, pyxis, site, || edf::of_component(events, component, site))
}

/// The value of an option that holds for a component.
fn value(events: &[Event], option: GivenOption, component: u32) -> Option<&[u8]> {
    let of = |number| events.iter().filter(move |event| event.option == option && event.component == number);
    let last = of(component).next_back()?;
    if component == 0 || last.source == Source::Typed {
        return Some(&last.value);
    }
    // What the variable held when the program started, not what a component before this one put there.
    let inherited = of(0).find(|event| event.source == Source::Inherited);
    let typed = of(component).rfind(|event| event.source == Source::Typed);
    inherited.or(typed).map(|event| event.value.as_slice())
}

fn refusal(first: Option<&Wanted>, component: u32, other: Option<&Wanted>, makes_step: bool) -> String {
    let image = |wanted: Option<&Wanted>| match wanted {
        Some(wanted) => format!("has the image \"{}\"", wanted.image),
        None => "has no image".to_owned(),
    };
    let mode = |wanted: Option<&Wanted>| {
        format!("has the mode \"{}\"", wanted.and_then(|wanted| wanted.mode).unwrap_or_default().as_str())
    };
    let other_options = || ("has some options".to_owned(), "has other ones".to_owned());
    let same_image = first.map(|wanted| &wanted.image) == other.map(|wanted| &wanted.image);
    let (one, two) = match (same_image, mode(first) == mode(other)) {
        (false, _) => (image(first), image(other)),
        (true, false) => (mode(first), mode(other)),
        (true, true) => other_options(),
    };
    let what =
        format!("component 0 {one} and component {component} {two}, but Slurm keeps one value for all components");
    if makes_step {
        format!(
            "{what}; write the same --parallax-... options for each of them, or start each component with an srun \
             of its own (in a heterogeneous job: srun --het-group=N --parallax-image=IMAGE)"
        )
    } else {
        format!(
            "{what}; write the same --parallax-... options for each of them, and name other images in the job: \
             srun --het-group=N --parallax-image=IMAGE"
        )
    }
}
