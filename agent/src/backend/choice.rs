//! The choice of the backend for the layers of an image: the kernel, with FUSE as the fallback.
//!
//! The node's abilities are tried when the agent starts, and again when a step needs it (module `retry`). The store's owner
//! decides whether the kernel may read it: who can write a file system image can attack the kernel that mounts it, so only the
//! owners that the configuration names are trusted.
//! Images of other owners are read by FUSE, by a process of the step's user and with the user's rights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parallax_config::{Agent, Config, Mounts};
use parallax_probe::{Ability, Findings, Obstacle};
use parallax_protocol::node::{AbilityStatus, NodeStatus};
use parallax_store::read::TrustedStore;

use super::trusted_owners::{Lookup, Trust, TrustedOwners};
use crate::helper::{Helper, HelperError};

/// A backend that mounts layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// By the kernel, with id maps.
    Native,
    /// By the mount program, in the user's own processes.
    Fuse,
}

impl Backend {
    /// The name in the configuration, in logs and in `parallax status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Fuse => "fuse",
        }
    }
}

/// A backend, and the reason why it was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The backend.
    pub backend: Backend,
    /// The reason, a part of a sentence.
    pub reason: String,
    /// Whether the kernel is to read EROFS files.
    pub erofs: bool,
    /// The reason why layers cannot be mounted from their chunks, a part of a sentence, if they cannot.
    pub chunks: Result<(), String>,
}

/// The backends of the node, with all that decides the choice.
#[derive(Debug, Clone)]
pub struct Backends {
    mounts: Mounts,
    /// The users whose stores the kernel may read.
    trusted: Arc<TrustedOwners>,
    mount_program: PathBuf,
    /// Whether layers are mounted from their chunks.
    lazy: bool,
    findings: Findings,
    native: Result<(), Obstacle>,
    fuse: Result<(), Obstacle>,
}

impl Backends {
    /// Tries the node's abilities and logs them.
    #[must_use]
    pub fn of_this_node(config: &Config, helper: &Arc<Helper>) -> Self {
        let untried = |error: HelperError| Findings { cut_short: Some(error.to_string()), ..Findings::default() };
        let findings = helper.probe().unwrap_or_else(untried);
        let backends = Self { lazy: config.lazy.enabled, ..Self::new(&config.agent, findings, by_name(helper)) };
        backends.log();
        backends
    }

    pub(super) fn log(&self) {
        for trial in &self.findings.trials {
            match (&trial.failure, trial.ability) {
                (None, ability) => tracing::debug!(ability = ability.name(), "ability present"),
                // The kernel need not know every compressor there is.
                (Some(reason), Ability::Compressor(_)) => {
                    tracing::debug!(ability = trial.ability.name(), reason, "ability missing");
                }
                (Some(reason), Ability::LazyLayers | Ability::LazySwap) if !self.lazy => {
                    tracing::debug!(ability = trial.ability.name(), reason, "ability missing");
                }
                (Some(reason), _) => tracing::warn!(ability = trial.ability.name(), reason, "ability missing"),
            }
        }
        if let Some(reason) = &self.findings.cut_short {
            tracing::warn!(reason, "abilities undecided: the trials were cut short");
        }
        let say = |backend: &Result<(), Obstacle>| {
            backend.as_ref().err().map_or_else(|| "yes".to_owned(), ToString::to_string)
        };
        let (native, fuse) = (say(&self.native), say(&self.fuse));
        tracing::info!(native, fuse, configured = ?self.mounts, "backends of this node");
    }

    /// Makes the backends from findings; `id_of` looks a user up by name.
    #[must_use]
    pub fn new(config: &Agent, findings: Findings, id_of: Lookup) -> Self {
        let trusted = Arc::new(TrustedOwners::new(&config.trusted_owners, id_of));
        let (native, fuse) = (findings.native(), findings.fuse());
        let (mounts, mount_program) = (config.mounts, config.mount_program.clone());
        Self { mounts, trusted, mount_program, lazy: false, findings, native, fuse }
    }

    /// Returns the backends of the same node under another configuration.
    #[must_use]
    pub fn configured(&self, config: &Config, helper: &Arc<Helper>) -> Self {
        let mut findings = self.findings.clone();
        if config.agent.mount_program != self.mount_program {
            let reason = "agent.mount_program changed; the new program is tried when a step needs it";
            findings.mark_undecided(&[Ability::Fuse, Ability::FuseIdMaps], reason);
        }
        Self { lazy: config.lazy.enabled, ..Self::new(&config.agent, findings, by_name(helper)) }
    }

    /// Returns the backends with later findings.
    pub(super) fn updated(&self, later: Findings) -> Self {
        let mut findings = self.findings.clone();
        findings.update(later);
        let (native, fuse) = (findings.native(), findings.fuse());
        let (trusted, mount_program) = (Arc::clone(&self.trusted), self.mount_program.clone());
        Self { mounts: self.mounts, trusted, mount_program, lazy: self.lazy, findings, native, fuse }
    }

    /// Returns the backends with the findings of others, unless those are of another mount program.
    #[must_use]
    pub fn with_findings_of(&self, other: &Self) -> Self {
        if self.mount_program == other.mount_program { self.updated(other.findings.clone()) } else { self.clone() }
    }

    /// Returns `true` if another trial may give a backend to a store that has none.
    pub(super) fn could_change(&self, store: &TrustedStore) -> bool {
        self.mounts != Mounts::Native || self.trusts(store)
    }

    /// Returns `true` if layers are to be mounted from their chunks and that was not tried.
    pub(super) fn lacks_lazy_trial(&self) -> bool {
        self.lazy && matches!(self.findings.can(Ability::LazyLayers), Err(Obstacle::Undecided(..)))
    }

    /// Returns `true` if a store's images use a fallback that another trial may make unnecessary: the first backend is undecided, or layers
    /// cannot be mounted from their chunks.
    pub(super) fn is_in_doubt(&self, store: &TrustedStore) -> bool {
        let undecided = self.mounts == Mounts::Auto && matches!(self.native, Err(Obstacle::Undecided(..)));
        let no_chunks = self.lazy && self.native.is_ok() && self.findings.can(Ability::LazyLayers).is_err();
        (undecided || no_chunks) && self.mounts != Mounts::Fuse && self.trusts(store)
    }

    /// Returns the backend for an image of a store; `needs` is the ability that the format of its layers needs besides the usual ones.
    ///
    /// # Errors
    /// The reason, a part of a sentence.
    pub fn backend(&self, store: &TrustedStore, needs: Option<Ability>) -> Result<Chosen, String> {
        self.choose(store.path(), store.owner(), needs)
    }

    /// Checks whether the images of a store that lie in directories get their metadata images.
    ///
    /// # Errors
    /// The reason, a part of a sentence.
    pub fn metadata_images(&self, store: &TrustedStore) -> Result<(), String> {
        let Chosen { backend, reason, .. } = self.backend(store, None)?;
        if backend != Backend::Native {
            return Err(reason);
        }
        self.findings.can(Ability::MetadataImages).map_err(|obstacle| on_this_node(&obstacle))
    }

    /// Returns the backend for a directory that a user names: an overlay over it, which the kernel makes in the user's namespace. No
    /// driver of the kernel reads a file of the user's for that, so `mounts` does not matter.
    ///
    /// # Errors
    /// The reason, a part of a sentence.
    pub fn directory(&self, path: &Path) -> Result<Chosen, String> {
        let reason = || format!("the user opens {} with their own rights", path.display());
        let chosen = |()| Chosen { backend: Backend::Native, reason: reason(), erofs: false, chunks: Ok(()) };
        self.findings.directories().map(chosen).map_err(|obstacle| on_this_node(&obstacle))
    }

    /// Returns `true` if the kernel may read a store's files.
    #[must_use]
    pub fn trusts(&self, store: &TrustedStore) -> bool {
        self.trusted.trust(store.owner()) == Trust::Yes
    }

    fn choose(&self, store: &Path, owner: u32, needs: Option<Ability>) -> Result<Chosen, String> {
        let erofs = self.findings.can(Ability::Erofs).is_ok();
        let able = || self.native.clone().and_then(|()| needs.map_or(Ok(()), |ability| self.findings.can(ability)));
        let native_ability = able();
        let (obstacle, native) = if self.mounts == Mounts::Fuse {
            ("the configuration has mounts = \"fuse\"".to_owned(), None)
        } else {
            match (self.trusted.trust(owner), &native_ability) {
                (Trust::Yes, Ok(())) => {
                    let reason = format!("the node can, and the owner of the store {} is trusted", store.display());
                    let chunks = self.findings.can(Ability::LazyLayers).map_err(|obstacle| on_this_node(&obstacle));
                    return Ok(Chosen { backend: Backend::Native, reason, erofs, chunks });
                }
                (Trust::Yes, Err(obstacle)) => (on_this_node(obstacle), Some(obstacle)),
                (Trust::No, _) => {
                    let store = store.display();
                    let text = format!(
                        "the store {store} belongs to the user {owner}, who is not one of the configuration's trusted_owners"
                    );
                    (text, None)
                }
                (Trust::Unknown(reason), _) => {
                    tracing::warn!(store = %store.display(), owner, "{reason}; the kernel does not read the store meanwhile");
                    (format!("the store {} belongs to the user {owner}, and {reason}", store.display()), None)
                }
            }
        };
        if self.mounts == Mounts::Native {
            return Err(format!("{obstacle}, and the configuration has mounts = \"native\""));
        }
        match &self.fuse {
            Ok(()) => Ok(Chosen { backend: Backend::Fuse, reason: obstacle, erofs: false, chunks: Ok(()) }),
            // An obstacle of both backends is reported once.
            Err(both) if native == Some(both) => Err(obstacle),
            Err(other) => Err(format!("{obstacle}, and {}", on_this_node(other))),
        }
    }

    /// Returns the node's abilities, for `parallax status`.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let ability = |trial: &parallax_probe::Trial| AbilityStatus {
            name: trial.ability.name(),
            failure: trial.failure.clone(),
        };
        NodeStatus {
            native: self.native.as_ref().err().map(ToString::to_string),
            fuse: self.fuse.as_ref().err().map(ToString::to_string),
            undecided: self.findings.cut_short.clone(),
            abilities: self.findings.trials.iter().map(ability).collect(),
        }
    }
}

/// Describes an obstacle: a part of a sentence.
fn on_this_node(obstacle: &Obstacle) -> String {
    match obstacle {
        Obstacle::Missing(..) => format!("this node has {obstacle}"),
        Obstacle::Undecided(ability, reason) => {
            format!("it is undecided whether this node has {}: {reason}", ability.words())
        }
    }
}

/// Looks users up by the helper.
fn by_name(helper: &Arc<Helper>) -> Lookup {
    let helper = Arc::clone(helper);
    Arc::new(move |name| match helper.user_named(name) {
        Ok(user) => Ok(user.map(|user| user.uid)),
        Err(error) => Err(std::io::Error::other(error)),
    })
}

#[cfg(test)]
mod tests {
    use parallax_config::Owner;
    use parallax_probe::Trial;

    use super::*;

    const NATIVE: [Ability; 5] =
        [Ability::UserNamespaces, Ability::Squashfs, Ability::IdMaps, Ability::TmpfsAttributes, Ability::Overlay];
    const FUSE: [Ability; 3] = [Ability::UserNamespaces, Ability::Fuse, Ability::FuseIdMaps];

    fn backends(mounts: Mounts, abilities: &[Ability]) -> Backends {
        let trials = abilities.iter().map(|&ability| Trial { ability, failure: None }).collect();
        let config = Agent { mounts, trusted_owners: vec![Owner::Id(0), Owner::Id(77)], ..Agent::default() };
        Backends::new(&config, Findings { trials, cut_short: None }, Arc::new(|_| Ok(None)))
    }

    fn both() -> Vec<Ability> {
        NATIVE.into_iter().chain(FUSE).collect()
    }

    #[test]
    fn the_kernel_mounts_what_it_may_and_can() {
        let choose = |backends: &Backends, owner| {
            backends.choose(Path::new("/s"), owner, None).map(|chosen| (chosen.backend, chosen.reason))
        };
        let auto = backends(Mounts::Auto, &both());
        let fuse_only = backends(Mounts::Auto, &FUSE);
        for (backends, owner, backend, why) in [
            (&auto, 0, Backend::Native, "the owner of the store /s is trusted"),
            (&auto, 77, Backend::Native, "the owner of the store /s is trusted"),
            (&auto, 1001, Backend::Fuse, "belongs to the user 1001"),
            (&fuse_only, 0, Backend::Fuse, "kernel SquashFS"),
            (&backends(Mounts::Fuse, &both()), 0, Backend::Fuse, "mounts = \"fuse\""),
            (&backends(Mounts::Native, &both()), 0, Backend::Native, "the node can"),
        ] {
            let (chosen, reason) = choose(backends, owner).unwrap();
            assert!(chosen == backend && reason.contains(why), "{chosen:?}: {reason}");
        }
    }

    #[test]
    fn an_image_in_erofs_alone_needs_a_kernel_with_erofs() {
        let choose = |abilities: &[Ability], needs| backends(Mounts::Auto, abilities).choose(Path::new("/s"), 0, needs);
        let chosen = choose(&both(), None).unwrap();
        assert!(chosen.backend == Backend::Native && !chosen.erofs);
        let chosen = choose(&both(), Some(Ability::Erofs)).unwrap();
        assert!(chosen.backend == Backend::Fuse && chosen.reason.contains("kernel EROFS"), "{chosen:?}");
        let with_erofs: Vec<Ability> = both().into_iter().chain([Ability::Erofs]).collect();
        let chosen = choose(&with_erofs, Some(Ability::Erofs)).unwrap();
        assert!(chosen.backend == Backend::Native && chosen.erofs);
    }

    #[test]
    fn the_reason_why_chunks_are_not_used_is_named() {
        let chosen = |trial| {
            let trials = both().into_iter().map(|ability| Trial { ability, failure: None }).chain(trial).collect();
            let later = Findings { trials, cut_short: Some("it hung".to_owned()) };
            backends(Mounts::Auto, &[]).updated(later).choose(Path::new("/s"), 0, None).unwrap()
        };
        let trial =
            |failure: Option<&str>| Trial { ability: Ability::LazyLayers, failure: failure.map(ToOwned::to_owned) };
        assert_eq!(chosen(Some(trial(None))).chunks, Ok(()));
        let reason = chosen(Some(trial(Some("no loop device")))).chunks.unwrap_err();
        assert_eq!(reason, "this node has no kernel SquashFS over files by FUSE: no loop device");
        let reason = chosen(None).chunks.unwrap_err();
        assert_eq!(reason, "it is undecided whether this node has kernel SquashFS over files by FUSE: it hung");
    }

    #[test]
    fn a_directory_needs_no_squashfs_and_no_trust() {
        let overlay = [Ability::UserNamespaces, Ability::TmpfsAttributes, Ability::Overlay];
        let path = Path::new("/tree");
        assert_eq!(backends(Mounts::Fuse, &overlay).directory(path).map(|chosen| chosen.backend), Ok(Backend::Native));
        let reason = backends(Mounts::Auto, &FUSE).directory(path).unwrap_err();
        assert!(reason.contains("undecided"), "{reason}");
    }

    #[test]
    fn a_users_store_never_reaches_the_kernel() {
        for mounts in [Mounts::Auto, Mounts::Native, Mounts::Fuse] {
            for abilities in [NATIVE.to_vec(), both(), Vec::new()] {
                let chosen = backends(mounts, &abilities).choose(Path::new("/s"), 1001, None);
                assert!(chosen.is_err() || chosen.is_ok_and(|chosen| chosen.backend == Backend::Fuse));
            }
        }
    }

    #[test]
    fn without_a_way_both_reasons_are_given() {
        let reason = |mounts, abilities: &[Ability], owner| {
            backends(mounts, abilities).choose(Path::new("/s"), owner, None).unwrap_err()
        };
        let text = reason(Mounts::Auto, &[Ability::UserNamespaces], 0);
        assert!(text.contains("kernel SquashFS: ") && text.contains("SquashFS by FUSE: "), "{text}");
        // But one that is the same only once.
        let text = reason(Mounts::Auto, &[], 0);
        assert_eq!(text, "it is undecided whether this node has user namespaces for users: it was not tried");
        let text = reason(Mounts::Native, &both(), 1001);
        assert!(text.contains("/s belongs to the user 1001") && text.contains("mounts = \"native\""), "{text}");
        let text = reason(Mounts::Fuse, &NATIVE, 0);
        assert!(text.contains("mounts = \"fuse\"") && text.contains("by FUSE"), "{text}");
        let missing = |ability, reason: &str| Trial { ability, failure: Some(reason.to_owned()) };
        let trials = vec![missing(Ability::UserNamespaces, "forbidden")];
        let text =
            backends(Mounts::Auto, &[]).updated(Findings { trials, cut_short: None }).choose(Path::new("/s"), 0, None);
        assert_eq!(text.unwrap_err(), "this node has no user namespaces for users: forbidden");
    }
}
