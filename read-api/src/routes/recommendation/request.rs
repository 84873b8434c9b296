//! What is asked for: as a caller sends it, as it is computed, and as it is recorded.

use domain::recommend::{Blend, Request, Weights, served};
use domain::search::filter::Filter;
use domain::search::question::{Answer, PageStart, Question, Search};
use domain::search::ranking::Mode;
use domain::search::words::words;
use domain::user::ComputedList;
use event_schemas::ids::{Position, ProductCategoryId, ProductId, UserId};
use event_schemas::json_text::JsonText;
use event_schemas::time::Timestamp;
use event_schemas::user::{
    ListContext, ListFilter, ListParameters, ListSearch, ListSearchMode, ListServed, ServedItem,
};
use poem_openapi::Object;
use poem_openapi::types::Example;
use web::caller::Caller;
use web::paging::LIMIT_DEFAULT;
use web::problem::Problem;
use web::schema::Api;
use web::value::LooseTextId;

use super::Computed;
use crate::as_of::AsOf;
use crate::routes::search::SearchFilters;

/// A request for a list of products for a user.
#[derive(Debug, Object)]
#[oai(example)]
pub(super) struct RecommendationRequest {
    /// The user. Callers with the role `user` can name only themselves.
    user_id: LooseTextId<UserId>,
    /// The kind of list.
    context: Api<ListContext>,
    /// What the user searched for: with the context `search`.
    #[oai(validator(min_length = 1, max_length = 1000))]
    query: Option<String>,
    /// The product that the list is about: with the context `similar`.
    product_id: Option<LooseTextId<ProductId>>,
    /// The category of the products. Needed with the context `category`.
    category_id: Option<LooseTextId<ProductCategoryId>>,
    /// Default: 50.
    #[oai(validator(minimum(value = "1"), maximum(value = "500")))]
    limit: Option<u32>,
    /// Products that are left out.
    #[oai(validator(max_items = 1000))]
    exclude: Option<Vec<LooseTextId<ProductId>>>,
    /// What the products are like.
    filters: Option<SearchFilters>,
    /// How much the products differ from each other, from 0 (only their scores count) to 1. Default: 0.
    #[oai(validator(minimum(value = "0"), maximum(value = "1")))]
    diversity: Option<f64>,
    /// Whether products that the user bought are in the list. Default: false.
    include_bought: Option<bool>,
    /// Whether co-visits are joined with the vectors. Default: `joined`.
    blend: Option<Api<Blend>>,
    /// How much each signal counts. Default: the weights of the context.
    weights: Option<Api<Weights>>,
    /// Whether the parts of the scores and the numbers of products that were left out are answered.
    explain: Option<bool>,
    /// The point in time of the list: a log position or an RFC 3339 instant, not in the future.
    as_of: Option<AsOf>,
}

impl Example for RecommendationRequest {
    fn example() -> Self {
        let text = "an example's ids are short texts";
        Self {
            user_id: LooseTextId("123".parse().expect(text)),
            context: Api(ListContext::Feed),
            query: None,
            product_id: None,
            category_id: None,
            limit: Some(20),
            exclude: None,
            filters: None,
            diversity: None,
            include_bought: None,
            blend: None,
            weights: None,
            explain: Some(true),
            as_of: None,
        }
    }
}

/// Several requests for lists.
#[derive(Debug, Object)]
pub(super) struct RecommendationBatch {
    #[oai(validator(min_items = 1, max_items = 50))]
    requests: Vec<RecommendationRequest>,
}

impl RecommendationBatch {
    /// The batch with this blend in the requests that name none.
    pub(super) fn or_blend(self, blend: Option<Api<Blend>>) -> Self {
        Self { requests: self.requests.into_iter().map(|request| request.or_blend(blend)).collect() }
    }

    pub(super) fn check(self, caller: &Caller) -> Result<Vec<CheckedRequest>, Problem> {
        self.requests.into_iter().map(|request| request.check(caller)).collect()
    }
}

/// A request that the caller may send.
#[derive(Clone, Debug)]
pub(crate) struct CheckedRequest {
    pub(crate) user_id: UserId,
    /// Without its subject.
    pub(crate) request: Request,
    pub(crate) explain: bool,
    pub(crate) as_of: Option<AsOf>,
    /// Whether an experiment may choose the weights: not if the caller did.
    pub(crate) in_experiments: bool,
}

/// Checks that a parameter is given exactly with its context.
fn check_belongs(is_given: bool, field: &str, context: ListContext, of: ListContext) -> Result<(), Problem> {
    let name = |context: ListContext| serde_json::to_value(context).unwrap_or_default();
    match (is_given, context == of) {
        (true, false) => Err(Problem::invalid(
            field,
            format!("belongs to lists of the context {}; leave it out", name(of)),
        )),
        (false, true) => {
            Err(Problem::invalid(field, format!("is missing: lists of the context {} need it", name(of))))
        }
        _ => Ok(()),
    }
}

impl RecommendationRequest {
    /// The request with this blend, if it names none.
    pub(super) fn or_blend(self, blend: Option<Api<Blend>>) -> Self {
        Self { blend: self.blend.or(blend), ..self }
    }

    pub(super) fn check(self, caller: &Caller) -> Result<CheckedRequest, Problem> {
        let user_id = self.user_id.0;
        if !caller.can_access_others() && caller.user()? != &user_id {
            return Err(Problem::forbidden("these credentials can ask for the lists of their own user only"));
        }
        let context = self.context.0;
        check_belongs(self.query.is_some(), "query", context, ListContext::Search)?;
        check_belongs(self.product_id.is_some(), "product_id", context, ListContext::Similar)?;
        if self.query.as_ref().is_some_and(|query| words(query).is_empty()) {
            let reason = "contains no letters and no digits; search for words";
            return Err(Problem::unprocessable("query", reason));
        }
        let exclude = self.exclude.unwrap_or_default();
        let mut filter = self.filters.map(SearchFilters::filter).unwrap_or_default();
        if let Some(LooseTextId(category)) = self.category_id {
            if filter.category_id.as_ref().is_some_and(|other| *other != category) {
                return Err(Problem::invalid(
                    "category_id",
                    "differs from that of `filters`; give one of them",
                ));
            }
            filter.category_id = Some(category);
        }
        if context == ListContext::Category && filter.category_id.is_none() {
            let reason = "is missing: lists of the context \"category\" need it";
            return Err(Problem::invalid("category_id", reason));
        }
        let in_experiments = self.weights.is_none() && self.blend.is_none();
        let request = Request {
            query: self.query,
            product_id: self.product_id.map(|id| id.0),
            filter,
            exclude: exclude.into_iter().map(|id| id.0).collect(),
            diversity: self.diversity.unwrap_or_default() as f32,
            include_bought: self.include_bought.unwrap_or_default(),
            blend: self.blend.map(|blend| blend.0).unwrap_or_default(),
            // Resolved here, so that the recorded list does not depend on later defaults.
            weights: Some(self.weights.map_or_else(|| Weights::of(context), |weights| weights.0)),
            ..Request::new(context, self.limit.map_or(LIMIT_DEFAULT, |limit| limit as usize))
        };
        let (explain, as_of) = (self.explain.unwrap_or_default(), self.as_of);
        Ok(CheckedRequest { user_id, request, explain, as_of, in_experiments })
    }
}

impl CheckedRequest {
    /// A request for the list of a user's start page.
    pub(crate) fn feed(user_id: UserId, limit: usize) -> Self {
        let request = Request::new(ListContext::Feed, limit);
        Self { user_id, request, explain: false, as_of: None, in_experiments: true }
    }

    /// The list as it is recorded.
    pub(crate) fn computed_list(&self, computed: &Computed) -> ComputedList {
        let request = &self.request;
        let item = |item: &domain::recommend::Item| ServedItem {
            product_id: item.product_id.clone(),
            probability: item.probability,
            variant: item.variant.clone(),
        };
        let weights = request.weights.unwrap_or_else(|| Weights::of(request.context));
        let filter = (request.filter != Filter::default()).then(|| recorded_filter(&request.filter));
        ComputedList {
            context: request.context,
            items: computed.list.items.iter().map(item).collect(),
            computed_from: computed.from,
            at: computed.at,
            query: request.query.clone(),
            parameters: ListParameters {
                product_id: request.product_id.clone(),
                filter,
                limit: request.limit as u32,
                exclude: request.exclude.clone(),
                diversity: request.diversity,
                include_bought: request.include_bought,
                embedding_only: request.blend == Blend::Embedding,
                weights: weights.into(),
                search: None,
            },
            experiment: computed.experiment.clone(),
            settings: None,
        }
    }
}

/// The results of a search as they are recorded.
pub(crate) fn computed_search(
    search: &Search,
    answer: &Answer,
    from: Position,
    at: Timestamp,
) -> ComputedList {
    let (context, query, product_id, mode) = match &search.question {
        Question::Text(text, mode) | Question::Encoded(text, mode, _) => {
            (ListContext::Search, Some(text.clone()), None, Some(*mode))
        }
        Question::SimilarTo(product) => (ListContext::Similar, None, Some(product.clone()), None),
        Question::Vector(_) => (ListContext::Similar, None, None, None),
    };
    let offset = match &search.start {
        PageStart::Offset(offset) => *offset as u32,
        PageStart::After(_) => 0,
    };
    let mode = mode.map(|mode| match mode {
        Mode::Hybrid => ListSearchMode::Hybrid,
        Mode::Semantic => ListSearchMode::Semantic,
        Mode::Lexical => ListSearchMode::Lexical,
    });
    let results = answer.results.iter();
    ComputedList {
        context,
        items: results.map(|found| ServedItem::certain(found.product_id.clone())).collect(),
        computed_from: from,
        at,
        query,
        parameters: ListParameters {
            product_id,
            filter: (search.filter != Filter::default()).then(|| recorded_filter(&search.filter)),
            limit: search.limit as u32,
            search: Some(ListSearch {
                mode,
                model_id: search.model.clone(),
                offset,
                min_score: search.min_score,
            }),
            ..ListParameters::default()
        },
        experiment: None,
        settings: None,
    }
}

/// The search of a served list; none if it is a recommendation.
pub(super) fn search_of_served(list: &ListServed, query: Option<String>) -> Option<Search> {
    let found = list.parameters.search.as_ref()?;
    let mode = found.mode.map_or_else(Mode::default, |mode| match mode {
        ListSearchMode::Hybrid => Mode::Hybrid,
        ListSearchMode::Semantic => Mode::Semantic,
        ListSearchMode::Lexical => Mode::Lexical,
    });
    let question = match (query, list.parameters.product_id.clone()) {
        (Some(text), _) => Question::Text(text, mode),
        (None, product) => Question::SimilarTo(product?),
    };
    Some(Search {
        question,
        model: found.model_id.clone(),
        filter: served::filter(list),
        min_score: found.min_score,
        start: PageStart::Offset(found.offset as usize),
        limit: list.parameters.limit as usize,
        facets: false,
        explain: false,
    })
}

fn recorded_filter(filter: &Filter) -> ListFilter {
    ListFilter {
        min_price: filter.min_price,
        max_price: filter.max_price,
        in_stock: filter.in_stock,
        merchant_id: filter.merchant_id.clone(),
        category_id: filter.category_id.clone(),
        brand_id: filter.brand_id.clone(),
        brand: filter.brand.clone(),
        attributes: JsonText::new(&filter.attributes).unwrap_or_default(),
    }
}
