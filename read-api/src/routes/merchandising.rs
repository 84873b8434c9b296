//! The merchandising rules: the list, and one rule.

use std::sync::Arc;

use event_schemas::envelope::Actor;
use event_schemas::ids::{Position, ProductCategoryId, RuleId};
use event_schemas::loose_id::LooseId;
use event_schemas::merchandising::RuleEffect;
use event_schemas::time::Timestamp;
use event_schemas::user::ListContext;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::merchandising::StoredRule;
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::{Caller, Role};
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;

use super::Tag;
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;
use crate::subjects::UserIds;

/// A rule that pins, boosts or bans products in lists.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct MerchandisingRule {
    pub id: RuleId,
    pub rule_id: RuleId,
    /// `pin`, `boost` or `ban`.
    pub kind: String,
    pub product_ids: Vec<LooseId>,
    /// The slot of the first product; null unless it is a pin.
    pub slot: Option<u32>,
    /// The factor of the scores; null unless it is a boost.
    pub factor: Option<f64>,
    /// The kind of lists that it applies to; null for all.
    pub context: Option<ListContext>,
    /// The category whose lists it applies to; null for all lists.
    pub category_id: Option<ProductCategoryId>,
    pub valid_from: Option<Timestamp>,
    pub valid_until: Option<Timestamp>,
    /// The user or the program that set it; null for an erased user.
    pub set_by: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Log position of the last event that changed this resource.
    pub position: Position,
}

impl MerchandisingRule {
    fn new(stored: StoredRule, user_ids: &UserIds) -> Self {
        let set_by = match &stored.set_by {
            Actor::Subject(subject) => user_ids.user_id(*subject).map(|user| user.to_string()),
            Actor::Worker(program) => Some(program.to_string()),
            Actor::Service(program) => Some(program.to_string()),
            Actor::System(process) => Some(process.to_string()),
        };
        let rule = stored.rule;
        let (slot, factor) = match rule.effect {
            RuleEffect::Pin { slot } => (Some(slot), None),
            RuleEffect::Boost { factor } => (None, Some(factor)),
            RuleEffect::Ban => (None, None),
        };
        Self {
            id: stored.rule_id.clone(),
            rule_id: stored.rule_id,
            kind: domain::merchandising::kind(&rule.effect).to_owned(),
            product_ids: rule.product_ids.iter().map(LooseId::from).collect(),
            slot,
            factor,
            context: rule.context,
            category_id: rule.category_id,
            valid_from: rule.valid_from,
            valid_until: rule.valid_until,
            set_by,
            created_at: stored.created_at,
            updated_at: stored.updated_at,
            position: stored.position,
        }
    }
}

/// Routes for merchandising rules.
#[derive(Clone, Debug)]
pub struct MerchandisingRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Catalogue")]
impl MerchandisingRoutes {
    /// List merchandising rules by id
    ///
    /// Needs the role `service` or `admin`.
    #[oai(path = "/api/v1/merchandising/rules", method = "get", operation_id = "list_rules")]
    async fn list(
        &self,
        caller: Caller,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<MerchandisingRule>>, Problem> {
        caller.require(Role::Service | Role::Admin)?;
        self.api.wait_for_models(&[Name::MerchandisingRules], min).await?;
        let list = "merchandising rules";
        let after: Option<RuleId> = cursor.0.map(|cursor| cursor.key(list)).transpose()?;
        let rules = self.api.models.merchandising_rules();
        let page = rules.list(&caller.tenant, after.as_ref(), limit.0.get() as u32).await;
        let page = page.map_err(|error| from_query_error(&error))?;
        let next_cursor = page.next.map(|next| Cursor::new(list, &next).to_string());
        let items = self.render(&caller, page.items).await?;
        Ok(Cached::new(&Page { items, next_cursor }, if_none_match.as_deref()))
    }

    /// Get a merchandising rule
    ///
    /// Needs the role `service` or `admin`.
    #[oai(path = "/api/v1/merchandising/rules/:rule_id", method = "get", operation_id = "read_rule")]
    async fn read(
        &self,
        caller: Caller,
        rule_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<MerchandisingRule>, Problem> {
        caller.require(Role::Service | Role::Admin)?;
        let id = path::rule_id(&rule_id)?;
        self.api.wait_for_models(&[Name::MerchandisingRules], min).await?;
        let read = || async {
            let found = self.api.models.merchandising_rules().get(&caller.tenant, &id).await;
            found.map_err(|error| from_query_error(&error))
        };
        // All rules of a tenant are in one stream.
        let found =
            self.api.read_by_id(Name::MerchandisingRules, &caller.tenant, Origin::Other, read).await?;
        let rendered = self.render(&caller, found.into_iter().collect()).await?;
        let rule = rendered.first().ok_or_else(|| Problem::not_found("no such rule"))?;
        Ok(Cached::new(rule, if_none_match.as_deref()))
    }
}

impl MerchandisingRoutes {
    async fn render(
        &self,
        caller: &Caller,
        rules: Vec<StoredRule>,
    ) -> Result<Vec<MerchandisingRule>, Problem> {
        let people = rules.iter().filter_map(|rule| match rule.set_by {
            Actor::Subject(subject) => Some(subject),
            _ => None,
        });
        let user_ids = self.api.server.subjects.user_ids(&caller.tenant, people).await?;
        Ok(rules.into_iter().map(|rule| MerchandisingRule::new(rule, &user_ids)).collect())
    }
}
