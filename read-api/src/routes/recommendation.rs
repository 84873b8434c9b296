//! Recommendations: lists of products for users, and what was served to whom and why.

mod answer;
mod request;

use std::sync::Arc;
use std::time::Instant;

use domain::recommend::{self, Blend, NoList, Recommendation};
use domain::user::ComputedList;
use event_log::{EventLog, Filter as LogFilter};
use event_schemas::envelope::{Envelope, Event, Idempotency};
use event_schemas::ids::{ListId, Position, UserId};
use event_schemas::sealed::SealedField;
use event_schemas::time::Timestamp;
use event_schemas::user::{ListExperiment, ListServed, UserEvent};
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::matching_summary::UpTo;
use web::caller::{Caller, CostlyReads};
use web::idempotency::{IdempotencyKey, idempotency};
use web::json::Json;
use web::path;
use web::problem::Problem;
use web::request::TraceParent;
use web::schema::Api;
use web::sse::StreamResponse;

use super::{Tag, player_roles};
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::{RETRY_AFTER, from_query_error, from_read_error, from_replay_error};
use crate::min_position::MinPosition;
use crate::server::RecordedLists;
use crate::slow_queries::{QueryKind, SlowQuery};
use crate::stream::RecommendationFollower;
use request::{RecommendationBatch, RecommendationRequest};

pub use answer::{
    ListDifference, RecommendationAnswer, RecommendationAnswers, RecommendedProduct, ServedList,
    ServedProduct,
};
pub(crate) use request::{CheckedRequest, computed_search};

/// The most products of a streamed list, unless the client says otherwise.
const STREAM_LIMIT: u32 = 20;

/// Routes for recommendations.
#[derive(Clone, Debug)]
pub struct RecommendationRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Catalogue")]
impl RecommendationRoutes {
    /// Recommend products to a user
    ///
    /// The list is recorded as served before it is answered: send its `request_id` with the feedback on its products. With
    /// `as_of`, the list is the one of then, and is not recorded. Callers with the role `user` can name only themselves. With
    /// an `Idempotency-Key`, a repetition gets the same list, and is not recorded again.
    #[oai(path = "/api/v1/recommend", method = "post", operation_id = "recommend")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn recommend(
        &self,
        caller: Caller,
        trace: TraceParent,
        min: MinPosition,
        budget: CostlyReads,
        /// The same as `blend` in the body, which takes precedence.
        blend: Query<Option<Api<Blend>>>,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        body: Json<RecommendationRequest>,
    ) -> Result<Json<Api<RecommendationAnswer>>, Problem> {
        caller.require(player_roles())?;
        let request = body.0.or_blend(blend.0);
        let key = key.0.map(|key| idempotency(&caller, "POST /api/v1/recommend", &key, &request));
        let request = request.check(&caller)?;
        self.api.wait_for_models(&[Name::Search], min).await?;
        let mut answers = self.api.recommend(&caller, &trace, &budget, key, vec![request]).await?;
        let answer = answers.pop().ok_or_else(|| Problem::internal(&"a request without an answer"))?;
        Ok(Json(Api(answer)))
    }

    /// Recommend products with several requests
    ///
    /// As with one request; if one of them is wrong, none is served.
    #[oai(path = "/api/v1/recommend/batch", method = "post", operation_id = "recommend_batch")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn recommend_batch(
        &self,
        caller: Caller,
        trace: TraceParent,
        min: MinPosition,
        budget: CostlyReads,
        /// The same as `blend` in each request, which takes precedence.
        blend: Query<Option<Api<Blend>>>,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        body: Json<RecommendationBatch>,
    ) -> Result<Json<Api<RecommendationAnswers>>, Problem> {
        caller.require(player_roles())?;
        let batch = body.0.or_blend(blend.0);
        let key = key.0.map(|key| idempotency(&caller, "POST /api/v1/recommend/batch", &key, &batch));
        let requests = batch.check(&caller)?;
        self.api.wait_for_models(&[Name::Search], min).await?;
        let results = self.api.recommend(&caller, &trace, &budget, key, requests).await?;
        Ok(Json(Api(RecommendationAnswers { results })))
    }

    /// Get a served list
    ///
    /// What was served, and the same list computed again from the events up to then: `equal` says that both are the same,
    /// product by product. The user may read it, and the roles `service` and `admin` of the tenant. This is a costly read.
    #[oai(path = "/api/v1/recommendations/:request_id", method = "get", operation_id = "read_served_list")]
    async fn served(
        &self,
        caller: Caller,
        request_id: Path<String>,
        min: MinPosition,
        budget: CostlyReads,
    ) -> Result<Json<Api<ServedList>>, Problem> {
        caller.require(player_roles())?;
        let id: ListId = path::uuid("list", &request_id)?;
        self.api.wait_for_models(&[Name::ServedLists], min).await?;
        let no_such_list = || Problem::not_found("no such list");
        let (envelope, list) = self.api.served_list(&caller, id).await?.ok_or_else(no_such_list)?;
        if !self.api.may_see(&caller, |subject| subject == list.subject_id).await? {
            return Err(no_such_list());
        }
        let _turn = budget.turn().await?;
        Ok(Json(Api(self.api.explain(&caller, &envelope, &list).await?)))
    }

    /// Stream the list of a user's start page as server-sent events
    ///
    /// `connected` comes first, then `recommendations` with the present list, and another one whenever what the user did has
    /// changed it. Each list is recorded as served, and has its `request_id`. A client that reconnects receives the latest.
    /// The roles `service` and `admin` can also watch the lists without serving them: `record=false`.
    #[oai(
        path = "/api/v1/users/:user_id/recommendations/stream",
        method = "get",
        operation_id = "stream_recommendations"
    )]
    async fn stream(
        &self,
        caller: Caller,
        user_id: Path<String>,
        /// The most products of a list. Default: 20
        #[oai(validator(minimum(value = "1"), maximum(value = "500")))]
        limit: Query<Option<u32>>,
        /// Whether the parts of the scores and the numbers of products that were left out are sent. Default: false
        explain: Query<Option<bool>>,
        /// Whether the lists are recorded as served. Default: true
        record: Query<Option<bool>>,
        /// From `POST /v1/stream-tickets`, for a browser's EventSource, which sends no headers
        #[oai(name = "ticket", validator(max_length = 128))]
        _ticket: Query<Option<String>>,
    ) -> Result<StreamResponse<RecommendationAnswer>, Problem> {
        caller.require(player_roles())?;
        let user_id: UserId = path::user_id(&user_id)?;
        if !caller.can_access_others() && caller.user()? != &user_id {
            return Err(Problem::not_found("no such user"));
        }
        let is_recorded = record.0.unwrap_or(true);
        if !is_recorded && !caller.can_access_others() {
            return Err(Problem::forbidden(
                "only the roles `service` and `admin` can watch lists that are not served",
            ));
        }
        let mut request = CheckedRequest::feed(user_id, limit.0.unwrap_or(STREAM_LIMIT) as usize);
        request.explain = explain.0.unwrap_or_default();
        let follower = RecommendationFollower::open(&self.api, caller, request, is_recorded).await?;
        Ok(self.api.stream(Some(follower)))
    }
}

/// A list, and what it was computed from.
#[derive(Debug)]
pub(crate) struct Computed {
    pub(crate) list: Recommendation,
    pub(crate) from: Position,
    pub(crate) at: Timestamp,
    pub(crate) experiment: Option<Box<ListExperiment>>,
}

/// The response to a list that cannot be made.
fn from_no_list(no_list: NoList) -> Problem {
    let field = match no_list {
        NoList::UnknownProduct => return Problem::not_found("no such product"),
        NoList::QueryMissing => "query",
        NoList::ProductMissing => "product_id",
        NoList::CategoryMissing => "category_id",
        NoList::Weights => "weights",
        NoList::Diversity => "diversity",
    };
    Problem::invalid(field, no_list.to_string())
}

impl ReadApi {
    /// Computes the lists, records those of now as served, and answers them.
    async fn recommend(
        &self,
        caller: &Caller,
        trace: &TraceParent,
        budget: &CostlyReads,
        key: Option<Idempotency>,
        requests: Vec<CheckedRequest>,
    ) -> Result<Vec<RecommendationAnswer>, Problem> {
        let (mut answers, mut served) = (Vec::with_capacity(requests.len()), Vec::new());
        for request in &requests {
            let since = Instant::now();
            let computed = match request.as_of {
                Some(as_of) => {
                    as_of.check_not_future(self.head(), self.clock.now())?;
                    let _turn = budget.turn().await?;
                    self.computed_as_of(caller, request, as_of.up_to()).await?
                }
                None => {
                    let computed = self.computed_now(caller, request).await?;
                    let settings = self.models.search().settings().recorded();
                    let list = ComputedList { settings, ..request.computed_list(&computed) };
                    served.push((request.user_id.clone(), list));
                    computed
                }
            };
            self.slow_queries.record(&caller.tenant, since, self.clock.now(), || {
                let kind = request.as_of.map_or(QueryKind::Recommend, |_| QueryKind::RecommendAsOf);
                let asked = &request.request;
                let query = SlowQuery::new(kind, asked.query.as_deref(), asked.limit);
                SlowQuery { context: Some(asked.context), strategy: Some(computed.list.strategy), ..query }
            });
            answers.push(RecommendationAnswer::new(request, computed));
        }
        if served.is_empty() {
            return Ok(answers);
        }
        let lists = self.record_lists(caller, trace, key, served).await?;
        let recorded = answers.iter_mut().zip(&requests).filter(|(_, request)| request.as_of.is_none());
        for ((answer, request), id) in recorded.zip(lists.ids) {
            if lists.is_repeated {
                let _turn = budget.turn().await?;
                *answer = self.served_before(caller, request, id).await?;
            }
            answer.recorded(id, lists.position);
        }
        Ok(answers)
    }

    /// Records lists as served.
    pub(crate) async fn record_lists(
        &self,
        caller: &Caller,
        trace: &TraceParent,
        key: Option<Idempotency>,
        lists: Vec<(UserId, ComputedList)>,
    ) -> Result<RecordedLists, Problem> {
        let read_only = "this server only reads, and cannot record that a list is served; send the request to the one \
                         that accepts commands, or give `as_of`";
        let recorder = self.server.lists.as_ref();
        let recorder = recorder.ok_or_else(|| Problem::unavailable(read_only, RETRY_AFTER))?;
        recorder.record(caller, trace, key, lists).await
    }

    /// The list of this moment.
    pub(crate) async fn computed_now(
        &self,
        caller: &Caller,
        request: &CheckedRequest,
    ) -> Result<Computed, Problem> {
        let at = self.clock.now();
        let of_user = self.of_user(caller, request, at).await?;
        let experiment = of_user.experiment.clone();
        let computed = self.models.search().recommend(&caller.tenant, of_user, at).await;
        let computed = computed.map_err(|error| from_query_error(&error))?;
        let (list, from, at) = computed.map_err(from_no_list)?;
        Ok(Computed { list, from, at, experiment })
    }

    async fn computed_as_of(
        &self,
        caller: &Caller,
        request: &CheckedRequest,
        upto: UpTo,
    ) -> Result<Computed, Problem> {
        // Always the same draws, so that the same request has the same answer.
        let of_user = self.of_user(caller, request, Timestamp::EPOCH).await?;
        let experiment = of_user.experiment.clone();
        let computed = self.models.search().recommend_as_of(&caller.tenant, of_user, upto, None).await;
        let computed = computed.map_err(|error| from_replay_error(&error))?;
        let (list, from, at) = computed.map_err(from_no_list)?;
        Ok(Computed { list, from, at, experiment })
    }

    async fn of_user(
        &self,
        caller: &Caller,
        request: &CheckedRequest,
        at: Timestamp,
    ) -> Result<recommend::Request, Problem> {
        let (tenant, user) = (&caller.tenant, &request.user_id);
        let subject = self.server.subjects.subject(tenant, user).await?;
        let assign = || self.server.experiments.assign(request.request.context, tenant, user, at);
        let experiment = if request.in_experiments { assign() } else { None };
        Ok(recommend::Request { subject, experiment, ..request.request.clone() })
    }

    /// The event of a served list of the tenant.
    async fn served_list(
        &self,
        caller: &Caller,
        id: ListId,
    ) -> Result<Option<(Envelope, ListServed)>, Problem> {
        let read = || async {
            let found = self.models.served_lists().position(&caller.tenant, id).await;
            found.map_err(|error| from_query_error(&error))
        };
        let found = self.read_by_id(Name::ServedLists, &caller.tenant, Origin::Other, read).await?;
        let Some(position) = found else { return Ok(None) };
        let before = Position(position.0.saturating_sub(1));
        let page = self.log.read_all(before, &LogFilter::All, 1).await;
        let page = page.map_err(|error| from_read_error(&error))?;
        let Some(event) = page.events.first() else { return Ok(None) };
        let envelope = event.decode().map_err(|error| Problem::internal(&error))?;
        match &envelope.event {
            Event::User(UserEvent::ListServed(list)) if list.list_id == id => {
                let list = list.clone();
                Ok(Some((envelope, list)))
            }
            _ => Ok(None),
        }
    }

    /// The list that an earlier request with the same key was answered with.
    async fn served_before(
        &self,
        caller: &Caller,
        request: &CheckedRequest,
        id: ListId,
    ) -> Result<RecommendationAnswer, Problem> {
        let served = self.served_list(caller, id).await?;
        let (envelope, list) = served.ok_or_else(|| Problem::not_found("no such list"))?;
        let (from, at) = (list.computed_from, envelope.metadata.occurred_at);
        let of_served = recommend::Request::of_served(&list, request.request.query.clone());
        let models = self.models.search();
        let again = models.recommend_as_of(&caller.tenant, of_served, UpTo::Position(from), Some(at)).await;
        let (again, ..) = again.map_err(|error| from_replay_error(&error))?.map_err(from_no_list)?;
        let computed = Computed { list: again, from, at, experiment: list.experiment };
        Ok(RecommendationAnswer::new(request, computed))
    }

    /// Computes a served list again, and compares both.
    async fn explain(
        &self,
        caller: &Caller,
        envelope: &Envelope,
        list: &ListServed,
    ) -> Result<ServedList, Problem> {
        let (tenant, directory) = (&caller.tenant, &self.server.subjects);
        let user_id = directory.user_ids(tenant, [list.subject_id]).await?.user_id(list.subject_id);
        let query = match &list.query {
            Some(sealed) => {
                let field = SealedField::ListQuery(list.list_id);
                directory.unseal(tenant, list.subject_id, field, sealed).await?
            }
            None => None,
        };
        let recomputed = if list.query.is_some() && query.is_none() {
            None
        } else {
            let request = recommend::Request::of_served(list, query.clone());
            if let Some(search) = request::search_of_served(list, query.clone()) {
                let again = self.models.search().search_as_of(tenant, search, list.computed_from).await;
                let again = again.map_err(|error| from_replay_error(&error))?;
                let again = again.ok().map(Into::into);
                return Ok(ServedList::new(envelope, list, user_id.as_ref(), query, again));
            }
            let at = envelope.metadata.occurred_at;
            let again = self.models.search().recommend_again(tenant, request, list, at).await;
            let again = again.map_err(|error| from_replay_error(&error))?.map_err(from_no_list)?;
            Some(again.into())
        };
        Ok(ServedList::new(envelope, list, user_id.as_ref(), query, recomputed))
    }
}
