//! The evidence images of image matches, from the server's media folder.

use std::sync::Arc;

use event_schemas::ids::ImageMatchId;
use poem::http::{StatusCode, header};
use poem::{Body, IntoResponse, Response};
use poem_openapi::param::{Header, Path};
use poem_openapi::registry::{
    MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::{ApiResponse, OpenApi};
use projections::Name;
use web::caller::Caller;
use web::etag;
use web::path;
use web::problem::Problem;

use super::Tag;
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::from_query_error;
use crate::media::Image;
use crate::min_position::MinPosition;

const MEDIA_TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// An image, or 304 if the caller has the current one.
#[derive(Debug)]
pub enum ImageResponse {
    Content(Image),
    Unchanged(String),
}

impl IntoResponse for ImageResponse {
    fn into_response(self) -> Response {
        let response = Response::builder()
            .header(header::CACHE_CONTROL, "private, no-cache")
            .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            // The file comes from a worker: a browser that opens it alone runs nothing in it.
            .header(header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox; frame-ancestors 'none'");
        match self {
            Self::Content(Image { file, bytes, media_type, etag }) => {
                let file = tokio::io::AsyncReadExt::take(tokio::fs::File::from_std(file), bytes);
                response
                    .header(header::ETAG, etag)
                    .header(header::CONTENT_LENGTH, bytes)
                    .content_type(media_type)
                    .body(Body::from_async_read(file))
            }
            Self::Unchanged(etag) => {
                response.header(header::ETAG, etag).status(StatusCode::NOT_MODIFIED).finish()
            }
        }
    }
}

impl ApiResponse for ImageResponse {
    fn meta() -> MetaResponses {
        let content = |content_type| {
            let schema = MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "binary")));
            MetaMediaType { content_type, schema }
        };
        let response = |status: StatusCode, description, content| MetaResponse {
            description,
            status: Some(status.as_u16()),
            status_range: None,
            content,
            headers: vec![],
        };
        MetaResponses {
            responses: vec![
                response(StatusCode::OK, "The image", MEDIA_TYPES.map(content).into()),
                response(StatusCode::NOT_MODIFIED, "Not modified", vec![]),
            ],
        }
    }

    fn register(_: &mut Registry) {}
}

/// Routes for evidence images.
#[derive(Clone, Debug)]
pub struct EvidenceRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matching")]
impl EvidenceRoutes {
    /// Get the evidence image of a match
    ///
    /// The file that `evidence_path` names in the media folder of the server (`--media`): a JPEG, PNG, GIF or WebP image of at
    /// most 16 MiB. On a server with credentials it must be in a folder with the id of the job or the name of the tenant.
    #[oai(path = "/jobs/:job_id/matches/:match_id/evidence", method = "get", operation_id = "read_evidence")]
    async fn read(
        &self,
        caller: Caller,
        job_id: Path<String>,
        match_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<ImageResponse, Problem> {
        let job = path::job_id(&job_id)?;
        let match_id: ImageMatchId = path::text("match_id", &match_id)?;
        self.api.wait_for_models(&[Name::ImageMatches], min).await?;
        self.api.check_tenant(&caller.tenant, job).await?;
        let get = || async {
            let found = self.api.models.image_matches().get(job, &match_id).await;
            found.map_err(|error| from_query_error(&error))
        };
        // An image that was attached a moment ago is read, too. A match shares its stream with others.
        let read = || async { Ok(get().await?.and_then(|found| found.evidence_path)) };
        let reported = self.api.read_by_id(Name::ImageMatches, &caller.tenant, Origin::Other, read).await?;
        let Some(reported) = reported else {
            let is_known = get().await?.is_some();
            let detail = if is_known { "the match has no evidence yet" } else { "no such match in this job" };
            return Err(Problem::not_found(detail));
        };
        let media = self.api.server.media.clone().ok_or_else(|| {
            Problem::not_found("the server has no media folder; set it with --media to serve evidence images")
        })?;
        let opening = tokio::task::spawn_blocking(move || media.image(&caller.tenant, job, &reported)).await;
        let image = opening.map_err(|error| Problem::internal(&error))?.ok_or_else(|| {
            Problem::not_found(
                "its evidence is not an image in the media folder of the server that may be served",
            )
        })?;
        let known = if_none_match.0.is_some_and(|tags| etag::matches(&tags, &image.etag));
        Ok(if known { ImageResponse::Unchanged(image.etag) } else { ImageResponse::Content(image) })
    }
}
