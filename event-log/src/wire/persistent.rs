//! Persistent subscriptions: groups of consumers that share the events of a stream or of the whole log.
//!
//! A group gives each event to one consumer, again if that fails, and parks it if it fails too often. Which groups there
//! are, how far each is and what it has parked are events of the log, so that a group goes on after a restart; events that
//! were done after its last checkpoint are given out again.
//!
//! - `settings` is what a group follows and how, `record` what of it is kept;
//! - `flow` knows where each event is, `group` does what follows from it, `groups` knows all of them;
//! - `service` is what clients call, `message`, `info` and `refusal` translate.

mod flow;
mod group;
mod groups;
mod info;
mod message;
mod record;
mod refusal;
mod service;
mod settings;

pub(super) use service::GroupsService;
