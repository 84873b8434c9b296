//! What is known of a player: their ratings, and whom they block.

use std::sync::Arc;

use event_schemas::ids::{PoolKey, UserId};
use poem_openapi::param::{Header, Query};
use poem_openapi::{Object, OpenApi};
use projections::Name;
use projections::player::{BlockCursor, RatingView};
use web::caller::Caller;
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::problem::Problem;
use web::value::{At, Text};

use super::{Tag, players};
use crate::ReadApi;
use crate::answer::{MinPosition, unanswered};

/// What results say of a player in a pool.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct PlayerRating {
    pub pool_key: Text<PoolKey>,
    pub rating: f64,
    /// The standard deviation of the rating, in the same points.
    pub deviation: f64,
    /// How much the player's strength is expected to fluctuate.
    pub volatility: f64,
    /// How many results it rests on.
    pub games: u64,
    pub last_rated_at: At,
}

/// Somebody whom the caller does not want to meet.
#[derive(Clone, Debug, PartialEq, Object)]
pub struct Block {
    pub user_id: Text<UserId>,
    pub blocked_at: At,
}

impl From<RatingView> for PlayerRating {
    fn from(view: RatingView) -> Self {
        Self {
            pool_key: Text(view.pool_key),
            rating: view.skill.rating,
            deviation: view.skill.deviation,
            volatility: view.skill.volatility,
            games: view.games,
            last_rated_at: At(view.last_rated_at),
        }
    }
}

/// Routes over the caller as a player.
#[derive(Clone, Debug)]
pub struct PlayerRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matchmaking")]
impl PlayerRoutes {
    /// One's own ratings by pool, as results have made them
    ///
    /// A pool in which no result was reported is not there. Needs the role `user`, `service` or `admin`.
    #[oai(path = "/v1/matchmaking/ratings", method = "get", operation_id = "list_ratings")]
    async fn ratings(
        &self,
        caller: Caller,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<PlayerRating>>, Problem> {
        caller.require(players())?;
        let list = format!("ratings {}", caller.user()?);
        let after: Option<PoolKey> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        self.api.models_reached(&[Name::Players], min).await?;
        let (ratings, next) = match self.api.own_subject(&caller).await? {
            Some(subject) => {
                let limit = limit.0.get() as u32;
                let read = self.api.models.players().ratings(&caller.tenant, subject, after.as_ref(), limit);
                read.await.map_err(|error| unanswered(&error))?
            }
            None => (Vec::new(), None),
        };
        let page = Page {
            items: ratings.into_iter().map(PlayerRating::from).collect(),
            next_cursor: next.map(|next| Cursor::new(&list, &next).to_string()),
        };
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }

    /// Whom one blocks, the newest first
    ///
    /// Who was erased is left out. Needs the role `user`, `service` or `admin`.
    #[oai(path = "/v1/matchmaking/blocks", method = "get", operation_id = "list_blocks")]
    async fn blocks(
        &self,
        caller: Caller,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<Block>>, Problem> {
        caller.require(players())?;
        let list = format!("blocks {}", caller.user()?);
        let after: Option<BlockCursor> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        self.api.models_reached(&[Name::Players], min).await?;
        let (blocks, next) = match self.api.own_subject(&caller).await? {
            Some(subject) => {
                let limit = limit.0.get() as u32;
                let read = self.api.models.players().blocks(&caller.tenant, subject, after, limit);
                read.await.map_err(|error| unanswered(&error))?
            }
            None => (Vec::new(), None),
        };
        let blocked = blocks.iter().map(|block| block.blocked);
        let names = self.api.server.people.names(&caller.tenant, blocked).await?;
        let named = |block: &projections::player::BlockView| {
            Some(Block { user_id: Text(names.of(block.blocked)?), blocked_at: At(block.blocked_at) })
        };
        let page = Page {
            items: blocks.iter().filter_map(named).collect(),
            next_cursor: next.map(|next| Cursor::new(&list, &next).to_string()),
        };
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }
}
