//! What a step may ask of a container that an earlier step made (pure).
//!
//! A container's mounts and its root directory are made with it. A step that asks for what the container does not have must not run
//! without that; what is decided in each task (variables, the working directory, the entry point) may differ from step to step.

use parallax_request::{Mount, MountSource, Request};

/// Compares the request by which a container was made with that of a later step, and returns the mounts that the step needs in addition.
/// `shows_home` says whether containers show the home of users who ask for nothing.
///
/// # Errors
/// A message for the user: what the container `name` does not have.
pub(crate) fn check(name: &str, made_with: &Request, asked: &Request, shows_home: bool) -> Result<Vec<Mount>, String> {
    let refuse = |what: &str| {
        Err(format!(
            "the container \"{name}\" of this job was made {what}; give the option to the step that makes it, or give another \
             --parallax-name"
        ))
    };
    let lacking: Vec<Mount> = asked.mounts.iter().filter(|mount| !made_with.mounts.contains(mount)).cloned().collect();
    if let Some(mount) = lacking.iter().find(|mount| matches!(mount.source, MountSource::Squashfs(_))) {
        return refuse(&format!("without this --parallax-mount of a SquashFS file at {}", mount.target.display()));
    }
    if asked.unmounts.iter().any(|path| !made_with.unmounts.contains(path)) {
        return refuse("with paths that this step leaves out");
    }
    if asked.devices.iter().any(|device| !made_with.devices.contains(device)) {
        return refuse("without this --parallax-device");
    }
    if asked.annotations.iter().any(|annotation| !made_with.annotations.contains(annotation)) {
        return refuse("without this --parallax-annotation");
    }
    let differs = |asked: Option<bool>, made: bool| asked.is_some_and(|asked| asked != made);
    if differs(asked.writable, made_with.writable.unwrap_or(true)) {
        return refuse(if asked.writable == Some(true) {
            "with --parallax-readonly"
        } else {
            "without --parallax-readonly"
        });
    }
    if differs(asked.home, made_with.home.unwrap_or(shows_home)) {
        return refuse(if asked.home == Some(true) {
            "without --parallax-mount-home"
        } else {
            "without --parallax-no-mount-home"
        });
    }
    Ok(lacking)
}

#[cfg(test)]
mod tests {
    use parallax_request::Variable;

    use super::*;

    fn mount(target: &str) -> Mount {
        let source = MountSource::Path(target.into());
        Mount { source, target: target.into(), read_only: false, private: false, optional: false }
    }

    #[test]
    fn a_step_may_ask_for_what_is_there() {
        let made = Request { mounts: vec![mount("/a"), mount("/b")], home: Some(true), ..Request::default() };
        let variables = vec![Variable::Unset("A".into())];
        let asked = Request {
            mounts: vec![mount("/b")],
            writable: Some(true),
            working_directory: Some("/a".into()),
            variables,
            ..Request::default()
        };
        for asked in [asked, made.clone(), Request::default()] {
            assert_eq!(check("x", &made, &asked, false), Ok(Vec::new()));
        }
    }

    #[test]
    fn a_step_may_mount_more_for_itself() {
        let made = Request { mounts: vec![mount("/a")], ..Request::default() };
        let read_only = Mount { read_only: true, ..mount("/a") };
        let asked = Request { mounts: vec![mount("/a"), mount("/b"), read_only.clone()], ..Request::default() };
        assert_eq!(check("x", &made, &asked, true), Ok(vec![mount("/b"), read_only]));
    }

    #[test]
    fn what_the_site_shows_counts_as_asked_for() {
        let with = |home| Request { home, ..Request::default() };
        for (made, shows_home, has_home) in [(None, true, true), (None, false, false), (Some(true), false, true)] {
            assert_eq!(check("x", &with(made), &with(Some(has_home)), shows_home), Ok(Vec::new()));
            assert!(check("x", &with(made), &with(Some(!has_home)), shows_home).is_err());
        }
    }

    #[test]
    fn a_step_that_asks_for_more_is_refused() {
        let made = Request { mounts: vec![mount("/a")], ..Request::default() };
        let file = Mount { source: MountSource::Squashfs("/f".into()), ..mount("/b") };
        for (asked, said) in [
            (Request { mounts: vec![file], ..Request::default() }, "--parallax-mount of a SquashFS file at /b"),
            (
                Request { annotations: vec![("a".into(), "b".into())], ..Request::default() },
                "without this --parallax-annotation",
            ),
            (Request { writable: Some(false), ..Request::default() }, "without --parallax-readonly"),
            (Request { home: Some(false), ..Request::default() }, "without --parallax-no-mount-home"),
        ] {
            let message = check("x", &made, &asked, true).unwrap_err();
            assert!(message.contains(said) && message.contains("\"x\""), "{message}");
        }
    }
}
