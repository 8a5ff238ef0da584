//! The user namespaces of each user who has a step: for the id maps of mounts, and for Podman to run in.
//!
//! All steps of a user have the same maps and share the namespaces: each costs a process to make. They belong to the user, and
//! cannot be changed once their maps are written. They are released with the user's last step.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use parallax_sys::user_namespace::{MountNamespace, UserNamespace};

use crate::identity::{Identity, NamespaceKind};

/// A user's namespaces, one of each kind that a step needs.
#[derive(Debug)]
pub struct Namespaces {
    identity: Identity,
    plain: Mutex<Option<Arc<UserNamespace>>>,
    keep_id: Mutex<Option<Arc<UserNamespace>>>,
}

impl Namespaces {
    fn new(identity: &Identity) -> Self {
        Self { identity: identity.clone(), plain: Mutex::default(), keep_id: Mutex::default() }
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

    /// Whether the namespace of a kind is there.
    #[must_use]
    pub fn has(&self, kind: NamespaceKind) -> bool {
        self.place(kind).try_lock().is_ok_and(|place| place.is_some())
    }

    fn place(&self, kind: NamespaceKind) -> &Mutex<Option<Arc<UserNamespace>>> {
        match kind {
            NamespaceKind::Plain => &self.plain,
            NamespaceKind::KeepId => &self.keep_id,
        }
    }

    /// Returns the namespace of a kind, made if no step needed it before.
    ///
    /// # Errors
    /// As [`UserNamespace::new`].
    pub fn of(&self, kind: NamespaceKind) -> io::Result<Arc<UserNamespace>> {
        // Other steps of the user that need it wait, and then have it.
        let mut place = self.place(kind).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(namespace) = &*place {
            return Ok(Arc::clone(namespace));
        }
        let (users, groups) = (&self.identity.users, &self.identity.groups);
        let made = UserNamespace::new(users.own, groups.own, &users.map(kind), &groups.map(kind))?;
        Ok(Arc::clone(place.insert(Arc::new(made))))
    }
}

/// The namespaces of all users who have a step. Keyed by identity: changed subordinate ids get a new namespace.
#[derive(Debug, Default)]
pub struct NamespaceTable(Mutex<Vec<(Identity, Weak<Namespaces>)>>);

impl NamespaceTable {
    /// The user's namespaces.
    pub fn of(&self, identity: &Identity) -> Arc<Namespaces> {
        let mut table = self.table();
        let known = table.iter().find(|(user, _)| user == identity).and_then(|(_, namespaces)| namespaces.upgrade());
        known.unwrap_or_else(|| {
            let namespaces = Arc::new(Namespaces::new(identity));
            table.retain(|(user, namespaces)| user != identity && namespaces.strong_count() > 0);
            table.push((identity.clone(), Arc::downgrade(&namespaces)));
            namespaces
        })
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Vec<(Identity, Weak<Namespaces>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
