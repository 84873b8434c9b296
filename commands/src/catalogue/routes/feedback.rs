//! Records the interactions of users with products.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::user::Command;
use event_schemas::envelope::Cause;
use event_schemas::ids::{ListId, Position, ProductId, SessionId, SubjectId, UserId};
use event_schemas::loose_id::LooseId;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use event_schemas::user::{InteractionRecorded, InteractionType, ListContext};
use futures_util::{FutureExt, StreamExt, stream};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::Caller;
use web::json::{Json, LenientBatch, Recorded};
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;
use web::value::{ApiTimestamp, LooseTextId, UuidParam};

use crate::catalogue::Catalogue;
use crate::catalogue::batches::{BatchOutcome, BatchPart, CheckedItems, hashed};
use crate::engine::command_context::occurred_at;
use crate::engine::problem::{self, Step, after_step};
use crate::engine::write_request::{Users, WriteRequest};

/// The most users that are looked up at a time.
const USERS_AT_ONCE: usize = 256;

/// What a user did with a product, which need not be in the catalogue yet.
#[derive(Debug, Object)]
#[oai(example)]
struct NewInteraction {
    /// The user. Callers with the role `user` can name only themselves.
    user_id: LooseTextId<UserId>,
    product_id: LooseTextId<ProductId>,
    interaction_type: Api<InteractionType>,
    /// The kind of list in which the user found the product.
    context: Option<Api<ListContext>>,
    /// The place of the product in that list.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000")))]
    position: Option<u32>,
    /// The stars of a rating, from 1 to 5. Of another interaction: a number of the caller, such as an amount.
    #[oai(validator(minimum(value = "-1000000000"), maximum(value = "1000000000")))]
    value: Option<f64>,
    session_id: Option<LooseTextId<SessionId>>,
    /// The list in which the user found the product.
    request_id: Option<UuidParam<ListId>>,
    /// The time at which it happened. Default: now.
    occurred_at: Option<ApiTimestamp>,
}

impl Example for NewInteraction {
    fn example() -> Self {
        let text = "an example's ids are short texts";
        Self {
            user_id: LooseTextId("123".parse().expect(text)),
            product_id: LooseTextId("456".parse().expect(text)),
            interaction_type: Api(InteractionType::Click),
            context: Some(Api(ListContext::Search)),
            position: Some(2),
            value: None,
            session_id: None,
            request_id: None,
            occurred_at: None,
        }
    }
}

/// An interaction that can be recorded once its user's subject is known.
#[derive(Debug)]
struct Interaction {
    new: NewInteraction,
    at: Timestamp,
}

impl NewInteraction {
    /// The time at which it happened.
    fn check(&self, now: Timestamp) -> Result<Timestamp, Problem> {
        match (self.interaction_type.0, self.value) {
            (InteractionType::Rating, None) => {
                return Err(Problem::invalid("value", "is missing: a rating has 1 to 5 stars"));
            }
            (InteractionType::Rating, Some(stars)) if !(1.0..=5.0).contains(&stars) => {
                return Err(Problem::invalid("value", "must be from 1 to 5 for a rating"));
            }
            _ => {}
        }
        occurred_at(self.occurred_at, now, || "occurred_at".to_owned())
    }

    fn checked(self, now: Timestamp) -> Result<Interaction, Problem> {
        let at = self.check(now)?;
        Ok(Interaction { new: self, at })
    }
}

impl Interaction {
    fn of_subject(self, subject_id: SubjectId) -> (InteractionRecorded, Timestamp) {
        let Self { new, at } = self;
        let recorded = InteractionRecorded {
            subject_id,
            product_id: new.product_id.0,
            interaction_type: new.interaction_type.0,
            value: new.value,
            context: new.context.map(|context| context.0),
            list_id: new.request_id.map(|id| id.0),
            slot: new.position,
            session_id: new.session_id.map(|id| id.0),
        };
        (recorded, at)
    }
}

/// A recorded interaction.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct FeedbackRecorded {
    user_id: LooseId,
    product_id: LooseId,
    interaction_type: InteractionType,
    /// The number of recorded interactions.
    accepted: u64,
    /// Log position of the interaction.
    position: Position,
}

/// Refuses a caller that names another user and may not.
fn check_user(caller: &Caller, user: &UserId) -> Result<(), Problem> {
    if caller.can_access_others() || caller.user()? == user {
        return Ok(());
    }
    Err(Problem::forbidden("these credentials can send the feedback of their own user only"))
}

/// The write routes of feedback.
#[derive(Clone, Debug)]
pub struct FeedbackCommands(pub(super) Arc<Catalogue>);

#[OpenApi(tag = "Tag::Catalogue")]
impl FeedbackCommands {
    /// Record what a user did with a product
    ///
    /// With an `Idempotency-Key`, a repetition is recorded once. Without one, each request is an interaction of its own.
    #[oai(path = "/api/v1/feedback", method = "post", operation_id = "record_feedback")]
    async fn record(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        body: Json<NewInteraction>,
    ) -> Result<Recorded<Api<FeedbackRecorded>>, Problem> {
        check_user(&request.caller, &body.0.user_id)?;
        let engine = &self.0.engine;
        // Before a subject is created for the user.
        let at = body.0.check(engine.now())?;
        let cause = request.cause(engine, "POST /api/v1/feedback", &body.0).await?;
        let (user_id, product_id) = ((&body.0.user_id.0).into(), (&body.0.product_id.0).into());
        let interaction_type = body.0.interaction_type.0;
        let position = self.record_one(&request.caller, &cause, Interaction { new: body.0, at }).await?;
        Ok(Recorded(Api(FeedbackRecorded { user_id, product_id, interaction_type, accepted: 1, position })))
    }

    /// Record what users did with products
    ///
    /// Up to 10,000 interactions in a JSON array, or one per line as NDJSON. Each is taken or rejected for itself, and the
    /// answer says what happened to it.
    #[oai(path = "/api/v1/feedback/batch", method = "post", operation_id = "record_feedback_batch")]
    async fn record_batch(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        body: LenientBatch<NewInteraction>,
    ) -> Result<Recorded<Api<BatchOutcome>>, Problem> {
        let (commands, execution) = (self.clone(), request.execution.clone());
        let recording = async move { commands.record_all(&request, body).await }.boxed();
        // It ends in any case, so that the key stays locked until all interactions are in the log, even if the caller
        // disconnects.
        let outcome = execution.run(recording).await;
        outcome.map(|outcome| Recorded(Api(outcome)))
    }
}

impl FeedbackCommands {
    /// Records an interaction, and returns its position. The stream of its user has its key, but a caller may name another
    /// user with the same key, so the answer is recorded, too.
    async fn record_one(
        &self,
        caller: &Caller,
        cause: &Cause,
        interaction: Interaction,
    ) -> Result<Position, Problem> {
        let engine = &self.0.engine;
        let _guard = match cause.idempotency {
            Some(idempotency) => Some(engine.key_locks.acquire(idempotency.key).await),
            None => None,
        };
        if let Some(earlier) = engine.earlier_answer(cause).await? {
            return Ok(earlier.position);
        }
        let subject = self.0.subject(caller, &interaction.new.user_id.0).await?;
        let stream = StreamId::user(&cause.tenant, subject);
        let command = Command::Interactions(vec![interaction.of_subject(subject)]);
        let of_user = Cause { subject: Some(subject), ..cause.clone() };
        let executed = self.0.users.execute_part(&stream, &of_user, &command).await;
        let executed = executed.map_err(problem::from_execute_error)?;
        let recorded = Step { name: "interaction", position: executed.position };
        let answer = engine.record_answer(cause, None).await;
        let answer = answer.map_err(|problem| after_step(recorded, "answer", problem))?;
        Ok(answer.map_or(executed.position, |answer| answer.position))
    }

    async fn record_all(
        &self,
        request: &WriteRequest<Users>,
        LenientBatch(items): LenientBatch<NewInteraction>,
    ) -> Result<BatchOutcome, Problem> {
        let engine = &self.0.engine;
        for item in items.iter().filter_map(|item| item.read.as_ref().ok()) {
            check_user(&request.caller, &item.user_id)?;
        }
        let values = if request.has_key() { hashed(&items) } else { Vec::new() };
        let cause = request.cause_of_batch(engine, "POST /api/v1/feedback/batch", &values).await?;
        drop(values);
        let now = engine.now();
        let (taken, items) = CheckedItems::check(items, |item: NewInteraction| item.checked(now))?;
        let mut users: BTreeMap<UserId, Vec<(u32, Interaction)>> = BTreeMap::new();
        for (place, interaction) in taken {
            users.entry(interaction.new.user_id.0.clone()).or_default().push((place, interaction));
        }
        let parts = users.into_iter().map(|(user, interactions)| {
            let cause = &cause;
            async move {
                let subject = self.0.subject(&request.caller, &user).await?;
                let stream = StreamId::user(&cause.tenant, subject);
                let of_subject = |(place, one): (u32, Interaction)| (place, one.of_subject(subject));
                let (items, interactions) = interactions.into_iter().map(of_subject).unzip();
                let cause = Cause { subject: Some(subject), ..cause.clone() };
                Ok(BatchPart { stream, cause, command: Command::Interactions(interactions), items })
            }
        });
        let parts: Vec<Result<_, Problem>> =
            stream::iter(parts).buffer_unordered(USERS_AT_ONCE).collect().await;
        let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
        let recorded = self.0.record_batch(&self.0.users, &cause, &items, parts, &request.progress).await?;
        Ok(items.outcome(&recorded))
    }
}

impl Catalogue {
    async fn subject(&self, caller: &Caller, user: &UserId) -> Result<SubjectId, Problem> {
        let subject = self.engine.vault.subject(&caller.tenant, user).await;
        Ok(subject.map_err(|error| problem::from_vault_error(&error))?.id)
    }
}
