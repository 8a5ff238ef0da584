//! Options as they were given, and which of them count.

use parallax_request::value_of_variable;
use parallax_spank_hooks::{GivenOption, PYXIS};

use crate::error::PyxisError;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A command line.
    Typed,
    /// A variable.
    Variable,
}

/// An option and its value; empty if the option takes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    /// The option.
    pub option: GivenOption,
    /// The value.
    pub text: &'a str,
    /// Where it comes from.
    pub origin: Origin,
}

impl Value<'_> {
    /// The option or the variable, as messages name it.
    #[must_use]
    pub fn name(&self) -> String {
        match self.origin {
            Origin::Typed => format!("--{}", self.option.name()),
            Origin::Variable => variable_of(self.option),
        }
    }
}

/// Whether an option is one of pyxis' names.
#[must_use]
pub fn is_of_pyxis(option: GivenOption) -> bool {
    PYXIS.iter().any(|text| text.option == option)
}

/// The variable that has the option's value where the command line has none.
fn variable_of(option: GivenOption) -> String {
    format!("PYXIS_{}", option.name().to_ascii_uppercase().replace('-', "_"))
}

/// Reads the variables. Those of options without a value are true or false; false is the opposite option, if there is one.
///
/// # Errors
/// The variable of an option without a value is neither true nor false.
pub fn of_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Vec<(GivenOption, String)>, PyxisError> {
    let mut values = Vec::new();
    for option in PYXIS.iter().map(|text| text.option) {
        let name = variable_of(option);
        let Some(value) = variable(&name).filter(|value| !value.is_empty()) else { continue };
        let given = value_of_variable(option, &value).map_err(|error| PyxisError::Boolean(name, error))?;
        match (given, opposite(option)) {
            (Some(given), _) => values.push((option, given.to_owned())),
            (None, Some(opposite)) => values.push((opposite, String::new())),
            (None, None) => {}
        }
    }
    Ok(values)
}

fn opposite(option: GivenOption) -> Option<GivenOption> {
    use GivenOption as O;
    let pairs = [
        (O::ContainerMountHome, O::NoContainerMountHome),
        (O::ContainerRemapRoot, O::NoContainerRemapRoot),
        (O::ContainerEntrypoint, O::NoContainerEntrypoint),
        (O::ContainerWritable, O::ContainerReadonly),
    ];
    pairs.into_iter().find_map(|(yes, no)| match option {
        option if option == yes => Some(no),
        option if option == no => Some(yes),
        _ => None,
    })
}

/// The options, each at most once.
#[derive(Debug)]
pub(crate) struct Values<'a>(&'a [Value<'a>]);

impl<'a> Values<'a> {
    /// # Errors
    /// An option has two values.
    pub(crate) fn new(given: &'a [Value<'a>]) -> Result<Self, PyxisError> {
        let values = Self(given);
        let twice = given.iter().find(|value| values.of(value.option).is_some_and(|first| first.text != value.text));
        twice.map_or(Ok(values), |value| Err(PyxisError::Twice(value.name())))
    }

    /// The value of an option.
    pub(crate) fn of(&self, option: GivenOption) -> Option<&'a Value<'a>> {
        self.0.iter().find(|value| value.option == option)
    }

    /// Which of two opposite options was given.
    ///
    /// # Errors
    /// Both were.
    pub(crate) fn pair(&self, yes: GivenOption, no: GivenOption) -> Result<Option<bool>, PyxisError> {
        match (self.of(yes), self.of(no)) {
            (Some(yes), Some(no)) => Err(PyxisError::Contradiction(yes.name(), no.name())),
            (Some(_), None) => Ok(Some(true)),
            (None, Some(_)) => Ok(Some(false)),
            (None, None) => Ok(None),
        }
    }
}
