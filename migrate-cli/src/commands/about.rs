//! `parallax completions` and `parallax man`, generated from clap's description of the command line.

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;

use crate::output::print_bytes;

/// Options of `parallax completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionOptions {
    /// Shell
    shell: Shell,
}

/// Options of `parallax man`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManOptions {
    /// Command, such as migrate [default: parallax itself]
    command: Option<String>,
}

/// Runs `parallax completions`.
///
/// # Errors
/// If they cannot be printed.
pub(crate) fn completions(mut command: Command, options: &CompletionOptions) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, "parallax", &mut script);
    print_bytes(&script)
}

/// Runs `parallax man`.
///
/// # Errors
/// If there is no such command, or the page cannot be printed.
pub(crate) fn man(command: Command, options: &ManOptions) -> anyhow::Result<()> {
    print_bytes(&page(command, options.command.as_deref())?)
}

fn page(mut command: Command, of: Option<&str>) -> anyhow::Result<Vec<u8>> {
    // Global options reach the commands when it is built.
    command.build();
    let command = match of {
        None => command,
        Some(name) => command
            .find_subcommand(name)
            .cloned()
            .with_context(|| format!("unknown command {name}; parallax help lists the commands"))?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).context("cannot render the page")?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_of_the_program_and_of_its_commands() {
        let command =
            || Command::new("parallax").about("All").subcommand(Command::new("list").about("Some").alias("ls"));
        let text = |of| String::from_utf8(page(command(), of).unwrap()).unwrap();
        assert!(text(None).contains("parallax \\- All"), "{}", text(None));
        assert!(text(Some("list")).contains("parallax\\-list \\- Some"), "{}", text(Some("list")));
        assert_eq!(text(Some("ls")), text(Some("list")));
        assert!(page(command(), Some("nothing")).is_err());
    }
}
