//! The real program under faults: it loses nothing acknowledged, records nothing else, and reports the cause.

mod any_file;
mod damage;
mod damaged_read_models;
mod disk;
pub(crate) mod kills;
mod leases;
mod power;
mod repair;
mod shutdown;
mod stalled_subscribers;
mod unusable_folders;
