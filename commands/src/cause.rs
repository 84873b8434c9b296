//! Who asks for a command, and why, as the log is to know it.

use std::time::Duration;

use event_schemas::envelope::{Actor, Cause, Idempotency};
use event_schemas::ids::{CommandId, CorrelationId, Tenant};
use event_schemas::time::Timestamp;
use uuid::Uuid;
use web::caller::{Caller, Credential, Role};
use web::problem::Problem;
use web::request::TraceParent;
use web::value::At;

use crate::Commands;
use crate::refusal;
use crate::work::Origin;

/// How far ahead of the server's clock a caller's may be.
const AHEAD_MAX: Duration = Duration::from_secs(5 * 60);

impl Commands {
    /// The cause of what a caller asks for.
    ///
    /// # Errors
    /// If the vault cannot say who the caller is.
    pub(crate) async fn cause(
        &self,
        caller: &Caller,
        trace: TraceParent,
        idempotency: Option<Idempotency>,
    ) -> Result<Cause, Problem> {
        let id = idempotency.map_or_else(|| self.0.ids.next(), |idempotency| idempotency.key);
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

    /// A caller that may be a person counts as one, and is named by their subject; only credentials that are a worker's or
    /// a service's and nobody else's are named as they are.
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
                let subject = self.0.vault.subject(&caller.tenant, user).await;
                Ok(Actor::Subject(subject.map_err(|error| refusal::vault(&error))?.id))
            }
            (None, _) => program.parse().map(Actor::Service),
        };
        // An id of a key is configured by the operator, and may be anything.
        actor.map_err(|error| Problem::internal(&error))
    }

    /// When something happened: as the caller says, or now.
    ///
    /// # Errors
    /// 400 for an instant more than five minutes ahead; `field` is where it stands.
    pub(crate) fn occurred(
        &self,
        said: Option<At>,
        field: impl FnOnce() -> String,
    ) -> Result<Timestamp, Problem> {
        let now = self.0.clock.now();
        match said {
            Some(At(at)) if at > now.after(AHEAD_MAX) => Err(Problem::invalid(
                field(),
                format!("lies more than 5 minutes ahead of the server, whose clock says {now}"),
            )),
            Some(At(at)) => Ok(at),
            None => Ok(now),
        }
    }
}

/// The cause of what a process does about an event. The same event, and the same `about`, lead to the same command, so that
/// acting twice appends once.
pub(crate) fn of_process(process: &'static str, tenant: &Tenant, origin: Origin, about: &str) -> Cause {
    let name = [process, about].join("/");
    Cause {
        command_id: CommandId(Uuid::new_v5(&origin.event_id.0, name.as_bytes())),
        correlation_id: origin.correlation_id,
        event_id: Some(origin.event_id),
        tenant: tenant.clone(),
        actor: Actor::System(process.parse().expect("the name of a process is a short text")),
        subject: None,
        idempotency: None,
        traceparent: None,
    }
}
