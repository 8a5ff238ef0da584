//! The settings of containers-registries.conf(5) for short names, read from the same files as by Podman.
//!
//! No crate serves: containers-image-proxy has skopeo fetch an image by its full name, and skopeo resolves no short names.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

/// `short-name-mode`: handling of a name that several registries may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Podman asks, on a terminal; elsewhere it is an error.
    Enforcing,
    /// Podman asks, on a terminal; elsewhere all are tried.
    Permissive,
    /// All are tried.
    Disabled,
}

/// The settings of one file, or of all files merged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Registries {
    /// The unqualified-search registries, in order.
    pub unqualified_search_registries: Option<Vec<String>>,
    /// Handling of several registries.
    pub short_name_mode: Option<Mode>,
    /// Aliases: names without registry and tag, and their full names.
    #[serde(default)]
    pub aliases: BTreeMap<String, String>,
}

impl Registries {
    /// Reads the configuration of this user.
    ///
    /// # Errors
    /// If a file cannot be read or is invalid.
    pub fn load() -> anyhow::Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let is_root = rustix::process::geteuid().is_root();
        let home = variable("HOME").filter(|_| !is_root);
        let config = variable("XDG_CONFIG_HOME").filter(|_| !is_root);
        let config = config.or_else(|| home.as_ref().map(|home| home.join(".config")));
        // Podman reads the second, older, variable only if the first is not set.
        let chosen = variable("CONTAINERS_REGISTRIES_CONF").or_else(|| variable("REGISTRIES_CONFIG_PATH"));
        let cache = match &home {
            Some(home) => home.join(".cache/containers"),
            None => PathBuf::from("/var/cache/containers"),
        };
        Self::from_places(&Places { etc: Path::new("/etc/containers"), user: config.as_deref(), chosen, cache: &cache })
    }

    fn from_places(places: &Places<'_>) -> anyhow::Result<Self> {
        let user = places.user.map(|config| config.join("containers"));
        let mut all = Self::default();
        match &places.chosen {
            // Podman reads this one and nothing else then.
            Some(file) => all.add(read(file)?.unwrap_or_default()),
            None => {
                let of_user = user.as_ref().map(|user| read(&user.join("registries.conf"))).transpose()?.flatten();
                let main = match of_user {
                    Some(main) => Some(main),
                    None => read(&places.etc.join("registries.conf"))?,
                };
                all.add(main.unwrap_or_default());
                for directory in [Some(places.etc), user.as_deref()].into_iter().flatten() {
                    for file in drop_ins(&directory.join("registries.conf.d"))? {
                        all.add(read(&file)?.unwrap_or_default());
                    }
                }
            }
        }
        // What the user once chose when Podman asked wins.
        all.add(Self {
            aliases: read(&places.cache.join("short-name-aliases.conf"))?.unwrap_or_default().aliases,
            ..Self::default()
        });
        all.aliases.retain(|_, target| !target.is_empty());
        Ok(all)
    }

    /// Parses the text of one file.
    ///
    /// # Errors
    /// Invalid TOML, or a used key of the wrong type.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Overrides these settings by those of a later file. An empty alias removes an earlier one.
    fn add(&mut self, later: Self) {
        let Self { unqualified_search_registries, short_name_mode, aliases } = later;
        self.unqualified_search_registries =
            unqualified_search_registries.or(self.unqualified_search_registries.take());
        self.short_name_mode = short_name_mode.or(self.short_name_mode);
        self.aliases.extend(aliases);
    }
}

struct Places<'a> {
    etc: &'a Path,
    /// The user's `.config`.
    user: Option<&'a Path>,
    /// A file that was named in the environment.
    chosen: Option<PathBuf>,
    /// Podman's file with the user's choices.
    cache: &'a Path,
}

fn read(file: &Path) -> anyhow::Result<Option<Registries>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("cannot read {}", file.display()))?,
    };
    Registries::parse(&text).map(Some).with_context(|| format!("invalid configuration {}", file.display()))
}

/// Returns the files of a directory that end in `.conf`, in the order of their names.
fn drop_ins(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", directory.display()))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", directory.display()))?.path();
        files.extend(Some(path).filter(|path| path.extension().is_some_and(|extension| extension == "conf")));
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_files_win() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("etc/registries.conf", "unqualified-search-registries = [\"a\"]\nshort-name-mode = \"enforcing\"");
        write("etc/registries.conf.d/10.conf", "[aliases]\n\"x\" = \"one/x\"\n\"y\" = \"one/y\"\n\"z\" = \"one/z\"");
        write("etc/registries.conf.d/20.conf", "[aliases]\n\"x\" = \"two/x\"\n\"y\" = \"\"");
        write("etc/registries.conf.d/30.txt", "nonsense");
        write("cache/short-name-aliases.conf", "[aliases]\n\"z\" = \"chosen/z\"");
        let (etc, user, cache) = (root.join("etc"), root.join("user"), root.join("cache"));
        let places = |chosen| Places { etc: &etc, user: Some(&user), chosen, cache: &cache };
        let all = Registries::from_places(&places(None)).unwrap();
        assert_eq!(all.unqualified_search_registries.unwrap(), ["a"]);
        assert_eq!(all.short_name_mode, Some(Mode::Enforcing));
        let aliases: Vec<_> = all.aliases.iter().map(|(name, target)| format!("{name}={target}")).collect();
        assert_eq!(aliases, ["x=two/x", "z=chosen/z"]);
        write("user/containers/registries.conf", "unqualified-search-registries = [\"u\", \"v\"]");
        let all = Registries::from_places(&places(None)).unwrap();
        assert_eq!((all.unqualified_search_registries.unwrap().len(), all.short_name_mode), (2, None));
        let all = Registries::from_places(&places(Some(root.join("etc/registries.conf.d/20.conf")))).unwrap();
        assert_eq!(all.aliases["x"], "two/x");
        write("etc/registries.conf.d/40.conf", "unqualified-search-registries = 3");
        assert!(Registries::from_places(&places(None)).unwrap_err().to_string().contains("40.conf"));
    }
}
