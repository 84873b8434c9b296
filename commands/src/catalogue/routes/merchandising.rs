//! Sets and removes merchandising rules.

use std::sync::Arc;

use domain::merchandising::{Action, Command};
use event_schemas::envelope::Cause;
use event_schemas::ids::{Position, ProductCategoryId, ProductId, RuleId};
use event_schemas::merchandising::{Rule, RuleEffect};
use event_schemas::stream::StreamId;
use event_schemas::user::ListContext;
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use web::json::Json;
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;
use web::value::{ApiTimestamp, LooseTextId};

use crate::catalogue::Catalogue;
use crate::engine::problem;
use crate::engine::write_request::{Services, WriteRequest};

/// The effect of a merchandising rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum RuleKind {
    /// Its products are shown from a slot on.
    Pin,
    /// The scores of its products are multiplied by a factor.
    Boost,
    /// Its products are not shown.
    Ban,
}

/// A merchandising rule.
#[derive(Debug, Object)]
#[oai(example)]
struct NewRule {
    kind: Api<RuleKind>,
    /// The products that it is about; pinned ones are shown in this order.
    #[oai(validator(min_items = 1, max_items = 100))]
    product_ids: Vec<LooseTextId<ProductId>>,
    /// The slot of the first pinned product, from 1. Default: 1.
    #[oai(validator(minimum(value = "1"), maximum(value = "500")))]
    slot: Option<u32>,
    /// The factor of a boost, which needs one; below 1 it lowers scores.
    #[oai(validator(minimum(value = "0.01"), maximum(value = "100")))]
    factor: Option<f64>,
    /// The kind of lists that it applies to. Default: all.
    context: Option<Api<ListContext>>,
    /// The category whose lists it applies to. Default: all lists.
    category_id: Option<LooseTextId<ProductCategoryId>>,
    /// The rule has no effect before. Default: it has an effect at once.
    valid_from: Option<ApiTimestamp>,
    /// The rule has no effect from this time on. Default: it has an effect until it is removed.
    valid_until: Option<ApiTimestamp>,
}

impl Example for NewRule {
    fn example() -> Self {
        let text = "an example's ids are short texts";
        Self {
            kind: Api(RuleKind::Pin),
            product_ids: vec![LooseTextId("456".parse().expect(text))],
            slot: Some(1),
            factor: None,
            context: Some(Api(ListContext::Feed)),
            category_id: None,
            valid_from: None,
            valid_until: None,
        }
    }
}

impl NewRule {
    fn rule(self) -> Result<Rule, Problem> {
        let effect = match (self.kind.0, self.slot, self.factor) {
            (RuleKind::Pin, slot, None) => RuleEffect::Pin { slot: slot.unwrap_or(1) },
            (RuleKind::Boost, None, Some(factor)) => RuleEffect::Boost { factor },
            (RuleKind::Boost, None, None) => {
                return Err(Problem::invalid("factor", "is missing: a boost needs one"));
            }
            (RuleKind::Ban, None, None) => RuleEffect::Ban,
            (_, _, Some(_)) => return Err(Problem::invalid("factor", "belongs to a boost only")),
            (_, Some(_), None) => return Err(Problem::invalid("slot", "belongs to a pin only")),
        };
        Ok(Rule {
            effect,
            product_ids: self.product_ids.into_iter().map(|id| id.0).collect(),
            context: self.context.map(|context| context.0),
            category_id: self.category_id.map(|id| id.0),
            valid_from: self.valid_from.map(|at| at.0),
            valid_until: self.valid_until.map(|at| at.0),
        })
    }
}

/// A rule that was set or removed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct ChangedRule {
    id: RuleId,
    rule_id: RuleId,
    /// Whether it exists now.
    exists: bool,
    /// Log position of the change. Send it as `X-Min-Position` to read your own write.
    position: Position,
}

/// The write routes of merchandising rules.
#[derive(Clone, Debug)]
pub struct RuleCommands(pub(super) Arc<Catalogue>);

#[OpenApi(tag = "Tag::Catalogue")]
impl RuleCommands {
    /// Set a merchandising rule
    ///
    /// Creates or replaces it. Requires the role `service` or `admin`.
    #[oai(path = "/api/v1/merchandising/rules/:rule_id", method = "put", operation_id = "set_rule")]
    async fn set(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Services>,
        rule_id: Path<String>,
        body: Json<NewRule>,
    ) -> Result<Json<Api<ChangedRule>>, Problem> {
        let rule_id = web::path::rule_id(&rule_id)?;
        let route = format!("PUT /api/v1/merchandising/rules/{rule_id}");
        let cause = request.cause(&self.0.engine, &route, &body.0).await?;
        self.change(&cause, rule_id, Action::Set(body.0.rule()?), true).await
    }

    /// Remove a merchandising rule
    ///
    /// Requires the role `service` or `admin`.
    #[oai(path = "/api/v1/merchandising/rules/:rule_id", method = "delete", operation_id = "remove_rule")]
    async fn remove(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Services>,
        rule_id: Path<String>,
    ) -> Result<Json<Api<ChangedRule>>, Problem> {
        let rule_id = web::path::rule_id(&rule_id)?;
        let route = format!("DELETE /api/v1/merchandising/rules/{rule_id}");
        let cause = request.cause(&self.0.engine, &route, &Value::Null).await?;
        self.change(&cause, rule_id, Action::Remove, false).await
    }
}

impl RuleCommands {
    async fn change(
        &self,
        cause: &Cause,
        rule_id: RuleId,
        action: Action,
        exists: bool,
    ) -> Result<Json<Api<ChangedRule>>, Problem> {
        let command = Command { rule_id: rule_id.clone(), at: self.0.engine.now(), action };
        let executed = self.0.rules.execute(&StreamId::merchandising(&cause.tenant), cause, command).await;
        let position = executed.map_err(problem::from_execute_error)?.position;
        Ok(Json(Api(ChangedRule { id: rule_id.clone(), rule_id, exists, position })))
    }
}
