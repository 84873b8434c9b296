//! Clients of services outside: what leaves this process, and what comes back, and nothing of why.

pub mod live_game;
