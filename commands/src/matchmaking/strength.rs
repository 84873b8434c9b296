//! Ratings from other sources, which take precedence over the player's own results.

use event_schemas::ids::{PoolKey, Tenant, UserId};
use event_schemas::rating::{Rating, RatingSource};
use web::caller::{Caller, Role};

use crate::Commands;

/// The rating in one pool that came with a caller's request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ClaimedRating {
    from_token: Option<f64>,
    from_request: Option<f64>,
}

impl ClaimedRating {
    /// The rating that a caller claims. The request's rating counts only if the caller is trusted; for others only the
    /// token's rating does.
    pub(crate) fn from_caller(caller: &Caller, pool: &PoolKey, requested: Option<f64>) -> Self {
        Self {
            from_token: caller.ratings.get(pool.as_str()).copied(),
            from_request: requested.filter(|_| caller.has(Role::Service | Role::Admin)),
        }
    }
}

impl Commands {
    /// A user's rating in a pool from the token, else from the request, else from the tenant's rating service within
    /// its timeout. None if there is none: then the player's own results count, or else the default rating.
    pub(crate) async fn known_rating(
        &self,
        tenant: &Tenant,
        user: &UserId,
        pool: &PoolKey,
        claimed: ClaimedRating,
    ) -> Option<(Rating, RatingSource)> {
        let token = claimed.from_token.map(|points| (points, RatingSource::Token));
        let claimed = token.or(claimed.from_request.map(|points| (points, RatingSource::Request)));
        // The issuer of tokens may use a wider scale; the end of ours is closer to its rating than no rating.
        if let Some((points, source)) = claimed {
            return Some((Rating::nearest(points), source));
        }
        let rating = self.0.ratings.lookup(tenant, user, pool).await?;
        Some((rating, RatingSource::RatingService))
    }
}
