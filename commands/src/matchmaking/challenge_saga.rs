//! The challenge saga, from the acceptance to the match.
//!
//! The steps: start the placement; reserve both players, in the order of their ids; create the game; accept, which is
//! final; record the match. If a step is refused, the attempt fails first; then its reserved players are released, back
//! into the queue that they came from.

use std::time::Duration;

use domain::challenge::{self, Challenge, Phase};
use domain::game_match;
use domain::player::{self, ReserveForChallenge};
use event_log::EventLog;
use event_schemas::challenge::{ChallengePlacementStarted, Strength};
use event_schemas::game_match::{AbandonReason, MatchPlayer, MatchProposed, Side};
use event_schemas::ids::{ChallengeId, GameId, Position, Revision, SubjectId};
use event_schemas::stream::StreamId;

use super::game_service::{CreateGame, GameNotCreated};
use super::{Matchmaking, SagaError, SagaStep, result_due_at};
use crate::engine::command_context::CommandContext;
use crate::engine::execute::{CachedStream, ExecuteError, LoadError};

/// The outcome of a challenge saga.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChallengeOutcome {
    pub(crate) phase: Phase,
    pub(crate) position: Position,
    /// The reason why this run's attempt failed, and the delay before a retry is worthwhile.
    pub(crate) failed: Option<(AbandonReason, Duration)>,
}

impl Matchmaking {
    /// Runs an accepted challenge to its end: to a recorded match, or until it holds no player.
    ///
    /// # Errors
    /// [`SagaError`] if the log fails; the reconciler completes the saga later.
    pub(crate) async fn finish_challenge(
        &self,
        id: ChallengeId,
        context: &CommandContext,
    ) -> Result<ChallengeOutcome, SagaError> {
        let mut failed = None;
        let mut reached = Position::START;
        loop {
            let read = |folded: &CachedStream<challenge::ChallengeDecider>| {
                (folded.state.details().cloned(), folded.position())
            };
            let (challenge, position) = self.challenges.query(&StreamId::challenge(id), read).await?;
            reached = reached.max(position);
            let Some(challenge) = challenge else {
                return Err(ExecuteError::from_refusal(challenge::Refusal::Missing).into());
            };
            match &challenge.phase {
                Phase::Placing(placing) => {
                    let action = self.decide_attempt(&challenge, placing, context, &mut failed).await?;
                    match self.execute_challenge_step(id, "decide", context, action).await {
                        // Refused if another process decided first: then its decision counts.
                        Ok(_) | Err(ExecuteError::Refused(_)) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Phase::Accepted { placing, game_id } => {
                    let position = self.record(&challenge, placing, game_id.clone(), context).await?;
                    return Ok(ChallengeOutcome {
                        phase: challenge.phase,
                        position: position.max(reached),
                        failed: None,
                    });
                }
                Phase::Pending | Phase::Declined | Phase::Cancelled | Phase::Expired => {
                    let position = self.release_players(&challenge, failed.as_ref(), context).await?;
                    let failed = failed.map(|not_created: GameNotCreated| {
                        (not_created.reason, not_created.retry_at.since(self.engine.now()))
                    });
                    return Ok(ChallengeOutcome {
                        phase: challenge.phase,
                        position: position.max(reached),
                        failed,
                    });
                }
            }
        }
    }

    /// Expires an unanswered challenge, if it is due.
    ///
    /// # Errors
    /// As [`Self::finish_challenge`].
    pub(crate) async fn expire_challenge(
        &self,
        id: ChallengeId,
        context: &CommandContext,
    ) -> Result<Position, SagaError> {
        Ok(self.execute_challenge_step(id, "expire", context, challenge::Action::Expire).await?)
    }

    /// Reserves both players and creates the game. Returns the action that confirms or fails the attempt.
    async fn decide_attempt(
        &self,
        challenge: &Challenge,
        placing: &ChallengePlacementStarted,
        context: &CommandContext,
        failed: &mut Option<GameNotCreated>,
    ) -> Result<challenge::Action, SagaError> {
        let attempt = placing.attempt;
        let mut fail = |not_created: GameNotCreated| {
            let (reason, detail) = (not_created.reason, Some(not_created.detail.clone()));
            *failed = Some(not_created);
            challenge::Action::FailPlacement { attempt, reason, detail }
        };
        for (player, opponent) in players_in_order(challenge) {
            let reservation = ReserveForChallenge {
                match_id: placing.match_id,
                attempt,
                challenge_id: challenge.created.challenge_id,
                pool_key: challenge.created.pool_key.clone(),
                opponent,
            };
            let step = SagaStep { target: placing.match_id.0, name: "reserve", context };
            match self
                .execute_player_step(player, step, player::Action::ReserveForChallenge(reservation))
                .await
            {
                Ok(_) => {}
                Err(ExecuteError::Refused(_)) => {
                    return Ok(fail(GameNotCreated {
                        reason: AbandonReason::PlayerUnavailable,
                        detail: player.to_string(),
                        retry_at: self.engine.now(),
                    }));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let request = CreateGame {
            match_id: placing.match_id,
            tenant: context.tenant.clone(),
            pool_key: challenge.created.pool_key.clone(),
            players: sides(challenge, placing)
                .map(|(player, strength, side)| (player, strength.rating, side)),
            release_count: attempt.saturating_sub(1),
        };
        Ok(match self.game_service.create(&request).await {
            Ok(game_id) => challenge::Action::Confirm { attempt, game_id },
            Err(not_created) => fail(not_created),
        })
    }

    /// Records the match of an accepted challenge, and releases the players if it is over already.
    async fn record(
        &self,
        challenge: &Challenge,
        placing: &ChallengePlacementStarted,
        game_id: Option<GameId>,
        context: &CommandContext,
    ) -> Result<Position, SagaError> {
        let [first, second] = sides(challenge, placing).map(|(subject_id, strength, _)| MatchPlayer {
            subject_id,
            entry_id: None,
            queued_at: None,
            release_count: 0,
            rating: strength.rating,
            skill: strength.skill,
        });
        let proposed = MatchProposed {
            match_id: placing.match_id,
            pool_key: challenge.created.pool_key.clone(),
            challenge_id: Some(challenge.created.challenge_id),
            first,
            second,
        };
        let settings = self.settings(&context.tenant, &challenge.created.pool_key).await?;
        let at = self.engine.now();
        let result_due_at = result_due_at(at, &settings);
        let actions =
            [game_match::Action::Propose(proposed), game_match::Action::Confirm { game_id, result_due_at }];
        let commands = actions.map(|action| game_match::Command { at, action });
        let cause =
            SagaStep { target: placing.match_id.0, name: "record", context }.cause(at, None, &commands);
        let stream = StreamId::game_match(placing.match_id);
        self.game_matches.execute_all(&stream, &cause, &commands).await?;
        self.finish_match(placing.match_id, context).await?;
        // Both events are recorded together. Unaffected by later events, so that a repeated command gets its first result.
        let recorded = self.engine.log.read_stream(&stream, Revision(0), 2).await.map_err(LoadError::from)?;
        Ok(recorded.last().map_or(Position::START, |confirmed| confirmed.position))
    }

    async fn release_players(
        &self,
        challenge: &Challenge,
        not_created: Option<&GameNotCreated>,
        context: &CommandContext,
    ) -> Result<Position, SagaError> {
        let match_id = challenge::match_id(challenge.created.challenge_id);
        let attempt = challenge.attempts;
        let reason = not_created.map_or(AbandonReason::GameServiceFailed, |not_created| not_created.reason);
        // The cooldown is for pairings of the queue; these players may be paired at once.
        let eligible_at = self.engine.now();
        let mut reached = Position::START;
        for (player, _) in players_in_order(challenge) {
            let action = player::Action::ReleaseFromChallenge { match_id, attempt, reason, eligible_at };
            let step = SagaStep { target: match_id.0, name: "release", context };
            reached = reached.max(self.execute_player_step(player, step, action).await?);
        }
        Ok(reached)
    }

    pub(super) async fn execute_challenge_step(
        &self,
        id: ChallengeId,
        step: &str,
        context: &CommandContext,
        action: challenge::Action,
    ) -> Result<Position, ExecuteError<challenge::Refusal>> {
        let at = self.engine.now();
        let cause = SagaStep { target: id.0, name: step, context }.cause(at, None, &action);
        let command = challenge::Command { at, action };
        Ok(self.challenges.execute(&StreamId::challenge(id), &cause, command).await?.position)
    }
}

/// Each player with the opponent, in the order of the players' ids.
fn players_in_order(challenge: &Challenge) -> [(SubjectId, SubjectId); 2] {
    let (challenger, challenged) = (challenge.created.challenger, challenge.created.challenged);
    let mut players = [(challenger, challenged), (challenged, challenger)];
    players.sort_unstable();
    players
}

/// The players with their strengths: the first, and the second.
fn sides(challenge: &Challenge, placing: &ChallengePlacementStarted) -> [(SubjectId, Strength, Side); 2] {
    let challenger = (challenge.created.challenger, challenge.created.strength);
    let challenged = (challenge.created.challenged, placing.strength);
    let [first, second] = match placing.challenger_side {
        Side::First => [challenger, challenged],
        Side::Second => [challenged, challenger],
    };
    [(first.0, first.1, Side::First), (second.0, second.1, Side::Second)]
}
