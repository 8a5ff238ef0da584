//! The user and their groups in the container's `/etc/passwd` and `/etc/group`, which keep the image's entries (pure).

use parallax_protocol::accounts::{Accounts, Group, User};
use parallax_protocol::step_file::StepFile;

/// The names that a step's container is to have for this user and their groups. A user whom the database does not have gets the name
/// of the step.
pub(crate) fn of_step(step: &StepFile, uid: u32, gid: u32) -> Accounts {
    let named = || User {
        name: step.user.clone(),
        uid,
        gid,
        gecos: String::new(),
        home: step.home.as_ref().map_or_else(|| "/".to_owned(), |home| home.display().to_string()),
        shell: "/bin/sh".to_owned(),
    };
    let Accounts { user, groups } = step.accounts.clone();
    let user = user.unwrap_or_else(named);
    if step.as_root {
        // Other groups have no id there.
        let user = User { name: "root".to_owned(), uid: 0, gid: 0, ..user };
        return Accounts { user: Some(user), groups: vec![Group { name: "root".to_owned(), gid: 0 }] };
    }
    Accounts { user: Some(user), groups }
}

/// Returns the text of `/etc/passwd`; `None` if the image's need not change.
pub(crate) fn passwd(image: &[u8], accounts: &Accounts) -> Option<Vec<u8>> {
    let User { name, uid, gid, gecos, home, shell } = accounts.user.as_ref()?;
    let fields = [name, gecos, home, shell];
    if name.is_empty() || !fields.into_iter().all(|field| is_plain(field)) {
        return None;
    }
    let line = format!("{name}:x:{uid}:{gid}:{gecos}:{home}:{shell}");
    with_entries(image, vec![Entry { name, id: *uid, line }])
}

/// Returns the text of `/etc/group`; `None` if the image's need not change.
pub(crate) fn group(image: &[u8], accounts: &Accounts) -> Option<Vec<u8>> {
    let member = accounts.user.as_ref().map_or("", |user| user.name.as_str());
    let groups = accounts.groups.iter().filter(|group| !group.name.is_empty() && is_plain(&group.name));
    let entry = |group: &'_ Group| format!("{}:x:{}:{member}", group.name, group.gid);
    with_entries(image, groups.map(|group| Entry { name: &group.name, id: group.gid, line: entry(group) }).collect())
}

struct Entry<'a> {
    name: &'a str,
    id: u32,
    line: String,
}

/// Adds entries to a file of the image. An entry whose name or id the image gives to another comes first, so that it is found first;
/// all others come last. One that the image has is not added.
fn with_entries(image: &[u8], mut entries: Vec<Entry<'_>>) -> Option<Vec<u8>> {
    let known: Vec<(&[u8], Option<u32>)> = image.split(|&byte| byte == b'\n').filter_map(name_and_id).collect();
    entries.retain(|entry| !known.contains(&(entry.name.as_bytes(), Some(entry.id))));
    if entries.is_empty() {
        return None;
    }
    let in_conflict =
        |entry: &Entry<'_>| known.iter().any(|&(name, id)| name == entry.name.as_bytes() || id == Some(entry.id));
    let (first, last): (Vec<_>, Vec<_>) = entries.into_iter().partition(in_conflict);
    let mut text = Vec::new();
    let add = |text: &mut Vec<u8>, entries: Vec<Entry<'_>>| {
        for entry in entries {
            text.extend_from_slice(entry.line.as_bytes());
            text.push(b'\n');
        }
    };
    add(&mut text, first);
    text.extend_from_slice(image);
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    add(&mut text, last);
    Some(text)
}

/// The name and the id of a line; both files have them in the first and the third field.
fn name_and_id(line: &[u8]) -> Option<(&[u8], Option<u32>)> {
    let mut fields = line.split(|&byte| byte == b':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let id = fields.nth(1).and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
    Some((name, id))
}

/// Whether a text can be a field.
fn is_plain(text: &str) -> bool {
    !text.contains([':', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        let user = User {
            name: "u1".into(),
            uid: 1001,
            gid: 1001,
            gecos: "User".into(),
            home: "/home/u1".into(),
            shell: "/bin/sh".into(),
        };
        let group = |name: &str, gid| Group { name: name.into(), gid };
        Accounts { user: Some(user), groups: vec![group("u1", 1001), group("licensed", 2000)] }
    }

    fn text(bytes: Option<Vec<u8>>) -> Option<String> {
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    const LINE: &str = "u1:x:1001:1001:User:/home/u1:/bin/sh\n";

    #[test]
    fn the_images_entries_stay() {
        let image = "root:x:0:0::/root:/bin/sh\napp:x:5:5::/:/bin/sh";
        assert_eq!(text(passwd(image.as_bytes(), &accounts())), Some(format!("{image}\n{LINE}")));
        assert_eq!(text(passwd(b"", &accounts())).as_deref(), Some(LINE));
        let expected = "root:x:0:\nu1:x:1001:u1\nlicensed:x:2000:u1\n";
        assert_eq!(text(group(b"root:x:0:\n", &accounts())).as_deref(), Some(expected));
    }

    #[test]
    fn an_entry_that_the_image_has_is_not_added() {
        assert_eq!(passwd(b"u1:*:1001:7::/:/bin/ash\n", &accounts()), None);
        assert_eq!(text(group(b"u1:x:1001:\n", &accounts())).as_deref(), Some("u1:x:1001:\nlicensed:x:2000:u1\n"));
        assert_eq!(passwd(b"root:x:0:0\n", &Accounts::default()), None);
    }

    fn step(as_root: bool, accounts: Accounts) -> StepFile {
        let step = serde_json::json!({
            "image": "a", "user": "u1", "environment": [], "mounts": [], "mount_home": true, "mount_workdir": true,
            "podman": "/usr/bin/podman", "start_timeout": 1, "as_root": as_root, "accounts": accounts
        });
        serde_json::from_value(step).unwrap()
    }

    #[test]
    fn a_user_without_a_name_gets_the_steps() {
        assert_eq!(of_step(&step(false, accounts()), 1001, 1001), accounts());
        let user = of_step(&step(false, Accounts::default()), 5, 6).user.unwrap();
        assert_eq!((user.name.as_str(), user.uid, user.gid, user.home.as_str()), ("u1", 5, 6, "/"));
    }

    #[test]
    fn the_images_root_stays_root() {
        let as_root = of_step(&step(true, accounts()), 1001, 1001);
        assert_eq!(passwd(b"root:x:0:0::/root:/bin/sh\n", &as_root), None);
        let text_of = |bytes| text(bytes).unwrap();
        assert_eq!(text_of(passwd(b"", &as_root)), "root:x:0:0:User:/home/u1:/bin/sh\n");
        assert_eq!(text_of(group(b"bin:x:1:\n", &as_root)), "bin:x:1:\nroot:x:0:root\n");
    }

    #[test]
    fn the_users_own_entry_is_found_first() {
        for other in ["app:x:1001:5::/:/bin/sh\n", "u1:x:33:33::/:/bin/sh\n"] {
            assert_eq!(text(passwd(other.as_bytes(), &accounts())), Some(format!("{LINE}{other}")));
        }
        let expected = "licensed:x:2000:u1\nusers:x:2000:\nu1:x:1001:u1\n";
        assert_eq!(text(group(b"users:x:2000:\n", &accounts())).as_deref(), Some(expected));
    }

    #[test]
    fn odd_lines_and_names_do_no_harm() {
        let image = b"\xff\xfe:x:1:1\n+\n:::\nx\n";
        assert!(passwd(image, &accounts()).unwrap().starts_with(image));
        let mut odd = accounts();
        odd.groups.push(Group { name: "a:b".into(), gid: 9 });
        assert!(!text(group(b"", &odd)).unwrap().contains("a:b"));
        odd.user.as_mut().unwrap().home = "/x\nroot::0:0".into();
        assert_eq!(passwd(b"", &odd), None);
    }
}
