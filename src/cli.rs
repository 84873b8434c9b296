//! The commands of the program, and what they say when they fail.

mod bench;
pub(crate) mod client;
mod demo;
mod doctor;
mod events;
mod projections;
mod serve;
mod token;
#[cfg(feature = "torture")]
mod torture;
mod vault;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use futures_util::FutureExt;

use crate::config::{self, Config};

/// An event-sourced backend for everything that matches.
#[derive(Parser, Debug)]
#[command(version, about, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  matchbook serve                          start the server on http://127.0.0.1:8080
  matchbook demo                           run a real matching job on it (start a worker, too: ./run does all of it)
  matchbook events tail                    watch every event as it is recorded
  matchbook events verify --data ./data    read a stopped server's log and tell whether every byte is right
  matchbook events repair --data ./data    show what could be kept of a damaged log; --apply does it, and deletes nothing
  matchbook events backup --to ./backup    back up the log of a running server, or add what is new
  matchbook doctor                         look for what is wrong on this machine

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
    /// Create a matching job from a folder of pictures on a running server, and lead it to its end
    Demo(demo::Demo),
    /// Check this machine, the data folder and a running server
    Doctor(doctor::Doctor),
    /// Read, back up, restore, move, verify and repair the event log
    Events {
        #[command(subcommand)]
        command: events::Events,
    },
    /// Look after the names of people, which are not in the event log
    Vault {
        #[command(subcommand)]
        command: vault::Vault,
    },
    /// Look after the read models of a running server
    Projections {
        #[command(subcommand)]
        command: projections::Projections,
    },
    /// Measure a running server, or the event log on this machine
    Bench {
        #[command(subcommand)]
        command: bench::Bench,
    },
    /// Let the log meet power cuts, failing calls, full disks and changed bits on a simulated disk
    #[cfg(feature = "torture")]
    Torture(torture::Torture),
    /// Make a token for the API, signed with the shared secret
    Token(token::Token),
    /// Print the table of all settings
    Settings,
    /// Print the OpenAPI document
    Openapi,
}

/// Why a command failed. Each kind has an exit code of its own.
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
    /// Whoever read the output has seen enough, as `head` does.
    #[error("nobody reads the output any more")]
    ReaderGone,
}

impl Failure {
    /// The codes of sysexits.h, which service managers know.
    fn exit_code(&self) -> u8 {
        match self {
            Self::ReaderGone => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Damaged(_) => 65,
            Self::Unreachable(_) => 69,
            Self::Disk(_) => 74,
            Self::InUse(_) => 75,
        }
    }
}

/// Parses the command line and carries it out.
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
        #[cfg(feature = "torture")]
        Command::Torture(torture) => torture.run(cli.json).await,
        Command::Token(token) => token.run(cli.json),
        Command::Settings if cli.json => print(&config::json()),
        Command::Settings => print(&config::markdown().trim_end()),
        Command::Openapi => serve::print_openapi().await,
    }
}

/// The settings file has to be read before the command line, because it makes the defaults.
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
/// [`Failure::ReaderGone`], so that the command ends quietly; [`Failure::Disk`] where output goes to a full one.
pub(crate) fn print(line: &dyn std::fmt::Display) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{line}").map_err(|error| written(&error))
}

/// Why output could not be written.
pub(crate) fn written(error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => Failure::Disk(format!("cannot write the output: {error}")),
    }
}

fn report(failure: &Failure, json: bool) -> ExitCode {
    if matches!(failure, Failure::ReaderGone) {
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
