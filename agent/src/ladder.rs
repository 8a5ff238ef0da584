//! Which way the layers of an image come to a step: mounted by the kernel, or by FUSE.
//!
//! What the node can do is tried once, when the agent starts. Whether the kernel may read a store is a matter of its owner: who can
//! write a file system image can attack the kernel that mounts it, so only those whom the configuration names are trusted so far.
//! Images of anybody else's are read by FUSE, by a process of the step's user and with their rights.

use std::path::Path;

use parallax_config::{Agent, Mounts};
use parallax_probe::{Ability, Findings, probe};
use parallax_protocol::node::{AbilityStatus, NodeStatus};
use parallax_store::open::TrustedStore;

use crate::owners::{Trust, TrustedOwners};

/// A way in which layers are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the kernel, with id maps.
    Native,
    /// By the mount program, in the user's own processes.
    Fuse,
}

/// What decides the way.
#[derive(Debug)]
pub struct Ladder {
    mounts: Mounts,
    /// The users whose stores the kernel may read.
    trusted: TrustedOwners,
    findings: Findings,
    native: Result<(), String>,
    fuse: Result<(), String>,
}

impl Ladder {
    /// Tries what the node can do and logs it.
    #[must_use]
    pub fn of_this_node(config: &Agent) -> Self {
        let ladder = Self::new(config, probe(&config.mount_program));
        for trial in &ladder.findings.trials {
            match (&trial.failure, trial.ability) {
                (None, ability) => tracing::debug!(ability = ability.name(), "this node can"),
                // The kernel need not know every compressor there is.
                (Some(reason), Ability::Compressor(_)) => tracing::debug!(ability = trial.ability.name(), reason, "no"),
                (Some(reason), _) => tracing::warn!(ability = trial.ability.name(), reason, "this node can't"),
            }
        }
        if let Some(reason) = &ladder.findings.cut_short {
            tracing::warn!(reason, "not all was tried that this node may be able to do");
        }
        let say = |way: &Result<(), String>| way.as_ref().err().cloned().unwrap_or_else(|| "yes".to_owned());
        let (native, fuse) = (say(&ladder.native), say(&ladder.fuse));
        tracing::info!(native, fuse, configured = ?ladder.mounts, "how this node can mount layers");
        ladder
    }

    /// A ladder from what was found.
    #[must_use]
    pub fn new(config: &Agent, findings: Findings) -> Self {
        let trusted = TrustedOwners::new(&config.trusted_owners);
        let (native, fuse) = (findings.native(), findings.fuse());
        Self { mounts: config.mounts, trusted, findings, native, fuse }
    }

    /// The same node under another configuration.
    #[must_use]
    pub fn configured(&self, config: &Agent) -> Self {
        Self::new(config, self.findings.clone())
    }

    /// The way for images of a store.
    ///
    /// # Errors
    /// Why there is none: a part of a sentence.
    pub fn way(&self, store: &TrustedStore) -> Result<Way, String> {
        self.choose(store.path(), store.owner())
    }

    /// Whether the kernel may read what is in a store.
    #[must_use]
    pub fn trusts(&self, store: &TrustedStore) -> bool {
        self.trusted.trust(store.owner()) == Trust::Yes
    }

    fn choose(&self, store: &Path, owner: u32) -> Result<Way, String> {
        let obstacle = if self.mounts == Mounts::Fuse {
            "the configuration has mounts = \"fuse\"".to_owned()
        } else {
            match (self.trusted.trust(owner), &self.native) {
                (Trust::Yes, Ok(())) => return Ok(Way::Native),
                (Trust::Yes, Err(reason)) => format!("this node has {reason}"),
                (Trust::No, _) => {
                    let store = store.display();
                    format!(
                        "the store {store} belongs to the user {owner}, who is none of the configuration's trusted_owners"
                    )
                }
                (Trust::Unknown(reason), _) => {
                    tracing::warn!(store = %store.display(), owner, "{reason}; the kernel does not read the store meanwhile");
                    format!("the store {} belongs to the user {owner}, and {reason}", store.display())
                }
            }
        };
        if self.mounts == Mounts::Native {
            return Err(format!("{obstacle}, and the configuration has mounts = \"native\""));
        }
        match &self.fuse {
            Ok(()) => {
                tracing::debug!(store = %store.display(), "by FUSE: {obstacle}");
                Ok(Way::Fuse)
            }
            Err(reason) => Err(format!("{obstacle}, and this node has {reason}")),
        }
    }

    /// What the node can do, for `parallax status`.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let ability = |trial: &parallax_probe::Trial| AbilityStatus {
            name: trial.ability.name(),
            failure: trial.failure.clone(),
        };
        NodeStatus {
            native: self.native.clone().err(),
            fuse: self.fuse.clone().err(),
            abilities: self.findings.trials.iter().map(ability).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use parallax_config::Owner;
    use parallax_probe::Trial;

    use super::*;

    const NATIVE: [Ability; 5] =
        [Ability::UserNamespaces, Ability::Squashfs, Ability::IdMaps, Ability::TmpfsAttributes, Ability::Overlay];
    const FUSE: [Ability; 3] = [Ability::UserNamespaces, Ability::Fuse, Ability::FuseIdMaps];

    fn ladder(mounts: Mounts, abilities: &[Ability]) -> Ladder {
        let trials = abilities.iter().map(|&ability| Trial { ability, failure: None }).collect();
        let config = Agent { mounts, trusted_owners: vec![Owner::Id(0), Owner::Id(77)], ..Agent::default() };
        Ladder::new(&config, Findings { trials, cut_short: None })
    }

    fn both() -> Vec<Ability> {
        NATIVE.into_iter().chain(FUSE).collect()
    }

    #[test]
    fn the_kernel_mounts_what_it_may_and_can() {
        let choose = |ladder: &Ladder, owner| ladder.choose(Path::new("/s"), owner);
        let auto = ladder(Mounts::Auto, &both());
        assert_eq!(
            (choose(&auto, 0), choose(&auto, 77), choose(&auto, 1001)),
            (Ok(Way::Native), Ok(Way::Native), Ok(Way::Fuse))
        );
        assert_eq!(choose(&ladder(Mounts::Auto, &FUSE), 0), Ok(Way::Fuse));
        assert_eq!(choose(&ladder(Mounts::Fuse, &both()), 0), Ok(Way::Fuse));
        assert_eq!(choose(&ladder(Mounts::Native, &both()), 0), Ok(Way::Native));
    }

    #[test]
    fn a_users_store_never_reaches_the_kernel() {
        for mounts in [Mounts::Auto, Mounts::Native, Mounts::Fuse] {
            for abilities in [NATIVE.to_vec(), both(), Vec::new()] {
                assert_ne!(ladder(mounts, &abilities).choose(Path::new("/s"), 1001), Ok(Way::Native));
            }
        }
    }

    #[test]
    fn without_a_way_both_reasons_are_given() {
        let reason = |mounts, abilities: &[Ability], owner| {
            ladder(mounts, abilities).choose(Path::new("/s"), owner).unwrap_err()
        };
        let text = reason(Mounts::Auto, &[], 0);
        assert!(text.contains("no user namespaces") && text.matches("this node has no").count() == 2, "{text}");
        let text = reason(Mounts::Native, &both(), 1001);
        assert!(text.contains("/s belongs to the user 1001") && text.contains("mounts = \"native\""), "{text}");
        let text = reason(Mounts::Fuse, &NATIVE, 0);
        assert!(text.contains("mounts = \"fuse\"") && text.contains("by FUSE"), "{text}");
    }
}
