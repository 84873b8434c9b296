//! EventStoreDB and KurrentDB: the event log on a cluster, and their gRPC protocol over the embedded log.

#[cfg(feature = "eventstore")]
pub mod eventstore;
#[cfg(feature = "wire")]
pub mod wire;
