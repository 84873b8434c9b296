//! What a read asks for, from its message: every choice made, nothing looked up yet.

use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;

use super::form::Form;
use crate::wire::filter::Filter;
use crate::wire::message::{IdForm, stream_id};
use crate::wire::proto::event_store::client::streams::ReadReq;
use crate::wire::proto::event_store::client::streams::read_req::options::filter_options::Window;
use crate::wire::proto::event_store::client::streams::read_req::options::{
    AllOptions, CountOption, FilterOption, FilterOptions, ReadDirection, StreamOption, StreamOptions,
    all_options, stream_options, uuid_option,
};
use crate::wire::refusal::Refusal;

/// Events between checkpoints where the client leaves it to us.
const CHECKPOINT_EVERY: u64 = 32;

/// A place to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wire) enum From<P> {
    Start,
    At(P),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wire) enum Direction {
    Forwards,
    Backwards,
}

/// What is read.
#[derive(Clone, Debug)]
pub(in crate::wire) enum What {
    Stream { stream: StreamId, from: From<Revision>, direction: Direction, count: u64 },
    FollowStream { stream: StreamId, after: From<Revision> },
    All { from: From<Position>, direction: Direction, count: u64, filter: Filter },
    FollowAll { after: From<Position>, filter: Filter, checkpoint_every: Option<u64> },
}

/// A read as its client wants it.
#[derive(Clone, Debug)]
pub(in crate::wire) struct Plan {
    pub(in crate::wire) what: What,
    pub(in crate::wire) form: Form,
    /// Whether the client knows the messages that tell where a stream begins and ends.
    pub(in crate::wire) tells_ends: bool,
}

impl Plan {
    pub(in crate::wire) fn new(request: ReadReq) -> Result<Self, Refusal> {
        let options = request.options.ok_or(Refusal::Malformed("the read has no options"))?;
        let ids = match options.uuid_option.and_then(|option| option.content) {
            Some(uuid_option::Content::Structured(_)) => IdForm::Structured,
            Some(uuid_option::Content::String(_)) | None => IdForm::Text,
        };
        let direction = match ReadDirection::try_from(options.read_direction) {
            Ok(ReadDirection::Forwards) => Direction::Forwards,
            Ok(ReadDirection::Backwards) => Direction::Backwards,
            Err(_) => return Err(Refusal::Malformed("a read goes forwards or backwards")),
        };
        let tells_ends = options.control_option.is_some_and(|control| control.compatibility >= 1);
        let filter = match options.filter_option {
            Some(FilterOption::Filter(filter)) => Some(filter),
            Some(FilterOption::NoFilter(_)) | None => None,
        };
        let count = match options.count_option {
            Some(CountOption::Count(count)) => Some(count),
            Some(CountOption::Subscription(_)) => None,
            None => return Err(Refusal::Malformed("the read says neither how many events nor to go on")),
        };
        if count.is_none() && direction == Direction::Backwards {
            return Err(Refusal::Malformed("a subscription goes forwards"));
        }
        let what = match options.stream_option {
            Some(StreamOption::Stream(_)) if filter.is_some() => {
                return Err(Refusal::Malformed("a filter is for the whole log, not for one stream"));
            }
            Some(StreamOption::Stream(stream)) => of_stream(&stream, direction, count)?,
            Some(StreamOption::All(all)) => of_all(all, direction, count, filter)?,
            None => return Err(Refusal::Malformed("the read names neither a stream nor all of them")),
        };
        let form = Form { ids, resolves_links: options.resolve_links };
        Ok(Self { what, form, tells_ends })
    }
}

fn of_stream(options: &StreamOptions, direction: Direction, count: Option<u64>) -> Result<What, Refusal> {
    use stream_options::RevisionOption;
    let stream = stream_id(options.stream_identifier.as_ref())?;
    let from = match options.revision_option {
        Some(RevisionOption::Start(_)) => From::Start,
        Some(RevisionOption::Revision(revision)) => From::At(Revision(revision)),
        Some(RevisionOption::End(_)) => From::End,
        None => return Err(Refusal::Malformed("the read does not say from which revision")),
    };
    Ok(match count {
        Some(count) => What::Stream { stream, from, direction, count },
        None => What::FollowStream { stream, after: from },
    })
}

fn of_all(
    options: AllOptions,
    direction: Direction,
    count: Option<u64>,
    filter: Option<FilterOptions>,
) -> Result<What, Refusal> {
    use all_options::AllOption;
    let from = match options.all_option {
        Some(AllOption::Start(_)) => From::Start,
        Some(AllOption::Position(position)) => From::At(Position(position.commit_position)),
        Some(AllOption::End(_)) => From::End,
        None => return Err(Refusal::Malformed("the read does not say from which position")),
    };
    let compiled = filter.as_ref().map_or(Ok(Filter::All), Filter::new)?;
    Ok(match count {
        Some(count) => What::All { from, direction, count, filter: compiled },
        None => {
            let checkpoint_every = filter.map(|filter| checkpoint_every(&filter));
            What::FollowAll { after: from, filter: compiled, checkpoint_every }
        }
    })
}

/// After how many events that were looked at a client of a filtered subscription hears how far it is.
fn checkpoint_every(filter: &FilterOptions) -> u64 {
    let window = match filter.window {
        Some(Window::Max(window)) if window > 0 => u64::from(window),
        Some(Window::Max(_) | Window::Count(_)) | None => CHECKPOINT_EVERY,
    };
    window.saturating_mul(u64::from(filter.checkpoint_interval_multiplier.max(1)))
}
