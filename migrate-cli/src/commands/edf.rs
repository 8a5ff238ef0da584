//! `parallax edf`: environment definition files, as srun reads them.

use anyhow::Context as _;
use parallax_config::{Config, ConfigError, Run};
use parallax_edf::{Host, Locations, Rendered, Warning, render};

use crate::global::Global;
use crate::output::{print, print_json};

/// Options of `parallax edf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check environments with their bases; print what is wrong with its line and column
    Validate(ValidateOptions),
    /// Print an environment with its bases merged and its variables expanded
    Render(RenderOptions),
}

/// Options of `parallax edf validate`.
#[derive(Debug, clap::Args)]
pub(crate) struct ValidateOptions {
    /// Environment: a name (searched in EDF_PATH, and in the configuration's run.edf_path), or a path that ends in .toml
    #[arg(required = true, value_name = "NAME|FILE")]
    environments: Vec<String>,
}

/// Options of `parallax edf render`.
#[derive(Debug, clap::Args)]
pub(crate) struct RenderOptions {
    /// Environment: a name (searched in EDF_PATH, and in the configuration's run.edf_path), or a path that ends in .toml
    #[arg(value_name = "NAME|FILE")]
    environment: String,
    /// Print a JSON object instead of TOML
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If an environment cannot be used, or the result cannot be printed.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let locations = locations(global)?;
    match &options.command {
        Command::Validate(options) => {
            let invalid = options.environments.iter().filter(|name| !is_valid(name, &locations)).count();
            match (invalid, options.environments.len()) {
                (0, _) => Ok(()),
                (_, 1) => anyhow::bail!("the environment is invalid"),
                (invalid, all) => anyhow::bail!("{invalid} of {all} environments are invalid"),
            }
        }
        Command::Render(options) => {
            let (rendered, warnings) = read(&options.environment, &locations)?;
            report(&warnings);
            rendered.image()?;
            if options.json { print_json(&rendered.environment) } else { print(&rendered.environment.to_toml()) }
        }
    }
}

/// The directories in which names are looked up. A host without a configuration has the default ones.
fn locations(global: &Global) -> anyhow::Result<Locations> {
    let site = match Config::load(&global.config) {
        Ok(config) => config.run.edf_path,
        Err(ConfigError::Read { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => Run::default().edf_path,
        Err(error) => return Err(error.into()),
    };
    let current = std::env::current_dir().context("the current directory is unknown")?;
    Ok(Locations::new(current, &site, |name| std::env::var(name).ok()))
}

/// Reads an environment, also as what nodes get of it.
fn read(name: &str, locations: &Locations) -> anyhow::Result<(Rendered, Vec<Warning>)> {
    let rendered = render(name, locations, &Host)?;
    let mut warnings = rendered.warnings.clone();
    rendered.request(&mut warnings)?;
    Ok((rendered, warnings))
}

fn report(warnings: &[Warning]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

/// Reports whether an environment is valid.
fn is_valid(name: &str, locations: &Locations) -> bool {
    let checked = read(name, locations).and_then(|(rendered, mut warnings)| {
        let file = rendered.path.display().to_string();
        match rendered.image() {
            Err(error @ parallax_edf::EdfError::NoImage(_)) => {
                report(&std::mem::take(&mut warnings));
                tracing::warn!("{error}; as it is it can be a base only");
            }
            Err(error) => return Err(error.into()),
            Ok(_) => report(&warnings),
        }
        print(&format!("{file}: valid\n"))
    });
    if let Err(error) = &checked {
        tracing::error!("{error:#}");
    }
    checked.is_ok()
}
