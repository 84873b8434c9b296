//! A [`Caller`] as an argument of a route.

use poem::{FromRequest, Request, RequestBody};
use poem_openapi::registry::{MetaSecurityScheme, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use super::{Auth, Caller};
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

fn authenticate(request: &Request) -> Result<Caller, Problem> {
    match request.data::<Auth>() {
        Some(auth) => auth.caller(request),
        None => Err(Problem::internal(&"a route that needs a caller is served outside web::serve::layers")),
    }
}

/// The caller, for plain poem handlers outside the OpenAPI document, such as those of WebSockets.
#[derive(Clone, Debug)]
pub struct Authenticated(pub Caller);

impl<'a> FromRequest<'a> for Authenticated {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(Self(authenticate(request)?))
    }
}
