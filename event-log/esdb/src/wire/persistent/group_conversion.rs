//! Conversion of groups and their events from and to messages of the protocol.

use std::time::Duration;

use event_schemas::envelope::Recorded;

use super::group_events::FilterRecord;
use super::refusal::GroupRefusal;
use super::settings::{
    GroupKey, GroupSource, GroupStart, InvalidSettings, Settings, SourcePosition, Strategy,
};
use crate::wire::event_conversion::{self, UuidFormat};
use crate::wire::proto::event_store::client as shared;
use crate::wire::proto::event_store::client::persistent_subscriptions as proto;
use crate::wire::proto::event_store::client::streams::read_resp as streams;
use crate::wire::refusal::Refusal;
use proto::create_req::all_options::{AllOption, FilterOption, filter_options::Filter};
use proto::create_req::options::StreamOption;
use proto::create_req::settings::{CheckpointAfter, MessageTimeout};
use proto::create_req::stream_options::RevisionOption;

/// The longest name of a group, in bytes.
const GROUP_BYTES_MAX: usize = 512;

/// The request of `Create` or `Update`.
#[derive(Debug)]
pub(super) struct GroupRequest {
    pub(super) key: GroupKey,
    pub(super) filter: Option<FilterRecord>,
    pub(super) settings: Settings,
}

pub(super) fn key(source: GroupSource, group: String) -> Result<GroupKey, Refusal> {
    let is_text = !group.is_empty() && group.len() <= GROUP_BYTES_MAX && !group.chars().any(char::is_control);
    if !is_text {
        return Err(Refusal::Malformed("a group's name must be 1 to 512 bytes without control characters"));
    }
    let key = GroupKey { source, group };
    match super::group_events::streams(&key) {
        Some(_) => Ok(key),
        None => Err(Refusal::Malformed("the names of the stream and the group are too long together")),
    }
}

/// The source of a group, from the stream name in a message.
pub(super) fn source(stream: Option<&shared::StreamIdentifier>) -> Result<GroupSource, Refusal> {
    // Some clients name the whole log like a stream.
    let stream = event_conversion::stream_id(stream)?;
    Ok(if stream.as_str() == "$all" { GroupSource::All } else { GroupSource::Stream(stream) })
}

/// Ticks of 100 ns, which some clients send.
fn ticks(ticks: i64) -> Duration {
    Duration::from_micros(u64::try_from(ticks / 10).unwrap_or(0))
}

fn millis(millis: i32) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

fn strategy_by_number(strategy: i32) -> Result<Strategy, InvalidSettings> {
    match strategy {
        0 => Ok(Strategy::DispatchToSingle),
        1 => Ok(Strategy::RoundRobin),
        2 => Ok(Strategy::Pinned),
        _ => Err(InvalidSettings::Strategy),
    }
}

fn strategy_by_name(strategy: &str) -> Result<Strategy, InvalidSettings> {
    strategy.parse().map_err(|_| InvalidSettings::Strategy)
}

/// The start in the older form of a message, which has one number for all cases.
fn old_start(revision: u64) -> GroupStart {
    match revision {
        u64::MAX => GroupStart::End,
        0 => GroupStart::First,
        revision => GroupStart::At(SourcePosition(revision)),
    }
}

pub(super) fn create(request: proto::CreateReq) -> Result<GroupRequest, GroupRefusal> {
    let options = request.options.ok_or(Refusal::Malformed("the call has no options"))?;
    let settings = options.settings.ok_or(Refusal::Malformed("the group has no settings"))?;
    let (group_source, start, filter) = match options.stream_option {
        Some(StreamOption::Stream(options)) => {
            let start = match options.revision_option {
                Some(RevisionOption::Revision(revision)) => GroupStart::At(SourcePosition(revision)),
                Some(RevisionOption::End(_)) => GroupStart::End,
                Some(RevisionOption::Start(_)) | None => GroupStart::First,
            };
            (source(options.stream_identifier.as_ref())?, start, None)
        }
        Some(StreamOption::All(options)) => {
            let start = match options.all_option {
                Some(AllOption::Position(position)) => {
                    GroupStart::At(SourcePosition(position.commit_position))
                }
                Some(AllOption::End(_)) => GroupStart::End,
                Some(AllOption::Start(_)) | None => GroupStart::First,
            };
            (GroupSource::All, start, filter(options.filter_option)?)
        }
        // The form of clients before 21.10, which one current client still sends.
        #[allow(deprecated)]
        None => (source(options.stream_identifier.as_ref())?, old_start(settings.revision), None),
    };
    let key = key(group_source, options.group_name)?;
    if let Some(filter) = &filter {
        filter.compile()?;
    }
    match group_settings(&settings, start) {
        Ok(settings) => Ok(GroupRequest { key, filter, settings }),
        Err(reason) => Err(GroupRefusal::InvalidSettings { key, reason }),
    }
}

fn group_settings(
    settings: &proto::create_req::Settings,
    start: GroupStart,
) -> Result<Settings, InvalidSettings> {
    let number = |number: i32| u32::try_from(number).map_err(|_| InvalidSettings::Negative);
    #[allow(deprecated)]
    let strategy = match settings.consumer_strategy.as_str() {
        "" => strategy_by_number(settings.named_consumer_strategy)?,
        name => strategy_by_name(name)?,
    };
    let settings = Settings {
        start,
        resolve_links: settings.resolve_links,
        extra_statistics: settings.extra_statistics,
        message_timeout: match settings.message_timeout {
            Some(MessageTimeout::MessageTimeoutTicks(count)) => ticks(count),
            Some(MessageTimeout::MessageTimeoutMs(count)) => millis(count),
            None => Duration::from_secs(30),
        },
        max_retries: number(settings.max_retry_count)?,
        checkpoint_after: match settings.checkpoint_after {
            Some(CheckpointAfter::CheckpointAfterTicks(count)) => ticks(count),
            Some(CheckpointAfter::CheckpointAfterMs(count)) => millis(count),
            None => Duration::from_secs(2),
        },
        min_checkpoint_count: number(settings.min_checkpoint_count)?,
        max_checkpoint_count: number(settings.max_checkpoint_count)?,
        max_subscribers: number(settings.max_subscriber_count)?,
        live_buffer_size: number(settings.live_buffer_size)?,
        read_batch_size: number(settings.read_batch_size)?,
        history_buffer_size: number(settings.history_buffer_size)?,
        strategy,
    };
    settings.check()?;
    Ok(settings)
}

/// An update has the same fields as a creation, in messages of other types. It cannot change the filter.
pub(super) fn update(request: proto::UpdateReq) -> Result<GroupRequest, GroupRefusal> {
    create(proto::CreateReq { options: request.options.map(to_create_options) })
}

#[allow(deprecated)]
fn to_create_options(options: proto::update_req::Options) -> proto::create_req::Options {
    use proto::update_req::all_options::AllOption as All;
    use proto::update_req::options::StreamOption as Old;
    use proto::update_req::settings::{CheckpointAfter as After, MessageTimeout as Timeout};
    use proto::update_req::stream_options::RevisionOption as Revision;
    let stream_option = options.stream_option.map(|option| match option {
        Old::Stream(stream) => StreamOption::Stream(proto::create_req::StreamOptions {
            stream_identifier: stream.stream_identifier,
            revision_option: stream.revision_option.map(|option| match option {
                Revision::Revision(revision) => RevisionOption::Revision(revision),
                Revision::Start(empty) => RevisionOption::Start(empty),
                Revision::End(empty) => RevisionOption::End(empty),
            }),
        }),
        Old::All(all) => StreamOption::All(proto::create_req::AllOptions {
            all_option: all.all_option.map(|option| match option {
                All::Position(proto::update_req::Position { commit_position, prepare_position }) => {
                    AllOption::Position(proto::create_req::Position { commit_position, prepare_position })
                }
                All::Start(empty) => AllOption::Start(empty),
                All::End(empty) => AllOption::End(empty),
            }),
            filter_option: None,
        }),
    });
    let settings = options.settings.map(|settings| proto::create_req::Settings {
        resolve_links: settings.resolve_links,
        revision: settings.revision,
        extra_statistics: settings.extra_statistics,
        max_retry_count: settings.max_retry_count,
        min_checkpoint_count: settings.min_checkpoint_count,
        max_checkpoint_count: settings.max_checkpoint_count,
        max_subscriber_count: settings.max_subscriber_count,
        live_buffer_size: settings.live_buffer_size,
        read_batch_size: settings.read_batch_size,
        history_buffer_size: settings.history_buffer_size,
        named_consumer_strategy: settings.named_consumer_strategy,
        message_timeout: settings.message_timeout.map(|timeout| match timeout {
            Timeout::MessageTimeoutTicks(count) => MessageTimeout::MessageTimeoutTicks(count),
            Timeout::MessageTimeoutMs(count) => MessageTimeout::MessageTimeoutMs(count),
        }),
        checkpoint_after: settings.checkpoint_after.map(|after| match after {
            After::CheckpointAfterTicks(count) => CheckpointAfter::CheckpointAfterTicks(count),
            After::CheckpointAfterMs(count) => CheckpointAfter::CheckpointAfterMs(count),
        }),
        consumer_strategy: String::new(),
    });
    proto::create_req::Options {
        stream_identifier: options.stream_identifier,
        group_name: options.group_name,
        settings,
        stream_option,
    }
}

fn filter(option: Option<FilterOption>) -> Result<Option<FilterRecord>, Refusal> {
    let Some(FilterOption::Filter(options)) = option else { return Ok(None) };
    let (by_stream, expression) = match options.filter {
        Some(Filter::StreamIdentifier(expression)) => (true, expression),
        Some(Filter::EventType(expression)) => (false, expression),
        None => return Err(Refusal::Malformed("the filter has neither stream names nor event types")),
    };
    Ok(Some(FilterRecord { by_stream, prefixes: expression.prefix, regex: expression.regex }))
}

/// The response with an event for a consumer.
pub(super) fn event(recorded: Recorded, retries: u32, ids: UuidFormat) -> proto::ReadResp {
    use proto::read_resp::read_event::{Count, Position, RecordedEvent};
    let position = recorded.position.0;
    let event: streams::read_event::RecordedEvent = event_conversion::recorded(recorded, ids);
    content(proto::read_resp::Content::Event(proto::read_resp::ReadEvent {
        event: Some(RecordedEvent {
            id: event.id,
            stream_identifier: event.stream_identifier,
            stream_revision: event.stream_revision,
            prepare_position: event.prepare_position,
            commit_position: event.commit_position,
            metadata: event.metadata,
            custom_metadata: event.custom_metadata,
            data: event.data,
        }),
        link: None,
        position: Some(Position::CommitPosition(position)),
        count: Some(Count::RetryCount(i32::try_from(retries).unwrap_or(i32::MAX))),
    }))
}

pub(super) fn confirmation(subscription_id: String) -> proto::ReadResp {
    let confirmation = proto::read_resp::SubscriptionConfirmation { subscription_id };
    content(proto::read_resp::Content::SubscriptionConfirmation(confirmation))
}

fn content(content: proto::read_resp::Content) -> proto::ReadResp {
    proto::ReadResp { content: Some(content) }
}

/// The start of a group, in the text form of the protocol.
pub(super) fn start_text(start: GroupStart, source: &GroupSource) -> String {
    let number = match start {
        GroupStart::First => 0,
        GroupStart::At(position) => i128::from(position.0),
        GroupStart::End => -1,
    };
    position_text(number, source)
}

pub(super) fn position_text(number: i128, source: &GroupSource) -> String {
    match source {
        GroupSource::Stream(_) => number.to_string(),
        GroupSource::All => format!("C:{number}/P:{number}"),
    }
}
