//! The pages of programs that clap describes, and completions.

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::Output;
use crate::text::inlines;

/// A section of a page beyond what clap knows: its heading, and terms with what they mean.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

const CONFIGURATION: (&str, &str) = (parallax_config::DEFAULT_PATH, "The configuration: parallax.toml(5).");

const OF_COMMAND: &[Section] = &[
    (
        "EXIT STATUS",
        &[
            ("0", "All was done."),
            ("1", "Something failed; standard error says what."),
            ("2", "The command line is invalid."),
            ("128+N", "Signal N interrupted the command."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[("PARALLAX_LOG", "A filter for log messages, such as `parallax=debug`, in place of `-v` and `-q`.")],
    ),
    ("FILES", &[CONFIGURATION]),
];

const OF_AGENT: &[Section] = &[
    (
        "SIGNALS",
        &[
            (
                "SIGHUP",
                "Reload the configuration. An invalid file is rejected, and the old configuration stays in force. Running steps keep \
                 what they have.",
            ),
            (
                "SIGTERM, SIGINT",
                "Stop: take no new requests, and wait up to 20 seconds for those in progress. Running steps are not affected.",
            ),
        ],
    ),
    (
        "FILES",
        &[
            CONFIGURATION,
            ("/run/parallax", "The socket, the journal of leases, mounts and step directories (`agent.runtime_dir`)."),
        ],
    ),
];

const OF_LAZY: &[Section] = &[
    (
        "SIGNALS",
        &[(
            "SIGTERM, SIGINT",
            "End at once. Readers wait for the next process, which answers what was asked of this one.",
        )],
    ),
    (
        "FILES",
        &[
            CONFIGURATION,
            ("/run/parallax-lazy.sock", "The socket (`lazy.socket`), which systemd opens."),
            ("/var/cache/parallax-lazy", "Chunks that were fetched (`lazy.cache`)."),
        ],
    ),
];

/// The command `parallax`.
pub(crate) fn parallax() -> Command {
    parallax_migrate_cli::command().disable_help_subcommand(true)
}

/// The agent.
pub(crate) fn agent() -> Command {
    parallax_agent::args::Args::command()
}

/// The server of layers whose chunks are fetched as they are read.
pub(crate) fn lazy() -> Command {
    parallax_lazy::args::Args::command()
}

/// The manual pages of commands.
///
/// # Errors
/// If a page cannot be rendered.
pub(crate) fn pages() -> anyhow::Result<Vec<Output>> {
    let mut command = parallax();
    // Global options reach the commands when it is built.
    command.build();
    let mut pages = Vec::new();
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        pages.push(page(subcommand.clone(), "1", OF_COMMAND, "parallax(1), parallax.toml(5)")?);
        for below in below(subcommand) {
            let above = format!("parallax-{}(1), parallax(1), parallax.toml(5)", subcommand.get_name());
            pages.push(page(below.clone(), "1", OF_COMMAND, &above)?);
        }
    }
    let see_also = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    let mut see_also: Vec<String> =
        see_also.map(|subcommand| format!("parallax-{}(1)", subcommand.get_name())).collect();
    see_also.extend(["parallax-mount-program(1)", "parallax.toml(5)", "parallax-agent(8)"].map(str::to_owned));
    pages.push(page(command, "1", OF_COMMAND, &see_also.join(", "))?);
    pages.push(page(agent(), "8", OF_AGENT, "parallax(1), parallax.toml(5), systemd.service(5)")?);
    pages.push(page(lazy(), "8", OF_LAZY, "parallax-agent(8), parallax.toml(5), systemd.service(5)")?);
    Ok(pages)
}

/// The commands below a command, such as `parallax edf render`.
pub(crate) fn below(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn page(command: Command, number: &str, sections: &[Section], see_also: &str) -> anyhow::Result<Output> {
    let source = concat!("Parallax ", env!("CARGO_PKG_VERSION"));
    // An empty argument of .TH must be quoted, or the others move up.
    let man = Man::new(command).section(number).date("\"\"").source(source).manual("Parallax");
    let mut content = Vec::new();
    man.render(&mut content)?;
    let mut end = Roff::new();
    for (heading, terms) in sections {
        end.control("SH", [*heading]);
        for (term, meaning) in *terms {
            end.control("TP", []).text([bold(*term)]).text(inlines(meaning));
        }
    }
    end.control("SH", ["SEE ALSO"]).text([roman(see_also)]);
    content.extend_from_slice(end.to_roff().as_bytes());
    Ok(Output { path: format!("man/{}", man.get_filename()), content })
}

/// The completions, each where the shell looks for its kind.
pub(crate) fn completions() -> Vec<Output> {
    let shells = [(Shell::Bash, "bash", "", ""), (Shell::Zsh, "zsh", "_", ""), (Shell::Fish, "fish", "", ".fish")];
    let programs = [("parallax", parallax()), ("parallax-agent", agent()), ("parallax-lazy", lazy())];
    let each = programs.iter().flat_map(|program| shells.iter().map(move |shell| (program, shell)));
    each.map(|((name, command), (shell, directory, before, after))| {
        let mut content = Vec::new();
        clap_complete::generate(*shell, &mut command.clone(), *name, &mut content);
        Output { path: format!("{directory}/{before}{name}{after}"), content }
    })
    .collect()
}
