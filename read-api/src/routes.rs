//! The read routes, one file per resource.

pub mod analysis;
pub mod audit;
pub mod challenge;
pub mod entry_stream;
pub mod game_match;
pub mod history;
pub mod job;
pub mod matching;
pub mod operations;
pub mod player;
pub mod projection;
pub mod queue;
pub mod retry;
pub mod stream;
pub mod worker;

pub(crate) use web::enums::Tag;

use web::caller::{Role, Roles};

/// The roles that may use the matchmaking routes.
pub(crate) fn player_roles() -> Roles {
    Role::User | Role::Service | Role::Admin
}
