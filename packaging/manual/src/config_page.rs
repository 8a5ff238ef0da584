//! parallax.toml(5).

use clap_mangen::roff::{Roff, bold, italic, roman};
use parallax_config::{DEFAULT_PATH, Key, SECTIONS, Section};

use crate::keys::{self, Defaults};
use crate::text::{inlines, paragraph};

/// The page.
///
/// # Errors
/// If the defaults cannot be written as TOML.
pub(crate) fn render() -> anyhow::Result<String> {
    let defaults = Defaults::load()?;
    let mut page = Roff::new();
    let source = concat!("Parallax ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["parallax.toml", "5", "\"\"", source, "Parallax"]);
    page.control("SH", ["NAME"]).text([roman("parallax.toml - configuration of Parallax")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text(inlines(
        "One TOML file, the same on all nodes of a cluster. The Slurm plugin, the node agent, the mount program and the command \
         `parallax` read it. Only `stores` must be set. An unknown key, a wrong type and a value out of its range are errors.",
    ));
    page.control("PP", []).text(inlines(
        "The agent reads the file again when it is reloaded (`systemctl reload parallax-agent`); an invalid file is rejected, and \
         the old configuration stays in force. All others read it each time they start.",
    ));
    page.control("SH", ["KEYS"]);
    for section in SECTIONS {
        render_section(&mut page, section, &defaults);
    }
    page.control("SH", ["FILES"]).control("TP", []).text([italic(DEFAULT_PATH)]);
    page.text([roman("The configuration.")]);
    page.control("TP", []).text([italic("/usr/share/doc/parallax/parallax.toml")]);
    page.text([roman("An example with every key and its default.")]);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("parallax"), roman("(1), "), bold("parallax-mount-program"), roman("(1), ")]);
    page.text([bold("parallax-agent"), roman("(8)")]);
    Ok(page.render())
}

fn render_section(page: &mut Roff, section: &Section, defaults: &Defaults) {
    if !section.name.is_empty() {
        page.control("SS", [format!("[{}]", section.name).as_str()]);
        page.text(inlines(&paragraph(section.about)));
    }
    for key in section.keys {
        render_key(page, key, defaults.of(section, key));
    }
}

fn render_key(page: &mut Roff, key: &Key, default: Option<String>) {
    page.control("TP", []).text([bold(key.name), roman(" ("), roman(keys::kind(&key.shape)), roman(")")]);
    page.text(inlines(&paragraph(key.description)));
    if !key.shape.choices.is_empty() {
        page.control("RS", []);
        for choice in key.shape.choices {
            page.control("TP", []).text([bold(format!("\"{}\"", choice.word))]);
            page.text(inlines(&paragraph(choice.description)));
        }
        page.control("RE", []).control("IP", []);
    }
    if let Some(default) = default {
        page.text([roman("Default: "), bold(default), roman(".")]);
    }
    if let Some(example) = key.example {
        page.text([roman("Example: "), bold(format!("{} = {example}", key.name)), roman(".")]);
    }
}
