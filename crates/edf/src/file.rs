//! One file: its keys, their types and positions.

use std::path::Path;
use std::sync::Arc;

use parallax_format::nearest_word;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{EdfError, Warning, advice};
use crate::place::{Located, Source, Text};

/// The keys of an environment, with what they may hold.
const KEYS: [(&str, &str); 9] = [
    ("base_environment", "a string, or an array of strings"),
    ("image", "a string"),
    ("workdir", "a string"),
    ("entrypoint", "true or false"),
    ("writable", "true or false"),
    ("mounts", "an array of strings"),
    ("devices", "an array of strings"),
    ("env", "a table of strings"),
    ("annotations", "a table of strings, numbers, booleans and such tables"),
];

/// The contents of one file, nothing expanded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Definition {
    /// The bases, in their order.
    pub bases: Vec<Text>,
    /// The image.
    pub image: Option<Text>,
    /// The working directory.
    pub workdir: Option<Text>,
    /// Whether the image's entry point is run.
    pub entrypoint: Option<bool>,
    /// Whether the root directory can be written.
    pub writable: Option<bool>,
    /// The mounts.
    pub mounts: Vec<Text>,
    /// The devices.
    pub devices: Vec<Text>,
    /// The variables, in their order.
    pub env: Vec<(Located<String>, Text)>,
    /// The annotations with their whole names, in their order.
    pub annotations: Vec<(Located<String>, Text)>,
}

/// Parses a file. Unknown keys are warnings.
///
/// # Errors
/// It is not TOML, or a key has a wrong type.
pub(crate) fn parse(text: &str, file: &Arc<Path>, warnings: &mut Vec<Warning>) -> Result<Definition, EdfError> {
    let source = Source { file, text };
    let table = DeTable::parse(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join(" ");
        EdfError::at(source.place(error.span().map_or(0, |span| span.start)), message)
    })?;
    let mut definition = Definition::default();
    for (key, value) in in_order(table.get_ref()) {
        let reader = Reader { source: &source, key: key.get_ref(), value };
        match key.get_ref().as_ref() {
            "base_environment" => definition.bases = reader.string_or_strings()?,
            "image" => definition.image = Some(reader.string()?),
            "workdir" => definition.workdir = Some(reader.string()?),
            "entrypoint" => definition.entrypoint = Some(reader.boolean()?),
            "writable" => definition.writable = Some(reader.boolean()?),
            "mounts" => definition.mounts = reader.strings()?,
            "devices" => definition.devices = reader.strings()?,
            "env" => definition.env = reader.variables()?,
            "annotations" => definition.annotations = reader.annotations()?,
            other => {
                let names = KEYS.map(|(name, _)| name);
                let message = format!("the key \"{other}\" is unknown and has no effect; {}", advice(other, &names));
                warnings.push(Warning { place: source.place(key.span().start), message });
            }
        }
    }
    Ok(definition)
}

/// The entries of a table in the order of the file.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Spanned<std::borrow::Cow<'i, str>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, value)| (key.span().start, value.span().start));
    entries
}

struct Reader<'a, 'i> {
    source: &'a Source<'a>,
    key: &'a str,
    value: &'a Spanned<DeValue<'i>>,
}

impl Reader<'_, '_> {
    fn wrong(&self, value: &Spanned<DeValue<'_>>) -> EdfError {
        let wanted = KEYS.iter().find(|(name, _)| *name == self.key).map_or("another type", |(_, wanted)| wanted);
        let message = format!("\"{}\" is {wanted}, and this is {}", self.key, kind(value.get_ref()));
        EdfError::at(self.source.place(value.span().start), message)
    }

    fn text(&self, value: &Spanned<DeValue<'_>>) -> Result<Text, EdfError> {
        let text = value.get_ref().as_str().ok_or_else(|| self.wrong(value))?;
        let text = self.source.string(text, &value.span());
        if text.value.contains('\0') {
            return Err(EdfError::at(text.place, format!("a string of \"{}\" has a NUL character", self.key)));
        }
        Ok(text)
    }

    fn string(&self) -> Result<Text, EdfError> {
        self.text(self.value)
    }

    fn boolean(&self) -> Result<bool, EdfError> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong(self.value))
    }

    fn strings(&self) -> Result<Vec<Text>, EdfError> {
        let DeValue::Array(values) = self.value.get_ref() else { return Err(self.wrong(self.value)) };
        values.iter().map(|value| self.text(value)).collect()
    }

    fn string_or_strings(&self) -> Result<Vec<Text>, EdfError> {
        match self.value.get_ref() {
            DeValue::String(_) => Ok(vec![self.string()?]),
            _ => self.strings(),
        }
    }

    fn table(&self) -> Result<&DeTable<'_>, EdfError> {
        match self.value.get_ref() {
            DeValue::Table(table) => Ok(table),
            _ => Err(self.wrong(self.value)),
        }
    }

    fn variables(&self) -> Result<Vec<(Located<String>, Text)>, EdfError> {
        let mut variables = Vec::new();
        for (key, value) in in_order(self.table()?) {
            let name = key.get_ref().to_string();
            let place = self.source.place(key.span().start);
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(EdfError::at(place, format!("\"{name}\" cannot be the name of a variable")));
            }
            variables.push((Located { value: name, place }, self.text(value)?));
        }
        Ok(variables)
    }

    fn annotations(&self) -> Result<Vec<(Located<String>, Text)>, EdfError> {
        let mut annotations = Vec::new();
        self.flatten("", self.table()?, &mut annotations)?;
        Ok(annotations)
    }

    /// Adds a table's annotations, whose names begin with `above`. TOML's parser limits how deep tables lie in each other.
    fn flatten(
        &self,
        above: &str,
        table: &DeTable<'_>,
        annotations: &mut Vec<(Located<String>, Text)>,
    ) -> Result<(), EdfError> {
        for (key, value) in in_order(table) {
            let name = if above.is_empty() { key.get_ref().to_string() } else { format!("{above}.{}", key.get_ref()) };
            let text = match value.get_ref() {
                DeValue::Table(inner) => {
                    self.flatten(&name, inner, annotations)?;
                    continue;
                }
                DeValue::String(_) => self.text(value)?,
                DeValue::Integer(number) => self.source.string(&number.to_string(), &value.span()),
                DeValue::Float(number) => self.source.string(number.as_str(), &value.span()),
                DeValue::Boolean(word) => self.source.string(&word.to_string(), &value.span()),
                DeValue::Datetime(_) | DeValue::Array(_) => return Err(self.wrong(value)),
            };
            let place = self.source.place(key.span().start);
            annotations.push((Located { value: name, place }, text));
        }
        Ok(())
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// The nearest of some names, as the end of a sentence; nothing if none is near.
pub(crate) fn did_you_mean(typed: &str, known: &[String]) -> String {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    nearest_word(typed, &known).map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(Definition, Vec<String>), String> {
        let mut warnings = Vec::new();
        let file = Arc::from(Path::new("e.toml"));
        let definition = parse(text, &file, &mut warnings).map_err(|error| error.to_string())?;
        Ok((definition, warnings.iter().map(ToString::to_string).collect()))
    }

    fn values(texts: &[Text]) -> Vec<&str> {
        texts.iter().map(|text| text.value.as_str()).collect()
    }

    fn pairs(entries: &[(Located<String>, Text)]) -> Vec<(&str, &str)> {
        entries.iter().map(|(name, text)| (name.value.as_str(), text.value.as_str())).collect()
    }

    #[test]
    fn every_key() {
        let text = r#"
            base_environment = ["b", "a"]
            image = "ubuntu#24.04"
            workdir = "/w"
            entrypoint = true
            writable = false
            mounts = ["/z:/z", "/a:/a"]
            devices = ["nvidia.com/gpu=all"]
            [env]
            Z = "1"
            A = ""
            [annotations]
            com.hooks.z = "x"
            com.hooks.a.enabled = true
            "com.b.c" = 7
            [annotations.com.nested]
            f = 1.50
        "#;
        let (definition, warnings) = parsed(text).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(values(&definition.bases), ["b", "a"]);
        assert_eq!(definition.image.unwrap().value, "ubuntu#24.04");
        assert_eq!(definition.workdir.unwrap().value, "/w");
        assert_eq!((definition.entrypoint, definition.writable), (Some(true), Some(false)));
        assert_eq!(values(&definition.mounts), ["/z:/z", "/a:/a"]);
        assert_eq!(values(&definition.devices), ["nvidia.com/gpu=all"]);
        assert_eq!(pairs(&definition.env), [("Z", "1"), ("A", "")]);
        let mut annotations = pairs(&definition.annotations);
        annotations.sort_unstable();
        let expected =
            [("com.b.c", "7"), ("com.hooks.a.enabled", "true"), ("com.hooks.z", "x"), ("com.nested.f", "1.50")];
        assert_eq!(annotations, expected);
        let (definition, _) = parsed("base_environment = \"one\"").unwrap();
        assert_eq!(values(&definition.bases), ["one"]);
    }

    #[test]
    fn unknown_keys_warn_with_the_nearest() {
        let (_, warnings) = parsed("image = \"a\"\nmount = []\n\n  qqqqqqqqqqq = 1\n").unwrap();
        assert_eq!(warnings.len(), 2);
        let said = "e.toml, line 2, column 1: the key \"mount\" is unknown and has no effect; did you mean \"mounts\"?";
        assert_eq!(warnings[0], said);
        assert!(warnings[1].starts_with("e.toml, line 4, column 3: "), "{warnings:?}");
        assert!(warnings[1].contains("there are base_environment, image"), "{warnings:?}");
    }

    #[test]
    fn what_is_refused_says_where_and_why() {
        for (text, said) in [
            ("image = 1", "line 1, column 9: \"image\" is a string, and this is a number"),
            ("image = \"a\"\nmounts = \"/a:/b\"", "line 2, column 10: \"mounts\" is an array of strings"),
            ("mounts = [\"/a:/b\",\n  3]", "line 2, column 3: \"mounts\" is an array of strings, and this is a number"),
            ("writable = \"no\"", "line 1, column 12: \"writable\" is true or false, and this is a string"),
            ("base_environment = true", "line 1, column 20: \"base_environment\" is a string, or an array"),
            ("[env]\nA = 1", "line 2, column 5: \"env\" is a table of strings, and this is a number"),
            ("env = []", "line 1, column 7: \"env\" is a table of strings, and this is an array"),
            ("[env]\n\"a=b\" = \"\"", "line 2, column 1: \"a=b\" cannot be the name of a variable"),
            ("[annotations]\na = [1]", "line 2, column 5: \"annotations\" is a table"),
            ("image = \"a\\u0000\"", "line 1, column 9: a string of \"image\" has a NUL character"),
            ("image = \"a\"\nimage = \"b\"", "line 2, column 1: duplicate key"),
            ("image = ", "line 1, column "),
            ("\nimage", "line 2, column "),
        ] {
            let message = parsed(text).unwrap_err();
            assert!(message.starts_with("e.toml, ") && message.contains(said), "{text}: {message}");
        }
    }
}
