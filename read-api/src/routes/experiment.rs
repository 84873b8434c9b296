//! The results of experiments.

use std::sync::Arc;

use domain::what_if::interval::{Estimate, of_mean, wilson};
use event_schemas::ids::{ExperimentName, VariantName};
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::experiment::{Outcomes, VariantOutcomes};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use web::caller::{Caller, Role};
use web::etag::Cached;
use web::json::Json;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::schema::Api;

use super::Tag;
use crate::ReadApi;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;

/// What users did with the products that were shown to them. Each rate has the interval that contains the true one with a
/// probability of 95 %; each impression counts as independent of the others.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SlotResults {
    /// The number of products that were shown.
    pub impressions: u64,
    /// The number of them that were clicked.
    pub clicks: u64,
    /// The number of them that were bought.
    pub purchases: u64,
    /// The share of products that were clicked (Wilson's interval); null without impressions.
    pub click_rate: Option<Estimate>,
    /// The share of products that were bought (Wilson's interval).
    pub purchase_rate: Option<Estimate>,
    /// The mean weight of the interactions with a product, in purchases (Student's interval); null unless it varies.
    pub reward: Option<Estimate>,
}

impl SlotResults {
    fn new(outcomes: &Outcomes) -> Self {
        let Outcomes { impressions, clicked, purchased, reward, reward_squares, .. } = *outcomes;
        Self {
            impressions,
            clicks: clicked,
            purchases: purchased,
            click_rate: wilson(clicked, impressions),
            purchase_rate: wilson(purchased, impressions),
            reward: of_mean(impressions, reward as f64 / 1e9, reward_squares),
        }
    }
}

/// The results of one slot.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResultsOfSlot {
    /// The place in the list, from 0.
    pub slot: u64,
    #[serde(flatten)]
    pub results: SlotResults,
}

/// The results of a ranking variant.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VariantResults {
    /// Null for the products of interleaved lists on which both variants agreed: they are credited to neither.
    pub variant: Option<VariantName>,
    /// The number of lists with products of the variant.
    pub lists: u64,
    /// The number of lists in which more of its products were clicked than of the other variant; null unless the variants are
    /// interleaved.
    pub wins: Option<u64>,
    /// The share of its wins in all wins (Wilson's interval): if the interval is above a half, the variant is better.
    pub win_rate: Option<Estimate>,
    /// Over all slots.
    #[serde(flatten)]
    pub results: SlotResults,
    pub slots: Vec<ResultsOfSlot>,
}

/// The results of an experiment, by variant.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ExperimentResults {
    pub name: ExperimentName,
    /// Whether the settings contain it: otherwise no list is made for it any more.
    pub is_running: bool,
    pub variants: Vec<VariantResults>,
}

/// An experiment. Its results have their own route.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ExperimentView {
    pub name: ExperimentName,
    /// Whether the settings contain it: otherwise no list is made for it any more.
    pub is_running: bool,
}

impl VariantResults {
    fn new(outcomes: VariantOutcomes, all_wins: u64) -> Self {
        let VariantOutcomes { variant, lists, slots } = outcomes;
        let all = slots.values().fold(Outcomes::default(), |sum, slot| Outcomes {
            impressions: sum.impressions + slot.impressions,
            clicked: sum.clicked + slot.clicked,
            purchased: sum.purchased + slot.purchased,
            reward: sum.reward + slot.reward,
            reward_squares: sum.reward_squares + slot.reward_squares,
            ..sum
        });
        let wins = Some(lists.wins).filter(|_| variant.is_some() && lists.interleaved > 0);
        Self {
            variant,
            lists: lists.impressions,
            wins,
            win_rate: wins.and_then(|wins| wilson(wins, all_wins)),
            results: SlotResults::new(&all),
            slots: slots
                .iter()
                .map(|(slot, outcomes)| ResultsOfSlot { slot: *slot, results: SlotResults::new(outcomes) })
                .collect(),
        }
    }
}

/// Routes for experiments.
#[derive(Clone, Debug)]
pub struct ExperimentRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Catalogue")]
impl ExperimentRoutes {
    /// List experiments by name
    ///
    /// Those of the settings, and earlier ones for which lists were served. For the roles `service` and `admin`.
    #[oai(path = "/api/v1/experiments", method = "get", operation_id = "list_experiments")]
    async fn list(
        &self,
        caller: Caller,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<ExperimentView>>, Problem> {
        caller.require(Role::Service | Role::Admin)?;
        self.api.wait_for_models(&[Name::Experiments], min).await?;
        let list = "experiments";
        let after: Option<ExperimentName> = cursor.0.map(|cursor| cursor.key(list)).transpose()?;
        let names = self.api.models.experiments().names(&caller.tenant).await;
        let mut names = names.map_err(|error| from_query_error(&error))?;
        let running = &self.api.server.experiments;
        names.extend(running.names().cloned());
        // There are few: each was in the settings once.
        let mut rest = names.into_iter().filter(|name| after.as_ref().is_none_or(|after| name > after));
        let view = |name| ExperimentView { is_running: running.has(&name), name };
        let items: Vec<_> = rest.by_ref().take(limit.0.get()).map(view).collect();
        let next = items.last().filter(|_| rest.next().is_some());
        let next_cursor = next.map(|last| Cursor::new(list, &last.name).to_string());
        Ok(Cached::new(&Page { items, next_cursor }, if_none_match.as_deref()))
    }

    /// Get the results of an experiment
    ///
    /// What users did with the products of each ranking variant, over all lists that were served for the experiment; feedback counts
    /// that names the list by its `request_id`. For the roles `service` and `admin`.
    #[oai(path = "/api/v1/experiments/:name", method = "get", operation_id = "read_experiment")]
    async fn results(
        &self,
        caller: Caller,
        name: Path<String>,
        min: MinPosition,
    ) -> Result<Json<Api<ExperimentResults>>, Problem> {
        caller.require(Role::Service | Role::Admin)?;
        let name: ExperimentName = path::text("experiment", &name)?;
        self.api.wait_for_models(&[Name::Experiments], min).await?;
        let outcomes = self.api.models.experiments().outcomes(&caller.tenant, &name).await;
        let outcomes = outcomes.map_err(|error| from_query_error(&error))?;
        let is_running = self.api.server.experiments.has(&name);
        if outcomes.is_empty() && !is_running {
            return Err(Problem::not_found("no such experiment"));
        }
        let wins = outcomes.iter().map(|of| of.lists.wins).sum();
        let variants = outcomes.into_iter().map(|outcomes| VariantResults::new(outcomes, wins)).collect();
        Ok(Json(Api(ExperimentResults { name, is_running, variants })))
    }
}
