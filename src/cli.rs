//! The commands of the program, and their errors and exit codes.

mod api_key;
mod demo;
mod doctor;
mod events;
mod experiments;
mod jobs;
mod products;
mod projections;
#[cfg(feature = "simulation")]
mod simulate;
mod subjects;
mod token;
mod vault;
mod what_if;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use matchbook::config::{self, Config};
use matchbook::failure::{self, Failure, print};
use matchbook::serve;
use rustix::fs::Mode;
use serde::Serialize;
use serde_json::Value;

/// An event-sourced backend for image matching, matchmaking and background jobs
#[derive(Parser, Debug)]
#[command(version, about, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  matchbook serve                          start the server on http://127.0.0.1:8080
  matchbook demo                           run a real matching job on it (needs a worker; ./run starts both)
  matchbook jobs list --status running     list the jobs in progress; `show`, `cancel` and `retry` take the id of one
  matchbook events tail                    print every event as it is recorded
  matchbook events verify --data ./data    verify all checksums of a stopped server's log
  matchbook events repair --data ./data    show how a damaged log can be repaired; --apply does it, and deletes nothing
  matchbook events backup --to ./backup    back up the log of a running server, or update a backup
  matchbook products import FILE           import a catalogue, one product per line
  matchbook cutouts import FILE            import cutouts, one per line
  matchbook doctor                         diagnose problems on this machine

Exit codes: 0 done, 1 failed, 2 wrong usage, 65 damaged data, 69 not reachable, 74 disk error, 75 in use by another process";

#[derive(Subcommand, Debug)]
enum Command {
    /// Start the server
    Serve {
        #[command(flatten)]
        config: Box<Config>,
        /// A TOML file with settings; keys are the flags' names
        #[arg(long = "config", env = "MATCHBOOK_CONFIG", value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Create a matching job from a folder of images on a running server, and run it to completion
    Demo(demo::Demo),
    /// Check this machine, the data folder and a running server
    Doctor(doctor::Doctor),
    /// Read, back up, restore, migrate, verify and repair the event log
    Events {
        #[command(subcommand)]
        command: events::Events,
    },
    /// Manage the subject vault: names and keys of users, which are not in the event log
    Vault {
        #[command(subcommand)]
        command: vault::Vault,
    },
    /// Report what a running server knows of a user, and erase a user
    Subjects {
        #[command(subcommand)]
        command: subjects::Subjects,
    },
    /// List, show, cancel and retry jobs of a running server
    Jobs {
        #[command(subcommand)]
        command: jobs::Jobs,
    },
    /// List and show the workers of a running server
    Workers {
        #[command(subcommand)]
        command: workers::Workers,
    },
    /// Import cutouts, which may show products, into a running server
    Cutouts {
        #[command(subcommand)]
        command: products::Cutouts,
    },
    /// Import products into the catalogue of a running server
    Products {
        #[command(subcommand)]
        command: products::Products,
    },
    /// Show the results of an experiment of a running server
    Experiments {
        #[command(subcommand)]
        command: experiments::Experiments,
    },
    /// Ask a running server what another configuration would have done with its history
    WhatIf(what_if::WhatIfCommand),
    /// Manage read models of a running server
    Projections {
        #[command(subcommand)]
        command: projections::Projections,
    },
    /// Run fault simulations
    #[cfg(feature = "simulation")]
    Simulate {
        #[command(subcommand)]
        command: simulate::Simulate,
    },
    /// Make, list and revoke API keys
    ApiKey {
        #[command(subcommand)]
        command: api_key::ApiKey,
    },
    /// Mint a token for the API, signed with the shared secret
    Token(token::Token),
    /// Print the table of all settings
    Settings,
    /// Print the OpenAPI document
    Openapi,
}

/// Parses the command line and runs the command.
pub(crate) fn main() -> ExitCode {
    // Files and folders are private, whichever library creates them: events, user ids and keys are in them.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let cli = match parse() {
        Ok(cli) => cli,
        Err(failure) => return failure::report(&failure, false),
    };
    let json = cli.json;
    failure::run(run(cli), json)
}

async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Serve { config, .. } => serve::run(*config, cli.json).await,
        Command::Demo(demo) => demo.run(cli.json).await,
        Command::Doctor(doctor) => doctor.run(cli.json).await,
        Command::Events { command } => command.run(cli.json).await,
        Command::Vault { command } => command.run(cli.json).await,
        Command::Subjects { command } => command.run(cli.json).await,
        Command::Jobs { command } => command.run(cli.json).await,
        Command::Workers { command } => command.run(cli.json).await,
        Command::Cutouts { command } => command.run(cli.json).await,
        Command::Products { command } => command.run(cli.json).await,
        Command::Experiments { command } => command.run(cli.json).await,
        Command::WhatIf(command) => command.run(cli.json).await,
        Command::Projections { command } => command.run(cli.json).await,
        #[cfg(feature = "simulation")]
        Command::Simulate { command } => command.run(cli.json).await,
        Command::ApiKey { command } => command.run(cli.json),
        Command::Token(token) => token.run(cli.json),
        Command::Settings if cli.json => print(&config::json()),
        Command::Settings => print(&config::markdown().trim_end()),
        Command::Openapi => serve::print_openapi().await,
    }
}

/// Parses the command line. The settings file is read first, because its values become the defaults.
fn parse() -> Result<Cli, Failure> {
    let mut command = Cli::command();
    if let Some(path) = settings_file() {
        let mut broken = None;
        command = command.mut_subcommand("serve", |serve| {
            config::with_file(serve.clone(), &path).unwrap_or_else(|error| {
                broken = Some(error);
                serve
            })
        });
        if let Some(error) = broken {
            return Err(Failure::Usage(error.to_string()));
        }
    }
    let matches = command.get_matches();
    Cli::from_arg_matches(&matches).map_err(|error| Failure::Usage(error.to_string()))
}

/// `1 match`, or `2 matches`.
fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// The text of a value in the API; a dash if it is missing.
fn text(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        _ => "–".to_owned(),
    }
}

fn settings_file() -> Option<PathBuf> {
    let mut arguments = std::env::args_os();
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    std::env::var_os("MATCHBOOK_CONFIG").map(PathBuf::from)
}
