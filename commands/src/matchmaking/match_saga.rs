//! The match saga, from the proposal to the end.
//!
//! The steps: propose; reserve both players, in the order of their ids; create the game; confirm. If a step is refused,
//! the match is abandoned first, which is final; then its reserved players are released. After a result or the expiry
//! both players are released. Every step reads the match's own stream first, so that concurrent runs, or a run after
//! the crash of another, reach the same end.

use domain::game_match::{self, GameMatchDecider, Phase};
use domain::matchmaking::queues::on_side;
use domain::player::{self, ReserveForMatch};
use domain::rating::{Game, Score};
use event_schemas::game_match::{AbandonReason, GameResult, MatchPlayer, MatchProposed, Side};
use event_schemas::ids::{EntryId, GameMatchId, Position, SubjectId};
use event_schemas::player::ReleaseReason;
use event_schemas::stream::StreamId;

use super::game_service::{CreateGame, GameNotCreated};
use super::{Matchmaking, SagaError, SagaStep, result_due_at};
use crate::engine::command_context::CommandContext;
use crate::engine::execute::{CachedStream, ExecuteError};

/// The outcome of a match saga.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MatchOutcome {
    pub(crate) phase: Phase,
    pub(crate) position: Position,
}

impl Matchmaking {
    /// Proposes a match and runs its saga.
    ///
    /// # Errors
    /// [`SagaError`] if the log fails; the reconciler completes the saga later.
    pub(crate) async fn place_match(
        &self,
        proposed: MatchProposed,
        context: &CommandContext,
    ) -> Result<MatchOutcome, SagaError> {
        let match_id = proposed.match_id;
        self.execute_match_step(match_id, context, "propose", game_match::Action::Propose(proposed)).await?;
        self.finish_match(match_id, context).await
    }

    /// Runs a proposed match to its end: to a confirmed game, or until it holds no player.
    ///
    /// # Errors
    /// As [`Self::place_match`].
    pub(crate) async fn finish_match(
        &self,
        match_id: GameMatchId,
        context: &CommandContext,
    ) -> Result<MatchOutcome, SagaError> {
        let mut reached = Position::START;
        loop {
            let read = |folded: &CachedStream<GameMatchDecider>| {
                (folded.state.details().cloned(), folded.position())
            };
            let stream = StreamId::game_match(match_id);
            let (details, position) = self.game_matches.query(&stream, read).await?;
            reached = reached.max(position);
            // A reservation is recorded after its proposal, so no player is reserved without a match.
            let Some(details) = details else {
                return Err(ExecuteError::from_refusal(game_match::Refusal::Missing).into());
            };
            let proposed = &details.proposed;
            match details.phase {
                Phase::Proposed => {
                    let action = self.decide_match(proposed, context, &mut reached).await?;
                    let step = if matches!(action, game_match::Action::Abandon { .. }) {
                        "abandon"
                    } else {
                        "confirm"
                    };
                    match self.execute_match_step(match_id, context, step, action).await {
                        // Refused if another process decided first: then its decision counts.
                        Ok(_) | Err(ExecuteError::Refused(_)) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Phase::Confirmed { .. } => {
                    return Ok(MatchOutcome { phase: details.phase, position: reached });
                }
                Phase::Abandoned { reason, eligible_at } => {
                    for player in players_in_order(proposed) {
                        let action = player::Action::ReleaseFromMatch { match_id, reason, eligible_at };
                        let step = SagaStep { target: match_id.0, name: "release", context };
                        reached =
                            reached.max(self.execute_player_step(player.subject_id, step, action).await?);
                    }
                    return Ok(MatchOutcome { phase: details.phase, position: reached });
                }
                Phase::Ended(_) | Phase::Expired => {
                    for side in [Side::First, Side::Second] {
                        let position = self.release(proposed, &details.phase, side, context).await?;
                        reached = reached.max(position);
                    }
                    return Ok(MatchOutcome { phase: details.phase, position: reached });
                }
            }
        }
    }

    /// Reserves both players and creates the game. Returns the action that confirms or abandons the match.
    async fn decide_match(
        &self,
        proposed: &MatchProposed,
        context: &CommandContext,
        reached: &mut Position,
    ) -> Result<game_match::Action, SagaError> {
        for player in players_in_order(proposed) {
            match self.reserve(proposed, player, context).await {
                Ok(position) => *reached = position.max(*reached),
                Err(ExecuteError::Refused(_)) => {
                    return Ok(game_match::Action::Abandon {
                        reason: AbandonReason::PlayerUnavailable,
                        detail: Some(player.subject_id.to_string()),
                        eligible_at: self.engine.now(),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        let request = CreateGame {
            match_id: proposed.match_id,
            tenant: context.tenant.clone(),
            pool_key: proposed.pool_key.clone(),
            players: [Side::First, Side::Second].map(|side| {
                let player = on_side(proposed, side);
                (player.subject_id, player.rating, side)
            }),
            release_count: proposed.first.release_count.max(proposed.second.release_count),
        };
        Ok(match self.game_service.create(&request).await {
            Ok(game_id) => {
                let settings = self.settings(&context.tenant, &proposed.pool_key).await?;
                let result_due_at = result_due_at(self.engine.now(), &settings);
                game_match::Action::Confirm { game_id, result_due_at }
            }
            Err(GameNotCreated { reason, detail, retry_at }) => {
                game_match::Action::Abandon { reason, detail: Some(detail), eligible_at: retry_at }
            }
        })
    }

    async fn reserve(
        &self,
        proposed: &MatchProposed,
        player: &MatchPlayer,
        context: &CommandContext,
    ) -> Result<Position, ExecuteError<player::Refusal>> {
        let side = if player.subject_id == proposed.first.subject_id { Side::First } else { Side::Second };
        let other = on_side(proposed, side.other());
        // The players of a challenge are reserved by the challenge, and not here.
        let Some(entry_id) = player.entry_id else {
            return Err(ExecuteError::from_refusal(player::Refusal::EntryChanged));
        };
        let reservation = ReserveForMatch {
            entry_id,
            release_count: player.release_count,
            match_id: proposed.match_id,
            pool_key: proposed.pool_key.clone(),
            opponent: other.subject_id,
            side,
        };
        let step = SagaStep { target: proposed.match_id.0, name: "reserve", context };
        self.execute_player_step(player.subject_id, step, player::Action::ReserveForMatch(reservation)).await
    }

    /// Releases a player of a finished match, with the score for the player's rating.
    async fn release(
        &self,
        proposed: &MatchProposed,
        phase: &Phase,
        side: Side,
        context: &CommandContext,
    ) -> Result<Position, SagaError> {
        let own = on_side(proposed, side);
        let other = on_side(proposed, side.other());
        let (reason, score) = match phase {
            Phase::Ended(result) => (ReleaseReason::ResultReported, score(*result, side)),
            _ => (ReleaseReason::Expired, None),
        };
        let game = score.map(|score| player::Rated {
            pool_key: proposed.pool_key.clone(),
            before: own.skill,
            game: Game { opponent: other.skill, score },
        });
        let step = SagaStep { target: proposed.match_id.0, name: "release", context };
        let action = player::Action::ReleaseAfterMatch { match_id: proposed.match_id, reason, game };
        Ok(self.execute_player_step(own.subject_id, step, action).await?)
    }

    pub(super) async fn execute_match_step(
        &self,
        match_id: GameMatchId,
        context: &CommandContext,
        step: &str,
        action: game_match::Action,
    ) -> Result<Position, ExecuteError<game_match::Refusal>> {
        let at = self.engine.now();
        let cause = SagaStep { target: match_id.0, name: step, context }.cause(at, None, &action);
        let command = game_match::Command { at, action };
        let stream = StreamId::game_match(match_id);
        Ok(self.game_matches.execute(&stream, &cause, command).await?.position)
    }

    /// Expires a match without a result, if it is due, and releases its players.
    ///
    /// # Errors
    /// As [`Self::place_match`].
    pub(crate) async fn expire_match(
        &self,
        match_id: GameMatchId,
        context: &CommandContext,
    ) -> Result<MatchOutcome, SagaError> {
        self.execute_match_step(match_id, context, "expire", game_match::Action::Expire).await?;
        self.finish_match(match_id, context).await
    }

    /// Expires an unmatched entry, if it is due.
    ///
    /// # Errors
    /// As [`Self::place_match`].
    pub(crate) async fn expire_entry(
        &self,
        player: SubjectId,
        entry_id: EntryId,
        context: &CommandContext,
    ) -> Result<Position, SagaError> {
        let step = SagaStep { target: entry_id.0, name: "expire", context };
        Ok(self.execute_player_step(player, step, player::Action::Expire { entry_id }).await?)
    }
}

/// Both players in the order of their ids. Every saga reserves in this order, so that of two matches that share a
/// player one succeeds.
fn players_in_order(proposed: &MatchProposed) -> [&MatchPlayer; 2] {
    let mut players = [&proposed.first, &proposed.second];
    players.sort_by_key(|player| player.subject_id);
    players
}

/// The score of the player on a side; none for a result that does not count for ratings.
fn score(result: GameResult, side: Side) -> Option<Score> {
    match (result, side) {
        (GameResult::First, Side::First) | (GameResult::Second, Side::Second) => Some(Score::Won),
        (GameResult::First, Side::Second) | (GameResult::Second, Side::First) => Some(Score::Lost),
        (GameResult::Draw, _) => Some(Score::Drawn),
        (GameResult::Aborted, _) => None,
    }
}
