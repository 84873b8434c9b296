//! The live stream of a user's start page: a new list whenever what the user did has changed it. Each list is recorded as
//! served before it is sent, once for all clients, unless they only watch. Each update is complete, so there is nothing to resume.

use std::sync::Arc;
use std::time::Duration;

use event_schemas::ids::{Position, ProductId};
use event_schemas::stream::StreamId;
use projections::Name;
use tokio::sync::watch;
use uuid::Uuid;
use web::caller::Caller;
use web::problem::Problem;
use web::request::TraceParent;
use web::sse::Update;

use super::super::engine::{Follower, Progress, TopicKey};
use crate::ReadApi;
use crate::min_position::MinPosition;
use crate::routes::recommendation::{CheckedRequest, RecommendationAnswer};

/// Follows the lists of one user.
#[derive(Debug)]
pub(crate) struct RecommendationFollower {
    api: Arc<ReadApi>,
    caller: Caller,
    request: CheckedRequest,
    is_recorded: bool,
    key: TopicKey,
    user_changes: watch::Receiver<u64>,
    /// The products of the list that was sent last.
    sent: Vec<ProductId>,
    latest: Option<Update>,
}

impl RecommendationFollower {
    /// # Errors
    /// If the user has no subject yet, and a first list is not to be recorded, or cannot be.
    pub(crate) async fn open(
        api: &Arc<ReadApi>,
        caller: Caller,
        request: CheckedRequest,
        is_recorded: bool,
    ) -> Result<Self, Problem> {
        let find = || api.server.subjects.subject(&caller.tenant, &request.user_id);
        let subject = match find().await? {
            Some(subject) => Some(subject),
            None if !is_recorded => None,
            None => {
                // The user's stream starts with the first list.
                let computed = api.computed_now(&caller, &request).await?;
                let list = (request.user_id.clone(), request.computed_list(&computed));
                api.record_lists(&caller, &TraceParent::default(), None, vec![list]).await?;
                find().await?
            }
        };
        let subject = subject.ok_or_else(|| Problem::not_found("no such user"))?;
        let user_changes = api.notifier.stream(StreamId::user(&caller.tenant, subject));
        // Lists of different lengths, explained and watched ones are different objects.
        let kind = format!("{} {} {is_recorded}", request.request.limit, request.explain);
        let id = Uuid::new_v5(&subject.0, kind.as_bytes());
        let key = TopicKey { kind: "recommendations", tenant: Some(caller.tenant.clone()), id };
        let (api, sent, latest) = (Arc::clone(api), Vec::new(), None);
        Ok(Self { api, caller, request, is_recorded, key, user_changes, sent, latest })
    }
}

impl Follower for RecommendationFollower {
    type Data = RecommendationAnswer;

    const INTERVAL: Duration = Duration::from_millis(100);

    fn key(&self) -> TopicKey {
        self.key.clone()
    }

    fn received(&self) -> Option<Position> {
        None
    }

    fn changed(&self) -> Option<Position> {
        None
    }

    fn connected_event(&self) -> Option<RecommendationAnswer> {
        None
    }

    async fn changes(&mut self) -> Result<Vec<Update>, Problem> {
        Ok(Vec::new())
    }

    async fn progress(&mut self) -> Result<Option<Progress>, Problem> {
        self.user_changes.mark_unchanged();
        // If the fold stays behind, its list is the best there is; the next event of the user leads to another.
        let _ = self.api.wait_for_models(&[Name::Search], MinPosition(Some(self.api.head()))).await;
        let computed = self.api.computed_now(&self.caller, &self.request).await?;
        let products: Vec<_> = computed.list.items.iter().map(|item| item.product_id.clone()).collect();
        if self.latest.is_some() && products == self.sent {
            return Ok(None);
        }
        let list = (self.request.user_id.clone(), self.request.computed_list(&computed));
        let mut position = computed.from;
        let mut answer = RecommendationAnswer::new(&self.request, computed);
        if self.is_recorded {
            let recorded =
                self.api.record_lists(&self.caller, &TraceParent::default(), None, vec![list]).await?;
            position = recorded.position;
            if let Some(id) = recorded.ids.first() {
                answer.recorded(*id, position);
            }
        }
        let update = Update::progress("recommendations", Some(position), &answer);
        (self.sent, self.latest) = (products, Some(update.clone()));
        Ok(Some(Progress { update, is_beyond_id: true }))
    }

    async fn first(&mut self) -> Result<Vec<Update>, Problem> {
        Ok(self.latest.iter().cloned().collect())
    }

    async fn wake(&mut self) {
        if self.user_changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
