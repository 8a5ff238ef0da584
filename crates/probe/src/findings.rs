//! The results of the trials.

use std::fmt::{self, Display};
use std::io::Write as _;

use serde::{Deserialize, Serialize};

use crate::image::COMPRESSORS;

/// An ability of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ability {
    /// A user other than root gets a user namespace.
    UserNamespaces,
    /// A tmpfs keeps attributes of users (`user.…`), by which overlays mark directories (Linux 6.6).
    TmpfsAttributes,
    /// The kernel mounts SquashFS from a loop device.
    Squashfs,
    /// The kernel's SquashFS reads files compressed so; the number is that of the superblock.
    Compressor(u16),
    /// Such a mount takes an id map (Linux 6.2).
    IdMaps,
    /// The kernel mounts such a mount over a directory with the contents of its files (Linux 6.5).
    MetadataImages,
    /// The kernel mounts EROFS, with an id map.
    Erofs,
    /// The kernel mounts SquashFS from a loop device over a file that is served by FUSE.
    LazyLayers,
    /// Another file takes the place of that file below the loop device, and FUSE is gone.
    LazySwap,
    /// In a user namespace, the kernel mounts a writable overlay over such a mount.
    Overlay,
    /// In a user namespace, the mount program puts an overlay over a SquashFS file that is served by FUSE.
    Fuse,
    /// The same with other ids shown, for `--userns=keep-id`.
    FuseIdMaps,
}

impl Ability {
    /// A name for tables and JSON, such as `id-maps` or `squashfs-zstd`.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::UserNamespaces => "user-namespaces".to_owned(),
            Self::TmpfsAttributes => "tmpfs-attributes".to_owned(),
            Self::Squashfs => "squashfs".to_owned(),
            Self::Compressor(number) => format!("squashfs-{}", compressor_name(number)),
            Self::IdMaps => "id-maps".to_owned(),
            Self::MetadataImages => "metadata-images".to_owned(),
            Self::Erofs => "erofs".to_owned(),
            Self::LazyLayers => "lazy-layers".to_owned(),
            Self::LazySwap => "lazy-swap".to_owned(),
            Self::Overlay => "overlay".to_owned(),
            Self::Fuse => "fuse".to_owned(),
            Self::FuseIdMaps => "fuse-id-maps".to_owned(),
        }
    }

    /// Describes the ability, in words that follow "this machine has no".
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::UserNamespaces => "user namespaces for users".to_owned(),
            Self::TmpfsAttributes => "user attributes on tmpfs".to_owned(),
            Self::Squashfs => "kernel SquashFS".to_owned(),
            Self::Compressor(number) => format!("kernel SquashFS with {}", compressor_name(number)),
            Self::IdMaps => "id-mapped SquashFS mounts".to_owned(),
            Self::MetadataImages => "overlays of metadata images".to_owned(),
            Self::Erofs => "kernel EROFS".to_owned(),
            Self::LazyLayers => "kernel SquashFS over files by FUSE".to_owned(),
            Self::LazySwap => "exchange of files below loop devices".to_owned(),
            Self::Overlay => "kernel overlays in user namespaces".to_owned(),
            Self::Fuse => "SquashFS by FUSE".to_owned(),
            Self::FuseIdMaps => "SquashFS by FUSE with other ids".to_owned(),
        }
    }
}

fn compressor_name(number: u16) -> String {
    let known = COMPRESSORS.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("compression {number}"), |(_, name)| (*name).to_owned())
}

/// The reason why an ability is missing or undecided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The trial failed.
    Missing(Ability, String),
    /// The trial did not finish.
    Undecided(Ability, String),
}

impl Display for Obstacle {
    /// A part of a sentence, such as "no kernel SquashFS: no loop device".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(ability, reason) => write!(f, "no {}: {reason}", ability.words()),
            Self::Undecided(ability, reason) => write!(f, "{} undecided: {reason}", ability.words()),
        }
    }
}

/// One trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The ability.
    pub ability: Ability,
    /// The reason of the failure; `None` after a success.
    pub failure: Option<String>,
}

/// Writes the result of a trial, one line each.
pub(crate) fn report<E: Display>(ability: Ability, result: Result<(), E>) {
    let trial = Trial { ability, failure: result.err().map(|error| error.to_string()) };
    let line = serde_json::to_string(&trial).unwrap_or_default();
    // At once: a later trial may hang.
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

/// All trials, in the order in which they were made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Findings {
    /// The trials.
    pub trials: Vec<Trial>,
    /// The reason why the trials were cut short, if they were.
    pub cut_short: Option<String>,
}

impl Findings {
    /// Checks whether the machine has an ability.
    ///
    /// # Errors
    /// [`Obstacle`].
    pub fn can(&self, ability: Ability) -> Result<(), Obstacle> {
        match self.trials.iter().find(|trial| trial.ability == ability) {
            Some(Trial { failure: None, .. }) => Ok(()),
            Some(Trial { failure: Some(reason), .. }) => Err(Obstacle::Missing(ability, reason.clone())),
            None => {
                let reason = self.cut_short.as_deref().unwrap_or("it was not tried");
                Err(Obstacle::Undecided(ability, reason.to_owned()))
            }
        }
    }

    /// Updates the findings by later ones. Abilities that are undecided there stay unchanged.
    pub fn update(&mut self, later: Self) {
        let newly = |ability| later.trials.iter().any(|trial| trial.ability == ability);
        self.trials.retain(|trial| !newly(trial.ability));
        self.trials.extend(later.trials);
        self.cut_short = later.cut_short;
    }

    /// Makes abilities undecided, for a reason.
    pub fn mark_undecided(&mut self, abilities: &[Ability], reason: &str) {
        self.trials.retain(|trial| !abilities.contains(&trial.ability));
        self.cut_short = Some(reason.to_owned());
    }

    /// Checks whether layers can be mounted by the kernel; the error names the first thing that is missing.
    ///
    /// # Errors
    /// The first missing ability and the reason.
    pub fn native(&self) -> Result<(), Obstacle> {
        use Ability::{IdMaps, Overlay, Squashfs, TmpfsAttributes, UserNamespaces};
        self.all(&[UserNamespaces, Squashfs, IdMaps, TmpfsAttributes, Overlay])
    }

    /// Checks whether directories can be layers as they are; the error names the first thing that is missing.
    ///
    /// # Errors
    /// The first missing ability and the reason.
    pub fn directories(&self) -> Result<(), Obstacle> {
        self.all(&[Ability::UserNamespaces, Ability::TmpfsAttributes, Ability::Overlay])
    }

    /// Checks whether layers can be mounted by FUSE; the error names the first thing that is missing.
    ///
    /// # Errors
    /// The first missing ability and the reason.
    pub fn fuse(&self) -> Result<(), Obstacle> {
        self.all(&[Ability::UserNamespaces, Ability::Fuse, Ability::FuseIdMaps])
    }

    fn all(&self, abilities: &[Ability]) -> Result<(), Obstacle> {
        abilities.iter().try_for_each(|&ability| self.can(ability))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thing_that_is_missing_is_named() {
        let trial = |ability, failure: Option<&str>| Trial { ability, failure: failure.map(ToOwned::to_owned) };
        let mut findings = Findings {
            trials: vec![
                trial(Ability::UserNamespaces, None),
                trial(Ability::Squashfs, None),
                trial(Ability::IdMaps, Some("Invalid argument")),
            ],
            cut_short: None,
        };
        let native = findings.native().unwrap_err().to_string();
        assert_eq!(native, "no id-mapped SquashFS mounts: Invalid argument");
        assert_eq!(findings.fuse().unwrap_err().to_string(), "SquashFS by FUSE undecided: it was not tried");
        findings.cut_short = Some("it hung".to_owned());
        assert_eq!(findings.can(Ability::Fuse), Err(Obstacle::Undecided(Ability::Fuse, "it hung".to_owned())));
        assert_eq!(findings.can(Ability::Squashfs), Ok(()));
    }

    #[test]
    fn a_doubt_takes_nothing_back() {
        let trial = |ability, failure: Option<&str>| Trial { ability, failure: failure.map(ToOwned::to_owned) };
        let mut findings = Findings {
            trials: vec![trial(Ability::Squashfs, None), trial(Ability::Fuse, Some("No such file"))],
            cut_short: None,
        };
        let hung = Some("the trial did not end".to_owned());
        findings.update(Findings { trials: Vec::new(), cut_short: hung.clone() });
        assert_eq!(findings.can(Ability::Squashfs), Ok(()));
        findings.update(Findings { trials: vec![trial(Ability::Fuse, None)], cut_short: None });
        assert_eq!((findings.can(Ability::Fuse), findings.trials.len()), (Ok(()), 2));
        findings.update(Findings { trials: vec![trial(Ability::Squashfs, Some("Invalid argument"))], cut_short: hung });
        assert!(matches!(findings.can(Ability::Squashfs), Err(Obstacle::Missing(..))));
        findings.mark_undecided(&[Ability::Fuse], "it is another program now");
        assert!(matches!(findings.can(Ability::Fuse), Err(Obstacle::Undecided(..))));
    }
}
