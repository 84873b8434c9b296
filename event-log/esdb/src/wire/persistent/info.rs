//! The status report of a group.

use super::delivery_state::DeliveryStats;
use super::group_conversion::{position_text, start_text};
use super::settings::{GroupKey, Settings, SourcePosition};
use crate::wire::proto::event_store::client::persistent_subscriptions::SubscriptionInfo;
use crate::wire::proto::event_store::client::persistent_subscriptions::subscription_info::ConnectionInfo;

/// The call of a consumer.
#[derive(Debug)]
pub(super) struct ConsumerConnection {
    pub(super) from: String,
    pub(super) user: String,
    pub(super) name: String,
    pub(super) delivered: u64,
}

impl ConsumerConnection {
    pub(super) fn info(&self, slots: usize, busy: usize) -> ConnectionInfo {
        ConnectionInfo {
            from: self.from.clone(),
            username: self.user.clone(),
            connection_name: self.name.clone(),
            total_items: i64::try_from(self.delivered).unwrap_or(i64::MAX),
            available_slots: int(slots.saturating_sub(busy)),
            in_flight_messages: int(busy),
            ..ConnectionInfo::default()
        }
    }
}

/// The parts of the report that are not in [`DeliveryStats`].
#[derive(Debug)]
pub(super) struct GroupCounters {
    pub(super) connections: Vec<ConnectionInfo>,
    pub(super) checkpoint: Option<SourcePosition>,
    pub(super) last_known: Option<u64>,
    pub(super) parked: u64,
    pub(super) delivered: u64,
}

pub(super) fn subscription_info(
    key: &GroupKey,
    settings: &Settings,
    stats: &DeliveryStats,
    counters: GroupCounters,
) -> SubscriptionInfo {
    let is_live = counters.last_known.is_none_or(|last| stats.next > SourcePosition(last));
    let text = |position: Option<u64>| {
        position.map_or_else(String::new, |position| position_text(position.into(), &key.source))
    };
    // The report has the last event that is done; the checkpoint is the next one.
    let checkpointed = counters.checkpoint.and_then(|position| position.0.checked_sub(1));
    SubscriptionInfo {
        event_source: key.source.name().to_owned(),
        group_name: key.group.clone(),
        status: if is_live { "Live" } else { "Behind" }.to_owned(),
        connections: counters.connections,
        total_items: i64::try_from(counters.delivered).unwrap_or(i64::MAX),
        last_checkpointed_event_position: text(checkpointed),
        last_known_event_position: text(counters.last_known),
        resolve_link_tos: settings.resolve_links,
        start_from: start_text(settings.start, &key.source),
        message_timeout_milliseconds: int(settings.message_timeout.as_millis()),
        extra_statistics: settings.extra_statistics,
        max_retry_count: int(settings.max_retries),
        live_buffer_size: int(settings.live_buffer_size),
        buffer_size: int(settings.history_buffer_size),
        read_batch_size: int(settings.read_batch_size),
        check_point_after_milliseconds: int(settings.checkpoint_after.as_millis()),
        min_check_point_count: int(settings.min_checkpoint_count),
        max_check_point_count: int(settings.max_checkpoint_count),
        read_buffer_count: int(stats.read_buffer),
        live_buffer_count: 0,
        retry_buffer_count: int(stats.retry_buffer),
        total_in_flight_messages: int(stats.in_flight),
        outstanding_messages_count: int(stats.in_flight),
        named_consumer_strategy: settings.strategy.to_string(),
        max_subscriber_count: int(settings.max_subscribers),
        parked_message_count: i64::try_from(counters.parked).unwrap_or(i64::MAX),
        ..SubscriptionInfo::default()
    }
}

fn int<T: TryInto<i32>>(number: T) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}
