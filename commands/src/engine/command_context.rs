//! The context of a command, as its events record it: the tenant, the actor, the correlation and the cause.

use std::time::Duration;

use domain::matchmaking::pending_work::Trigger;
use event_schemas::envelope::{Actor, Cause, Idempotency};
use event_schemas::ids::{CommandId, CorrelationId, EventId, Tenant};
use event_schemas::time::Timestamp;
use web::caller::{Caller, Credential, Role};
use web::problem::Problem;
use web::request::TraceParent;
use web::value::ApiTimestamp;

use super::{Engine, problem};

/// The furthest that a caller's clock may be ahead of the server's.
const AHEAD_MAX: Duration = Duration::from_secs(5 * 60);

impl Engine {
    /// The cause of a caller's command.
    ///
    /// # Errors
    /// If the vault cannot return the caller's subject.
    pub(crate) async fn cause(
        &self,
        caller: &Caller,
        trace: TraceParent,
        idempotency: Option<Idempotency>,
    ) -> Result<Cause, Problem> {
        let id = idempotency.map_or_else(|| self.ids.next(), |idempotency| idempotency.key);
        Ok(Cause {
            command_id: CommandId(id),
            correlation_id: CorrelationId(id),
            event_id: None,
            tenant: caller.tenant.clone(),
            actor: self.actor(caller).await?,
            subject: None,
            idempotency,
            traceparent: trace.0,
        })
    }

    /// A caller that may be a person is recorded by subject id; only credentials that are purely a worker's or a
    /// service's are recorded by name.
    async fn actor(&self, caller: &Caller) -> Result<Actor, Problem> {
        let program = match (&caller.user, &caller.via) {
            (Some(user), _) => user.as_str(),
            (None, Credential::ApiKey(id)) => id,
            (None, Credential::Open | Credential::Token) => "unnamed",
        };
        let is_person = caller.has(Role::User) || caller.via == Credential::Open;
        let actor = match (&caller.user, is_person) {
            (_, false) if caller.has(Role::Worker) => program.parse().map(Actor::Worker),
            (_, false) if caller.has(Role::Service) => program.parse().map(Actor::Service),
            (Some(user), _) => {
                let subject = self.vault.subject(&caller.tenant, user).await;
                Ok(Actor::Subject(subject.map_err(|error| problem::from_vault_error(&error))?.id))
            }
            (None, _) => program.parse().map(Actor::Service),
        };
        // The operator configures key ids, which may be any text.
        actor.map_err(|error| Problem::internal(&error))
    }

    /// The time given by the caller, or else the current time.
    ///
    /// # Errors
    /// As [`occurred_at`].
    pub(crate) fn occurred_at_or_now(
        &self,
        given: Option<ApiTimestamp>,
        field: impl FnOnce() -> String,
    ) -> Result<Timestamp, Problem> {
        occurred_at(given, self.now(), field)
    }
}

/// The time given by the caller, or else `now`.
///
/// # Errors
/// 400 for a time more than five minutes ahead; `field` names the member that holds it.
pub(crate) fn occurred_at(
    given: Option<ApiTimestamp>,
    now: Timestamp,
    field: impl FnOnce() -> String,
) -> Result<Timestamp, Problem> {
    match given {
        Some(ApiTimestamp(at)) if at > now.after(AHEAD_MAX) => Err(Problem::invalid(
            field(),
            format!("is more than 5 minutes ahead of the server's clock, which reads {now}"),
        )),
        Some(ApiTimestamp(at)) => Ok(at),
        None => Ok(now),
    }
}

/// The context of commands that a caller's command or an event leads to.
#[derive(Clone, Debug)]
pub(crate) struct CommandContext {
    pub(crate) tenant: Tenant,
    pub(crate) correlation_id: CorrelationId,
    /// None for a caller's command.
    pub(crate) event_id: Option<EventId>,
    pub(crate) actor: Actor,
    pub(crate) traceparent: Option<String>,
}

impl CommandContext {
    /// The context of commands that follow from a caller's command.
    pub(crate) fn of_caller(cause: &Cause) -> Self {
        Self {
            tenant: cause.tenant.clone(),
            correlation_id: cause.correlation_id,
            event_id: None,
            actor: cause.actor.clone(),
            traceparent: cause.traceparent.clone(),
        }
    }

    /// The context of a process's reaction to an event.
    pub(crate) fn of_process(process: &'static str, trigger: &Trigger) -> Self {
        Self {
            tenant: trigger.tenant.clone(),
            correlation_id: trigger.correlation_id,
            event_id: Some(trigger.event_id),
            actor: Actor::System(process.parse().expect("a process name is a short text")),
            traceparent: None,
        }
    }
}
