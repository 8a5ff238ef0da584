//! Capabilities of the kernel and FUSE, found by probes.

use std::collections::BTreeSet;

use parallax_config::Mounts;
use parallax_probe::{Ability, COMPRESSORS, Findings, Obstacle};

use super::check::{Check, State};

const TOPIC: &str = "kernel";

/// What the stores and the configuration need.
#[derive(Debug, Clone, Default)]
pub(super) struct Needs {
    /// The compressors of the stores' layers.
    pub(super) compressors: BTreeSet<u16>,
    /// Whether there are layers in EROFS alone.
    pub(super) erofs: bool,
    /// Whether layers are mounted from their chunks.
    pub(super) lazy: bool,
}

/// Evaluates the findings.
pub(super) fn check(findings: &Findings, mounts: Mounts, needs: &Needs, is_root: bool) -> Vec<Check> {
    let (native, fuse) = (findings.native().is_ok(), findings.fuse().is_ok());
    // What is missing for one way matters only if the other is not there, or is not wanted.
    let (no_native, no_fuse) = match mounts {
        _ if !is_root => (State::Warning, State::Warning),
        Mounts::Native => (State::Problem, State::Warning),
        Mounts::Fuse => (State::Warning, State::Problem),
        Mounts::Auto => {
            (if fuse { State::Warning } else { State::Problem }, if native { State::Warning } else { State::Problem })
        }
    };
    let mut checks = Vec::new();
    for trial in &findings.trials {
        let (ability, failure) = (trial.ability, trial.failure.as_deref());
        let severity = match ability {
            Ability::Fuse | Ability::FuseIdMaps => no_fuse,
            Ability::UserNamespaces => State::Problem,
            // Nobody needs all of them.
            Ability::Compressor(number) if !needs.compressors.contains(&number) => continue,
            // Layers in SquashFS serve as well.
            Ability::Erofs if failure.is_some() && !needs.erofs => continue,
            Ability::LazyLayers | Ability::LazySwap if failure.is_some() && !needs.lazy => continue,
            // Whole files serve as well.
            Ability::LazyLayers | Ability::LazySwap => State::Warning,
            _ => no_native,
        };
        checks.push(one(ability, failure, severity));
    }
    if let Some(reason) = &findings.cut_short {
        let finding = format!("not everything could be tried: {reason}");
        checks.push(Check::warning(TOPIC, finding, "see what the kernel logs, and try again"));
    }
    if is_root {
        checks.push(summary(findings, mounts));
    } else {
        let finding = "only root can try kernel SquashFS and id-mapped mounts";
        checks.push(Check::warning(TOPIC, finding, "run parallax doctor as root on a compute node"));
    }
    checks
}

fn one(ability: Ability, failure: Option<&str>, severity: State) -> Check {
    match failure {
        None => Check::ok(TOPIC, ability.words()),
        Some(reason) => {
            let finding = format!("no {}: {reason}", ability.words());
            Check { topic: TOPIC, state: severity, finding, remedy: Some(remedy(ability)) }
        }
    }
}

fn summary(findings: &Findings, mounts: Mounts) -> Check {
    let way = match (mounts, findings.native(), findings.fuse()) {
        (Mounts::Auto | Mounts::Native, Ok(()), _) => "by the kernel",
        (Mounts::Auto | Mounts::Fuse, _, Ok(())) => "by FUSE",
        (_, native, fuse) => {
            let finding = format!("layers cannot be mounted: {}", sentence(native.err(), fuse.err()));
            return Check::problem(TOPIC, finding, "do what is said above, or change agent.mounts");
        }
    };
    Check::ok(TOPIC, format!("layers are mounted {way}"))
}

/// Returns why neither backend works; a reason of both is given once.
fn sentence(native: Option<Obstacle>, fuse: Option<Obstacle>) -> String {
    let mut obstacles: Vec<Obstacle> = native.into_iter().chain(fuse).collect();
    obstacles.dedup();
    obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn remedy(ability: Ability) -> String {
    match ability {
        Ability::UserNamespaces => {
            "allow them: user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns (sysctl)"
        }
        Ability::TmpfsAttributes => "use Linux 6.6 or newer, with CONFIG_TMPFS_XATTR",
        Ability::Squashfs => "load the kernel modules loop and squashfs, and let root use /dev/loop-control",
        Ability::Compressor(number) => {
            let name = COMPRESSORS.iter().find(|(known, _)| *known == number).map_or("", |(_, name)| name);
            return format!(
                "use a kernel with CONFIG_SQUASHFS_{}, mounts = \"fuse\", or migrate with another --compression",
                name.to_uppercase()
            );
        }
        Ability::IdMaps => "use Linux 6.2 or newer",
        Ability::MetadataImages => "use Linux 6.5 or newer; images of directories run without their metadata images",
        Ability::Erofs => {
            "load the kernel module erofs (Linux 5.19 or newer), or migrate the images with --format squashfs too"
        }
        Ability::LazyLayers => {
            "load the kernel modules fuse and loop, and let root use /dev/fuse; layers are mounted from their whole files meanwhile"
        }
        Ability::LazySwap => "layers in chunks stay on FUSE when they are complete, and are read more slowly",
        Ability::Overlay => "use Linux 5.11 or newer, and load the kernel module overlay",
        Ability::Fuse => {
            "load the kernel module fuse, open /dev/fuse to users (mode 0666), and install squashfuse and parallax-mount-program"
        }
        Ability::FuseIdMaps => "install fuse-overlayfs",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use parallax_probe::Trial;

    use super::*;

    const ZSTD: u16 = 6;

    fn findings(missing: &[Ability]) -> Findings {
        use Ability::{
            Compressor, Fuse, FuseIdMaps, IdMaps, LazyLayers, LazySwap, MetadataImages, Overlay, Squashfs,
            TmpfsAttributes, UserNamespaces,
        };
        let all = [
            UserNamespaces,
            TmpfsAttributes,
            Squashfs,
            Compressor(ZSTD),
            IdMaps,
            MetadataImages,
            LazyLayers,
            LazySwap,
            Overlay,
            Fuse,
            FuseIdMaps,
        ];
        let trial =
            |ability| Trial { ability, failure: missing.contains(&ability).then(|| "no such thing".to_owned()) };
        Findings { trials: all.into_iter().map(trial).collect(), cut_short: None }
    }

    fn states(missing: &[Ability], mounts: Mounts, is_root: bool) -> (usize, usize) {
        let needs = Needs { compressors: BTreeSet::from([ZSTD]), erofs: true, lazy: true };
        let checks = check(&findings(missing), mounts, &needs, is_root);
        let count = |state| checks.iter().filter(|check| check.state == state).count();
        assert!(checks.iter().all(|check| check.remedy.is_some() == (check.state != State::Ok)));
        (count(State::Warning), count(State::Problem))
    }

    #[test]
    fn what_is_missing_matters_as_far_as_it_is_needed() {
        assert_eq!(states(&[], Mounts::Auto, true), (0, 0));
        assert_eq!(states(&[Ability::IdMaps], Mounts::Auto, true), (1, 0));
        assert_eq!(states(&[Ability::IdMaps], Mounts::Native, true), (0, 2));
        assert_eq!(states(&[Ability::IdMaps], Mounts::Fuse, true), (1, 0));
        assert_eq!(states(&[Ability::Fuse], Mounts::Auto, true), (1, 0));
        assert_eq!(states(&[Ability::Fuse], Mounts::Fuse, true), (0, 2));
        assert_eq!(states(&[Ability::Fuse, Ability::IdMaps], Mounts::Auto, true), (0, 3));
        // A user cannot tell what root can do.
        assert_eq!(states(&[Ability::Fuse], Mounts::Auto, false), (2, 0));
    }

    #[test]
    fn what_layers_in_chunks_need_is_missed_only_if_they_are_used() {
        let warnings = |lazy| {
            let needs = Needs { lazy, ..Needs::default() };
            let checks = check(&findings(&[Ability::LazyLayers, Ability::LazySwap]), Mounts::Native, &needs, true);
            assert!(checks.iter().all(|check| check.state != State::Problem));
            checks.iter().filter(|check| check.state == State::Warning).count()
        };
        assert_eq!((warnings(true), warnings(false)), (2, 0));
    }

    #[test]
    fn a_compressor_is_missed_only_if_a_store_needs_it() {
        let judge = |needed: &[u16]| {
            let needs = Needs { compressors: needed.iter().copied().collect(), ..Needs::default() };
            check(&findings(&[Ability::Compressor(ZSTD)]), Mounts::Native, &needs, true)
        };
        assert!(judge(&[]).iter().all(|check| check.state == State::Ok));
        let checks = judge(&[ZSTD]);
        let missed = checks.iter().find(|check| check.state == State::Problem).unwrap();
        assert!(missed.remedy.as_ref().unwrap().contains("CONFIG_SQUASHFS_ZSTD"), "{missed:?}");
    }
}
