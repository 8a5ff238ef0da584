//! YAML as JSON: specifications are defined as JSON, and CDI's own library turns YAML into it, too.

use serde_json::{Map, Number, Value};
use yaml_rust2::{Yaml, YamlLoader};

/// Turns the only document of a text into JSON; an empty text is null.
///
/// # Errors
/// A sentence, with the line: the text is not YAML, or has what JSON does not have.
pub(crate) fn to_json(text: &str) -> Result<Value, String> {
    let mut documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    match documents.len() {
        0 => Ok(Value::Null),
        1 => convert(documents.remove(0)),
        _ => Err("more than one document".to_owned()),
    }
}

fn convert(value: Yaml) -> Result<Value, String> {
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Boolean(value) => Value::Bool(value),
        Yaml::Integer(number) => Value::Number(number.into()),
        // A number such as 1.0 stays a text: nothing in a specification is a fraction, and a version may look like one.
        Yaml::Real(text) | Yaml::String(text) => Value::String(text),
        Yaml::Array(items) => Value::Array(items.into_iter().map(convert).collect::<Result<_, _>>()?),
        Yaml::Hash(entries) => {
            let entry = |(key, value)| Ok::<_, String>((text(key)?, convert(value)?));
            Value::Object(entries.into_iter().map(entry).collect::<Result<Map<_, _>, _>>()?)
        }
        // Aliases are resolved by the loader.
        Yaml::Alias(_) | Yaml::BadValue => return Err("a value that JSON does not have".to_owned()),
    })
}

fn text(key: Yaml) -> Result<String, String> {
    match convert(key)? {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(Number::to_string(&number)),
        _ => Err("a key that is not a text".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_keep_their_types() {
        let text = "a: 1\nb: [true, null, x]\nc: {d: '1', e: 1.0}\n2: &y z\nf: *y\n";
        let expected = json!({"a": 1, "b": [true, null, "x"], "c": {"d": "1", "e": "1.0"}, "2": "z", "f": "z"});
        assert_eq!(to_json(text).unwrap(), expected);
        assert_eq!(to_json("").unwrap(), Value::Null);
    }

    #[test]
    fn what_is_not_yaml_is_told_with_its_line() {
        assert!(to_json("a: b\nc: [").unwrap_err().contains("line 3"));
        assert!(to_json("a: b\n---\nc: d").unwrap_err().contains("more than one"));
        assert!(to_json("? [a]\n: b").unwrap_err().contains("key"));
    }
}
