//! A simulated game server and players, for tests and demonstrations of matchmaking: the server creates a game for each
//! match, simulates it and reports the result to Matchbook; the players join queues and challenge each other.
//!
//! Start reading at [`arena`] for the server and at [`bot`] for the players. Both derive the true strength of each player
//! from the seed ([`strength`]); Matchbook estimates it from the results. Faults can be injected ([`fault`]). This crate
//! does not depend on Matchbook's crates: it uses the HTTP API, like a game server in any language. Nothing is stored.

pub mod api;
pub mod arena;
pub mod bot;
pub mod crowd;
pub mod entry;
pub mod fault;
pub mod game;
pub mod habits;
pub mod player_view;
pub mod report;
pub mod service;
pub mod strength;
