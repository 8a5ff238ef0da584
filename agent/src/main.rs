//! `parallax-agent`.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use parallax_agent::args::Args;
use parallax_agent::lease::Leases;
use parallax_agent::server;
use parallax_config::Config;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("parallax-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let filter = args.log.parse::<tracing_subscriber::EnvFilter>().context("--log")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    let config = Config::load(&args.config)?;
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!("mounting needs root; start the agent as root, best with its systemd unit");
    }
    let socket = config.agent.socket();
    let runtime = config.agent.runtime_dir.clone();
    let (leases, adopted) = Leases::open(config).with_context(|| format!("can't use {}", runtime.display()))?;
    let leases = Arc::new(leases);
    for (step, owner) in adopted {
        server::watch(step, owner, &leases).context("can't watch over a step")?;
    }
    let listener = server::listen(&socket).with_context(|| format!("can't listen on {}", socket.display()))?;
    tracing::info!(socket = %socket.display(), "ready");
    // Without systemd there is nobody to tell.
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).context("systemd can't be told that the agent is ready")?;
    server::serve(&listener, &leases).context("can't accept connections")
}
