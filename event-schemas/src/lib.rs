//! The contract: every event that Matchbook has ever stored or will store, as one Rust type each.
//!
//! The types, the variant names and the field names here *are* the stored form, so they are added to and never
//! changed: a committed fixture of every version (`fixtures/`) and a committed JSON Schema (`schemas/`) hold them still.
//! Start reading at [`envelope`], then at one category, say [`job`].
//!
//! This crate refuses to know how events are stored, decided, folded or served: it has no I/O, no clock and no rules.

pub mod catalogue;
pub mod challenge;
pub mod envelope;
pub mod failure;
pub mod ids;
pub mod job;
pub mod match_record;
pub mod matching;
pub mod player;
pub mod pool;
pub mod rating;
mod registry;
pub mod sealed;
pub mod stream;
pub mod time;
pub mod worker;
