//! Search over products.

mod cursor;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use cursor::{read_cursor, write_cursor};
use domain::product::view::ProductView;
use domain::search::encoder::{MODEL, normalised};
use domain::search::filter::{Facets, Filter};
use domain::search::plan::Plan;
use domain::search::question::{Answer, Found, PageStart, Question, ScoreParts, Search, Unanswerable};
use domain::search::ranking::Mode;
use domain::search::words::words;
use event_schemas::ids::{
    BrandId, ListId, MerchantId, ModelId, Position, ProductCategoryId, ProductId, UserId,
};
use event_schemas::stream::StreamId;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use projections::Name;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use web::caller::Caller;
use web::json::Json;
use web::paging::LIMIT_DEFAULT;
use web::problem::Problem;
use web::request::TraceParent;
use web::schema::Api;
use web::value::LooseTextId;

use super::recommendation::computed_search;
use super::{Tag, player_roles};
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;
use crate::slow_queries::{QueryKind, SlowQuery};

/// The products among which a search looks.
#[derive(Debug, Default, Object)]
pub(crate) struct SearchFilters {
    /// Both prices are inclusive; a product without a price has none of them.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000")))]
    min_price: Option<f64>,
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000")))]
    max_price: Option<f64>,
    in_stock: Option<bool>,
    merchant_id: Option<LooseTextId<MerchantId>>,
    category_id: Option<LooseTextId<ProductCategoryId>>,
    brand_id: Option<LooseTextId<BrandId>>,
    /// The name of the brand; case and accents make no difference.
    #[oai(validator(max_length = 500))]
    brand: Option<String>,
    /// Values of the products' own attributes. Of a list, one value must be equal.
    attributes: Option<BTreeMap<String, Value>>,
}

/// A search: for a text, for a vector, or for products that are similar to one.
#[derive(Debug, Object)]
#[oai(example)]
struct SearchRequest {
    #[oai(validator(min_length = 1, max_length = 1000))]
    query: Option<String>,
    /// A vector of the model.
    #[oai(validator(min_items = 1, max_items = 4096))]
    vector: Option<Vec<f64>>,
    /// The product that the results are similar to; it is not among them.
    product_id: Option<LooseTextId<ProductId>>,
    /// How a text is compared. Default: `hybrid`.
    mode: Option<Api<Mode>>,
    /// The embedding model whose vectors are compared. Default: that of the server's encoder, if it has one and few products
    /// are yet to be encoded; otherwise the built-in one, `lexical`. With another one only products are found that have a vector of it.
    model_id: Option<LooseTextId<ModelId>>,
    filters: Option<SearchFilters>,
    /// Default: 50.
    #[oai(validator(minimum(value = "1"), maximum(value = "500")))]
    limit: Option<u32>,
    /// `next_cursor` of the previous page of the same search.
    #[oai(validator(min_length = 1, max_length = 500_000))]
    cursor: Option<String>,
    /// The number of results to skip, instead of a cursor.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000")))]
    offset: Option<u32>,
    /// The least score of a result.
    #[oai(validator(minimum(value = "-1000000"), maximum(value = "1000000")))]
    min_score: Option<f64>,
    /// Whether all results are counted by their properties.
    facets: Option<bool>,
    /// Whether the plan and the parts of the scores are answered.
    explain: Option<bool>,
    /// Whether the page is recorded as served to the user. Then give an offset instead of a cursor.
    record: Option<bool>,
    /// The user that sees a recorded page. Default: the user of the credentials, the only one that the role `user` can name.
    user_id: Option<LooseTextId<UserId>>,
}

impl Example for SearchRequest {
    fn example() -> Self {
        let filters =
            SearchFilters { max_price: Some(120.0), in_stock: Some(true), ..SearchFilters::default() };
        Self {
            query: Some("trail running shoes".to_owned()),
            vector: None,
            product_id: None,
            mode: Some(Api(Mode::Hybrid)),
            model_id: None,
            filters: Some(filters),
            limit: Some(20),
            cursor: None,
            offset: None,
            min_score: None,
            facets: Some(true),
            explain: None,
            record: None,
            user_id: None,
        }
    }
}

/// A product that was found.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SearchResult {
    #[serde(flatten)]
    product: ProductView,
    /// From a text and vectors together, the share of the best possible score; from vectors alone, the cosine similarity; from
    /// words alone, their BM25.
    #[serde(serialize_with = "event_schemas::decimal::serialize")]
    score: f32,
    /// The parts of the score; null unless they were asked for.
    explanation: Option<ScoreParts>,
}

/// The answer to a search.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SearchAnswer {
    results: Vec<SearchResult>,
    /// The number of results on all pages.
    total: usize,
    /// Send it as `cursor` for the next page; null on the last one.
    next_cursor: Option<String>,
    /// The embedding model with which vectors were compared.
    model_id: String,
    /// All results by their properties; null unless they were asked for.
    facets: Option<Facets>,
    /// How the filter was resolved; null unless it was asked for.
    plan: Option<Plan>,
    /// The id of the recorded page. Send it with the feedback on its products; null unless `record` was asked for.
    request_id: Option<ListId>,
    /// The log position that the answer reflects; that of the record, if the page was recorded.
    position: Position,
}

impl SearchFilters {
    pub(crate) fn filter(self) -> Filter {
        Filter {
            min_price: self.min_price,
            max_price: self.max_price,
            in_stock: self.in_stock,
            merchant_id: self.merchant_id.map(|id| id.0),
            category_id: self.category_id.map(|id| id.0),
            brand_id: self.brand_id.map(|id| id.0),
            brand: self.brand,
            attributes: self.attributes.unwrap_or_default(),
        }
    }
}

fn question(request: &mut SearchRequest) -> Result<Question, Problem> {
    let mode = request.mode.take().map(|mode| mode.0);
    let asked = (request.query.take(), request.vector.take(), request.product_id.take());
    if asked.0.is_none() && mode.is_some_and(|mode| mode != Mode::Semantic) {
        return Err(Problem::invalid(
            "mode",
            "must be `semantic` without a `query`: there are no words to compare",
        ));
    }
    match asked {
        (Some(text), None, None) if words(&text).is_empty() => {
            Err(Problem::unprocessable("query", "contains no letters and no digits; search for words"))
        }
        (Some(text), None, None) => Ok(Question::Text(text, mode.unwrap_or_default())),
        (None, Some(vector), None) => {
            let vector = normalised(vector.into_iter().map(|value| value as f32).collect());
            let reason = "has no direction: all of its numbers are 0, or one of them is too large";
            vector.map(Question::Vector).ok_or_else(|| Problem::unprocessable("vector", reason))
        }
        (None, None, Some(id)) => Ok(Question::SimilarTo(id.0)),
        _ => Err(Problem::invalid("query", "give exactly one of `query`, `vector` and `product_id`")),
    }
}

impl SearchRequest {
    /// The user that the page is recorded for; none if it is not.
    fn recorded_for(&self, caller: &Caller) -> Result<Option<UserId>, Problem> {
        let user = self.user_id.as_ref().map(|user| &user.0);
        if user.is_some_and(|user| !caller.can_access_others() && caller.user.as_ref() != Some(user)) {
            return Err(Problem::forbidden("these credentials can record searches of their own user only"));
        }
        if !self.record.unwrap_or_default() {
            return Ok(None);
        }
        if self.cursor.is_some() || self.vector.is_some() {
            let reason = "needs a `query` or a `product_id`, and an `offset` instead of a cursor";
            return Err(Problem::invalid("record", reason));
        }
        user.map_or_else(|| caller.user(), Ok).cloned().map(Some)
    }

    /// The search, and whether it leaves the model to the server, which may have an encoder.
    fn search(mut self, encoder: Option<ModelId>) -> Result<(Search, bool), Problem> {
        let question = question(&mut self)?;
        let needs_words_only = matches!(question, Question::Text(_, Mode::Lexical));
        let mut is_open = self.model_id.is_none() && !needs_words_only;
        let mut search = Search {
            question,
            model: self.model_id.map(|model| model.0).filter(|model| model.as_str() != MODEL),
            filter: self.filters.map(SearchFilters::filter).unwrap_or_default(),
            min_score: self.min_score.map(|min| min as f32),
            start: PageStart::Offset(self.offset.unwrap_or_default() as usize),
            limit: self.limit.map_or(LIMIT_DEFAULT, |limit| limit as usize),
            facets: self.facets.unwrap_or_default(),
            explain: self.explain.unwrap_or_default(),
        };
        if let Some(cursor) = self.cursor {
            if self.offset.is_some() {
                return Err(Problem::invalid("offset", "give either an offset or a cursor"));
            }
            let reason = "belongs to another search or is damaged; start again without a cursor";
            // The model of the first page, which may have been answered before the encoder was used.
            let mut models = vec![search.model.clone()];
            models.extend(encoder.filter(|_| is_open).map(Some));
            is_open = false;
            let continuation = models.into_iter().find_map(|model| {
                search.model = model;
                read_cursor(&search, &cursor)
            });
            let continuation = continuation.ok_or_else(|| Problem::invalid("cursor", reason))?;
            search.start = PageStart::After(continuation);
        }
        Ok((search, is_open))
    }
}

fn model_name(search: &Search) -> &str {
    search.model.as_ref().map_or(MODEL, ModelId::as_str)
}

fn from_unanswerable(search: &Search, reason: Unanswerable) -> Problem {
    let model = model_name(search);
    match (reason, &search.question) {
        (Unanswerable::Dimension { expected }, Question::Vector(vector)) => {
            let reason =
                format!("has {} numbers; a vector of the model `{model}` has {expected}", vector.len());
            Problem::unprocessable("vector", reason)
        }
        (Unanswerable::NoEncoder, _) => {
            let reason = format!(
                "cannot be compared: the server has no encoder of the model `{model}`; send a `vector`"
            );
            Problem::unprocessable("query", reason)
        }
        (reason, _) => Problem::not_found(reason.to_string()),
    }
}

impl SearchAnswer {
    fn new(search: &Search, answer: Answer, position: Position) -> Self {
        let result = |found: Found| SearchResult {
            product: ProductView::new(&found.product_id, found.details),
            score: found.score,
            explanation: found.parts,
        };
        Self {
            next_cursor: answer.next.map(|next| write_cursor(search, &next)),
            results: answer.results.into_iter().map(result).collect(),
            total: answer.total,
            model_id: model_name(search).to_owned(),
            facets: answer.facets,
            plan: search.explain.then_some(answer.plan),
            request_id: None,
            position,
        }
    }
}

/// Several searches.
#[derive(Debug, Object)]
struct SearchBatch {
    #[oai(validator(min_items = 1, max_items = 50))]
    searches: Vec<SearchRequest>,
}

/// The answers to several searches, in their order.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SearchAnswers {
    results: Vec<SearchAnswer>,
}

/// Routes for searches.
#[derive(Clone, Debug)]
pub struct SearchRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Catalogue")]
impl SearchRoutes {
    /// Search products
    ///
    /// Words are found without regard to case and accents, and with one typing error in words of five letters or more.
    /// Together with vectors, or with vectors alone, every product that passes the filter is a result, the best first: give
    /// `min_score` to end the list earlier. Pages with a cursor never repeat a product and have one total, also while products
    /// change; products that were added after the first page are not on the later ones.
    #[oai(path = "/api/v1/search", method = "post", operation_id = "search_products")]
    async fn search(
        &self,
        caller: Caller,
        trace: TraceParent,
        min: MinPosition,
        body: Json<SearchRequest>,
    ) -> Result<Json<Api<SearchAnswer>>, Problem> {
        caller.require(player_roles())?;
        let recorded_for = body.0.recorded_for(&caller)?;
        let (search, is_open) = body.0.search(self.api.models.search().encoder_model())?;
        let searches = self.settled(&caller, min, vec![(recorded_for, search, is_open)]).await?;
        let mut answers = self.answers(&caller, &trace, searches).await?;
        let answer = answers.pop().ok_or_else(|| Problem::internal(&"a search without an answer"))?;
        Ok(Json(Api(answer)))
    }

    /// Search products with several searches
    #[oai(path = "/api/v1/search/batch", method = "post", operation_id = "search_products_batch")]
    async fn search_batch(
        &self,
        caller: Caller,
        trace: TraceParent,
        min: MinPosition,
        body: Json<SearchBatch>,
    ) -> Result<Json<Api<SearchAnswers>>, Problem> {
        caller.require(player_roles())?;
        let read = |one: SearchRequest| {
            let recorded_for = one.recorded_for(&caller)?;
            let (search, is_open) = one.search(self.api.models.search().encoder_model())?;
            Ok((recorded_for, search, is_open))
        };
        let searches = body.0.searches.into_iter().map(read).collect::<Result<Vec<_>, Problem>>()?;
        let searches = self.settled(&caller, min, searches).await?;
        let results = self.answers(&caller, &trace, searches).await?;
        Ok(Json(Api(SearchAnswers { results })))
    }
}

impl SearchRoutes {
    /// Waits for the index, and for the vectors that the server's encoder makes of its texts, which searches that leave the
    /// model open then use.
    async fn settled(
        &self,
        caller: &Caller,
        min: MinPosition,
        searches: Vec<(Option<UserId>, Search, bool)>,
    ) -> Result<Vec<(Option<UserId>, Search)>, Problem> {
        self.api.wait_for_models(&[Name::Search], min).await?;
        let index = self.api.models.search();
        let encoder = index.encoder_model().filter(|_| index.uses_encoder(&caller.tenant));
        let settle = |(recorded_for, search, is_open): (Option<UserId>, Search, bool)| {
            let model = if is_open { encoder.clone() } else { search.model };
            (recorded_for, Search { model, ..search })
        };
        let searches: Vec<_> = searches.into_iter().map(settle).collect();
        let uses_encoder = |search: &Search| encoder.is_some() && search.model == encoder;
        if min.0.is_some() && searches.iter().any(|(_, search)| uses_encoder(search)) {
            self.api.wait_for_vectors(&caller.tenant).await?;
        }
        Ok(searches)
    }

    /// Answers all searches, or none; only then are the pages recorded.
    async fn answers(
        &self,
        caller: &Caller,
        trace: &TraceParent,
        searches: Vec<(Option<UserId>, Search)>,
    ) -> Result<Vec<SearchAnswer>, Problem> {
        let (mut answers, mut recorded, mut served) =
            (Vec::with_capacity(searches.len()), Vec::new(), Vec::new());
        for (index, (recorded_for, search)) in searches.into_iter().enumerate() {
            let (answer, position) = self.found(caller, &search, recorded_for.is_some()).await?;
            if let Some(user) = recorded_for {
                served.push((user, computed_search(&search, &answer, position, self.api.clock.now())));
                recorded.push(index);
            }
            answers.push(SearchAnswer::new(&search, answer, position));
        }
        if !served.is_empty() {
            let lists = self.api.record_lists(caller, trace, None, served).await?;
            for (index, id) in recorded.into_iter().zip(lists.ids) {
                (answers[index].request_id, answers[index].position) = (Some(id), lists.position);
            }
        }
        Ok(answers)
    }

    /// A recorded page is exact, so that it can be computed again.
    async fn found(
        &self,
        caller: &Caller,
        search: &Search,
        is_recorded: bool,
    ) -> Result<(Answer, Position), Problem> {
        let since = Instant::now();
        let read = || async {
            let (model, tenant) = (self.api.models.search(), &caller.tenant);
            let answered = match is_recorded {
                true => model.search_exactly(tenant, search.clone()).await,
                false => model.search(tenant, search.clone()).await,
            };
            match answered.map_err(|error| from_query_error(&error))? {
                Err(Unanswerable::UnknownProduct) => Ok(None),
                answered => Ok(Some(answered)),
            }
        };
        let answered = match &search.question {
            Question::SimilarTo(product) => {
                let origin = Origin::Stream(StreamId::product(&caller.tenant, product));
                self.api.read_by_id(Name::Search, &caller.tenant, origin, read).await?
            }
            _ => read().await?,
        };
        let answered = answered.unwrap_or(Err(Unanswerable::UnknownProduct));
        let found = answered.map_err(|reason| from_unanswerable(search, reason))?;
        self.api.slow_queries.record(&caller.tenant, since, self.api.clock.now(), || {
            let text = match &search.question {
                Question::Text(text, _) | Question::Encoded(text, ..) => Some(text.as_str()),
                Question::Vector(_) | Question::SimilarTo(_) => None,
            };
            let query = SlowQuery::new(QueryKind::Search, text, search.limit);
            SlowQuery { plan: Some(found.0.plan), ..query }
        });
        Ok(found)
    }
}
