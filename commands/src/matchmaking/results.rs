//! Results as callers report them, and how pools are to match.

use domain::match_record::{self, MatchRecord};
use domain::pool;
use event_schemas::envelope::Cause;
use event_schemas::ids::{MatchRecordId, PoolKey, Position, Tenant};
use event_schemas::match_record::{GameResult, MatchProposed};
use event_schemas::player::PlayerEvent;
use event_schemas::pool::PoolSettings;
use event_schemas::stream::StreamId;

use super::{Chain, Matchmaking, StepError};
use crate::execute::{ExecuteError, Executed, Folded, LoadError};

impl Matchmaking {
    /// Whether the tenant has this match.
    ///
    /// # Errors
    /// [`LoadError`] if its events cannot be read.
    pub(crate) async fn has_match(&self, tenant: &Tenant, id: MatchRecordId) -> Result<bool, LoadError> {
        let look =
            |folded: &Folded<MatchRecord>| folded.tenant() == Some(tenant) && folded.state.life().is_some();
        self.0.matches.look(&StreamId::match_record(id), look).await
    }

    /// Records how a game ended.
    ///
    /// # Errors
    /// As [`Streams::execute`](crate::execute::Streams::execute).
    pub(crate) async fn report(
        &self,
        id: MatchRecordId,
        cause: &Cause,
        result: GameResult,
    ) -> Result<Executed, ExecuteError<match_record::Refusal>> {
        let action = match_record::Action::Report(result);
        let command = match_record::Command { at: self.clock().now(), action };
        self.0.matches.execute(&StreamId::match_record(id), cause, command).await
    }

    /// Frees the players of a match whose result is recorded, so that whoever reported it finds them free; and says by
    /// which position they were, which stays the same whatever they did since. None if that is still to come: then they
    /// are freed by themselves.
    pub(crate) async fn free_both(&self, id: MatchRecordId, chain: &Chain) -> Option<Position> {
        let freed = async {
            self.finish_match(id, chain).await?;
            Ok::<_, StepError>(self.freed_at(&chain.tenant, id).await?)
        };
        freed.await.unwrap_or_else(|error| {
            tracing::warn!(match_id = %id, %error, "the players of a match that is over could not be freed yet");
            None
        })
    }

    async fn freed_at(&self, tenant: &Tenant, id: MatchRecordId) -> Result<Option<Position>, LoadError> {
        let proposed = |folded: &Folded<MatchRecord>| folded.state.life().map(|life| life.proposed.clone());
        let proposed = self.0.matches.look(&StreamId::match_record(id), proposed).await?;
        let Some(MatchProposed { first, second, .. }) = proposed else { return Ok(None) };
        let mut by_both = None;
        for player in [first, second] {
            let is_it = |event: &PlayerEvent| matches!(event, PlayerEvent::PlayerFreed(freed) if freed.match_id == id);
            let freed = self.latest_of_player(tenant, player.subject_id, is_it).await?;
            let Some(freed) = freed else { return Ok(None) };
            by_both = by_both.max(Some(freed.position));
        }
        Ok(by_both)
    }

    /// Sets how a pool matches.
    ///
    /// # Errors
    /// As [`Streams::execute`](crate::execute::Streams::execute).
    pub(crate) async fn configure(
        &self,
        pool_key: &PoolKey,
        cause: &Cause,
        settings: PoolSettings,
    ) -> Result<Executed, ExecuteError<pool::Refusal>> {
        let command = pool::Command { pool_key: pool_key.clone(), at: self.clock().now(), settings };
        self.0.pools.execute(&StreamId::pool(&cause.tenant, pool_key), cause, command).await
    }
}
