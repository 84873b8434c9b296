//! The errors of the commands, their exit codes, and the output of the programs.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use event_log_embedded::OpenError;
use futures_util::FutureExt;
use vault::VaultError;

use crate::open_files::exhausted;

/// The error of a command. Each kind has its own exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
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
    pub fn exit_code(&self) -> u8 {
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

/// Runs a command on all cores, and reports its failure.
pub fn run(command: impl Future<Output = Result<(), Failure>>, json: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::Failed(format!("cannot start threads: {error}")), json),
    };
    match runtime.block_on(command.boxed_local()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure, json),
    }
}

/// Writes a line to standard output.
///
/// # Errors
/// [`Failure::BrokenPipe`], so that the command ends without a message; [`Failure::Disk`] if the output is a file on a full disk.
pub fn print(line: &dyn std::fmt::Display) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{line}").map_err(|error| output_failure(&error))
}

/// Prints the progress of a command: on a terminal in the same line, elsewhere line by line.
///
/// # Errors
/// As [`print`].
pub fn print_progress(line: &str) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return print(&line);
    }
    let mut out = std::io::stdout().lock();
    let shown = write!(out, "\r\x1b[2K{line}").and_then(|()| out.flush());
    shown.map_err(|error| output_failure(&error))
}

/// The failure for an error of writing the output.
pub fn output_failure(error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
        _ => Failure::Disk(format!("cannot write the output: {error}")),
    }
}

/// Writes the failure to standard error, and returns its exit code.
pub fn report(failure: &Failure, json: bool) -> ExitCode {
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

/// The failure of a vault that cannot be opened in this file or database.
pub fn vault_failure(place: &dyn std::fmt::Display, error: &VaultError) -> Failure {
    let message = format!("{place}: {error}");
    if let Some(failure) = exhausted(&message) {
        return failure;
    }
    match error {
        VaultError::Damaged(_)
        | VaultError::Inconsistent(_)
        | VaultError::Lost
        | VaultError::CorruptKey(_)
        | VaultError::Sealed(_) => Failure::Damaged(message),
        VaultError::Refused(_)
        | VaultError::Newer(_)
        | VaultError::Moved { .. }
        | VaultError::OtherVault { .. } => Failure::Usage(message),
        VaultError::Unavailable(_) => Failure::Unreachable(message),
        VaultError::Store(_) | VaultError::NoRandomness | VaultError::Failed => Failure::Disk(message),
    }
}

/// The failure of an embedded log that cannot be opened.
pub fn open_failure(error: &OpenError) -> Failure {
    let message = error.to_string();
    if let OpenError::Io(_) = error
        && let Some(failure) = exhausted(&message)
    {
        return failure;
    }
    match error {
        OpenError::Locked { .. } => Failure::InUse(message),
        OpenError::Damaged { .. } | OpenError::UnfinishedRepair { .. } => Failure::Damaged(message),
        OpenError::NewerFormat { .. } | OpenError::NotALog { .. } => Failure::Usage(message),
        OpenError::Full { .. } | OpenError::Io(_) => Failure::Disk(message),
    }
}
