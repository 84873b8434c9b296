//! What a group says of itself.

use super::flow::Standing;
use super::message::{place_text, start};
use super::settings::{Key, Place, Settings};
use crate::wire::proto::event_store::client::persistent_subscriptions::SubscriptionInfo;
use crate::wire::proto::event_store::client::persistent_subscriptions::subscription_info::ConnectionInfo;

/// A consumer's call, for whoever looks.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) from: String,
    pub(super) user: String,
    pub(super) name: String,
    pub(super) given: u64,
}

impl Connection {
    pub(super) fn info(&self, slots: usize, busy: usize) -> ConnectionInfo {
        ConnectionInfo {
            from: self.from.clone(),
            username: self.user.clone(),
            connection_name: self.name.clone(),
            total_items: i64::try_from(self.given).unwrap_or(i64::MAX),
            available_slots: int(slots.saturating_sub(busy)),
            in_flight_messages: int(busy),
            ..ConnectionInfo::default()
        }
    }
}

/// What the flow of events does not know.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) connections: Vec<ConnectionInfo>,
    pub(super) checkpoint: Option<Place>,
    pub(super) last_known: Option<u64>,
    pub(super) parked: u64,
    pub(super) given: u64,
}

pub(super) fn of_group(key: &Key, settings: &Settings, standing: &Standing, rest: Rest) -> SubscriptionInfo {
    let is_live = rest.last_known.is_none_or(|last| standing.next > Place(last));
    let text =
        |place: Option<u64>| place.map_or_else(String::new, |place| place_text(place.into(), &key.source));
    // The last event that is done, not the next that is to be.
    let checkpointed = rest.checkpoint.and_then(|place| place.0.checked_sub(1));
    SubscriptionInfo {
        event_source: key.source.name().to_owned(),
        group_name: key.group.clone(),
        status: if is_live { "Live" } else { "Behind" }.to_owned(),
        connections: rest.connections,
        total_items: i64::try_from(rest.given).unwrap_or(i64::MAX),
        last_checkpointed_event_position: text(checkpointed),
        last_known_event_position: text(rest.last_known),
        resolve_link_tos: settings.resolve_links,
        start_from: start(settings.start, &key.source),
        message_timeout_milliseconds: int(settings.message_timeout.as_millis()),
        extra_statistics: settings.extra_statistics,
        max_retry_count: int(settings.max_retries),
        live_buffer_size: int(settings.live_buffer_size),
        buffer_size: int(settings.history_buffer_size),
        read_batch_size: int(settings.read_batch_size),
        check_point_after_milliseconds: int(settings.checkpoint_after.as_millis()),
        min_check_point_count: int(settings.min_checkpoint_count),
        max_check_point_count: int(settings.max_checkpoint_count),
        read_buffer_count: int(standing.waiting),
        live_buffer_count: 0,
        retry_buffer_count: int(standing.again),
        total_in_flight_messages: int(standing.out),
        outstanding_messages_count: int(standing.out),
        named_consumer_strategy: settings.strategy.name().to_owned(),
        max_subscriber_count: int(settings.max_subscribers),
        parked_message_count: i64::try_from(rest.parked).unwrap_or(i64::MAX),
        ..SubscriptionInfo::default()
    }
}

fn int<T: TryInto<i32>>(number: T) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}
