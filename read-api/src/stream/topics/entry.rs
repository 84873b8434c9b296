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
mod update;

use std::collections::VecDeque;
use std::sync::Arc;

use domain::matchmaking::pool_status::best;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::game_match::GameMatchEvent;
use event_schemas::ids::{EntryId, GameMatchId, Position, Revision, SubjectId, Tenant};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use projections::queue::EntryStatus;
use tokio::sync::watch;
use web::caller::Caller;
use web::problem::Problem;
use web::sse::Update;

use super::super::POLL_INTERVAL;
use super::super::engine::{Follower, Progress, TopicKey};
use super::stream_reader::{CHUNK_EVENTS, StreamReader};
use crate::ReadApi;
use crate::errors::from_query_error;
use tracker::{ConfirmedGame, EntryChange, EntryState, EntryTracker};

pub(crate) use update::QueueEntryUpdate;

/// Follows one queue entry.
#[derive(Debug)]
pub(crate) struct QueueEntryFollower {
    api: Arc<ReadApi>,
    tenant: Tenant,
    player: SubjectId,
    tracker: EntryTracker,
    received: Option<Position>,
    /// Changes that were read but not sent.
    changes: VecDeque<EntryChange>,
    /// The latest change that was read.
    latest: EntryChange,
    /// The latest state of the search; none if the entry does not search.
    search: Option<Update>,
    widens_at: Option<Timestamp>,
    /// The player's stream.
    events: StreamReader,
    player_changes: watch::Receiver<u64>,
    /// Notifies of changes to the match whose game is being created.
    match_changes: Option<(GameMatchId, watch::Receiver<u64>)>,
}

impl QueueEntryFollower {
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
        let view = api.queue_entry(&caller.tenant, entry).await?.ok_or_else(no_such_entry)?;
        let player = view.entry.entry.queued.subject_id;
        if !api.may_see(caller, |subject| subject == player).await? {
            return Err(no_such_entry());
        }
        // The subscription starts before the first read, so that no event is missed.
        let player_stream = StreamId::player(&caller.tenant, player);
        let player_changes = api.notifier.stream(player_stream.clone());
        // A position beyond the head comes from another log or from before a restore.
        let received = after.filter(|after| *after <= api.head());
        let mut events = StreamReader { stream: player_stream, next: view.entry.entry.first_revision };
        let first = events.chunk(&api.log, 1).await?.pop().ok_or_else(no_such_entry)?;
        let (tracker, joined) = EntryTracker::start(entry, &first).ok_or_else(no_such_entry)?;
        let mut follower = Self {
            api: Arc::clone(api),
            tenant: caller.tenant.clone(),
            player,
            tracker,
            received,
            changes: VecDeque::from([joined.clone()]),
            latest: joined,
            search: None,
            widens_at: None,
            events,
            player_changes,
            match_changes: None,
        };
        follower.read_new_events().await?;
        match received {
            Some(received) => follower.changes.retain(|change| change.position > received),
            // A client without a position gets the present state, not the history.
            None => follower.changes.clear(),
        }
        let has_received_the_end =
            received.is_some() && follower.latest.is_end() && follower.changes.is_empty();
        Ok((!has_received_the_end).then_some(follower))
    }

    async fn change_update(&self, change: &EntryChange) -> Result<Update, Problem> {
        let data = self.update_data(change).await?;
        let id = Some(change.position);
        Ok(match &change.state {
            EntryState::Searching { .. } => Update::state("searching", id, &data),
            EntryState::Placing(_) => Update::state("placing", id, &data),
            EntryState::Matched(..) => Update::last("matched", id, &data),
            EntryState::Cancelled => Update::last("cancelled", id, &data),
            EntryState::Expired => Update::last("expired", id, &data),
        })
    }

    /// The present state of the search, and when the window widens next.
    async fn search(&self) -> Result<(Option<Update>, Option<Timestamp>), Problem> {
        let EntryState::Searching { .. } = self.tracker.state() else { return Ok((None, None)) };
        let entry = self.tracker.queued.entry_id;
        let found = self.api.models.queues().entry(&self.tenant, entry).await;
        let view = found.map_err(|error| from_query_error(&error))?;
        let Some((view, (pool, search))) =
            view.as_ref().and_then(|view| Some((view, best(&view.pool_statuses)?)))
        else {
            // The read model has not applied the release yet.
            return Ok((None, Some(self.api.clock.now().after(POLL_INTERVAL))));
        };
        let found = &search.explanation;
        let data = QueueEntryUpdate {
            status: Some(EntryStatus::Searching),
            waited_seconds: Some(view.at.since(self.tracker.queued_at).as_secs_f64()),
            pool_key: Some(pool.pool_key.clone()),
            window: Some(found.window),
            candidates: Some(found.in_window as u64),
            place_in_line: Some(found.place_in_line as u64),
            widens_at: found.widens_at,
            ..self.base_update()
        };
        let update = Update::progress("searching", None, &data);
        let searches = view.pool_statuses.iter().filter_map(|standing| standing.search.as_ref());
        Ok((Some(update), searches.filter_map(|search| search.explanation.widens_at).min()))
    }

    fn base_update(&self) -> QueueEntryUpdate {
        let entry = Some(self.tracker.queued.entry_id);
        QueueEntryUpdate { id: entry, entry_id: entry, ..QueueEntryUpdate::default() }
    }

    async fn update_data(&self, change: &EntryChange) -> Result<QueueEntryUpdate, Problem> {
        let base = QueueEntryUpdate {
            position: Some(change.position),
            waited_seconds: Some(change.at.since(self.tracker.queued_at).as_secs_f64()),
            ..self.base_update()
        };
        let ended = |status| QueueEntryUpdate { status: Some(status), ..base.clone() };
        Ok(match &change.state {
            EntryState::Searching { released } => {
                let pools = self.tracker.queued.pools.iter();
                QueueEntryUpdate {
                    status: Some(EntryStatus::Searching),
                    pool_keys: Some(pools.map(|pool| pool.pool_key.clone()).collect()),
                    expires_at: Some(self.tracker.queued.expires_at),
                    reason: released.map(|(reason, _)| reason),
                    eligible_at: released.map(|(_, eligible_at)| eligible_at),
                    ..base
                }
            }
            // Until the game is created the match may fail, so the players do not learn of each other.
            EntryState::Placing(reservation) => QueueEntryUpdate {
                status: Some(EntryStatus::Placing),
                match_id: Some(reservation.match_id),
                pool_key: Some(reservation.pool_key.clone()),
                challenge_id: reservation.challenge_id,
                ..base
            },
            EntryState::Matched(reservation, game) => {
                let user_ids =
                    self.api.server.subjects.user_ids(&self.tenant, [reservation.opponent]).await?;
                QueueEntryUpdate {
                    status: Some(EntryStatus::Matched),
                    match_id: Some(reservation.match_id),
                    pool_key: Some(reservation.pool_key.clone()),
                    challenge_id: reservation.challenge_id,
                    game_id: game.confirmed.game_id.clone(),
                    side: Some(game.side),
                    opponent_id: user_ids.user_id(reservation.opponent),
                    result_due_at: Some(game.confirmed.result_due_at),
                    ..base
                }
            }
            EntryState::Cancelled => ended(EntryStatus::Cancelled),
            EntryState::Expired => ended(EntryStatus::Expired),
        })
    }

    fn add(&mut self, change: Option<EntryChange>) {
        if let Some(change) = change {
            self.latest = change.clone();
            self.changes.push_back(change);
        }
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
        if let Some(game) = self.find_confirmation(stream).await? {
            // Since the last read, the match may have failed and been retried.
            self.read_player().await?;
            let confirmed = self.tracker.confirm(game);
            self.add(confirmed);
        }
        Ok(())
    }

    /// Reads the rest of the player's stream.
    async fn read_player(&mut self) -> Result<(), Problem> {
        self.player_changes.mark_unchanged();
        while !self.tracker.is_superseded() {
            let events = self.events.chunk(&self.api.log, CHUNK_EVENTS).await?;
            for envelope in &events {
                let change = self.tracker.apply(envelope);
                self.add(change);
            }
            if events.len() < CHUNK_EVENTS {
                break;
            }
        }
        Ok(())
    }

    /// Finds the confirmation in the match's own stream.
    async fn find_confirmation(&mut self, stream: StreamId) -> Result<Option<ConfirmedGame>, Problem> {
        if let Some((_, changes)) = &mut self.match_changes {
            changes.mark_unchanged();
        }
        let mut events = StreamReader { stream, next: Revision(0) };
        let mut side = None;
        for Envelope { event, position, metadata, .. } in events.chunk(&self.api.log, CHUNK_EVENTS).await? {
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

impl Follower for QueueEntryFollower {
    type Data = QueueEntryUpdate;

    fn key(&self) -> TopicKey {
        let id = self.tracker.queued.entry_id.0;
        TopicKey { kind: "queue entry", tenant: Some(self.tenant.clone()), id }
    }

    fn received(&self) -> Option<Position> {
        self.received
    }

    fn changed(&self) -> Option<Position> {
        Some(self.latest.position)
    }

    fn connected_event(&self) -> Option<QueueEntryUpdate> {
        Some(QueueEntryUpdate { position: self.received, ..self.base_update() })
    }

    async fn changes(&mut self) -> Result<Vec<Update>, Problem> {
        self.read_new_events().await?;
        let mut updates = Vec::new();
        while let Some(change) = self.changes.pop_front() {
            updates.push(self.change_update(&change).await?);
        }
        Ok(updates)
    }

    async fn progress(&mut self) -> Result<Option<Progress>, Problem> {
        (self.search, self.widens_at) = self.search().await?;
        Ok(self.search.clone().map(|update| Progress { update, is_beyond_id: false }))
    }

    async fn first(&mut self) -> Result<Vec<Update>, Problem> {
        let current = self.change_update(&self.latest).await?;
        Ok([current].into_iter().chain(self.search.clone()).collect())
    }

    async fn wake(&mut self) {
        let widening = async {
            match self.widens_at {
                Some(at) => self.api.clock.sleep_until(at).await,
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
        }
    }
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
        assert_eq!(stream.latest.position, first);
        // These events are appended after the player's stream was read and before the match's stream is.
        let released = fixture.released(1, AbandonReason::GameServiceFailed).await;
        let second = fixture.reserved_by_challenge(1, 2).await;
        let confirmed = fixture.confirmed_by_challenge(1).await;
        stream.read_match().await.unwrap();
        assert_eq!(positions(&stream.changes), [released, second, confirmed]);
        assert!(joined < first && first < released);
    }
}
