//! What the programs of this package share: settings, the wiring of the components, the HTTP client, errors and output.
//! It contains no business rules.

mod access;
mod address;
mod api;
pub mod api_keys;
pub mod client;
#[cfg_attr(not(feature = "eventstore"), path = "cluster_absent.rs")]
pub mod cluster;
pub mod config;
mod encoder_component;
mod export_store;
mod exports;
pub mod failure;
mod jwks;
mod metrics;
mod open_files;
mod open_vault;
pub mod serve;
#[cfg_attr(not(feature = "transformer"), path = "text_encoder_absent.rs")]
mod text_encoder;
#[cfg_attr(not(feature = "wire"), path = "wire_absent.rs")]
mod wire;
mod wiring;
