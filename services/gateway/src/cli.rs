//! The command line.

use crate::{
    config::{Config, Environment},
    demo, server, telemetry,
};
use clap::{Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

/// `EX_USAGE` of sysexits.h: the command line or the configuration is wrong.
const USAGE: u8 = 64;

/// A caching API gateway for services and AI agents.
#[derive(Debug, Parser)]
#[command(name = "weaver-gateway", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve, as the configuration says
    Serve {
        /// The configuration, a TOML file; WEAVER_SECTION__KEY variables stand over it
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Serve a sample upstream through the gateway; needs no Redis and no configuration
    Demo {
        /// Where the gateway listens
        #[arg(long, default_value = "127.0.0.1:8000")]
        listen: SocketAddr,
        /// Where its admin port listens
        #[arg(long, default_value = "127.0.0.1:8001")]
        admin_listen: SocketAddr,
    },
    /// Check a configuration and list every fault in it
    Check {
        /// The configuration, a TOML file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Purge stored responses through the admin port (POST /purge)
    Purge(Remote),
    /// Fetch URLs into the cache ahead of their use
    Warm(Remote),
}

/// Arguments of commands that talk to a running gateway.
#[derive(Debug, clap::Args)]
struct Remote {
    /// URLs
    urls: Vec<String>,
}

/// Runs the command line of the process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors and go to standard output; clap knows which.
            let code = if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
            let _ = error.print();
            return code;
        }
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weaver-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let environment = Environment::of_process();
    match command {
        Command::Serve { config } => {
            let config = match Config::load(config.as_deref(), &environment) {
                Ok(config) => config,
                Err(faults) => return Ok(refused(&faults)),
            };
            let guard = telemetry::install(&config.telemetry)?;
            let outcome = actix_web::rt::System::new().block_on(server::run(config));
            guard.shutdown();
            outcome.map(|()| ExitCode::SUCCESS)
        }
        Command::Demo {
            listen,
            admin_listen,
        } => {
            actix_web::rt::System::new().block_on(demo::run(listen, admin_listen))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { config } => Ok(match Config::load(config.as_deref(), &environment) {
            Ok(config) => {
                let routes = config.routes.len();
                println!(
                    "the configuration is valid; {routes} route{}",
                    if routes == 1 { "" } else { "s" }
                );
                ExitCode::SUCCESS
            }
            Err(faults) => refused(&faults),
        }),
        Command::Purge(_) => Ok(later("purge", "POST /purge on the admin port purges now")),
        Command::Warm(_) => Ok(later(
            "warm",
            "a GET for each URL fills the cache meanwhile",
        )),
    }
}

fn refused(faults: &crate::config::Faults) -> ExitCode {
    eprint!("weaver-gateway: {faults}");
    ExitCode::from(USAGE)
}

fn later(what: &str, instead: &str) -> ExitCode {
    eprintln!("weaver-gateway: the command `{what}` comes in a later version; {instead}");
    ExitCode::FAILURE
}
