//! The real program under faults: nothing acknowledged is lost, nothing is made up, and it says what is wrong.

mod damage;
mod disk;
pub(crate) mod kills;
mod leases;
mod power;
mod refusals;
mod repair;
mod shutdown;
mod streams;
