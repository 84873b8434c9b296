//! The whole log for auditors: in pages, or as lines that go on as long as events come.

use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use event_log::cloud_event;
use event_log::{EventLog, Filter, Log};
use event_schemas::envelope::Recorded;
use event_schemas::ids::{Position, Tenant};
use event_schemas::stream::{Category, StreamId};
use event_schemas::time::Timestamp;
use futures_util::{Stream, stream};
use poem::http::StatusCode;
use poem::{Body, IntoResponse, Response};
use poem_openapi::param::{Header, Query};
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{ToJSON, Type};
use poem_openapi::{ApiResponse, Enum, OpenApi};
use web::caller::{Caller, Role};
use web::json::Json;
use web::paging::{Cursor, Limit, Page};
use web::problem::Problem;
use web::shutdown::Shutdown;

use super::Tag;
use super::history::EventObject;
use crate::ReadApi;
use crate::answer::unread;

const NDJSON: &str = "application/x-ndjson";

/// How many events of the log are looked at to fill a page, before it is answered short with a cursor.
const LOOK_AT_MAX: usize = 100_000;

/// How many events are read from the log at a time.
const CHUNK_EVENTS: usize = 1000;

/// Which category of streams.
#[derive(Clone, Copy, Debug, Enum)]
#[oai(rename = "EventCategory", rename_all = "snake_case")]
pub enum CategoryWord {
    Job,
    Matching,
    Worker,
    Player,
    Pool,
    MatchRecord,
    Challenge,
}

impl From<CategoryWord> for Category {
    fn from(word: CategoryWord) -> Self {
        match word {
            CategoryWord::Job => Self::Job,
            CategoryWord::Matching => Self::Matching,
            CategoryWord::Worker => Self::Worker,
            CategoryWord::Player => Self::Player,
            CategoryWord::Pool => Self::Pool,
            CategoryWord::MatchRecord => Self::MatchRecord,
            CategoryWord::Challenge => Self::Challenge,
        }
    }
}

/// How an event is written on a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Enum)]
#[oai(rename = "EventLineFormat", rename_all = "lowercase")]
pub enum LineFormat {
    /// As in a page.
    #[default]
    Envelope,
    /// As `matchbook events export` does: CloudEvents 1.0, from which every byte of the event comes back.
    CloudEvents,
}

/// A page of events, or a stream of lines.
#[derive(Debug)]
pub enum Events {
    Page(Page<EventObject>),
    Lines(Body),
}

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        match self {
            Self::Page(page) => Json(page).into_response(),
            Self::Lines(body) => Response::builder()
                .content_type(NDJSON)
                .header("cache-control", "no-cache, no-transform")
                .header("x-accel-buffering", "no")
                .body(body),
        }
    }
}

impl ApiResponse for Events {
    fn meta() -> MetaResponses {
        let page = MetaMediaType {
            content_type: Json::<Page<EventObject>>::CONTENT_TYPE,
            schema: Page::<EventObject>::schema_ref(),
        };
        let lines = MetaMediaType { content_type: NDJSON, schema: EventObject::schema_ref() };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "A page; for `Accept: application/x-ndjson` one event a line",
                status: Some(StatusCode::OK.as_u16()),
                status_range: None,
                content: vec![page, lines],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        Page::<EventObject>::register(registry);
    }
}

/// A place in the log, as a caller names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Position(Position),
    Instant(Timestamp),
}

impl FromStr for Bound {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.parse() {
            Ok(position) => Ok(Self::Position(Position(position))),
            Err(_) => text.parse().map(Self::Instant).map_err(|_| ()),
        }
    }
}

/// What an auditor wants to see.
#[derive(Clone, Debug)]
struct Wanted {
    filter: Filter,
    stream: Option<StreamId>,
    event_type: Option<String>,
    /// None for all tenants.
    tenant: Option<Tenant>,
    /// Nothing behind it is shown.
    last: Option<Position>,
    format: LineFormat,
}

impl Wanted {
    fn takes(&self, event: &Recorded) -> Result<bool, Problem> {
        if self.stream.as_ref().is_some_and(|stream| *stream != event.stream)
            || self.event_type.as_ref().is_some_and(|wanted| wanted != event.event_type.as_str())
        {
            return Ok(false);
        }
        // Events of other programs say nothing of tenants, and have no envelope.
        if !event.stream.is_reserved() {
            return Ok(self.tenant.is_none() && self.format == LineFormat::CloudEvents);
        }
        let Some(tenant) = &self.tenant else { return Ok(true) };
        let metadata = event.metadata().map_err(|error| Problem::internal(&error))?;
        Ok(metadata.tenant == *tenant)
    }

    fn is_beyond(&self, position: Position) -> bool {
        self.last.is_some_and(|last| position > last)
    }
}

/// Routes over the whole log.
#[derive(Clone, Debug)]
pub struct AuditRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Audit")]
impl AuditRoutes {
    /// Every event of the tenant, in the log's order
    ///
    /// `Accept: application/x-ndjson` answers one event a line: up to `to`, or without it for as long as the connection
    /// lasts. With it, `format=cloudevents` writes CloudEvents. An auditor of the tenant `*` sees all tenants; as
    /// CloudEvents also the events that other programs appended over the EventStoreDB protocol, which have no envelope.
    #[allow(clippy::too_many_arguments, reason = "one argument for each parameter of the query")]
    #[oai(path = "/audit/events", method = "get", operation_id = "list_events")]
    async fn events(
        &self,
        caller: Caller,
        /// The first position or instant wanted.
        #[oai(validator(max_length = 64))]
        from: Query<Option<String>>,
        /// The last position or instant wanted.
        #[oai(validator(max_length = 64))]
        to: Query<Option<String>>,
        /// Only this stream.
        #[oai(validator(max_length = 512))]
        stream: Query<Option<String>>,
        category: Query<Option<CategoryWord>>,
        /// Only this type, such as `MatchFound`.
        #[oai(name = "type", validator(max_length = 128))]
        event_type: Query<Option<String>>,
        /// How lines are written. Pages have one form alone.
        #[oai(default)]
        format: Query<LineFormat>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        #[oai(name = "Accept")] accept: Header<Option<String>>,
    ) -> Result<Events, Problem> {
        caller.require(Role::Auditor)?;
        let stream: Option<StreamId> = stream
            .0
            .map(|text| text.parse().map_err(|_| Problem::invalid("stream", "is no name of a stream")))
            .transpose()?;
        let wanted = Wanted {
            filter: filter(stream.as_ref(), category.0),
            stream,
            event_type: event_type.0,
            tenant: (!caller.sees_all_tenants()).then(|| caller.tenant.clone()),
            last: self.last(to.0.as_deref()).await?,
            format: format.0,
        };
        let after = self.after(from.0.as_deref()).await?;
        if accept.0.is_some_and(|accept| accept.contains(NDJSON)) {
            let lines = lines(&self.api.log, after, wanted, self.api.shutdown.clone());
            return Ok(Events::Lines(Body::from_bytes_stream(lines)));
        }
        if format.0 != LineFormat::Envelope {
            return Err(Problem::invalid(
                "format",
                "is of lines: ask for them with `Accept: application/x-ndjson`",
            ));
        }
        // Positions of before a restore are not those of now.
        let list = format!("audit of {} in epoch {}", caller.tenant, self.api.log.identity().epoch);
        let after = match cursor.0 {
            Some(cursor) => after.max(Position(cursor.key(&list)?)),
            None => after,
        };
        self.page(after, &wanted, limit.0, &list).await.map(Events::Page)
    }
}

impl AuditRoutes {
    /// The position after which to begin.
    async fn after(&self, from: Option<&str>) -> Result<Position, Problem> {
        Ok(match bound("from", from)? {
            None => Position::START,
            Some(Bound::Position(position)) => Position(position.0.saturating_sub(1)),
            // Everything before the instant is over; what was recorded at it is wanted.
            Some(Bound::Instant(at)) => self.position_at(Timestamp::from_micros(at.micros() - 1)).await?,
        })
    }

    async fn last(&self, to: Option<&str>) -> Result<Option<Position>, Problem> {
        Ok(match bound("to", to)? {
            None => None,
            Some(Bound::Position(position)) => Some(position),
            Some(Bound::Instant(at)) => Some(self.position_at(at).await?),
        })
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, Problem> {
        self.api.log.position_at(at).await.map_err(|error| unread(&error))
    }

    /// Costs as many events as have to be looked at, at most [`LOOK_AT_MAX`].
    async fn page(
        &self,
        mut after: Position,
        wanted: &Wanted,
        limit: Limit,
        list: &str,
    ) -> Result<Page<EventObject>, Problem> {
        let mut items = Vec::new();
        let mut looked_at = 0;
        loop {
            let page = self.api.log.read_all(after, &wanted.filter, CHUNK_EVENTS).await;
            let page = page.map_err(|error| unread(&error))?;
            looked_at += page.events.len().max(1);
            for event in &page.events {
                if wanted.is_beyond(event.position) {
                    return Ok(Page { items, next_cursor: None });
                }
                if wanted.takes(event)? {
                    if items.len() == limit.get() {
                        return Ok(Page {
                            items,
                            next_cursor: Some(Cursor::new(list, &after.0).to_string()),
                        });
                    }
                    items.push(EventObject::new(event)?);
                }
                after = event.position;
            }
            after = after.max(page.next);
            if page.at_head || wanted.is_beyond(after) {
                return Ok(Page { items, next_cursor: None });
            }
            if looked_at >= LOOK_AT_MAX {
                return Ok(Page { items, next_cursor: Some(Cursor::new(list, &after.0).to_string()) });
            }
        }
    }
}

fn bound(name: &'static str, text: Option<&str>) -> Result<Option<Bound>, Problem> {
    let refused = || Problem::invalid(name, "is neither a position nor an RFC 3339 instant");
    text.map(|text| text.parse().map_err(|()| refused())).transpose()
}

fn filter(stream: Option<&StreamId>, category: Option<CategoryWord>) -> Filter {
    match (stream, category) {
        (Some(stream), _) => Filter::StreamPrefixes(vec![stream.as_str().to_owned()]),
        (None, Some(category)) => {
            Filter::StreamPrefixes(vec![format!("{}-", Category::from(category).as_str())])
        }
        (None, None) => Filter::All,
    }
}

/// The events as lines, a chunk of the log at a time: the connection asks for the next when it has sent the last, so that
/// a slow reader holds nothing but its place.
fn lines(
    log: &Log,
    after: Position,
    wanted: Wanted,
    shutdown: Shutdown,
) -> impl Stream<Item = std::io::Result<Bytes>> + use<> {
    let subscription = log.subscribe(after, wanted.filter.clone());
    stream::try_unfold(Some(subscription), move |subscription| {
        let (wanted, shutdown) = (wanted.clone(), shutdown.clone());
        async move {
            let Some(mut subscription) = subscription else { return Ok(None) };
            if wanted.last.is_some_and(|last| subscription.position() >= last) {
                return Ok(None);
            }
            let page = tokio::select! {
                page = subscription.next() => page.map_err(std::io::Error::other)?,
                // A reader who wants a part of the log must not take less for all of it.
                () = shutdown.begun() => return match wanted.last {
                    Some(_) => Err(std::io::Error::other("the server is stopping")),
                    None => Ok(None),
                },
            };
            let (text, ended) = write_lines(&page.events, &wanted).map_err(std::io::Error::other)?;
            let goes_on = (!ended).then_some(subscription);
            Ok(Some((Bytes::from(text), goes_on)))
        }
    })
}

/// The wanted events of a page, and whether the last wanted one has been passed.
fn write_lines(events: &[Recorded], wanted: &Wanted) -> Result<(Vec<u8>, bool), Problem> {
    let mut text = Vec::new();
    for event in events {
        if wanted.is_beyond(event.position) {
            return Ok((text, true));
        }
        if !wanted.takes(event)? {
            continue;
        }
        match wanted.format {
            LineFormat::CloudEvents => cloud_event::write_line(event, &mut text),
            LineFormat::Envelope => {
                text.extend_from_slice(EventObject::new(event)?.to_json_string().as_bytes());
                text.push(b'\n');
            }
        }
    }
    Ok((text, false))
}
