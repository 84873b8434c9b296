//! Events as lines.

use bytes::Bytes;
use event_log::Log;
use event_log::cloud_event;
use event_schemas::envelope::Recorded;
use event_schemas::ids::Position;
use futures_util::{Stream, stream};
use poem_openapi::types::ToJSON;
use web::problem::Problem;
use web::schema::Api;
use web::server::ClientSide;
use web::shutdown::Shutdown;

use super::newest_first::NewestFirst;
use super::{EventDto, EventFilter, LineFormat};

/// The events as lines, up to `left` of them, a chunk of the log at a time. The next chunk is read when the previous one was
/// sent, so a slow client costs no memory.
pub(super) fn lines(
    log: &Log,
    after: Position,
    filter: EventFilter,
    left: usize,
    shutdown: Shutdown,
    client: ClientSide,
) -> impl Stream<Item = std::io::Result<Bytes>> + use<> {
    let subscription = log.subscribe(after, filter.log_filter.clone());
    stream::try_unfold((Some(subscription), left), move |(subscription, mut left)| {
        let (filter, shutdown, client) = (filter.clone(), shutdown.clone(), client.clone());
        async move {
            let Some(mut subscription) = subscription else { return Ok(None) };
            if filter.last.is_some_and(|last| subscription.position() >= last) {
                return Ok(None);
            }
            let page = tokio::select! {
                biased;
                page = subscription.next() => page.map_err(std::io::Error::other)?,
                // A bounded range must not look complete if it was cut short.
                () = shutdown.requested() => return match filter.last {
                    Some(_) => Err(std::io::Error::other("the server is stopping")),
                    None => Ok(None),
                },
                () = client.closed(), if filter.last.is_none() => return Ok(None),
            };
            let (text, ended) =
                write_lines(&page.events, &filter, &mut left).map_err(std::io::Error::other)?;
            let next = (!ended).then_some(subscription);
            Ok(Some((Bytes::from(text), (next, left))))
        }
    })
}

/// The events as lines, the newest first, up to `left` of them.
pub(super) fn lines_newest_first(
    log: &Log,
    events: NewestFirst,
    filter: EventFilter,
    left: usize,
    shutdown: Shutdown,
) -> impl Stream<Item = std::io::Result<Bytes>> + use<> {
    let log = log.clone();
    stream::try_unfold((events, left), move |(mut range, mut left)| {
        let (log, filter, shutdown) = (log.clone(), filter.clone(), shutdown.clone());
        async move {
            if left == 0 {
                return Ok(None);
            }
            let read = tokio::select! {
                biased;
                read = range.read(&log, &filter.log_filter) => read.map_err(std::io::Error::other)?,
                () = shutdown.requested() => return Err(std::io::Error::other("the server is stopping")),
            };
            let Some(events) = read else { return Ok(None) };
            let (text, _) = write_lines(&events, &filter, &mut left).map_err(std::io::Error::other)?;
            Ok(Some((Bytes::from(text), (range, left))))
        }
    })
}

/// Writes the matching events of a page, up to `left` of them. Returns the lines, and whether the last one was reached.
fn write_lines(
    events: &[Recorded],
    filter: &EventFilter,
    left: &mut usize,
) -> Result<(Vec<u8>, bool), Problem> {
    let mut text = Vec::new();
    for event in events {
        if filter.is_beyond(event.position) {
            return Ok((text, true));
        }
        if !filter.matches(event)? {
            continue;
        }
        *left = left.saturating_sub(1);
        match filter.format {
            LineFormat::CloudEvents => cloud_event::write_line(event, &mut text),
            LineFormat::Envelope => {
                text.extend_from_slice(Api(EventDto::new(event)?).to_json_string().as_bytes());
                text.push(b'\n');
            }
        }
        if *left == 0 {
            return Ok((text, true));
        }
    }
    Ok((text, false))
}
