//! The write routes of people.

use std::sync::Arc;

use event_schemas::loose_id::LooseId;
use poem_openapi::OpenApi;
use poem_openapi::param::{Path, Query};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use web::json::Json;
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;

use super::Subjects;
use super::erasure::Erasure;
use crate::engine::write_request::{Admins, WriteRequest};

/// All write routes of people.
pub type Routes = SubjectCommands;

pub(crate) fn routes(subjects: &Arc<Subjects>) -> Routes {
    SubjectCommands(subjects.clone())
}

/// An erased user.
#[derive(Debug, Serialize, JsonSchema)]
struct ErasedUser {
    user_id: LooseId,
    #[serde(flatten)]
    erasure: Erasure,
}

/// The write routes of subjects.
#[derive(Clone, Debug)]
pub struct SubjectCommands(Arc<Subjects>);

#[OpenApi(tag = "Tag::Audit")]
impl SubjectCommands {
    /// Erase a user
    ///
    /// Destroys the user's key and name, so that nothing in the log can be attributed to the user, and no personal text can be
    /// opened any more. Every read model forgets what the user did, and a waiting queue entry is cancelled. It cannot be undone: a user
    /// who returns is a new one. Requires the role `admin` of the tenant, or of the tenant `*`.
    #[oai(path = "/audit/subjects/:user_id/erase", method = "post", operation_id = "erase_user")]
    async fn erase(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Admins>,
        user_id: Path<String>,
        /// The user's tenant. Only credentials of all tenants may name another than their own, and must name one.
        #[oai(validator(max_length = 64))]
        tenant: Query<Option<String>>,
    ) -> Result<Json<Api<ErasedUser>>, Problem> {
        let user_id = web::path::user_id(&user_id)?;
        let tenant = request.caller.tenant_or_own(tenant.0.as_deref())?;
        let route = format!("POST /audit/subjects/{tenant}/{user_id}/erase");
        let cause = request.cause(&self.0.engine, &route, &Value::Null).await?;
        let erasure = self.0.erase(&tenant, &user_id, &cause).await?;
        tracing::info!(%tenant, subject = %erasure.subject_id, "a user was erased");
        Ok(Json(Api(ErasedUser { user_id: (&user_id).into(), erasure })))
    }
}
