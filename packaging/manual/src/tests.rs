//! The pages and the example say what the code does.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Command;
use parallax_config::{Config, SECTIONS};

use super::*;

fn repository(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).unwrap()
}

fn output(path: &str) -> String {
    let output = outputs().unwrap().into_iter().find(|output| output.path == path);
    String::from_utf8(output.unwrap_or_else(|| panic!("no {path} is made")).content).unwrap()
}

/// A word as a page has it.
fn in_roff(word: &str) -> String {
    word.replace('-', "\\-")
}

#[test]
fn the_example_configuration_is_made_from_the_code() {
    assert_eq!(
        repository("etc/parallax.toml"),
        example::render().unwrap(),
        "etc/parallax.toml is stale: run make docs"
    );
}

#[test]
fn the_example_is_a_configuration_with_the_defaults() {
    let example = Config::parse(&example::render().unwrap()).unwrap();
    let defaults = Config::parse("stores = [\"/shared/parallax\"]").unwrap();
    assert_eq!(example, defaults);
}

/// The structures refuse unknown keys, so a key that the parser takes is one of theirs; and `section!` makes both of one list.
#[test]
fn the_parser_takes_every_key_with_its_default_its_example_and_its_words() {
    let defaults = keys::Defaults::load().unwrap();
    for section in SECTIONS {
        for key in section.keys {
            let words = key.shape.choices.iter().map(|choice| format!("\"{}\"", choice.word));
            let values = defaults.of(section, key).into_iter().chain(key.example.map(str::to_owned)).chain(words);
            let values: Vec<String> = values.collect();
            assert!(!values.is_empty(), "{} has neither a default nor an example", key.name);
            for value in values {
                let mut text = format!("stores = [\"/s\"]\n[{}]\n{} = {value}\n", section.name, key.name);
                if section.name.is_empty() {
                    text = format!("{} = {value}\n", key.name);
                } else if let "uid" | "gid" = key.name {
                    // Neither is taken without the other.
                    text += if key.name == "uid" { "gid = 0\n" } else { "uid = 0\n" };
                }
                assert!(Config::parse(&text).is_ok(), "{text}: {:?}", Config::parse(&text));
            }
        }
    }
}

#[test]
fn every_section_of_the_file_is_described() {
    let config = Config::parse("stores = [\"/s\"]").unwrap();
    let written = toml::Table::try_from(config).unwrap();
    let sections: BTreeSet<&str> =
        written.iter().filter(|(_, value)| value.is_table()).map(|(name, _)| name.as_str()).collect();
    let described: BTreeSet<&str> =
        SECTIONS.iter().map(|section| section.name).filter(|name| !name.is_empty()).collect();
    assert_eq!(sections, described);
    let plain: BTreeSet<&str> =
        written.iter().filter(|(_, value)| !value.is_table()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(plain, SECTIONS[0].keys.iter().map(|key| key.name).collect());
}

#[test]
fn the_page_of_the_configuration_describes_each_key_once() {
    let page = output("man/parallax.toml.5");
    for section in SECTIONS {
        let heading = format!(".SS [{}]", section.name);
        let (_, rest) = if section.name.is_empty() { ("", page.as_str()) } else { page.split_once(&heading).unwrap() };
        let part = rest.split("\n.SS ").next().unwrap();
        for key in section.keys {
            let term = format!("\\fB{}\\fR (", in_roff(key.name));
            assert_eq!(part.matches(&term).count(), 1, "{} in\n{part}", key.name);
            assert!(text::paragraph(key.description).len() > 20, "{} is not described", key.name);
            assert!(
                key.shape.choices.iter().all(|choice| part.contains(&format!("\"{}\"", choice.word))),
                "{}",
                key.name
            );
        }
    }
}

#[test]
fn every_option_of_every_command_is_in_its_page() {
    let mut command = commands::parallax();
    command.build();
    let mut checked = 0;
    let mut check = |command: &Command, path: &str| {
        let page = output(path);
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let shown = argument.get_long().map_or_else(
                || format!("{}", argument.get_value_names().unwrap_or_default().first().unwrap()),
                |long| format!("--{long}"),
            );
            assert!(page.contains(&in_roff(&shown)), "{path} lacks {shown}");
            checked += 1;
        }
        assert!(page.contains(".SH \"SEE ALSO\""), "{path}");
    };
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        check(subcommand, &format!("man/parallax-{}.1", subcommand.get_name()));
        for below in commands::below(subcommand) {
            check(below, &format!("man/parallax-{}-{}.1", subcommand.get_name(), below.get_name()));
        }
    }
    check(&command, "man/parallax.1");
    check(&commands::agent(), "man/parallax-agent.8");
    check(&commands::lazy(), "man/parallax-lazy.8");
    assert!(checked > 50, "only {checked} options were found");
}

#[test]
fn every_command_completes_in_every_shell() {
    for (path, word) in [("bash/parallax", "--store"), ("zsh/_parallax", "--store"), ("fish/parallax.fish", "-l store")]
    {
        let script = output(path);
        assert!(script.contains(word), "{path}");
        for subcommand in commands::parallax().get_subcommands() {
            assert!(script.contains(subcommand.get_name()), "{path} lacks {}", subcommand.get_name());
        }
    }
    assert!(output("bash/parallax-agent").contains("--log-format"));
}

/// The variables that a text names.
fn variables(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
    words
        .filter(|word| word.strip_prefix("PARALLAX_MP_").is_some_and(|rest| !rest.is_empty() && !rest.ends_with('_')))
        .collect()
}

#[test]
fn the_mount_programs_variables_are_in_its_page_and_its_document() {
    let code = repository("mount-program/src/settings.rs");
    let code =
        variables(code.split("#[cfg(test)]").next().unwrap()).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    assert!(code.len() > 8, "{code:?}");
    let page = repository("packaging/man/parallax-mount-program.1");
    let document = repository("docs/mount-program.md");
    for variable in &code {
        assert!(variables(&page).contains(variable.as_str()), "parallax-mount-program.1 lacks {variable}");
    }
    for variable in variables(&page).into_iter().chain(variables(&document)) {
        // UMOUNT_WAIT_* stands for two.
        assert!(code.iter().any(|known| known.starts_with(variable)), "{variable} is not read");
    }
}

/// The first cells of the tables' rows in a part of a document, without backticks.
fn rows<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, part) = document.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let part = part.split("\n## ").next().unwrap();
    let rows = part.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect()).collect()
}

#[test]
fn the_administrators_page_has_every_key_with_its_default() {
    let document = repository("docs/admins.md");
    let written: BTreeSet<(String, String)> =
        rows(&document, "## parallax.toml").iter().map(|row| (row[0].to_owned(), row[1].to_owned())).collect();
    let defaults = keys::Defaults::load().unwrap();
    let of_code = SECTIONS.iter().flat_map(|section| section.keys.iter().map(move |key| (section, key)));
    let of_code: BTreeSet<(String, String)> = of_code
        .map(|(section, key)| match section.name {
            "" => (key.name.to_owned(), "required".to_owned()),
            name => (format!("{name}.{}", key.name), defaults.of(section, key).unwrap_or_else(|| "none".to_owned())),
        })
        .collect();
    assert_eq!(written, of_code);
}

#[test]
fn the_administrators_page_has_every_argument_and_every_metric() {
    let document = repository("docs/admins.md");
    let arguments = rows(&document, "## plugstack.conf");
    let names: Vec<&str> = arguments.iter().map(|row| row[0].split('=').next().unwrap()).collect();
    // As the plugin's second part parses them.
    let parser = repository("spank-step/src/job.rs");
    let parsed: Vec<&str> = parser.split("Some((\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(names, parsed);
    for set in parallax_spank_hooks::NAME_SETS {
        let word = parallax_spank_hooks::text(set.word);
        assert!(
            arguments.iter().any(|row| row[0].starts_with("names=") && row[2].contains(&format!("`{word}`: "))),
            "{word}"
        );
    }
    let sources = ["agent/src/metrics.rs", "agent/src/metrics/lazy.rs"].map(repository);
    let product = sources.iter().filter_map(|source| source.split("#[cfg(test)]").next());
    let metrics: BTreeSet<&str> = product
        .flat_map(|text| text.split('"'))
        .filter(|word| word.starts_with("parallax_") && !word.contains(' '))
        .collect();
    assert!(metrics.len() > 10, "{metrics:?}");
    let written = rows(&document, "## At three in the morning");
    let written: BTreeSet<&str> =
        written.iter().map(|row| row[0]).filter(|name| name.starts_with("parallax_")).collect();
    assert_eq!(written, metrics);
}
