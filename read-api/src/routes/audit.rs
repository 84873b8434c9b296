//! The whole log for auditors: in pages, or as an endless stream of lines.

mod lines;
mod newest_first;

use std::str::FromStr;
use std::sync::Arc;

use event_log::{EventLog, Filter};
use event_schemas::envelope::{Actor, Recorded};
use event_schemas::ids::{CorrelationId, Position, Tenant};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem::http::StatusCode;
use poem::{Body, IntoResponse, Response};
use poem_openapi::param::{Header, Query};
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, OpenApi};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use web::caller::{Caller, Role};
use web::json::{Json, NDJSON, is_ndjson};
use web::negotiation::preferred;
use web::paging::{Cursor, Limit, Page};
use web::problem::Problem;
use web::schema::Api;
use web::server::ClientSide;
use web::value::{CategoryName, UuidParam};

use super::Tag;
use super::history::EventDto;
use crate::ReadApi;
use crate::errors::from_read_error;
use lines::{lines, lines_newest_first};
use newest_first::NewestFirst;

/// The media types of the list: a page, or lines under each of their names.
const MEDIA_TYPES: &[&str] = &["application/json", NDJSON[0], NDJSON[1], NDJSON[2], NDJSON[3]];

/// The number of events scanned to fill a page, after which a shorter page with a cursor is returned.
const SCAN_MAX: usize = 100_000;

/// The number of events read from the log at a time.
const CHUNK_EVENTS: usize = 1000;

/// The format of an event on a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EventLineFormat")]
#[serde(rename_all = "lowercase")]
pub enum LineFormat {
    /// The same as in a page.
    #[default]
    Envelope,
    /// CloudEvents 1.0 as written by `matchbook events export`, from which every byte of the event can be restored.
    CloudEvents,
}

/// The order of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EventOrder")]
#[serde(rename_all = "lowercase")]
pub enum EventOrder {
    /// The order of the log.
    #[default]
    #[serde(alias = "asc")]
    Oldest,
    /// The reverse. Lines in this order end, and do not wait for later events.
    #[serde(alias = "desc")]
    Newest,
}

/// A page of events, or a stream of lines.
#[derive(Debug)]
pub enum EventsResponse {
    Page(Page<EventDto>),
    /// With the media type that the caller prefers.
    Lines(&'static str, Body),
}

impl IntoResponse for EventsResponse {
    fn into_response(self) -> Response {
        match self {
            Self::Page(page) => Json(Api(page)).into_response(),
            Self::Lines(media_type, body) => Response::builder()
                .content_type(media_type)
                .header("cache-control", "no-cache, no-transform")
                .header("x-accel-buffering", "no")
                .body(body),
        }
    }
}

impl ApiResponse for EventsResponse {
    fn meta() -> MetaResponses {
        let page =
            MetaMediaType { content_type: "application/json", schema: Api::<Page<EventDto>>::schema_ref() };
        let lines = MetaMediaType { content_type: NDJSON[0], schema: Api::<EventDto>::schema_ref() };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "A page; for `Accept: application/x-ndjson` one event per line",
                status: Some(StatusCode::OK.as_u16()),
                status_range: None,
                content: vec![page, lines],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        Api::<Page<EventDto>>::register(registry);
    }
}

/// A bound of the requested range.
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

/// The filter of the requested events.
#[derive(Clone, Debug)]
struct EventFilter {
    log_filter: Filter,
    stream: Option<StreamId>,
    event_type: Option<String>,
    /// None for all tenants.
    tenant: Option<Tenant>,
    actor: Option<Actor>,
    correlation_id: Option<CorrelationId>,
    /// The last position of the range.
    last: Option<Position>,
    format: LineFormat,
}

impl EventFilter {
    fn matches(&self, event: &Recorded) -> Result<bool, Problem> {
        if self.stream.as_ref().is_some_and(|stream| *stream != event.stream)
            || self.event_type.as_ref().is_some_and(|name| name != event.event_type.as_str())
        {
            return Ok(false);
        }
        // Events of other programs have no tenant and no envelope.
        let Self { tenant, actor, correlation_id, .. } = self;
        let is_any = tenant.is_none() && actor.is_none() && correlation_id.is_none();
        if !event.stream.is_reserved() {
            return Ok(is_any && self.format == LineFormat::CloudEvents);
        }
        if is_any {
            return Ok(true);
        }
        let metadata = event.metadata().map_err(|error| Problem::internal(&error))?;
        Ok(tenant.as_ref().is_none_or(|tenant| *tenant == metadata.tenant)
            && actor.as_ref().is_none_or(|actor| *actor == metadata.actor)
            && correlation_id.is_none_or(|id| id == metadata.correlation_id))
    }

    fn is_beyond(&self, position: Position) -> bool {
        self.last.is_some_and(|last| position > last)
    }
}

/// Routes for the whole log.
#[derive(Clone, Debug)]
pub struct AuditRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Audit")]
impl AuditRoutes {
    /// List the events of the tenant, in the order of the log
    ///
    /// `Accept: application/x-ndjson` returns one event per line: up to `to` or `limit`, or without these until the connection
    /// closes. Its lines are CloudEvents with `format=cloudevents`. An auditor of the tenant `*` sees all tenants; as
    /// CloudEvents also the events that other programs appended over the EventStoreDB protocol, which have no
    /// envelope.
    #[allow(clippy::too_many_arguments, reason = "one argument for each parameter of the query")]
    #[oai(path = "/audit/events", method = "get", operation_id = "list_events")]
    async fn events(
        &self,
        caller: Caller,
        /// The first position or instant of the range.
        #[oai(validator(max_length = 64))]
        from: Query<Option<String>>,
        /// The last position or instant of the range.
        #[oai(validator(max_length = 64))]
        to: Query<Option<String>>,
        /// Only this stream.
        #[oai(validator(max_length = 512))]
        stream: Query<Option<String>>,
        /// Only streams of this category.
        category: Query<Option<CategoryName>>,
        /// Only this type, such as `MatchFound`.
        #[oai(name = "type", validator(max_length = 128))]
        event_type: Query<Option<String>>,
        /// Only of this tenant; one of the auditor's own unless it is of all tenants.
        #[oai(validator(max_length = 64))]
        tenant: Query<Option<String>>,
        /// Only by this actor: `subject:<id>`, `worker:<id>`, `service:<id>` or `system:<process>`.
        #[oai(validator(max_length = 256))]
        actor: Query<Option<String>>,
        /// Only of this causal chain.
        correlation_id: Query<Option<UuidParam<CorrelationId>>>,
        /// The format of lines. Pages have only one format.
        #[oai(default)]
        format: Query<Api<LineFormat>>,
        #[oai(default)] order: Query<Api<EventOrder>>,
        /// The most events of a page, 50 by default, or of lines, which have no limit by default.
        limit: Query<Option<Limit>>,
        cursor: Query<Option<Cursor>>,
        #[oai(name = "Accept")] accept: Header<Option<String>>,
        client: ClientSide,
    ) -> Result<EventsResponse, Problem> {
        caller.require(Role::Auditor)?;
        let stream: Option<StreamId> = parsed("stream", "is not a valid stream name", stream.0)?;
        let filter = EventFilter {
            log_filter: log_filter(stream.as_ref(), category.0),
            stream,
            event_type: event_type.0,
            tenant: tenant_of(&caller, tenant.0)?,
            actor: parsed("actor", "is not an actor such as worker:gpu-1", actor.0)?,
            correlation_id: correlation_id.0.map(|id| id.0),
            last: self.last(to.0.as_deref()).await?,
            format: *format.0,
        };
        let after = self.after(from.0.as_deref()).await?;
        let media_type = preferred(accept.0.as_deref(), MEDIA_TYPES);
        if is_ndjson(media_type) {
            let (log, left) = (&self.api.log, limit.0.map_or(usize::MAX, |limit| limit.get()));
            let shutdown = self.api.shutdown.clone();
            let body = match order.0.0 {
                EventOrder::Oldest => {
                    Body::from_bytes_stream(lines(log, after, filter, left, shutdown, client))
                }
                EventOrder::Newest => {
                    let events = self.newest_first(after, &filter);
                    Body::from_bytes_stream(lines_newest_first(log, events, filter, left, shutdown))
                }
            };
            return Ok(EventsResponse::Lines(media_type, body));
        }
        if *format.0 != LineFormat::Envelope {
            return Err(Problem::invalid(
                "format",
                "applies to lines only: send `Accept: application/x-ndjson`",
            ));
        }
        // Positions from before a restore are not valid any more.
        let list = format!("audit of {} in epoch {}", caller.tenant, self.api.log.identity().epoch);
        let limit = limit.0.unwrap_or_default();
        if order.0.0 == EventOrder::Newest {
            let list = format!("{list}, the newest first");
            let last = cursor.0.map(|cursor| cursor.key(&list)).transpose()?.map(Position);
            let filter = EventFilter { last: filter.last.into_iter().chain(last).min(), ..filter };
            return self.page_newest_first(after, &filter, limit, &list).await.map(EventsResponse::Page);
        }
        let after = match cursor.0 {
            Some(cursor) => after.max(Position(cursor.key(&list)?)),
            None => after,
        };
        self.page(after, &filter, limit, &list).await.map(EventsResponse::Page)
    }
}

impl AuditRoutes {
    /// The position after which the range starts.
    async fn after(&self, from: Option<&str>) -> Result<Position, Problem> {
        Ok(match bound("from", from)? {
            None => Position::START,
            Some(Bound::Position(position)) => Position(position.0.saturating_sub(1)),
            // Events recorded exactly at the instant are included.
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
        self.api.log.position_at(at).await.map_err(|error| from_read_error(&error))
    }

    /// Reads a page. The cost is the number of scanned events, at most [`SCAN_MAX`].
    async fn page(
        &self,
        mut after: Position,
        filter: &EventFilter,
        limit: Limit,
        list: &str,
    ) -> Result<Page<EventDto>, Problem> {
        let mut items = Vec::new();
        let mut scanned = 0;
        loop {
            let page = self.api.log.read_all(after, &filter.log_filter, CHUNK_EVENTS).await;
            let page = page.map_err(|error| from_read_error(&error))?;
            scanned += page.events.len().max(1);
            for event in &page.events {
                if filter.is_beyond(event.position) {
                    return Ok(Page { items, next_cursor: None });
                }
                if filter.matches(event)? {
                    if items.len() == limit.get() {
                        return Ok(Page {
                            items,
                            next_cursor: Some(Cursor::new(list, &after.0).to_string()),
                        });
                    }
                    items.push(EventDto::new(event)?);
                }
                after = event.position;
            }
            after = after.max(page.next);
            if page.at_head || filter.is_beyond(after) {
                return Ok(Page { items, next_cursor: None });
            }
            if scanned >= SCAN_MAX {
                return Ok(Page { items, next_cursor: Some(Cursor::new(list, &after.0).to_string()) });
            }
        }
    }
}

impl AuditRoutes {
    fn newest_first(&self, after: Position, filter: &EventFilter) -> NewestFirst {
        let head = self.api.head();
        NewestFirst::new(after, filter.last.map_or(head, |last| last.min(head)))
    }

    /// Reads a page as [`Self::page`], from the end of the range to its start.
    async fn page_newest_first(
        &self,
        after: Position,
        filter: &EventFilter,
        limit: Limit,
        list: &str,
    ) -> Result<Page<EventDto>, Problem> {
        let mut range = self.newest_first(after, filter);
        let (mut items, mut scanned) = (Vec::new(), 0);
        let cursor = |last: Position| Some(Cursor::new(list, &last.0).to_string());
        while let Some(events) =
            range.read(&self.api.log, &filter.log_filter).await.map_err(|error| from_read_error(&error))?
        {
            scanned += events.len().max(1);
            for event in &events {
                if !filter.matches(event)? {
                    continue;
                }
                if items.len() == limit.get() {
                    return Ok(Page { items, next_cursor: cursor(event.position) });
                }
                items.push(EventDto::new(event)?);
            }
            if scanned >= SCAN_MAX {
                return Ok(Page { items, next_cursor: cursor(range.next()) });
            }
        }
        Ok(Page { items, next_cursor: None })
    }
}

fn parsed<T: FromStr>(name: &str, reason: &str, text: Option<String>) -> Result<Option<T>, Problem> {
    text.map(|text| text.parse().map_err(|_| Problem::invalid(name, reason))).transpose()
}

/// The tenant whose events the caller sees; none for all tenants.
fn tenant_of(caller: &Caller, asked: Option<String>) -> Result<Option<Tenant>, Problem> {
    let asked: Option<Tenant> = parsed("tenant", "is not the name of a tenant", asked)?;
    if caller.can_access_all_tenants() {
        return Ok(asked);
    }
    if asked.is_some_and(|asked| asked != caller.tenant) {
        return Err(Problem::forbidden("these credentials see the events of their own tenant only"));
    }
    Ok(Some(caller.tenant.clone()))
}

fn bound(name: &'static str, text: Option<&str>) -> Result<Option<Bound>, Problem> {
    let refused = || Problem::invalid(name, "is neither a position nor an RFC 3339 instant");
    text.map(|text| text.parse().map_err(|()| refused())).transpose()
}

fn log_filter(stream: Option<&StreamId>, category: Option<CategoryName>) -> Filter {
    match (stream, category) {
        (Some(stream), _) => Filter::StreamPrefixes(vec![stream.as_str().to_owned()]),
        (None, Some(category)) => Filter::StreamPrefixes(vec![category.stream_prefix().to_owned()]),
        (None, None) => Filter::All,
    }
}
