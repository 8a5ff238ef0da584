//! The credentials with which a step's image is looked up, and the texts for a user who has no access.

use std::path::PathBuf;

use parallax_protocol::message::LeaseRequest;
use parallax_store::read::OpenError;
use parallax_sys::credentials::Credentials;

use super::reach::Failure;
use super::refusal::{Refusal, refused};
use crate::helper::HelperError;
use crate::identity::Identity;

/// The credentials of a step's tasks: the groups that Slurm gives them, or else those of the user database (`groups_of`).
pub(super) fn credentials(
    request: &LeaseRequest,
    identity: &Identity,
    groups_of: impl Fn(&str, u32) -> Result<Vec<u32>, HelperError>,
) -> Result<Credentials, Refusal> {
    let groups = match &request.groups {
        Some(groups) => groups.clone(),
        None => groups_of(&identity.name, request.gid)
            .map_err(|error| refused(&format!("cannot look up the groups of the user {}: {error}", identity.name)))?,
    };
    Ok(Credentials { uid: request.uid, gid: request.gid, groups })
}

/// The errors that kept stores from being searched for an image.
#[derive(Debug, Default)]
pub(super) struct Obstacles {
    /// The stores that the user may not read.
    denied: Vec<PathBuf>,
    /// The first error of another kind.
    problem: Option<OpenError>,
}

impl Obstacles {
    pub(super) fn add(&mut self, error: OpenError) {
        match error.denied() {
            Some(store) => self.denied.push(store.to_owned()),
            None => self.problem = self.problem.take().or(Some(error)),
        }
    }

    /// The failure to find an image that was found in no other store, if there is an obstacle. A store that the user may not read is
    /// one, too: the image may be in there, and another one of this name must not take its place.
    pub(super) fn failure(&self, image: &str, near: impl FnOnce() -> Vec<String>) -> Option<Failure> {
        match &self.problem {
            Some(problem @ OpenError::Store { .. }) => return Some(Failure::Unreachable(problem.to_string())),
            Some(problem) => {
                return Some(Failure::Refused(refused(&format!("cannot look up the image \"{image}\": {problem}"))));
            }
            None => {}
        }
        (!self.denied.is_empty()).then(|| {
            let denied: Vec<String> = self.denied.iter().map(|path| path.display().to_string()).collect();
            let near: Vec<String> = near().iter().map(|name| format!("\"{name}\"")).collect();
            let near = if near.is_empty() { String::new() } else { format!("did you mean {}? Else ", near.join(" or ")) };
            Failure::Refused(Refusal::user(format!(
                "cannot look up the image \"{image}\": permission denied on the store {}, and no other store has it; {near}{}",
                denied.join(", "),
                ASK
            )))
        })
    }
}

/// The next step for a user who may not read a store.
const ASK: &str = "ask the store's owner or the administrator for access";

/// The refusal for an error in using a store that was found.
pub(super) fn unusable(image: &str, error: &OpenError) -> Refusal {
    match error.denied() {
        Some(store) => Refusal::user(format!(
            "cannot use the image \"{image}\": permission denied on the store {} ({error}); {ASK}",
            store.display()
        )),
        None => refused(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn failure(store: &str, kind: io::ErrorKind) -> OpenError {
        OpenError::Read { store: store.into(), path: "parallax/names/a".into(), cause: kind.into() }
    }

    fn refused_with(failure: Option<Failure>) -> String {
        match failure {
            Some(Failure::Refused(refusal)) => refusal.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_closed_store_is_named_and_a_damaged_one_comes_first() {
        let mut obstacles = Obstacles::default();
        assert!(obstacles.failure("a", Vec::new).is_none());
        obstacles.add(failure("/closed", io::ErrorKind::PermissionDenied));
        let text = refused_with(obstacles.failure("a", || vec!["b".to_owned()]));
        assert!(
            text.contains("permission denied on the store /closed") && text.contains("did you mean \"b\"?"),
            "{text}"
        );
        assert!(text.ends_with(ASK) && !text.contains("names/a"), "{text}");
        obstacles.add(failure("/damaged", io::ErrorKind::InvalidData));
        obstacles.add(failure("/later", io::ErrorKind::InvalidData));
        let text = refused_with(obstacles.failure("a", Vec::new));
        assert!(
            text.contains("/damaged") && !text.contains("/later") && text.ends_with("tell the administrator"),
            "{text}"
        );
        let mut missing = Obstacles::default();
        missing.add(OpenError::Store { path: "/missing".into(), cause: io::ErrorKind::NotFound.into() });
        let failure = missing.failure("a", Vec::new);
        assert!(matches!(&failure, Some(Failure::Unreachable(reason)) if reason.contains("/missing")), "{failure:?}");
    }

    #[test]
    fn the_groups_of_slurm_are_taken_and_else_those_of_the_database() {
        let identity = Identity::of_ids(0, 0);
        let database = |_: &str, group| Ok(vec![group, 9]);
        let mut request: LeaseRequest = serde_json::from_str(
            r#"{"step": {"job": 1, "step": 0, "restart": 0}, "uid": 0, "gid": 0, "image": "a", "image_id": null,
                "mode": "run", "groups": [7, 8]}"#,
        )
        .unwrap();
        assert_eq!(
            credentials(&request, &identity, database).unwrap(),
            Credentials { uid: 0, gid: 0, groups: vec![7, 8] }
        );
        request.groups = None;
        assert_eq!(credentials(&request, &identity, database).unwrap().groups, [0, 9]);
    }
}
