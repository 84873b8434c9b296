//! Challenges as callers ask for them: what stands between two players, and what an acceptance comes to.

use std::time::Duration;

use domain::challenge::{self, Action, Challenge, Life, Phase, Refusal};
use domain::matchmaking::obligations::Unfinished;
use domain::player::Player;
use event_log::EventLog;
use event_schemas::challenge::{ChallengeCreated, ChallengeEvent, ChallengePlacing, Strength};
use event_schemas::envelope::{Cause, Event, Idempotency, Recorded};
use event_schemas::ids::{ChallengeId, GameId, PoolKey, Position, Revision, SubjectId, Tenant};
use event_schemas::match_record::AbandonReason;
use event_schemas::rating::{Rating, RatingSource};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::{Chain, Matchmaking, StepError};
use crate::execute::{ExecuteError, Executed, Folded, LoadError};
use crate::idempotency::Seen;

/// When it is worth trying again what somebody else was at just now.
const SOON: Duration = Duration::from_secs(1);

/// Why two players cannot be brought together now. Nothing is recorded of it; whoever accepts nevertheless is judged by the
/// players' own streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Apart {
    /// One of them blocks the other.
    Blocked,
    /// This one has an unfinished match.
    Busy(SubjectId),
}

/// A challenge as it was made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) created: ChallengeCreated,
    pub(crate) at: Timestamp,
    pub(crate) position: Position,
}

/// What an acceptance came to.
#[derive(Clone, Debug)]
pub(crate) enum Acceptance {
    Accepted {
        placing: ChallengePlacing,
        game_id: Option<GameId>,
        position: Position,
    },
    /// The challenge is pending as before; this is why there is no game, and how long it is not worth trying again.
    NoGame {
        reason: AbandonReason,
        again_after: Duration,
    },
    /// Somebody else brought it to nothing at the same moment; the challenge is pending as before.
    Overtaken {
        again_after: Duration,
    },
    /// Since the acceptance came to nothing, the challenge has ended otherwise.
    Ended(Refusal),
}

/// The key of one of a challenge's attempts. An acceptance that came to no game is repeated under its own key, and is to be
/// tried again; one that made a game is to be answered as before.
pub(crate) fn of_attempt(asked: Idempotency, attempt: u32) -> Idempotency {
    Idempotency { key: Uuid::new_v5(&asked.key, format!("attempt {attempt}").as_bytes()), ..asked }
}

/// The attempt that an acceptance would begin, or else the one that it must have begun.
pub(crate) fn attempt_meant(life: &Life) -> u32 {
    match life.phase {
        Phase::Placing(_) | Phase::Accepted { .. } => life.attempts,
        Phase::Pending | Phase::Declined | Phase::Cancelled | Phase::Expired => life.attempts + 1,
    }
}

impl Matchmaking {
    /// Carries out what a caller wants of a challenge.
    ///
    /// # Errors
    /// As [`Streams::execute`](crate::execute::Streams::execute).
    pub(crate) async fn ask_of_challenge(
        &self,
        id: ChallengeId,
        cause: &Cause,
        action: Action,
    ) -> Result<Executed, ExecuteError<Refusal>> {
        let command = challenge::Command { at: self.clock().now(), action };
        self.0.challenges.execute(&StreamId::challenge(id), cause, command).await
    }

    /// How a challenge of the tenant stands.
    ///
    /// # Errors
    /// [`LoadError`] if its events cannot be read.
    pub(crate) async fn challenge(
        &self,
        tenant: &Tenant,
        id: ChallengeId,
    ) -> Result<Option<Life>, LoadError> {
        let look = |folded: &Folded<Challenge>| {
            folded.state.life().filter(|_| folded.tenant() == Some(tenant)).cloned()
        };
        self.0.challenges.look(&StreamId::challenge(id), look).await
    }

    /// What is known of a key that a challenge may have been made with.
    ///
    /// # Errors
    /// [`LoadError`] if its events cannot be read.
    pub(crate) async fn challenge_seen(
        &self,
        id: ChallengeId,
        asked: Idempotency,
    ) -> Result<Seen, LoadError> {
        self.0.challenges.look(&StreamId::challenge(id), |folded| folded.seen(asked)).await
    }

    /// A challenge as it was made, which stays the same whatever happened since.
    ///
    /// # Errors
    /// [`LoadError`] if it cannot be read.
    pub(crate) async fn challenge_made(&self, id: ChallengeId) -> Result<Option<Made>, LoadError> {
        let first = self.log().read_stream(&StreamId::challenge(id), Revision(0), 1).await?;
        let Some(first) = first.first().map(Recorded::decode).transpose()? else { return Ok(None) };
        let Event::Challenge(ChallengeEvent::ChallengeCreated(created)) = first.event else {
            return Ok(None);
        };
        Ok(Some(Made { created, at: first.metadata.occurred_at, position: first.position }))
    }

    /// How strong a player is in a pool: as `known` from elsewhere, else by their results.
    ///
    /// # Errors
    /// [`LoadError`] if the player's events cannot be read.
    pub(crate) async fn strength(
        &self,
        tenant: &Tenant,
        player: SubjectId,
        pool: &PoolKey,
        known: Option<(Rating, RatingSource)>,
    ) -> Result<Strength, LoadError> {
        let look = |folded: &Folded<Player>| folded.state.strength(pool, known);
        let (rating, rating_source, skill) =
            self.0.players.look(&StreamId::player(tenant, player), look).await?;
        Ok(Strength { rating, rating_source, skill })
    }

    /// Whether one of the two blocks the other.
    ///
    /// # Errors
    /// [`LoadError`] if the players' events cannot be read.
    pub(crate) async fn blocked(
        &self,
        tenant: &Tenant,
        one: SubjectId,
        other: SubjectId,
    ) -> Result<bool, LoadError> {
        for (player, other) in [(one, other), (other, one)] {
            let look = |folded: &Folded<Player>| folded.state.blocks(other);
            if self.0.players.look(&StreamId::player(tenant, player), look).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What stands between the two players of a challenge now.
    ///
    /// # Errors
    /// [`LoadError`] if the players' events cannot be read.
    pub(crate) async fn apart(&self, tenant: &Tenant, life: &Life) -> Result<Option<Apart>, LoadError> {
        let ChallengeCreated { challenge_id, challenger, challenged, .. } = life.created;
        if self.blocked(tenant, challenger, challenged).await? {
            return Ok(Some(Apart::Blocked));
        }
        for player in [challenged, challenger] {
            let look = |folded: &Folded<Player>| folded.state.match_id();
            let held = self.0.players.look(&StreamId::player(tenant, player), look).await?;
            // Whom an earlier attempt holds still, the next one takes over.
            if held.is_some_and(|held| held != challenge::match_id(challenge_id)) {
                return Ok(Some(Apart::Busy(player)));
            }
        }
        Ok(None)
    }

    /// Accepts a challenge and carries that out, up to its match or to its being pending again.
    ///
    /// # Errors
    /// [`StepError`] if a rule forbids it, or the log fails. What was begun is brought to its end later.
    pub(crate) async fn accept(
        &self,
        id: ChallengeId,
        cause: &Cause,
        by: SubjectId,
        strength: Strength,
    ) -> Result<Acceptance, StepError> {
        // Taken before there is anything to be at, so that nobody else begins with it while the game is being made. Without
        // it, somebody else is at it: then both are, which the streams bear.
        let _driving = self.drive(Unfinished::Challenge(id));
        self.ask_of_challenge(id, cause, Action::Accept { by, strength }).await?;
        let stood = self.finish_challenge(id, &Chain::of_caller(cause)).await?;
        Ok(match (stood.phase, stood.failed) {
            (Phase::Accepted { placing, game_id }, _) => {
                Acceptance::Accepted { placing, game_id, position: stood.position }
            }
            (Phase::Declined, _) => Acceptance::Ended(Refusal::Declined),
            (Phase::Cancelled, _) => Acceptance::Ended(Refusal::Cancelled),
            (Phase::Expired, _) => Acceptance::Ended(Refusal::Expired),
            (Phase::Pending | Phase::Placing(_), Some((reason, again_after))) => {
                Acceptance::NoGame { reason, again_after: again_after.max(SOON) }
            }
            (Phase::Pending | Phase::Placing(_), None) => Acceptance::Overtaken { again_after: SOON },
        })
    }
}
