//! The plan of a read, parsed from its message, before anything is read.

use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;

use super::read_format::ReadFormat;
use crate::wire::event_conversion::{UuidFormat, stream_id};
use crate::wire::filter::Filter;
use crate::wire::proto::event_store::client::streams::ReadReq;
use crate::wire::proto::event_store::client::streams::read_req::options::filter_options::Window;
use crate::wire::proto::event_store::client::streams::read_req::options::{
    AllOptions, CountOption, FilterOption, FilterOptions, ReadDirection, StreamOption, StreamOptions,
    all_options, stream_options, uuid_option,
};
use crate::wire::refusal::Refusal;

/// The default number of events between checkpoints.
const CHECKPOINT_EVERY: u64 = 32;

/// The start of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wire) enum StartFrom<P> {
    Start,
    At(P),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wire) enum Direction {
    Forwards,
    Backwards,
}

/// The events to read.
#[derive(Clone, Debug)]
pub(in crate::wire) enum ReadTarget {
    Stream { stream: StreamId, from: StartFrom<Revision>, direction: Direction, count: u64 },
    FollowStream { stream: StreamId, after: StartFrom<Revision> },
    All { from: StartFrom<Position>, direction: Direction, count: u64, filter: Filter },
    FollowAll { after: StartFrom<Position>, filter: Filter, checkpoint_every: Option<u64> },
}

/// The parsed request of a read.
#[derive(Clone, Debug)]
pub(in crate::wire) struct ReadPlan {
    pub(in crate::wire) target: ReadTarget,
    pub(in crate::wire) format: ReadFormat,
    /// Whether the client supports messages with the first and last revision of a stream.
    pub(in crate::wire) reports_stream_ends: bool,
}

impl ReadPlan {
    pub(in crate::wire) fn new(request: ReadReq) -> Result<Self, Refusal> {
        let options = request.options.ok_or(Refusal::Malformed("the read has no options"))?;
        let ids = match options.uuid_option.and_then(|option| option.content) {
            Some(uuid_option::Content::Structured(_)) => UuidFormat::Structured,
            Some(uuid_option::Content::String(_)) | None => UuidFormat::Text,
        };
        let direction = match ReadDirection::try_from(options.read_direction) {
            Ok(ReadDirection::Forwards) => Direction::Forwards,
            Ok(ReadDirection::Backwards) => Direction::Backwards,
            Err(_) => {
                return Err(Refusal::Malformed("the direction of a read must be forwards or backwards"));
            }
        };
        let reports_stream_ends = options.control_option.is_some_and(|control| control.compatibility >= 1);
        let filter = match options.filter_option {
            Some(FilterOption::Filter(filter)) => Some(filter),
            Some(FilterOption::NoFilter(_)) | None => None,
        };
        let count = match options.count_option {
            Some(CountOption::Count(count)) => Some(count),
            Some(CountOption::Subscription(_)) => None,
            None => return Err(Refusal::Malformed("the read has neither a count nor a subscription")),
        };
        if count.is_none() && direction == Direction::Backwards {
            return Err(Refusal::Malformed("a subscription must read forwards"));
        }
        let target = match options.stream_option {
            Some(StreamOption::Stream(_)) if filter.is_some() => {
                return Err(Refusal::Malformed("only reads of the whole log can have a filter"));
            }
            Some(StreamOption::Stream(stream)) => stream_target(&stream, direction, count)?,
            Some(StreamOption::All(all)) => all_target(all, direction, count, filter)?,
            None => return Err(Refusal::Malformed("the read names neither a stream nor all of them")),
        };
        let format = ReadFormat { ids, resolves_links: options.resolve_links };
        Ok(Self { target, format, reports_stream_ends })
    }
}

fn stream_target(
    options: &StreamOptions,
    direction: Direction,
    count: Option<u64>,
) -> Result<ReadTarget, Refusal> {
    use stream_options::RevisionOption;
    let stream = stream_id(options.stream_identifier.as_ref())?;
    let from = match options.revision_option {
        Some(RevisionOption::Start(_)) => StartFrom::Start,
        Some(RevisionOption::Revision(revision)) => StartFrom::At(Revision(revision)),
        Some(RevisionOption::End(_)) => StartFrom::End,
        None => return Err(Refusal::Malformed("the read has no start revision")),
    };
    Ok(match count {
        Some(count) => ReadTarget::Stream { stream, from, direction, count },
        None => ReadTarget::FollowStream { stream, after: from },
    })
}

fn all_target(
    options: AllOptions,
    direction: Direction,
    count: Option<u64>,
    filter: Option<FilterOptions>,
) -> Result<ReadTarget, Refusal> {
    use all_options::AllOption;
    let from = match options.all_option {
        Some(AllOption::Start(_)) => StartFrom::Start,
        Some(AllOption::Position(position)) => StartFrom::At(Position(position.commit_position)),
        Some(AllOption::End(_)) => StartFrom::End,
        None => return Err(Refusal::Malformed("the read has no start position")),
    };
    let compiled = filter.as_ref().map_or(Ok(Filter::All), Filter::new)?;
    Ok(match count {
        Some(count) => ReadTarget::All { from, direction, count, filter: compiled },
        None => {
            let checkpoint_every = filter.map(|filter| checkpoint_every(&filter));
            ReadTarget::FollowAll { after: from, filter: compiled, checkpoint_every }
        }
    })
}

/// The number of scanned events between checkpoints of a filtered subscription.
fn checkpoint_every(filter: &FilterOptions) -> u64 {
    let window = match filter.window {
        Some(Window::Max(window)) if window > 0 => u64::from(window),
        Some(Window::Max(_) | Window::Count(_)) | None => CHECKPOINT_EVERY,
    };
    window.saturating_mul(u64::from(filter.checkpoint_interval_multiplier.max(1)))
}
