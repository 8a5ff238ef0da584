//! etc/parallax.toml: every key with its description, its default and an example.

use parallax_config::{Key, SECTIONS, Section};

use crate::keys::{Defaults, kind};
use crate::text::{comment, paragraph};

const HEAD: &str = "\
# Parallax, on every node of the cluster: compute nodes, and login nodes if images are to be checked at submit time.
# Lines that begin with \"#=\" show the defaults. See parallax.toml(5).
#
# This file is made from the code: change crates/config, and run \"make docs\".
";

/// The file.
///
/// # Errors
/// If the defaults cannot be written as TOML.
pub(crate) fn render() -> anyhow::Result<String> {
    let defaults = Defaults::load()?;
    let mut text = HEAD.to_owned();
    for section in SECTIONS {
        text += "\n";
        if !section.name.is_empty() {
            text += &comment(&paragraph(section.about), "#", "#");
            text += &format!("[{}]\n", section.name);
        }
        for key in section.keys {
            text += &described(section, key, defaults.of(section, key).as_deref());
        }
    }
    Ok(text)
}

fn described(section: &Section, key: &Key, default: Option<&str>) -> String {
    let mut text = comment(&format!("{} ({})", paragraph(key.description), kind(&key.shape)), "#", "#");
    for choice in key.shape.choices {
        text += &comment(&format!("`{}`: {}", choice.word, paragraph(choice.description)), "#  ", "#    ");
    }
    if let Some(default) = default {
        text += &format!("#= {} = {default}\n", key.name);
    }
    if let Some(example) = key.example {
        // The file may be installed as it is: beside the stores it is to change nothing.
        let shown = section.name.is_empty();
        text += &format!("{}{} = {example}\n", if shown { "" } else { "# " }, key.name);
    }
    text
}
