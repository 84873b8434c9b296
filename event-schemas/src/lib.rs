//! The contract: every event that Matchbook has ever stored or will store, as one Rust type each.
//!
//! The types, the variant names and the field names here *are* the stored form. They are extended and never
//! changed: a committed fixture of every version (`fixtures/`) and a committed JSON Schema (`schemas/`) protect
//! them. Start reading at [`envelope`], then at one category such as [`job`].
//!
//! This crate has no I/O, no clock and no rules: it does not know how events are stored, decided, folded or
//! served.

pub mod catalogue;
pub mod challenge;
pub mod envelope;
pub mod failure;
pub mod game_match;
pub mod ids;
pub mod image_match;
pub mod job;
pub mod player;
pub mod pool;
pub mod rating;
mod registry;
pub mod sealed;
pub mod stream;
pub mod time;
pub mod worker;
