//! The commands of the program, and their errors and exit codes.

mod bench;
pub(crate) mod client;
mod demo;
mod doctor;
mod events;
mod projections;
mod serve;
#[cfg(feature = "simulation")]
mod simulate;
mod token;
mod vault;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use futures_util::FutureExt;

use crate::config::{self, Config};

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
  matchbook events tail                    print every event as it is recorded
  matchbook events verify --data ./data    verify all checksums of a stopped server's log
  matchbook events repair --data ./data    show how a damaged log can be repaired; --apply does it, and deletes nothing
  matchbook events backup --to ./backup    back up the log of a running server, or update a backup
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
    /// Manage read models of a running server
    Projections {
        #[command(subcommand)]
        command: projections::Projections,
    },
    /// Measure a running server, or the event log on this machine
    Bench {
        #[command(subcommand)]
        command: bench::Bench,
    },
    /// Run fault simulations
    #[cfg(feature = "simulation")]
    Simulate {
        #[command(subcommand)]
        command: simulate::Simulate,
    },
    /// Mint a token for the API, signed with the shared secret
    Token(token::Token),
    /// Print the table of all settings
    Settings,
    /// Print the OpenAPI document
    Openapi,
}

/// The error of a command. Each kind has its own exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Disk(String),
    #[error("{0}")]
    InUse(String),
    #[error("{0}")]
    Failed(String),
    /// The reader of the output has closed the pipe, as `head` does.
    #[error("the output pipe was closed")]
    BrokenPipe,
}

impl Failure {
    /// The codes of sysexits.h, which service managers know.
    fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Damaged(_) => 65,
            Self::Unreachable(_) => 69,
            Self::Disk(_) => 74,
            Self::InUse(_) => 75,
        }
    }
}

/// Parses the command line and runs the command.
pub(crate) fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(failure) => return report(&failure, false),
    };
    let json = cli.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::Failed(format!("cannot start threads: {error}")), json),
    };
    match runtime.block_on(run(cli).boxed_local()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure, json),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Serve { config, .. } => serve::run(*config, cli.json).await,
        Command::Demo(demo) => demo.run(cli.json).await,
        Command::Doctor(doctor) => doctor.run(cli.json).await,
        Command::Events { command } => command.run(cli.json).await,
        Command::Vault { command } => command.run(cli.json).await,
        Command::Projections { command } => command.run(cli.json).await,
        Command::Bench { command } => command.run(cli.json).await,
        #[cfg(feature = "simulation")]
        Command::Simulate { command } => command.run(cli.json).await,
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

/// Writes a line to standard output.
///
/// # Errors
/// [`Failure::BrokenPipe`], so that the command ends without a message; [`Failure::Disk`] if the output is a file on a full disk.
pub(crate) fn print(line: &dyn std::fmt::Display) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{line}").map_err(|error| output_failure(&error))
}

/// Prints the progress of a command: on a terminal in the same line, elsewhere line by line.
pub(crate) fn print_progress(line: &str) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return print(&line);
    }
    let mut out = std::io::stdout().lock();
    let shown = write!(out, "\r\x1b[2K{line}").and_then(|()| out.flush());
    shown.map_err(|error| output_failure(&error))
}

/// The failure for an error of writing the output.
pub(crate) fn output_failure(error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
        _ => Failure::Disk(format!("cannot write the output: {error}")),
    }
}

fn report(failure: &Failure, json: bool) -> ExitCode {
    if matches!(failure, Failure::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    if json {
        eprintln!(
            "{}",
            serde_json::json!({ "error": failure.to_string(), "exit_code": failure.exit_code() })
        );
    } else {
        eprintln!("matchbook: {failure}");
    }
    ExitCode::from(failure.exit_code())
}
