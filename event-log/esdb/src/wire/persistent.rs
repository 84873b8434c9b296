//! Persistent subscriptions: groups of consumers that share the events of a stream or of the whole log.
//!
//! A group delivers each event to one consumer, retries it if that fails, and parks it if it fails too often. The groups, their
//! checkpoints and their parked events are stored in the log, so that a group resumes after a restart; events that were
//! acknowledged after its last checkpoint are delivered again.
//!
//! - `settings` has the source and settings of a group, `group_events` its events in the log;
//! - `delivery_state` tracks the state of each event, `group` is the task of a group, `groups` manages all groups;
//! - `service` implements the calls; `group_conversion`, `info` and `refusal` convert messages.

mod delivery_state;
mod group;
mod group_conversion;
mod group_events;
mod groups;
mod info;
mod refusal;
mod service;
mod settings;

pub(super) use service::GroupsService;
