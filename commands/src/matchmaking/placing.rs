//! The way of a match from its proposal to its end.
//!
//! Proposed; then both players taken, in the order of their ids; then the game; then confirmed. A refusal on the way: first
//! the match is abandoned, which is final, then whoever was taken is let go. After a result, or when none comes, both are
//! freed. Every step looks at the match's own stream first, so that two who carry it out at once, or one after the other's
//! crash, come to one end.

use domain::match_record::{self, MatchRecord, Phase};
use domain::matchmaking::queues::on_side;
use domain::player::{self, Taking};
use domain::rating::{Game, Score};
use event_schemas::ids::{EntryId, MatchRecordId, Position, SubjectId};
use event_schemas::match_record::{AbandonReason, GameResult, MatchPlayer, MatchProposed, Side};
use event_schemas::player::FreedReason;
use event_schemas::stream::StreamId;

use super::games::{NoGame, Order};
use super::{Chain, Matchmaking, Step, StepError, result_due_at};
use crate::execute::{ExecuteError, Folded};

/// How a match stands after its steps, and where the log was by then.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Placed {
    pub(crate) phase: Phase,
    pub(crate) position: Position,
}

impl Matchmaking {
    /// Proposes a match and brings it as far as it goes.
    ///
    /// # Errors
    /// [`StepError`] if the log fails; what was begun is brought to its end later.
    pub(crate) async fn place(&self, proposed: MatchProposed, chain: &Chain) -> Result<Placed, StepError> {
        let match_id = proposed.match_id;
        self.on_match(match_id, chain, "propose", match_record::Action::Propose(proposed)).await?;
        self.finish_match(match_id, chain).await
    }

    /// Brings a match that was proposed as far as it goes: to a confirmed game, or to nobody's being held by it.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub(crate) async fn finish_match(
        &self,
        match_id: MatchRecordId,
        chain: &Chain,
    ) -> Result<Placed, StepError> {
        let mut reached = Position::START;
        loop {
            let look = |folded: &Folded<MatchRecord>| (folded.state.life().cloned(), folded.position());
            let stream = StreamId::match_record(match_id);
            let (life, position) = self.0.matches.look(&stream, look).await?;
            reached = reached.max(position);
            // A taking is recorded after its proposal, so there is no held player without a match.
            let Some(life) = life else {
                return Err(ExecuteError::from_refusal(match_record::Refusal::Missing).into());
            };
            let proposed = &life.proposed;
            match life.phase {
                Phase::Proposed => {
                    let action = self.decide_match(proposed, chain, &mut reached).await?;
                    let step = if matches!(action, match_record::Action::Abandon { .. }) {
                        "abandon"
                    } else {
                        "confirm"
                    };
                    match self.on_match(match_id, chain, step, action).await {
                        // Refused if another was faster, who decided otherwise: then that holds.
                        Ok(_) | Err(ExecuteError::Refused(_)) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Phase::Confirmed { .. } => return Ok(Placed { phase: life.phase, position: reached }),
                Phase::Abandoned { reason, eligible_at } => {
                    for player in in_order(proposed) {
                        let action = player::Action::Release { match_id, reason, eligible_at };
                        let step = Step { thing: match_id.0, name: "release", chain };
                        reached = reached.max(self.on_player(player.subject_id, step, action).await?);
                    }
                    return Ok(Placed { phase: life.phase, position: reached });
                }
                Phase::Ended(_) | Phase::Expired => {
                    for side in [Side::First, Side::Second] {
                        let position = self.free(proposed, &life.phase, side, chain).await?;
                        reached = reached.max(position);
                    }
                    return Ok(Placed { phase: life.phase, position: reached });
                }
            }
        }
    }

    /// Takes both players and makes the game: the match is then to be confirmed, or else abandoned.
    async fn decide_match(
        &self,
        proposed: &MatchProposed,
        chain: &Chain,
        reached: &mut Position,
    ) -> Result<match_record::Action, StepError> {
        for player in in_order(proposed) {
            match self.take(proposed, player, chain).await {
                Ok(position) => *reached = position.max(*reached),
                Err(ExecuteError::Refused(_)) => {
                    return Ok(match_record::Action::Abandon {
                        reason: AbandonReason::PlayerUnavailable,
                        detail: Some(player.subject_id.to_string()),
                        eligible_at: self.clock().now(),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        let order = Order {
            match_id: proposed.match_id,
            tenant: chain.tenant.clone(),
            pool_key: proposed.pool_key.clone(),
            players: [Side::First, Side::Second].map(|side| {
                let player = on_side(proposed, side);
                (player.subject_id, player.rating, side)
            }),
            round: proposed.first.round.max(proposed.second.round),
        };
        Ok(match self.desk().make(&order).await {
            Ok(game_id) => {
                let settings = self.settings(&chain.tenant, &proposed.pool_key).await?;
                let result_due_at = result_due_at(self.clock().now(), &settings);
                match_record::Action::Confirm { game_id, result_due_at }
            }
            Err(NoGame { reason, detail, until }) => {
                match_record::Action::Abandon { reason, detail: Some(detail), eligible_at: until }
            }
        })
    }

    async fn take(
        &self,
        proposed: &MatchProposed,
        player: &MatchPlayer,
        chain: &Chain,
    ) -> Result<Position, ExecuteError<player::Refusal>> {
        let side = if player.subject_id == proposed.first.subject_id { Side::First } else { Side::Second };
        let other = on_side(proposed, side.other());
        // The players of a challenge are engaged by it, and not taken here.
        let Some(entry_id) = player.entry_id else {
            return Err(ExecuteError::from_refusal(player::Refusal::NotThere));
        };
        let taking = Taking {
            entry_id,
            round: player.round,
            match_id: proposed.match_id,
            pool_key: proposed.pool_key.clone(),
            opponent: other.subject_id,
            side,
        };
        let step = Step { thing: proposed.match_id.0, name: "take", chain };
        self.on_player(player.subject_id, step, player::Action::Match(taking)).await
    }

    /// Lets a player of a match that is over go, with what its result says about them.
    async fn free(
        &self,
        proposed: &MatchProposed,
        phase: &Phase,
        side: Side,
        chain: &Chain,
    ) -> Result<Position, StepError> {
        let own = on_side(proposed, side);
        let other = on_side(proposed, side.other());
        let (reason, score) = match phase {
            Phase::Ended(result) => (FreedReason::ResultReported, score(*result, side)),
            _ => (FreedReason::Expired, None),
        };
        let game = score.map(|score| player::Rated {
            pool_key: proposed.pool_key.clone(),
            before: own.skill,
            game: Game { opponent: other.skill, score },
        });
        let step = Step { thing: proposed.match_id.0, name: "free", chain };
        let action = player::Action::Free { match_id: proposed.match_id, reason, game };
        Ok(self.on_player(own.subject_id, step, action).await?)
    }

    pub(super) async fn on_match(
        &self,
        match_id: MatchRecordId,
        chain: &Chain,
        step: &str,
        action: match_record::Action,
    ) -> Result<Position, ExecuteError<match_record::Refusal>> {
        let at = self.clock().now();
        let cause = Step { thing: match_id.0, name: step, chain }.cause(at, None, &action);
        let command = match_record::Command { at, action };
        let stream = StreamId::match_record(match_id);
        Ok(self.0.matches.execute(&stream, &cause, command).await?.position)
    }

    /// Ends a match without a result, if it is due, and frees its players.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub(crate) async fn expire_match(
        &self,
        match_id: MatchRecordId,
        chain: &Chain,
    ) -> Result<Placed, StepError> {
        self.on_match(match_id, chain, "expire", match_record::Action::Expire).await?;
        self.finish_match(match_id, chain).await
    }

    /// Ends an entry that found nobody, if it is due.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub(crate) async fn expire_entry(
        &self,
        player: SubjectId,
        entry_id: EntryId,
        chain: &Chain,
    ) -> Result<Position, StepError> {
        let step = Step { thing: entry_id.0, name: "expire", chain };
        Ok(self.on_player(player, step, player::Action::Expire { entry_id }).await?)
    }
}

/// Both players in the order of their ids: whoever takes two players takes them in this order, so that of two matches that
/// share a player one gets through.
fn in_order(proposed: &MatchProposed) -> [&MatchPlayer; 2] {
    let mut players = [&proposed.first, &proposed.second];
    players.sort_by_key(|player| player.subject_id);
    players
}

/// What a result is to the player on a side; none if it says nothing about anybody's strength.
fn score(result: GameResult, side: Side) -> Option<Score> {
    match (result, side) {
        (GameResult::First, Side::First) | (GameResult::Second, Side::Second) => Some(Score::Won),
        (GameResult::First, Side::Second) | (GameResult::Second, Side::First) => Some(Score::Lost),
        (GameResult::Draw, _) => Some(Score::Drawn),
        (GameResult::Aborted, _) => None,
    }
}
