//! How strong a player is said to be by others, before their own results are asked.

use event_schemas::ids::{PoolKey, Tenant, UserId};
use event_schemas::rating::{Rating, RatingSource};
use web::caller::{Caller, Role};

use crate::Commands;

/// What came with a caller's request about a rating in one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Said {
    by_token: Option<f64>,
    by_request: Option<f64>,
}

impl Said {
    /// What the caller says of themselves. What the request says counts if the caller is trusted: of others, only the
    /// token is believed.
    pub(crate) fn by(caller: &Caller, pool: &PoolKey, requested: Option<f64>) -> Self {
        Self {
            by_token: caller.ratings.get(pool.as_str()).copied(),
            by_request: requested.filter(|_| caller.has(Role::Service | Role::Admin)),
        }
    }
}

impl Commands {
    /// What is known of a user's rating in a pool: by the token, else by the request, else by the tenant's rating service,
    /// which is waited for no longer than one call may take. None if nobody says anything: then the player's own results
    /// hold, and without any the rating of those about whom nothing is known.
    pub(crate) async fn known_rating(
        &self,
        tenant: &Tenant,
        user: &UserId,
        pool: &PoolKey,
        said: Said,
    ) -> Option<(Rating, RatingSource)> {
        let token = said.by_token.map(|points| (points, RatingSource::Token));
        let said = token.or(said.by_request.map(|points| (points, RatingSource::Request)));
        // Whoever issues tokens may rate on a wider scale; the end of ours is nearer to that than no rating.
        if let Some((points, source)) = said {
            return Some((Rating::nearest(points), source));
        }
        let answered = self.0.ratings.ask(tenant, user, pool).await?;
        Some((answered, RatingSource::RatingService))
    }
}
