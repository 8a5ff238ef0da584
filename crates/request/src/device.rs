//! Devices: a list of names, separated by commas, which no name has.

use parallax_format::device::WantedDevice;

use crate::error::RequestError;

/// Parses a list of names.
pub(crate) fn parse_list(text: &str) -> Result<Vec<WantedDevice>, RequestError> {
    text.split(',').map(|name| Ok(name.parse()?)).collect()
}

/// Adds devices. One that is there already is not added again, and is needed if one of the two is.
pub(crate) fn push(devices: &mut Vec<WantedDevice>, more: Vec<WantedDevice>) {
    for device in more {
        match devices.iter_mut().find(|other| other.name == device.name) {
            Some(same) => same.optional = same.optional && device.optional,
            None => devices.push(device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(lists: &[&str]) -> Vec<String> {
        let mut devices = Vec::new();
        for list in lists {
            push(&mut devices, parse_list(list).unwrap());
        }
        devices.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn devices_add_up() {
        assert_eq!(pushed(&["/dev/a,?x/y=z", "?/dev/a,/dev/b*"]), ["/dev/a", "?x/y=z", "/dev/b*"]);
        assert_eq!(pushed(&["?x/y=z", "x/y=z"]), ["x/y=z"]);
        assert!(parse_list("/dev/a,").is_err() && parse_list("gpu").is_err());
    }
}
