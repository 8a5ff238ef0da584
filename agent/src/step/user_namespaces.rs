//! The user namespaces of each user who has a step: for the id maps of mounts, and for Podman to run in.
//!
//! All steps of a user have the same maps and share the namespaces: each costs a process to make. They belong to the user, and
//! cannot be changed once their maps are written. They are released with the user's last step.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use parallax_sys::user_namespace::{MountNamespace, UserNamespace};

use crate::identity::{Identity, NamespaceKind};

/// A user's namespaces, one of each kind.
#[derive(Debug)]
pub struct Namespaces {
    plain: UserNamespace,
    keep_id: UserNamespace,
}

impl Namespaces {
    fn new(identity: &Identity) -> io::Result<Self> {
        let make = |kind| {
            let (users, groups) = (&identity.users, &identity.groups);
            UserNamespace::new(users.own, groups.own, &users.map(kind), &groups.map(kind))
        };
        Ok(Self { plain: make(NamespaceKind::Plain)?, keep_id: make(NamespaceKind::KeepId)? })
    }

    /// Makes a namespace of a kind for one container, and the mount namespace in which the container is to be. A mount namespace belongs
    /// to the user namespace in which it was made, so a container that keeps one has both.
    ///
    /// # Errors
    /// As [`UserNamespace::new`].
    pub fn with_mounts(identity: &Identity, kind: NamespaceKind) -> io::Result<(UserNamespace, MountNamespace)> {
        let (users, groups) = (&identity.users, &identity.groups);
        UserNamespace::with_mounts(users.own, groups.own, &users.map(kind), &groups.map(kind))
    }

    /// Returns the namespace of a kind.
    #[must_use]
    pub fn of(&self, kind: NamespaceKind) -> &UserNamespace {
        match kind {
            NamespaceKind::Plain => &self.plain,
            NamespaceKind::KeepId => &self.keep_id,
        }
    }
}

/// The namespaces of all users who have a step. Keyed by identity: changed subordinate ids get a new namespace.
#[derive(Debug, Default)]
pub struct NamespaceTable(Mutex<Vec<(Identity, Weak<Namespaces>)>>);

impl NamespaceTable {
    /// The user's namespaces, made if no step of theirs has them.
    ///
    /// # Errors
    /// As [`UserNamespace::new`].
    pub fn of(&self, identity: &Identity) -> io::Result<Arc<Namespaces>> {
        let known = |table: &[(Identity, Weak<Namespaces>)]| {
            table.iter().find(|(user, _)| user == identity).and_then(|(_, namespaces)| namespaces.upgrade())
        };
        if let Some(namespaces) = known(&self.table()) {
            return Ok(namespaces);
        }
        // Without the lock, so that others do not wait. Two steps at once may make one too many, which is released with its step.
        let namespaces = Arc::new(Namespaces::new(identity)?);
        let mut table = self.table();
        table.retain(|(user, namespaces)| user != identity && namespaces.strong_count() > 0);
        table.push((identity.clone(), Arc::downgrade(&namespaces)));
        Ok(namespaces)
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Vec<(Identity, Weak<Namespaces>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
