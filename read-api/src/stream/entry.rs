//! Following one queue entry: what its player is told, and when.
//!
//! What happens to an entry stands in two streams. That it was queued, taken for a match, released, cancelled or has expired
//! is in its player's; that the game of its match is there is in the match's own. Positions are one order over both, and an
//! update's id is the position of the event that it tells of. So whoever comes back with an id is told what lies behind it,
//! provided that updates are told in that order, and that holds for these reasons:
//!
//! - A match's stream is looked at only while the entry is taken for that match, and says one thing that matters: that the
//!   match is confirmed. A confirmed match never releases its players, and nothing happens to the entry afterwards. So the
//!   confirmation lies behind everything that the player's stream ever says of the entry.
//! - What the player's stream says may have grown when the confirmation is found: a challenge that failed and was accepted
//!   again leads to the same match. So it is read once more, up to its end, before the confirmation is told.
//!
//! Between changes `searching` is repeated as the window widens, without an id, for that is no event.

mod track;

use std::collections::VecDeque;
use std::sync::Arc;

use domain::matchmaking::standing::best;
use event_log::EventLog;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{
    ChallengeId, EntryId, GameId, MatchRecordId, PoolKey, Position, Revision, SubjectId, Tenant, UserId,
};
use event_schemas::match_record::MatchRecordEvent;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use poem_openapi::Object;
use projections::Name;
use projections::queue::EntryView;
use tokio::sync::watch;
use web::caller::Caller;
use web::problem::Problem;
use web::sse::{Sender, Update};
use web::value::{At, Pos, Text, Uid};
use web::vocabulary::{AbandonReason, EntryStatus, Side};

use super::{CHUNK_EVENTS, Halt, LOOK_EVERY};
use crate::ReadApi;
use crate::answer::{MinPosition, unanswered, unread};
use track::{Change, Game, State, Track};

/// What an update of a queue entry says, beside `event`, `connection_id` and `update_count`. What an update does not tell of
/// is left out.
#[derive(Clone, Debug, Default, Object)]
#[oai(rename = "QueueEntryUpdate", skip_serializing_if_is_none)]
pub(crate) struct Message {
    pub id: Option<Uid<EntryId>>,
    pub entry_id: Option<Uid<EntryId>>,
    pub status: Option<EntryStatus>,
    /// Of the event that the update tells of; the update's id.
    pub position: Option<Pos>,
    /// Since it was queued, by then.
    pub waited_seconds: Option<f64>,
    /// While it searches: where.
    pub pool_keys: Option<Vec<Text<PoolKey>>>,
    pub expires_at: Option<At>,
    /// Why the latest match came to nothing, where the entry searches again.
    pub reason: Option<AbandonReason>,
    /// Before this instant no other match is made then.
    pub eligible_at: Option<At>,
    /// While it searches, without an id: how far the window reaches, in points to either side.
    pub window: Option<u16>,
    /// How many wait within the window.
    pub candidates: Option<u64>,
    /// From 1.
    pub place_in_line: Option<u64>,
    /// From when on the window reaches farther.
    pub widens_at: Option<At>,
    /// From `placing` on.
    pub match_id: Option<Uid<MatchRecordId>>,
    /// The pool of the match, or, while it searches, that in which somebody is likely to be found first.
    pub pool_key: Option<Text<PoolKey>>,
    /// The challenge that took the player out of the queue, if one did.
    pub challenge_id: Option<Uid<ChallengeId>>,
    pub game_id: Option<Text<GameId>>,
    pub side: Option<Side>,
    /// Once matched; left out also for somebody who was erased.
    pub opponent_id: Option<Text<UserId>>,
    /// When the match ends by itself if no result comes.
    pub result_due_at: Option<At>,
}

/// One reader's way along a queue entry.
#[derive(Debug)]
pub(crate) struct FollowEntry {
    api: Arc<ReadApi>,
    tenant: Tenant,
    player: SubjectId,
    track: Track,
    /// Everything up to here has been told; none before the first update.
    told: Option<Position>,
    /// Read, and not told.
    changes: VecDeque<Change>,
    /// Of the first event of the player's stream that has not been read.
    next: Revision,
    player_pulse: watch::Receiver<u64>,
    /// Of the match whose game is being made.
    match_pulse: Option<(MatchRecordId, watch::Receiver<u64>)>,
}

impl FollowEntry {
    /// A reader who has seen everything up to `after`. None if that is the entry's end.
    ///
    /// # Errors
    /// 404 if there is no such entry, or it is not the caller's to see.
    pub(crate) async fn open(
        api: &Arc<ReadApi>,
        caller: &Caller,
        entry: EntryId,
        after: Option<Position>,
    ) -> Result<Option<Self>, Problem> {
        let view = first_look(api, &caller.tenant, entry).await?;
        let player = view.entry.entry.queued.subject_id;
        if !api.may_see(caller, |subject| subject == player).await? {
            return Err(no_such_entry());
        }
        // Listening begins before reading, so that nothing falls in between.
        let stream = StreamId::player(&caller.tenant, player);
        let player_pulse = api.pulses.stream(stream.clone());
        // A position that this log has not come to is of another log, or of one that was restored.
        let told = after.filter(|after| *after <= api.head());
        let begins_at = view.entry.entry.begins_at;
        let events = api.log.read_stream(&stream, begins_at, 1).await.map_err(|error| unread(&error))?;
        let first = events.first().ok_or_else(no_such_entry)?;
        let first = first.decode().map_err(|error| Problem::internal(&error))?;
        let (track, joined) = Track::begin(entry, &first).ok_or_else(no_such_entry)?;
        let mut follow = Self {
            api: Arc::clone(api),
            tenant: caller.tenant.clone(),
            player,
            track,
            told,
            changes: VecDeque::from([joined]),
            next: begins_at.next(),
            player_pulse,
            match_pulse: None,
        };
        follow.read_on().await?;
        let has_ended = follow.changes.back().is_some_and(Change::is_end);
        match told {
            Some(told) => follow.changes.retain(|change| change.position > told),
            // Whoever comes without a position is told how the entry stands, not how it came there.
            None => drop(follow.changes.drain(..follow.changes.len().saturating_sub(1))),
        }
        Ok(if has_ended && follow.changes.is_empty() { None } else { Some(follow) })
    }

    /// The data of `connected`.
    pub(crate) fn greeting(&self) -> Message {
        Message { position: self.told.map(Pos), ..self.named() }
    }

    /// Tells all that happens, until the entry has ended or nobody listens any more.
    pub(crate) async fn run(mut self, sender: Sender) {
        match self.follow(&sender).await {
            Ok(()) | Err(Halt::Closed) => {}
            // The stream breaks off; the reader comes back and goes on where it was.
            Err(Halt::Failed(problem)) => {
                tracing::warn!(entry = %self.track.queued.entry_id, %problem, "a stream of a queue entry broke off");
            }
        }
    }

    async fn follow(&mut self, sender: &Sender) -> Result<(), Halt> {
        loop {
            while let Some(change) = self.changes.pop_front() {
                self.tell(sender, &change).await?;
                if change.is_end() {
                    return Ok(());
                }
            }
            let widens_at = self.tell_search(sender).await?;
            let api = Arc::clone(&self.api);
            let widening = async {
                match widens_at {
                    Some(at) => api.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let confirming = async {
                match &mut self.match_pulse {
                    Some((_, pulse)) => pulse.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(()) = self.player_pulse.changed() => {}
                Ok(()) = confirming => {}
                () = widening => {}
                () = sender.closed() => return Err(Halt::Closed),
            }
            self.read_on().await?;
        }
    }

    async fn tell(&mut self, sender: &Sender, change: &Change) -> Result<(), Halt> {
        let message = self.message(change).await?;
        let id = Some(change.position);
        let update = match &change.state {
            State::Searching { .. } => Update::state("searching", id, &message),
            State::Placing(_) => Update::state("placing", id, &message),
            State::Matched(..) => Update::last("matched", id, &message),
            State::Cancelled => Update::last("cancelled", id, &message),
            State::Expired => Update::last("expired", id, &message),
        };
        sender.replay(update).await?;
        self.told = Some(change.position);
        Ok(())
    }

    /// How far the search reaches by now. Answers when it will reach farther.
    async fn tell_search(&self, sender: &Sender) -> Result<Option<Timestamp>, Halt> {
        let State::Searching { .. } = self.track.state() else { return Ok(None) };
        let entry = self.track.queued.entry_id;
        let found = self.api.models.queues().entry(&self.tenant, entry).await;
        let view = found.map_err(|error| unanswered(&error))?;
        let Some((view, (pool, search))) =
            view.as_ref().and_then(|view| Some((view, best(&view.standings)?)))
        else {
            // The read model does not know yet that it searches again.
            return Ok(Some(self.api.clock.now().after(LOOK_EVERY)));
        };
        let found = &search.explanation;
        let message = Message {
            status: Some(EntryStatus::Searching),
            waited_seconds: Some(view.at.since(self.track.queued_at).as_secs_f64()),
            pool_key: Some(Text(pool.pool_key.clone())),
            window: Some(found.window),
            candidates: Some(found.in_window as u64),
            place_in_line: Some(found.place_in_line as u64),
            widens_at: found.widens_at.map(At),
            ..self.named()
        };
        sender.send(Update::progress("searching", None, &message))?;
        let searches = view.standings.iter().filter_map(|standing| standing.search.as_ref());
        Ok(searches.filter_map(|search| search.explanation.widens_at).min())
    }

    fn named(&self) -> Message {
        let entry = Some(Uid(self.track.queued.entry_id));
        Message { id: entry, entry_id: entry, ..Message::default() }
    }

    async fn message(&self, change: &Change) -> Result<Message, Problem> {
        let base = Message {
            position: Some(Pos(change.position)),
            waited_seconds: Some(change.at.since(self.track.queued_at).as_secs_f64()),
            ..self.named()
        };
        let ended = |status| Message { status: Some(status), ..base.clone() };
        Ok(match &change.state {
            State::Searching { released } => {
                let pools = self.track.queued.pools.iter();
                Message {
                    status: Some(EntryStatus::Searching),
                    pool_keys: Some(pools.map(|pool| Text(pool.pool_key.clone())).collect()),
                    expires_at: Some(At(self.track.queued.expires_at)),
                    reason: released.map(|(reason, _)| reason.into()),
                    eligible_at: released.map(|(_, eligible_at)| At(eligible_at)),
                    ..base
                }
            }
            // Until the game is there the two may part again, and need not know of each other.
            State::Placing(taken) => Message {
                status: Some(EntryStatus::Placing),
                match_id: Some(Uid(taken.match_id)),
                pool_key: Some(Text(taken.pool_key.clone())),
                challenge_id: taken.challenge_id.map(Uid),
                ..base
            },
            State::Matched(taken, game) => {
                let names = self.api.server.people.names(&self.tenant, [taken.opponent]).await?;
                Message {
                    status: Some(EntryStatus::Matched),
                    match_id: Some(Uid(taken.match_id)),
                    pool_key: Some(Text(taken.pool_key.clone())),
                    challenge_id: taken.challenge_id.map(Uid),
                    game_id: game.confirmed.game_id.clone().map(Text),
                    side: Some(game.side.into()),
                    opponent_id: names.of(taken.opponent).map(Text),
                    result_due_at: Some(At(game.confirmed.result_due_at)),
                    ..base
                }
            }
            State::Cancelled => ended(EntryStatus::Cancelled),
            State::Expired => ended(EntryStatus::Expired),
        })
    }

    /// Reads whatever there is, to be told.
    async fn read_on(&mut self) -> Result<(), Problem> {
        self.read_player().await?;
        self.read_match().await
    }

    /// Looks whether the match that the entry is taken for is confirmed.
    async fn read_match(&mut self) -> Result<(), Problem> {
        let Some(taken) = self.track.placing() else {
            self.match_pulse = None;
            return Ok(());
        };
        let (id, stream) = (taken.match_id, StreamId::match_record(taken.match_id));
        if self.match_pulse.as_ref().is_none_or(|(followed, _)| *followed != id) {
            self.match_pulse = Some((id, self.api.pulses.stream(stream.clone())));
        }
        if let Some(game) = self.game(&stream).await? {
            // Since it was read, the match may have come to nothing and have been tried again.
            self.read_player().await?;
            self.changes.extend(self.track.confirm(game));
        }
        Ok(())
    }

    /// Reads on in the player's stream, to its end.
    async fn read_player(&mut self) -> Result<(), Problem> {
        self.player_pulse.mark_unchanged();
        let stream = StreamId::player(&self.tenant, self.player);
        while !self.track.is_past() {
            let events = self.api.log.read_stream(&stream, self.next, CHUNK_EVENTS).await;
            let events = events.map_err(|error| unread(&error))?;
            for event in &events {
                let envelope = event.decode().map_err(|error| Problem::internal(&error))?;
                self.next = event.revision.next();
                self.changes.extend(self.track.see(&envelope));
            }
            if events.len() < CHUNK_EVENTS {
                break;
            }
        }
        Ok(())
    }

    /// What the match's own stream says of its game, once it is there.
    async fn game(&mut self, stream: &StreamId) -> Result<Option<Game>, Problem> {
        if let Some((_, pulse)) = &mut self.match_pulse {
            pulse.mark_unchanged();
        }
        let events = self.api.log.read_stream(stream, Revision(0), CHUNK_EVENTS).await;
        let events = events.map_err(|error| unread(&error))?;
        let mut side = None;
        for event in &events {
            let Envelope { event, position, metadata, .. } =
                event.decode().map_err(|error| Problem::internal(&error))?;
            match (event, side) {
                (Event::MatchRecord(MatchRecordEvent::MatchProposed(proposed)), _) => {
                    side = Some(track::side(&proposed, self.player));
                }
                (Event::MatchRecord(MatchRecordEvent::MatchConfirmed(confirmed)), Some(side)) => {
                    return Ok(Some(Game { confirmed, side, position, at: metadata.occurred_at }));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// A browser opens the stream of an entry that it has just made, and cannot say from which position on it wants to read: so
/// an entry that is in the log is waited for.
async fn first_look(api: &ReadApi, tenant: &Tenant, entry: EntryId) -> Result<EntryView, Problem> {
    let look = || async {
        let found = api.models.queues().entry(tenant, entry).await;
        found.map_err(|error| unanswered(&error))
    };
    if let Some(view) = look().await? {
        return Ok(view);
    }
    api.models_reached(&[Name::Queues], MinPosition(Some(api.head()))).await?;
    look().await?.ok_or_else(no_such_entry)
}

fn no_such_entry() -> Problem {
    Problem::not_found("no such queue entry")
}

#[cfg(test)]
mod tests {
    use event_schemas::match_record::AbandonReason;

    use super::*;
    use crate::tests::entry_stream::follow;
    use crate::tests::stage::Stage;

    fn positions(changes: &VecDeque<Change>) -> Vec<Position> {
        changes.iter().map(|change| change.position).collect()
    }

    #[tokio::test]
    async fn what_the_players_stream_says_before_a_confirmation_is_told_before_it() {
        let stage = Stage::open().await;
        let joined = stage.joined(1).await;
        let first = stage.engaged(1, 1).await;
        let mut follow = follow(&stage, 1).await;
        assert_eq!(positions(&follow.changes), [first]);
        follow.changes.clear();
        // All this happens after the player's stream was read, and before the match's is.
        let released = stage.let_go(1, AbandonReason::GameServiceFailed).await;
        let second = stage.engaged(1, 2).await;
        let confirmed = stage.met_by_challenge(1).await;
        follow.read_match().await.unwrap();
        assert_eq!(positions(&follow.changes), [released, second, confirmed]);
        assert!(joined < first && first < released);
    }
}
