//! The program `matchbook`: its command line.

mod cli;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Chosen by measurement: `docs/performance.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The environment variable, and the milliseconds after which the allocator returns freed memory to the system. With its
/// default, a second, a server that receives many image matches has a third more memory in use.
const PURGE_DELAY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "100");

fn main() -> ExitCode {
    set_purge_delay();
    cli::main()
}

/// The allocator reads its settings from the environment before `main`, and only unsafe code could change them later. So a
/// server executes its program once more, in the same process, with the setting.
fn set_purge_delay() {
    let (name, delay) = PURGE_DELAY;
    let mut arguments = std::env::args_os();
    let called_as = arguments.next().unwrap_or_default();
    let is_server = std::env::args_os().any(|argument| argument == "serve");
    if is_server
        && std::env::var_os(name).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        // It returns only if it fails: then the server runs with the allocator's default.
        let _ = Command::new(program).arg0(called_as).args(arguments).env(name, delay).exec();
    }
}
