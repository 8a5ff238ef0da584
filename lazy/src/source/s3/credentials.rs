//! Credentials for S3: a file in the format of AWS's tools, or what these tools find.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use super::super::private;

/// An access key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) key: String,
    pub(super) secret: String,
    /// Of temporary credentials.
    pub(super) token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Where credentials are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`).
    Environment,
    /// The section of a profile in a file.
    File {
        /// The file.
        path: PathBuf,
        /// The profile.
        profile: String,
    },
    /// No credentials: requests are not signed, as buckets that everybody may read need it.
    Nowhere,
}

/// Returns the value of a variable of the environment that is not empty.
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

impl Origin {
    /// Returns the configured file; without one, what AWS's tools use, in their order. `variable` looks up a variable of the environment.
    pub(super) fn find(configured: Option<&Path>, variable: impl Fn(&str) -> Option<String>) -> Self {
        let profile = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
        if let Some(path) = configured {
            return Self::File { path: path.to_owned(), profile };
        }
        if variable("AWS_ACCESS_KEY_ID").is_some() {
            return Self::Environment;
        }
        if let Some(path) = variable("AWS_SHARED_CREDENTIALS_FILE") {
            return Self::File { path: path.into(), profile };
        }
        let usual = variable("HOME").map(|home| Path::new(&home).join(".aws/credentials"));
        usual.filter(|path| path.exists()).map_or(Self::Nowhere, |path| Self::File { path, profile })
    }

    /// Reads the credentials.
    ///
    /// # Errors
    /// The reason, a sentence that names the file or variable.
    pub(super) fn read(&self) -> Result<Option<Credentials>, String> {
        match self {
            Self::Nowhere => Ok(None),
            Self::Environment => {
                let needed = |name| variable(name).ok_or_else(|| format!("the variable {name} is not set"));
                let (key, secret) = (needed("AWS_ACCESS_KEY_ID")?, needed("AWS_SECRET_ACCESS_KEY")?);
                Ok(Some(Credentials { key, secret, token: variable("AWS_SESSION_TOKEN") }))
            }
            Self::File { path, profile } => {
                let failed = |reason: String| format!("cannot use the credentials in {}: {reason}", path.display());
                let text = private::read(path).map_err(failed)?;
                parse(&text, profile).map(Some).map_err(failed)
            }
        }
    }
}

/// Returns the credentials in the section of a profile.
fn parse(text: &str, profile: &str) -> Result<Credentials, String> {
    let header = format!("[{profile}]");
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != header);
    if lines.next().is_none() {
        return Err(format!("it has no section {header}"));
    }
    let section: Vec<(&str, &str)> = lines
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect();
    let value = |name: &str| section.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let needed = |name| value(name).ok_or_else(|| format!("the section {header} has no {name}"));
    let (key, secret) = (needed("aws_access_key_id")?, needed("aws_secret_access_key")?);
    Ok(Credentials { key, secret, token: value("aws_session_token") })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_profile_is_read_and_what_is_missing_is_named() {
        let text = "# Comment\n[other]\naws_access_key_id=o\n\n[default]\n aws_access_key_id = A=B\naws_secret_access_key=s/+==\n\
                    [temporary]\naws_access_key_id=t\naws_secret_access_key=u\n;x\naws_session_token=v\n";
        let credentials = parse(text, "default").unwrap();
        assert_eq!(
            (credentials.key.as_str(), credentials.secret.as_str(), &credentials.token),
            ("A=B", "s/+==", &None)
        );
        assert!(!format!("{credentials:?}").contains("s/"), "the secret is shown");
        assert_eq!(parse(text, "temporary").unwrap().token.as_deref(), Some("v"));
        assert_eq!(parse(text, "other").unwrap_err(), "the section [other] has no aws_secret_access_key");
        assert_eq!(parse(text, "none").unwrap_err(), "it has no section [none]");
    }

    #[test]
    fn a_file_that_everybody_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        let origin = Origin::find(Some(&path), |_| None);
        assert!(origin.read().unwrap_err().contains("No such file"));
        fs::write(&path, "[default]\naws_access_key_id=a\naws_secret_access_key=b\n").unwrap();
        for (mode, is_good) in [(0o400, true), (0o640, true), (0o644, false), (0o602, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let read = origin.read();
            assert_eq!(read.is_ok(), is_good, "{mode:o}: {read:?}");
            assert!(is_good || read.unwrap_err().contains("everybody has access to it"));
        }
    }

    #[test]
    fn without_a_file_the_usual_places_are_searched() {
        let home = tempfile::tempdir().unwrap();
        let home_path = home.path().to_str().unwrap().to_owned();
        let find = |set: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
                found.or_else(|| (name == "HOME").then(|| home_path.clone()))
            };
            Origin::find(None, variable)
        };
        assert_eq!(find(&[]), Origin::Nowhere);
        let file = |path: &str, profile: &str| Origin::File { path: path.into(), profile: profile.to_owned() };
        assert_eq!(find(&[("AWS_SHARED_CREDENTIALS_FILE", "/a"), ("AWS_PROFILE", "p")]), file("/a", "p"));
        assert_eq!(find(&[("AWS_SHARED_CREDENTIALS_FILE", "/a"), ("AWS_ACCESS_KEY_ID", "k")]), Origin::Environment);
        fs::create_dir(home.path().join(".aws")).unwrap();
        fs::write(home.path().join(".aws/credentials"), "").unwrap();
        assert_eq!(find(&[]), file(&format!("{home_path}/.aws/credentials"), "default"));
        assert_eq!(Origin::Nowhere.read(), Ok(None));
    }
}
