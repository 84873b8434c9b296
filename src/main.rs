//! The program `matchbook`: command line, settings, and the wiring of the components. It contains no business rules.

mod access;
mod api;
mod cli;
#[cfg_attr(not(feature = "eventstore"), path = "cluster_absent.rs")]
mod cluster;
mod config;
#[cfg_attr(not(feature = "wire"), path = "wire_absent.rs")]
mod wire;
mod wiring;

fn main() -> std::process::ExitCode {
    cli::main()
}
