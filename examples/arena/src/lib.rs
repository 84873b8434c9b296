//! A stand-in game server and players, for trying matchmaking out: the server makes a game for each match, plays it by
//! itself after a while and reports the result to Matchbook; the players queue, challenge each other, and queue again.
//!
//! Start reading at [`arena`] for the one and at [`bot`] for the other. How strong each player really is, both know from
//! the seed ([`strength`]), and Matchbook has to find out from results. The game server can be told to fail ([`fault`]).
//! This crate refuses to know Matchbook's types: it speaks its HTTP API, as a game server in any language would. Nothing
//! of it is stored.

pub mod api;
pub mod arena;
pub mod bot;
pub mod crowd;
pub mod entry;
pub mod fault;
pub mod game;
pub mod habits;
pub mod report;
pub mod seats;
pub mod service;
pub mod strength;
