//! Entries as callers ask for them: what became of a wish to wait, and what stands in its way.

use domain::match_record::{self, MatchRecord};
use domain::player::{self, Action, Entry, Player, Refusal, Whereabouts};
use event_log::EventLog;
use event_schemas::envelope::{Cause, Envelope, Event};
use event_schemas::ids::{EntryId, MatchRecordId, PoolKey, Position, Revision, SubjectId, Tenant};
use event_schemas::player::{PlayerEvent, PlayerQueued};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use serde::Serialize;
use web::value::{At, Text, Uid};
use web::vocabulary::{EntryStatus, MatchStatus};

use super::Matchmaking;
use crate::execute::{ExecuteError, Executed, Folded, LoadError};

/// How many events of a player are read at once, from the latest back.
const BACK_EVENTS: u64 = 256;

/// What a player does already, who wants to begin something.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum InTheWay {
    Entry {
        id: Uid<EntryId>,
        entry_id: Uid<EntryId>,
        status: EntryStatus,
        pool_keys: Vec<Text<PoolKey>>,
        queued_at: At,
        expires_at: At,
        #[serde(skip_serializing_if = "Option::is_none")]
        match_id: Option<Uid<MatchRecordId>>,
    },
    Match {
        id: Uid<MatchRecordId>,
        match_id: Uid<MatchRecordId>,
        status: MatchStatus,
    },
}

impl InTheWay {
    fn entry(entry: &Entry, status: EntryStatus, match_id: Option<MatchRecordId>) -> Self {
        let PlayerQueued { entry_id, pools, expires_at, .. } = &entry.queued;
        Self::Entry {
            id: (*entry_id).into(),
            entry_id: (*entry_id).into(),
            status,
            pool_keys: pools.iter().map(|pool| pool.pool_key.clone().into()).collect(),
            queued_at: entry.queued_at.into(),
            expires_at: (*expires_at).into(),
            match_id: match_id.map(Into::into),
        }
    }
}

impl Matchmaking {
    /// Carries out what a caller wants of a player, now.
    ///
    /// # Errors
    /// As [`Streams::execute`](crate::execute::Streams::execute).
    pub(crate) async fn ask_of_player(
        &self,
        subject_id: SubjectId,
        cause: &Cause,
        action: Action,
    ) -> Result<Executed, ExecuteError<Refusal>> {
        self.ask_of_player_at(self.clock().now(), subject_id, cause, action).await
    }

    /// Carries out what a caller wanted of a player at this instant.
    ///
    /// # Errors
    /// As [`Streams::execute`](crate::execute::Streams::execute).
    pub(crate) async fn ask_of_player_at(
        &self,
        at: Timestamp,
        subject_id: SubjectId,
        cause: &Cause,
        action: Action,
    ) -> Result<Executed, ExecuteError<Refusal>> {
        let command = player::Command { subject_id, at, action };
        self.0.players.execute(&StreamId::player(&cause.tenant, subject_id), cause, command).await
    }

    /// A player's entry as it was when it was made, which stays the same whatever happened since; and since when it waits.
    ///
    /// # Errors
    /// [`LoadError`] if the player's events cannot be read.
    pub(crate) async fn queued(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
        entry_id: EntryId,
    ) -> Result<Option<(PlayerQueued, Timestamp)>, LoadError> {
        let stream = StreamId::player(tenant, subject);
        let present = |folded: &Folded<Player>| {
            let entry = folded.state.entry().filter(|entry| entry.queued.entry_id == entry_id);
            entry.map(|entry| (entry.queued.clone(), entry.queued_at))
        };
        if let Some(present) = self.0.players.look(&stream, present).await? {
            return Ok(Some(present));
        }
        let is_it = |event: &PlayerEvent| matches!(event, PlayerEvent::PlayerQueued(queued) if queued.entry_id == entry_id);
        Ok(match self.latest_of_player(tenant, subject, is_it).await? {
            Some(Envelope { event: Event::Player(PlayerEvent::PlayerQueued(queued)), metadata, .. }) => {
                Some((queued, metadata.occurred_at))
            }
            _ => None,
        })
    }

    /// The latest event of a player that is such a one.
    ///
    /// # Errors
    /// [`LoadError`] if the player's events cannot be read.
    pub(super) async fn latest_of_player(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
        is_it: impl Fn(&PlayerEvent) -> bool,
    ) -> Result<Option<Envelope>, LoadError> {
        let stream = StreamId::player(tenant, subject);
        let latest = self.0.players.look(&stream, Folded::revision).await?;
        let mut end = latest.map_or(0, |Revision(latest)| latest + 1);
        while end > 0 {
            let start = end.saturating_sub(BACK_EVENTS);
            let count = usize::try_from(end - start).unwrap_or(usize::MAX);
            let events = self.log().read_stream(&stream, Revision(start), count).await?;
            for event in events.iter().rev() {
                let event = event.decode()?;
                if matches!(&event.event, Event::Player(event) if is_it(event)) {
                    return Ok(Some(event));
                }
            }
            end = start;
        }
        Ok(None)
    }

    /// Of a player's latest event.
    ///
    /// # Errors
    /// [`LoadError`] if the player's events cannot be read.
    pub(crate) async fn player_position(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
    ) -> Result<Position, LoadError> {
        self.0.players.look(&StreamId::player(tenant, subject), Folded::position).await
    }

    /// What the player does already, if that is why they were refused, and if it lasts still.
    ///
    /// # Errors
    /// [`LoadError`] if the events cannot be read.
    pub(crate) async fn in_the_way(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
        refusal: &Refusal,
    ) -> Result<Option<InTheWay>, LoadError> {
        let stream = StreamId::player(tenant, subject);
        let whereabouts = |folded: &Folded<Player>| folded.state.whereabouts().clone();
        let now = match refusal {
            Refusal::AlreadyQueued(_) | Refusal::InMatch(_) => {
                self.0.players.look(&stream, whereabouts).await?
            }
            _ => return Ok(None),
        };
        Ok(match now {
            Whereabouts::Free => None,
            Whereabouts::Searching(entry) => Some(InTheWay::entry(&entry, EntryStatus::Searching, None)),
            Whereabouts::Matched { entry, match_id, .. } => {
                let status = match self.match_status(match_id).await? {
                    MatchStatus::Placing => EntryStatus::Placing,
                    _ => EntryStatus::Matched,
                };
                Some(InTheWay::entry(&entry, status, Some(match_id)))
            }
            Whereabouts::Engaged { match_id, .. } => {
                let status = self.match_status(match_id).await?;
                Some(InTheWay::Match { id: match_id.into(), match_id: match_id.into(), status })
            }
        })
    }

    /// How a match stands for its players.
    async fn match_status(&self, id: MatchRecordId) -> Result<MatchStatus, LoadError> {
        let look = |folded: &Folded<MatchRecord>| match folded.state.life().map(|life| &life.phase) {
            // The match of a challenge is recorded once its game is made.
            None | Some(match_record::Phase::Proposed) => MatchStatus::Placing,
            Some(match_record::Phase::Confirmed { .. }) => MatchStatus::Playing,
            Some(match_record::Phase::Abandoned { .. }) => MatchStatus::Abandoned,
            Some(match_record::Phase::Ended(_)) => MatchStatus::Finished,
            Some(match_record::Phase::Expired) => MatchStatus::Expired,
        };
        self.0.matches.look(&StreamId::match_record(id), look).await
    }
}
