//! The live stream of one queue entry.
//!
//! The events of an entry are in two streams. The player's stream records that it was queued, reserved for a match,
//! released, cancelled or expired; the match's own stream records that the game was created. Positions order the
//! events of both, and an update's id is the position of its event. A client that reconnects with an id therefore
//! receives everything after it, provided that updates are sent in the order of their positions. This holds because:
//!
//! - A match's stream is read only while the entry is reserved for that match, and only for its confirmation. A
//!   confirmed match never releases its players, and nothing happens to the entry afterwards. So the confirmation
//!   comes after all events of the entry in the player's stream.
//! - The player's stream may have grown by the time the confirmation is found: a challenge that failed and was
//!   accepted again leads to the same match. So that stream is read once more, to its end, before the confirmation is
//!   sent.
//!
//! Between changes, `searching` is repeated without an id whenever the window widens, because that is not an event.

mod tracker;

use std::collections::VecDeque;
use std::sync::Arc;

use domain::matchmaking::pool_status::best;
use event_log::EventLog;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::GameMatchEvent;
use event_schemas::ids::{
    ChallengeId, EntryId, GameId, GameMatchId, PoolKey, Position, Revision, SubjectId, Tenant, UserId,
};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem_openapi::Object;
use projections::Name;
use projections::queue::EntryView;
use tokio::sync::watch;
use web::caller::Caller;
use web::enums::{AbandonReason, EntryStatus, Side};
use web::problem::Problem;
use web::sse::{Sender, Update};
use web::value::{ApiPosition, ApiTimestamp, TextId, UuidParam};

use super::{CHUNK_EVENTS, POLL_INTERVAL, StopReason};
use crate::ReadApi;
use crate::errors::{from_query_error, from_read_error};
use crate::min_position::MinPosition;
use tracker::{ConfirmedGame, EntryChange, EntryState, EntryTracker};

/// An update of a queue entry, in addition to `event`, `connection_id` and `update_count`. Members that do not apply
/// to an update are omitted.
#[derive(Clone, Debug, Default, Object)]
#[oai(rename = "QueueEntryUpdate", skip_serializing_if_is_none)]
pub(crate) struct QueueEntryUpdate {
    pub id: Option<UuidParam<EntryId>>,
    pub entry_id: Option<UuidParam<EntryId>>,
    pub status: Option<EntryStatus>,
    /// The log position of the update's event, which is also the update's id.
    pub position: Option<ApiPosition>,
    /// The time from queueing to this update.
    pub waited_seconds: Option<f64>,
    /// While searching: the pools of the entry.
    pub pool_keys: Option<Vec<TextId<PoolKey>>>,
    pub expires_at: Option<ApiTimestamp>,
    /// Why the previous match failed, if the entry searches again.
    pub reason: Option<AbandonReason>,
    /// If the entry searches again: the end of its cooldown, before which it is not paired.
    pub eligible_at: Option<ApiTimestamp>,
    /// While searching, in updates without an id: the width of the window, in points to either side.
    pub window: Option<u16>,
    /// The number of players waiting within the window.
    pub candidates: Option<u64>,
    /// The place in the queue, from 1.
    pub place_in_line: Option<u64>,
    /// When the window widens next.
    pub widens_at: Option<ApiTimestamp>,
    /// Since `placing`.
    pub match_id: Option<UuidParam<GameMatchId>>,
    /// The pool of the match, or, while searching, the pool with the earliest possible pairing.
    pub pool_key: Option<TextId<PoolKey>>,
    /// The challenge that reserved the player, if it was not the queue.
    pub challenge_id: Option<UuidParam<ChallengeId>>,
    pub game_id: Option<TextId<GameId>>,
    pub side: Option<Side>,
    /// Once matched; omitted for an erased user.
    pub opponent_id: Option<TextId<UserId>>,
    /// When the match ends automatically if no result is reported.
    pub result_due_at: Option<ApiTimestamp>,
}

/// The stream of one queue entry to one client.
#[derive(Debug)]
pub(crate) struct QueueEntryStream {
    api: Arc<ReadApi>,
    tenant: Tenant,
    player: SubjectId,
    tracker: EntryTracker,
    /// The position up to which everything was sent; none before the first update.
    last_sent: Option<Position>,
    /// Changes that were read but not sent.
    changes: VecDeque<EntryChange>,
    /// The revision of the first event of the player's stream that has not been read.
    next: Revision,
    player_changes: watch::Receiver<u64>,
    /// Notifies of changes to the match whose game is being created.
    match_changes: Option<(GameMatchId, watch::Receiver<u64>)>,
}

impl QueueEntryStream {
    /// Opens a stream for a client that has received everything up to `after`. None if that includes the entry's end.
    ///
    /// # Errors
    /// 404 if the entry does not exist or the caller may not see it.
    pub(crate) async fn open(
        api: &Arc<ReadApi>,
        caller: &Caller,
        entry: EntryId,
        after: Option<Position>,
    ) -> Result<Option<Self>, Problem> {
        let view = load_or_wait(api, &caller.tenant, entry).await?;
        let player = view.entry.entry.queued.subject_id;
        if !api.may_see(caller, |subject| subject == player).await? {
            return Err(no_such_entry());
        }
        // The subscription starts before the first read, so that no event is missed.
        let player_stream = StreamId::player(&caller.tenant, player);
        let player_changes = api.notifier.stream(player_stream.clone());
        // A position beyond the head comes from another log or from before a restore.
        let last_sent = after.filter(|after| *after <= api.head());
        let first_revision = view.entry.entry.first_revision;
        let events = api
            .log
            .read_stream(&player_stream, first_revision, 1)
            .await
            .map_err(|error| from_read_error(&error))?;
        let first = events.first().ok_or_else(no_such_entry)?;
        let first = first.decode().map_err(|error| Problem::internal(&error))?;
        let (tracker, joined) = EntryTracker::start(entry, &first).ok_or_else(no_such_entry)?;
        let mut stream = Self {
            api: Arc::clone(api),
            tenant: caller.tenant.clone(),
            player,
            tracker,
            last_sent,
            changes: VecDeque::from([joined]),
            next: first_revision.next(),
            player_changes,
            match_changes: None,
        };
        stream.read_new_events().await?;
        let has_ended = stream.changes.back().is_some_and(EntryChange::is_end);
        match last_sent {
            Some(last_sent) => stream.changes.retain(|change| change.position > last_sent),
            // A client without a position gets the current state, not the history.
            None => drop(stream.changes.drain(..stream.changes.len().saturating_sub(1))),
        }
        Ok(if has_ended && stream.changes.is_empty() { None } else { Some(stream) })
    }

    /// The data of `connected`.
    pub(crate) fn connected_event(&self) -> QueueEntryUpdate {
        QueueEntryUpdate { position: self.last_sent.map(ApiPosition), ..self.base_update() }
    }

    /// Sends all changes, until the entry has ended or the client has disconnected.
    pub(crate) async fn run(mut self, sender: Sender) {
        match self.follow(&sender).await {
            Ok(()) | Err(StopReason::Closed) => {}
            // The stream is closed; the client reconnects and resumes after the last id.
            Err(StopReason::Failed(problem)) => {
                tracing::warn!(entry = %self.tracker.queued.entry_id, %problem, "the stream of a queue entry failed");
            }
        }
    }

    async fn follow(&mut self, sender: &Sender) -> Result<(), StopReason> {
        loop {
            while let Some(change) = self.changes.pop_front() {
                self.send_change(sender, &change).await?;
                if change.is_end() {
                    return Ok(());
                }
            }
            let widens_at = self.send_search(sender).await?;
            let api = Arc::clone(&self.api);
            let widening = async {
                match widens_at {
                    Some(at) => api.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let confirming = async {
                match &mut self.match_changes {
                    Some((_, changes)) => changes.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(()) = self.player_changes.changed() => {}
                Ok(()) = confirming => {}
                () = widening => {}
                () = sender.closed() => return Err(StopReason::Closed),
            }
            self.read_new_events().await?;
        }
    }

    async fn send_change(&mut self, sender: &Sender, change: &EntryChange) -> Result<(), StopReason> {
        let data = self.update_data(change).await?;
        let id = Some(change.position);
        let update = match &change.state {
            EntryState::Searching { .. } => Update::state("searching", id, &data),
            EntryState::Placing(_) => Update::state("placing", id, &data),
            EntryState::Matched(..) => Update::last("matched", id, &data),
            EntryState::Cancelled => Update::last("cancelled", id, &data),
            EntryState::Expired => Update::last("expired", id, &data),
        };
        sender.replay(update).await?;
        self.last_sent = Some(change.position);
        Ok(())
    }

    /// Sends the current state of the search. Returns when the window widens next.
    async fn send_search(&self, sender: &Sender) -> Result<Option<Timestamp>, StopReason> {
        let EntryState::Searching { .. } = self.tracker.state() else { return Ok(None) };
        let entry = self.tracker.queued.entry_id;
        let found = self.api.models.queues().entry(&self.tenant, entry).await;
        let view = found.map_err(|error| from_query_error(&error))?;
        let Some((view, (pool, search))) =
            view.as_ref().and_then(|view| Some((view, best(&view.pool_statuses)?)))
        else {
            // The read model has not applied the release yet.
            return Ok(Some(self.api.clock.now().after(POLL_INTERVAL)));
        };
        let found = &search.explanation;
        let data = QueueEntryUpdate {
            status: Some(EntryStatus::Searching),
            waited_seconds: Some(view.at.since(self.tracker.queued_at).as_secs_f64()),
            pool_key: Some(TextId(pool.pool_key.clone())),
            window: Some(found.window),
            candidates: Some(found.in_window as u64),
            place_in_line: Some(found.place_in_line as u64),
            widens_at: found.widens_at.map(ApiTimestamp),
            ..self.base_update()
        };
        sender.send(Update::progress("searching", None, &data))?;
        let searches = view.pool_statuses.iter().filter_map(|standing| standing.search.as_ref());
        Ok(searches.filter_map(|search| search.explanation.widens_at).min())
    }

    fn base_update(&self) -> QueueEntryUpdate {
        let entry = Some(UuidParam(self.tracker.queued.entry_id));
        QueueEntryUpdate { id: entry, entry_id: entry, ..QueueEntryUpdate::default() }
    }

    async fn update_data(&self, change: &EntryChange) -> Result<QueueEntryUpdate, Problem> {
        let base = QueueEntryUpdate {
            position: Some(ApiPosition(change.position)),
            waited_seconds: Some(change.at.since(self.tracker.queued_at).as_secs_f64()),
            ..self.base_update()
        };
        let ended = |status| QueueEntryUpdate { status: Some(status), ..base.clone() };
        Ok(match &change.state {
            EntryState::Searching { released } => {
                let pools = self.tracker.queued.pools.iter();
                QueueEntryUpdate {
                    status: Some(EntryStatus::Searching),
                    pool_keys: Some(pools.map(|pool| TextId(pool.pool_key.clone())).collect()),
                    expires_at: Some(ApiTimestamp(self.tracker.queued.expires_at)),
                    reason: released.map(|(reason, _)| reason.into()),
                    eligible_at: released.map(|(_, eligible_at)| ApiTimestamp(eligible_at)),
                    ..base
                }
            }
            // Until the game is created the match may fail, so the players do not learn of each other.
            EntryState::Placing(reservation) => QueueEntryUpdate {
                status: Some(EntryStatus::Placing),
                match_id: Some(UuidParam(reservation.match_id)),
                pool_key: Some(TextId(reservation.pool_key.clone())),
                challenge_id: reservation.challenge_id.map(UuidParam),
                ..base
            },
            EntryState::Matched(reservation, game) => {
                let user_ids =
                    self.api.server.subjects.user_ids(&self.tenant, [reservation.opponent]).await?;
                QueueEntryUpdate {
                    status: Some(EntryStatus::Matched),
                    match_id: Some(UuidParam(reservation.match_id)),
                    pool_key: Some(TextId(reservation.pool_key.clone())),
                    challenge_id: reservation.challenge_id.map(UuidParam),
                    game_id: game.confirmed.game_id.clone().map(TextId),
                    side: Some(game.side.into()),
                    opponent_id: user_ids.user_id(reservation.opponent).map(TextId),
                    result_due_at: Some(ApiTimestamp(game.confirmed.result_due_at)),
                    ..base
                }
            }
            EntryState::Cancelled => ended(EntryStatus::Cancelled),
            EntryState::Expired => ended(EntryStatus::Expired),
        })
    }

    /// Reads the new events of both streams into `changes`.
    async fn read_new_events(&mut self) -> Result<(), Problem> {
        self.read_player().await?;
        self.read_match().await
    }

    /// Checks whether the match that the entry is reserved for is confirmed.
    async fn read_match(&mut self) -> Result<(), Problem> {
        let Some(reservation) = self.tracker.reservation() else {
            self.match_changes = None;
            return Ok(());
        };
        let (id, stream) = (reservation.match_id, StreamId::game_match(reservation.match_id));
        if self.match_changes.as_ref().is_none_or(|(followed, _)| *followed != id) {
            self.match_changes = Some((id, self.api.notifier.stream(stream.clone())));
        }
        if let Some(game) = self.find_confirmation(&stream).await? {
            // Since the last read, the match may have failed and been retried.
            self.read_player().await?;
            self.changes.extend(self.tracker.confirm(game));
        }
        Ok(())
    }

    /// Reads the rest of the player's stream.
    async fn read_player(&mut self) -> Result<(), Problem> {
        self.player_changes.mark_unchanged();
        let stream = StreamId::player(&self.tenant, self.player);
        while !self.tracker.is_superseded() {
            let events = self.api.log.read_stream(&stream, self.next, CHUNK_EVENTS).await;
            let events = events.map_err(|error| from_read_error(&error))?;
            for event in &events {
                let envelope = event.decode().map_err(|error| Problem::internal(&error))?;
                self.next = event.revision.next();
                self.changes.extend(self.tracker.apply(&envelope));
            }
            if events.len() < CHUNK_EVENTS {
                break;
            }
        }
        Ok(())
    }

    /// Finds the confirmation in the match's own stream.
    async fn find_confirmation(&mut self, stream: &StreamId) -> Result<Option<ConfirmedGame>, Problem> {
        if let Some((_, changes)) = &mut self.match_changes {
            changes.mark_unchanged();
        }
        let events = self.api.log.read_stream(stream, Revision(0), CHUNK_EVENTS).await;
        let events = events.map_err(|error| from_read_error(&error))?;
        let mut side = None;
        for event in &events {
            let Envelope { event, position, metadata, .. } =
                event.decode().map_err(|error| Problem::internal(&error))?;
            match (event, side) {
                (Event::GameMatch(GameMatchEvent::MatchProposed(proposed)), _) => {
                    side = Some(tracker::side(&proposed, self.player));
                }
                (Event::GameMatch(GameMatchEvent::MatchConfirmed(confirmed)), Some(side)) => {
                    return Ok(Some(ConfirmedGame { confirmed, side, position, at: metadata.occurred_at }));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// Loads the entry, and waits for the read model if needed: a browser opens the stream of an entry that it has just
/// created, and cannot send `X-Min-Position`.
async fn load_or_wait(api: &ReadApi, tenant: &Tenant, entry: EntryId) -> Result<EntryView, Problem> {
    let load = || async {
        let found = api.models.queues().entry(tenant, entry).await;
        found.map_err(|error| from_query_error(&error))
    };
    if let Some(view) = load().await? {
        return Ok(view);
    }
    api.wait_for_models(&[Name::Queues], MinPosition(Some(api.head()))).await?;
    load().await?.ok_or_else(no_such_entry)
}

fn no_such_entry() -> Problem {
    Problem::not_found("no such queue entry")
}

#[cfg(test)]
mod tests {
    use event_schemas::game_match::AbandonReason;

    use super::*;
    use crate::tests::entry_stream::open_stream;
    use crate::tests::fixture::ReadApiFixture;

    fn positions(changes: &VecDeque<EntryChange>) -> Vec<Position> {
        changes.iter().map(|change| change.position).collect()
    }

    #[tokio::test]
    async fn player_stream_is_read_again_before_a_confirmation() {
        let fixture = ReadApiFixture::open().await;
        let joined = fixture.joined(1).await;
        let first = fixture.reserved_by_challenge(1, 1).await;
        let mut stream = open_stream(&fixture, 1).await;
        assert_eq!(positions(&stream.changes), [first]);
        stream.changes.clear();
        // These events are appended after the player's stream was read and before the match's stream is.
        let released = fixture.released(1, AbandonReason::GameServiceFailed).await;
        let second = fixture.reserved_by_challenge(1, 2).await;
        let confirmed = fixture.confirmed_by_challenge(1).await;
        stream.read_match().await.unwrap();
        assert_eq!(positions(&stream.changes), [released, second, confirmed]);
        assert!(joined < first && first < released);
    }
}
