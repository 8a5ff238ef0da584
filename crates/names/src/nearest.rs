//! The names a user may have meant.

use strsim::levenshtein;

use crate::name::ImageName;

/// The most names that are worth showing.
const MOST: usize = 3;

/// Those of `known` that are nearest to what was typed, nearest first, in the short form one would type.
///
/// At most three, and none whose repository differs in more than a third of its letters; a tag may be any other.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a ImageName>) -> Vec<String> {
    let (typed_repository, typed_tag) = split_tag(typed);
    let mut ranked: Vec<(usize, String)> = known
        .into_iter()
        .filter_map(|name| {
            let familiar = name.familiar();
            let (repository, tag) = split_tag(&familiar);
            let apart = levenshtein(typed_repository, repository);
            let near = apart <= typed_repository.len().max(repository.len()) / 3;
            near.then(|| (apart * 100 + levenshtein(typed_tag, tag), familiar.clone()))
        })
        .collect();
    ranked.sort();
    ranked.dedup();
    ranked.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// The sentence for a name that no store has, the same wherever it is found out.
#[must_use]
pub fn unknown_image(typed: &str, stores: &[String], nearest: &[String]) -> String {
    let stores = stores.join(", ");
    let near: Vec<String> = nearest.iter().map(|name| format!("\"{name}\"")).collect();
    let ending = if near.is_empty() { ".".to_owned() } else { format!("; did you mean {}?", near.join(" or ")) };
    format!("image \"{typed}\" is in no store ({stores}){ending} Ask for it with: parallax migrate docker://{typed}")
}

/// The repository and the tag of a name in its short form.
fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
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
    }

    #[test]
    fn an_unknown_image_is_told_in_one_line() {
        assert_eq!(
            unknown_image("pyton:3", &["/a".into(), "/b".into()], &["python:3".into()]),
            "image \"pyton:3\" is in no store (/a, /b); did you mean \"python:3\"? Ask for it with: parallax migrate docker://pyton:3"
        );
    }
}
