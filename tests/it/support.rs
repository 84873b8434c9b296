//! What the integration tests stand on: the real program, started on a free port in a temporary folder.

pub(crate) mod job;
pub(crate) mod server;
