//! `X-Min-Position`: a read that waits until it reflects a position of the log.

use std::time::Duration;

use event_log::EventLog;
use event_schemas::ids::{Position, Tenant};
use poem::{FromRequest, Request, RequestBody};
use poem_openapi::types::ParseFromParameter;
use projections::Name;
use web::problem::Problem;
use web::value::ApiPosition;

use crate::ReadApi;
use crate::errors::RETRY_AFTER;

const MIN_POSITION: &str = "X-Min-Position";

/// The longest time that a read waits for `X-Min-Position`.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The header `X-Min-Position`: the log position that the response must reflect at least.
///
/// It is described in the text of the OpenAPI document instead of being declared as a parameter: only the log knows
/// which positions exist, and a tool that generates random numbers would only get responses that they do not exist
/// yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MinPosition(pub(crate) Option<Position>);

impl<'a> FromRequest<'a> for MinPosition {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        let Some(given) = request.header(MIN_POSITION) else { return Ok(Self(None)) };
        let ApiPosition(position) = ApiPosition::parse_from_parameter(given)
            .map_err(|_| Problem::invalid(MIN_POSITION, "must be a position: a whole number from 0"))?;
        Ok(Self(Some(position)))
    }
}

impl ReadApi {
    /// The durable head of the log.
    pub(crate) fn head(&self) -> Position {
        *self.log.head().borrow()
    }

    /// Whether the log still accepts and serves events.
    pub(crate) fn log_is_open(&self) -> bool {
        self.log.head().has_changed().is_ok()
    }

    /// Waits until the read models reflect `X-Min-Position`, so that a caller reads its own writes.
    ///
    /// # Errors
    /// 503 with `Retry-After` after two seconds.
    pub(crate) async fn wait_for_models(&self, names: &[Name], min: MinPosition) -> Result<(), Problem> {
        let MinPosition(Some(min)) = min else { return Ok(()) };
        let waited = self.models.wait_for(names, min, WAIT_MAX).await;
        waited.map_err(|behind| Problem::unavailable(behind.to_string(), RETRY_AFTER))
    }

    /// Waits until the products of a tenant have the vectors of their texts.
    ///
    /// # Errors
    /// 503 with `Retry-After` after two seconds.
    pub(crate) async fn wait_for_vectors(&self, tenant: &Tenant) -> Result<(), Problem> {
        if self.models.search().wait_for_vectors(tenant, WAIT_MAX).await {
            return Ok(());
        }
        let detail = "products are being encoded; try again shortly, or search with the model `lexical`";
        Err(Problem::unavailable(detail, RETRY_AFTER))
    }

    /// Like [`Self::wait_for_models`], for reads that use the log instead of a read model that cannot be read.
    ///
    /// # Errors
    /// 503 with `Retry-After` after two seconds.
    pub(crate) async fn wait_for_models_or_log(
        &self,
        names: &[Name],
        min: MinPosition,
    ) -> Result<(), Problem> {
        let readable: Vec<Name> =
            names.iter().copied().filter(|name| self.models.can_be_read(*name)).collect();
        if readable.len() < names.len() {
            self.wait_for_log(min).await?;
        }
        self.wait_for_models(&readable, min).await
    }

    /// Like [`Self::wait_for_models`], for reads from the log itself.
    ///
    /// # Errors
    /// 503 with `Retry-After` after two seconds.
    pub(crate) async fn wait_for_log(&self, min: MinPosition) -> Result<(), Problem> {
        let MinPosition(Some(min)) = min else { return Ok(()) };
        let mut head = self.log.head();
        let reached = head.wait_for(|head| *head >= min);
        match tokio::time::timeout(WAIT_MAX, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                let head = self.head();
                let detail = format!("the log is at position {head}, below {min}; try again shortly");
                Err(Problem::unavailable(detail, RETRY_AFTER))
            }
        }
    }
}
