//! The write side: whatever changes something goes through here, and comes out as events in the log.
//!
//! Start reading at [`execute`]. This crate refuses to know read models: it decides from the log alone.

pub mod execute;
pub mod idempotency;
pub mod vault;
