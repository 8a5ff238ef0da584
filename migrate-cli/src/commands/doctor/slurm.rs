//! Slurm's plugin: whether it is listed, complete, and built for the installed Slurm.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use object::read::elf::ElfFile64;
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _};
use parallax_spank_hooks::{NAME_SETS, NAMES_ARGUMENT, NameSet};

use super::check::Check;
use super::programs;

/// Default path of Slurm's list of SPANK plugins (`plugstack.conf(5)`).
pub(super) const PLUGSTACK: &str = "/etc/slurm/plugstack.conf";
const TOPIC: &str = "slurm";
/// The plugin's file name, and the default path of the launcher.
const PLUGIN: &str = "spank_parallax.so";
const LAUNCHER: &str = "/usr/libexec/parallax/parallax-launch";
/// Maximum size of a checked plugin in bytes.
const MAX_PLUGIN: u64 = 64 << 20;

/// A line of plugstack.conf.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    is_required: bool,
    plugin: PathBuf,
    launcher: PathBuf,
    /// The names of other tools' options that are turned on.
    names: Vec<String>,
}

/// Checks the list, the plugin in it and its launcher.
pub(super) fn check(plugstack: &Path) -> Vec<Check> {
    let Some(version) = slurm_version() else {
        return vec![Check::warning(
            TOPIC,
            "there is no Slurm here",
            "nothing to do, if no jobs are submitted or run here",
        )];
    };
    let text = match read_list(plugstack) {
        Ok(text) => text,
        Err(error) => {
            let finding = format!("{} cannot be read: {error}", plugstack.display());
            return vec![Check::problem(
                TOPIC,
                finding,
                format!("make it, with the line: required /usr/lib/parallax/{PLUGIN}"),
            )];
        }
    };
    let Some(listed) = listed(&text) else {
        let finding = format!("{} does not name {PLUGIN}", plugstack.display());
        return vec![Check::problem(TOPIC, finding, format!("add the line: required /usr/lib/parallax/{PLUGIN}"))];
    };
    let mut checks = vec![if listed.is_required {
        Check::ok(TOPIC, format!("{} requires {}", plugstack.display(), listed.plugin.display()))
    } else {
        let finding = format!("{} has {} as optional only", plugstack.display(), listed.plugin.display());
        Check::warning(TOPIC, finding, "write \"required\": without the plugin, jobs would run without their image")
    }];
    checks.extend(conflict(&text, &listed, plugstack));
    checks.push(plugin(&listed.plugin, version));
    checks.push(step_part(&listed.plugin));
    checks.push(launcher(&listed.launcher));
    checks
}

/// Returns the version of the installed Slurm, as printed by one of its commands. srun prints none if a plugin fails.
fn slurm_version() -> Option<[u32; 2]> {
    let version = |name| programs::numbers(&programs::version(&programs::find(name)?).ok()?);
    ["srun", "slurmd", "sinfo"].into_iter().find_map(version)
}

/// Returns the list with the lists that it includes, without nested includes.
fn read_list(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?;
    let included =
        text.lines().filter_map(|line| line.trim().strip_prefix("include ")).flat_map(|name| matching(name.trim()));
    let included: Vec<String> = included.filter_map(|file| fs::read_to_string(file).ok()).collect();
    Ok(text.clone() + "\n" + &included.join("\n"))
}

/// Returns the files for a name whose last component may have a `*`.
fn matching(pattern: &str) -> Vec<PathBuf> {
    let path = Path::new(pattern);
    let Some((before, after)) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('*'))
    else {
        return vec![path.to_owned()];
    };
    let Some(Ok(entries)) = path.parent().map(fs::read_dir) else { return Vec::new() };
    let fits =
        |name: &str| name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after);
    let files = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(fits));
    files.map(|entry| entry.path()).collect()
}

/// Returns the lines: `required|optional PATH ARGUMENT…`.
fn lines(text: &str) -> impl Iterator<Item = (&str, PathBuf, Vec<&str>)> {
    text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        Some((words.next()?, words.next()?.into(), words.collect()))
    })
}

/// The plugin's line.
fn listed(text: &str) -> Option<Listed> {
    let is_own = |plugin: &Path| plugin.file_name().is_some_and(|name| name == PLUGIN);
    let (flag, plugin, arguments) = lines(text).find(|(_, plugin, _)| is_own(plugin))?;
    let launcher = arguments.iter().find_map(|word| word.strip_prefix("launcher=")).unwrap_or(LAUNCHER).into();
    let names = arguments.iter().filter_map(|word| word.strip_prefix(NAMES_ARGUMENT));
    let names = names.flat_map(|names| names.split(',')).map(ToOwned::to_owned).collect();
    Some(Listed { is_required: flag == "required", plugin, launcher, names })
}

/// Looks for another plugin that has options which are turned on here.
fn conflict(text: &str, listed: &Listed, plugstack: &Path) -> Option<Check> {
    lines(text).find_map(|(_, plugin, _)| {
        let name = plugin.file_name()?.to_str()?;
        let is_turned_on = |set: &NameSet| listed.names.iter().any(|own| own.as_bytes() == set.word.to_bytes());
        let part = |set: &NameSet| set.other_plugin.to_str().is_ok_and(|part| name.contains(part));
        let word = NAME_SETS.iter().find(|set| part(set) && is_turned_on(set))?.word.to_string_lossy();
        let finding = format!(
            "{} has {} beside {PLUGIN} with names={word}: both have these options, so srun, sbatch and salloc do not start",
            plugstack.display(),
            plugin.display()
        );
        Some(Check::problem(TOPIC, finding, format!("remove {} or names={word}", plugin.display())))
    })
}

fn plugin(path: &Path, slurm: [u32; 2]) -> Check {
    let show = |[major, minor]: [u32; 2]| format!("{major}.{minor:02}");
    let remedy = format!("build it against the headers of Slurm {} and install it there", show(slurm));
    match built_for(path) {
        Ok(Some(built)) if built == slurm => {
            Check::ok(TOPIC, format!("{} is for Slurm {}, which is here", path.display(), show(slurm)))
        }
        Ok(Some(built)) => {
            let finding = format!(
                "{} is for Slurm {}, and {} is here: Slurm does not load it",
                path.display(),
                show(built),
                show(slurm)
            );
            Check::problem(TOPIC, finding, remedy)
        }
        Ok(None) => Check::problem(TOPIC, format!("{} is not a plugin of Slurm", path.display()), remedy),
        Err(error) => Check::problem(TOPIC, format!("{} cannot be read: {error}", path.display()), remedy),
    }
}

/// Checks the part for steps with an image, which is in the plugin's directory.
fn step_part(plugin: &Path) -> Check {
    let path = plugin.with_file_name(OsStr::from_bytes(parallax_spank_hooks::FILE.to_bytes()));
    let fits = |file: ElfFile64<'_>| {
        file.dynamic_symbols().any(|symbol| symbol.name_bytes() == Ok(parallax_spank_hooks::SYMBOL.to_bytes()))
    };
    let remedy = format!("install it and {PLUGIN} together, from one release");
    match contents(&path).map(|bytes| ElfFile64::<Endianness>::parse(bytes.as_slice()).is_ok_and(fits)) {
        Ok(true) => Check::ok(TOPIC, format!("{}, which steps with an image load, fits it", path.display())),
        Ok(false) => Check::problem(TOPIC, format!("{} is of another release than the plugin", path.display()), remedy),
        Err(error) => Check::problem(TOPIC, format!("{} cannot be read: {error}", path.display()), remedy),
    }
}

/// Returns a plugin's bytes; `None` if the file is too large.
fn contents(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_PLUGIN { Ok(Vec::new()) } else { fs::read(path) }
}

/// Returns the Slurm version in a plugin: `plugin_version`, `SLURM_VERSION_NUM` of `slurm/slurm.h`.
fn built_for(path: &Path) -> io::Result<Option<[u32; 2]>> {
    Ok(plugin_version(&contents(path)?).map(|number| [number >> 16, (number >> 8) & 0xff]))
}

fn plugin_version(bytes: &[u8]) -> Option<u32> {
    let file = ElfFile64::<Endianness>::parse(bytes).ok()?;
    let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok("plugin_version"))?;
    let holds = |address: u64, size: u64| (address..address.saturating_add(size)).contains(&symbol.address());
    let section = file.sections().find(|section| holds(section.address(), section.size()))?;
    let number: [u8; 4] = section.data_range(symbol.address(), 4).ok()??.try_into().ok()?;
    Some(if file.is_little_endian() { u32::from_le_bytes(number) } else { u32::from_be_bytes(number) })
}

fn launcher(path: &Path) -> Check {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o005 == 0o005 => {
            Check::ok(TOPIC, format!("the launcher {} is there", path.display()))
        }
        Ok(_) => {
            let finding = format!("the launcher {} cannot be executed by users", path.display());
            Check::problem(TOPIC, finding, format!("chmod 0755 {}", path.display()))
        }
        // Hosts that only submit jobs do not need it.
        Err(error) if programs::find("slurmd").is_none() => {
            let finding = format!("the launcher {} is not here: {error}", path.display());
            Check::warning(TOPIC, finding, "nothing to do, if no jobs run here")
        }
        Err(error) => {
            let finding = format!("the launcher {} is not here: {error}", path.display());
            Check::problem(TOPIC, finding, "install parallax-launch")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::State;
    use super::*;

    #[test]
    fn the_plugins_line_is_found() {
        let text = "# required /usr/lib/parallax/spank_parallax.so\nrequired other.so\n\
                    optional\t/opt/spank_parallax.so config=/c launcher=/l # here\n";
        let expected = Listed {
            is_required: false,
            plugin: "/opt/spank_parallax.so".into(),
            launcher: "/l".into(),
            names: Vec::new(),
        };
        assert_eq!(listed(text), Some(expected));
        assert_eq!(listed("required /usr/lib/parallax/spank_parallax.so").unwrap().launcher, Path::new(LAUNCHER));
        assert_eq!(listed("include /etc/slurm/plugstack.conf.d/*\n\n"), None);
    }

    #[test]
    fn another_plugin_with_the_same_options_is_found() {
        let found = |others: &str, names: &str| {
            let text = format!("{others}\nrequired /p/spank_parallax.so {names}\n");
            conflict(&text, &listed(&text).unwrap(), Path::new("/plugstack.conf"))
        };
        let pyxis = "required /usr/local/lib/slurm/spank_pyxis.so execute_entrypoint=1";
        let check = found(pyxis, "names=edf,pyxis config=/c").unwrap();
        assert_eq!(check.state, State::Problem);
        assert!(check.remedy.unwrap().starts_with("remove /usr/local/lib/slurm/spank_pyxis.so or names=pyxis"));
        assert_eq!(found(pyxis, "names=edf"), None);
        assert_eq!(found(&format!("# {pyxis}"), "names=pyxis"), None);
        assert!(found("optional libskybox.so", "names=edf").is_some());
        assert_eq!(found("optional /usr/lib/other.so", "names=edf,pyxis"), None);
    }

    #[test]
    fn included_lists_are_looked_through() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("conf.d")).unwrap();
        let main = directory.path().join("plugstack.conf");
        fs::write(&main, format!("include {}/conf.d/*.conf\n", directory.path().display())).unwrap();
        assert_eq!(listed(&read_list(&main).unwrap()), None);
        fs::write(directory.path().join("conf.d/parallax.conf"), "required /p/spank_parallax.so\n").unwrap();
        fs::write(directory.path().join("conf.d/other.old"), "required /old/spank_parallax.so\n").unwrap();
        assert_eq!(listed(&read_list(&main).unwrap()).unwrap().plugin, Path::new("/p/spank_parallax.so"));
        assert_eq!(matching("/a/b"), [PathBuf::from("/a/b")]);
    }

    #[test]
    fn files_of_other_kinds_are_reported() {
        assert_eq!(plugin(Path::new("/nonexistent"), [24, 11]).state, State::Problem);
        assert_eq!(built_for(Path::new("/bin/true")).unwrap(), None);
        assert_eq!(built_for(Path::new("/etc/passwd")).unwrap(), None);
        assert_eq!(launcher(Path::new("/bin/true")).state, State::Ok);
        assert_eq!(launcher(Path::new("/etc/passwd")).state, State::Problem);
        assert_ne!(launcher(Path::new("/nonexistent")).state, State::Ok);
    }
}
