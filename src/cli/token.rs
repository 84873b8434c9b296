//! `matchbook token`: mints a token for the API, signed with the shared secret.

use std::time::Duration;

use clap::Args;
use event_log::clock::Clock;
use event_schemas::ids::{Tenant, UserId};
use serde_json::json;
use web::caller::{Claims, Role, Roles, mint};

use matchbook::failure::{Failure, print};

#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  MATCHBOOK_JWT_SECRET=… matchbook token --tenant acme --user ann --role user --ttl 1h"
)]
pub(crate) struct Token {
    /// The shared secret of the server (at least 32 bytes)
    #[arg(long, env = "MATCHBOOK_JWT_SECRET", value_name = "SECRET", hide_env_values = true)]
    jwt_secret: String,
    /// The tenant of the bearer
    #[arg(long, value_name = "TENANT", default_value = "default")]
    tenant: Tenant,
    /// The user id of the bearer
    #[arg(long, value_name = "USER")]
    user: UserId,
    /// A role of the bearer: user, worker, service, auditor, admin; may be repeated
    #[arg(long = "role", value_name = "ROLE", default_value = "user")]
    roles: Vec<Role>,
    /// The lifetime of the token
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
}

impl Token {
    pub(crate) fn run(self, json: bool) -> Result<(), Failure> {
        let roles: Roles = self.roles.iter().copied().collect();
        let now = Clock::System.now();
        let claims = Claims::new(&self.tenant, self.user.as_str(), roles, now, self.ttl);
        let token =
            mint(self.jwt_secret.as_bytes(), &claims).map_err(|error| Failure::Usage(error.to_string()))?;
        if json {
            print(&json!({ "token": token, "expires_at": now.after(self.ttl).to_string() }))?;
        } else {
            print(&token)?;
        }
        Ok(())
    }
}
