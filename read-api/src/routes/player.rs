//! The ratings and blocks of a player.

use std::sync::Arc;

use event_schemas::ids::{PoolKey, UserId};
use event_schemas::time::Timestamp;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Query};
use projections::Name;
use projections::player::{BlockCursor, RatingView};
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::Caller;
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::problem::Problem;

use super::{Tag, player_roles};
use crate::ReadApi;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;

/// A player's rating in a pool, computed from results.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PlayerRating {
    pub pool_key: PoolKey,
    pub rating: f64,
    /// The standard deviation of the rating, in the same points.
    pub deviation: f64,
    /// How much the player's strength is expected to fluctuate.
    pub volatility: f64,
    /// The number of results that it is based on.
    pub games: u64,
    pub last_rated_at: Timestamp,
}

/// A player that the caller has blocked.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Block {
    pub user_id: UserId,
    pub blocked_at: Timestamp,
}

impl From<RatingView> for PlayerRating {
    fn from(view: RatingView) -> Self {
        Self {
            pool_key: view.pool_key,
            rating: view.skill.rating,
            deviation: view.skill.deviation,
            volatility: view.skill.volatility,
            games: view.games,
            last_rated_at: view.last_rated_at,
        }
    }
}

/// Routes for the caller as a player.
#[derive(Clone, Debug)]
pub struct PlayerRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matchmaking")]
impl PlayerRoutes {
    /// List my ratings by pool
    ///
    /// Pools without a reported result are omitted. Needs the role `user`, `service` or `admin`.
    #[oai(path = "/v1/matchmaking/ratings", method = "get", operation_id = "list_ratings")]
    async fn ratings(
        &self,
        caller: Caller,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<PlayerRating>>, Problem> {
        caller.require(player_roles())?;
        let list = format!("ratings {}", caller.user()?);
        let after: Option<PoolKey> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        self.api.wait_for_models(&[Name::Players], min).await?;
        let (ratings, next) = match self.api.own_subject(&caller).await? {
            Some(subject) => {
                let limit = limit.0.get() as u32;
                let read = self.api.models.players().ratings(&caller.tenant, subject, after.as_ref(), limit);
                read.await.map_err(|error| from_query_error(&error))?
            }
            None => (Vec::new(), None),
        };
        let page = Page {
            items: ratings.into_iter().map(PlayerRating::from).collect(),
            next_cursor: next.map(|next| Cursor::new(&list, &next).to_string()),
        };
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }

    /// List the players I have blocked, newest first
    ///
    /// Erased users are omitted. Needs the role `user`, `service` or `admin`.
    #[oai(path = "/v1/matchmaking/blocks", method = "get", operation_id = "list_blocks")]
    async fn blocks(
        &self,
        caller: Caller,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<Block>>, Problem> {
        caller.require(player_roles())?;
        let list = format!("blocks {}", caller.user()?);
        let after: Option<BlockCursor> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        self.api.wait_for_models(&[Name::Players], min).await?;
        let (blocks, next) = match self.api.own_subject(&caller).await? {
            Some(subject) => {
                let limit = limit.0.get() as u32;
                let read = self.api.models.players().blocks(&caller.tenant, subject, after, limit);
                read.await.map_err(|error| from_query_error(&error))?
            }
            None => (Vec::new(), None),
        };
        let blocked = blocks.iter().map(|block| block.blocked);
        let user_ids = self.api.server.subjects.user_ids(&caller.tenant, blocked).await?;
        let named = |block: &projections::player::BlockView| {
            Some(Block { user_id: user_ids.user_id(block.blocked)?, blocked_at: block.blocked_at })
        };
        let page = Page {
            items: blocks.iter().filter_map(named).collect(),
            next_cursor: next.map(|next| Cursor::new(&list, &next).to_string()),
        };
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }
}
