//! Names of devices, as users and administrators write them: CDI names (`vendor.com/class=name`) and paths of device nodes, with
//! wildcards.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A device that a container is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WantedDevice {
    /// Its name.
    pub name: DeviceName,
    /// True if the device is left out on nodes that do not have it (a `?` before its name).
    pub optional: bool,
}

/// A name of one device, or of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceName {
    /// A device of a CDI specification.
    Cdi(CdiName),
    /// An absolute path without `..`, in which `*`, `?` and `[…]` are wildcards (glob(7)).
    Path(String),
}

/// A qualified name of the Container Device Interface, `vendor/class=device`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CdiName {
    /// The kind: vendor and class with a `/` between them.
    pub kind: String,
    /// The device's own name.
    pub device: String,
}

/// Error of a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\": {reason}; write VENDOR/CLASS=NAME (a CDI device) or a path such as /dev/fuse or /dev/nvidia*")]
pub struct DeviceNameError {
    text: String,
    reason: &'static str,
}

impl FromStr for WantedDevice {
    type Err = DeviceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason| DeviceNameError { text: text.to_owned(), reason };
        let (optional, rest) = text.strip_prefix('?').map_or((false, text), |rest| (true, rest));
        if rest.is_empty() {
            return Err(invalid("it names no device"));
        }
        if rest.starts_with('/') {
            if rest.split('/').any(|part| part == "..") || rest.contains('\0') {
                return Err(invalid("\"..\" cannot be in the path of a device"));
            }
            return Ok(Self { name: DeviceName::Path(rest.to_owned()), optional });
        }
        let (kind, device) = rest.split_once('=').ok_or_else(|| invalid("it is neither a CDI name nor a path"))?;
        if !is_kind(kind) {
            return Err(invalid("the part before \"=\" is not a vendor and a class"));
        }
        if !is_device(device) {
            return Err(invalid(
                "the part after \"=\" is not a name of letters, digits, \"_\", \"-\", \".\" and \":\"",
            ));
        }
        Ok(Self { name: DeviceName::Cdi(CdiName { kind: kind.to_owned(), device: device.to_owned() }), optional })
    }
}

impl TryFrom<String> for WantedDevice {
    type Error = DeviceNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<WantedDevice> for String {
    fn from(device: WantedDevice) -> Self {
        device.to_string()
    }
}

impl fmt::Display for WantedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.optional { "?" } else { "" };
        write!(f, "{mark}{}", self.name)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cdi(name) => name.fmt(f),
            Self::Path(path) => f.write_str(path),
        }
    }
}

impl fmt::Display for CdiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

/// Whether a text is a CDI kind, `vendor/class`.
#[must_use]
pub fn is_kind(text: &str) -> bool {
    text.split_once('/').is_some_and(|(vendor, class)| {
        [vendor, class].iter().all(|part| is_name(part, "_-.") && part.starts_with(|c: char| c.is_ascii_alphabetic()))
    })
}

/// Whether a text is the name of a device of a CDI specification.
#[must_use]
pub fn is_device(text: &str) -> bool {
    is_name(text, "_-.:")
}

/// Whether a text begins and ends with a letter or a digit, and has nothing but these and `others` (ASCII) between.
fn is_name(text: &str, others: &str) -> bool {
    let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    ends_well(text.chars().next())
        && ends_well(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_they_are_read() {
        for text in ["nvidia.com/gpu=all", "?a/b=0:1", "/dev/fuse", "?/dev/cxi*", "v-1.x/c_2.y=GPU-0a.b"] {
            let device: WantedDevice = text.parse().unwrap();
            assert_eq!(device.to_string(), text);
            assert_eq!(device.optional, text.starts_with('?'));
        }
        let DeviceName::Cdi(name) = "a.b/c=d".parse::<WantedDevice>().unwrap().name else { panic!() };
        assert_eq!((name.kind.as_str(), name.device.as_str()), ("a.b/c", "d"));
    }

    #[test]
    fn what_is_refused_says_why() {
        for (text, why) in [
            ("", "no device"),
            ("?", "no device"),
            ("gpu", "neither"),
            ("dev/fuse", "neither"),
            ("gpu=0", "vendor and a class"),
            ("/dev/../etc", "\"..\""),
            ("1a/b=c", "vendor and a class"),
            ("a/b-=c", "vendor and a class"),
            ("a/b/c=d", "vendor and a class"),
            ("a/b=", "after \"=\""),
            ("a/b=c d", "after \"=\""),
            ("a/b=-c", "after \"=\""),
            ("a/b=c=d", "after \"=\""),
        ] {
            let message = text.parse::<WantedDevice>().unwrap_err().to_string();
            assert!(message.contains(why) && message.contains("VENDOR/CLASS=NAME"), "{text}: {message}");
        }
    }
}
