//! Challenges: one player asks another for a match, and the other answers.

use futures_util::FutureExt;
use std::time::Duration;

use domain::challenge::{Action, Life, Phase, Refusal, match_id};
use domain::player;
use event_schemas::challenge::ChallengeCreated;
use event_schemas::envelope::{Cause, Idempotency};
use event_schemas::ids::{ChallengeId, GameId, MatchRecordId, PoolKey, UserId};
use event_schemas::match_record::AbandonReason;
use event_schemas::sealed::Place;
use poem_openapi::param::{Header, Path};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde_json::Value;
use uuid::Uuid;
use web::caller::Caller;
use web::idempotency::IdempotencyKey;
use web::json::{Created, Json};
use web::problem::Problem;
use web::request::TraceParent;
use web::value::{At, Pos, Text, Uid};
use web::vocabulary::{ChallengeStatus, RatingSource, Side, Tag};

use super::{keyed, players};
use crate::execute::ExecuteError;
use crate::idempotency::Seen;
use crate::matchmaking::challenges::{Acceptance, Apart, Made, attempt_meant, of_attempt};
use crate::matchmaking::strength::Said;
use crate::vault::Subject;
use crate::{Commands, refusal};

const CHALLENGES: &str = "/v1/matchmaking/challenges";

/// A player to ask for a match.
#[derive(Debug, Object)]
#[oai(example)]
struct MakeChallenge {
    opponent_id: Text<UserId>,
    /// What is to be played. The pool's settings say how long there is to answer.
    pool_key: Text<PoolKey>,
    /// For the opponent to read. It is kept encrypted, and can be read by nobody once its writer is erased.
    #[oai(validator(min_length = 1, max_length = 500))]
    message: Option<String>,
}

impl Example for MakeChallenge {
    fn example() -> Self {
        Self {
            opponent_id: Text("bob".parse().expect("a short text is an id")),
            pool_key: Text("blitz".parse().expect("a short text is an id")),
            message: Some("a rematch?".to_owned()),
        }
    }
}

/// A challenge that was made.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct ChallengeMade {
    id: Uid<ChallengeId>,
    challenge_id: Uid<ChallengeId>,
    status: ChallengeStatus,
    pool_key: Text<PoolKey>,
    challenger_id: Text<UserId>,
    opponent_id: Text<UserId>,
    message: Option<String>,
    /// The challenger's, from 0 to 10000.
    rating: u16,
    rating_source: RatingSource,
    created_at: At,
    expires_at: At,
    /// Send it as `X-Min-Position` to read what is answered here.
    position: Pos,
}

/// A challenge that was accepted.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct ChallengeTaken {
    id: Uid<ChallengeId>,
    challenge_id: Uid<ChallengeId>,
    status: ChallengeStatus,
    match_id: Uid<MatchRecordId>,
    /// None where no game service is set.
    game_id: Option<Text<GameId>>,
    /// The side of the player who accepted.
    side: Side,
    position: Pos,
}

/// A challenge that nothing will come of.
#[derive(Debug, Object)]
struct ChallengeEnded {
    id: Uid<ChallengeId>,
    challenge_id: Uid<ChallengeId>,
    status: ChallengeStatus,
    position: Pos,
}

/// Commands to challenges.
#[derive(Clone, Debug)]
pub struct ChallengeCommands(pub(super) Commands);

#[OpenApi(tag = "Tag::Matchmaking")]
impl ChallengeCommands {
    /// Challenge a player
    ///
    /// Whoever waits in a queue keeps waiting there until the challenge is accepted.
    #[oai(path = "/v1/matchmaking/challenges", method = "post", operation_id = "create_challenge")]
    async fn create(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        body: Json<MakeChallenge>,
    ) -> Result<Created<ChallengeMade>, Problem> {
        caller.require(players())?;
        if caller.user()? == &body.0.opponent_id.0 {
            return Err(Problem::invalid("opponent_id", Refusal::Oneself.to_string()));
        }
        let subject = self.0.player(&caller).await?;
        let idempotency = keyed(&caller, "POST", CHALLENGES, key.0, &body.0);
        let cause = self.0.cause(&caller, trace, idempotency).await?;
        let cause = Cause { subject: Some(subject.id), ..cause };
        let made = self.0.make_challenge(&caller, &subject, &cause, body.0).await?;
        Ok(Created { location: format!("{CHALLENGES}/{}", *made.id), body: made })
    }

    /// Accept a challenge
    ///
    /// Only the challenged player can. Both leave their queues, and the game is made. If it cannot be made, they wait where
    /// they waited before, and the challenge is pending still: the same request may work later.
    #[oai(
        path = "/v1/matchmaking/challenges/:challenge_id/accept",
        method = "post",
        operation_id = "accept_challenge"
    )]
    async fn accept(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        challenge_id: Path<String>,
    ) -> Result<Json<ChallengeTaken>, Problem> {
        caller.require(players())?;
        let id = web::path::challenge_id(&challenge_id)?;
        let asked = keyed(&caller, "POST", &format!("{CHALLENGES}/{id}/accept"), key.0, &Value::Null);
        // On a task of its own, so that the game is made, and the players let go if it is not, even if the caller goes away.
        let commands = self.0.clone();
        let accepting =
            tokio::spawn(async move { commands.accept_challenge(&caller, trace, asked, id).await }.boxed());
        accepting.await.map_err(|error| Problem::internal(&error))?.map(Json)
    }

    /// Decline a challenge
    ///
    /// Only the challenged player can.
    #[oai(
        path = "/v1/matchmaking/challenges/:challenge_id/decline",
        method = "post",
        operation_id = "decline_challenge"
    )]
    async fn decline(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        challenge_id: Path<String>,
    ) -> Result<Json<ChallengeEnded>, Problem> {
        self.0.end_challenge(&caller, trace, key.0, &challenge_id, End::Decline).await.map(Json)
    }

    /// Cancel a challenge
    ///
    /// Only the challenger can.
    #[oai(
        path = "/v1/matchmaking/challenges/:challenge_id/cancel",
        method = "post",
        operation_id = "cancel_challenge"
    )]
    async fn cancel(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        challenge_id: Path<String>,
    ) -> Result<Json<ChallengeEnded>, Problem> {
        self.0.end_challenge(&caller, trace, key.0, &challenge_id, End::Cancel).await.map(Json)
    }
}

/// The ends that a player can bring about.
#[derive(Clone, Copy, Debug)]
enum End {
    Decline,
    Cancel,
}

impl Commands {
    async fn make_challenge(
        &self,
        caller: &Caller,
        challenger: &Subject,
        cause: &Cause,
        body: MakeChallenge,
    ) -> Result<ChallengeMade, Problem> {
        let (tenant, pool) = (&caller.tenant, &body.pool_key.0);
        // Of a repeated command, the same again.
        let id = ChallengeId(match cause.idempotency {
            Some(idempotency) => Uuid::new_v5(&idempotency.key, b"challenge"),
            None => self.0.ids.next(),
        });
        let matchmaking = &self.0.matchmaking;
        if let Some(asked) = cause.idempotency {
            match matchmaking.challenge_seen(id, asked).await.map_err(refusal::unreadable)? {
                Seen::Never => {}
                Seen::OtherBody => return Err(Problem::idempotency_key_reused()),
                Seen::Done(_) => return self.challenge_as_made(caller, id, body).await,
            }
        }
        let challenged = self.0.vault.subject(tenant, &body.opponent_id.0).await;
        let challenged = challenged.map_err(|error| refusal::vault(&error))?.id;
        if matchmaking.blocked(tenant, challenger.id, challenged).await.map_err(refusal::unreadable)? {
            return Err(Problem::conflict(player::Refusal::Blocked.to_string()));
        }
        let known = self.known_rating(tenant, caller.user()?, pool, Said::by(caller, pool, None)).await;
        let strength = matchmaking.strength(tenant, challenger.id, pool, known).await;
        let settings = matchmaking.settings(tenant, pool).await.map_err(refusal::unreadable)?;
        let open_for = Duration::from_secs(settings.challenge_expires_after_seconds.into());
        let place = Place::ChallengeMessage(id);
        let message = body.message.as_ref().map(|text| self.0.vault.seal(tenant, challenger, place, text));
        let created = ChallengeCreated {
            challenge_id: id,
            pool_key: pool.clone(),
            challenger: challenger.id,
            challenged,
            strength: strength.map_err(refusal::unreadable)?,
            expires_at: self.0.clock.now().after(open_for),
            message: message.transpose().map_err(|error| refusal::vault(&error))?,
        };
        let made = matchmaking.ask_of_challenge(id, cause, Action::Create(created)).await;
        made.map_err(refusal::single)?;
        self.challenge_as_made(caller, id, body).await
    }

    /// The challenge as it was made: so a repeated command is answered as the first time, whatever happened since. What was
    /// asked for is the same, too.
    async fn challenge_as_made(
        &self,
        caller: &Caller,
        id: ChallengeId,
        body: MakeChallenge,
    ) -> Result<ChallengeMade, Problem> {
        let made = self.0.matchmaking.challenge_made(id).await.map_err(refusal::unreadable)?;
        let Some(Made { created, at, position }) = made else {
            return Err(Problem::internal(&"a challenge was recorded and its stream does not begin with it"));
        };
        Ok(ChallengeMade {
            id: id.into(),
            challenge_id: id.into(),
            status: ChallengeStatus::Pending,
            pool_key: created.pool_key.into(),
            challenger_id: caller.user()?.clone().into(),
            opponent_id: body.opponent_id,
            message: body.message,
            rating: created.strength.rating.points(),
            rating_source: created.strength.rating_source.into(),
            created_at: at.into(),
            expires_at: created.expires_at.into(),
            position: position.into(),
        })
    }

    async fn accept_challenge(
        &self,
        caller: &Caller,
        trace: TraceParent,
        asked: Option<Idempotency>,
        id: ChallengeId,
    ) -> Result<ChallengeTaken, Problem> {
        let (tenant, by) = (&caller.tenant, self.player(caller).await?.id);
        let matchmaking = &self.0.matchmaking;
        // One at a time: whoever comes second finds the challenge decided, and asks the game service for nothing.
        let _turn = self.0.keys.hold(id.0).await;
        let life = matchmaking.challenge(tenant, id).await.map_err(refusal::unreadable)?;
        let life = life.ok_or_else(no_such_challenge)?;
        let is_theirs = life.created.challenged == by && life.created.expires_at > self.0.clock.now();
        let pool = &life.created.pool_key;
        // Else it is refused, or was done before.
        let known = if is_theirs && life.phase == Phase::Pending {
            self.can_be_placed(caller, &life).await?;
            self.known_rating(tenant, caller.user()?, pool, Said::by(caller, pool, None)).await
        } else {
            None
        };
        let asked = asked.map(|asked| of_attempt(asked, attempt_meant(&life)));
        let cause = self.cause(caller, trace, asked).await?;
        let cause = Cause { subject: Some(by), ..cause };
        let strength = matchmaking.strength(tenant, by, pool, known).await.map_err(refusal::unreadable)?;
        match matchmaking.accept(id, &cause, by, strength).await.map_err(refusal::step)? {
            Acceptance::Accepted { placing, game_id, position } => Ok(ChallengeTaken {
                id: id.into(),
                challenge_id: id.into(),
                status: ChallengeStatus::Accepted,
                match_id: match_id(id).into(),
                game_id: game_id.map(Text),
                side: placing.challenger_side.other().into(),
                position: position.into(),
            }),
            Acceptance::NoGame { reason, again_after } => Err(no_game(reason, again_after)),
            Acceptance::Overtaken { again_after } => Err(Problem::unavailable(
                "another acceptance of this challenge came to nothing just now; it is pending still, accept it again",
                again_after,
            )),
            Acceptance::Ended(how) => Err(refusal::single(ExecuteError::from_refusal(how))),
        }
    }

    /// Refuses before anything is recorded what would come to nothing now.
    async fn can_be_placed(&self, caller: &Caller, life: &Life) -> Result<(), Problem> {
        let matchmaking = &self.0.matchmaking;
        match matchmaking.apart(&caller.tenant, life).await.map_err(refusal::unreadable)? {
            Some(Apart::Blocked) => return Err(Problem::conflict(player::Refusal::Blocked.to_string())),
            Some(Apart::Busy(player)) if player == life.created.challenged => {
                return Err(Problem::conflict(
                    "you have an unfinished match; the challenge can be accepted once that has ended",
                ));
            }
            Some(Apart::Busy(_)) => {
                return Err(Problem::conflict(
                    "the challenger has an unfinished match; the challenge can be accepted once that has ended",
                ));
            }
            None => {}
        }
        match matchmaking.desk().room() {
            Ok(_) => Ok(()),
            Err(until) => Err(no_game(AbandonReason::GameServiceParked, until.since(self.0.clock.now()))),
        }
    }

    async fn end_challenge(
        &self,
        caller: &Caller,
        trace: TraceParent,
        key: Option<IdempotencyKey>,
        challenge_id: &str,
        end: End,
    ) -> Result<ChallengeEnded, Problem> {
        caller.require(players())?;
        let id = web::path::challenge_id(challenge_id)?;
        let by = self.player(caller).await?.id;
        let (verb, status, action) = match end {
            End::Decline => ("decline", ChallengeStatus::Declined, Action::Decline { by }),
            End::Cancel => ("cancel", ChallengeStatus::Cancelled, Action::Cancel { by }),
        };
        let matchmaking = &self.0.matchmaking;
        let life = matchmaking.challenge(&caller.tenant, id).await.map_err(refusal::unreadable)?;
        if life.is_none() {
            return Err(no_such_challenge());
        }
        let path = format!("{CHALLENGES}/{id}/{verb}");
        let cause = self.cause(caller, trace, keyed(caller, "POST", &path, key, &Value::Null)).await?;
        let cause = Cause { subject: Some(by), ..cause };
        let ended = matchmaking.ask_of_challenge(id, &cause, action).await.map_err(refusal::single)?;
        let position = ended.position.into();
        Ok(ChallengeEnded { id: id.into(), challenge_id: id.into(), status, position })
    }
}

/// 404. The same words for a challenge that is not there, another tenant's, and one between others.
fn no_such_challenge() -> Problem {
    refusal::single(ExecuteError::from_refusal(Refusal::Missing))
}

fn no_game(reason: AbandonReason, again_after: Duration) -> Problem {
    match reason {
        AbandonReason::GameServiceFailed | AbandonReason::GameServiceParked => Problem::unavailable(
            "the game service makes no games at present; the challenge is pending still, accept it again later",
            again_after,
        ),
        AbandonReason::PlayerUnavailable => Problem::conflict(
            "one of the players was taken for another match, or does not play the other; the challenge is pending still",
        ),
        AbandonReason::GameRefused => Problem::conflict(
            "the game service does not make this game; the challenge is pending still, and can be declined or cancelled",
        ),
    }
}
