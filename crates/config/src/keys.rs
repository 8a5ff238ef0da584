//! The description of every key, from which parallax.toml(5) and the example file are made.
//!
//! [`section!`] makes a section's structure, its defaults and its description of one list, so none can lack a key of
//! another. The crate schemars would do it too, but keeps the keys' order only if every JSON object of every program does.

use std::path::PathBuf;

use parallax_format::device::WantedDevice;

use crate::mount::BindMount;

/// A section of the file.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// The name in brackets; empty for the keys before the first section.
    pub name: &'static str,
    /// Description of the section, the lines of a paragraph.
    pub about: &'static [&'static str],
    /// The keys, in the order in which they are described.
    pub keys: &'static [Key],
}

/// A key of a section.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The name.
    pub name: &'static str,
    /// Description of the key, the lines of a paragraph, with program text in backticks.
    pub description: &'static [&'static str],
    /// Permitted values.
    pub shape: Shape,
    /// Example value as written in the file, if the default does not show one.
    pub example: Option<&'static str>,
}

/// Permitted values of a key.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Type of one value, as named in parallax.toml(5).
    pub kind: &'static str,
    /// Permitted words; empty if the value is not one of several words.
    pub choices: &'static [Choice],
    /// Whether the value is an array of such values.
    pub list: bool,
}

/// A permitted word.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// The word.
    pub word: &'static str,
    /// Description of the word, the lines of a paragraph.
    pub description: &'static [&'static str],
}

/// A type of values of a key.
pub(crate) trait Described {
    const SHAPE: Shape;
}

macro_rules! described {
    ($($type:ty: $kind:literal),* $(,)?) => {
        $(impl Described for $type {
            const SHAPE: Shape = Shape { kind: $kind, choices: &[], list: false };
        })*
    };
}

described! {
    bool: "true or false",
    u32: "integer",
    String: "string",
    PathBuf: "path",
    BindMount: "SOURCE[:TARGET][:ro]",
    WantedDevice: "[?]DEVICE",
}

impl<T: Described> Described for Option<T> {
    const SHAPE: Shape = T::SHAPE;
}

impl<T: Described> Described for Vec<T> {
    const SHAPE: Shape = Shape { list: true, ..T::SHAPE };
}

/// Defines a section: its structure, its defaults, and the description of its keys in the constant `SECTION`.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $section:literal $name:ident {
            $($(#[doc = $description:literal])* $key:ident: $type:ty = $default:expr $(, example $example:literal)?;)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[doc = $description])* pub $key: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        impl $name {
            /// The description of the section.
            pub(crate) const SECTION: $crate::keys::Section = $crate::keys::Section {
                name: $section,
                about: &[$($about),*],
                keys: &[$($crate::keys::Key {
                    name: stringify!($key),
                    description: &[$($description),*],
                    shape: <$type as $crate::keys::Described>::SHAPE,
                    example: $crate::keys::example(&[$($example)?]),
                }),*],
            };
        }
    };
}

/// Defines a value that is one of several words: the type, its default if there is one, and the words' descriptions.
macro_rules! choices {
    (
        $(#[doc = $about:literal])*
        $name:ident $(default $default:ident)? {
            $($(#[doc = $description:literal])* $variant:ident = $word:literal;)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
        pub enum $name {
            $($(#[doc = $description])* #[serde(rename = $word)] $variant,)*
        }

        $(impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        })?

        impl $crate::keys::Described for $name {
            const SHAPE: $crate::keys::Shape = $crate::keys::Shape {
                kind: "word",
                choices: &[$($crate::keys::Choice { word: $word, description: &[$($description),*] }),*],
                list: false,
            };
        }
    };
}

pub(crate) use {choices, section};

/// Returns the example of a key, if there is one.
pub(crate) const fn example(given: &[&'static str]) -> Option<&'static str> {
    match given {
        [example, ..] => Some(*example),
        [] => None,
    }
}
