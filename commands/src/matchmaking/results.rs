//! Results of games and settings of pools, as the routes use them.

use domain::game_match::{self, GameMatchDecider};
use domain::pool;
use event_schemas::envelope::Cause;
use event_schemas::game_match::{GameResult, MatchProposed};
use event_schemas::ids::{GameMatchId, PoolKey, Position, Tenant};
use event_schemas::player::PlayerEvent;
use event_schemas::pool::PoolSettings;
use event_schemas::stream::StreamId;

use super::{Matchmaking, SagaError};
use crate::engine::command_context::CommandContext;
use crate::engine::execute::{CachedStream, ExecuteError, Executed, LoadError};

impl Matchmaking {
    /// True if the tenant has this match.
    ///
    /// # Errors
    /// [`LoadError`] if its events cannot be read.
    pub(crate) async fn has_match(&self, tenant: &Tenant, id: GameMatchId) -> Result<bool, LoadError> {
        let read = |folded: &CachedStream<GameMatchDecider>| {
            folded.tenant() == Some(tenant) && folded.state.details().is_some()
        };
        self.game_matches.query(&StreamId::game_match(id), read).await
    }

    /// Records the result of a game.
    ///
    /// # Errors
    /// As [`Streams::execute`](crate::engine::execute::Streams::execute).
    pub(crate) async fn report(
        &self,
        id: GameMatchId,
        cause: &Cause,
        result: GameResult,
    ) -> Result<Executed, ExecuteError<game_match::Refusal>> {
        let action = game_match::Action::Report(result);
        let command = game_match::Command { at: self.engine.now(), action };
        self.game_matches.execute(&StreamId::game_match(id), cause, command).await
    }

    /// Releases the players of a match whose result is recorded, so that they are free when the report returns. Returns
    /// the position of the releases, unaffected by later events; none if one could not be recorded yet, which the
    /// reconciler then does.
    pub(crate) async fn release_both(&self, id: GameMatchId, context: &CommandContext) -> Option<Position> {
        let released = async {
            self.finish_match(id, context).await?;
            Ok::<_, SagaError>(self.released_at(&context.tenant, id).await?)
        };
        released.await.unwrap_or_else(|error| {
            tracing::warn!(match_id = %id, %error, "the players of a finished match could not be released yet");
            None
        })
    }

    async fn released_at(&self, tenant: &Tenant, id: GameMatchId) -> Result<Option<Position>, LoadError> {
        let read = |folded: &CachedStream<GameMatchDecider>| {
            folded.state.details().map(|details| details.proposed.clone())
        };
        let proposed = self.game_matches.query(&StreamId::game_match(id), read).await?;
        let Some(MatchProposed { first, second, .. }) = proposed else { return Ok(None) };
        let mut latest = None;
        for player in [first, second] {
            let is_release = |event: &PlayerEvent| matches!(event, PlayerEvent::PlayerReleased(released) if released.match_id == id);
            let released = self.latest_player_event(tenant, player.subject_id, is_release).await?;
            let Some(released) = released else { return Ok(None) };
            latest = latest.max(Some(released.position));
        }
        Ok(latest)
    }

    /// Sets the settings of a pool.
    ///
    /// # Errors
    /// As [`Streams::execute`](crate::engine::execute::Streams::execute).
    pub(crate) async fn configure(
        &self,
        pool_key: &PoolKey,
        cause: &Cause,
        settings: PoolSettings,
    ) -> Result<Executed, ExecuteError<pool::Refusal>> {
        let command = pool::Command { pool_key: pool_key.clone(), at: self.engine.now(), settings };
        self.pools.execute(&StreamId::pool(&cause.tenant, pool_key), cause, command).await
    }
}
