//! The EventStoreDB gRPC protocol (v1), served over the embedded log.

pub mod proto;
