//! `--container-mounts`: `SRC[:DST[:FLAG+FLAG…]]`, `tmpfs:DST`, `umount:DST`, with commas between them.

use std::path::{Path, PathBuf};

use parallax_request::Request;
use parallax_spank_hooks::GivenOption;

use crate::error::PyxisError;
use crate::values::Value;

/// What an item begins with that removes a mount.
const UNMOUNT: &str = "umount:";
/// What flags begin with that say how a missing target is made. Here it is made as the source needs it.
const CREATE: &str = "x-create=";

/// Adds the mounts to a request. A mount that is there already is no error.
pub(crate) fn add(request: &mut Request, value: &Value<'_>, directory: &Path) -> Result<(), PyxisError> {
    for item in value.text.split(',').filter(|item| !item.is_empty()) {
        if let Some(path) = item.strip_prefix(UNMOUNT) {
            let path = PathBuf::from(path);
            if !path.is_absolute() {
                return Err(PyxisError::Unmount(value.name(), item.to_owned()));
            }
            request.unmounts.push(path);
            continue;
        }
        let added = request.add(GivenOption::Mount, &without_create(item), directory);
        added.map_err(|error| PyxisError::Value(value.name(), error))?;
    }
    Ok(())
}

/// The mount without flags that say how to make its target.
fn without_create(item: &str) -> String {
    let Some((paths, flags)) = item.rsplit_once(':').filter(|(paths, _)| paths.contains(':')) else {
        return item.to_owned();
    };
    let flags: Vec<&str> = flags.split('+').filter(|flag| !flag.starts_with(CREATE)).collect();
    if flags.is_empty() { paths.to_owned() } else { format!("{paths}:{}", flags.join("+")) }
}
