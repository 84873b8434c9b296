//! A [`Caller`] as an argument of a route.

use poem::{FromRequest, Request, RequestBody};
use poem_openapi::registry::{MetaSecurityScheme, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use super::{Caller, Roles};
use crate::problem::Problem;

const BEARER: &str = "Bearer";
const API_KEY: &str = "ApiKey";

/// Written by hand because the derived scheme refuses a request without credentials before it is known whether the server
/// is open.
impl<'a> ApiExtractor<'a> for Caller {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        let scheme = MetaSecurityScheme {
            ty: "http",
            description: None,
            name: None,
            key_in: None,
            scheme: None,
            bearer_format: None,
            flows: None,
            openid_connect_url: None,
        };
        registry.create_security_scheme(
            BEARER,
            MetaSecurityScheme {
                description: Some("A JSON Web Token; `matchbook token` mints one."),
                scheme: Some("bearer"),
                bearer_format: Some("JWT"),
                ..scheme
            },
        );
        registry.create_security_scheme(
            API_KEY,
            MetaSecurityScheme {
                ty: "apiKey",
                description: Some("A key from the server's configuration."),
                name: Some("X-API-Key"),
                key_in: Some("header"),
                scheme: None,
                bearer_format: None,
                flows: None,
                openid_connect_url: None,
            },
        );
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![BEARER, API_KEY]
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(authenticate(request)?)
    }
}

/// The result of the authentication, which the layers put into each request.
#[derive(Clone, Debug)]
pub(crate) struct Authentication(pub(crate) Result<Caller, Problem>);

/// The caller of a request, for routes that also answer callers without credentials.
///
/// # Errors
/// 401 for missing or invalid credentials, 403 for a caller without any role.
pub fn authenticate(request: &Request) -> Result<Caller, Problem> {
    let Some(Authentication(caller)) = request.data() else {
        return Err(Problem::internal(&"a route that needs a caller is served outside web::serve::layers"));
    };
    let caller = caller.clone()?;
    if caller.roles == Roles::NONE {
        tracing::info!(tenant = %caller.tenant, "a caller without roles");
        return Err(Problem::forbidden("this needs a role; these credentials have none that is known here"));
    }
    Ok(caller)
}

/// The caller, for plain poem handlers outside the OpenAPI document, such as those of WebSockets.
#[derive(Clone, Debug)]
pub struct Authenticated(pub Caller);

impl<'a> FromRequest<'a> for Authenticated {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(Self(authenticate(request)?))
    }
}
