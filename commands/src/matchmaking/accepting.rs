//! The way of a challenge from its acceptance to its match.
//!
//! Placing; then both players engaged, in the order of their ids; then the game; then accepted, which is final; then the
//! match is recorded. A refusal on the way: first the attempt has failed, then whoever it engaged is let go, back into the
//! queue where they came from.

use std::time::Duration;

use domain::challenge::{self, Life, Phase};
use domain::match_record;
use domain::player::{self, Engaging};
use event_schemas::challenge::{ChallengePlacing, Strength};
use event_schemas::ids::{ChallengeId, GameId, Position, SubjectId};
use event_schemas::match_record::{AbandonReason, MatchPlayer, MatchProposed, Side};
use event_schemas::stream::StreamId;

use super::games::{NoGame, Order};
use super::{Chain, Matchmaking, Step, StepError, result_due_at};
use crate::execute::{ExecuteError, Folded};

/// How a challenge stands after its steps, and where the log was by then.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stood {
    pub(crate) phase: Phase,
    pub(crate) position: Position,
    /// Why the attempt that these steps carried out came to nothing, and how long it is not worth trying again.
    pub(crate) failed: Option<(AbandonReason, Duration)>,
}

impl Matchmaking {
    /// Brings an accepted challenge as far as it goes: to a recorded match, or to nobody's being held by it.
    ///
    /// # Errors
    /// [`StepError`] if the log fails; what was begun is brought to its end later.
    pub(crate) async fn finish_challenge(&self, id: ChallengeId, chain: &Chain) -> Result<Stood, StepError> {
        let mut failed = None;
        let mut reached = Position::START;
        loop {
            let look =
                |folded: &Folded<challenge::Challenge>| (folded.state.life().cloned(), folded.position());
            let (life, position) = self.0.challenges.look(&StreamId::challenge(id), look).await?;
            reached = reached.max(position);
            let Some(life) = life else {
                return Err(ExecuteError::from_refusal(challenge::Refusal::Missing).into());
            };
            match &life.phase {
                Phase::Placing(placing) => {
                    let action = self.decide_attempt(&life, placing, chain, &mut failed).await?;
                    match self.on_challenge(id, "decide", chain, action).await {
                        // Refused if another was faster, who decided otherwise: then that holds.
                        Ok(_) | Err(ExecuteError::Refused(_)) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Phase::Accepted { placing, game_id } => {
                    let position = self.record(&life, placing, game_id.clone(), chain).await?;
                    return Ok(Stood { phase: life.phase, position: position.max(reached), failed: None });
                }
                Phase::Pending | Phase::Declined | Phase::Cancelled | Phase::Expired => {
                    let position = self.disengage(&life, failed.as_ref(), chain).await?;
                    let failed = failed
                        .map(|no_game: NoGame| (no_game.reason, no_game.until.since(self.clock().now())));
                    return Ok(Stood { phase: life.phase, position: position.max(reached), failed });
                }
            }
        }
    }

    /// Ends a challenge that nobody answered, if it is due.
    ///
    /// # Errors
    /// As [`Self::finish_challenge`].
    pub(crate) async fn expire_challenge(
        &self,
        id: ChallengeId,
        chain: &Chain,
    ) -> Result<Position, StepError> {
        Ok(self.on_challenge(id, "expire", chain, challenge::Action::Expire).await?)
    }

    /// Engages both players and makes the game: the attempt is then to be confirmed, or else has failed.
    async fn decide_attempt(
        &self,
        life: &Life,
        placing: &ChallengePlacing,
        chain: &Chain,
        failed: &mut Option<NoGame>,
    ) -> Result<challenge::Action, StepError> {
        let attempt = placing.attempt;
        let mut fail = |no_game: NoGame| {
            let (reason, detail) = (no_game.reason, Some(no_game.detail.clone()));
            *failed = Some(no_game);
            challenge::Action::FailPlacing { attempt, reason, detail }
        };
        for (player, opponent) in both(life) {
            let engaging = Engaging {
                match_id: placing.match_id,
                attempt,
                challenge_id: life.created.challenge_id,
                pool_key: life.created.pool_key.clone(),
                opponent,
            };
            let step = Step { thing: placing.match_id.0, name: "engage", chain };
            match self.on_player(player, step, player::Action::Engage(engaging)).await {
                Ok(_) => {}
                Err(ExecuteError::Refused(_)) => {
                    return Ok(fail(NoGame {
                        reason: AbandonReason::PlayerUnavailable,
                        detail: player.to_string(),
                        until: self.clock().now(),
                    }));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let order = Order {
            match_id: placing.match_id,
            tenant: chain.tenant.clone(),
            pool_key: life.created.pool_key.clone(),
            players: sides(life, placing).map(|(player, strength, side)| (player, strength.rating, side)),
            round: attempt.saturating_sub(1),
        };
        Ok(match self.desk().make(&order).await {
            Ok(game_id) => challenge::Action::Confirm { attempt, game_id },
            Err(no_game) => fail(no_game),
        })
    }

    /// Records the match of an accepted challenge, whole; and lets the players go if it is over already.
    async fn record(
        &self,
        life: &Life,
        placing: &ChallengePlacing,
        game_id: Option<GameId>,
        chain: &Chain,
    ) -> Result<Position, StepError> {
        let [first, second] = sides(life, placing).map(|(subject_id, strength, _)| MatchPlayer {
            subject_id,
            entry_id: None,
            queued_at: None,
            round: 0,
            rating: strength.rating,
            skill: strength.skill,
        });
        let proposed = MatchProposed {
            match_id: placing.match_id,
            pool_key: life.created.pool_key.clone(),
            challenge_id: Some(life.created.challenge_id),
            first,
            second,
        };
        let settings = self.settings(&chain.tenant, &life.created.pool_key).await?;
        let at = self.clock().now();
        let result_due_at = result_due_at(at, &settings);
        let actions = [
            match_record::Action::Propose(proposed),
            match_record::Action::Confirm { game_id, result_due_at },
        ];
        let commands = actions.map(|action| match_record::Command { at, action });
        let cause = Step { thing: placing.match_id.0, name: "record", chain }.cause(at, None, &commands);
        let stream = StreamId::match_record(placing.match_id);
        let recorded = self.0.matches.execute_all(&stream, &cause, &commands).await?.position;
        let placed = self.finish_match(placing.match_id, chain).await?;
        Ok(recorded.max(placed.position))
    }

    async fn disengage(
        &self,
        life: &Life,
        no_game: Option<&NoGame>,
        chain: &Chain,
    ) -> Result<Position, StepError> {
        let match_id = challenge::match_id(life.created.challenge_id);
        let attempt = life.attempts;
        let reason = no_game.map_or(AbandonReason::GameServiceFailed, |no_game| no_game.reason);
        // They were not matched by the queue, whose game service may be well again for others.
        let eligible_at = self.clock().now();
        let mut reached = Position::START;
        for (player, _) in both(life) {
            let action = player::Action::Disengage { match_id, attempt, reason, eligible_at };
            let step = Step { thing: match_id.0, name: "disengage", chain };
            reached = reached.max(self.on_player(player, step, action).await?);
        }
        Ok(reached)
    }

    pub(super) async fn on_challenge(
        &self,
        id: ChallengeId,
        step: &str,
        chain: &Chain,
        action: challenge::Action,
    ) -> Result<Position, ExecuteError<challenge::Refusal>> {
        let at = self.clock().now();
        let cause = Step { thing: id.0, name: step, chain }.cause(at, None, &action);
        let command = challenge::Command { at, action };
        Ok(self.0.challenges.execute(&StreamId::challenge(id), &cause, command).await?.position)
    }
}

/// Each player with their opponent, in the order of their ids.
fn both(life: &Life) -> [(SubjectId, SubjectId); 2] {
    let (challenger, challenged) = (life.created.challenger, life.created.challenged);
    let mut both = [(challenger, challenged), (challenged, challenger)];
    both.sort_unstable();
    both
}

/// The players with their strengths: the first, and the second.
fn sides(life: &Life, placing: &ChallengePlacing) -> [(SubjectId, Strength, Side); 2] {
    let challenger = (life.created.challenger, life.created.strength);
    let challenged = (life.created.challenged, placing.strength);
    let [first, second] = match placing.challenger_side {
        Side::First => [challenger, challenged],
        Side::Second => [challenged, challenger],
    };
    [(first.0, first.1, Side::First), (second.0, second.1, Side::Second)]
}
