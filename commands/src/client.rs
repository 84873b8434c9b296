//! Clients of services outside: what leaves this process, and what comes back, and nothing of why.

pub(crate) mod guard;
mod http;
pub mod live_game;
pub mod rating_service;
