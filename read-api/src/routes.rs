//! The read routes, one file for each thing that is read.

pub mod analysis;
pub mod audit;
pub mod challenge;
pub mod entry_stream;
pub mod history;
pub mod job;
pub mod match_record;
pub mod matching;
pub mod operations;
pub mod player;
pub mod projection;
pub mod queue;
pub mod retry;
pub mod stream;
pub mod worker;

pub(crate) use web::vocabulary::Tag;

use web::caller::{Role, Roles};

/// Who plays, or lets others play.
pub(crate) fn players() -> Roles {
    Role::User | Role::Service | Role::Admin
}
