//! Resolution of names without a registry, as by Podman: by an alias, else in the unqualified-search registries.

use std::io;

use anyhow::{bail, ensure};
use parallax_format::ImageName;
use parallax_format::name::{split_registry, split_suffix};

use super::registries::{Mode, Registries};

/// Asks the user at a terminal which of several names a short name means.
pub type Ask<'a> = &'a dyn Fn(&str, &[String]) -> anyhow::Result<String>;

/// Returns the names, with registry, that `text` may stand for, most likely first. Podman pulls the first that exists. Where Podman
/// asks the user, `ask` is called, if given.
///
/// # Errors
/// If the text is an invalid image name, no setting resolves it, or the user must be asked and cannot.
pub fn candidates(text: &str, registries: &Registries, ask: Option<Ask<'_>>) -> anyhow::Result<Vec<String>> {
    ImageName::from_registry(text)?;
    if split_registry(text).0.is_some() {
        return Ok(vec![text.to_owned()]);
    }
    let (repository, suffix) = split_suffix(text);
    if let Some(target) = registries.aliases.get(repository) {
        return Ok(vec![format!("{target}{suffix}")]);
    }
    let searched = registries.unqualified_search_registries.as_deref().unwrap_or_default();
    ensure!(
        !searched.is_empty(),
        "the short name \"{text}\" is no alias, and no unqualified-search registries are defined in \
         /etc/containers/registries.conf; write the registry too, as in docker://docker.io/library/{text}"
    );
    let names: Vec<String> = searched.iter().map(|registry| format!("{registry}/{text}")).collect();
    let mode = registries.short_name_mode.unwrap_or(Mode::Permissive);
    match ask {
        _ if names.len() == 1 || mode == Mode::Disabled => Ok(names),
        Some(ask) => ask(text, &names).map(|chosen| vec![chosen]),
        None if mode == Mode::Enforcing => bail!(
            "the short name \"{text}\" may mean {}, and short-name-mode is \"enforcing\"; write which",
            names.join(" or ")
        ),
        None => Ok(names),
    }
}

/// Shows the numbered names, and reads the user's choice: a number or a name.
///
/// # Errors
/// The input ends without a choice, or cannot be read.
pub fn choose(
    text: &str,
    names: &[String],
    mut show: impl io::Write,
    mut answers: impl io::BufRead,
) -> anyhow::Result<String> {
    writeln!(show, "The short name \"{text}\" may mean:")?;
    for (number, name) in names.iter().enumerate() {
        writeln!(show, "  {}  {name}", number + 1)?;
    }
    loop {
        write!(show, "Which one? ")?;
        show.flush()?;
        let mut answer = String::new();
        if answers.read_line(&mut answer)? == 0 {
            bail!("nothing was chosen for the short name \"{text}\"; write one of {}", names.join(", "));
        }
        let answer = answer.trim();
        let numbered = answer.parse::<usize>().ok().and_then(|number| names.get(number.checked_sub(1)?));
        if let Some(chosen) = numbered.or_else(|| names.iter().find(|name| *name == answer)) {
            return Ok(chosen.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(searched: &[&str], mode: Option<Mode>) -> Registries {
        Registries {
            unqualified_search_registries: Some(searched.iter().map(|&name| name.to_owned()).collect()),
            short_name_mode: mode,
            aliases: [("debian".to_owned(), "docker.io/library/debian".to_owned())].into(),
        }
    }

    #[test]
    fn aliases_come_before_registries() {
        let two = registries(&["one.org", "two.org:5000"], None);
        assert_eq!(candidates("debian:13", &two, None).unwrap(), ["docker.io/library/debian:13"]);
        assert_eq!(candidates("a/b", &two, None).unwrap(), ["one.org/a/b", "two.org:5000/a/b"]);
        assert_eq!(candidates("quay.io/a:1", &two, None).unwrap(), ["quay.io/a:1"]);
        for text in ["localhost/a", "localhost:5000/a", "HOST/a", "Host/a/b:1"] {
            assert_eq!(candidates(text, &two, None).unwrap(), [text]);
        }
        for text in ["localhost", "localhost:5000", "host/a"] {
            assert_eq!(candidates(text, &two, None).unwrap()[0], format!("one.org/{text}"));
        }
        let digest = format!("debian@sha256:{}", "a".repeat(64));
        assert_eq!(candidates(&digest, &two, None).unwrap(), [format!("docker.io/library/{digest}")]);
    }

    #[test]
    fn podmans_errors_are_errors() {
        let none = candidates("other", &registries(&[], None), None).unwrap_err();
        assert!(none.to_string().contains("no unqualified-search registries"), "{none}");
        let many = candidates("other", &registries(&["a.org", "b.org"], Some(Mode::Enforcing)), None).unwrap_err();
        assert!(many.to_string().contains("a.org/other or b.org/other"), "{many}");
        assert_eq!(candidates("other", &registries(&["a.org"], Some(Mode::Enforcing)), None).unwrap(), ["a.org/other"]);
        assert_eq!(candidates("other", &registries(&["a", "b"], Some(Mode::Disabled)), None).unwrap().len(), 2);
        assert!(candidates("Not a name", &registries(&["a.org"], None), None).is_err());
    }

    #[test]
    fn somebody_at_a_terminal_is_asked_as_podman_asks() {
        let asked = |mode, searched: &[&str], text: &str| {
            let ask = |_: &str, names: &[String]| Ok(names[1].clone());
            candidates(text, &registries(searched, mode), Some(&ask)).unwrap()
        };
        let two = ["a.org", "b.org"];
        for mode in [None, Some(Mode::Permissive), Some(Mode::Enforcing)] {
            assert_eq!(asked(mode, &two, "other"), ["b.org/other"], "{mode:?}");
        }
        assert_eq!(asked(Some(Mode::Disabled), &two, "other").len(), 2);
        assert_eq!(asked(None, &["a.org"], "other"), ["a.org/other"]);
        assert_eq!(asked(None, &two, "debian"), ["docker.io/library/debian"]);
        assert_eq!(asked(None, &two, "quay.io/a"), ["quay.io/a"]);
    }

    #[test]
    fn an_answer_is_a_number_or_a_name() {
        let names = ["a.org/x".to_owned(), "b.org/x".to_owned()];
        let chosen = |answers: &str| {
            let mut shown = Vec::new();
            let chosen = choose("x", &names, &mut shown, answers.as_bytes());
            (chosen, String::from_utf8(shown).unwrap())
        };
        let (second, shown) = chosen("2\n");
        assert_eq!(second.unwrap(), "b.org/x");
        assert!(shown.contains("  1  a.org/x\n  2  b.org/x\n"), "{shown}");
        let (named, shown) = chosen("0\n3\nwhat\n a.org/x \n");
        assert_eq!((named.unwrap().as_str(), shown.matches("Which one?").count()), ("a.org/x", 4));
        assert!(chosen("").0.unwrap_err().to_string().contains("write one of a.org/x, b.org/x"));
    }
}
