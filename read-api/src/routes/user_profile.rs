//! The profile of a user: what they did, and the products and categories that count most for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::recommend::UserEmbeddings;
use domain::user::profile::{Activity, Affinity, UNIT};
use event_schemas::ids::{Position, ProductCategoryId, SubjectId, Tenant, UserId};
use event_schemas::loose_id::LooseId;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use event_schemas::user::InteractionType;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path};
use projections::user::UserProfile;
use projections::{Name, QueryError};
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::Caller;
use web::etag::Cached;
use web::path;
use web::problem::Problem;

use super::{Tag, player_roles};
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;

/// The most products and categories of an answer.
const TOP_MAX: usize = 20;

/// The number of the strongest products whose categories are counted.
const CATEGORY_PRODUCTS_MAX: usize = 100;

/// What a user did, and the interests that follow from it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Profile {
    pub user_id: LooseId,
    pub interactions: InteractionCounts,
    /// The latest session. It ends after 60 minutes without an interaction.
    pub session: SessionProfile,
    /// The products that count most over all sessions, the strongest first.
    pub top_products: Vec<ProductInterest>,
    /// The categories of the products that count over all sessions, the strongest first.
    pub top_categories: Vec<CategoryInterest>,
    /// Which vectors of the built-in encoder there are of the user; null until the search index is built after a start.
    pub embeddings: Option<UserEmbeddings>,
    /// The time at which the last interaction was recorded.
    pub updated_at: Timestamp,
    /// Log position of the last interaction.
    pub position: Position,
}

/// The number of interactions.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InteractionCounts {
    pub total: u64,
    pub views: u64,
    pub clicks: u64,
    pub add_to_carts: u64,
    pub purchases: u64,
    pub likes: u64,
    pub shares: u64,
    pub ratings: u64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
}

/// A session, with the products that count most in it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SessionProfile {
    /// Whether it has not ended; if it has, no product counts.
    pub active: bool,
    pub started_at: Timestamp,
    pub last_at: Timestamp,
    pub interactions: u64,
    /// The strongest first.
    pub top_products: Vec<ProductInterest>,
}

/// The weight of a product in a profile.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ProductInterest {
    pub product_id: LooseId,
    /// A purchase a moment ago weighs 1.
    pub weight: f64,
}

/// The weight of a category in a profile.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CategoryInterest {
    pub category_id: ProductCategoryId,
    pub category_name: Option<String>,
    /// The sum of the weights of its products.
    pub weight: f64,
}

impl InteractionCounts {
    fn new(activity: &Activity) -> Self {
        let of = |kind| activity.interactions.get(&kind).copied().unwrap_or(0);
        Self {
            total: activity.total(),
            views: of(InteractionType::View),
            clicks: of(InteractionType::Click),
            add_to_carts: of(InteractionType::AddToCart),
            purchases: of(InteractionType::Purchase),
            likes: of(InteractionType::Like),
            shares: of(InteractionType::Share),
            ratings: of(InteractionType::Rating),
            first_at: activity.first_at,
            last_at: activity.last_at,
        }
    }
}

/// A weight in billionths as a number, to six digits.
fn weight(billionths: i64) -> f64 {
    (billionths as f64 / (UNIT as f64 / 1e6)).round() / 1e6
}

/// The strongest products, those of equal weight by id.
fn top(products: &[Affinity], weight_of: impl Fn(&Affinity) -> i64) -> Vec<ProductInterest> {
    let mut weighed: Vec<_> = products.iter().map(|product| (weight_of(product), product)).collect();
    weighed.retain(|(weight, _)| *weight > 0);
    weighed.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.product_id.cmp(&other.product_id)));
    let interest = |(billionths, product): &(i64, &Affinity)| ProductInterest {
        product_id: (&product.product_id).into(),
        weight: weight(*billionths),
    };
    weighed.iter().take(TOP_MAX).map(interest).collect()
}

/// Routes for the profiles of users.
#[derive(Clone, Debug)]
pub struct UserProfileRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Catalogue")]
impl UserProfileRoutes {
    /// Get the profile of a user
    ///
    /// The weights are those of this moment. The user may read it, and the roles `service` and `admin` of the tenant. A user
    /// without an interaction has none.
    #[oai(path = "/api/v1/users/:user_id/profile", method = "get", operation_id = "read_user_profile")]
    async fn read(
        &self,
        caller: Caller,
        user_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Profile>, Problem> {
        caller.require(player_roles())?;
        let user_id: UserId = path::user_id(&user_id)?;
        let not_found = || Problem::not_found("no such user, or one without interactions");
        if !caller.can_access_others() && caller.user()? != &user_id {
            return Err(not_found());
        }
        self.api.wait_for_models(&[Name::Users, Name::Products, Name::Search], min).await?;
        let subject = self.api.server.subjects.subject(&caller.tenant, &user_id).await?;
        let subject = subject.ok_or_else(not_found)?;
        let read = || async {
            let found = self.api.models.users().profile(&caller.tenant, subject).await;
            found.map_err(|error| from_query_error(&error))
        };
        let origin = Origin::Stream(StreamId::user(&caller.tenant, subject));
        let found = self.api.read_by_id(Name::Users, &caller.tenant, origin, read).await?;
        let profile = found.ok_or_else(not_found)?;
        let answer = self.api.completed(&caller.tenant, &user_id, subject, &profile).await?;
        Ok(Cached::new(&answer, if_none_match.as_deref()))
    }
}

impl Profile {
    fn new(
        user_id: &UserId,
        profile: &UserProfile,
        top_categories: Vec<CategoryInterest>,
        embeddings: Option<UserEmbeddings>,
    ) -> Self {
        let UserProfile { user, now, settings, .. } = profile;
        let session = user.activity.session;
        let active = session.is_active(*now);
        let in_session = |product: &Affinity| if active { product.in_session(*now, settings) } else { 0 };
        Self {
            user_id: user_id.into(),
            interactions: InteractionCounts::new(&user.activity),
            session: SessionProfile {
                active,
                started_at: session.started_at,
                last_at: session.last_at,
                interactions: session.interactions,
                top_products: top(&profile.in_session, in_session),
            },
            top_products: top(&profile.long_term, |product| product.long_term(*now)),
            top_categories,
            embeddings,
            updated_at: user.updated_at,
            position: user.position,
        }
    }
}

impl ReadApi {
    /// The profile of a user; none without an interaction.
    pub(super) async fn profile_of(
        &self,
        tenant: &Tenant,
        user_id: &UserId,
        subject: SubjectId,
    ) -> Result<Option<Profile>, Problem> {
        let found = self.models.users().profile(tenant, subject).await;
        let Some(profile) = found.map_err(|error| from_query_error(&error))? else { return Ok(None) };
        self.completed(tenant, user_id, subject, &profile).await.map(Some)
    }

    /// The answer for a profile, with what other read models know.
    async fn completed(
        &self,
        tenant: &Tenant,
        user_id: &UserId,
        subject: SubjectId,
        profile: &UserProfile,
    ) -> Result<Profile, Problem> {
        let top_categories = self.top_categories(tenant, profile).await?;
        let embeddings = match self.models.search().embeddings_of(tenant, subject).await {
            Ok(embeddings) => Some(embeddings),
            Err(QueryError::Building { .. }) => None,
            Err(error) => return Err(from_query_error(&error)),
        };
        Ok(Profile::new(user_id, profile, top_categories, embeddings))
    }

    async fn top_categories(
        &self,
        tenant: &Tenant,
        profile: &UserProfile,
    ) -> Result<Vec<CategoryInterest>, Problem> {
        let strongest = &profile.long_term[..profile.long_term.len().min(CATEGORY_PRODUCTS_MAX)];
        let ids: Vec<_> = strongest.iter().map(|product| product.product_id.clone()).collect();
        let products = self.models.products().some(tenant, &ids).await;
        let products = products.map_err(|error| from_query_error(&error))?;
        let categories: BTreeMap<_, _> =
            products.into_iter().map(|product| (product.product_id, product.details)).collect();
        let mut sums: BTreeMap<ProductCategoryId, (i64, Option<String>)> = BTreeMap::new();
        for product in strongest {
            let Some(details) = categories.get(&product.product_id) else { continue };
            let Some(category) = &details.category_id else { continue };
            let (sum, name) = sums.entry(category.clone()).or_default();
            *sum = sum.saturating_add(product.long_term(profile.now));
            if name.is_none() {
                name.clone_from(&details.category_name);
            }
        }
        let mut sums: Vec<_> = sums.into_iter().filter(|(_, (sum, _))| *sum > 0).collect();
        // Categories of equal weight stay in the order of their ids.
        sums.sort_by_key(|(_, (sum, _))| std::cmp::Reverse(*sum));
        sums.truncate(TOP_MAX);
        let interest = |(category_id, (sum, category_name))| CategoryInterest {
            category_id,
            category_name,
            weight: weight(sum),
        };
        Ok(sums.into_iter().map(interest).collect())
    }
}
