//! Clients of external services: only their requests and responses, without any rules.

pub(crate) mod circuit_breaker;
mod http;
pub mod live_game;
pub mod rating_service;
