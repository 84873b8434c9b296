//! The people behind the subjects in the log: the erasure of a person.
//!
//! The event is the decision. What follows from it in the vault, in the queue and in the answers of idempotency keys can be
//! repeated, so a process completes what a crash has interrupted: [`erasure`].

pub(crate) mod erasure;
pub mod routes;

use std::sync::Arc;

use domain::player::PlayerDecider;
use domain::user::UserDecider;

use crate::engine::Engine;
use crate::engine::execute::Streams;

/// The write side of people.
#[derive(Debug)]
pub struct Subjects {
    engine: Arc<Engine>,
    users: Streams<UserDecider>,
    players: Streams<PlayerDecider>,
}

impl Subjects {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { users: engine.streams(), players: engine.streams(), engine }
    }
}
