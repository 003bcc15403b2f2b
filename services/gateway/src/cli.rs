//! The command line.

use crate::{
    auth::Authenticator,
    config::{CONFIG_VARIABLE, Config, Environment, Faults},
    demo,
    remote::{self, Admin, warm::Warm},
    server, telemetry,
};
use clap::{Parser, Subcommand};
use serde_json::json;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

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
        #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
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
    /// Serve a sample language model, OpenAI-compatible, deterministic and slow, to try things with
    SampleModel {
        /// Where it listens
        #[arg(long, default_value = "127.0.0.1:9100")]
        listen: SocketAddr,
        /// How long an answer takes
        #[arg(long, default_value = "800ms", value_parser = crate::config::duration)]
        delay: std::time::Duration,
    },
    /// Check a configuration and list every fault in it
    Check {
        /// The configuration, a TOML file
        #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
        config: Option<PathBuf>,
    },
    /// Purge stored responses in all nodes, through the admin port of one (POST /purge)
    Purge(Purge),
    /// Tell what each tier has for a URL, through the admin port (GET /entry)
    Entry(Entry),
    /// Fetch URLs into the cache ahead of their use, through the admin port (POST /warm)
    Warm(Warm),
}

/// What to purge.
#[derive(Debug, clap::Args)]
struct Purge {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    what: What,
    /// Make it stale instead of dead
    #[arg(long)]
    soft: bool,
    /// Wait until every live node has applied it, for at most this long; fail if one has not
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "5s")]
    wait: Option<String>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// URLs: all methods, variants and users
    #[arg(value_name = "URL")]
    urls: Vec<String>,
    /// What carries the tag in Surrogate-Key or Cache-Tag; may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// What begins with this URL
    #[arg(long, value_name = "URL")]
    prefix: Option<String>,
    /// Everything
    #[arg(long)]
    all: bool,
}

/// Which entry.
#[derive(Debug, clap::Args)]
struct Entry {
    #[command(flatten)]
    admin: Admin,
    /// The URL, with its host
    url: String,
    /// A request header that selects a variant, such as "Accept-Encoding: gzip"
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
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
            let config = match load(config.as_deref(), &environment) {
                Ok(config) => config,
                Err(faults) => return Ok(refused(&faults)),
            };
            let guard = telemetry::install(&config.telemetry)?;
            for warning in &config.warnings {
                tracing::warn!("{warning}");
            }
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
        Command::SampleModel { listen, delay } => {
            actix_web::rt::System::new().block_on(demo::serve_model(listen, delay))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { config } => Ok(match load(config.as_deref(), &environment) {
            Ok(config) => {
                for warning in &config.warnings {
                    println!("warning: {warning}");
                }
                let routes = config.routes.len();
                println!(
                    "the configuration is valid; {routes} route{}",
                    if routes == 1 { "" } else { "s" }
                );
                ExitCode::SUCCESS
            }
            Err(faults) => refused(&faults),
        }),
        Command::Purge(purge) => actix_web::rt::System::new().block_on(send_purges(purge)),
        Command::Entry(entry) => {
            let mut query = vec![("url", entry.url.as_str())];
            query.extend(
                entry
                    .header
                    .iter()
                    .map(|header| ("header", header.as_str())),
            );
            let path = format!("/entry?{}", remote::query(&query));
            let asked = remote::get(&entry.admin, &path);
            let answer = actix_web::rt::System::new().block_on(asked)?;
            println!("{}", serde_json::to_string_pretty(&answer)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Warm(warm) => {
            let whole = actix_web::rt::System::new().block_on(remote::warm::run(&warm))?;
            Ok(if whole {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}

/// One request for each URL, or one for all that is named otherwise.
async fn send_purges(purge: Purge) -> anyhow::Result<ExitCode> {
    let What {
        urls,
        tag,
        prefix,
        all,
    } = purge.what;
    let mut bodies: Vec<_> = urls.iter().map(|url| json!({ "url": url })).collect();
    let portions = tag.chunks(crate::admin::MAX_PURGE_TAGS);
    bodies.extend(portions.map(|tags| json!({ "tags": tags })));
    if let Some(prefix) = prefix {
        bodies.push(json!({ "prefix": prefix }));
    }
    if all {
        bodies.push(json!({ "all": true }));
    }
    let path = match &purge.wait {
        Some(wait) => {
            let timeout = remote::query(&[("timeout", wait)]);
            format!("/purge?wait=applied&{timeout}")
        }
        None => "/purge".to_owned(),
    };
    let mut code = ExitCode::SUCCESS;
    for mut body in bodies {
        body["soft"] = json!(purge.soft);
        let answer = remote::post(&purge.admin, &path, &body).await?;
        println!("{answer}");
        if let Some(missing) = answer["missing"]
            .as_array()
            .filter(|nodes| !nodes.is_empty())
        {
            let names: Vec<_> = missing.iter().filter_map(|name| name.as_str()).collect();
            eprintln!("weaver-gateway: not applied yet by {}", names.join(", "));
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// The configuration, with what only the files that it names can tell.
fn load(file: Option<&Path>, environment: &Environment) -> Result<Config, Faults> {
    let config = Config::load(file, environment)?;
    Authenticator::new(&config.auth).map_err(|error| Faults::one(format!("{error:#}")))?;
    Ok(config)
}

fn refused(faults: &Faults) -> ExitCode {
    eprint!("weaver-gateway: {faults}");
    ExitCode::from(USAGE)
}
