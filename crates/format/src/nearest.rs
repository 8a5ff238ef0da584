//! The names a user may have meant.

use strsim::levenshtein;

use crate::correct::{correction, is_source};
use crate::digest::ImageId;
use crate::name::{DEFAULT_TAG, ImageName, LOCAL_REGISTRY, split_registry, split_suffix, tag_and_digest};
use crate::reference::{ImageRef, id_prefix};

/// The most names that are worth showing.
const MOST: usize = 3;

/// Returns the names in `known` that are nearest to the typed one, nearest first, in their short form.
///
/// At most three, and none whose repository differs in more than a third of its letters; a tag may be any other. Not the typed name
/// itself: a list may have it whose image is gone.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a ImageName>) -> Vec<String> {
    let (typed_repository, typed_tag) = split_tag(typed);
    let mut ranked: Vec<(usize, String)> = known
        .into_iter()
        .filter_map(|name| {
            let familiar = name.familiar();
            let (repository, tag) = split_tag(&familiar);
            let apart = levenshtein(typed_repository, repository);
            let near = apart <= typed_repository.len().max(repository.len()) / 3;
            let distance = apart * 100 + levenshtein(typed_tag, tag);
            (near && distance > 0).then(|| (distance, familiar.clone()))
        })
        .collect();
    ranked.sort();
    ranked.dedup();
    ranked.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// Returns the word that is nearest to what was typed, if it differs in no more than a third of its letters.
#[must_use]
pub fn nearest_word<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = |word: &&str| levenshtein(typed, word) <= typed.len().max(word.len()) / 3;
    known.iter().copied().filter(near).min_by_key(|word| levenshtein(typed, word))
}

/// The sentence for an image that no store has, the same wherever it is found out.
#[must_use]
pub fn unknown_image(typed: &str, stores: &[String], nearest: &[String]) -> String {
    let stores = stores.join(", ");
    let near: Vec<String> = nearest.iter().map(|name| format!("\"{name}\"")).collect();
    let ending = if near.is_empty() { ".".to_owned() } else { format!("; did you mean {}?", near.join(" or ")) };
    format!("image \"{typed}\" is in no store ({stores}){ending} {}", advice(typed))
}

/// The sentence for digits that several images' ids begin with.
#[must_use]
pub fn ambiguous_id(typed: &str, ids: &[ImageId]) -> String {
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    format!("\"{typed}\" is the start of more than one image id ({}); write more digits", ids.join(", "))
}

/// Returns advice on getting an image that no store has; only names can be migrated.
fn advice(typed: &str) -> String {
    if let Some(correction) = is_source(typed).then(|| correction(typed)).flatten() {
        return correction;
    }
    match ImageRef::parse(typed) {
        Ok(ImageRef::Id(_)) => "\"parallax list\" shows the images and their ids".to_owned(),
        Ok(ImageRef::Name(_)) if id_prefix(typed).is_some() => {
            "\"parallax list\" shows the images and their ids".to_owned()
        }
        _ if split_registry(typed).0 == Some(LOCAL_REGISTRY) => {
            format!("If your Podman has it, put it there with: parallax migrate containers-storage:{typed}")
        }
        _ => format!("Ask for it with: parallax migrate docker://{typed}"),
    }
}

/// The repository and the tag of a name in its short form.
fn split_tag(name: &str) -> (&str, &str) {
    let (repository, suffix) = split_suffix(name);
    match tag_and_digest(suffix) {
        (tag, None) => (repository, tag.unwrap_or(DEFAULT_TAG)),
        _ => (name, DEFAULT_TAG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: &[&str]) -> Vec<ImageName> {
        names.iter().map(|n| ImageName::for_storing(n).unwrap()).collect()
    }

    #[test]
    fn a_slip_finds_the_name() {
        let known = known(&["docker.io/library/python:3.12", "quay.io/other/thing:1"]);
        assert_eq!(nearest("pyton:3.12", &known), ["python:3.12"]);
        assert_eq!(nearest("pyton", &known), ["python:3.12"]);
    }

    #[test]
    fn another_tag_of_the_same_repository_is_near() {
        assert_eq!(nearest("a:nightly-2026", &known(&["a:1"])), ["a:1"]);
    }

    #[test]
    fn a_wholly_different_name_is_not_offered() {
        assert!(nearest("tensorflow:2", &known(&["python:3.12"])).is_empty());
        assert_eq!(nearest("python:3.12", &known(&["python:3.12", "python:3.13"])), ["python:3.13"]);
    }

    #[test]
    fn an_unknown_image_is_told_in_one_line() {
        assert_eq!(
            unknown_image("pyton:3", &["/a".into(), "/b".into()], &["python:3".into()]),
            "image \"pyton:3\" is in no store (/a, /b); did you mean \"python:3\"? Ask for it with: parallax migrate docker://pyton:3"
        );
    }

    #[test]
    fn only_what_a_registry_may_have_is_asked_of_one() {
        let ending = |typed: &str| unknown_image(typed, &["/a".into()], &[]).split_once(". ").unwrap().1.to_owned();
        assert_eq!(ending("python"), "Ask for it with: parallax migrate docker://python");
        for id in ["0909040c2251".to_owned(), "sha256:0909040c2251".to_owned(), "ab".repeat(32)] {
            assert_eq!(ending(&id), "\"parallax list\" shows the images and their ids");
        }
        assert!(ending("localhost/app").ends_with("parallax migrate containers-storage:localhost/app"));
        assert!(ending("docker-daemon:python").ends_with("write \"python\""), "{}", ending("docker-daemon:python"));
    }
}
