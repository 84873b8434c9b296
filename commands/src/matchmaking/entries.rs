//! Queue entries, as the routes use them, and the activity that conflicts with a new entry.

use domain::game_match::{self, GameMatchDecider};
use domain::matchmaking::status::{EntryStatus, GameMatchStatus};
use domain::player::{self, Action, Entry, PlayerActivity, PlayerDecider, Refusal};
use event_log::EventLog;
use event_schemas::envelope::{Cause, Envelope, Event};
use event_schemas::ids::{EntryId, GameMatchId, PoolKey, Position, Revision, SubjectId, Tenant};
use event_schemas::player::{PlayerEvent, PlayerQueued};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use serde::Serialize;

use super::Matchmaking;
use crate::engine::execute::{CachedStream, ExecuteError, Executed, LoadError};

/// The number of a player's events per read, from the latest backwards.
const PAGE_EVENTS: u64 = 256;

/// The activity that keeps a player from starting another.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum ConflictingActivity {
    Entry {
        id: EntryId,
        entry_id: EntryId,
        status: EntryStatus,
        pool_keys: Vec<PoolKey>,
        queued_at: Timestamp,
        expires_at: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        match_id: Option<GameMatchId>,
    },
    Match {
        id: GameMatchId,
        match_id: GameMatchId,
        status: GameMatchStatus,
    },
}

impl ConflictingActivity {
    fn entry(entry: &Entry, status: EntryStatus, match_id: Option<GameMatchId>) -> Self {
        let PlayerQueued { entry_id, pools, expires_at, .. } = &entry.queued;
        Self::Entry {
            id: *entry_id,
            entry_id: *entry_id,
            status,
            pool_keys: pools.iter().map(|pool| pool.pool_key.clone()).collect(),
            queued_at: entry.queued_at,
            expires_at: *expires_at,
            match_id,
        }
    }
}

impl Matchmaking {
    /// Executes a caller's command on a player now.
    ///
    /// # Errors
    /// As [`Streams::execute`](crate::engine::execute::Streams::execute).
    pub(crate) async fn execute_player(
        &self,
        subject_id: SubjectId,
        cause: &Cause,
        action: Action,
    ) -> Result<Executed, ExecuteError<Refusal>> {
        self.execute_player_at(self.engine.now(), subject_id, cause, action).await
    }

    /// Executes a caller's command on a player at this instant.
    ///
    /// # Errors
    /// As [`Streams::execute`](crate::engine::execute::Streams::execute).
    pub(crate) async fn execute_player_at(
        &self,
        at: Timestamp,
        subject_id: SubjectId,
        cause: &Cause,
        action: Action,
    ) -> Result<Executed, ExecuteError<Refusal>> {
        let command = player::Command { subject_id, at, action };
        self.players.execute(&StreamId::player(&cause.tenant, subject_id), cause, command).await
    }

    /// A player's entry as it was created, unaffected by later events, and the time since which it waits.
    ///
    /// # Errors
    /// [`LoadError`] if the player's events cannot be read.
    pub(crate) async fn queued_entry(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
        entry_id: EntryId,
    ) -> Result<Option<(PlayerQueued, Timestamp)>, LoadError> {
        let stream = StreamId::player(tenant, subject);
        let present = |folded: &CachedStream<PlayerDecider>| {
            let entry = folded.state.entry().filter(|entry| entry.queued.entry_id == entry_id);
            entry.map(|entry| (entry.queued.clone(), entry.queued_at))
        };
        if let Some(present) = self.players.query(&stream, present).await? {
            return Ok(Some(present));
        }
        let predicate = |event: &PlayerEvent| matches!(event, PlayerEvent::PlayerQueued(queued) if queued.entry_id == entry_id);
        Ok(match self.latest_player_event(tenant, subject, predicate).await? {
            Some(Envelope { event: Event::Player(PlayerEvent::PlayerQueued(queued)), metadata, .. }) => {
                Some((queued, metadata.occurred_at))
            }
            _ => None,
        })
    }

    /// The latest event of a player that matches the predicate.
    ///
    /// # Errors
    /// [`LoadError`] if the player's events cannot be read.
    pub(super) async fn latest_player_event(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
        predicate: impl Fn(&PlayerEvent) -> bool,
    ) -> Result<Option<Envelope>, LoadError> {
        let stream = StreamId::player(tenant, subject);
        let latest = self.players.query(&stream, CachedStream::revision).await?;
        let mut end = latest.map_or(0, |Revision(latest)| latest + 1);
        while end > 0 {
            let start = end.saturating_sub(PAGE_EVENTS);
            let count = usize::try_from(end - start).unwrap_or(usize::MAX);
            let events = self.engine.log.read_stream(&stream, Revision(start), count).await?;
            for event in events.iter().rev() {
                let event = event.decode()?;
                if matches!(&event.event, Event::Player(event) if predicate(event)) {
                    return Ok(Some(event));
                }
            }
            end = start;
        }
        Ok(None)
    }

    /// The position of a player's latest event.
    ///
    /// # Errors
    /// [`LoadError`] if the player's events cannot be read.
    pub(crate) async fn player_position(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
    ) -> Result<Position, LoadError> {
        self.players.query(&StreamId::player(tenant, subject), CachedStream::position).await
    }

    /// The player's current activity, if it caused this refusal and has not ended since.
    ///
    /// # Errors
    /// [`LoadError`] if the events cannot be read.
    pub(crate) async fn conflicting_activity(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
        refusal: &Refusal,
    ) -> Result<Option<ConflictingActivity>, LoadError> {
        let stream = StreamId::player(tenant, subject);
        let activity = |folded: &CachedStream<PlayerDecider>| folded.state.activity().clone();
        let current = match refusal {
            Refusal::AlreadyQueued(_) | Refusal::InMatch(_) => self.players.query(&stream, activity).await?,
            _ => return Ok(None),
        };
        Ok(match current {
            PlayerActivity::Idle => None,
            PlayerActivity::Searching(entry) => {
                Some(ConflictingActivity::entry(&entry, EntryStatus::Searching, None))
            }
            PlayerActivity::ReservedForMatch { entry, match_id, .. } => {
                let status = match self.match_status(match_id).await? {
                    GameMatchStatus::Placing => EntryStatus::Placing,
                    _ => EntryStatus::Matched,
                };
                Some(ConflictingActivity::entry(&entry, status, Some(match_id)))
            }
            PlayerActivity::ReservedForChallenge { match_id, .. } => {
                let status = self.match_status(match_id).await?;
                Some(ConflictingActivity::Match { id: match_id, match_id, status })
            }
        })
    }

    /// The status of a match for its players.
    async fn match_status(&self, id: GameMatchId) -> Result<GameMatchStatus, LoadError> {
        let read = |folded: &CachedStream<GameMatchDecider>| match folded
            .state
            .details()
            .map(|details| &details.phase)
        {
            // The match of a challenge is recorded once its game is created.
            None | Some(game_match::Phase::Proposed) => GameMatchStatus::Placing,
            Some(game_match::Phase::Confirmed { .. }) => GameMatchStatus::Playing,
            Some(game_match::Phase::Abandoned { .. }) => GameMatchStatus::Abandoned,
            Some(game_match::Phase::Ended(_)) => GameMatchStatus::Finished,
            Some(game_match::Phase::Expired) => GameMatchStatus::Expired,
        };
        self.game_matches.query(&StreamId::game_match(id), read).await
    }
}
